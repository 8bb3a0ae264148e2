//! What crosses a router: packets in a second, connections in a second, and the first answer after a boot.
//!
//! The server is at the one side (`serve PORT`), the client at the other. Where all run in one dom0 whose processor is
//! what bounds them, they should cost little: nobody reads the packets of a flood, interfaces count them.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Bytes of a packet of a flood.
const SIZE: usize = 64;
/// Packets that the kernel is given at once.
const BATCH: usize = 64;
/// A flood gets into its stride before it is measured.
const STRIDE: Duration = Duration::from_millis(300);
/// Connections at a time.
const AT_ONCE: usize = 16;
/// For how long a single connection is waited for.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Between two questions for a first answer.
const PAUSE: Duration = Duration::from_millis(10);

/// Serves all clients of this module, for ever: on `port` it echoes datagrams of one byte, sends a flood to who asks with a
/// number of milliseconds, and echoes the first byte of a TCP connection; on the port after it, nothing is read.
pub fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let _unread = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port + 1))?;
    let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    for _ in 0..AT_ONCE {
        let listener = listener.try_clone()?;
        std::thread::spawn(move || {
            loop {
                // A client that goes away is none of the others' business.
                let _ = listener.accept().and_then(|(stream, _)| echo(stream));
            }
        });
    }
    println!("serving");
    let mut request = [0; 64];
    loop {
        let (length, from) = datagrams.recv_from(&mut request)?;
        if length == 1 {
            let _ = datagrams.send_to(&request[..1], from);
        } else if let Ok(text) = std::str::from_utf8(&request[..length])
            && let Ok(milliseconds) = text.parse()
        {
            send(&datagrams, from, Instant::now() + Duration::from_millis(milliseconds), || Ok(()))?;
        }
    }
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    stream.write_all(&byte)?;
    // The client closes first: its end is the one that waits afterwards.
    stream.read(&mut byte).map(drop)
}

/// Sends packets as fast as they are taken, calling `between` now and then.
fn send(socket: &UdpSocket, to: SocketAddr, until: Instant, mut between: impl FnMut() -> Result<()>) -> Result<()> {
    let SocketAddr::V4(to) = to else { anyhow::bail!("{to} is not of IPv4") };
    // SAFETY: it is plain data.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as u16;
    address.sin_port = to.port().to_be();
    address.sin_addr.s_addr = u32::from(*to.ip()).to_be();
    let mut payload = [0u8; SIZE];
    let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: SIZE };
    // SAFETY: it is plain data.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_name = (&raw mut address).cast();
    message.msg_hdr.msg_namelen = size_of_val(&address) as u32;
    message.msg_hdr.msg_iov = &raw mut part;
    message.msg_hdr.msg_iovlen = 1;
    let mut messages = [message; BATCH];
    while Instant::now() < until {
        // SAFETY: all that the messages point to is on this stack, and as long as they say.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as u32, 0) };
        if sent < 0 {
            let error = std::io::Error::last_os_error();
            // What is sent faster than an interface takes it is lost; and somebody may say that nobody listens.
            let is_usual = [libc::ENOBUFS, libc::EINTR, libc::ECONNREFUSED];
            ensure!(error.raw_os_error().is_some_and(|code| is_usual.contains(&code)), "sending to {to}: {error}");
        }
        between()?;
    }
    Ok(())
}

/// What counts packets: a line of `/proc/PID/net/dev`.
pub struct Counter<'a> {
    /// The file, of the network namespace that the interface is in.
    pub file: &'a str,
    pub interface: &'a str,
}

impl Counter<'_> {
    /// Packets that the interface has received.
    fn packets(&self) -> Result<u64> {
        let text = fs::read_to_string(self.file).with_context(|| self.file.to_owned())?;
        received(&text, self.interface).with_context(|| format!("{}: no interface {}", self.file, self.interface))
    }
}

/// The second number behind an interface's name (Documentation/filesystems/proc.rst of Linux).
fn received(text: &str, interface: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Floods the server, or has it flood this end, for so long; prints how many packets the interface counted in a second.
pub fn flood(server: SocketAddr, length: Duration, up: bool, counter: &Counter<'_>) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let start = Instant::now();
    let mut first = None;
    let mut snapshot = || -> Result<()> {
        if first.is_none() && start.elapsed() >= STRIDE {
            first = Some((Instant::now(), counter.packets()?));
        }
        Ok(())
    };
    if up {
        let unread = SocketAddr::new(server.ip(), server.port() + 1);
        send(&socket, unread, start + STRIDE + length, snapshot)?;
    } else {
        // It goes on for a little longer than it is measured.
        let milliseconds = (2 * STRIDE + length).as_millis();
        socket.send_to(milliseconds.to_string().as_bytes(), server)?;
        std::thread::sleep(STRIDE);
        snapshot()?;
        std::thread::sleep(length);
    }
    let (since, before) = first.context("the flood was too short to be measured")?;
    let (packets, took) = (counter.packets()? - before, since.elapsed().as_secs_f64());
    println!("{:.0} packets a second", packets as f64 / took);
    Ok(())
}

/// New connections for so long, one byte each way, many at a time; prints how many in a second.
pub fn connections(server: SocketAddr, length: Duration) -> Result<()> {
    let (done, start) = (AtomicU64::new(0), Instant::now());
    let client = || -> Result<()> {
        while start.elapsed() < length {
            let mut stream = TcpStream::connect_timeout(&server, TIMEOUT).with_context(|| server.to_string())?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.write_all(b"?")?;
            stream.read_exact(&mut [0])?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(client)).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("no panic"))
    })?;
    println!("{:.0} connections a second", done.into_inner() as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

/// Prints how many milliseconds after the end of a command the server's first answer comes, within so long.
pub fn first(server: SocketAddr, within: Duration, command: &[&str]) -> Result<()> {
    if let [program, args @ ..] = command {
        let status = Command::new(program).args(args).status().with_context(|| format!("cannot start {program}"))?;
        ensure!(status.success(), "{} ended with {status}", command.join(" "));
    }
    let start = Instant::now();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PAUSE))?;
    loop {
        // There may be no route yet.
        let _ = socket.send_to(&[0], server);
        match socket.recv(&mut [0]) {
            Ok(_) => break,
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => {}
            // An answer that nobody is there is no answer.
            Err(_) => std::thread::sleep(PAUSE),
        }
        ensure!(start.elapsed() < within, "{server} does not answer within {} s", within.as_secs());
    }
    println!("{:.1} ms to the first answer", start.elapsed().as_secs_f64() * 1000.0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interfaces_packets_are_found() {
        let text = "Inter-|   Receive                            |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
  eth0:  123456     789    0    0    0     0          0         0   654321     987    0    0    0     0       0          0
vif1.0:12     3    0    0    0     0          0         0   654321     987    0    0    0     0       0          0\n";
        assert_eq!(received(text, "eth0"), Some(789));
        assert_eq!(received(text, "vif1.0"), Some(3));
        assert_eq!(received(text, "vif1"), None);
        assert_eq!(received(text, "lo"), None);
    }
}
