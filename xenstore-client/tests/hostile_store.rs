//! The client against servers that break the protocol, or make use of its rarer parts.

use std::rc::Rc;
use std::time::Duration;

use xen_hal::{Clock, DomId, Errno, Port};
use xen_ring::{ByteReader, ByteWriter, SharedPage};
use xen_sim::{Budgets, Domain, SimPage, SimPort, Xen, check, keep_log, take_log};
use xenstore_client::wire::offsets::{CONNECTION, ERROR, REPLIES, REQUESTS, SERVER_FEATURES};
use xenstore_client::wire::{Features, HEADER_SIZE, Header, Malformed, Op, RingError};
use xenstore_client::{Access, Broken, ErrorKind, Permission, Store};

/// A server's end of the ring, in the hands of a test.
struct Fake {
    page: SharedPage<SimPage>,
    port: SimPort,
    reader: ByteReader,
    writer: ByteWriter,
}

impl Fake {
    fn new(xen: &Xen, features: Features, index: u32) -> (Domain, Store, Fake) {
        let (domain, page, port) = xen.domain_and_server();
        page.store(SERVER_FEATURES, features.0);
        for offset in [REQUESTS.consumer, REQUESTS.producer, REPLIES.consumer, REPLIES.producer] {
            page.store(offset, index);
        }
        let (reader, writer) = (REQUESTS.reader(&page).unwrap(), REPLIES.writer(&page).unwrap());
        let store = domain.store();
        (domain, store, Fake { page, port, reader, writer })
    }

    /// The next request's header and payload.
    async fn request(&mut self) -> (Header, Vec<u8>) {
        let mut header = [0; HEADER_SIZE];
        self.fill(&mut header).await;
        let header = Header::from_bytes(&header);
        let mut payload = vec![0; header.payload_len().unwrap()];
        self.fill(&mut payload).await;
        (header, payload)
    }

    async fn fill(&mut self, bytes: &mut [u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let moved = self.reader.read(&self.page, &mut bytes[done..]).unwrap();
            done += moved.bytes;
            if moved.bytes == 0 {
                self.port.wait().await;
            } else {
                self.port.notify();
            }
        }
    }

    async fn send(&mut self, header: Header, payload: &[u8]) {
        let bytes: Vec<u8> = header.to_bytes().into_iter().chain(payload.iter().copied()).collect();
        let mut done = 0;
        while done < bytes.len() {
            let moved = self.writer.write(&self.page, &bytes[done..]).unwrap();
            done += moved.bytes;
            self.port.notify();
            if moved.bytes == 0 {
                self.port.wait().await;
            }
        }
    }

    /// Stops talking, and waits until it is asked for a new connection.
    async fn stop(&mut self) {
        self.page.store(ERROR, 2);
        self.port.notify();
        while self.page.load(CONNECTION) != 1 {
            self.port.wait().await;
        }
    }

    /// Stops talking, and begins a new connection once it is asked for one.
    async fn start_over(&mut self) {
        self.stop().await;
        self.page.store(ERROR, 0);
        for offset in [REQUESTS.consumer, REQUESTS.producer, REPLIES.consumer, REPLIES.producer] {
            self.page.store(offset, 0);
        }
        self.reader = REQUESTS.reader(&self.page).unwrap();
        self.writer = REPLIES.writer(&self.page).unwrap();
        self.page.store(CONNECTION, 0);
        self.port.notify();
    }

    async fn answer(&mut self, to: Header, payload: &[u8]) {
        self.send(Header { len: payload.len() as u32, ..to }, payload).await;
    }
}

/// Reads from a server that answers as `serve` says, and returns what the client makes of it.
fn outcome(
    xen: &Xen,
    features: Features,
    serve: impl AsyncFnOnce(&mut Fake, Header) + 'static,
) -> (Result<Vec<u8>, xenstore_client::Error>, Store) {
    let (_, store, mut fake) = Fake::new(xen, features, xen.random(1 << 32) as u32);
    xen.dom0()
        .spawn(async move {
            let (header, _) = fake.request().await;
            serve(&mut fake, header).await;
            // The page stays until the end.
            std::future::pending::<()>().await;
        })
        .detach();
    let reader = store.clone();
    (xen.run(async move { reader.read("a").await }), store)
}

#[test]
fn answers_that_make_no_sense_fail_their_request_alone() {
    check("wrong answers", 20, |xen| {
        let (answer, store) = outcome(xen, Features::default(), async |fake, header| {
            fake.send(Header { op: Op::Mkdir as u32, len: 3, ..header }, b"OK\0").await;
            let (header, _) = fake.request().await;
            fake.answer(header, b"good").await;
        });
        assert_eq!(answer.unwrap_err().kind, ErrorKind::Malformed(Malformed::WrongType(Op::Mkdir as u32)));
        assert_eq!(xen.run(async move { store.read("a").await }).unwrap(), b"good");
    });
}

#[test]
fn answers_to_nothing_are_dropped_and_counted() {
    check("answers to nothing", 20, |xen| {
        let (answer, store) = outcome(xen, Features::default(), async |fake, header| {
            for request in [header.request + 1, u32::MAX, 77] {
                fake.send(Header { request, len: 3, ..header }, b"bad").await;
            }
            // Events for watches that nobody has, and some that are none.
            for payload in [&b"a\0ffff\0"[..], b"a\0no number\0", b"", b"a", b"\xff\0\0\0"] {
                let event = Header { op: Op::WatchEvent as u32, request: 0, transaction: 0, len: payload.len() as u32 };
                fake.send(event, payload).await;
            }
            fake.answer(header, b"good").await;
            fake.answer(header, b"twice").await;
        });
        assert_eq!(answer.unwrap(), b"good");
        xen.settle();
        assert_eq!(store.unexpected(), 3 + 3 + 1);
        assert_eq!(store.broken(), None);
    });
}

#[test]
fn unknown_errors_keep_their_text() {
    check("unknown errors", 1, |xen| {
        let (answer, _) = outcome(xen, Features::default(), async |fake, header| {
            fake.send(Header { op: Op::Error as u32, len: 8, ..header }, b"ESTRANGE").await;
        });
        let error = answer.unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EINVAL));
        assert_eq!(error.to_string(), "store: READ a: unknown error \"ESTRANGE\"");
    });
}

#[test]
fn an_oversized_packet_breaks_the_connection() {
    check("oversized", 20, |xen| {
        let (answer, store) = outcome(xen, Features::default(), async |fake, header| {
            fake.send(Header { len: 4097, ..header }, b"").await;
        });
        let broken = Broken::Oversized { len: 4097, op: Op::Read as u32 };
        assert_eq!(answer.unwrap_err().kind, ErrorKind::Broken(broken));
        assert_eq!(store.broken(), Some(broken));
        let error = xen.run(async move { store.write("b", b"").await.unwrap_err() });
        assert_eq!(
            error.to_string(),
            "store: WRITE b: the store sent a packet of type 2 with 4097 bytes, at most 4096 are allowed"
        );
    });
}

#[test]
fn indices_out_of_range_break_the_connection() {
    check("indices", 20, |xen| {
        let (answer, store) = outcome(xen, Features::default(), async |fake, _| {
            fake.page.store(REPLIES.producer, fake.page.load(REPLIES.producer).wrapping_add(1025));
            fake.port.notify();
        });
        let kind = answer.unwrap_err().kind;
        assert!(matches!(kind, ErrorKind::Broken(Broken::Index { requests: false, .. })), "{kind:?}");
        assert!(store.broken().is_some());
    });
}

#[test]
fn a_consumer_index_out_of_range_breaks_the_connection_when_something_is_sent() {
    check("requests' index", 20, |xen| {
        let (_, store, fake) = Fake::new(xen, Features::default(), 5);
        fake.page.store(REQUESTS.consumer, 6);
        let error = xen.run(async move { store.read("a").await.unwrap_err() });
        assert!(matches!(error.kind, ErrorKind::Broken(Broken::Index { requests: true, .. })), "{error}");
    });
}

#[test]
fn a_server_that_stops_talking_says_why() {
    check("error field", 20, |xen| {
        let (answer, store) = outcome(xen, Features::ERROR, async |fake, _| {
            fake.page.store(ERROR, 3);
            fake.port.notify();
        });
        assert_eq!(answer.unwrap_err().kind, ErrorKind::Broken(Broken::Server(RingError::Protocol)));
        assert!(store.broken().is_some());
        // One that does not offer the field may have anything there.
        let (answer, _) = outcome(xen, Features::default(), async |fake, header| {
            fake.page.store(ERROR, 3);
            fake.answer(header, b"good").await;
        });
        assert_eq!(answer.unwrap(), b"good");
    });
}

#[test]
fn a_watch_stream_ends_with_the_connection() {
    check("watch of a broken store", 20, |xen| {
        let (_, store, mut fake) = Fake::new(xen, Features::ERROR, 0);
        xen.dom0()
            .spawn(async move {
                let (header, _) = fake.request().await;
                fake.answer(header, b"OK\0").await;
                let (header, _) = fake.request().await;
                fake.answer(header, b"x").await;
                fake.page.store(ERROR, 1);
                fake.port.notify();
                std::future::pending::<()>().await;
            })
            .detach();
        xen.run(async move {
            let mut watch = store.watch("a").await.unwrap();
            store.read("a").await.unwrap();
            assert_eq!(watch.next().await, None);
            let error = store.wait_for("a", |_| Some(())).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Broken(Broken::Server(RingError::Communication)));
        });
    });
}

#[test]
fn a_server_that_offers_it_is_asked_for_a_new_connection() {
    check("reconnection", 100, |xen| {
        let features = Features(Features::RECONNECTION.0 | Features::ERROR.0);
        let (_, store, mut fake) = Fake::new(xen, features, xen.random(1 << 32) as u32);
        let served = xen.dom0().spawn(async move {
            // A watch, and then a request whose answer never comes.
            let (header, watch) = fake.request().await;
            assert_eq!(header.op, Op::Watch as u32);
            fake.answer(header, b"OK\0").await;
            fake.request().await;
            fake.start_over().await;
            let (header, again) = fake.request().await;
            assert_eq!((header.op, &again), (Op::Watch as u32, &watch));
            fake.answer(header, b"OK\0").await;
            let event = Header { op: Op::WatchEvent as u32, request: 0, transaction: 0, len: watch.len() as u32 };
            fake.send(event, &watch).await;
            let (header, _) = fake.request().await;
            fake.answer(header, b"again").await;
            fake
        });
        let reader = store.clone();
        xen.run(async move {
            let mut watch = reader.watch("a").await.unwrap();
            assert_eq!(reader.read("a").await.unwrap_err().kind, ErrorKind::Interrupted);
            assert_eq!(&*watch.next().await.unwrap().path, "a");
            assert_eq!(reader.read("a").await.unwrap(), b"again");
            assert_eq!((reader.generation(), reader.broken()), (1, None));
        });
        drop(xen.run(served));
    });
}

#[test]
fn a_connection_that_is_pending_at_the_start_is_waited_for() {
    check("pending connection", 20, |xen| {
        let (domain, page, port) = xen.domain_and_server();
        page.store(SERVER_FEATURES, Features::RECONNECTION.0);
        page.store(CONNECTION, 1);
        // Nothing else in the page means anything yet.
        page.store(REPLIES.producer, 0xdead_beef);
        let store = domain.store();
        let page = Rc::new(page);
        let later = page.clone();
        let port = Rc::new(port);
        let bell = port.clone();
        let main = xen.dom0();
        let read = domain.spawn(async move { store.read("a").await });
        xen.settle();
        let served = main.spawn(async move {
            later.store(REPLIES.producer, 0);
            later.store(CONNECTION, 0);
            bell.notify();
            let (mut reader, mut writer) = (REQUESTS.reader(&later).unwrap(), REPLIES.writer(&later).unwrap());
            let mut bytes = [0; 64];
            while reader.read(&later, &mut bytes).unwrap().bytes == 0 {
                bell.wait().await;
            }
            let header = Header::from_bytes(bytes[..HEADER_SIZE].try_into().unwrap());
            let mut answer = Header { len: 1, ..header }.to_bytes().to_vec();
            answer.push(b'x');
            writer.write(&later, &answer).unwrap();
            bell.notify();
        });
        assert_eq!(xen.run(read).unwrap(), b"x");
        xen.run(served);
    });
}

/// C xenstored stopped at an assertion when anybody named `/local/domain/` (XSA-481): nothing that is no path is sent.
#[test]
fn xsa_481_what_is_no_path_never_reaches_the_server() {
    check("bad paths", 5, |xen| {
        let (_, store, mut fake) = Fake::new(xen, Features::default(), 0);
        xen.run(async move {
            let long = format!("/{}", "a".repeat(3072));
            let (nul, long) = ("a\0b", long.as_str());
            for path in ["/local/domain/", "", "a/", "//", "/a//b", "a b", "/é", "@releaseDomain", nul, long] {
                let refused = |outcome: Result<(), xenstore_client::Error>| {
                    let kind = outcome.unwrap_err().kind;
                    assert!(matches!(kind, ErrorKind::Request(_)), "{path:?}: {kind:?}");
                };
                refused(store.read(path).await.map(drop));
                refused(store.write(path, b"x").await);
                refused(store.mkdir(path).await);
                refused(store.remove(path).await);
                refused(store.list(path).await.map(drop));
                refused(store.permissions(path).await.map(drop));
                refused(store.set_permissions(path, &[Permission::new(DomId(1), Access::None)]).await);
                if !path.starts_with('@') {
                    refused(store.watch(path).await.map(drop));
                }
            }
            // The first packet that the server sees is this one.
            let good = async {
                let (header, payload) = fake.request().await;
                assert_eq!((header.op, &payload[..]), (Op::Read as u32, &b"/local/domain\0"[..]));
                fake.answer(header, b"good").await;
            };
            let (answer, ()) = futures_util::future::join(store.read("/local/domain"), good).await;
            assert_eq!(answer.unwrap(), b"good");
        });
    });
}

/// C xenstored stopped at an assertion when watches and transactions were reset inside of a transaction (XSA-484): the
/// reset names none, even while one is open.
#[test]
fn xsa_484_a_reset_is_never_inside_of_a_transaction() {
    check("reset", 10, |xen| {
        let (_, store, mut fake) = Fake::new(xen, Features::default(), 0);
        xen.run(async move {
            let transaction = store.transaction(async |t| {
                t.read("a").await?;
                store.reset_watches().await?;
                t.read("b").await.map(drop)
            });
            let server = async {
                for (op, id, answer) in [
                    (Op::TransactionStart, 0, "7\0"),
                    (Op::Read, 7, "1"),
                    (Op::ResetWatches, 0, "OK\0"),
                    (Op::Read, 7, "2"),
                    (Op::TransactionEnd, 7, "OK\0"),
                ] {
                    let (header, _) = fake.request().await;
                    assert_eq!((header.op, header.transaction), (op as u32, id));
                    fake.answer(header, answer.as_bytes()).await;
                }
            };
            let (outcome, ()) = futures_util::future::join(transaction, server).await;
            assert_eq!(outcome, Ok(()));
        });
    });
}

/// Each new connection breaks as the one before did.
#[test]
fn a_server_with_which_no_connection_works_is_given_up() {
    check("reconnections", 20, |xen| {
        keep_log();
        let features = Features(Features::RECONNECTION.0 | Features::ERROR.0);
        let (_, store, fake) = Fake::new(xen, features, 0);
        xen.dom0()
            .spawn(async move {
                fake.page.store(ERROR, 2);
                fake.port.notify();
                loop {
                    fake.port.wait().await;
                    fake.page.store(CONNECTION, 0);
                    fake.port.notify();
                }
            })
            .detach();
        xen.run(async move {
            // A request that is made meanwhile is carried over, or fails.
            while store.broken().is_none() {
                let _ = store.read("a").await;
            }
            assert_eq!(store.broken(), Some(Broken::Server(RingError::RingIndex)));
            assert!(store.generation() <= 8);
        });
        let log = take_log();
        assert!(log.len() <= 10, "{log:#?}");
    });
}

/// Each new connection works, for as long as it takes to send a packet, or to answer what is asked first.
#[test]
fn a_server_that_reconnects_without_end_is_given_up() {
    for answers in [false, true] {
        check("cycles", 20, |xen| {
            keep_log();
            let features = Features(Features::RECONNECTION.0 | Features::ERROR.0);
            let (_, store, mut fake) = Fake::new(xen, features, 0);
            xen.dom0()
                .spawn(async move {
                    loop {
                        if answers {
                            let (header, _) = fake.request().await;
                            fake.answer(header, b"OK\0").await;
                        } else {
                            let event = Header { op: Op::WatchEvent as u32, request: 0, transaction: 0, len: 0 };
                            fake.answer(event, b"a\0ffff\0").await;
                        }
                        fake.start_over().await;
                    }
                })
                .detach();
            xen.run(async move {
                while store.broken().is_none() {
                    let _ = store.read("a").await;
                }
                assert_eq!(store.broken(), Some(Broken::Server(RingError::RingIndex)));
                assert_eq!(store.generation(), 8);
            });
            let log = take_log();
            assert!(log.len() <= 10, "{log:#?}");
        });
    }
}

/// A server that is restarted now and then, for a day, and once a few times in a row.
#[test]
fn a_server_that_is_restarted_now_and_then_is_never_given_up() {
    check("restarts", 3, |xen| {
        let features = Features(Features::RECONNECTION.0 | Features::ERROR.0);
        let (_, store, mut fake) = Fake::new(xen, features, 0);
        let dom0 = xen.dom0();
        let clock = dom0.clone();
        dom0.spawn(async move {
            for turn in 0..100 {
                let (header, _) = fake.request().await;
                fake.answer(header, b"good").await;
                clock.sleep(Duration::from_secs(if turn % 50 < 7 { 1 } else { 900 })).await;
                fake.start_over().await;
            }
            let (header, _) = fake.request().await;
            fake.answer(header, b"at last").await;
            std::future::pending::<()>().await;
        })
        .detach();
        xen.run(async move {
            loop {
                match store.read("a").await {
                    Ok(answer) if answer == b"at last" => break,
                    Ok(answer) => assert_eq!(answer, b"good"),
                    Err(error) => assert_eq!(error.kind, ErrorKind::Interrupted),
                }
            }
            assert_eq!(store.generation(), 100);
        });
    });
}

/// What is to be registered anew is so once, however many connections have come and gone before the server reads it; and
/// a watch does not end because the connection did before the answer came.
#[test]
fn watches_are_registered_again_once() {
    check("watches again", 20, |xen| {
        keep_log();
        let features = Features(Features::RECONNECTION.0 | Features::ERROR.0);
        let (_, store, mut fake) = Fake::new(xen, features, 0);
        let served = xen.dom0().spawn(async move {
            let mut tokens = Vec::new();
            for _ in 0..3 {
                let (header, watch) = fake.request().await;
                fake.answer(header, b"OK\0").await;
                tokens.push(watch);
            }
            // Some of it is read, and never answered.
            for count in 0..3 {
                fake.start_over().await;
                for _ in 0..count {
                    fake.request().await;
                }
            }
            // It begins, and stops before anything can be sent.
            for _ in 0..3 {
                fake.stop().await;
                fake.page.store(CONNECTION, 0);
            }
            fake.start_over().await;
            let mut again = Vec::new();
            for _ in 0..3 {
                let (header, watch) = fake.request().await;
                assert_eq!(header.op, Op::Watch as u32);
                fake.answer(header, b"OK\0").await;
                again.push(watch);
            }
            again.sort();
            assert_eq!(again, tokens);
            let event = Header { op: Op::WatchEvent as u32, request: 0, transaction: 0, len: 0 };
            for watch in &tokens {
                fake.answer(event, watch).await;
            }
            // Behind them there is nothing but this.
            let (header, _) = fake.request().await;
            assert_eq!(header.op, Op::Read as u32);
            fake.answer(header, b"good").await;
            fake
        });
        xen.run(async move {
            let mut watches = Vec::new();
            for path in ["a", "b", "c"] {
                watches.push(store.watch(path).await.unwrap());
            }
            for (watch, path) in watches.iter_mut().zip(["a", "b", "c"]) {
                assert_eq!(&*watch.next().await.unwrap().path, path);
            }
            assert_eq!((store.read("a").await.unwrap(), store.generation()), (b"good".to_vec(), 7));
        });
        drop(xen.run(served));
        assert!(!take_log().iter().any(|line| line.contains("re-register")));
    });
}

#[test]
fn a_list_of_names_has_an_end() {
    check("endless list", 3, |xen| {
        xen.set_budgets(Budgets { allocation: 4 << 20, ..Budgets::default() });
        let (_, store, mut fake) = Fake::new(xen, Features::default(), 0);
        xen.dom0()
            .spawn(async move {
                loop {
                    let (header, _) = fake.request().await;
                    match Op::from_number(header.op) {
                        Some(Op::DirectoryPart) => {
                            let names = b"n\0".repeat(2000);
                            fake.answer(header, &[b"7\0", &names[..]].concat()).await;
                        }
                        _ => fake.send(Header { op: Op::Error as u32, len: 6, ..header }, b"E2BIG\0").await,
                    }
                }
            })
            .detach();
        let error = xen.run(async move { store.list("a").await.unwrap_err() });
        assert_eq!(error.kind, ErrorKind::TooLong { max: 1 << 20 });
    });
}

/// Of what nobody waits for, and events that nobody reads, a server may send as much as it can.
#[test]
fn packets_without_end_fill_neither_log_nor_memory() {
    check("flood", 3, |xen| {
        keep_log();
        xen.set_budgets(Budgets { allocation: 1 << 20, ..Budgets::default() });
        let (domain, store, mut fake) = Fake::new(xen, Features::default(), 0);
        xen.dom0()
            .spawn(async move {
                let (header, watch) = fake.request().await;
                let token = watch.split(|byte| *byte == 0).nth(1).unwrap().to_vec();
                fake.answer(header, b"OK\0").await;
                let (read, _) = fake.request().await;
                for number in 0..1500_u32 {
                    fake.send(Header { request: 1000 + number, len: 3, ..read }, b"bad").await;
                    let payload = [format!("a/{number:03000}\0").as_bytes(), &token, b"\0"].concat();
                    let event = Header { op: Op::WatchEvent as u32, request: 0, transaction: 0, len: 0 };
                    fake.answer(event, &payload).await;
                }
                fake.answer(read, b"at last").await;
                std::future::pending::<()>().await;
            })
            .detach();
        let running = domain.spawn(async move {
            let mut watch = store.watch("a").await.unwrap();
            assert_eq!(store.read("a").await.unwrap(), b"at last");
            assert!(watch.next().await.unwrap().all);
            store.unexpected()
        });
        assert_eq!(xen.run(running), 1500);
        let log = take_log();
        assert!(log.len() <= 12, "{log:#?}");
    });
}
