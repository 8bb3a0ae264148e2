//! TLS: what a server's client and a client's server send, and PEM text.
//!
//! The first byte says what the rest is: all that comes to a server, or to a client; PEM text; or changes to what passes between two
//! ends that keep to the protocol, each a place and a byte to add there.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join;
use futures_util::task::noop_waker_ref;
use sarab_tls::{Certificates, Client, ClientOptions, Roots, Server, ServerOptions};

pub(super) const SHORT: u32 = 60;

const PEM: &str = concat!(
    include_str!("../../../sarab-tls/tests/data/p256.pem"),
    include_str!("../../../sarab-tls/tests/data/p256.key")
);
const ROOT: &[u8] = include_bytes!("../../../sarab-tls/tests/data/root.pem");

/// Polls that an end may take: more than the longest input has bytes.
const POLLS: usize = 1 << 20;

#[derive(Default)]
struct Way {
    bytes: VecDeque<u8>,
    closed: bool,
    /// How many have passed, and what is added to which.
    passed: usize,
    changes: Vec<(usize, u8)>,
}

struct End {
    from: Rc<RefCell<Way>>,
    to: Rc<RefCell<Way>>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.to.borrow_mut().closed = true;
    }
}

impl embedded_io_async::ErrorType for End {
    type Error = Infallible;
}

impl embedded_io_async::Read for End {
    async fn read(&mut self, to: &mut [u8]) -> Result<usize, Infallible> {
        std::future::poll_fn(|_| {
            let mut way = self.from.borrow_mut();
            if way.bytes.is_empty() && !way.closed {
                return Poll::Pending;
            }
            let len = to.len().min(way.bytes.len());
            way.bytes.drain(..len).zip(to.iter_mut()).for_each(|(byte, to)| *to = byte);
            Poll::Ready(Ok(len))
        })
        .await
    }
}

impl embedded_io_async::Write for End {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        let mut way = self.to.borrow_mut();
        for byte in bytes {
            let change = way.changes.iter().filter(|(at, _)| *at == way.passed).fold(0, |all, (_, add)| all ^ add);
            way.passed += 1;
            way.bytes.push_back(byte ^ change);
        }
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

fn finish<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(noop_waker_ref());
    for _ in 0..POLLS {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return Some(value);
        }
    }
    None
}

fn now() -> Duration {
    Duration::from_secs(2_000_000_000)
}

fn server() -> Server {
    let certificates = Certificates::new().with_bundle(PEM.as_bytes()).unwrap();
    Server::new(certificates, ServerOptions::default(), now).unwrap()
}

fn client() -> Client {
    Client::new(Roots::from_pem(ROOT).unwrap(), ClientOptions::default(), now).unwrap()
}

/// Ends of a connection; what passes in each direction.
fn ends() -> (End, End) {
    let (there, back) = (Rc::<RefCell<Way>>::default(), Rc::<RefCell<Way>>::default());
    (End { from: there.clone(), to: back.clone() }, End { from: back, to: there })
}

/// An end to which these bytes come, and nothing more.
fn fed(bytes: &[u8]) -> End {
    let (end, _other) = ends();
    end.from.borrow_mut().bytes.extend(bytes);
    end.from.borrow_mut().closed = true;
    end
}

/// Reads to the end. The memory that is held meanwhile has a bound.
async fn drain(stream: &mut sarab_tls::TlsStream<End>) -> bool {
    use embedded_io_async::Read;
    let mut bytes = [0; 1000];
    loop {
        match stream.read(&mut bytes).await {
            Ok(0) => return true,
            Ok(_) => assert!(stream.buffered() <= 80 << 10, "{} bytes are held", stream.buffered()),
            Err(_) => return false,
        }
    }
}

async fn say(stream: &mut sarab_tls::TlsStream<End>) {
    use embedded_io_async::Write;
    let _ = stream.write_all(&[7; 3000]).await;
    let _ = stream.update_keys().await;
    let _ = stream.write_all(b"the end").await;
    let _ = stream.close().await;
}

fn both(changes: &[u8]) {
    let (one, two) = ends();
    for change in changes.chunks_exact(4).take(16) {
        let way = if change[0] & 0x80 == 0 { &one.from } else { &one.to };
        let at = usize::from(u16::from_be_bytes([change[1], change[2]]));
        way.borrow_mut().changes.push((at, change[3]));
    }
    let changed = |way: &Rc<RefCell<Way>>| {
        let way = way.borrow();
        way.changes.iter().any(|(at, add)| *add != 0 && *at < way.passed)
    };
    let (there, back) = (one.from.clone(), one.to.clone());
    let (server, client) = (server(), client());
    let serve = async {
        let mut stream = server.accept(one).await.ok()?;
        say(&mut stream).await;
        drain(&mut stream).await.then_some(())
    };
    let ask = async {
        let mut stream = client.connect("one.test", two).await.ok()?;
        say(&mut stream).await;
        drain(&mut stream).await.then_some(())
    };
    let ended = finish(join(serve, ask)).expect("a connection ends");
    if !changed(&there) && !changed(&back) {
        assert_eq!(ended, (Some(()), Some(())), "nothing was changed");
    }
}

pub(super) fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 4 {
        0 => {
            let ended = finish(async { server().accept(fed(rest)).await.map(drop) });
            ended.expect("a server does not wait for what cannot come").expect_err("nobody can guess a Finished");
        }
        1 => {
            let ended = finish(async { client().connect("one.test", fed(rest)).await.map(drop) });
            ended.expect("a client does not wait for what cannot come").expect_err("nobody has the key");
        }
        2 => {
            let _ = Certificates::new().with_bundle(rest);
            let _ = Roots::from_pem(rest);
        }
        _ => both(rest),
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let (_server_end, client_end) = ends();
    let sent = client_end.to.clone();
    let client = client();
    let mut connect = pin!(client.connect("one.test", client_end));
    let _ = connect.as_mut().poll(&mut Context::from_waker(noop_waker_ref()));
    let hello: Vec<u8> = sent.borrow().bytes.iter().copied().collect();
    let (server_end, _end) = ends();
    server_end.from.borrow_mut().bytes.extend(&hello);
    let sent = server_end.to.clone();
    let server = server();
    let mut accept = pin!(server.accept(server_end));
    for _ in 0..8 {
        let _ = accept.as_mut().poll(&mut Context::from_waker(noop_waker_ref()));
    }
    let flight: Vec<u8> = sent.borrow().bytes.iter().copied().collect();
    vec![
        [&[0], &hello[..]].concat(),
        [&[1], &flight[..]].concat(),
        [&[2], PEM.as_bytes()].concat(),
        vec![3],
        vec![3, 0, 0, 100, 1],
        vec![3, 0x80, 2, 200, 1, 0, 8, 0, 1],
    ]
}
