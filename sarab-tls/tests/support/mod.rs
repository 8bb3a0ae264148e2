//! Sockets of the host's as transports, and openssl at the other end.
#![allow(dead_code, reason = "each test uses some of it")]

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use embedded_io_async::{ErrorKind, ErrorType, Read, Write};
use sarab_tls::{Certificates, Client, ClientOptions, Error, Roots, Server, ServerOptions, TlsStream};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A socket, which waits by blocking: each test's end has a thread of its own.
pub struct Socket(pub TcpStream);

impl Socket {
    pub fn new(socket: TcpStream) -> Socket {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Socket(socket)
    }
}

fn kind(error: io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::WouldBlock => ErrorKind::TimedOut,
        io::ErrorKind::ConnectionReset => ErrorKind::ConnectionReset,
        io::ErrorKind::BrokenPipe => ErrorKind::BrokenPipe,
        _ => ErrorKind::Other,
    }
}

impl ErrorType for Socket {
    type Error = ErrorKind;
}

impl Read for Socket {
    async fn read(&mut self, to: &mut [u8]) -> Result<usize, ErrorKind> {
        self.0.read(to).map_err(kind)
    }
}

impl Write for Socket {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.0.write(bytes).map_err(kind)
    }

    async fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

pub use futures_executor::block_on;

/// The wall clock of the tests: the certificates are valid then.
pub fn now() -> Duration {
    Duration::from_secs(2_000_000_000)
}

pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

pub fn file(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap()
}

/// The certificate and key of this name in tests/data.
pub fn with(certificates: Certificates, name: &str) -> Certificates {
    certificates.with_pem(&file(&format!("{name}.pem")), &file(&format!("{name}.key"))).unwrap()
}

pub fn server(names: &[&str], change: impl FnOnce(&mut ServerOptions)) -> Server {
    let mut options = ServerOptions::default();
    change(&mut options);
    let certificates = names.iter().fold(Certificates::new(), |all, name| with(all, name));
    Server::new(certificates, options, now).unwrap()
}

pub fn client(change: impl FnOnce(&mut ClientOptions)) -> Client {
    let mut options = ClientOptions::default();
    change(&mut options);
    Client::new(Roots::from_pem(&file("root.pem")).unwrap(), options, now).unwrap()
}

/// Whether openssl is installed; where it is not, tests with it say so and end.
pub fn openssl() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("not compared with openssl, which is not installed");
    }
    found
}

/// Ends with its test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `openssl s_client` printed.
pub struct Output {
    pub text: String,
    pub success: bool,
}

impl Output {
    #[track_caller]
    pub fn has(&self, wanted: &str) {
        assert!(self.text.contains(wanted), "no {wanted:?} in:\n{}", self.text);
    }
}

/// A server of ours for one `openssl s_client` with these arguments, which says `input`: what it printed, and how each of its
/// connections ended.
pub fn with_s_client<R>(
    server: &Server,
    connections: usize,
    arguments: &str,
    input: &[u8],
    handle: impl AsyncFn(Result<TlsStream<Socket>, Error<ErrorKind>>) -> R,
) -> (Output, Vec<R>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let child = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-CAfile"])
        .arg(path("root.pem"))
        .args(arguments.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Running(child);
    let mut stdin = child.0.stdin.take().unwrap();
    // What has ended does not read.
    let _ = stdin.write_all(input);
    let collect = |mut from: Box<dyn io::Read + Send>| {
        thread::spawn(move || {
            let mut text = Vec::new();
            let _ = from.read_to_end(&mut text);
            text
        })
    };
    let output = collect(Box::new(child.0.stdout.take().unwrap()));
    let errors = collect(Box::new(child.0.stderr.take().unwrap()));
    let one = |_| {
        let socket = Socket::new(listener.accept().unwrap().0);
        block_on(async { handle(server.accept(socket).await).await })
    };
    let ended = (0..connections).map(one).collect();
    let text = [output.join().unwrap(), errors.join().unwrap()].concat();
    drop(stdin);
    let success = child.0.wait().unwrap().success();
    (Output { text: String::from_utf8_lossy(&text).into_owned(), success }, ended)
}

/// Reads a line.
pub async fn line<T: Read>(stream: &mut T) -> Result<String, T::Error> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\n") && stream.read(&mut byte).await? == 1 {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// An `openssl s_server` with these arguments, and its port.
pub fn s_server(arguments: &str) -> (Running, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new("openssl")
        .args(["s_server", "-accept", &format!("127.0.0.1:{port}")])
        .args(arguments.split_whitespace())
        .current_dir(path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Running(child);
    // It says ACCEPT when it listens.
    let mut said = Vec::new();
    let out = child.0.stdout.as_mut().unwrap();
    while !said.ends_with(b"ACCEPT\n") {
        let mut byte = [0];
        assert_eq!(out.read(&mut byte).unwrap(), 1, "s_server {arguments}: {}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    (child, port)
}

pub fn connect(port: u16) -> Socket {
    Socket::new(TcpStream::connect(("127.0.0.1", port)).unwrap())
}

/// A pipe in memory, both ways, with so much room.
pub mod pipe {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::task::{Poll, Waker};

    use embedded_io_async::{ErrorType, Read, Write};

    #[derive(Default)]
    pub struct Way {
        pub bytes: VecDeque<u8>,
        pub closed: bool,
        /// All that was ever sent.
        pub sent: Vec<u8>,
        wakers: Vec<Waker>,
    }

    impl Way {
        pub fn wake(&mut self) {
            self.wakers.drain(..).for_each(Waker::wake);
        }
    }

    /// An end: what it reads and what it writes.
    pub struct End {
        pub from: Rc<RefCell<Way>>,
        pub to: Rc<RefCell<Way>>,
        pub room: usize,
    }

    pub fn pipe(room: usize) -> (End, End) {
        let (there, back) = (Rc::<RefCell<Way>>::default(), Rc::<RefCell<Way>>::default());
        (End { from: back.clone(), to: there.clone(), room }, End { from: there, to: back, room })
    }

    impl Drop for End {
        fn drop(&mut self) {
            for way in [&self.from, &self.to] {
                way.borrow_mut().closed = true;
                way.borrow_mut().wake();
            }
        }
    }

    impl ErrorType for End {
        type Error = Infallible;
    }

    impl Read for End {
        async fn read(&mut self, to: &mut [u8]) -> Result<usize, Infallible> {
            poll_fn(|cx| {
                let mut way = self.from.borrow_mut();
                if way.bytes.is_empty() && !way.closed {
                    way.wakers.push(cx.waker().clone());
                    return Poll::Pending;
                }
                let len = to.len().min(way.bytes.len());
                way.bytes.drain(..len).zip(to.iter_mut()).for_each(|(byte, to)| *to = byte);
                way.wake();
                Poll::Ready(Ok(len))
            })
            .await
        }
    }

    impl Write for End {
        async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
            poll_fn(|cx| {
                let mut way = self.to.borrow_mut();
                let room = self.room.saturating_sub(way.bytes.len());
                if room == 0 && !way.closed {
                    way.wakers.push(cx.waker().clone());
                    return Poll::Pending;
                }
                // What nobody reads any more is lost.
                let len = if way.closed { bytes.len() } else { room.min(bytes.len()) };
                way.bytes.extend(&bytes[..len]);
                way.sent.extend_from_slice(&bytes[..len]);
                way.wake();
                Poll::Ready(Ok(len))
            })
            .await
        }

        async fn flush(&mut self) -> Result<(), Infallible> {
            Ok(())
        }
    }
}
