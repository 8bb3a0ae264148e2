//! One test, from the client's first connection to its last word.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;
use core::future::Future;
use core::pin::pin;

use embedded_io_async::Read;
use futures_util::future::{Either, join_all, select};
use sarab::App;
use sarab::hal::Clock;
use sarab::network::Stack;
use sarab::network::stack::tcp::TcpSocket;
use sarab::time::{Duration, with_timeout};

use crate::protocol::{self, COOKIE, Count, Error, State};
use crate::{tcp, udp};

/// Streams of a test.
pub const MOST_STREAMS: usize = 32;
/// How long a client may take for its next step.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the client wants.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    pub udp: bool,
    /// The server sends.
    pub reverse: bool,
    /// Streams, of both directions.
    pub streams: usize,
    /// Where there are both: those from here on are the server's.
    pub both_from: Option<usize>,
    /// Bytes of a UDP packet.
    pub length: usize,
    /// Bits in a second that UDP sends; 0 for as many as there is room for.
    pub bandwidth: u64,
    pub wide_counters: bool,
}

impl Test {
    fn read(text: &serde_json::Value) -> Result<Test, Error> {
        let number = |key: &str| text[key].as_u64();
        let flag = |key: &str| text[key].as_bool().unwrap_or(false) || number(key).unwrap_or(0) != 0;
        let parallel = number("parallel").unwrap_or(1).min(1000) as usize;
        let both_from = flag("bidirectional").then_some(parallel);
        let test = Test {
            udp: flag("udp"),
            reverse: flag("reverse"),
            streams: parallel * (1 + usize::from(both_from.is_some())),
            both_from,
            length: number("len").unwrap_or(1460).clamp(16, 65507) as usize,
            bandwidth: number("bandwidth").unwrap_or(0),
            wide_counters: flag("udp_counters_64bit"),
        };
        match test.streams {
            1..=MOST_STREAMS => Ok(test),
            _ => Err(Error::Text("more streams than 32, or none")),
        }
    }

    /// Whether the server sends in this stream.
    pub fn sends(&self, stream: usize) -> bool {
        self.both_from.map_or(self.reverse, |from| stream >= from)
    }
}

/// Whether the test goes on, and what each stream has done.
pub struct Progress {
    pub over: Cell<bool>,
    pub counts: Vec<Cell<Count>>,
}

async fn soon<T>(step: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    with_timeout(PATIENCE, step).await.unwrap_or(Err(Error::Late))
}

/// Waits for a client, and serves its test.
pub async fn serve(app: App, stack: Stack, port: u16, buffer: Option<usize>) -> Result<String, Error> {
    let (mut incoming, mut outgoing) = (vec![0; 4096], vec![0; 8192]);
    let mut control = TcpSocket::new(stack, &mut incoming, &mut outgoing);
    control.accept(port).await.map_err(Error::Accept)?;
    control.set_nagle_enabled(false);
    let outcome = run(app, stack, port, buffer, &mut control).await;
    control.close();
    // The last words have to leave before the socket goes.
    let _ = with_timeout(Duration::from_secs(2), control.flush()).await;
    outcome
}

async fn run(
    app: App,
    stack: Stack,
    port: u16,
    buffer: Option<usize>,
    control: &mut TcpSocket<'_>,
) -> Result<String, Error> {
    let mut cookie = [0; COOKIE];
    soon(async { Ok(control.read_exact(&mut cookie).await?) }).await?;
    protocol::send(control, State::Parameters).await?;
    let test = Test::read(&soon(protocol::read_text(control)).await?)?;
    let progress = Progress { over: Cell::new(false), counts: (0..test.streams).map(|_| Cell::default()).collect() };

    // Half of what is free for all of them; enough for some 300 Mbit/s around a path of 100 ms.
    let fair = (app.memory().free as usize / 2 / test.streams).clamp(4 << 10, 4 << 20);
    let buffer = buffer.unwrap_or(fair);
    let mut memory: Vec<_> = (0..if test.udp { 0 } else { test.streams })
        .map(|stream| match test.sends(stream) {
            true => (vec![0; 4096], vec![0; buffer]),
            false => (vec![0; buffer], vec![0; 4096]),
        })
        .collect();
    let mut streams = Vec::new();
    let (mut udp_memory, mut udp) = (None, None);
    if test.udp {
        let mut server = udp::Server::new(stack, port, test, udp_memory.insert(udp::Memory::new()))?;
        protocol::send(control, State::CreateStreams).await?;
        soon(server.meet()).await?;
        udp = Some(server);
    } else {
        for (incoming, outgoing) in &mut memory {
            streams.push(TcpSocket::new(stack, incoming, outgoing));
        }
        let accepted = join_all(streams.iter_mut().map(|stream| tcp::meet(stream, port, &cookie)));
        let both = async { futures_util::future::join(accepted, protocol::send(control, State::CreateStreams)).await };
        let (accepted, sent) = soon(async { Ok(both.await) }).await?;
        sent?;
        accepted.into_iter().collect::<Result<Vec<_>, _>>()?;
    }
    protocol::send(control, State::Start).await?;
    protocol::send(control, State::Running).await?;

    let clock = app.clock();
    let begin = clock.now();
    {
        let work = async {
            match &mut udp {
                Some(server) => server.run(&clock, &progress).await,
                None => {
                    let streams = streams.iter_mut().zip(&progress.counts).enumerate();
                    join_all(
                        streams.map(|(index, (stream, count))| tcp::run(stream, test.sends(index), &progress, count)),
                    )
                    .await;
                }
            }
            core::future::pending::<()>().await
        };
        match select(pin!(protocol::expect(control, State::End)), pin!(work)).await {
            Either::Left((end, _)) => end?,
            Either::Right(((), _)) => {}
        }
        progress.over.set(true);
    }
    // Until it sees their end the client waits for a last block that is full, and says nothing.
    streams.iter_mut().for_each(TcpSocket::close);
    let seconds = (clock.now() - begin).as_secs_f64();

    protocol::send(control, State::Results).await?;
    soon(protocol::read_text(control)).await?;
    let counts: Vec<_> = progress.counts.iter().map(Cell::get).collect();
    protocol::write_text(control, &protocol::results(&counts, seconds, test.sends(test.streams - 1))).await?;
    protocol::send(control, State::Display).await?;
    soon(protocol::expect(control, State::Done)).await?;
    let bytes: u64 = counts.iter().map(|count| count.bytes).sum();
    Ok(format!(
        "{} {}, {} streams: {bytes} bytes in {seconds:.2} s, {:.0} Mbit/s",
        if test.udp { "UDP" } else { "TCP" },
        match (test.both_from, test.reverse) {
            (Some(_), _) => "sent and received",
            (None, true) => "sent",
            (None, false) => "received",
        },
        test.streams,
        bytes as f64 * 8.0 / 1e6 / seconds
    ))
}
