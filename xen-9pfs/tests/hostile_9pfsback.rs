//! Backends that do what they may not, against the frontend. Each test that stands for a security advisory names it.

mod support;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{LocalBoxFuture, join_all, select};
use xen_9pfs::front::{Changes, Error, MAX_REQUESTS, OpenOptions, Share};
use xen_9pfs::protocol::{Data, DirEntry, Header, Kind, Message, NOTAG, Qid, Qids, Stat, Text, VERSION, VERSION_U};
use xen_hal::{Clock, Port};
use xen_sim::{check, keep_log, take_log};

use support::{NODES, QID, Served, against_frontend, against_frontend_with};

async fn session(share: &Share) -> Result<(), Error> {
    share.root().exists("a").await.map(drop)
}

/// A message with any body.
fn bytes(kind: Kind, tag: u16, body: &[u8]) -> Vec<u8> {
    let header = Header { size: 7 + body.len() as u32, kind, tag };
    [&header.to_bytes()[..], body].concat()
}

#[test]
fn xsa_376_a_backends_answers_are_checked() {
    let walked = Message::Rwalk { qids: Qids::of(&[0; 13]) }.encode(0, 100).unwrap();
    let sized = |size: u32| Header { size, kind: Kind::RWALK, tag: 0 }.to_bytes().to_vec();
    // To a walk of one name with tag 0, in a session of 8192 bytes.
    for (answer, expected) in [
        (sized(6), "answer of 6 bytes: expected 7 to 8192"),
        (sized(0), "answer of 0 bytes: expected 7 to 8192"),
        (sized(8193), "answer of 8193 bytes: expected 7 to 8192"),
        (sized(u32::MAX), "answer of 4294967295 bytes: expected 7 to 8192"),
        (bytes(Kind::RWALK, 1, &[0; 13]), "Rwalk with tag 1, which no request has"),
        (bytes(Kind::RATTACH, MAX_REQUESTS as u16, &[0; 13]), "Rattach with tag 8, which no request has"),
        (bytes(Kind::RCLUNK, MAX_REQUESTS as u16 + 1, &[]), "Rclunk with tag 9, which no request has"),
        (bytes(Kind::RCLUNK, MAX_REQUESTS as u16 + 5, &[]), "Rclunk with tag 13, which no request has"),
        (bytes(Kind::RVERSION, NOTAG, &[0; 13]), "Rversion with tag 65535, which no request has"),
        (bytes(Kind(77), 9, &[]), "Runlinkat with tag 9, which no request has"),
        (bytes(Kind(78), 9, &[]), "type 78 with tag 9, which no request has"),
        (bytes(Kind::RVERSION, 0, &[0; 6]), "answer to Twalk has wrong type (Rversion instead of Rwalk)"),
        (bytes(Kind::TWALK, 0, &[0; 6]), "answer to Twalk has wrong type (Twalk instead of Rwalk)"),
        (bytes(Kind::RERROR, 0, &[0; 6]), "answer to Twalk has wrong type (Rerror instead of Rwalk)"),
        (bytes(Kind(255), 0, &[]), "answer to Twalk has wrong type (type 255 instead of Rwalk)"),
        (bytes(Kind::RWALK, 0, &[1, 0, 9]), "Rwalk of 10 bytes: too short"),
        (bytes(Kind::RWALK, 0, &[0; 14]), "Rwalk of 21 bytes: too long"),
        (bytes(Kind::RWALK, 0, &[&[2, 0][..], &[0; 26]].concat()), "Rwalk: 2 qids: expected 1 at most"),
        (bytes(Kind::RWALK, 0, &[&[255, 255][..], &[0; 26]].concat()), "Rwalk of 35 bytes: too short"),
        (bytes(Kind::RLERROR, 0, &[0; 3]), "Rlerror of 10 bytes: too short"),
        ([&walked[..], &walked].concat(), "Rwalk with tag 0, which no request has"),
    ] {
        check("answers", 10, |xen| {
            let answer = answer.clone();
            let error = against_frontend(
                xen,
                async move |served| {
                    served.serve_session(8192).await;
                    assert_eq!(served.request().await.0.tag, 0);
                    served.write(&answer).await;
                },
                async |share| {
                    // The second of two answers in one piece may come after its user has gone on.
                    let _ = session(share).await;
                    assert!(matches!(session(share).await, Err(Error::Gone)));
                },
            );
            assert_eq!(error, Some(format!("5 {expected}")));
        });
    }
}

/// Walks and opens are answered well, and what comes next with `answer`. Returns what the frontend's error node holds.
fn answered(
    xen: &xen_sim::Xen,
    version: &'static str,
    answer: Vec<u8>,
    user: impl for<'s> Fn(&'s Share) -> LocalBoxFuture<'s, ()> + 'static,
) -> Option<String> {
    against_frontend(
        xen,
        async move |served| {
            loop {
                let (header, body) = served.request().await;
                let file = Qid { kind: 0, ..QID };
                let qids = [0_u8; 13 * 16];
                match Message::decode(header.kind, &body).unwrap() {
                    Message::Tversion { version: asked, .. } => {
                        let version = if asked == version { version } else { "unknown" };
                        served.answer(header.tag, Message::Rversion { msize: 8192, version }).await;
                    }
                    Message::Tattach { .. } => served.answer(header.tag, Message::Rattach { qid: QID }).await,
                    Message::Twalk { names, .. } => {
                        served.answer(header.tag, Message::Rwalk { qids: Qids::of(&qids[..13 * names.len()]) }).await;
                    }
                    Message::Tlopen { .. } => {
                        served.answer(header.tag, Message::Rlopen { qid: QID, iounit: u32::MAX }).await;
                    }
                    Message::Topen { .. } => served.answer(header.tag, Message::Ropen { qid: QID, iounit: 1 }).await,
                    Message::Tlcreate { .. } => {
                        served.answer(header.tag, Message::Rlcreate { qid: file, iounit: 100 }).await;
                    }
                    Message::Tclunk { .. } => served.answer(header.tag, Message::Rclunk {}).await,
                    _ => {
                        let mut bytes = answer.clone();
                        bytes[5..7].copy_from_slice(&header.tag.to_le_bytes());
                        served.write(&bytes).await;
                    }
                }
            }
        },
        async move |share: &Share| user(share).await,
    )
}

/// Counts and lengths beyond what was asked for end the device.
#[test]
fn xsa_376_more_than_was_asked_for() {
    let data =
        |kind: Kind, len: u32, bytes_of: usize| bytes(kind, 0, &[&len.to_le_bytes()[..], &vec![1; bytes_of]].concat());
    for (answer, expected) in [
        (data(Kind::RREAD, 101, 101), "Rread: 101 bytes: expected 100 at most"),
        (data(Kind::RREAD, u32::MAX, 5), "Rread of 16 bytes: too short"),
        (data(Kind::RREAD, 4, 5), "Rread of 16 bytes: too long"),
        (bytes(Kind::RWRITE, 0, &[4; 4]), "answer to Tread has wrong type (Rwrite instead of Rread)"),
    ] {
        check("reads", 5, |xen| {
            let error = answered(xen, VERSION, answer.clone(), |share| {
                Box::pin(async move {
                    let file = share.root().open("a").await.unwrap();
                    assert_eq!(file.read_at(0, &mut [0; 100]).await, Err(Error::Gone));
                })
            });
            assert_eq!(error, Some(format!("5 {expected}")));
        });
    }
    check("writes", 5, |xen| {
        let error = answered(xen, VERSION, bytes(Kind::RWRITE, 0, &101_u32.to_le_bytes()), |share| {
            Box::pin(async move {
                let file = share.root().open_with("a", &OpenOptions::new().write()).await.unwrap();
                assert_eq!(file.write_at(0, &[0; 100]).await, Err(Error::Gone));
            })
        });
        assert_eq!(error.as_deref(), Some("5 Rwrite: 101 bytes written: expected 100 at most"));
    });
    check("nothing written", 5, |xen| {
        let error = answered(xen, VERSION, bytes(Kind::RWRITE, 0, &[0; 4]), |share| {
            Box::pin(async move {
                let file = share.root().open_with("a", &OpenOptions::new().write()).await.unwrap();
                assert_eq!(file.write_all_at(0, &[0; 100]).await, Err(Error::Garbage));
            })
        });
        assert_eq!(error, None);
    });
}

/// What other answers there are, each cut and with a byte more.
#[test]
fn xsa_376_answers_that_are_not_whole() {
    type Ask = fn(&Share) -> LocalBoxFuture<'_, Result<(), Error>>;
    let asks: [(Kind, usize, Ask); 7] = [
        (Kind::RGETATTR, 153, |share| Box::pin(async move { share.root().metadata("a").await.map(drop) })),
        (Kind::RSETATTR, 0, |share| Box::pin(async move { share.root().change("a", &Changes::new().size(0)).await })),
        (Kind::RREADLINK, 2, |share| Box::pin(async move { share.root().read_link("a").await.map(drop) })),
        (Kind::RMKDIR, 13, |share| Box::pin(async move { share.root().create_dir("a").await })),
        (Kind::RUNLINKAT, 0, |share| Box::pin(async move { share.root().remove_file("a").await })),
        (Kind::RRENAMEAT, 0, |share| Box::pin(async move { share.root().rename("a", "b").await })),
        (Kind::RSTATFS, 60, |share| Box::pin(async move { share.root().space().await.map(drop) })),
    ];
    for (kind, len, ask) in asks {
        for (size, ends) in [(len, false), (len + 1, true), (len.wrapping_sub(1), true)] {
            if size > 1000 {
                continue;
            }
            check("wholes", 3, |xen| {
                let error = answered(xen, VERSION, bytes(kind, 0, &vec![0; size]), move |share| {
                    Box::pin(async move {
                        let outcome = ask(share).await;
                        assert_eq!(outcome, if ends { Err(Error::Gone) } else { Ok(()) }, "{kind} of {size}");
                    })
                });
                assert_eq!(error.is_some(), ends, "{kind} of {size}: {error:?}");
            });
        }
    }
}

/// Entries of a directory that are none: its reader is told, and the device goes on.
#[test]
fn a_directory_of_garbage() {
    let entry = |name: &[u8]| {
        let mut bytes = Vec::new();
        DirEntry { qid: QID, offset: 1, kind: 0, name: Text(name) }.write(&mut bytes).unwrap();
        bytes
    };
    let stat = |name: &[u8]| {
        let mut bytes = Vec::new();
        Stat { qid: QID, name: Text(name), ..Stat::UNCHANGED }.write(&mut bytes).unwrap();
        bytes
    };
    let good = entry(b"good");
    for (version, data) in [
        (VERSION, entry(b"")),
        (VERSION, entry(b"a/b")),
        (VERSION, entry(b"/")),
        (VERSION, entry(b"a\0b")),
        (VERSION, good[..good.len() - 1].to_vec()),
        (VERSION, [&good[..], &[0; 23]].concat()),
        (VERSION, vec![0xff; 1000]),
        (VERSION_U, stat(b"a/b")),
        (VERSION_U, stat(b"")),
        (VERSION_U, stat(b"cut")[..40].to_vec()),
        (VERSION_U, vec![0xff; 1000]),
        (VERSION_U, vec![0; 1000]),
    ] {
        check("garbage", 3, |xen| {
            let answer = match version {
                VERSION => Message::Rreaddir { data: Data(&data) },
                _ => Message::Rread { data: Data(&data) },
            };
            let answer = answer.encode(0, 8192).unwrap();
            let error = answered(xen, version, answer, move |share| {
                Box::pin(async move {
                    let mut entries = share.root().read_dir("a").await.unwrap();
                    let outcome = loop {
                        match entries.next().await {
                            Ok(Some(entry)) => assert_eq!(&*entry.name, b"good"),
                            other => break other,
                        }
                    };
                    if version == VERSION_U && share.session().is_none() {
                        return;
                    }
                    assert_eq!(outcome, Err(Error::Garbage));
                })
            });
            // With an iounit of one byte all that has more is longer than what was asked for.
            assert!(error.is_none() || version == VERSION_U, "{error:?}");
        });
    }
}

#[test]
fn xsa_376_what_a_backend_says_of_a_session_is_checked() {
    for (answer, expected) in [
        (Message::Rversion { msize: 32769, version: VERSION }, "Rversion: msize = 32769: expected 32768 at most"),
        (Message::Rattach { qid: QID }, "answer to Tversion has wrong type (Rattach instead of Rversion)"),
        (Message::Rversion { msize: 8192, version: &"9".repeat(40_000) }, "answer of 40013 bytes: expected 7 to 32768"),
    ] {
        let answer = answer.encode(NOTAG, u32::MAX).unwrap();
        check("versions", 10, |xen| {
            let answer = answer.clone();
            let error = against_frontend(
                xen,
                async move |served| {
                    served.request().await;
                    served.write(&answer).await;
                },
                async |share| assert_eq!(share.ready().await, Err(Error::Gone)),
            );
            assert_eq!(error, Some(format!("5 {expected}")));
        });
    }
}

#[test]
fn xsa_376_a_ring_index_that_cannot_be_ends_the_device() {
    // `in_prod`, `out_cons`: beyond the ring, and backwards.
    for (offset, value) in [(4, 40_000), (4, u32::MAX), (64, 40_000), (64, 0x8000_0000)] {
        check("indices", 10, |xen| {
            let clock = xen.dom0();
            let error = against_frontend(
                xen,
                async move |served| {
                    served.serve_session(u32::MAX).await;
                    served.domain.sleep(Duration::from_millis(1)).await;
                    served.memory.store(offset, value);
                    served.port.notify();
                },
                async move |share| {
                    share.ready().await.unwrap();
                    clock.sleep(Duration::from_millis(2)).await;
                    let root = share.root();
                    let looked = join_all((0..4).map(|_| root.exists("a"))).await;
                    assert!(looked.iter().all(|outcome| *outcome == Err(Error::Gone)));
                },
            );
            assert!(error.as_ref().is_some_and(|error| error.starts_with("5 ring indices out of range")), "{error:?}");
        });
    }
}

#[test]
fn a_backend_that_tells_nonsense_of_itself() {
    for (key, value, expected) in [
        ("versions", "2,3", "versions = 2,3: expected 1 among them"),
        ("versions", "", "versions = : expected 1 among them"),
        ("max-rings", "0", "max-rings = 0: expected 1 at least"),
        ("max-rings", "many", "max-rings"),
        ("max-ring-page-order", "0", "max-ring-page-order = 0: expected 1 at least"),
        ("max-ring-page-order", "-1", "max-ring-page-order"),
    ] {
        let others = NODES.iter().copied().filter(|node| node.0 != key);
        for (node, expected) in [(Some((key, value)), expected), (None, "the backend has not written")] {
            check("nonsense", 5, |xen| {
                let nodes = others.clone().chain(node).collect();
                let gone = async |share: &Share| assert_eq!(share.ready().await, Err(Error::Gone));
                let error = against_frontend_with(xen, nodes, async |_| {}, gone);
                assert!(error.as_ref().is_some_and(|error| error.contains(expected)), "{node:?}: {error:?}");
            });
        }
    }
    for (value, msize) in [("1", 4096), ("2", 8192), ("4000000000", 32 << 10)] {
        check("orders", 5, |xen| {
            let nodes = vec![("versions", "0, 1"), ("max-rings", "1"), ("max-ring-page-order", value)];
            let error = against_frontend_with(
                xen,
                nodes,
                async |served| served.serve().await,
                async move |share| assert_eq!(share.ready().await.unwrap().msize, msize),
            );
            assert_eq!(error, None);
        });
    }
}

#[test]
fn xsa_391_events_without_end_from_a_backend() {
    check("storm", 5, |xen| {
        let error = against_frontend(
            xen,
            async |served| {
                served.serve_session(u32::MAX).await;
                let (header, _) = served.request().await;
                for _ in 0..5_000 {
                    served.port.notify();
                    served.domain.sleep(Duration::from_micros(2)).await;
                }
                served.answer(header.tag, Message::Rlerror { ecode: 2 }).await;
            },
            async |share| assert_eq!(session(share).await, Ok(())),
        );
        assert_eq!(error, None);
        assert!(xen.steps() < 100_000, "{} steps", xen.steps());
    });
}

/// A backend that is as fast as the frontend, on a processor of its own.
#[test]
fn a_busy_backend_leaves_the_others_their_turn() {
    check("busy", 2, |xen| {
        xen.set_interleaving(100);
        let (turns, over) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(false)));
        let (counted, ended, machine) = (turns.clone(), over.clone(), xen.clone());
        let error = against_frontend(
            xen,
            async |served| served.serve().await,
            async move |share| {
                share.ready().await.unwrap();
                let root = share.root();
                let (counted, ended) = (counted.clone(), ended.clone());
                // Another task of the same domain, which is always ready.
                let other = poll_fn(move |cx| {
                    counted.set(counted.get() + 1);
                    cx.waker().wake_by_ref();
                    if ended.get() { Poll::Ready(()) } else { Poll::Pending }
                });
                machine.by_id(xen_hal::DomId(1)).spawn(other).detach();
                for _ in 0..100 {
                    let looked = join_all((0..8).map(|_| root.exists("file"))).await;
                    assert!(looked.iter().all(|outcome| *outcome == Ok(true)));
                }
                over.set(true);
            },
        );
        assert_eq!(error, None);
        assert!(turns.get() > 100, "{} turns of another task in 800 requests", turns.get());
        assert!(xen.longest_turn() < 2500, "{} accesses in one turn", xen.longest_turn());
    });
}

/// The backend's second processor changes what the frontend has just read, between two loads. The device may end of it.
#[test]
fn xsa_376_what_changes_between_two_loads() {
    check("second processor", 80, |xen| {
        let state = RefCell::new(xen.seed().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (changes, clock) = (Rc::new(Cell::new(0)), xen.dom0());
        let counted = changes.clone();
        against_frontend(
            xen,
            async move |served: &Served| {
                let (counted, mut state) = (counted.clone(), *state.borrow());
                served.domain.second_processor(move |accessed| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    if accessed.write || accessed.len == 0 || !state.is_multiple_of(5) {
                        return;
                    }
                    counted.set(counted.get() + 1);
                    if accessed.len == 4 && accessed.offset < 132 {
                        let step = [1, 2, u32::MAX, u32::MAX - 1, 40_000][(state >> 8) as usize % 5];
                        accessed.set_word(accessed.word().wrapping_add(step));
                    } else {
                        accessed.write(accessed.offset + (state >> 8) as usize % accessed.len, &[(state >> 16) as u8]);
                    }
                });
                // Answers until nothing makes sense any more to an honest end.
                let mut request = [0; 64];
                loop {
                    let read = served.requests.borrow_mut().read(&served.memory, &mut request);
                    let Ok(moved) = read else { break };
                    let tag = request[5].into();
                    let answer = match Kind(request[4]) {
                        Kind::TVERSION => Message::Rversion { msize: 8192, version: VERSION }.encode(NOTAG, 100),
                        Kind::TATTACH => Message::Rattach { qid: QID }.encode(tag, 100),
                        Kind::TWALK => Message::Rwalk { qids: Qids::of(&[0; 13]) }.encode(tag, 100),
                        _ => Message::Rclunk {}.encode(tag, 100),
                    };
                    let answer = answer.unwrap();
                    if moved.bytes > 0 && served.responses.borrow_mut().write(&served.memory, &answer).is_err() {
                        break;
                    }
                    served.port.notify();
                    served.domain.sleep(Duration::from_micros(100)).await;
                }
            },
            async move |share| {
                let users = join_all((0..6).map(|_| async move {
                    for _ in 0..20 {
                        let _ = session(share).await;
                    }
                }));
                let _ = select(pin!(users), clock.sleep(Duration::from_millis(100))).await;
            },
        );
        assert!(changes.get() > 0);
    });
}

/// What a backend does wrong again and again costs few lines, which say what that was.
#[test]
fn a_backend_that_breaks_the_protocol_without_end_fills_no_log() {
    check("log", 3, |xen| {
        keep_log();
        let clock = xen.dom0();
        let error = against_frontend(
            xen,
            async |served| {
                served.write(&bytes(Kind::RATTACH, 3, &[])).await;
            },
            async move |share| {
                assert_eq!(share.ready().await, Err(Error::Gone));
                clock.sleep(Duration::from_secs(60)).await;
            },
        );
        assert_eq!(error.as_deref(), Some("5 Rattach with tag 3, which no request has"));
        let log = take_log();
        assert!(log.iter().any(|line| line.contains("device/9pfs/0: Rattach with tag 3")), "{log:?}");
        assert!(log.len() < 100, "{} lines", log.len());
    });
}
