//! Clients of every kind, and what their connections come to.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use sarab_http::pipe::{Client, End, Server, pipe};
use sarab_http::{Connection, Content, Ended, Limits, Method, Pool, Refusal, Request, Response, Service, Stop};
use xen_hal::Clock;
use xen_sim::{Domain, Xen};

/// Answers with as many bytes as the path says, and counts.
#[derive(Default)]
struct Zeros {
    requests: Cell<u32>,
    pauses: Rc<Cell<u32>>,
}

struct Bytes {
    left: u64,
    piece: Vec<u8>,
    pauses: Rc<Cell<u32>>,
}

impl Content for Bytes {
    fn media_type(&self) -> &str {
        "application/octet-stream"
    }

    fn length(&self) -> u64 {
        self.left
    }

    async fn next(&mut self, most: usize) -> Option<&[u8]> {
        match self.left {
            // It cannot be finished.
            666 => return None,
            // It never comes.
            777 => std::future::pending().await,
            _ => {}
        }
        self.piece.resize(most.min(5000), b'0');
        self.left -= self.piece.len() as u64;
        Some(&self.piece)
    }

    fn pause(&mut self) {
        self.pauses.set(self.pauses.get() + 1);
    }
}

impl Zeros {
    fn bytes(&self, left: u64) -> Bytes {
        Bytes { left, piece: Vec::new(), pauses: self.pauses.clone() }
    }
}

impl Service for Zeros {
    type Content<'a> = Bytes;

    async fn answer(&self, request: &Request<'_>) -> Response<Bytes> {
        self.requests.set(self.requests.get() + 1);
        let status = if matches!(request.method, Method::Get | Method::Head) { 200 } else { 405 };
        match request.path {
            "/304" => Response::new(304, None),
            "/never" => std::future::pending().await,
            path => {
                Response::new(status, self.bytes(path[1..].parse().unwrap_or(0))).with("X-Evil", "a\r\nSet-Cookie: b")
            }
        }
    }

    fn refuse(&self, refusal: Refusal) -> Response<Bytes> {
        Response::new(refusal.status(), self.bytes(0))
    }
}

/// A server of some connections.
struct Site {
    service: Zeros,
    pool: Pool,
    stop: Stop,
    limits: Limits,
    domain: Domain,
    /// When each connection has ended.
    ended: RefCell<Vec<Duration>>,
    /// And how.
    ways: RefCell<Vec<Ended>>,
}

impl Site {
    fn new(domain: &Domain, places: usize) -> Rc<Site> {
        let site = Site {
            service: Zeros::default(),
            pool: Pool::new(places),
            stop: Stop::new(),
            limits: Limits::default(),
            domain: domain.clone(),
            ended: RefCell::default(),
            ways: RefCell::default(),
        };
        Rc::new(site)
    }

    /// A connection to it, over which so many bytes can be under way.
    fn connect(self: &Rc<Self>, capacity: usize) -> Client {
        let (stream, client) = pipe(capacity);
        let site = self.clone();
        self.domain.spawn(async move { site.serve(stream).await }).detach();
        client
    }

    async fn serve(&self, mut stream: Server) {
        let seat = self.pool.enter().expect("there is a place");
        let connection = Connection {
            stream: &mut stream,
            buffer: &mut [0; 1024],
            clock: self.domain.clone(),
            seat: &seat,
            stop: &self.stop,
            limits: &self.limits,
        };
        let ended = connection.serve(&self.service).await;
        self.ways.borrow_mut().push(ended);
        self.ended.borrow_mut().push(self.domain.now());
    }
}

/// Runs a test with a server of so many connections.
fn with(places: usize, test: impl AsyncFnOnce(Rc<Site>, Domain) + 'static) {
    let xen = Xen::new(1);
    let domain = xen.domain();
    xen.run(async move {
        let site = Site::new(&domain, places);
        test(site.clone(), domain.clone()).await;
        // No connection stays.
        site.stop.set();
        domain.sleep(Duration::from_secs(10)).await;
        assert_eq!(site.pool.free(), places);
    });
    xen.end();
}

/// The statuses of some answers without content, and whether the last one says that it is the last.
fn statuses(answers: &[u8]) -> (Vec<u16>, bool) {
    let text = String::from_utf8_lossy(answers);
    let statuses = text.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")?[..3].parse().ok()).collect();
    (statuses, text.ends_with("Connection: close\r\n\r\n"))
}

const GET: &str = "GET /0 HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn requests_come_in_any_pieces() {
    with(1, async |site, _| {
        let client = site.connect(100);
        let many = GET.repeat(20) + "GET /0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let sending = async {
            for piece in many.as_bytes().chunks(7) {
                client.send(piece).await;
            }
        };
        let ((), answers) = futures_util::join!(sending, client.rest());
        assert_eq!(statuses(&answers), (vec![200; 21], true));
        assert_eq!(client.end(), End::Closed);
    });
}

/// Everything behind what ends a connection is thrown away, however it looks.
#[test]
fn nothing_is_smuggled() {
    let second = "GET /0 HTTP/1.1\r\nHost: a\r\n\r\n";
    let chunk = format!("{:x}\r\n{second}\r\n0\r\n\r\n", second.len());
    for (request, status) in [
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 413),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\nContent-Length: 4\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 34\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 34\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n Content-Length: 34\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\nContent-Length: 34\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: y\rContent-Length: 34\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-\0Length: 34\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n", 413),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 28\r\n\r\n", 405),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ("GET / HTTP/1.0\r\n\r\n", 200),
        ("GET /\r\n", 400),
    ] {
        let sent = format!("{request}{chunk}{second}");
        with(1, async move |site, _| {
            let client = site.connect(1 << 16);
            client.send(sent.as_bytes()).await;
            assert_eq!(statuses(&client.rest().await), (vec![status], true), "{sent:?}");
            assert!(site.service.requests.get() <= 1 && client.end() == End::Closed, "{sent:?}");
        });
    }
}

/// Content is received and thrown away, and then the next request is read.
#[test]
fn content_is_not_taken_for_a_request() {
    with(1, async |site, _| {
        let client = site.connect(1 << 16);
        let content = GET.repeat(10);
        let request = format!("POST /0 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{content}", content.len());
        let last = "HEAD /5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
        client.send(format!("{request}{GET}{request}{last}").as_bytes()).await;
        assert_eq!(statuses(&client.rest().await), (vec![405, 200, 405, 200], true));
        assert_eq!(site.service.requests.get(), 4);
    });
}

/// So is chunked content, in any pieces, and it does not matter how it looks.
#[test]
fn chunks_are_not_taken_for_requests() {
    let chunk = format!("{:X};a=\"b\"\r\n{GET}\r\n", GET.len());
    let request = format!("POST /0 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n{}", chunk.repeat(60));
    let last = "HEAD /5 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let sent = format!("{request}0\r\nHost: b\r\nContent-Length: 7\r\n\r\n{GET}{request}00\r\n\r\n{last}");
    for piece in [1, 7, 100, 1 << 16] {
        let sent = sent.clone();
        with(1, async move |site, _| {
            let client = site.connect(1 << 16);
            let sending = async {
                for piece in sent.as_bytes().chunks(piece) {
                    client.send(piece).await;
                }
            };
            let ((), answers) = futures_util::join!(sending, client.rest());
            assert_eq!(statuses(&answers), (vec![405, 200, 405, 200], true));
            assert_eq!(site.service.requests.get(), 4);
        });
    }
}

/// Who asks for something gets leave to send content that nobody needs, and stays connected.
#[test]
fn who_expects_100_gets_it() {
    with(2, async |site, _| {
        for length in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
            let client = site.connect(1 << 16);
            client
                .send(format!("GET /0 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{length}\r\n\r\n").as_bytes())
                .await;
            assert_eq!(client.receive(1000).await, b"HTTP/1.1 100 Continue\r\n\r\n");
            client.send(if length.starts_with('C') { b"12345" } else { b"2\r\n12\r\n0\r\n\r\n" }).await;
            assert_eq!(statuses(&client.receive(1000).await), (vec![200], false));
            client.send(GET.as_bytes()).await;
            assert_eq!(statuses(&client.receive(1000).await), (vec![200], false));
            // What comes without leave may be something else.
            client.send(b"GET /0 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n12").await;
            assert_eq!(statuses(&client.receive(1000).await), (vec![200], true));
            client.close();
            client.rest().await;
        }
    });
}

/// What waits for leave to send content that changes something gets its answer at once.
#[test]
fn who_expects_100_does_not_wait() {
    with(1, async |site, domain| {
        let client = site.connect(1 << 16);
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
        let start = domain.now();
        assert_eq!(statuses(&client.receive(1000).await), (vec![405], true));
        assert!(domain.now() - start < Duration::from_millis(1));
        drop((client, site));
    });
}

#[test]
fn who_takes_too_long() {
    /// What is sent at once, what in pieces with so many milliseconds between, and what comes of it after how long.
    type Case = (&'static str, &'static str, u64, &'static [u16], u64);
    let cases: [Case; 8] = [
        // Nothing at all: closed without an answer.
        ("", "", 0, &[], 10),
        (GET, "", 0, &[200], 15),
        // The begin of a request.
        ("GET / HTTP", "", 0, &[408], 5),
        ("\r\n", "", 0, &[408], 5),
        // A byte now and then.
        ("", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1000, &[408], 6),
        (GET, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1000, &[200, 408], 6),
        // Content.
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n", "", 0, &[408], 5),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n", "aaaaaaaaaaaaaaaa", 900, &[408], 5),
    ];
    for (begin, slow, pause, expected, seconds) in cases {
        with(1, async move |site, domain| {
            let client = site.connect(1 << 16);
            let sending = async {
                client.send(begin.as_bytes()).await;
                for byte in slow.bytes() {
                    domain.sleep(Duration::from_millis(pause)).await;
                    client.send(&[byte]).await;
                }
            };
            let receiving = async {
                let answers = client.rest().await;
                client.close();
                (answers, domain.now())
            };
            let ((), (answers, end)) = futures_util::join!(sending, receiving);
            assert_eq!(statuses(&answers).0, expected, "{begin:?} {slow:?}");
            assert_eq!(end.as_secs(), seconds, "{begin:?} {slow:?}");
            assert_eq!(client.end(), End::Closed);
        });
    }
}

/// A client that reads nothing, or a little, does not hold what is read ahead for it, and not its place for ever.
#[test]
fn who_does_not_read() {
    for (rate, seconds) in [(0, 10..11), (400, 10..20), (900, 90..130)] {
        with(1, async move |site, domain| {
            let client = site.connect(16_384);
            client.send(b"GET /100000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            let mut got = 0;
            while client.end() == End::Open {
                domain.sleep(Duration::from_secs(1)).await;
                got += if rate > 0 { client.receive(rate).await.len() } else { 0 };
            }
            assert!(seconds.contains(&domain.now().as_secs()), "{rate} a second: {:?}", domain.now());
            assert!(site.service.pauses.get() > 0);
            let whole = client.end() == End::Closed;
            assert_eq!(whole, rate == 900, "{got}");
        });
    }
}

#[test]
fn what_cannot_be_finished_is_cut() {
    with(1, async |site, domain| {
        let client = site.connect(1 << 16);
        client.send(b"GET /5666 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.rest().await;
        assert!(answer.ends_with(b"0000"), "the begin of it has come");
        assert_eq!(client.end(), End::Aborted);
        domain.sleep(Duration::from_secs(2)).await;
        assert_eq!(site.pool.free(), 1);
    });
}

/// Who goes on sending after the last answer is listened to for a while, and no more.
#[test]
fn who_sends_on_and_on() {
    with(1, async |site, domain| {
        let client = site.connect(1 << 12);
        client.send(b"GARBAGE\r\n").await;
        let mut sent = 0_u64;
        while client.end() != End::Aborted {
            client.send(&[b'x'; 1000]).await;
            sent += 1000;
        }
        assert!(sent <= site.limits.content + (1 << 13), "{sent}");
        domain.sleep(Duration::from_secs(2)).await;
        let client = site.connect(1 << 12);
        client.send(b"GARBAGE\r\n").await;
        let start = domain.now();
        assert_eq!(statuses(&client.rest().await), (vec![400], true));
        while client.end() != End::Aborted {
            client.send(b"x").await;
            domain.sleep(Duration::from_millis(100)).await;
        }
        assert!((domain.now() - start).as_secs() == 3);
    });
}

/// The ones that have waited the longest make room, but not who was there for less than a second.
#[test]
fn idle_clients_make_room() {
    with(3, async |site, domain| {
        let (watched, clock) = (site.clone(), domain.clone());
        let watching = domain.spawn(async move { watched.pool.make_room(&clock).await });
        let first = site.connect(1000);
        domain.sleep(Duration::from_secs(2)).await;
        let second = site.connect(1000);
        domain.sleep(Duration::from_secs(2)).await;
        // It was there before, and has said something since.
        first.send(GET.as_bytes()).await;
        domain.sleep(Duration::from_millis(10)).await;
        assert_eq!(site.pool.free(), 1);
        assert_eq!(statuses(&first.receive(1000).await).0, [200]);
        let third = site.connect(1000);
        domain.sleep(Duration::from_millis(20)).await;
        let ends = [first.end(), second.end(), third.end()];
        assert_eq!((ends, site.pool.free()), ([End::Open, End::Aborted, End::Open], 1));
        let fourth = site.connect(1000);
        domain.sleep(Duration::from_millis(900)).await;
        assert_eq!((first.end(), site.pool.free()), (End::Open, 0), "it has waited for less than a second");
        domain.sleep(Duration::from_millis(200)).await;
        assert_eq!((first.end(), third.end(), fourth.end()), (End::Aborted, End::Open, End::Open));
        drop(watching);
    });
}

/// Where all places are taken, the slowest client makes room, though it is never waited for long; who is fast enough does
/// not, and while there are places nobody does.
#[test]
fn slow_clients_make_room() {
    with(3, async |site, domain| {
        let (watched, clock) = (site.clone(), domain.clone());
        let watching = domain.spawn(async move { watched.pool.make_room(&clock).await });
        // Reads 8000 bytes each time that so many milliseconds have passed.
        let read = |pause: u64| {
            let (client, domain) = (Rc::new(site.connect(16_384)), domain.clone());
            let reader = client.clone();
            let task = domain.clone().spawn(async move {
                reader.send(b"GET /100000000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
                while reader.end() == End::Open {
                    reader.receive(8000).await;
                    domain.sleep(Duration::from_millis(pause)).await;
                }
            });
            task.detach();
            client
        };
        let (slow, slower) = (read(400), read(800));
        domain.sleep(Duration::from_secs(60)).await;
        assert_eq!(([slow.end(), slower.end()], site.pool.free()), ([End::Open; 2], 1));
        let _fast = read(50);
        domain.sleep(Duration::from_secs(1)).await;
        assert_eq!(([slow.end(), slower.end()], site.pool.free()), ([End::Open, End::Aborted], 1));
        // One that is fast enough, though not as fast.
        let fair = read(200);
        domain.sleep(Duration::from_secs(1)).await;
        assert_eq!((slow.end(), site.pool.free()), (End::Aborted, 1));
        let _fast = read(50);
        domain.sleep(Duration::from_secs(30)).await;
        assert_eq!((fair.end(), site.pool.free()), (End::Open, 0));
        drop(watching);
    });
}

/// How long a client takes to ask for something is not held against it while it is sent that.
#[test]
fn who_has_been_idle_is_not_slow() {
    with(3, async |site, domain| {
        let (watched, clock) = (site.clone(), domain.clone());
        let watching = domain.spawn(async move { watched.pool.make_room(&clock).await });
        // Reads so many bytes each time that so many milliseconds have passed.
        let read = |client: Rc<Client>, piece: usize, pause: u64| {
            let clock = domain.clone();
            domain.spawn(async move {
                client.send(b"GET /1000000000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
                while client.end() == End::Open {
                    client.receive(piece).await;
                    clock.sleep(Duration::from_millis(pause)).await;
                }
            })
        };
        let (slow, honest) = (Rc::new(site.connect(16_384)), Rc::new(site.connect(16_384)));
        read(slow.clone(), 800, 400).detach();
        honest.send(b"GET /1000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        honest.receive(8000).await;
        domain.sleep(Duration::from_secs(6)).await;
        read(honest.clone(), 8000, 10).detach();
        domain.sleep(Duration::from_secs(3)).await;
        let third = Rc::new(site.connect(16_384));
        read(third.clone(), 8000, 10).detach();
        domain.sleep(Duration::from_secs(1)).await;
        assert_eq!([slow.end(), honest.end(), third.end()], [End::Aborted, End::Open, End::Open]);
        drop(watching);
    });
}

/// How a connection has ended is told for each way.
#[test]
fn each_end_is_told() {
    fn ends(expected: Ended, test: impl AsyncFnOnce(Rc<Site>, Domain) + 'static) {
        with(1, async move |site, domain| {
            let watched = site.clone();
            test(site, domain.clone()).await;
            domain.sleep(Duration::from_secs(20)).await;
            assert_eq!(*watched.ways.borrow(), [expected]);
        });
    }
    ends(Ended::Closed, async |site, _| {
        let client = site.connect(1000);
        client.send(b"GET /0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        client.rest().await;
        client.close();
        std::mem::forget(client);
    });
    ends(Ended::Closed, async |site, _| {
        let client = site.connect(1000);
        client.send(GET.as_bytes()).await;
        client.receive(1000).await;
        client.close();
        client.rest().await;
    });
    ends(Ended::Idle, async |site, _| drop(site.connect(1000).rest().await));
    ends(Ended::Refused(Refusal::NoHost), async |site, _| {
        let client = site.connect(1000);
        client.send(b"GET / HTTP/1.1\r\n\r\n").await;
        client.rest().await;
    });
    ends(Ended::Refused(Refusal::Incomplete), async |site, _| {
        let client = site.connect(1000);
        client.send(b"GET / HT").await;
        client.close();
        client.rest().await;
    });
    ends(Ended::Reset, async |site, domain| {
        let client = site.connect(1000);
        client.send(b"GET /5000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        domain.sleep(Duration::from_secs(1)).await;
        drop(client);
    });
    ends(Ended::Slow, async |site, domain| {
        let client = site.connect(1000);
        client.send(b"GET /5000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        domain.sleep(Duration::from_secs(15)).await;
        assert_eq!(client.end(), End::Aborted);
    });
    ends(Ended::Evicted, async |site, domain| {
        let (watched, clock) = (site.clone(), domain.clone());
        let watching = domain.spawn(async move { watched.pool.make_room(&clock).await });
        let client = site.connect(1000);
        domain.sleep(Duration::from_secs(2)).await;
        assert_eq!(client.end(), End::Aborted);
        drop(watching);
    });
    ends(Ended::Failed, async |site, _| {
        let client = site.connect(1 << 16);
        client.send(b"GET /5666 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.rest().await;
    });
    for request in ["", "GET /5000 HTTP/1.1\r\nHost: a\r\n\r\n"] {
        ends(Ended::Stopped, async move |site, domain| {
            let client = site.connect(1000);
            client.send(request.as_bytes()).await;
            domain.sleep(Duration::from_secs(1)).await;
            site.stop.set();
            domain.sleep(Duration::from_secs(3)).await;
            drop(client);
        });
    }
}

/// A service may take its time, but not for ever.
#[test]
fn answers_that_do_not_come() {
    with(2, async |site, domain| {
        let (never, half) = (site.connect(1 << 16), site.connect(1 << 16));
        never.send(format!("GET /never HTTP/1.1\r\nHost: a\r\n\r\n{GET}").as_bytes()).await;
        half.send(b"GET /5777 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(statuses(&never.rest().await), (vec![503], true));
        assert_eq!((never.end(), domain.now().as_secs()), (End::Closed, 10));
        assert!(half.rest().await.ends_with(b"0000"), "the begin of it has come");
        assert_eq!((half.end(), domain.now().as_secs()), (End::Aborted, 10));
    });
}

/// A server that stops lets the answer in flight come to its end, for two seconds.
#[test]
fn a_server_that_stops() {
    with(3, async |site, domain| {
        let (idle, begun) = (site.connect(1000), site.connect(1000));
        let busy = site.connect(1000);
        begun.send(b"GET / HT").await;
        busy.send(b"GET /5000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        domain.sleep(Duration::from_secs(1)).await;
        site.stop.set();
        assert!(idle.rest().await.is_empty() && begun.rest().await.is_empty());
        assert_eq!([idle.end(), begun.end()], [End::Closed; 2]);
        let answer = busy.rest().await;
        assert!(answer.len() > 5000 && busy.end() == End::Closed);
    });
    with(1, async |site, domain| {
        let never = site.connect(1000);
        never.send(b"GET /5000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
        domain.sleep(Duration::from_secs(1)).await;
        site.stop.set();
        domain.sleep(Duration::from_millis(2100)).await;
        assert_eq!(never.end(), End::Aborted);
    });
}

#[test]
fn heads_of_answers() {
    with(1, async |site, _| {
        let client = site.connect(1 << 12);
        client.send(b"HEAD /5 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /304 HTTP/1.1\r\nHost:\r\n\r\n").await;
        client.send(b"GET /3 HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n").await;
        let text = String::from_utf8(client.rest().await).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n\
             HTTP/1.1 304 Not Modified\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 3\r\nConnection: close\r\n\r\n000"
        );
    });
}

/// However often they are polled, those that wait for the end are in its list once, and not at all when they are gone.
#[test]
fn the_list_of_who_waits_does_not_grow() {
    // It counts what this thread allocates.
    let xen = Xen::new(1);
    let stop = Stop::new();
    let before = xen.allocation();
    for _ in 0..1000 {
        let mut waiting = pin!(stop.wait());
        for _ in 0..1000 {
            assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert!(xen.allocation() < before + 1000);
    }
    assert!(xen.allocation() < before + 1000);
    let mut waiting = pin!(stop.wait());
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    stop.set();
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
}

/// What a client sends in a million pieces leaves nothing behind.
#[test]
fn a_million_pieces() {
    /// No time passes.
    struct Frozen;

    impl Clock for Frozen {
        fn now(&self) -> Duration {
            Duration::ZERO
        }

        fn poll_until(&self, _: Duration, _: &mut Context<'_>) -> Poll<()> {
            Poll::Pending
        }
    }

    // It counts what this thread allocates.
    let xen = Xen::new(1);
    let (mut stream, client) = pipe(1 << 12);
    let (service, pool, stop, limits) = (Zeros::default(), Pool::new(1), Stop::new(), Limits::default());
    let seat = pool.enter().unwrap();
    let mut buffer = [0; 1024];
    let connection = Connection {
        stream: &mut stream,
        buffer: &mut buffer,
        clock: Frozen,
        seat: &seat,
        stop: &stop,
        limits: &limits,
    };
    let mut serving = pin!(connection.serve(&service));
    let cx = &mut Context::from_waker(Waker::noop());
    let (mut first, mut most) = (0, 0);
    for round in 0..36_000 {
        for byte in GET.bytes() {
            assert!(pin!(client.send(&[byte])).poll(cx).is_ready());
            // It waits for the next one each time.
            assert!(serving.as_mut().poll(cx).is_pending());
        }
        let Poll::Ready(answer) = pin!(client.receive(1000)).poll(cx) else { panic!("no answer") };
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        drop(answer);
        if round == 10 {
            first = xen.allocation();
        }
        most = most.max(xen.allocation());
    }
    assert!(most < first + 1000, "{first} bytes, and then {most}");
    assert_eq!(service.requests.get(), 36_000);
}
