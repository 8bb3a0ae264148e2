//! The frontend against a backend that does what it has to.

mod support;

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join, join_all, poll_immediate};
use xen_9pfs::front::{Attach, Error, MAX_REQUESTS};
use xen_9pfs::protocol::{Message, NOFID, NONUNAME, VERSION};
use xen_hal::{Clock, Errno};
use xen_sim::{Faults, check};
use xenbus::EndReason;

use support::{QID, Served, against_frontend, bench};

/// Either end comes first.
#[test]
fn a_share_is_connected_to_whoever_comes_first() {
    check("order", 100, |xen| {
        let bench = bench(xen);
        let (used, order, pause) = (bench.clone(), xen.random(3), xen.random(5));
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
            let (share, ended) = used.connect();
            used.pause(pause).await;
            let serving = serving.unwrap_or_else(|| used.serve(async |served: &Served| served.serve().await));
            assert_eq!(share.version().await, Ok(32 << 10));
            assert_eq!((share.msize(), share.tag().as_deref()), (Some(32 << 10), Some("files")));
            assert_eq!(share.attach(7, Attach::default()).await, Ok(QID));
            let statistics = share.statistics();
            assert_eq!((statistics.requests, statistics.failures, statistics.connections), (2, 0, 1));
            assert!(used.detach().await);
            assert_eq!(ended.await, EndReason::Removed);
            serving.await;
            assert_eq!(share.attach(8, Attach::default()).await, Err(Error::Gone));
        });
        bench.check_no_leak(xen);
    });
}

#[test]
fn what_is_asked_is_what_the_server_reads() {
    check("fields", 10, |xen| {
        let error = against_frontend(
            xen,
            async |served| {
                served.serve_version().await;
                for (user, tree, number) in [("", "", NONUNAME), ("root", "/srv", 0)] {
                    let (header, body) = served.request().await;
                    let expected = Message::Tattach { fid: 3, afid: NOFID, uname: user, aname: tree, n_uname: number };
                    assert_eq!(Message::decode(header.kind, &body), Ok(expected));
                    served.answer(header.tag, Message::Rattach { qid: QID }).await;
                }
            },
            async |share| {
                share.version().await.unwrap();
                assert_eq!(share.attach(3, Attach::default()).await, Ok(QID));
                let attach = Attach::default().with_user("root", 0).with_aname("/srv");
                assert_eq!(share.attach(3, attach).await, Ok(QID));
            },
        );
        assert_eq!(error, None);
    });
}

#[test]
fn what_a_server_refuses_is_an_error_value() {
    check("refusals", 10, |xen| {
        let error = against_frontend(
            xen,
            async |served| {
                for answer in [
                    Message::Rversion { msize: 32 << 10, version: "9P2000.u" },
                    Message::Rversion { msize: 32 << 10, version: "unknown" },
                    Message::Rversion { msize: 4095, version: VERSION },
                    Message::Rlerror { ecode: 90 },
                    Message::Rversion { msize: 4096, version: VERSION },
                    Message::Rlerror { ecode: 2 },
                    Message::Rlerror { ecode: u32::MAX },
                    Message::Rattach { qid: QID },
                ] {
                    let (header, _) = served.request().await;
                    served.answer(header.tag, answer).await;
                }
            },
            async |share| {
                let attach = Attach::default();
                assert_eq!(share.attach(0, attach).await, Err(Error::NoVersion));
                assert_eq!(share.version().await, Err(Error::UnknownVersion));
                assert_eq!(share.version().await, Err(Error::UnknownVersion));
                assert_eq!(share.version().await, Err(Error::SmallMsize(4095)));
                assert_eq!(share.version().await, Err(Error::Refused(Errno::EMSGSIZE)));
                assert_eq!((share.msize(), share.attach(0, attach).await), (None, Err(Error::NoVersion)));
                assert_eq!(share.version().await, Ok(4096));
                assert_eq!(share.attach(0, attach).await, Err(Error::Refused(Errno::ENOENT)));
                assert_eq!(share.attach(0, attach).await, Err(Error::Refused(Errno::Other(-1))));
                for long in ["n".repeat(4096), "n".repeat(1 << 16)] {
                    let refused = share.attach(0, attach.with_aname(&long)).await;
                    assert_eq!(refused, Err(Error::TooLong { msize: 4096 }));
                }
                assert_eq!(share.attach(0, attach).await, Ok(QID));
            },
        );
        assert_eq!(error, None);
    });
}

/// As many as there are tags, answered in any order; the others come after them, and a new session comes alone.
#[test]
fn several_requests_are_in_flight() {
    check("in flight", 50, |xen| {
        let most = Rc::new(Cell::new(0));
        let seen = most.clone();
        let machine = xen.clone();
        let error = against_frontend(
            xen,
            async move |served| {
                let mut waiting = Vec::new();
                served.serve_version().await;
                for left in (0..20).rev() {
                    let (header, body) = served.request().await;
                    let Ok(Message::Tattach { fid, .. }) = Message::decode(header.kind, &body) else { panic!() };
                    assert!(waiting.iter().all(|(tag, _)| *tag != header.tag), "a tag is used twice");
                    waiting.push((header.tag, fid));
                    seen.set(waiting.len().max(seen.get()));
                    while waiting.len() == MAX_REQUESTS || left == 0 && !waiting.is_empty() {
                        let (tag, fid) = waiting.swap_remove(machine.random(waiting.len() as u64) as usize);
                        let qid = xen_9pfs::protocol::Qid { path: fid.into(), ..QID };
                        served.answer(tag, Message::Rattach { qid }).await;
                    }
                }
                let mut waiting = Vec::new();
                for _ in 0..MAX_REQUESTS {
                    waiting.push(served.request().await.0.tag);
                }
                served.domain.sleep(Duration::from_millis(1)).await;
                let unread = served.requests.borrow_mut().read(&served.memory, &mut [0]).unwrap();
                assert_eq!(unread.bytes, 0, "a session begins when all others have their answers");
                for tag in waiting {
                    served.answer(tag, Message::Rattach { qid: QID }).await;
                }
                served.serve_version().await;
                served.serve().await;
            },
            async |share| {
                // The ring has room for three.
                let tree = "n".repeat(10_000);
                let attach = |fid| share.attach(fid, Attach::default().with_aname(&tree));
                share.version().await.unwrap();
                let qids = join_all((0..20).map(attach)).await;
                assert!((0..20).zip(qids).all(|(fid, qid)| qid.unwrap().path == fid));
                let (attached, version) = join(join_all((0..20).map(attach)), share.version()).await;
                assert!(attached.iter().all(|outcome| *outcome == Ok(QID)));
                assert_eq!(version, Ok(32 << 10));
            },
        );
        assert_eq!((error, most.get()), (None, MAX_REQUESTS));
    });
}

/// Requests that are given up: the answers come to nobody, and no tag is used again before.
#[test]
fn an_abandoned_request_keeps_its_tag_until_the_answer() {
    check("abandoned", 50, |xen| {
        let (go, asked) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(Vec::new())));
        let (answers, tags, clock) = (go.clone(), asked.clone(), xen.dom0());
        let error = against_frontend(
            xen,
            async move |served| {
                served.serve_version().await;
                for _ in 0..MAX_REQUESTS {
                    let (header, _) = served.request().await;
                    tags.borrow_mut().push(header.tag);
                }
                while !answers.get() {
                    served.domain.sleep(Duration::from_millis(1)).await;
                }
                let unread = served.requests.borrow_mut().read(&served.memory, &mut [0]).unwrap();
                assert_eq!(unread.bytes, 0, "there is no tag for another request");
                for tag in tags.take() {
                    served.answer(tag, Message::Rlerror { ecode: 5 }).await;
                }
                served.serve().await;
            },
            async move |share| {
                share.version().await.unwrap();
                for fid in 0..MAX_REQUESTS as u32 {
                    let mut attach = pin!(share.attach(fid, Attach::default()));
                    assert!(poll_immediate(&mut attach).await.is_none());
                    while asked.borrow().len() <= fid as usize {
                        assert!(poll_immediate(&mut attach).await.is_none());
                        clock.sleep(Duration::from_micros(100)).await;
                    }
                }
                let mut next = pin!(share.attach(9, Attach::default()));
                let mut given_up = Box::pin(share.version());
                assert!(poll_immediate(&mut next).await.is_none() && poll_immediate(&mut given_up).await.is_none());
                drop(given_up);
                go.set(true);
                assert_eq!(next.await, Ok(QID));
            },
        );
        assert_eq!(error, None);
    });
}

/// A backend that is started again knows no session: who waits is told, and a new session works.
#[test]
fn a_backend_that_comes_back_has_no_session() {
    check("reconnection", 50, |xen| {
        let bench = bench(xen);
        let (used, orderly) = (bench.clone(), xen.random(2) == 0);
        xen.run(async move {
            used.attach().await;
            let first = used.serve(async |served: &Served| {
                served.serve_version().await;
                served.request().await;
            });
            let (share, ended) = used.connect();
            assert_eq!(share.version().await, Ok(32 << 10));
            let (waiting, front) = (share.clone(), used.front.clone());
            let waiting = front.spawn(async move { waiting.attach(0, Attach::default()).await });
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
            assert_eq!((share.msize(), share.attach(0, Attach::default()).await), (None, Err(Error::NoVersion)));
            assert_eq!(share.version().await, Ok(32 << 10));
            assert_eq!(share.attach(0, Attach::default()).await, Ok(QID));
            assert_eq!(share.statistics().connections, 2);
            // The last handle ends the driver, whatever is still asked.
            drop(share);
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
                    served.serve_version().await;
                    std::future::pending().await
                })
            });
            let (share, ended) = used.connect();
            if served {
                share.version().await.unwrap();
            }
            let user = share.clone();
            let attached =
                used.front.spawn(async move { join_all((0..20).map(|fid| user.attach(fid, Attach::default()))).await });
            used.pause(10).await;
            if removed {
                used.detach().await;
                assert_eq!(ended.await, EndReason::Removed);
            } else {
                drop(ended);
            }
            for outcome in attached.await {
                assert!(matches!(outcome, Err(Error::Gone | Error::Disconnected)), "{outcome:?}");
            }
            assert_eq!(share.version().await, Err(Error::Gone));
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
            store_delay: Duration::from_micros(xen.random(3000)),
        });
        let (used, machine) = (bench.clone(), xen.clone());
        xen.run(async move {
            for _ in 0..1 + machine.random(3) {
                used.attach().await;
                let (share, ended) = used.connect();
                let mut users = Vec::new();
                for fid in 0..machine.random(12) as u32 {
                    let share = share.clone();
                    users.push(used.front.spawn(async move {
                        let _ = share.version().await;
                        while share.attach(fid, Attach::default()).await != Err(Error::Gone) {}
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
