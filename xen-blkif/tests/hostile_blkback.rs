//! Backends that do what they may not, against blkfront. Each test that stands for a security advisory names it.

mod support;

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join_all, select};
use xen_blkif::protocol::{Body, Operation, Response, Status};
use xen_blkif::{BlockDevice, Error, Geometry, front};
use xen_hal::{Access, Clock, DomId, GrantRef, GrantTable, MapRequest, Mapping, Port};
use xen_ring::SharedMapping;
use xen_sim::{Toolstack, check, keep_log, script, take_log};
use xenbus::{State, backend};
use xenstore_client::Restart;

use support::backend::{BadBackend, DEVICE, SECTORS, Served, against_frontend, against_frontend_with, okay, read};

#[test]
fn xsa_376_a_backends_answers_are_checked() {
    check("unknown id", 10, |xen| {
        let error = against_frontend(
            xen,
            async move |served| {
                let request = served.request().await;
                served.answer(Response { id: 31, ..okay(&request) });
            },
            async |disk| assert_eq!(read(disk).await, Err(Error::Gone)),
        );
        assert_eq!(error.as_deref(), Some("5 response references no pending request (31)"));
    });
    check("huge id", 10, |xen| {
        let error = against_frontend(
            xen,
            async move |served| {
                let request = served.request().await;
                served.answer(Response { id: u64::MAX, ..okay(&request) });
            },
            async |disk| assert_eq!(read(disk).await, Err(Error::Gone)),
        );
        assert!(error.unwrap().contains("references no pending request"));
    });
    check("another operation", 10, |xen| {
        let error = against_frontend(
            xen,
            async move |served| {
                let request = served.request().await;
                served.answer(Response { operation: Operation::Write, ..okay(&request) });
            },
            async |disk| assert_eq!(read(disk).await, Err(Error::Gone)),
        );
        assert_eq!(error.as_deref(), Some("5 response to request 0 has wrong operation (write instead of read)"));
    });
    check("answers from nowhere", 10, |xen| {
        let error = against_frontend(
            xen,
            async move |served| {
                served.request().await;
                served.memory.store(8, 2);
                served.port.notify();
            },
            async |disk| assert_eq!(read(disk).await, Err(Error::Gone)),
        );
        assert!(error.unwrap().contains("ring index out of range"));
    });
}

#[test]
fn a_backend_that_tells_nonsense_of_its_disk() {
    for (key, value, expected) in [
        ("sector-size", "1000", "sector-size = 1000: expected a power of two from 512 to 65536"),
        ("sector-size", "0", "sector-size = 0: expected a power of two"),
        ("sectors", "many", "sectors"),
        ("sectors", "36028797018963968", "sectors = 36028797018963968: expected 36028797018963967 at most"),
        ("sectors", "18446744073709551615", "expected 36028797018963967 at most"),
    ] {
        check("nonsense", 5, |xen| {
            let error = against_frontend_with(
                xen,
                &[(key, value)],
                async |_| {},
                async |disk| assert_eq!(disk.ready().await.err(), Some(Error::Gone)),
            );
            assert!(error.as_ref().is_some_and(|error| error.contains(expected)), "{key} = {value}: {error:?}");
        });
    }
}

#[test]
fn a_feature_that_is_no_number_is_not_offered() {
    const FEATURES: [&str; 6] = [
        "feature-flush-cache",
        "feature-barrier",
        "feature-discard",
        "feature-persistent",
        "feature-max-indirect-segments",
        "max-ring-page-order",
    ];
    for value in ["", "yes", "-1", "1;"] {
        check("features", 3, |xen| {
            keep_log();
            let mut nodes = FEATURES.map(|key| (key, value)).to_vec();
            nodes.push(("physical-sector-size", "large"));
            let error = against_frontend_with(
                xen,
                &nodes,
                async |served| {
                    let request = served.request().await;
                    let operation = request.response_operation();
                    served.answer(Response { id: request.id, operation, status: Status::Okay });
                },
                async |disk| {
                    assert_eq!(disk.ready().await, Ok(Geometry::plain(SECTORS)));
                    assert_eq!(read(disk).await, Ok(()));
                },
            );
            assert_eq!(error, None);
            let log = take_log();
            for (key, value) in &nodes {
                let told: Vec<_> = log.iter().filter(|line| line.contains(&format!("{key} = {value:?}"))).collect();
                assert_eq!(told.len(), 1, "one line names {key}: {log:?}");
            }
        });
    }
}

#[test]
fn xsa_391_events_without_end_from_a_backend() {
    check("storm", 5, |xen| {
        let error = against_frontend(
            xen,
            async |served| {
                let request = served.request().await;
                for _ in 0..5_000 {
                    served.port.notify();
                    served.domain.sleep(Duration::from_micros(2)).await;
                }
                let operation = request.response_operation();
                served.answer(Response { id: request.id, operation, status: Status::Okay });
            },
            async |disk| assert_eq!(read(disk).await, Ok(())),
        );
        assert_eq!(error, None);
    });
}

#[test]
fn xsa_396_and_403_pages_that_a_backend_keeps_are_given_to_nobody_and_hold_nothing_of_ours() {
    check("kept pages", 20, |xen| {
        let error = against_frontend(
            xen,
            async |served| {
                let request = served.request().await;
                let Body::Direct { segments, .. } = request.body else { panic!("one page is not indirect") };
                let reference = GrantRef(segments[0].reference);
                let peer = served.peer;
                let request_map = [MapRequest { peer, reference, access: Access::ReadWrite }];
                let kept = SharedMapping::new(served.domain.map(&request_map).unwrap()).unwrap();
                // All but the sector that was asked for is zero: no other memory of the guest's.
                let mut bytes = [0xff; 4096];
                kept.read(0, &mut bytes);
                assert!(bytes.iter().all(|byte| *byte == 0));
                let operation = request.response_operation();
                served.answer(Response { id: request.id, operation, status: Status::Okay });
                let next = served.request().await;
                let Body::Direct { segments, .. } = next.body else { panic!("one page is not indirect") };
                assert!(segments[0].reference != 0);
                served.answer(Response { id: next.id, operation: next.response_operation(), status: Status::Okay });
                drop(kept);
            },
            async |disk| {
                assert_eq!(read(disk).await, Ok(()));
                assert_eq!(read(disk).await, Ok(()));
            },
        );
        assert_eq!(error, None);
    });
}

/// A backend that maps whatever it is given and never lets go: what it keeps has a bound, and then requests fail until it
/// lets go.
#[test]
fn xsa_396_a_backend_that_keeps_all_pages_takes_no_more_than_a_bound() {
    const MAX_KEPT: usize = 256;
    check("all pages kept", 5, |xen| {
        let machine = xen.clone();
        let kept = Rc::<RefCell<Vec<_>>>::default();
        let mapped = kept.clone();
        let error = against_frontend_with(
            xen,
            &[("feature-persistent", "0")],
            async move |served| loop {
                let request = served.request().await;
                let Body::Direct { operation, segments, count } = request.body else {
                    panic!("8 pages are not indirect")
                };
                let access = if operation == Operation::Read { Access::ReadWrite } else { Access::ReadOnly };
                for segment in &segments[..count.into()] {
                    let reference = GrantRef(segment.reference);
                    let map = served.domain.map(&[MapRequest { peer: served.peer, reference, access }]).unwrap();
                    assert!(map.page(0).is_ok());
                    mapped.borrow_mut().push(map);
                }
                served.answer(okay(&request));
            },
            async move |disk| {
                let mut bytes = vec![0; 8 * 4096];
                let mut outcomes = Vec::new();
                for _ in 0..100 {
                    outcomes.push(disk.read_bytes(0, &mut bytes).await);
                    outcomes.push(disk.write_bytes(0, &bytes).await);
                    let (_, deferred) = machine.in_use();
                    assert!(deferred <= MAX_KEPT + 8, "{deferred} pages are kept");
                }
                let refused = outcomes.iter().position(|outcome| *outcome == Err(Error::PagesKept)).unwrap();
                assert!(outcomes[..refused].iter().all(|outcome| *outcome == Ok(())));
                assert!(outcomes[refused..].iter().all(|outcome| *outcome == Err(Error::PagesKept)));
                kept.borrow_mut().clear();
                assert_eq!(machine.in_use().1, 0);
                assert_eq!(disk.read_bytes(0, &mut bytes).await, Ok(()));
            },
        );
        assert_eq!(error, None);
    });
}

/// The backend's second processor changes what the frontend has just read, between two loads. The disk may end of it.
#[test]
fn xsa_376_what_changes_between_two_loads() {
    check("second processor", 80, |xen| {
        let mut state = xen.seed().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let clock = xen.dom0();
        let changes = Rc::new(Cell::new(0));
        let counted = changes.clone();
        against_frontend(
            xen,
            async move |served| {
                let counted = counted.clone();
                served.domain.second_processor(move |accessed| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    if accessed.write || !state.is_multiple_of(5) {
                        return;
                    }
                    counted.set(counted.get() + 1);
                    if accessed.len == 4 && accessed.offset < 16 {
                        let step = [1, 2, u32::MAX, u32::MAX - 1, 40][(state >> 8) as usize % 5];
                        accessed.set_word(accessed.word().wrapping_add(step));
                    } else if accessed.offset >= 64 {
                        accessed.write(accessed.offset + (state >> 8) as usize % accessed.len, &[(state >> 16) as u8]);
                    }
                });
                // Answers until the ring makes no sense any more to an honest end.
                loop {
                    let request = served.ring.borrow_mut().pop(&served.memory);
                    match request {
                        Ok(Some(request)) => served.answer(okay(&request)),
                        Ok(None) => served.domain.sleep(Duration::from_micros(100)).await,
                        Err(_) => break,
                    }
                }
            },
            async move |disk| {
                let users = join_all((0..6).map(|index| async move {
                    let mut bytes = vec![0; 512 << index];
                    for _ in 0..20 {
                        let _ = disk.read_bytes(0, &mut bytes).await;
                        let _ = disk.flush().await;
                    }
                }));
                let _ = select(pin!(users), clock.sleep(Duration::from_millis(100))).await;
            },
        );
        assert!(changes.get() > 0);
    });
}

/// The guest is restored, and what its new backend says makes no ring possible: who waits gets an error, and the next
/// restore brings the disk back.
#[test]
fn xsa_465_a_restore_after_which_there_is_no_ring() {
    check("no ring", 40, |xen| {
        let toolstack = xen.toolstack();
        let (front, back) = (xen.domain(), xen.domain());
        let (front_store, back_store) = (front.store(), back.store());
        let paths = Toolstack::paths("vbd", front.id(), back.id(), DEVICE);
        let start_backend = {
            let (back, path) = (back.clone(), paths.1.clone());
            move |sectors: &'static str| {
                let (store, domain, path) = (back_store.clone(), back.clone(), path.clone());
                back.spawn(async move {
                    let run = async |served: &Served| {
                        loop {
                            let request = served.request().await;
                            let operation = request.response_operation();
                            served.answer(Response { id: request.id, operation, status: Status::Okay });
                        }
                    };
                    let nodes = vec![("sectors", sectors)];
                    let mut driver = BadBackend { domain: domain.clone(), nodes, run: script(run) };
                    drop(backend(&store, &domain, &path, &mut driver).await);
                })
            }
        };
        let dom0 = xen.dom0();
        xen.run(async move {
            let attach = async || {
                toolstack.attach_with("vbd", front.id(), back.id(), DEVICE, &[("mode", "w")]).await.unwrap();
            };
            attach().await;
            let mut driver = start_backend("64");
            let device = format!("device/vbd/{DEVICE}");
            let options = front::Options::default();
            let (disk, runner) = front::connect(&front_store, front.clone(), &device, options);
            front.spawn(async move { drop(runner.await) }).detach();
            assert_eq!(read(&disk).await, Ok(()));
            for (sectors, expected) in [("seven", Err(Error::Gone)), ("64", Ok(()))] {
                let quiet = front_store.quiesce().await.unwrap();
                driver.cancel().await;
                toolstack.store().remove(&paths.1).await.unwrap();
                toolstack.store().remove(&paths.0).await.unwrap();
                attach().await;
                driver = start_backend(sectors);
                front.suspend_and_restore();
                quiet.resume(Restart::New);
                // The driver hears of the restore a moment later.
                dom0.sleep(Duration::from_secs(1)).await;
                assert_eq!(read(&disk).await, expected, "{sectors} sectors");
            }
        });
    });
}

#[test]
fn what_a_backend_cannot_do_after_all_degrades() {
    check("unsupported", 10, |xen| {
        let error = against_frontend(
            xen,
            async |served| {
                loop {
                    let request = served.request().await;
                    let operation = request.response_operation();
                    let status = match operation {
                        Operation::Flush | Operation::Discard => Status::Unsupported,
                        _ => Status::Okay,
                    };
                    served.answer(Response { id: request.id, operation, status });
                }
            },
            async |disk| {
                assert_eq!(disk.flush().await, Ok(()), "by a barrier");
                assert_eq!(disk.flush().await, Ok(()), "by a barrier at once");
                assert_eq!(disk.discard(0, 8, false).await, Err(Error::Unsupported("discard")));
                assert_eq!(disk.geometry().discard, None);
                assert_eq!(read(disk).await, Ok(()));
            },
        );
        assert_eq!(error, None);
    });
}

/// A guest that is restored while requests are in flight does not wait for a backend that is not there.
#[test]
fn a_restore_does_not_wait_for_the_old_backend() {
    for in_flight in [1, 40] {
        check("restore in flight", 10, |xen| {
            let toolstack = xen.toolstack();
            let (front, back) = (xen.domain(), xen.domain());
            let (front_store, back_store) = (front.store(), back.store());
            let paths = Toolstack::paths("vbd", front.id(), back.id(), DEVICE);
            let start_backend = {
                let (back, path) = (back.clone(), paths.1.clone());
                move |answers: bool| {
                    let (store, domain, path) = (back_store.clone(), back.clone(), path.clone());
                    back.spawn(async move {
                        let run = async move |served: &Served| {
                            loop {
                                let request = served.request().await;
                                if answers {
                                    served.answer(okay(&request));
                                }
                            }
                        };
                        let mut driver = BadBackend { domain: domain.clone(), nodes: vec![], run: script(run) };
                        drop(backend(&store, &domain, &path, &mut driver).await);
                    })
                }
            };
            let dom0 = xen.dom0();
            xen.run(async move {
                let attach = async || {
                    toolstack.attach_with("vbd", front.id(), back.id(), DEVICE, &[("mode", "w")]).await.unwrap();
                };
                attach().await;
                // The old host's backend has the requests when the guest is saved.
                let driver = start_backend(false);
                let device = format!("device/vbd/{DEVICE}");
                let options = front::Options::default();
                let (disk, runner) = front::connect(&front_store, front.clone(), &device, options);
                front.spawn(async move { drop(runner.await) }).detach();
                disk.ready().await.unwrap();
                let reading = join_all((0..in_flight).map(|_| {
                    let disk = disk.clone();
                    front.spawn(async move { read(&disk).await })
                }));
                dom0.sleep(Duration::from_millis(10)).await;
                let quiet = front_store.quiesce().await.unwrap();
                driver.cancel().await;
                toolstack.store().remove(&paths.1).await.unwrap();
                toolstack.store().remove(&paths.0).await.unwrap();
                attach().await;
                let driver = start_backend(true);
                front.suspend_and_restore();
                let start = dom0.now();
                quiet.resume(Restart::New);
                assert!(reading.await.into_iter().all(|outcome| outcome == Ok(())));
                let took = dom0.now() - start;
                driver.cancel().await;
                assert!(took < Duration::from_secs(1), "the requests were made again after {took:?}");
            });
        });
    }
}

/// A backend that closes in an orderly way may still answer what it was asked; one that has ended, begun anew or gone
/// away does not, and nobody waits for it, not even where it goes away while it closes.
#[test]
fn requests_in_flight_are_waited_for_as_long_as_the_backend_is_there() {
    for (state, then_gone, expected) in [
        // It answers after a second.
        (State::Closing, false, 1000..1300),
        (State::Closing, true, 100..300),
        (State::Closed, false, 0..200),
        (State::Initialising, false, 0..200),
    ] {
        check("closing", 10, |xen| {
            let taken = Rc::new(Cell::new(None));
            let closed_after = taken.clone();
            against_frontend(
                xen,
                async move |served| {
                    let request = served.request().await;
                    // The next life is an ordinary one.
                    if closed_after.get().is_some() {
                        return served.answer(okay(&request));
                    }
                    let ends = |millis| served.domain.now() + Duration::from_millis(millis);
                    let (start, gone, answer) = (ends(0), then_gone.then(|| ends(100)), ends(1000));
                    let mut due = [gone, Some(answer)];
                    served.store.set(&format!("{}/state", served.path), &state).await.unwrap();
                    let front = format!("{}/state", Toolstack::paths("vbd", served.peer, DomId(0), DEVICE).0);
                    while served.store.get(&front).await.unwrap() == Some(State::Connected) {
                        let now = served.domain.now();
                        if due[0].take_if(|due| *due <= now).is_some() {
                            served.store.remove(&served.path).await.unwrap();
                        }
                        if due[1].take_if(|due| *due <= now).is_some() {
                            served.answer(okay(&request));
                        }
                        served.domain.sleep(Duration::from_millis(1)).await;
                    }
                    closed_after.set(Some((served.domain.now() - start).as_millis()));
                },
                async |disk| {
                    let _ = read(disk).await;
                },
            );
            let took = taken.get().expect("the frontend closes");
            assert!(expected.contains(&took), "{state}, then gone: {then_gone}: the frontend closes after {took} ms");
        });
    }
}
