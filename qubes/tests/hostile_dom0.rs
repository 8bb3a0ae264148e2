//! A daemon and callers that send anything, against the agent.

mod support;

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join_all, select};
use qubes::Agent;
use qubes::rexec::{Call, ExitCode, Options, Session};
use xen_hal::{Clock, DomId};
use xen_sim::{Domain, check, keep_log, take_log};
use xen_vchan::{Client, Server};

use support::dom0::{Asked, Control, Data, EXIT, STDERR, STDIN, STDOUT, connection, raw};
use support::{Bench, bench, faults, read_exact, write_all};

/// An agent whose only service sends back what comes.
fn start(bench: &Bench, options: Options) -> (Agent<Domain>, impl Future<Output = ()>) {
    let handler = async |_: Call, session: &mut Session<Domain>| {
        let mut bytes = [0; 300];
        loop {
            match session.read(&mut bytes).await {
                Ok(0) => return ExitCode::SUCCESS,
                Ok(len) if session.write(&bytes[..len]).await.is_ok() => {}
                _ => return ExitCode::FAILURE,
            }
        }
    };
    let (agent, runner) = Agent::new(bench.qube.clone(), &bench.qube_store, options, handler);
    (agent, bench.qube.spawn(runner))
}

/// All is as it should be.
async fn honest(bench: &Bench) {
    let mut control = Control::connect(bench, 4).await;
    control.exec(700, "user:QUBESRPC test.Echo dom0").await;
    assert_eq!(Data::accept(bench, 700, 3).await.run(b"hello").await.stdout, b"hello");
    loop {
        match control.next().await {
            Asked::Terminated(700) => return,
            Asked::Terminated(_) => {} // of a call before
            other => panic!("{other:?}"),
        }
    }
}

/// Messages that only an agent sends, that have impossible lengths, or are none: the channel ends at once.
#[test]
fn messages_that_cannot_be() {
    let hello = raw(0x300, &[4, 0, 0, 0]);
    let header = |kind: u32, len: u32| [kind.to_le_bytes(), len.to_le_bytes()].concat();
    let place = connection(DomId(0), 513);
    let first = [
        raw(0x300, &[1, 0, 0, 0]),
        raw(0x300, &[0; 4]),
        header(0x300, 5),
        [header(0x300, u32::MAX), vec![0; 4]].concat(),
        [raw(0x200, b""), vec![0; 4]].concat(),
        vec![0; 12],
    ];
    let then = [
        hello.clone(),
        raw(0x210, &[b'a'; 128]),
        raw(0x211, &place),
        raw(0x213, &[0; 162]),
        raw(0x190, b"x"),
        raw(0x200, &place),
        header(0x200, 8 + 65536),
        header(0x200, u32::MAX),
        header(0x203, 31),
        raw(0x203, &[b'a'; 32]),
        raw(0x200, &[&place[..], b"\xff\0"].concat()),
    ];
    let all: Vec<Vec<u8>> = first.into_iter().chain(then.iter().map(|then| [&hello[..], then].concat())).collect();
    check("bad messages", 4, |xen| {
        let bench = bench(xen);
        let (used, all) = (bench.clone(), all.clone());
        xen.run(async move {
            let (_agent, running) = start(&used, Options::default());
            for bytes in &all {
                let client = Client::new(used.dom0.clone(), &used.dom0_store, used.qube.id(), 512);
                let mut channel = client.connect().await.unwrap();
                let mut greeting = [0; 12];
                assert!(read_exact(&mut channel, &mut greeting).await);
                assert!(write_all(&mut channel, bytes).await);
                let begin = used.dom0.now();
                assert_eq!(channel.read(&mut [0; 64]).await, Ok(0), "{:?}", &bytes[..bytes.len().min(24)]);
                assert!(used.dom0.now() - begin < Duration::from_secs(1), "{bytes:?} is taken");
            }
            honest(&used).await;
            drop(running);
        });
        bench.check_no_leak();
    });
}

/// Messages with a grain of truth, cut anywhere; daemons that come and go: few lines, and an honest one finds all as it should
/// be.
#[test]
fn anything_on_the_control_channel() {
    keep_log();
    check("control", 30, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            take_log();
            let mut options = Options::default();
            options.patience = Duration::from_secs(2);
            let (agent, running) = start(&used, options);
            let calling = used.qube.spawn(async move {
                while let Err(error) = agent.call("dom0", "a").await.map(drop) {
                    if error == qubes::rexec::CallError::Stopped {
                        break;
                    }
                }
            });
            for _ in 0..10 {
                let client = Client::new(used.dom0.clone(), &used.dom0_store, used.qube.id(), 512);
                let mut channel = client.connect().await.unwrap();
                let mut bytes = raw(0x300, &[2 + used.xen.random(3) as u8, 0, 0, 0]);
                for _ in 0..used.xen.random(12) {
                    let kind = [0x200, 0x200, 0x201, 0x202, 0x203, 0x1f0 + used.xen.random(0x120) as u32]
                        [used.xen.random(6) as usize];
                    let domain = DomId([0, 1, 7, 0x7ff0][used.xen.random(4) as usize]);
                    let text = ["user:QUBESRPC a b", "user:ls", "x", "call-1", "call-2", "\u{1b}[2J:"]
                        [used.xen.random(6) as usize];
                    let mut body = connection(domain, 513 + used.xen.random(250) as u32);
                    if kind == 0x203 {
                        body.clear();
                    }
                    body.extend_from_slice(text.as_bytes());
                    body.resize(if kind == 0x203 { 32 } else { body.len() + 1 }, 0);
                    bytes.extend(raw(kind, &body));
                }
                bytes.truncate(used.xen.random(bytes.len() as u64 + 1) as usize);
                let mut answers = [0; 512];
                let talking = pin!(async {
                    write_all(&mut channel, &bytes).await;
                    while let Ok(1..) = channel.read(&mut answers).await {}
                });
                select(talking, pin!(used.dom0.sleep(Duration::from_millis(used.xen.random(50))))).await;
            }
            // All that was begun for nothing is given up.
            used.pause(5_000).await;
            drop(calling);
            honest(&used).await;
            let lines = take_log();
            let lines: Vec<_> = lines.iter().filter(|line| line.contains("qrexec")).collect();
            assert!(lines.len() <= 16, "{} lines", lines.len());
            assert!(lines.iter().all(|line| !line.contains('\u{1b}')));
            drop(running);
        });
        bench.check_no_leak();
    });
}

/// Callers that send what cannot be, close at any byte, do not read, or greet too late: their calls end, and no other.
#[test]
fn anything_on_data_channels() {
    check("data", 30, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let mut options = Options::default();
            options.patience = Duration::from_secs(5);
            let (_agent, running) = start(&used, options);
            let mut control = Control::connect(&used, 4).await;
            control.exec(513, "user:QUBESRPC test.Echo dom0").await;
            let honest = Data::accept(&used, 513, 4).await;
            let callers = (514..524).map(|port| caller(used.clone(), port));
            for port in 514..524 {
                control.exec(port, "user:QUBESRPC test.Echo other").await;
            }
            join_all(callers).await;
            let mut ended = Vec::new();
            for _ in 514..524 {
                match control.next().await {
                    Asked::Terminated(port) => ended.push(port),
                    other => panic!("{other:?}"),
                }
            }
            ended.sort();
            assert!(ended.into_iter().eq(514..524));
            let input = vec![3; 20_000];
            assert!(honest.run(&input).await.stdout == input);
            drop((running, control));
        });
        bench.check_no_leak();
    });
}

async fn caller(bench: Rc<Bench>, port: u32) {
    let server = Server::new(bench.dom0.clone(), &bench.dom0_store, bench.qube.id(), port);
    let mut channel = server.with_sizes(1024, 2048).unwrap().accept().await.unwrap();
    let mut bytes = raw(0x300, &[2 + bench.xen.random(2) as u8, 0, 0, 0]);
    for _ in 0..bench.xen.random(8) {
        let kind = [STDIN, STDIN, STDIN, STDOUT, STDERR, EXIT, 0x189 + bench.xen.random(12) as u32]
            [bench.xen.random(7) as usize];
        bytes.extend(raw(kind, &vec![1; bench.xen.random(600) as usize]));
    }
    if bench.xen.random(3) == 0 {
        bytes.extend([STDIN.to_le_bytes(), u32::MAX.to_le_bytes()].concat());
    }
    bytes.truncate(bench.xen.random(bytes.len() as u64 + 1) as usize);
    let reads = bench.xen.random(2) == 0;
    let talking = pin!(async {
        if !write_all(&mut channel, &bytes).await {
            return;
        }
        let mut answers = [0; 512];
        while reads && matches!(channel.read(&mut answers).await, Ok(1..)) {}
        bench.pause(bench.xen.random(200)).await;
    });
    select(talking, pin!(bench.dom0.sleep(Duration::from_secs(1)))).await;
}

/// A caller that sends without end, and ends nothing: other tasks run, and memory stays bounded.
#[test]
fn a_flood_of_messages_that_mean_nothing() {
    check("flood", 4, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let (_agent, running) = start(&used, Options::default());
            let mut control = Control::connect(&used, 4).await;
            control.exec(513, "user:QUBESRPC test.Echo dom0").await;
            let mut data = Data::accept(&used, 513, 4).await;
            let (ticks, qube) = (Rc::new(Cell::new(0_u32)), used.qube.clone());
            let counted = ticks.clone();
            let ticking = used.qube.spawn(async move {
                loop {
                    qube.sleep(Duration::from_micros(5)).await;
                    counted.set(counted.get() + 1);
                }
            });
            let begin = used.dom0.now();
            // Ends of a stream that is not for services, and exit codes.
            let message = [raw(STDERR, b""), raw(EXIT, &[0; 4])].concat().repeat(100);
            for _ in 0..3000 {
                let mut rest = &message[..];
                while !rest.is_empty() {
                    rest = &rest[data.to.write(rest).await.unwrap()..];
                }
            }
            let due = ((used.dom0.now() - begin).as_micros() / 5) as u32;
            assert!(due > 50, "too short to tell");
            assert!(ticks.get() * 4 > due, "{} of {due} ticks", ticks.get());
            drop(ticking);
            assert_eq!(data.run(b"x").await.stdout, b"x");
            drop((running, control));
        });
        xen.check_budgets();
        bench.check_no_leak();
    });
}
