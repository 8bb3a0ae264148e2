//! What dom0's qrexec daemon writes to the agent's control channel, and a caller, or a service elsewhere, to a data channel.

use std::time::Duration;

use qubes::Agent;
use qubes::rexec::wire::{Connection, Control, ControlDecoder, DataDecoder, Stream, exit_code};
use qubes::rexec::{Call, ExitCode, Options, Session};
use xen_sim::{Domain, Xen};
use xen_vchan::{Channel, Client, Server};

use crate::input::Input;
use crate::peer::pause;

pub(super) const SHORT: u32 = 300;

/// The port of the data channel, of whichever end.
const PORT: u32 = 513;
const CONNECTION: Connection = Connection { domain: 0, port: PORT };

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let hello = |version| Control::Hello { version };
    let exec = |command: &str| Control::Exec { connection: CONNECTION, command: command.into() };
    let just = Control::JustExec { connection: CONNECTION, command: "user:ls".into() };
    let echo = || exec("user:QUBESRPC test.Echo+x dom0");
    let connect = Control::ServiceConnect { connection: CONNECTION, ident: "call-1".into() };
    let refused = Control::ServiceRefused { ident: "call-1".into() };
    let stream = |stream: Stream, bytes: &[u8]| [&stream.header(bytes.len())[..], bytes].concat();
    let encode =
        |messages: &[Control]| messages.iter().flat_map(|message| message.encode(4).unwrap()).collect::<Vec<_>>();
    let input = [&encode(&[hello(3)])[..], &stream(Stream::Stdin, b"hello"), &stream(Stream::Stdin, b"")].concat();
    let output = [
        &encode(&[hello(2)])[..],
        &stream(Stream::Stdout, b"hello"),
        &stream(Stream::Stderr, b"!"),
        &stream(Stream::Stdout, b""),
        &exit_code(1),
    ]
    .concat();
    let seed = |kind: u8, control: &[Control], data: &[u8]| {
        let control = encode(control);
        [&[1, kind, 60][..], &(control.len() as u16).to_le_bytes(), &control, data].concat()
    };
    vec![
        seed(0, &[hello(4), echo()], &input),
        seed(0, &[hello(2), exec("user:QUBESRPC qubes.WaitForSession dom0"), just], &input),
        seed(0, &[hello(3), exec("no user")], b""),
        seed(1, &[hello(4), connect.clone()], &output),
        seed(1, &[hello(2), connect], &output),
        seed(1, &[hello(4), refused], b""),
    ]
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let (seed, is_outgoing, piece) = (input.byte(), input.byte() & 1 != 0, 1 + usize::from(input.byte()));
    let control_len = usize::from(u16::from_le_bytes([input.byte(), input.byte()])).min(input.0.len());
    let (control, data) = input.0.split_at(control_len);
    decode(control);
    decode(data);

    let xen = Xen::new(u64::from(seed));
    let (dom0, qube) = (xen.dom0(), xen.domain());
    let store = dom0.store();
    let mut options = Options::default();
    options.patience = Duration::from_millis(100);
    let (agent, runner) = Agent::new(qube.clone(), &qube.store(), options, echo);
    let running = qube.spawn(runner);
    if is_outgoing {
        let calling = async move {
            if let Ok(mut call) = agent.call("dom0", "test.Echo").await {
                let _ = call.write(b"hello").await;
                if let Ok(all) = call.collect(100).await {
                    assert!(all.stdout.len() <= 100 && all.stderr.len() <= 100);
                }
            }
        };
        qube.spawn(calling).detach();
    }
    let (control, data) = (control.to_vec(), data.to_vec());
    let client = Client::new(dom0.clone(), &store, qube.id(), 512);
    let controlling = dom0.spawn(async move {
        if let Ok(channel) = client.connect().await {
            talk(channel, &control, piece).await;
        }
    });
    let talking = match is_outgoing {
        true => {
            let client = Client::new(dom0.clone(), &store, qube.id(), PORT);
            dom0.spawn(async move {
                if let Ok(channel) = client.connect().await {
                    talk(channel, &data, piece).await;
                }
            })
        }
        false => {
            let server = Server::new(dom0.clone(), &store, qube.id(), PORT).with_sizes(1024, 2048);
            let mut server = server.expect("there are such rings");
            dom0.spawn(async move {
                if let Ok(channel) = server.accept().await {
                    talk(channel, &data, piece).await;
                }
            })
        }
    };
    pause(&xen, Duration::from_millis(50));
    xen.check_budgets();
    drop((running, controlling, talking));
    pause(&xen, Duration::from_secs(3));
    assert_eq!(qube.mapped_pages(), 0);
    xen.end();
}

async fn echo(call: Call, session: &mut Session<Domain>) -> ExitCode {
    if call.service() != Some("test.Echo") {
        return ExitCode::NOT_FOUND;
    }
    let mut bytes = [0; 100];
    while let Ok(len @ 1..) = session.read(&mut bytes).await {
        if session.write(&bytes[..len]).await.is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Writes in pieces, and reads all that comes.
async fn talk(channel: Channel<Domain>, bytes: &[u8], piece: usize) {
    let (mut from, mut to) = channel.split();
    let writing = async {
        for mut piece in bytes.chunks(piece) {
            while let Ok(len @ 1..) = to.write(piece).await {
                piece = &piece[len..];
            }
        }
    };
    let reading = async {
        let mut answers = [0; 500];
        while let Ok(1..) = from.read(&mut answers).await {}
    };
    futures_util::future::join(writing, reading).await;
}

/// What is read of the control channel is what was written, and a stream's bytes are those that came.
fn decode(bytes: &[u8]) {
    let mut decoder = ControlDecoder::default();
    decoder.push(bytes);
    while let Ok(Some(message)) = decoder.next_message() {
        // The version in which a trigger can have all that was read.
        let mut again = ControlDecoder::default();
        again.push(&message.encode(4).expect("it was read"));
        assert_eq!(again.next_message(), Ok(Some(message)));
    }
    for version in 2..=4 {
        let (mut decoder, mut rest) = (DataDecoder::new(version), bytes);
        loop {
            let before = rest.len();
            match decoder.next_piece(&mut rest) {
                Ok(Some(_)) => assert!(rest.len() < before, "a piece of nothing"),
                Ok(None) => {
                    assert!(rest.is_empty());
                    break;
                }
                Err(_) => break,
            }
        }
    }
}
