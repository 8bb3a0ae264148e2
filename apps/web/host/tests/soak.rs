//! Many requests, and requests of which each byte comes in a segment of its own: what the server holds is in the end what it
//! was before. `SARAB_SOAK=200000,1000000` says how many requests and segments instead of a few.

use std::time::Duration;

use embedded_io_async::Write;
use futures_util::future::join_all;
use sarab::network::Stack;
use sarab::network::stack::tcp::TcpSocket;
use sarab::network::stack::{IpAddress, IpEndpoint};
use sarab::testing::{Budgets, End, Guest, check};

const SERVER: IpAddress = IpAddress::v4(10, 0, 0, 2);
const CLIENTS: u64 = 6;
/// Requests on one connection.
const PER_CONNECTION: u64 = 100;
/// Connections of which netfront remembers the largest segment: their table is to be full before anything is measured.
const REMEMBERED: u64 = 1024;
/// What is asked for in turn, and how the answer begins.
const REQUESTS: [(&str, &str, &str); 5] = [
    ("/", "", "HTTP/1.1 200 "),
    ("/nothing", "", "HTTP/1.1 404 "),
    ("/docs", "", "HTTP/1.1 301 "),
    ("/", "Range: bytes=1-5\r\n", "HTTP/1.1 206 "),
    ("/metrics", "", "HTTP/1.1 200 "),
];
/// Of which each byte is a segment.
const SLOW: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
/// What the heap may hold more at the end: no list grows with what clients send.
const ALLOWED: usize = 16 << 10;
/// After which the last connections are closed at both ends, and their buffers free.
const QUIET: Duration = Duration::from_secs(60);

fn site() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for name in ["index.html", "docs/index.html"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(8);
        builder.append_data(&mut header, name, &b"<p>hello"[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

/// How many requests and segments.
fn amount() -> (u64, u64) {
    let Ok(text) = std::env::var("SARAB_SOAK") else { return (1200, 3000) };
    let numbers = text.split_once(',').and_then(|(first, second)| Some((first.parse().ok()?, second.parse().ok()?)));
    numbers.unwrap_or_else(|| panic!("SARAB_SOAK={text}: expected REQUESTS,SEGMENTS"))
}

/// An answer, head and body.
async fn answer(socket: &mut TcpSocket<'_>) -> String {
    let (mut answer, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
            if body.len() >= length.unwrap_or_else(|| panic!("an answer without a length: {head}")) {
                return text.into_owned();
            }
        }
        let count = socket.read(&mut bytes).await.unwrap();
        assert_ne!(count, 0, "the connection ended in: {text}");
        answer.extend_from_slice(&bytes[..count]);
    }
}

/// Requests on connections of its own; byte by byte or whole.
async fn client(peer: Stack, requests: u64, at_once: u64, slowly: bool) {
    for first in (0..requests).step_by(at_once as usize) {
        let (mut incoming, mut outgoing) = ([0; 4096], [0; 512]);
        let mut socket = TcpSocket::new(peer, &mut incoming, &mut outgoing);
        socket.connect(IpEndpoint::new(SERVER, 80)).await.unwrap();
        let count = at_once.min(requests - first);
        for (path, header, begin) in REQUESTS.iter().cycle().take(count as usize) {
            if slowly {
                for byte in SLOW.as_bytes().chunks(1) {
                    socket.write_all(byte).await.unwrap();
                    // Until it has arrived.
                    socket.flush().await.unwrap();
                }
                assert!(answer(&mut socket).await.starts_with("HTTP/1.1 200 "));
            } else {
                let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{header}\r\n");
                socket.write_all(request.as_bytes()).await.unwrap();
                let answer = answer(&mut socket).await;
                assert!(answer.starts_with(begin), "{path}: {answer}");
            }
        }
        socket.close();
        socket.flush().await.unwrap();
    }
}

async fn load(peer: Stack, requests: u64, segments: u64) {
    let slow = segments.div_ceil(SLOW.len() as u64).div_ceil(CLIENTS);
    join_all((0..CLIENTS).map(|_| client(peer, requests.div_ceil(CLIENTS), PER_CONNECTION, false))).await;
    join_all((0..CLIENTS).map(|_| client(peer, slow, PER_CONNECTION, true))).await;
}

async fn metric(peer: Stack, name: &str) -> u64 {
    let (mut incoming, mut outgoing) = ([0; 4096], [0; 512]);
    let mut socket = TcpSocket::new(peer, &mut incoming, &mut outgoing);
    socket.connect(IpEndpoint::new(SERVER, 80)).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let text = answer(&mut socket).await;
    socket.close();
    socket.flush().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn what_clients_send_leaves_nothing_behind() {
    let (requests, segments) = amount();
    check("soak", 1, move |xen| {
        // The simulation keeps a timer until it is due, also where nobody waits for it any more.
        xen.set_budgets(Budgets { steps: u64::MAX, allocation: 64 << 20, ..Budgets::default() });
        let guest =
            Guest::new(xen).command_line("ip=10.0.0.2/24 connections=32").read_only_disk("xvda", site()).network();
        let machine = xen.clone();
        xen.run(async move {
            let running = guest.start(web::main).await;
            let peer = running.peer::<8>("10.0.0.1/24").await;
            running.wait_for("web: ready").await;
            // What it needs for so many at once it takes now.
            load(peer, 1200, 3000).await;
            join_all((0..CLIENTS).map(|_| client(peer, REMEMBERED.div_ceil(CLIENTS), 1, false))).await;
            running.sleep(QUIET).await;
            let frames = metric(peer, "net_frames_total{direction=\"received\"}").await;
            let (free, held) = (metric(peer, "memory_bytes{kind=\"free\"}").await, machine.allocation());
            load(peer, requests, segments).await;
            running.sleep(QUIET).await;
            let (free_after, held_after) = (metric(peer, "memory_bytes{kind=\"free\"}").await, machine.allocation());
            println!("free by /metrics: {free} bytes, then {free_after}; held by all: {held}, then {held_after}");
            assert!(free_after + ALLOWED as u64 >= free, "{free} bytes were free, now {free_after}");
            assert!(held_after <= held + ALLOWED, "{held} bytes were held, now {held_after}");
            let arrived = metric(peer, "net_frames_total{direction=\"received\"}").await - frames;
            assert!(arrived >= requests + segments, "only {arrived} frames for {segments} segments");
            running.shutdown().await;
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}
