//! Requests and their answers on this machine: the server's own pages, on connections in memory, with an archive on a simulated
//! disk.

mod conformance;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use sarab_http::pipe::{Client, End, Server, pipe};
use sarab_http::{Connection, Limits, Pool, Stop};
use sarab_site::{BlockDevice, Site};
use web::counters::Counters;
use web::current::Current;
use web::pages::{Host, Pages};
use web::ratelimit::Ratelimit;
use web::turns::Turns;
use xen_blkif::Error;
use xen_blkif::faulty::{DeviceRequest, Faulty};
use xen_blkif::ramdisk::RamDisk;
use xen_hal::Clock;
use xen_sim::{Domain, Xen, check};

/// The machine that the server believes to be on.
#[derive(Clone)]
struct Machine {
    domain: Domain,
    console: Rc<RefCell<Vec<String>>>,
}

impl Host for Machine {
    fn now(&self) -> Duration {
        self.domain.now()
    }

    fn wall(&self) -> Duration {
        Duration::from_secs(1_800_000_000) + self.now()
    }

    fn print(&self, line: fmt::Arguments<'_>) {
        self.console.borrow_mut().push(line.to_string());
    }

    fn metrics(&self, counters: &Counters) -> String {
        format!("web_connections_total {}\n", counters.connections.get())
    }
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mtime(conformance::MODIFIED);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

const LARGE: &[u8] = &[b'x'; 300_000];

fn site() -> Vec<u8> {
    archive(&[
        ("index.html", b"<p>hello"),
        ("a b.txt", b"0123456789"),
        ("docs/index.html", b"<p>docs"),
        ("evil.example/index.html", b"<p>evil"),
        ("\\evil.example/index.html", b"<p>evil"),
        ("style.css", b"body { color: black }\n"),
        ("style.css.gz", b"not really compressed"),
        ("large", LARGE),
    ])
}

/// A server with one site.
struct Web<D: BlockDevice> {
    pages: Pages<D>,
    pool: Pool,
    stop: Stop,
    limits: Limits,
    machine: Machine,
}

impl<D: BlockDevice + 'static> Web<D> {
    async fn new(domain: &Domain, disk: D, transfers: usize) -> Rc<Web<D>> {
        let machine = Machine { domain: domain.clone(), console: Rc::default() };
        let site = Rc::<Current<D>>::default();
        match Site::new(disk, 1 << 20).await {
            Ok(read) => site.serve(read),
            Err(why) => assert!(site.nothing(&why.to_string())),
        }
        Rc::new(Web {
            pages: Pages {
                site,
                hosts: None,
                transfers: Turns::new(transfers),
                counters: Counters::default(),
                messages: Ratelimit::default(),
                boundaries: Default::default(),
                host: Box::new(machine.clone()),
            },
            pool: Pool::new(20),
            stop: Stop::new(),
            limits: Limits::default(),
            machine,
        })
    }

    /// A client's connection, over which so many bytes can be under way.
    fn connect(self: &Rc<Self>, capacity: usize) -> Client {
        let (stream, client) = pipe(capacity);
        let web = self.clone();
        self.machine.domain.spawn(async move { web.serve(stream).await }).detach();
        client
    }

    async fn serve(&self, mut stream: Server) {
        let seat = self.pool.enter().expect("there is a place");
        self.pages.counters.opened();
        let connection = Connection {
            stream: &mut stream,
            buffer: &mut [0; 4096],
            clock: self.machine.domain.clone(),
            seat: &seat,
            stop: &self.stop,
            limits: &self.limits,
        };
        let ended = connection.serve(&self.pages).await;
        self.pages.counters.closed(ended);
    }

    /// What comes of some bytes within a moment, and how the connection is then.
    async fn ask(self: &Rc<Self>, request: &[u8]) -> (String, End) {
        let client = self.connect(1 << 20);
        client.send(request).await;
        self.machine.domain.sleep(Duration::from_millis(50)).await;
        let end = client.end();
        client.close();
        self.machine.domain.sleep(Duration::from_millis(50)).await;
        let answers = if end == End::Open { client.receive(usize::MAX).await } else { client.rest().await };
        (String::from_utf8(answers).unwrap(), end)
    }
}

/// Runs a test of a server with the site.
fn with_site(test: impl AsyncFnOnce(Rc<Web<RamDisk<Domain>>>, Domain) + 'static) {
    with_transfers(4, test);
}

/// The same, of a server with memory for so many transfers.
fn with_transfers(transfers: usize, test: impl AsyncFnOnce(Rc<Web<RamDisk<Domain>>>, Domain) + 'static) {
    with_archive(site(), transfers, test);
}

/// The same, of a server of this archive.
fn with_archive(bytes: Vec<u8>, transfers: usize, test: impl AsyncFnOnce(Rc<Web<RamDisk<Domain>>>, Domain) + 'static) {
    let xen = Xen::new(1);
    let domain = xen.domain();
    xen.run(async move {
        let disk = RamDisk::new(domain.clone(), bytes.len() as u64 / 512).unwrap();
        disk.write_bytes(0, &bytes).await.unwrap();
        let web = Web::new(&domain, disk, transfers).await;
        test(web.clone(), domain.clone()).await;
        web.stop.set();
        domain.sleep(Duration::from_secs(10)).await;
    });
    xen.end();
}

/// The statuses of all answers.
fn statuses(answers: &str) -> Vec<u16> {
    answers.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)?.parse().ok()).collect()
}

/// Requests of any kind: whether the connection ends with the answer, which status it has, and what else is in it.
/// `\n` stands for the end of a line, and the head's end is added where it is missing.
#[rustfmt::skip]
const REQUESTS: &[(&str, u16, bool, &str)] = &[
    // What is usual.
    ("GET / HTTP/1.1\nHost: a", 200, false, "<p>hello"),
    ("GET / HTTP/1.1\nHost: a\nConnection: close", 200, true, "<p>hello"),
    ("GET / HTTP/1.0", 200, true, "<p>hello"),
    ("GET / HTTP/1.0\nConnection: keep-alive", 200, false, "Connection: keep-alive\r\n"),
    ("GET / HTTP/1.9\nHost: a", 200, false, "<p>hello"),
    ("\nGET / HTTP/1.1\nHost: a", 200, false, "<p>hello"),
    ("HEAD / HTTP/1.1\nHost: a", 200, false, "Content-Length: 8\r\n"),
    ("GET /index.html?a=b&c HTTP/1.1\nHost: a:8080", 200, false, "<p>hello"),
    ("GET /a%20b.txt HTTP/1.1\nHost:", 200, false, "0123456789"),
    ("GET /a%20b.txt HTTP/1.1\nHost: a\nRange: bytes=2-4", 206, false, "Content-Range: bytes 2-4/10\r\n"),
    ("GET /a%20b.txt HTTP/1.1\nHost: a\nRange: bytes=20-", 416, false, "Content-Range: bytes */10\r\n"),
    ("GET /a%20b.txt HTTP/1.1\nHost: a\nRange: bytes=0-1\nRange: bytes=2-3", 200, false, "0123456789"),
    ("HEAD /a%20b.txt HTTP/1.1\nHost: a\nRange: bytes=2-4", 200, false, "Content-Length: 10\r\n"),
    ("GET /a%20b.txt HTTP/1.1\nHost: a\nIf-None-Match: *", 304, false, "ETag: \"a-6553f100\"\r\n"),
    ("GET /a%20b.txt HTTP/1.1\nHost: a\nIf-Range: \"x\"\nRange: bytes=2-4", 200, false, "0123456789"),
    ("GET /style.css HTTP/1.1\nHost: a\nAccept-Encoding: br\nAccept-Encoding: gzip", 200, false, "Content-Encoding: gzip\r\n"),
    ("GET /style.css HTTP/1.1\nHost: a\nAccept-Encoding: gzip;q=0", 200, false, "color: black"),
    ("GET /metrics HTTP/1.1\nHost: a", 200, false, "web_connections_total "),
    ("GET /nothing HTTP/1.1\nHost: a", 404, false, "<title>Not found</title>"),
    ("GET http://b/docs/ HTTP/1.1\nHost: a", 200, false, "<p>docs"),
    ("GET http://b HTTP/1.1\nHost: a", 200, false, "<p>hello"),
    ("GET / HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello", 200, false, "<p>hello"),
    ("GET / HTTP/1.1\nHost: a\nUpgrade: h2c\nConnection: Upgrade", 200, false, "<p>hello"),
    // Addresses that lead elsewhere, or out.
    ("GET /docs HTTP/1.1\nHost: a", 301, false, "Location: /docs/\r\n"),
    ("GET //docs HTTP/1.1\nHost: a", 301, false, "Location: /docs/\r\n"),
    ("GET //evil.example HTTP/1.1\nHost: a", 301, false, "Location: /evil.example/\r\n"),
    ("GET /\\evil.example HTTP/1.1\nHost: a", 301, false, "Location: /%5Cevil.example/\r\n"),
    ("GET /%5cevil.example?x=1 HTTP/1.1\nHost: a", 301, false, "Location: /%5Cevil.example/?x=1\r\n"),
    ("GET http://b//docs HTTP/1.1\nHost: a", 301, false, "Location: /docs/\r\n"),
    ("GET /docs?\\\\x HTTP/1.1\nHost: a", 301, false, "Location: /docs/?%5C%5Cx\r\n"),
    ("GET /docs%0d%0aX:y HTTP/1.1\nHost: a", 404, false, ""),
    ("GET /../index.html HTTP/1.1\nHost: a", 400, false, "no name"),
    ("GET /%2e%2e/etc/passwd HTTP/1.1\nHost: a", 400, false, "no name"),
    ("GET /docs/..%2f..%2findex.html HTTP/1.1\nHost: a", 400, false, "no name"),
    ("GET /%00 HTTP/1.1\nHost: a", 400, false, "no name"),
    ("GET /%ff HTTP/1.1\nHost: a", 400, false, "no name"),
    ("GET index.html HTTP/1.1\nHost: a", 400, true, "request target"),
    ("GET * HTTP/1.1\nHost: a", 400, true, "request target"),
    ("GET /#x HTTP/1.1\nHost: a", 400, true, "request target"),
    ("GET ftp://b/ HTTP/1.1\nHost: a", 400, true, "request target"),
    ("GET http://user@b/ HTTP/1.1\nHost: a", 400, true, "request target"),
    // Methods.
    ("POST / HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello", 405, false, "Allow: GET, HEAD, OPTIONS\r\n"),
    ("OPTIONS * HTTP/1.1\nHost: a", 204, false, "Allow: GET, HEAD, OPTIONS\r\n"),
    ("TRACE / HTTP/1.1\nHost: a", 405, false, "Allow: GET, HEAD, OPTIONS\r\n"),
    ("CONNECT a:80 HTTP/1.1\nHost: a", 405, true, "Allow: GET, HEAD, OPTIONS\r\n"),
    ("BREW / HTTP/1.1\nHost: a", 501, false, ""),
    ("get / HTTP/1.1\nHost: a", 501, false, ""),
    ("G\u{7f}T / HTTP/1.1\nHost: a", 400, true, "control character"),
    ("G[T / HTTP/1.1\nHost: a", 400, true, "request line"),
    // Versions.
    ("GET /", 400, true, "request line"),
    ("GET / HTTP/2.0\nHost: a", 505, true, ""),
    ("PRI * HTTP/2.0\n\nSM\n\n", 505, true, ""),
    ("GET / HTTP/0.9\nHost: a", 505, true, ""),
    ("GET / HTTP/1.1 HTTP/1.1\nHost: a", 400, true, "request line"),
    ("GET / http/1.1\nHost: a", 400, true, "request line"),
    ("GET  / HTTP/1.1\nHost: a", 400, true, "request line"),
    ("\n\nGET / HTTP/1.1\nHost: a", 400, true, "request line"),
    ("\u{16}\u{3}\u{1}\u{2}\u{0}", 400, true, "control character"),
    // Host.
    ("GET / HTTP/1.1", 400, true, "no Host"),
    ("GET http://b/ HTTP/1.1", 400, true, "no Host"),
    ("GET / HTTP/1.1\nHost: a\nHost: b", 400, true, "more than one Host"),
    ("GET / HTTP/1.1\nHost: a b", 400, true, "invalid Host"),
    ("GET / HTTP/1.1\nHost: a/b", 400, true, "invalid Host"),
    ("GET / HTTP/1.1\nHost : a", 400, true, "NAME: VALUE"),
    // Header lines.
    ("GET / HTTP/1.1\nHost: a\nno colon", 400, true, "NAME: VALUE"),
    ("GET / HTTP/1.1\nHost: a\n: x", 400, true, "NAME: VALUE"),
    ("GET / HTTP/1.1\nHost: a\nX: y\n z", 400, true, "white space"),
    ("GET / HTTP/1.1\n Host: a", 400, true, "white space"),
    ("GET / HTTP/1.1\nHost: a\nX: y\0z", 400, true, "control character"),
    ("GET / HTTP/1.1\nHost: a\nX: y\rZ: z", 400, true, "control character"),
    // Where content ends.
    ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n0\n\n", 405, false, "Allow: GET, HEAD, OPTIONS\r\n"),
    ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n3;x\nabc\n0\nX: y\n\n", 200, false, "<p>hello"),
    ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n3\nabcd\n0\n\n", 400, true, "chunked"),
    ("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n10001\n\n", 413, true, "too large"),
    ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked", 501, true, "transfer coding"),
    ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: identity", 400, true, "not chunked"),
    ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 4", 400, true, "beside"),
    ("GET / HTTP/1.0\nTransfer-Encoding: chunked", 400, true, "beside"),
    ("GET / HTTP/1.1\nHost: a\nContent-Length: +5\n\nhello", 400, true, "Content-Length"),
    ("GET / HTTP/1.1\nHost: a\nContent-Length: 5,5\n\nhello", 400, true, "Content-Length"),
    ("GET / HTTP/1.1\nHost: a\nContent-Length: 5 5\n\nhello", 400, true, "Content-Length"),
    ("GET / HTTP/1.1\nHost: a\nContent-Length: 5\nContent-Length: 6\n\nhello", 400, true, "Content-Length"),
    ("GET / HTTP/1.1\nHost: a\nContent-Length: 5\nContent-Length: 5\n\nhello", 400, true, "Content-Length"),
    ("GET / HTTP/1.1\nHost: a\nContent-Length: -1", 400, true, "Content-Length"),
    ("GET / HTTP/1.1\nHost: a\nContent-Length: 99999999999999999999", 400, true, "Content-Length"),
    ("POST / HTTP/1.1\nHost: a\nContent-Length: 100000\n\nhello", 413, true, "too large"),
    // What is expected first.
    ("POST / HTTP/1.1\nHost: a\nContent-Length: 5\nExpect: 100-continue", 405, true, "Allow: GET, HEAD, OPTIONS\r\n"),
    ("GET / HTTP/1.1\nHost: a\nContent-Length: 5\nExpect: 100-continue\n\nhello", 200, true, "<p>hello"),
    ("GET / HTTP/1.1\nHost: a\nExpect: 100-continue", 200, false, "<p>hello"),
    ("GET / HTTP/1.1\nHost: a\nExpect: 200-maybe", 417, true, "expectation"),
];

/// The list that the lab runs beside nginx.
#[test]
fn what_http_asks_for() {
    let files = conformance::files();
    let files: Vec<_> = files.iter().map(|(name, bytes)| (*name, &**bytes)).collect();
    with_archive(archive(&files), 4, async |web, domain| {
        let tag = web.ask(b"HEAD /digits.txt HTTP/1.1\r\nHost: a\r\n\r\n").await.0;
        let tag = tag.lines().find_map(|line| line.strip_prefix("ETag: ")).expect("there is a tag").to_owned();
        for (text, expected, nginx) in conformance::CASES {
            match nginx {
                conformance::Nginx::Same => {}
                conformance::Nginx::Statuses(listed, why) => assert!(listed != expected && !why.is_empty(), "{text:?}"),
                conformance::Nginx::Fields(why) => assert!(!why.is_empty(), "{text:?}"),
            }
            let client = web.connect(1 << 20);
            let mut answers = Vec::new();
            for (at, part) in conformance::parts(text, &tag).iter().enumerate() {
                if at > 0 {
                    answers.extend(client.receive(usize::MAX).await);
                }
                client.send(part).await;
            }
            domain.sleep(Duration::from_millis(50)).await;
            client.close();
            answers.extend(client.rest().await);
            let found = conformance::answers(&answers, &(text.to_string() + conformance::PROBE));
            let statuses: Vec<_> = found.iter().map(|answer| answer.status).collect();
            assert_eq!(statuses, *expected, "{text:?}: {}", String::from_utf8_lossy(&answers));
            // Every answer of a server that knows the time tells it, but for 100 (RFC 9110, 6.6.1).
            let finals = statuses.iter().filter(|status| **status != 100).count();
            let told = String::from_utf8_lossy(&answers);
            assert_eq!(told.matches("\r\nDate: Fri, 15 Jan 2027 08:00:").count(), finals, "{told}");
            // What came behind is answered where the connection goes on.
            let alive = found.last().is_some_and(|answer| answer.content == b"probe");
            assert_eq!(alive, expected.iter().filter(|status| **status != 100).count() > 1, "{text:?}: {told}");
        }
    });
}

#[test]
fn requests_and_their_answers() {
    with_site(async |web, _| {
        for (text, status, closes, expected) in REQUESTS {
            let mut request = text.replace('\n', "\r\n");
            if !request.contains("\r\n\r\n") || request.starts_with("\r\n\r\n") {
                request += "\r\n\r\n";
            }
            let (answer, end) = web.ask(request.as_bytes()).await;
            let told = format!("{text:?}: {answer}");
            assert_eq!(statuses(&answer), [*status], "{told}");
            assert_eq!(end, if *closes { End::Closed } else { End::Open }, "{told}");
            // Who is told that it is the last one is not to be left waiting, nor the other way round.
            assert_eq!(answer.contains("\r\nConnection: close\r\n"), *closes, "{told}");
            assert!(answer.contains(expected), "no {expected:?} in {told}");
            assert!(
                answer.ends_with("\r\n\r\n") == (text.starts_with("HEAD") || matches!(status, 204 | 304)),
                "{told}"
            );
        }
        assert_eq!(web.machine.console.borrow().len(), 0);
    });
}

#[test]
fn lines_that_are_too_long() {
    with_site(async |web, _| {
        let long = "x".repeat(5000);
        for (request, status) in [
            (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
            (long.clone(), 414),
            (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431),
            (format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(1000)), 431),
            // A bare LF, which the table cannot have.
            ("GET / HTTP/1.1\nHost: a\n\n".into(), 400),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n".into(), 400),
        ] {
            let (answer, end) = web.ask(request.as_bytes()).await;
            assert_eq!((statuses(&answer), end), (vec![status], End::Closed), "{:.60}: {answer}", request);
        }
        // Just as long as it may be.
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", &long[..4096 - 32]);
        assert_eq!(request.len(), 4096);
        assert_eq!(statuses(&web.ask(request.as_bytes()).await.0), [200]);
    });
}

/// Content that holds a request is no request: one answer, and then the end.
#[test]
fn nothing_is_smuggled() {
    with_site(async |web, _| {
        let second = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        let chunked = format!("{:x}\r\n{second}\r\n0\r\n\r\n{second}", second.len());
        for (fields, status) in [
            ("Content-Length: 4\r\nTransfer-Encoding: chunked", 400),
            ("Transfer-Encoding : chunked", 400),
            ("Transfer-Encoding: x\r\nTransfer-Encoding: chunked", 501),
            ("X: y\r\n Transfer-Encoding: chunked", 400),
            ("X: y\nTransfer-Encoding: chunked", 400),
            ("Content-Length: 0\r\nContent-Length: 4", 400),
            ("Content-Length: 4\r\nExpect: 100-continue", 405),
        ] {
            for method in ["GET", "POST"] {
                let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{chunked}");
                let (answer, end) = web.ask(request.as_bytes()).await;
                let status = if (method, status) == ("GET", 405) { 200 } else { status };
                assert_eq!((statuses(&answer), end), (vec![status], End::Closed), "{request}: {answer}");
                assert!(!answer.contains("web_connections_total"), "{request}: {answer}");
            }
        }
        // In chunks it is what it is.
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}");
        assert_eq!(statuses(&web.ask(request.as_bytes()).await.0), [405, 200]);
        // And where its length is known, what is behind it is answered.
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{second}{second}", second.len());
        assert_eq!(statuses(&web.ask(request.as_bytes()).await.0), [405, 200]);
    });
}

/// Clients that read nothing hold their own buffers, and not what others need to be served.
#[test]
fn who_reads_nothing_is_not_in_the_way() {
    with_site(async |web, domain| {
        let request = b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        // Four answers may be read from the disk at once.
        let slow: Vec<_> = (0..10).map(|_| web.connect(20_000)).collect();
        for client in &slow {
            client.send(request).await;
        }
        domain.sleep(Duration::from_millis(300)).await;
        let start = domain.now();
        let quick = web.connect(20_000);
        quick.send(request).await;
        assert!(quick.rest().await.ends_with(LARGE));
        assert!(domain.now() - start < Duration::from_secs(1), "{:?}", domain.now() - start);
        // Whoever goes on reading gets the rest, and all of it.
        for client in &slow[..5] {
            assert!(client.rest().await.ends_with(LARGE));
            client.close();
        }
        domain.sleep(Duration::from_secs(12)).await;
        assert!(slow[5..].iter().all(|client| client.end() == End::Aborted));
    });
}

/// Clients that read slowly, but so steadily that none is ever waited for, have their turns as others do; and all of
/// them get what they have asked for.
#[test]
fn who_reads_slowly_and_steadily_is_not_in_the_way() {
    with_site(async |web, domain| {
        let request = b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        // Twice as many as there are answers from the disk at once.
        let slow = futures_util::future::join_all((0..8).map(|_| async {
            let client = web.connect(20_000);
            client.send(request).await;
            let mut answer = Vec::new();
            while !answer.ends_with(LARGE) && client.end() != End::Aborted {
                answer.extend(client.receive(4096).await);
                domain.sleep(Duration::from_millis(80)).await;
            }
            client.close();
            answer.ends_with(LARGE)
        }));
        let quick = async {
            domain.sleep(Duration::from_secs(2)).await;
            let (client, start) = (web.connect(20_000), domain.now());
            client.send(request).await;
            assert!(client.rest().await.ends_with(LARGE));
            domain.now() - start
        };
        let (slow, took) = futures_util::future::join(slow, quick).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert!(slow.into_iter().all(|whole| whole));
    });
}

/// Who waits for long is told when to try again.
#[test]
fn who_gets_no_turn_is_told_so() {
    with_transfers(0, async |web, domain| {
        let (client, start) = (web.connect(20_000), domain.now());
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = String::from_utf8(client.rest().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("\r\nRetry-After: 10\r\n"), "{answer}");
        assert_eq!((client.end(), (domain.now() - start).as_secs()), (End::Closed, 10));
        client.close();
    });
}

/// A disk that fails is said so, to the client and on the console: there a few times in a minute, and not for each request.
#[test]
fn a_disk_that_fails() {
    check("a disk that fails", 5, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let bytes = site();
            let disk = RamDisk::new(domain.clone(), bytes.len() as u64 / 512).unwrap();
            disk.write_bytes(0, &bytes).await.unwrap();
            let fails = Rc::new(std::cell::Cell::new(u64::MAX));
            let failing = fails.clone();
            let disk = Faulty::new(disk, async move |ask| match ask {
                DeviceRequest::Read(sector, count) if sector + count > failing.get() => {
                    Err(Error::Failed { operation: "read", sector })
                }
                _ => Ok(()),
            });
            let web = Web::new(&domain, disk, 4).await;
            // In the middle of an answer: it is cut.
            fails.set(bytes.len() as u64 / 512 - 100);
            let (answer, end) = web.ask(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(answer.len() > 200_000 && end == End::Aborted);
            assert!(web.machine.console.borrow()[0].starts_with("web: \"/large\": cut at byte "));
            fails.set(0);
            for _ in 0..100 {
                let (answer, end) = web.ask(b"GET /docs/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
                assert!(answer.starts_with("HTTP/1.1 500") && end == End::Open, "{answer}");
            }
            assert_eq!(web.machine.console.borrow().len(), 10);
            domain.sleep(Duration::from_secs(60)).await;
            web.ask(b"GET /docs/ HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(web.machine.console.borrow()[10], "web: 91 messages suppressed");
            assert_eq!(web.machine.console.borrow().len(), 12);
            assert_eq!(statuses(&web.ask(b"GET /metrics HTTP/1.0\r\n\r\n").await.0), [200]);
            web.stop.set();
            domain.sleep(Duration::from_secs(10)).await;
        });
    });
}

#[test]
fn without_a_site() {
    let xen = Xen::new(1);
    let domain = xen.domain();
    xen.run(async move {
        let disk = RamDisk::new(domain.clone(), 8).unwrap();
        let web = Web::new(&domain, disk, 1).await;
        let (answer, _) = web.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("There is no site to serve yet: it is empty"));
        web.stop.set();
        domain.sleep(Duration::from_secs(10)).await;
    });
    xen.end();
}
