//! Services of a qube, called by dom0.

mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use qubes::Agent;
use qubes::rexec::{Call, Error, ExitCode, Options, Request, Session};
use xen_hal::{Clock, DomId};
use xen_sim::{Domain, check};
use xen_vchan::{Client, Server};

use support::dom0::{Asked, Control, Data, STDERR, STDIN, STDOUT, connection, raw};
use support::{Bench, bench, faults, write_all};

type Log = Rc<RefCell<Vec<String>>>;

/// What a qube of the tests can do.
async fn service(log: Log, domain: Domain, call: Call, session: &mut Session<Domain>) -> ExitCode {
    let name = match &call.request {
        Request::Service { name, argument, source } => {
            log.borrow_mut().push(format!("{}: {name} {argument:?} from {source}", call.user));
            name.clone()
        }
        Request::CommandLine(line) => {
            log.borrow_mut().push(format!("{}: $ {line}", call.user));
            return ExitCode(3);
        }
    };
    let mut bytes = vec![0; 1000];
    let outcome: Result<ExitCode, Error> = async {
        match &*name {
            "test.Echo" => loop {
                match session.read(&mut bytes).await? {
                    0 => return Ok(ExitCode::SUCCESS),
                    len => session.write(&bytes[..len]).await?,
                }
            },
            "test.Both" => {
                // More than any ring has, without reading, and then both ways at once.
                session.write_error(b"oh").await?;
                let (input, output) = session.split();
                let reading = async {
                    let mut sum = 0_u32;
                    loop {
                        match input.read(&mut bytes).await? {
                            0 => return Ok::<_, Error>(sum),
                            len => sum += bytes[..len].iter().map(|byte| u32::from(*byte)).sum::<u32>(),
                        }
                    }
                };
                let (sum, written) = join(reading, output.write(&vec![7; 300_000])).await;
                written?;
                Ok(ExitCode(sum?))
            }
            "test.Sleep" => {
                domain.sleep(Duration::from_secs(30)).await;
                Ok(ExitCode::SUCCESS)
            }
            _ => Ok(ExitCode::NOT_FOUND),
        }
    }
    .await;
    outcome.unwrap_or_else(|error| {
        log.borrow_mut().push(format!("{name}: {error}"));
        ExitCode::FAILURE
    })
}

/// An agent, its log, and its task.
fn start(bench: &Bench, options: Options) -> (Agent<Domain>, Log, impl Future<Output = ()>) {
    let log = Log::default();
    let (used, domain) = (log.clone(), bench.qube.clone());
    let handler = async move |call: Call, session: &mut Session<Domain>| {
        service(used.clone(), domain.clone(), call, session).await
    };
    let (agent, runner) = Agent::new(bench.qube.clone(), &bench.qube_store, options, handler);
    (agent, log, bench.qube.spawn(runner))
}

fn random_bytes(bench: &Bench, most: u64) -> Vec<u8> {
    (0..bench.xen.random(most)).map(|_| bench.xen.random(256) as u8).collect()
}

/// Streams of any length in each version, several calls at once; the end of each is told on the control channel.
#[test]
fn streams_of_any_length_in_each_version() {
    check("echo", 30, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let (agent, log, running) = start(&used, Options::default());
            assert!(!agent.is_connected());
            let version = 2 + used.xen.random(4) as u32;
            let mut control = Control::connect(&used, version).await;
            agent.connected().await.unwrap();
            control.exec(513, "user:QUBESRPC test.Echo+x work").await;
            control.exec(514, "root:nogui:QUBESRPC test.Both dom0").await;
            control.exec(515, "user:QUBESRPC test.Echo+ dom0 keyword x").await;
            let inputs = [random_bytes(&used, 200_000), random_bytes(&used, 100_000), Vec::new()];
            let runs = inputs
                .iter()
                .zip(513..)
                .map(async |(input, port)| Data::accept(&used, port, version).await.run(input).await);
            let results = join_all(runs).await;
            assert!(results[0].stdout == inputs[0], "an echo of other bytes");
            assert_eq!((results[0].exit, &results[0].stderr[..]), (Some(0), &b""[..]));
            assert_eq!(results[1].exit, Some(inputs[1].iter().map(|byte| u32::from(*byte)).sum()));
            assert!(results[1].stdout == [7; 300_000] && results[1].stderr == b"oh");
            assert_eq!((results[2].exit, results[2].stdout.len()), (Some(0), 0));
            assert!(
                results.iter().all(|results| results.ends == [STDOUT, STDERR]),
                "both ends come before the exit code"
            );
            let mut ended = Vec::new();
            for _ in 0..3 {
                ended.push(control.next().await);
            }
            ended.sort_by_key(|asked| format!("{asked:?}"));
            assert_eq!(ended, [513, 514, 515].map(Asked::Terminated));
            let mut log = log.borrow().clone();
            log.sort();
            assert_eq!(
                log,
                [
                    "root: test.Both None from dom0",
                    "user: test.Echo Some(\"\") from dom0",
                    "user: test.Echo Some(\"x\") from work"
                ]
            );
            drop((running, control));
        });
        bench.check_no_leak();
    });
}

#[test]
fn what_an_agent_answers_by_itself() {
    check("answers", 15, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let (_agent, log, running) = start(&used, Options::default());
            let mut control = Control::connect(&used, 4).await;
            let mut run = async |line: &str| {
                control.exec(600, line).await;
                let results = Data::accept(&used, 600, 3).await.run(b"unread").await;
                assert_eq!(control.next().await, Asked::Terminated(600));
                assert_eq!(results.ends, [STDOUT, STDERR]);
                (results.exit, String::from_utf8(results.stderr).unwrap())
            };
            assert_eq!(run("user:QUBESRPC qubes.WaitForSession dom0").await, (Some(0), "".into()));
            let unknown = "qrexec: service test.None not available here\n".to_string();
            assert_eq!(run("user:QUBESRPC test.None+arg dom0").await, (Some(127), unknown));
            assert_eq!(run("user:ls -l").await, (Some(3), "".into()));
            assert_eq!(run("QUBESRPC test.Echo dom0").await, (Some(125), "".into()), "no user");
            assert_eq!(run("user:QUBESRPC test.Echo").await, (Some(125), "".into()), "no source");

            // Without streams the exit code comes first and alone, and the service finds no input.
            control.just_exec(601, "user:QUBESRPC test.Echo work").await;
            let mut data = Data::accept(&used, 601, 3).await;
            assert_eq!(Data::next(&mut data.from, 65536).await, Some((0x193, vec![0; 4])));
            assert_eq!(Data::next(&mut data.from, 65536).await, None);
            assert_eq!(control.next().await, Asked::Terminated(601));
            used.until("the service has run", || log.borrow().iter().any(|line| line.contains("test.Echo"))).await;
            assert_eq!(
                *log.borrow(),
                ["user: test.None Some(\"arg\") from dom0", "user: $ ls -l", "user: test.Echo None from work"]
            );
            drop((running, control, data));
        });
        bench.check_no_leak();
    });
}

#[test]
fn more_calls_than_there_may_be() {
    check("many", 10, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let mut options = Options::default();
            options.max_calls = 2;
            let (_agent, _log, running) = start(&used, options);
            let mut control = Control::connect(&used, 4).await;
            for port in 513..520 {
                control.exec(port, "user:QUBESRPC test.Echo dom0").await;
            }
            // Of the last ones dom0 is told at once that there is nothing.
            for port in 517..520 {
                assert_eq!(control.next().await, Asked::Terminated(port));
            }
            let served = [Data::accept(&used, 513, 3).await, Data::accept(&used, 514, 3).await];
            for port in [515, 516] {
                let results = Data::accept(&used, port, 3).await.run(b"").await;
                assert_eq!(results.exit, Some(125));
                assert_eq!(control.next().await, Asked::Terminated(port));
            }
            for (data, port) in served.into_iter().zip(513..) {
                assert_eq!(data.run(b"hello").await.stdout, b"hello");
                assert_eq!(control.next().await, Asked::Terminated(port));
            }
            control.exec(520, "user:QUBESRPC test.Echo dom0").await;
            assert_eq!(Data::accept(&used, 520, 3).await.run(b"x").await.exit, Some(0));
            drop((running, control));
        });
        bench.check_no_leak();
    });
}

/// Qubes whose calls do not end leave room for dom0.
#[test]
fn a_quarter_of_the_calls_is_for_dom0() {
    check("reserve", 5, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let mut options = Options::default();
            options.max_calls = 4;
            let (_agent, _log, running) = start(&used, options);
            let mut control = Control::connect(&used, 4).await;
            for port in 513..523 {
                control.send(0x200, DomId(77), port, b"user:QUBESRPC test.Echo other\0").await;
            }
            // Three are served, as many as there may be are refused, and of the rest dom0 is told at once.
            for port in 519..523 {
                assert_eq!(control.next().await, Asked::Terminated(port));
            }
            control.exec(600, "user:QUBESRPC test.Echo dom0").await;
            assert_eq!(Data::accept(&used, 600, 3).await.run(b"x").await.stdout, b"x");
            assert_eq!(control.next().await, Asked::Terminated(600));
            drop((running, control));
        });
        bench.check_no_leak();
    });
}

/// dom0's daemon ends while a call is served: the call goes on, and the next daemon is told of its end. A caller that dies ends
/// its own call alone.
#[test]
fn channels_end_one_by_one() {
    check("ends", 20, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let (agent, log, running) = start(&used, Options::default());
            let mut control = Control::connect(&used, 3).await;
            control.exec(513, "user:QUBESRPC test.Echo one").await;
            control.exec(514, "user:QUBESRPC test.Echo two").await;
            let (one, two) = join(Data::accept(&used, 513, 3), Data::accept(&used, 514, 3)).await;
            drop(two);
            assert_eq!(control.next().await, Asked::Terminated(514));
            assert!(log.borrow().contains(&"test.Echo: the other end has closed the qrexec channel".to_string()));
            drop(control);
            used.until("the daemon is gone", || !agent.is_connected()).await;
            let results = one.run(b"one").await;
            assert_eq!((results.exit, &results.stdout[..]), (Some(0), &b"one"[..]));
            let mut control = Control::connect(&used, 4).await;
            assert_eq!(control.next().await, Asked::Terminated(513));

            // A new daemon uses a port again before the call of the old one has ended: only the new call counts.
            control.exec(513, "user:QUBESRPC test.Echo one").await;
            let old = Data::accept(&used, 513, 3).await;
            drop(control);
            used.until("the daemon is gone", || !agent.is_connected()).await;
            let mut control = Control::connect(&used, 4).await;
            control.exec(513, "user:QUBESRPC test.Echo one").await;
            let new = Data::accept(&used, 513, 3).await;
            assert_eq!(old.run(b"old").await.stdout, b"old");
            control.exec(514, "user:QUBESRPC test.None dom0").await;
            assert_eq!(Data::accept(&used, 514, 3).await.run(b"").await.exit, Some(127));
            assert_eq!(control.next().await, Asked::Terminated(514));
            assert_eq!(new.run(b"new").await.stdout, b"new");
            assert_eq!(control.next().await, Asked::Terminated(513));
            drop((running, control));
        });
        bench.check_no_leak();
    });
}

/// The runner is dropped at any moment, with calls in any state: nothing is left.
#[test]
fn a_runner_that_is_dropped() {
    check("dropped", 40, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let (agent, _log, running) = start(&used, Options::default());
            let caller = used.clone();
            let calling = used
                .dom0
                .spawn(async move { join(daemon(&caller), join(client(&caller, 513), client(&caller, 514))).await });
            used.dom0.sleep(Duration::from_micros(used.xen.random(6000))).await;
            drop(running);
            used.until("it has ended", || !agent.is_connected()).await;
            assert!(agent.call("dom0", "a").await.is_err());
            drop(calling);
        });
        // Servers of dom0's clients are dropped with their keys in the store; pages and ports are not kept.
        bench.check_no_leak();
    });
}

/// A daemon, and its clients, which take the end of any channel as it comes.
async fn daemon(bench: &Bench) {
    let client = Client::new(bench.dom0.clone(), &bench.dom0_store, bench.qube.id(), 512);
    let mut channel = client.connect().await.unwrap();
    let exec = |port: u32, line: &[u8]| raw(0x200, &[&connection(DomId(0), port)[..], line].concat());
    let calls = [exec(513, b"user:QUBESRPC test.Echo dom0\0"), exec(514, b"user:QUBESRPC test.Sleep dom0\0")].concat();
    let _ = write_all(&mut channel, &[raw(0x300, &[4, 0, 0, 0]), calls].concat()).await;
    while let Ok(1..) = channel.read(&mut [0; 64]).await {}
}

async fn client(bench: &Bench, port: u32) {
    let mut server = Server::new(bench.dom0.clone(), &bench.dom0_store, bench.qube.id(), port);
    let (mut from, mut to) = server.accept().await.unwrap().split();
    let writing = async {
        if to.write_message(&raw(0x300, &[4, 0, 0, 0])).await.is_ok() {
            Data::send_all(&mut to, STDIN, &[1; 50_000], 1000).await;
        }
    };
    join(writing, async { while let Ok(1..) = from.read(&mut [0; 3000]).await {} }).await;
}
