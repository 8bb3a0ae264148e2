//! Both ends against each other.

mod support;

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, join, join_all, poll_immediate, select};
use xen_hal::{Clock, DomId};
use xen_sim::{Faults, check};
use xen_vchan::layout::Side;
use xen_vchan::{Client, Error, Server, SetupError};
use xenstore_client::{Access, Permission, Restart};

use support::{PORT, bench, read_stream, write_stream};

fn faults() -> Faults {
    let store_delay = Duration::from_micros(300);
    Faults { eagain: 20, spurious_events: 10, reorder: 10, store_delay, ..Faults::default() }
}

/// Streams both ways at the same time, of halves in tasks of their own, through rings of every kind.
#[test]
fn bytes_arrive_in_order_both_ways() {
    check("streams", 120, |xen| {
        // Events that nobody has sent would hide one that is missing.
        xen.set_faults(if xen.random(2) == 0 { faults() } else { Faults::default() });
        let sizes = [(1024, 2048), (2048, 1024), (2048, 5000), (4096, 2048), (4096, 4096), (9000, 20_000)];
        let sizes = sizes[xen.random(sizes.len() as u64) as usize];
        let (left, right) = (xen.random(60_000) as usize, xen.random(60_000) as usize);
        let bench = bench(xen);
        let (used, machine) = (bench.clone(), xen.clone());
        xen.run(async move {
            let (server, client) = used.pair(PORT, sizes).await;
            let start = machine.now();
            assert_eq!((server.peer(), client.peer()), (used.client.id(), used.server.id()));
            assert!(client.layout() == server.layout() && client.layout().size(Side::Left) as usize >= sizes.0);
            let mut tasks = Vec::new();
            for (domain, channel, sends, receives) in
                [(&used.server, server, right, left), (&used.client, client, left, right)]
            {
                let (mut read, mut write) = channel.split();
                let xen = machine.clone();
                let writing = domain.spawn(async move {
                    assert_eq!(write_stream(&xen, &mut write, sends as u64, sends).await, (sends, Ok(())));
                    write.flush().await.unwrap();
                    write
                });
                let xen = machine.clone();
                // The writer's half is kept until both have read: who drops both closes the channel.
                tasks.push(domain.spawn(async move {
                    let mut at = 0;
                    while at < receives {
                        let mut bytes = vec![0; 1 + xen.random(3000) as usize];
                        let len = read.read(&mut bytes).await.unwrap();
                        assert!(len > 0 && at + len <= receives);
                        assert!((0..len).all(|index| bytes[index] == support::byte(receives as u64, at + index)));
                        at += len;
                    }
                    drop(writing.await);
                }));
            }
            join_all(tasks).await;
            // Where one is missing, an end goes on only when it looks whether its peer is there.
            assert!(machine.now() - start < Duration::from_secs(1), "an end has slept where there was work");
        });
        bench.check_no_leak(xen);
    });
}

/// What was written before the end is read, whichever end closes, and however.
#[test]
fn what_was_written_before_the_end_is_read() {
    check("ends", 60, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let (used, machine, server_closes) = (bench.clone(), xen.clone(), xen.random(2) == 0);
        xen.run(async move {
            let (server, client) = used.pair(PORT, (4096, 4096)).await;
            let (closes, stays) = if server_closes { (server, client) } else { (client, server) };
            let (read, mut write) = closes.split();
            let (mut reads, mut writes) = stays.split();
            assert_eq!(write_stream(&machine, &mut write, 1, 4096).await.0, 4096);
            drop(read);
            drop(write);
            assert_eq!(read_stream(&machine, &mut reads, 1).await, 4096);
            assert_eq!(writes.write(b"x").await, Err(Error::Closed));
            assert_eq!(writes.write_message(b"x").await, Err(Error::Closed));
            assert_eq!((writes.flush().await, reads.read(&mut [0]).await), (Ok(()), Ok(0)));
        });
        bench.check_no_leak(xen);
    });
}

/// One of the domains is destroyed, or one end is dropped, at any moment from the first step on. The other end reads a
/// beginning of what was written, finds the end in a few seconds, and nothing of it is left.
#[test]
fn either_end_may_end_at_any_point() {
    let ended = std::sync::atomic::AtomicU32::new(0);
    check("deaths", 300, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let (used, machine) = (bench.clone(), xen.clone());
        let (kills_server, destroys, micros) = (xen.random(2) == 0, xen.random(2) == 0, xen.random(8000));
        let seen = xen.run(async move {
            let (xen, mut server) = (machine.clone(), used.serve(PORT).with_sizes(2048, 1024).unwrap());
            let serving = used.server.spawn(async move {
                let channel = server.accept().await.ok()?;
                let (mut read, mut write) = channel.split();
                let both = join(write_stream(&xen, &mut write, 1, usize::MAX), read_stream(&xen, &mut read, 2));
                Some(both.await)
            });
            let (xen, client) = (machine.clone(), used.client(PORT));
            let using = used.client.spawn(async move {
                let channel = client.connect().await.ok()?;
                let (mut read, mut write) = channel.split();
                let both = join(write_stream(&xen, &mut write, 2, usize::MAX), read_stream(&xen, &mut read, 1));
                Some(both.await)
            });
            used.dom0.sleep(Duration::from_micros(micros)).await;
            let (killed, stays, domain) =
                if kills_server { (serving, using, &used.server) } else { (using, serving, &used.client) };
            if destroys {
                domain.destroy();
                std::mem::forget(killed);
            } else {
                killed.cancel().await;
            }
            // Where they were not connected, the one that is left waits for another peer.
            match select(stays, pin!(used.dom0.sleep(Duration::from_secs(5)))).await {
                Either::Left((Some(((_, outcome), _)), _)) => {
                    assert_eq!(outcome, Err(Error::Closed));
                    true
                }
                Either::Left((None, _)) => panic!("no error is due"),
                Either::Right(((), stays)) => {
                    stays.cancel().await;
                    false
                }
            }
        });
        ended.fetch_add(u32::from(seen), std::sync::atomic::Ordering::Relaxed);
        bench.check_no_leak(xen);
    });
    assert!(ended.into_inner() > 50, "too few of the runs came to a connection");
}

#[test]
fn many_channels_at_once() {
    check("many", 15, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let (used, machine) = (bench.clone(), xen.clone());
        xen.run(async move {
            let one = async |number: u32| {
                let (server, client) = used.pair(number, (1024, 2048)).await;
                let ((mut from_client, _to_client), (_from_server, mut to_server)) = (server.split(), client.split());
                let (xen, seed) = (machine.clone(), u64::from(number));
                let writing = used.client.spawn(async move {
                    let outcome = write_stream(&xen, &mut to_server, seed, 5000).await;
                    drop(_from_server);
                    outcome
                });
                assert_eq!(read_stream(&machine, &mut from_client, seed).await, 5000);
                assert_eq!(writing.await, (5000, Ok(())));
            };
            join_all((0..40).map(one)).await;
        });
        bench.check_no_leak(xen);
    });
}

/// Clients of one server, some at the same time; each has a channel of its own.
#[test]
fn a_server_has_one_client_after_the_other() {
    check("clients", 30, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let mut server = used.serve(PORT);
            let domain = used.server.clone();
            let serving = used.server.spawn(async move {
                loop {
                    let mut channel = server.accept().await.unwrap();
                    domain
                        .spawn(async move {
                            let mut bytes = [0; 64];
                            while let Ok(len @ 1..) = channel.read(&mut bytes).await {
                                channel.write_message(&bytes[..len]).await.unwrap();
                            }
                        })
                        .detach();
                }
            });
            for round in 0..6_u8 {
                let one = async |number: u8| {
                    let mut channel = used.client(PORT).connect().await.unwrap();
                    for turn in 0..3 {
                        channel.write_message(&[round, number, turn]).await.unwrap();
                        let mut bytes = [0; 3];
                        embedded_io_async::Read::read_exact(&mut channel, &mut bytes).await.unwrap();
                        assert_eq!(bytes, [round, number, turn]);
                    }
                };
                join(one(1), one(2)).await;
            }
            let _: Option<()> = serving.cancel().await;
        });
        bench.check_no_leak(xen);
    });
}

#[test]
fn only_the_peer_may_read_where_the_page_is() {
    check("permissions", 10, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let mut server = used.serve(PORT);
            {
                let mut accepting = pin!(server.accept());
                while poll_immediate(&mut accepting).await.is_none() {
                    used.pause(1).await;
                    let path = format!("data/vchan/{}/{PORT}", used.client.id().0);
                    let (ring, event) = (format!("{path}/ring-ref"), format!("{path}/event-channel"));
                    if !used.server_store.exists(&event).await.unwrap() {
                        continue;
                    }
                    let expected = vec![
                        Permission::new(used.server.id(), Access::None),
                        Permission::new(used.client.id(), Access::Read),
                    ];
                    for key in [ring, event] {
                        assert_eq!(used.server_store.permissions(&key).await.unwrap(), expected);
                    }
                    break;
                }
            }
            server.close().await.unwrap();
            let left = used.server_store.get::<Vec<u8>>(&format!("data/vchan/{}/{PORT}", used.client.id().0)).await;
            assert_eq!(left, Ok(None));
        });
        bench.check_no_leak(xen);
    });
}

/// A client's patience is in vain as long as there is nobody; keys that a server has left lead nowhere, and one that comes
/// later is found.
#[test]
fn a_client_waits_for_a_server_that_is_there() {
    check("stale", 30, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let mut gone = used.serve(PORT);
            {
                let accepting = pin!(gone.accept());
                let patience = pin!(used.dom0.sleep(Duration::from_millis(20)));
                assert!(matches!(select(accepting, patience).await, Either::Right(_)), "there is no client");
            }
            drop(gone);
            let client = used.client(PORT);
            let connecting = used.client.spawn(async move { client.connect().await });
            used.pause(20).await;
            assert!(!connecting.is_finished());
            let mut server = used.serve(PORT);
            let (accepted, connected) = join(server.accept(), connecting).await;
            let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
            connected.write_message(b"here").await.unwrap();
            let mut bytes = [0; 8];
            assert_eq!(accepted.read(&mut bytes).await, Ok(4));
        });
        bench.check_no_leak(xen);
    });
}

/// A call that is dropped leaves its page to the next one, with the client that has come meanwhile.
#[test]
fn accepting_may_be_dropped_at_any_point() {
    check("cancelled", 60, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let (used, machine) = (bench.clone(), xen.clone());
        xen.run(async move {
            let mut server = used.serve(PORT);
            let client = used.client(PORT);
            let using = used.client.spawn(async move {
                let mut channel = client.connect().await.unwrap();
                channel.write_message(b"hello").await.unwrap();
                channel.flush().await
            });
            let mut channel = loop {
                let patience = Duration::from_micros(machine.random(1500));
                match select(pin!(server.accept()), pin!(used.dom0.sleep(patience))).await {
                    Either::Left((outcome, _)) => break outcome.unwrap(),
                    Either::Right(_) => {}
                }
            };
            let mut bytes = [0; 8];
            assert_eq!(channel.read(&mut bytes).await, Ok(5));
            assert_eq!(using.await, Ok(()));
        });
        bench.check_no_leak(xen);
    });
}

/// The toolstack removes the keys of a server that waits: it writes them again.
#[test]
fn a_server_writes_its_keys_anew() {
    check("renewed", 10, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let mut server = used.serve(PORT);
            let accepting = used.server.spawn(async move { server.accept().await.map(|_| ()) });
            used.pause(100).await;
            used.server_store.remove("data/vchan").await.unwrap();
            let client = used.client(PORT);
            let connecting = used.client.spawn(async move { client.connect().await.map(|_| ()) });
            used.pause(10_000).await;
            assert!(accepting.is_finished() && connecting.is_finished());
            assert_eq!((accepting.await, connecting.await), (Ok(()), Ok(())));
        });
        bench.check_no_leak(xen);
    });
}

/// The store takes no notice of what is allowed to a domain that is not there yet.
#[test]
fn a_server_is_there_before_its_clients_domain() {
    check("before", 10, |xen| {
        let server = xen.domain();
        let store = server.store();
        let (machine, dom0) = (xen.clone(), xen.dom0());
        xen.run(async move {
            let peer = DomId(server.id().0 + 1);
            let mut listening = Server::new(server.clone(), &store, peer, PORT);
            let accepting = server.spawn(async move { listening.accept().await.map(drop) });
            dom0.sleep(Duration::from_millis(machine.random(40_000))).await;
            let (client, start) = (machine.domain(), machine.now());
            assert_eq!(client.id(), peer);
            let connecting = Client::new(client.clone(), &client.store(), server.id(), PORT);
            assert!(connecting.connect().await.is_ok());
            assert!(machine.now() - start <= Duration::from_secs(10));
            assert_eq!(accepting.await, Ok(()));
        });
    });
}

#[test]
fn messages_are_written_whole() {
    check("messages", 30, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let (mut server, mut client) = used.pair(PORT, (1024, 2048)).await;
            let long = client.write_message(&[0; 1025]).await;
            assert_eq!(long, Err(Error::TooLong { len: 1025, size: 1024 }));
            client.write_message(&[]).await.unwrap();
            let count = Rc::new(Cell::new(0));
            let counted = count.clone();
            let writing = used.client.spawn(async move {
                for number in 0..20 {
                    client.write_message(&[number; 700]).await.unwrap();
                    counted.set(counted.get() + 1);
                }
                client.flush().await.unwrap();
            });
            used.pause(5).await;
            assert_eq!(count.get(), 1, "there is room for 324 bytes of the second one");
            for number in 0..20 {
                let mut bytes = [0; 700];
                // All of it is there at once, or nothing.
                assert_eq!(server.read(&mut bytes).await, Ok(700));
                assert_eq!(bytes, [number; 700]);
            }
            writing.await;
        });
        bench.check_no_leak(xen);
    });
}

/// No memory, no grants, no ports: an error that says so, and the next call may succeed.
#[test]
fn what_is_not_to_be_had_is_an_error() {
    check("refused", 40, |xen| {
        let bench = bench(xen);
        let (used, machine) = (bench.clone(), xen.clone());
        xen.run(async move {
            for (refused, expected) in [
                (Faults { grants: 100, ..Faults::default() }, "the grant table is full"),
                (Faults { ports: 100, ..Faults::default() }, "cannot open an event channel with d2: no port is free"),
            ] {
                machine.set_faults(refused);
                let error = used.serve(PORT).accept().await.err().unwrap();
                assert_eq!(error.to_string(), expected);
            }
            machine.set_faults(Faults::default());
            let mut server = used.serve(PORT);
            let accepting = used.server.spawn(async move { server.accept().await });
            used.pause(5).await;
            machine.set_faults(Faults { maps: 100, ..Faults::default() });
            let error = used.client(PORT).connect().await.err().unwrap();
            assert!(matches!(error, SetupError::Refused { .. }), "{error}");
            used.client.set_address_space(0);
            machine.set_faults(Faults::default());
            let error = used.client(PORT).connect().await.err().unwrap();
            assert_eq!(error.to_string(), "no address space left to map foreign pages");
            used.client.set_address_space(1000);
            let channel = used.client(PORT).connect().await.unwrap();
            let accepted = accepting.await.unwrap();
            assert!(accepted.is_open() && channel.is_open());
        });
        bench.check_no_leak(xen);
    });
}

/// A domain that is saved and restored has other ports and grants: its channels end, for both, and its server goes on.
#[test]
fn channels_end_with_a_restore_and_the_server_goes_on() {
    check("restored", 20, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let mut server = used.serve(PORT);
            let client = used.client(PORT);
            let (accepted, connected) = join(server.accept(), client.connect()).await;
            let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
            let accepting = used.server.spawn(async move { server.accept().await });
            used.pause(10).await;
            let quiet = used.server_store.quiesce().await.unwrap();
            used.server.suspend_and_restore();
            quiet.resume(Restart::New);
            assert_eq!((accepted.read(&mut [0]).await, connected.read(&mut [0]).await), (Ok(0), Ok(0)));
            drop((accepted, connected));
            assert!(client.connect().await.is_ok() && accepting.await.is_ok());
        });
    });
}
