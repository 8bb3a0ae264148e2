//! Fetches a page again and again over connections that stay, and compares each answer with the first.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// `count` fetches by `clients` at once, each over a new connection after every `per_connection` of them.
pub fn run(address: &str, path: &str, clients: u64, count: u64, per_connection: u64) -> Result<()> {
    let expected = Client::connect(address)?.fetch(address, path)?;
    let (left, slowest) = (AtomicU64::new(count), AtomicU64::new(0));
    let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    let client = || -> Result<()> {
        let mut more = take();
        while more {
            // The first of a connection takes the handshake, too.
            let mut start = Instant::now();
            let mut connection = Client::connect(address)?;
            for _ in 0..per_connection {
                let found = connection.fetch(address, path)?;
                slowest.fetch_max(start.elapsed().as_millis() as u64, Ordering::Relaxed);
                start = Instant::now();
                ensure!(found == expected, "{path}: {} bytes that are not those of the first answer", found.len());
                more = take();
                if !more {
                    break;
                }
            }
        }
        Ok(())
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("no panic"))
    })?;
    let took = start.elapsed().as_secs_f64();
    println!(
        "{count} fetches of {} bytes by {clients} clients: {:.0} a second, {} ms at most",
        expected.len(),
        count as f64 / took,
        slowest.into_inner()
    );
    Ok(())
}

/// How long the server may take for anything.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection that stays.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn connect(address: &str) -> Result<Client> {
        let stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Client(BufReader::new(stream)))
    }

    fn fetch(&mut self, address: &str, path: &str) -> Result<Vec<u8>> {
        Ok(self.get(address, path, "", "HTTP/1.1 200")?.1)
    }

    /// An answer that begins as `expected`: its header and its body.
    pub fn get(&mut self, address: &str, path: &str, headers: &str, expected: &str) -> Result<(String, Vec<u8>)> {
        // In one segment.
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        self.answer(path, expected)
    }

    /// The connection itself.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.0.get_mut()
    }

    /// Waits until the other end has all that was written, so that what is written next goes by itself.
    pub fn wait_until_sent(&mut self) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let mut left: libc::c_int = 0;
            // SAFETY: the request writes one number, to where it is told.
            let outcome = unsafe { libc::ioctl(self.0.get_ref().as_raw_fd(), libc::TIOCOUTQ, &raw mut left) };
            ensure!(outcome == 0, "{}", std::io::Error::last_os_error());
            if left == 0 {
                return Ok(());
            }
            // What a connection that was reset has not sent, it never sends.
            ensure!(Instant::now() < deadline, "{left} bytes were not acknowledged within {TIMEOUT:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// An answer to what was asked already.
    pub fn answer(&mut self, path: &str, expected: &str) -> Result<(String, Vec<u8>)> {
        let mut head = String::new();
        loop {
            let before = head.len();
            ensure!(self.0.read_line(&mut head)? > 0, "{path}: the connection ended in the header: {head:?}");
            if head[before..].trim_end().is_empty() {
                break;
            }
        }
        ensure!(head.starts_with(expected), "{path}: {head:?}");
        let length = head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
        });
        let Some(length) = length else { bail!("{path}: no Content-Length in {head:?}") };
        let mut body = vec![0; length?];
        self.0.read_exact(&mut body)?;
        Ok((head, body))
    }
}
