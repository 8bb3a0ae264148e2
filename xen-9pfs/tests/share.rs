//! The frontend against a backend that does what it has to.

mod support;

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join_all, poll_immediate};
use xen_9pfs::front::{Dialect, Error, MAX_REQUESTS, Options, Share};
use xen_9pfs::protocol::{Kind, Message, NOFID, NONUNAME, VERSION, VERSION_U};
use xen_hal::{Clock, Errno};
use xen_sim::{Faults, check};
use xenbus::EndReason;

use support::{Files, QID, Served, against_frontend, bench};

/// Either end comes first.
#[test]
fn a_share_is_connected_to_whoever_comes_first() {
    check("order", 100, |xen| {
        let bench = bench(xen);
        let (used, order, pause) = (bench.clone(), xen.random(3), xen.random(5));
        let rings = 1 + xen.random(4) as u8;
        xen.run(async move {
            if order > 0 {
                used.attach().await;
            }
            let mut serving = None;
            if order > 1 {
                serving = Some(used.serve(async |served: &Served| served.serve().await));
                used.pause(pause).await;
            }
            if order == 0 {
                used.attach().await;
            }
            let (share, ended) = used.connect_with(Options::default().with_max_rings(rings));
            used.pause(pause).await;
            let serving = serving.unwrap_or_else(|| used.serve(async |served: &Served| served.serve().await));
            let session = share.ready().await.unwrap();
            assert_eq!((session.number, session.dialect, session.msize), (1, Dialect::Linux, 32 << 10));
            assert_eq!(share.tag().as_deref(), Some("files"));
            assert_eq!(share.root().read("file", 100).await.unwrap(), b"what it has");
            let statistics = share.statistics();
            assert_eq!((statistics.failures, statistics.connections), (0, 1));
            assert!(used.detach().await);
            assert_eq!(ended.await, EndReason::Removed);
            serving.await;
            assert_eq!(share.root().exists("file").await, Err(Error::Gone));
        });
        bench.check_no_leak(xen);
    });
}

#[test]
fn what_is_asked_is_what_the_server_reads() {
    check("fields", 10, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            used.attach().await;
            for (user, tree, number) in [("", "", NONUNAME), ("root", "/srv", 0)] {
                let serving = used.serve(async move |served: &Served| {
                    let (_, body) = served.request().await;
                    let version = Message::Tversion { msize: 32 << 10, version: VERSION };
                    assert_eq!(Message::decode(Kind::TVERSION, &body), Ok(version));
                    served.answer(!0, Message::Rversion { msize: 32 << 10, version: VERSION }).await;
                    let (header, body) = served.request().await;
                    let expected = Message::Tattach { fid: 0, afid: NOFID, uname: user, aname: tree, n_uname: number };
                    assert_eq!(Message::decode(header.kind, &body), Ok(expected));
                    served.answer(header.tag, Message::Rattach { qid: QID }).await;
                    // The last user gives back what the session has begun with.
                    let (header, body) = served.request().await;
                    assert_eq!(Message::decode(header.kind, &body), Ok(Message::Tclunk { fid: 0 }));
                    served.answer(header.tag, Message::Rclunk {}).await;
                });
                let (share, ended) = used.connect_with(Options::default().with_user(user, number).with_aname(tree));
                share.ready().await.unwrap();
                drop(share);
                assert_eq!(ended.await, EndReason::Stopped);
                drop(serving);
                used.detach().await;
                used.attach().await;
            }
            used.detach().await;
        });
        bench.check_no_leak(xen);
    });
}

/// What a server says of a session, and what the user is told.
#[test]
fn a_session_that_a_server_refuses_is_an_error_value() {
    let unknown = Message::Rversion { msize: 32 << 10, version: "unknown" };
    let version = Message::Rversion { msize: 4096, version: VERSION };
    for (answers, expected) in [
        (vec![unknown, unknown], Error::UnknownVersion),
        (vec![unknown, Message::Rversion { msize: 4096, version: VERSION }], Error::UnknownVersion),
        (vec![Message::Rversion { msize: 4095, version: VERSION }], Error::SmallMsize(4095)),
        (vec![unknown, Message::Rversion { msize: 2048, version: VERSION_U }], Error::SmallMsize(2048)),
        (vec![Message::Rlerror { ecode: 90 }], Error::Refused(Errno::EMSGSIZE)),
        (vec![version, Message::Rlerror { ecode: 13 }], Error::Refused(Errno::EACCES)),
        (vec![version, Message::Rlerror { ecode: 0 }], Error::Refused(Errno::EIO)),
        (vec![version, Message::Rlerror { ecode: u32::MAX }], Error::Refused(Errno::Other(-1))),
    ] {
        check("refusals", 5, |xen| {
            let answers = answers.clone();
            let error = against_frontend(
                xen,
                async move |served| {
                    for answer in &answers {
                        let (header, _) = served.request().await;
                        served.answer(header.tag, *answer).await;
                    }
                },
                async move |share: &Share| {
                    assert_eq!(share.ready().await, Err(expected));
                    assert_eq!(share.root().exists("a").await, Err(expected));
                    assert_eq!(share.session(), None);
                },
            );
            assert_eq!(error, None);
        });
    }
}

/// As many as there are tags, answered in any order; the others come after them.
#[test]
fn several_requests_are_in_flight() {
    check("in flight", 50, |xen| {
        let most = Rc::new(Cell::new(0));
        let (seen, machine) = (most.clone(), xen.clone());
        let error = against_frontend(
            xen,
            async move |served| {
                served.serve_session(u32::MAX).await;
                let mut waiting: Vec<(u16, Message<'static>)> = Vec::new();
                let mut walks = 20;
                loop {
                    let (header, body) = served.request().await;
                    let answer = match Message::decode(header.kind, &body).unwrap() {
                        Message::Twalk { .. } => {
                            walks -= 1;
                            Message::Rlerror { ecode: 5 }
                        }
                        other => panic!("{other:?}"),
                    };
                    assert!(waiting.iter().all(|(tag, _)| *tag != header.tag), "a tag is used twice");
                    waiting.push((header.tag, answer));
                    seen.set(waiting.len().max(seen.get()));
                    while waiting.len() == MAX_REQUESTS || walks == 0 && !waiting.is_empty() {
                        let (tag, answer) = waiting.swap_remove(machine.random(waiting.len() as u64) as usize);
                        served.answer(tag, answer).await;
                    }
                }
            },
            async |share| {
                // The ring has room for three.
                let name = "n".repeat(10_000);
                let root = share.root();
                let outcomes = join_all((0..20).map(|_| root.exists(&name))).await;
                assert!(outcomes.iter().all(|outcome| *outcome == Err(Error::Refused(Errno::EIO))));
            },
        );
        assert_eq!((error, most.get()), (None, MAX_REQUESTS));
    });
}

/// A long read has its pieces in flight together, and so has a long write.
#[test]
fn long_reads_and_writes_are_pipelined() {
    check("pipeline", 20, |xen| {
        let most = Rc::new(Cell::new(0));
        let seen = most.clone();
        let error = against_frontend(
            xen,
            async move |served| {
                let files = RefCell::new(Files::new(Dialect::Linux));
                files.borrow_mut().max_msize = 4096;
                files.borrow_mut().put("long", support::files::Node::File(vec![7; 100_000]));
                let mut answers = Vec::new();
                loop {
                    let (header, body) = served.request().await;
                    let message = Message::decode(header.kind, &body).unwrap();
                    let is_piece = matches!(message.kind(), Kind::TREAD | Kind::TWRITE);
                    answers.push(files.borrow_mut().answer(header.tag, &message));
                    // Answers wait as long as there may come more.
                    let clock = &served.domain;
                    if is_piece && answers.len() < MAX_REQUESTS {
                        clock.sleep(Duration::from_micros(500)).await;
                        if served.memory.load(served.ring.producer) != served.taken.get() {
                            continue;
                        }
                    }
                    seen.set(answers.len().max(seen.get()));
                    for answer in answers.drain(..) {
                        served.write(&answer).await;
                    }
                }
            },
            async |share| {
                let root = share.root();
                let file = root.open("long").await.unwrap();
                let mut bytes = vec![0; 120_000];
                assert_eq!(file.read_at(0, &mut bytes).await, Ok(100_000));
                assert!(bytes[..100_000].iter().all(|byte| *byte == 7));
                let copy = root.create("copy").await.unwrap();
                copy.write_all_at(0, &bytes).await.unwrap();
                assert_eq!(root.read("copy", 200_000).await.unwrap(), bytes);
            },
        );
        assert_eq!((error, most.get()), (None, MAX_REQUESTS));
    });
}

/// Requests that are given up: the answers come to nobody, no tag is used again before, and a fid that was made is given
/// back.
#[test]
fn an_abandoned_request_keeps_its_tag_until_the_answer() {
    check("abandoned", 50, |xen| {
        let (go, asked) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(Vec::new())));
        let (answers, walks, clock) = (go.clone(), asked.clone(), xen.dom0());
        let left = Rc::new(Cell::new(usize::MAX));
        let seen = left.clone();
        let error = against_frontend(
            xen,
            async move |served| {
                let files = RefCell::new(Files::new(Dialect::Linux));
                files.borrow_mut().put("file", support::files::Node::File(Vec::new()));
                served.serve_one(&files).await;
                served.serve_one(&files).await;
                for _ in 0..MAX_REQUESTS {
                    let walk = served.request().await;
                    walks.borrow_mut().push(walk);
                }
                while !answers.get() {
                    served.domain.sleep(Duration::from_millis(1)).await;
                }
                let unread = served.requests.borrow_mut().read(&served.memory, &mut [0]).unwrap();
                assert_eq!(unread.bytes, 0, "there is no tag for another request");
                for (header, body) in walks.take() {
                    let message = Message::decode(header.kind, &body).unwrap();
                    let answer = files.borrow_mut().answer(header.tag, &message);
                    served.write(&answer).await;
                }
                loop {
                    served.serve_one(&files).await;
                    seen.set(files.borrow().fids());
                }
            },
            async move |share| {
                let root = share.root();
                share.ready().await.unwrap();
                for index in 0..MAX_REQUESTS {
                    let mut open = pin!(root.open("file"));
                    assert!(poll_immediate(&mut open).await.is_none());
                    while asked.borrow().len() <= index {
                        assert!(poll_immediate(&mut open).await.is_none());
                        clock.sleep(Duration::from_micros(100)).await;
                    }
                }
                let mut next = Box::pin(root.exists("file"));
                assert!(poll_immediate(&mut next).await.is_none());
                go.set(true);
                assert_eq!(next.await, Ok(true));
                clock.sleep(Duration::from_millis(20)).await;
            },
        );
        assert_eq!((error, left.get()), (None, 1), "fids are left besides the root's");
    });
}

/// A backend that is started again knows no session: who waits is told, files of before are gone, and new ones work.
#[test]
fn a_backend_that_comes_back_has_no_session() {
    check("reconnection", 50, |xen| {
        let bench = bench(xen);
        let (used, orderly) = (bench.clone(), xen.random(2) == 0);
        xen.run(async move {
            used.attach().await;
            let first = used.serve(async |served: &Served| {
                let files = RefCell::new(Files::new(Dialect::Linux));
                files.borrow_mut().put("file", support::files::Node::File(Vec::new()));
                // Version, attach, walk, open.
                for _ in 0..4 {
                    served.serve_one(&files).await;
                }
                served.request().await;
            });
            let (share, ended) = used.connect();
            let file = share.root().open("file").await.unwrap();
            let (waiting, front) = (share.clone(), used.front.clone());
            let waiting = front.spawn(async move { waiting.root().exists("file").await });
            used.pause(10).await;
            if orderly {
                // It waits for an answer that does not come.
                let paths = xen_sim::Toolstack::paths("9pfs", used.front.id(), used.back.id(), support::DEVICE);
                used.toolstack.store().set(&format!("{}/state", paths.1), &5_u32).await.unwrap();
                used.pause(100).await;
            }
            drop(first);
            let again = used.serve(async |served: &Served| served.serve().await);
            assert_eq!(waiting.await, Err(Error::Disconnected));
            assert_eq!(share.root().read("file", 100).await.unwrap(), b"what it has");
            assert_eq!(file.metadata().await, Err(Error::Stale));
            assert_eq!(file.read_at(0, &mut [0]).await, Err(Error::Stale));
            assert_eq!((share.statistics().connections, share.session().unwrap().number), (2, 2));
            // The last handle ends the driver; a file is one.
            drop(share);
            let mut ended = pin!(ended);
            assert!(poll_immediate(&mut ended).await.is_none());
            drop(file);
            assert_eq!(ended.await, EndReason::Stopped);
            assert!(used.detach().await);
            again.await;
        });
        bench.check_no_leak(xen);
    });
}

/// The device is removed, or its driver dropped, while requests wait: those that are sent, and those for which there is
/// no tag.
#[test]
fn who_waits_is_told_of_the_end() {
    check("removal", 50, |xen| {
        let bench = bench(xen);
        let (used, removed, served) = (bench.clone(), xen.random(2) == 0, xen.random(2) == 0);
        xen.run(async move {
            used.attach().await;
            let serving = served.then(|| {
                used.serve(async |served: &Served| {
                    served.serve_session(u32::MAX).await;
                    std::future::pending().await
                })
            });
            let (share, ended) = used.connect();
            if served {
                share.ready().await.unwrap();
            }
            let user = share.clone();
            let looking = used.front.spawn(async move {
                let root = user.root();
                join_all((0..20).map(|_| root.exists("a"))).await
            });
            used.pause(10).await;
            if removed {
                used.detach().await;
                assert_eq!(ended.await, EndReason::Removed);
            } else {
                drop(ended);
            }
            for outcome in looking.await {
                assert!(matches!(outcome, Err(Error::Gone | Error::Disconnected | Error::Stale)), "{outcome:?}");
            }
            assert_eq!(share.ready().await, Err(Error::Gone));
            used.detach().await;
            drop(serving);
        });
        bench.check_no_leak(xen);
    });
}

/// The toolstack attaches and detaches, backends come and go, and the machine refuses what it can.
#[test]
fn cve_2026_43249_no_order_of_events_leaks_or_hangs() {
    check("races", 1000, |xen| {
        let bench = bench(xen);
        let refused = if xen.random(2) == 0 { 15 } else { 0 };
        xen.set_faults(Faults {
            eagain: 10,
            spurious_events: 5,
            reorder: 20,
            grants: refused,
            maps: refused,
            ports: refused,
            reservation: 0,
            store_delay: Duration::from_micros(xen.random(3000)),
        });
        let (used, machine) = (bench.clone(), xen.clone());
        xen.run(async move {
            for _ in 0..1 + machine.random(3) {
                used.attach().await;
                let rings = 1 + machine.random(3) as u8;
                let (share, ended) = used.connect_with(Options::default().with_max_rings(rings));
                let mut users = Vec::new();
                for _ in 0..machine.random(12) {
                    let share = share.clone();
                    users.push(used.front.spawn(async move {
                        while share.root().read("file", 100).await != Err(Error::Gone) {
                            xenbus::yield_now().await;
                        }
                    }));
                }
                for _ in 0..machine.random(3) {
                    let serving = used.serve(async |served: &Served| served.serve().await);
                    used.dom0.sleep(Duration::from_micros(machine.random(20_000))).await;
                    let doomed = machine.random(users.len() as u64 + 1) as usize;
                    users.truncate(doomed);
                    drop(serving);
                }
                drop(share);
                used.detach().await;
                ended.await;
            }
        });
        xen.set_faults(Faults::default());
        bench.check_no_leak(xen);
    });
}
