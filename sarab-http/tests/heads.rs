//! Request heads, well-formed and not.

use proptest::prelude::*;
use sarab_http::{Method, Refusal, Request, Scanner, fuzzing};

fn parse(head: &[u8]) -> Result<Option<Request<'_>>, Refusal> {
    match Scanner::new().scan(head)? {
        Some(range) => Request::parse(&head[range]).map(Some),
        None => Ok(None),
    }
}

/// A request with these lines, each of which ends as it should.
fn lines(lines: &str) -> String {
    lines.replace('\n', "\r\n") + "\r\n\r\n"
}

#[test]
fn what_is_refused() {
    use Refusal::*;
    for (head, refusal) in [
        // Request lines (RFC 9112, 3).
        ("GET /\nHost: a", RequestLine),
        ("GET", RequestLine),
        ("GET  / HTTP/1.1\nHost: a", RequestLine),
        ("GET / HTTP/1.1 \nHost: a", RequestLine),
        (" GET / HTTP/1.1\nHost: a", RequestLine),
        ("GET\t/ HTTP/1.1\nHost: a", RequestLine),
        ("G(T / HTTP/1.1\nHost: a", RequestLine),
        ("GET / http/1.1\nHost: a", RequestLine),
        ("GET / HTTP/1.11\nHost: a", RequestLine),
        ("GET / HTTP/1\nHost: a", RequestLine),
        ("GET / HTTP/ 1.1\nHost: a", RequestLine),
        ("GET / FTP/1.1\nHost: a", RequestLine),
        ("\n\nGET / HTTP/1.1\nHost: a", RequestLine),
        ("PRI * HTTP/2.0\n\nSM", Version),
        ("GET / HTTP/2.0\nHost: a", Version),
        ("GET / HTTP/0.9", Version),
        // Targets (3.2).
        ("GET docs HTTP/1.1\nHost: a", Target),
        ("GET * HTTP/1.1\nHost: a", Target),
        ("GET a:80 HTTP/1.1\nHost: a", Target),
        ("GET /#x HTTP/1.1\nHost: a", Target),
        ("GET ftp://a/ HTTP/1.1\nHost: a", Target),
        ("GET http:///x HTTP/1.1\nHost: a", Target),
        ("GET http://user@a/ HTTP/1.1\nHost: a", Target),
        ("GET http://a:b/ HTTP/1.1\nHost: a", Target),
        ("GET http:/x HTTP/1.1\nHost: a", Target),
        // Field lines (5).
        ("GET / HTTP/1.1\nHost : a", FieldName),
        ("GET / HTTP/1.1\nHost\t: a", FieldName),
        ("GET / HTTP/1.1\nHost", FieldName),
        ("GET / HTTP/1.1\nHost: a\n: b", FieldName),
        ("GET / HTTP/1.1\nHost: a\nX Y: b", FieldName),
        ("GET / HTTP/1.1\nHost: a\nX: 1\n 2", Folded),
        ("GET / HTTP/1.1\nHost: a\nX: 1\n\t2", Folded),
        ("GET / HTTP/1.1\n Host: a", Folded),
        // Host (3.2).
        ("GET / HTTP/1.1", NoHost),
        ("GET http://a/ HTTP/1.1", NoHost),
        ("GET / HTTP/1.1\nHost: a\nHost: a", ManyHosts),
        ("GET / HTTP/1.0\nHost: a\nhost: b", ManyHosts),
        ("GET / HTTP/1.1\nHost: a b", Host),
        ("GET / HTTP/1.1\nHost: a/b", Host),
        ("GET / HTTP/1.1\nHost: a@b", Host),
        ("GET / HTTP/1.1\nHost: a,b", Host),
        ("GET / HTTP/1.1\nHost: a:b", Host),
        ("GET / HTTP/1.1\nHost: [::1", Host),
        ("GET / HTTP/1.1\nHost: [x]", Host),
        // Content-Length (RFC 9110, 8.6).
        ("GET / HTTP/1.1\nHost: a\nContent-Length: +5", ContentLength),
        ("GET / HTTP/1.1\nHost: a\nContent-Length: -5", ContentLength),
        ("GET / HTTP/1.1\nHost: a\nContent-Length: 5,5", ContentLength),
        ("GET / HTTP/1.1\nHost: a\nContent-Length: 5 5", ContentLength),
        ("GET / HTTP/1.1\nHost: a\nContent-Length: 0x5", ContentLength),
        ("GET / HTTP/1.1\nHost: a\nContent-Length: 5.0", ContentLength),
        ("GET / HTTP/1.1\nHost: a\nContent-Length:", ContentLength),
        ("GET / HTTP/1.1\nHost: a\nContent-Length: ٥", ContentLength),
        ("GET / HTTP/1.1\nHost: a\nContent-Length: 18446744073709551616", ContentLength),
        ("GET / HTTP/1.1\nHost: a\nContent-Length: 5\nContent-Length: 5", ContentLength),
        ("GET / HTTP/1.1\nHost: a\nContent-Length: 5\ncontent-length: 6", ContentLength),
        // Transfer-Encoding (RFC 9112, 6.1 and 6.3).
        ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked", UnknownEncoding),
        ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip\nTransfer-Encoding: chunked", UnknownEncoding),
        ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked, chunked", EndlessEncoding),
        ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: x", EndlessEncoding),
        ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: identity", EndlessEncoding),
        ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: xchunked", EndlessEncoding),
        ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: \"chunked\"", EndlessEncoding),
        ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked;q=1", EndlessEncoding),
        ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding:", EndlessEncoding),
        ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 5", AmbiguousLength),
        ("GET / HTTP/1.1\nHost: a\nContent-Length: 5\nTransfer-Encoding: x", AmbiguousLength),
        ("GET / HTTP/1.0\nTransfer-Encoding: chunked", AmbiguousLength),
        // Expect (RFC 9110, 10.1.1).
        ("GET / HTTP/1.1\nHost: a\nExpect: other", Expectation),
        ("GET / HTTP/1.1\nHost: a\nExpect: 100-continue, other", Expectation),
    ] {
        let head = lines(head);
        assert_eq!(parse(head.as_bytes()).unwrap_err(), refusal, "{head:?}");
    }
}

/// Where a line ends is the same for every reader (RFC 9112, 2.2 and 11.1).
#[test]
fn bytes_that_no_head_has() {
    let whole = lines("GET /a?b HTTP/1.1\nHost: a\nX: b").into_bytes();
    for byte in (0..=255_u8).filter(|byte| byte.is_ascii_control()) {
        for at in 0..whole.len() {
            let mut head = whole.clone();
            head.insert(at, byte);
            let tab_in_value = byte == b'\t' && parse(&head).is_ok();
            let in_lines = at >= whole.len() - 2 || (at == 0 && byte == b'\r');
            assert!(tab_in_value || in_lines || parse(&head).is_err(), "{byte:#x} at {at}");
        }
    }
    for (head, why) in [
        (&b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..], "LF alone"),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", "LF alone"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", "LF alone"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rY: c\r\n\r\n", "CR alone"),
        (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "two CR"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", "NUL"),
        (b"\x16\x03\x01\x02", "the begin of TLS"),
    ] {
        assert_eq!(parse(head).unwrap_err(), Refusal::ControlCharacter, "{why}");
    }
    assert_eq!(parse(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n").unwrap_err(), Refusal::Target);
}

#[test]
fn what_is_understood() {
    let (get, head) = (Method::Get, Method::Head);
    for (text, method, path, query, keep_alive, content) in [
        ("GET / HTTP/1.1\nHost: a", get, "/", None, true, 0),
        ("\nGET / HTTP/1.1\nHost: a", get, "/", None, true, 0),
        ("GET / HTTP/1.2\nHost:", get, "/", None, true, 0),
        ("HEAD //a/?b?c HTTP/1.1\nhOST: [::1]:80", head, "//a/", Some("b?c"), true, 0),
        ("GET http://b HTTP/1.1\nHost: a", get, "/", None, true, 0),
        ("GET HTTPS://b:80?x HTTP/1.1\nHost: a", get, "/", Some("x"), true, 0),
        ("GET http://[::1]/c/d HTTP/1.1\nHost: a", get, "/c/d", None, true, 0),
        ("OPTIONS * HTTP/1.1\nHost: a", Method::Other("OPTIONS"), "*", None, true, 0),
        ("CONNECT a:80 HTTP/1.1\nHost: a", Method::Other("CONNECT"), "a:80", None, false, 0),
        ("get / HTTP/1.1\nHost: a", Method::Unknown("get"), "/", None, true, 0),
        ("BREW / HTTP/1.1\nHost: a", Method::Unknown("BREW"), "/", None, true, 0),
        ("GET /ü HTTP/1.1\nHost: a", get, "/ü", None, true, 0),
        ("GET / HTTP/1.0", get, "/", None, false, 0),
        ("GET / HTTP/1.0\nConnection: Keep-Alive", get, "/", None, true, 0),
        ("GET / HTTP/1.1\nHost: a\nConnection: x, Close", get, "/", None, false, 0),
        ("GET / HTTP/1.1\nHost: a\nConnection: keep-alive\nConnection: close", get, "/", None, false, 0),
        ("GET / HTTP/1.1\nHost: a\nContent-Length: 0005", get, "/", None, true, 5),
        ("POST / HTTP/1.1\nHost: a\nContent-Length:\t7 ", Method::Other("POST"), "/", None, true, 7),
        ("GET / HTTP/1.1\nHost: a\nX:\nY:  \u{e9} ", get, "/", None, true, 0),
    ] {
        let text = lines(text);
        let request = parse(text.as_bytes()).unwrap().unwrap();
        let found = (request.method, request.path, request.query, request.keep_alive, request.content);
        assert_eq!(found, (method, path, query, keep_alive, content), "{text:?}");
        assert!(!request.expects_continue);
    }
    let text = lines("GET / HTTP/1.1\nHost: a\nA: 1\na:2\t\nContent-Length: 1\nExpect: 100-Continue");
    let request = parse(text.as_bytes()).unwrap().unwrap();
    assert!(request.expects_continue && request.fields.all("A").eq(["1", "2"]));
    assert_eq!((request.fields.one("a"), request.fields.one("host")), (None, Some("a")));
    // It has nothing to wait for.
    for head in ["GET / HTTP/1.1\nHost: a\nExpect: 100-continue", "GET / HTTP/1.0\nContent-Length: 1\nExpect: x"] {
        assert!(!parse(lines(head).as_bytes()).unwrap().unwrap().expects_continue);
    }
}

/// The host is what the target names, or else the field.
#[test]
fn whose_host_is_meant() {
    for (text, host, line) in [
        ("GET / HTTP/1.1\nHost: a:80", "a:80", "GET / HTTP/1.1"),
        ("GET http://b/ HTTP/1.1\nHost: a", "b", "GET http://b/ HTTP/1.1"),
        ("OPTIONS http://b:8080 HTTP/1.1\nHost: a", "b:8080", "OPTIONS http://b:8080 HTTP/1.1"),
        ("\nGET / HTTP/1.1\nHost:", "", "GET / HTTP/1.1"),
        ("GET / HTTP/1.0", "", "GET / HTTP/1.0"),
    ] {
        let text = lines(text);
        let request = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!((request.host, request.line), (host, line));
        assert_eq!(request.path, if host == "b:8080" { "*" } else { "/" });
    }
    for value in ["chunked", "Chunked", "\tchunked ", ", chunked ,"] {
        let text = lines(&format!("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: {value}\nExpect: 100-continue"));
        let request = parse(text.as_bytes()).unwrap().unwrap();
        assert!(request.is_chunked && request.content == 0 && request.keep_alive && request.expects_continue);
    }
}

/// A head that is not whole is waited for, and refused as soon as it cannot become one.
#[test]
fn heads_are_looked_at_while_they_come() {
    let whole = lines("GET / HTTP/1.1\nHost: a").into_bytes();
    for end in 0..whole.len() {
        assert!(parse(&whole[..end]).unwrap().is_none());
    }
    assert_eq!(parse(b"GET /\r\n").unwrap_err(), Refusal::RequestLine);
    assert_eq!(parse(b"GET / HTTP/1.1\r\nHost : a\r\n").unwrap_err(), Refusal::FieldName);
    let mut scanner = Scanner::new();
    scanner.scan(b"GET /aaaa").unwrap();
    assert_eq!(scanner.too_long(), Refusal::TargetTooLong);
    scanner.scan(b"GET /aaaa HTTP/1.1\r\n").unwrap();
    assert_eq!(scanner.too_long(), Refusal::HeadTooLarge);
}

/// Pieces of requests, of which many make heads and nearly heads.
const PIECES: [&str; 42] = [
    "OPTIONS ",
    "If-Match: \"x\"",
    "If-None-Match: W/\"x\", *",
    "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    "If-Range: \"x\"",
    "Range: bytes=0-1,-5,200-",
    "1;a\r\nx\r\n",
    "0\r\nX: y\r\n\r\n",
    "GET ",
    "HEAD ",
    "POST ",
    "/",
    "/a?b",
    "http://h",
    "*",
    " HTTP/1.1",
    " HTTP/1.0",
    " HTTP/2.0",
    "\r\n",
    "\r\n",
    "\r\n",
    "\r\n\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    ": ",
    "Host: a",
    "Content-Length: 5",
    "Content-Length: 18446744073709551615",
    "Transfer-Encoding: chunked",
    "Connection: close",
    "Expect: 100-continue",
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "X: y",
    "GET / HTTP/1.1\r\nHost: a\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_pieces(lengths in prop::array::uniform8(any::<u8>()), pieces in prop::collection::vec(0..PIECES.len(), 0..30)) {
        let sent: Vec<u8> = pieces.into_iter().flat_map(|piece| PIECES[piece].bytes()).collect();
        fuzzing::http(&[&lengths[..], &sent].concat());
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzzing::http(&bytes);
    }
}
