//! What the fuzz target runs, with any bytes: a panic is a bug. The tests run it with random ones.

use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::convert::Infallible;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use embedded_io_async::{ErrorType, Read, Write};
use xen_hal::Clock;

use crate::{
    Chunked, Condition, Connection, HttpDate, Limits, Method, Pool, Ranges, Refusal, Request, Response, Scanner,
    Service, Stop, Stream, Text, Validators,
};

/// A client that sends these bytes, in pieces whose lengths the first of them say.
pub fn http(data: &[u8]) {
    let Some((pieces, sent)) = data.split_at_checked(8) else { return };
    let answers = connection(sent, pieces);
    // However it is cut into pieces, the same is understood.
    assert_eq!(answers, connection(sent, &[255]));
    heads(sent);
}

/// What a server says to these bytes: the heads of its answers.
fn connection(sent: &[u8], pieces: &[u8]) -> Vec<String> {
    let mut stream = Recorder { sent, pieces: pieces.iter().cycle(), received: Vec::new(), open: true };
    let (pool, stop, limits) = (Pool::new(1), Stop::new(), Limits { content: 300, ..Limits::default() });
    let seat = pool.enter().expect("it has one place");
    let mut buffer = [0; 512];
    let service = Echo(RefCell::default());
    let connection = Connection {
        stream: &mut stream,
        buffer: &mut buffer,
        clock: Never,
        seat: &seat,
        stop: &stop,
        limits: &limits,
    };
    {
        let serving = pin!(connection.serve(&service));
        assert!(serving.poll(&mut Context::from_waker(Waker::noop())).is_ready(), "nothing is waited for");
    }
    let mut answers = Vec::new();
    let mut without_content = service.0.into_inner().into_iter();
    let mut rest = core::str::from_utf8(&stream.received).expect("what is answered is text");
    while !rest.is_empty() {
        let (head, after) = rest.split_once("\r\n\r\n").expect("a head ends");
        assert!(head.starts_with("HTTP/1.1 ") && head.split("\r\n").all(|line| !line.contains(['\r', '\n'])), "{head}");
        if head == "HTTP/1.1 100 Continue" {
            rest = after;
            answers.push(head.into());
            continue;
        }
        let length = head.split("\r\n").find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
        let asked = without_content.next();
        let length = if asked == Some(true) { 0 } else { length.parse().expect("a number") };
        rest = after.get(length..).expect("as much as it says");
        // What is refused is the last thing that is answered, and nothing that the service has seen.
        let last = head.ends_with("Connection: close");
        assert_eq!(asked.is_none(), !head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(!(last || asked.is_none()) || (last && rest.is_empty()), "{head}: {rest}");
        answers.push(head.into());
    }
    assert_eq!(without_content.next(), None);
    answers
}

/// Whether a head means the same to another reader.
fn heads(sent: &[u8]) {
    let mut rest = sent;
    while let Ok(Some(head)) = Scanner::new().scan(rest) {
        let head = &rest[head.clone()];
        let Ok(request) = Request::parse(head) else { return };
        {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut other = httparse::Request::new(&mut fields);
            match other.parse(head) {
                Ok(status) => {
                    assert_eq!(status, httparse::Status::Complete(head.len()));
                    assert_eq!(other.version == Some(0), request.is_1_0);
                    let theirs = other.headers.iter().map(|field| (field.name, field.value));
                    assert!(request.fields.iter().eq(theirs), "{:?}", String::from_utf8_lossy(head));
                }
                Err(httparse::Error::TooManyHeaders) => {}
                // It takes no later version than 1.1, and fewer names for methods and targets.
                Err(httparse::Error::Version | httparse::Error::Token) => {}
                Err(error) => panic!("{error}: {:?}", String::from_utf8_lossy(head)),
            }
        }
        let (tag, now) = ("\"x\"", HttpDate::from_unix(1_800_000_000).expect("it is one"));
        let state = Validators { tag, modified: HttpDate::from_unix(784_111_777), now };
        let lists = ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"];
        if state.evaluate(request.fields) != Condition::Met {
            assert!(lists.iter().any(|name| request.fields.iter().any(|(own, _)| own.eq_ignore_ascii_case(name))));
        }
        let _ = state.range_applies(request.fields);
        for range in request.fields.all("range") {
            if let Ranges::Many(parts) = Ranges::parse(range, 1000) {
                assert!(parts.len() <= 16 && parts.iter().all(|part| part.start < part.end && part.end <= 1000));
            }
        }
        for (name, value) in request.fields.iter() {
            assert!(!name.is_empty() && !value.iter().any(|byte| *byte != b'\t' && byte.is_ascii_control()));
        }
        let start = head.as_ptr() as usize - rest.as_ptr() as usize + head.len();
        let content = if request.is_chunked {
            let mut content = Chunked::new(1 << 20);
            let Ok(len) = content.follow(&rest[start..]) else { return };
            chunks(&rest[start..start + len], content.is_over());
            len
        } else {
            usize::try_from(request.content).unwrap_or(usize::MAX)
        };
        let Some(after) = rest[start..].get(content..) else { return };
        rest = after;
    }
}

/// Whether chunks have the lengths that another reader sees.
fn chunks(content: &[u8], is_over: bool) {
    let mut rest = content;
    loop {
        match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete((start, 0))) => {
                let mut fields = [httparse::EMPTY_HEADER; 64];
                match httparse::parse_headers(&rest[start..], &mut fields) {
                    Ok(httparse::Status::Complete((len, _))) => assert!(is_over && start + len == rest.len()),
                    Ok(httparse::Status::Partial) => assert!(!is_over),
                    Err(httparse::Error::TooManyHeaders) => {}
                    Err(error) => panic!("{error}: {:?}", String::from_utf8_lossy(rest)),
                }
                return;
            }
            Ok(httparse::Status::Complete((start, len))) => {
                let end = usize::try_from(len).unwrap_or(usize::MAX).saturating_add(start);
                match rest.get(end..) {
                    Some([b'\r', b'\n', after @ ..]) => rest = after,
                    _ => return assert!(!is_over),
                }
            }
            Ok(httparse::Status::Partial) => return assert!(!is_over),
            // It takes no white space, and fewer bytes in extensions.
            Err(_) => return,
        }
    }
}

/// Says what was asked for, and keeps whether that was without content.
struct Echo(RefCell<Vec<bool>>);

impl Service for Echo {
    type Content<'a> = Text;

    async fn answer(&self, request: &Request<'_>) -> Response<Text> {
        assert!(request.path.starts_with('/') || matches!(request.method, Method::Other("OPTIONS" | "CONNECT")));
        self.0.borrow_mut().push(request.method == Method::Head);
        let text = alloc::format!("{:?} {:?} {:?}", request.method, request.path, request.query);
        Response::new(200, Text::new("text/plain", text))
    }

    fn refuse(&self, refusal: Refusal) -> Response<Text> {
        Response::new(refusal.status(), Text::new("text/plain", alloc::format!("{refusal}")))
    }
}

/// No time passes.
struct Never;

impl Clock for Never {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn poll_until(&self, _: Duration, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// Sends what it is told to, in pieces, and keeps what is said.
struct Recorder<'a> {
    sent: &'a [u8],
    pieces: core::iter::Cycle<core::slice::Iter<'a, u8>>,
    received: Vec<u8>,
    open: bool,
}

impl ErrorType for Recorder<'_> {
    type Error = Infallible;
}

impl Read for Recorder<'_> {
    async fn read(&mut self, to: &mut [u8]) -> Result<usize, Infallible> {
        let piece = usize::from(*self.pieces.next().expect("there is one")).max(1);
        let (now, later) = self.sent.split_at(piece.min(to.len()).min(self.sent.len()));
        to[..now.len()].copy_from_slice(now);
        self.sent = later;
        Ok(now.len())
    }
}

impl Write for Recorder<'_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        assert!(self.open);
        self.received.extend(bytes);
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl Stream for Recorder<'_> {
    async fn room(&mut self, _: usize) -> Result<usize, Infallible> {
        // Less than is wished, now and then.
        Ok(1 + self.received.len() % 100)
    }

    fn close(&mut self) {
        self.open = false;
    }

    fn abort(&mut self) {
        self.open = false;
    }
}
