//! Calls of a qube's to services elsewhere.

mod support;

use futures_util::FutureExt;
use futures_util::future::{join, join_all};
use qubes::Agent;
use qubes::rexec::wire::WireError;
use qubes::rexec::{Answer, Call, CallError, Error, ExitCode, Options, Session};
use xen_sim::{Domain, check};

use support::dom0::{Asked, Control, Data, EXIT, STDERR, STDIN, STDOUT, raw};
use support::{Bench, bench, faults};

fn start(bench: &Bench, change: impl FnOnce(&mut Options)) -> (Agent<Domain>, impl Future<Output = ()>) {
    let mut options = Options::default();
    change(&mut options);
    let handler = async |_: Call, _: &mut Session<Domain>| ExitCode::NOT_FOUND;
    let (agent, runner) = Agent::new(bench.qube.clone(), &bench.qube_store, options, handler);
    (agent, bench.qube.spawn(runner))
}

async fn trigger(control: &mut Control) -> (String, String, String) {
    match control.next().await {
        Asked::Trigger { target, service, ident } => (target, service, ident),
        other => panic!("{other:?}"),
    }
}

/// In each version: the service's name arrives, the answer is that call's, and streams of any length go both ways.
#[test]
fn calls_in_each_version() {
    check("calls", 30, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let (agent, running) = start(&used, |_| {});
            let version = 2 + used.xen.random(3) as u32;
            let max = if version < 3 { 4096 } else { 65536 };
            let calling = used.qube.spawn(async move {
                // Before there is a daemon: it waits.
                let (one, other) =
                    join(agent.call("@default", "test.Sum+10"), agent.call("work", "test.Refused")).await;
                assert_eq!(other.err(), Some(CallError::Refused));
                let mut call = one.unwrap();
                let (input, output) = call.split();
                let writing = async {
                    input.write(&vec![1; 150_000]).await.unwrap();
                    input.finish().await.unwrap();
                    assert_eq!(input.write(b"more").await, Err(Error::Closed));
                };
                let reading = async {
                    let (mut bytes, mut stdout, mut stderr) = (vec![0; 777], Vec::new(), Vec::new());
                    loop {
                        match output.receive(&mut bytes).await.unwrap() {
                            Answer::Stdout(len) => stdout.extend_from_slice(&bytes[..len]),
                            Answer::Stderr(len) => stderr.extend_from_slice(&bytes[..len]),
                            Answer::Exit(code) => return (stdout, stderr, code),
                        }
                    }
                };
                let ((), (stdout, stderr, code)) = join(writing, reading).await;
                assert!(stdout == [9; 200_000] && stderr == b"warning");
                assert_eq!(code, ExitCode(10));
                assert_eq!(output.receive(&mut []).await, Ok(Answer::Exit(code)), "it stays so");
                agent
            });
            let mut control = Control::connect(&used, version).await;
            let asked = [trigger(&mut control).await, trigger(&mut control).await];
            assert_eq!((&*asked[0].0, &*asked[0].1), ("@default", "test.Sum+10"));
            assert_eq!((&*asked[1].0, &*asked[1].1), ("work", "test.Refused"));
            // In any order, and with answers to calls that there are none of.
            control.refuse("call-77").await;
            control.refuse(&asked[1].2).await;
            control.service_connect(520, "call-78").await;
            assert_eq!(control.next().await, Asked::Terminated(520));
            control.service_connect(513, &asked[0].2).await;
            let mut data = Data::connect(&used, 513, version).await;
            let serving = async {
                let mut input = Vec::new();
                loop {
                    match Data::next(&mut data.from, max).await {
                        Some((STDIN, body)) if body.is_empty() => break,
                        Some((STDIN, body)) => input.extend(body),
                        other => panic!("{other:?}"),
                    }
                }
                assert!(input == [1; 150_000]);
            };
            let answering = async {
                Data::send_all(&mut data.to, STDOUT, &vec![9; 200_000], max).await;
                Data::send_all(&mut data.to, STDERR, b"warning", max).await;
            };
            join(serving, answering).await;
            data.to.write_message(&raw(EXIT, &10_u32.to_le_bytes())).await.unwrap();
            let agent = calling.await;
            assert_eq!(control.next().await, Asked::Terminated(513));
            drop((agent, running, control));
        });
        bench.check_no_leak();
    });
}

#[test]
fn what_a_service_sends_is_collected_within_bounds() {
    check("collect", 10, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let (agent, running) = start(&used, |_| {});
            let calling = used.qube.spawn(async move { agent.call("dom0", "a.B").await.unwrap().collect(1000).await });
            let mut control = Control::connect(&used, 4).await;
            let (_, _, ident) = trigger(&mut control).await;
            control.service_connect(513, &ident).await;
            let mut data = Data::connect(&used, 513, 3).await;
            assert_eq!(Data::next(&mut data.from, 65536).await, Some((STDIN, vec![])));
            Data::send_all(&mut data.to, STDERR, b"err", 100).await;
            Data::send_all(&mut data.to, STDOUT, &[5; 3000], 700).await;
            data.to.write_message(&raw(EXIT, &[1, 0, 0, 0])).await.unwrap();
            let collected = calling.await.unwrap();
            assert_eq!((&*collected.stderr, collected.exit), (&b"err"[..], ExitCode::FAILURE));
            assert!(collected.stdout == [5; 1000]);
            assert_eq!(control.next().await, Asked::Terminated(513));
            drop(running);
        });
        bench.check_no_leak();
    });
}

#[test]
fn calls_that_cannot_be() {
    check("errors", 10, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let (agent, running) = start(&used, |options| options.max_outgoing = 3);
            for service in ["", "+a", "a b", "a\0", "a/b", "ä"] {
                let error = agent.call("dom0", service).await.err();
                assert_eq!(error, Some(CallError::BadService { service: service.into() }));
            }
            for target in ["", "a b", "a\0", "a/b"] {
                let error = agent.call(target, "a").await.err();
                assert_eq!(error, Some(CallError::BadTarget { target: target.into() }));
            }
            let mut calls: Vec<_> = (0..3).map(|_| Box::pin(agent.call("dom0", "a"))).collect();
            assert!(calls.iter_mut().all(|call| call.now_or_never().is_none()));
            assert_eq!(agent.call("dom0", "a").await.err(), Some(CallError::Busy { max: 3 }));
            drop(calls);

            let mut control = Control::connect(&used, 2).await;
            let long = "a".repeat(64);
            let error = agent.call("dom0", &long).await.err();
            assert_eq!(error, Some(CallError::Name(WireError::Text { len: 64, max: 63 })), "in version 2");
            let (error, asked) = join(agent.call("dom0", "a"), async {
                let asked = trigger(&mut control).await;
                drop(control);
                asked
            })
            .await;
            assert_eq!((error.err(), &*asked.1), (Some(CallError::Disconnected), "a"));

            // The longest name there is, through a ring that is smaller.
            let long = "a".repeat(64_999);
            let (error, ()) = join(agent.call("dom0", &long), async {
                let mut control = Control::connect(&used, 4).await;
                let asked = trigger(&mut control).await;
                assert!(asked.1 == long);
                control.refuse(&asked.2).await;
                // Until the call is over: who drops the channel has the agent listen anew.
                control.channel.flush().await.unwrap();
            })
            .await;
            assert_eq!(error.err(), Some(CallError::Refused));
            drop(running);
            used.until("the runner has ended", || !agent.is_connected()).await;
            assert_eq!(agent.call("dom0", "a").await.err(), Some(CallError::Stopped));
            assert_eq!(agent.connected().await, Err(CallError::Stopped));
        });
        bench.check_no_leak();
    });
}

/// A call that nobody waits for any more, in each of its states: dom0 is told, and nothing is left of it in the store.
#[test]
fn calls_that_are_dropped() {
    check("dropped", 10, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let (agent, running) = start(&used, |_| {});
            let mut control = Control::connect(&used, 4).await;
            // Before dom0 has answered.
            let (caller, domain) = (agent.clone(), used.qube.clone());
            let calling = domain.spawn(async move { caller.call("dom0", "a").await.map(drop) });
            let (.., ident) = trigger(&mut control).await;
            assert!(calling.cancel().await.is_none());
            control.service_connect(513, &ident).await;
            assert_eq!(control.next().await, Asked::Terminated(513));
            // Before the other end has connected.
            let caller = agent.clone();
            let calling = domain.spawn(async move { caller.call("dom0", "a").await.map(drop) });
            let (.., ident) = trigger(&mut control).await;
            control.service_connect(514, &ident).await;
            let path = "data/vchan/0/514/event-channel";
            while !used.qube_store.exists(path).await.unwrap() {
                used.pause(1).await;
            }
            assert!(calling.cancel().await.is_none());
            assert_eq!(control.next().await, Asked::Terminated(514));
            assert!(!used.qube_store.exists(path).await.unwrap());
            // While it runs.
            let caller = agent.clone();
            let calling = domain.spawn(async move { caller.call("dom0", "a").await });
            let (.., ident) = trigger(&mut control).await;
            control.service_connect(515, &ident).await;
            let mut data = Data::connect(&used, 515, 3).await;
            drop(calling.await.unwrap());
            assert_eq!(control.next().await, Asked::Terminated(515));
            assert_eq!(Data::next(&mut data.from, 65536).await, None);
            drop((agent, running));
        });
        bench.check_no_leak();
    });
}

/// The service's domain dies, or sends what cannot be; or nobody comes.
#[test]
fn other_ends_that_fail() {
    check("failures", 10, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let (agent, running) = start(&used, |_| {});
            let mut control = Control::connect(&used, 4).await;
            let ends: [&[u8]; 4] =
                [b"", &raw(STDOUT, &[1; 10])[..13], &raw(0x194, b""), &raw(STDOUT, &vec![1; 65537])[..8]];
            for bytes in ends {
                let caller = agent.clone();
                let calling =
                    used.qube.spawn(async move { caller.call("dom0", "a").await.unwrap().collect(100).await });
                let (.., ident) = trigger(&mut control).await;
                control.service_connect(513, &ident).await;
                let mut data = Data::connect(&used, 513, 4).await;
                if !bytes.is_empty() {
                    data.to.write_message(bytes).await.unwrap();
                }
                if bytes.len() != 8 {
                    drop(data);
                }
                let error = calling.await.unwrap_err();
                assert!(matches!(error, Error::Closed | Error::Wire(_)), "{error}");
                assert_eq!(control.next().await, Asked::Terminated(513));
            }
            let calls = join_all([agent.call("dom0", "a")]);
            let (outcomes, ()) = join(calls, async {
                let (.., ident) = trigger(&mut control).await;
                control.service_connect(513, &ident).await;
                assert_eq!(control.next().await, Asked::Terminated(513), "after two minutes");
            })
            .await;
            assert_eq!(outcomes[0].as_ref().err(), Some(&CallError::Timeout));
            drop((outcomes, agent, running));
        });
        bench.check_no_leak();
    });
}
