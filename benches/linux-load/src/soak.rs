//! Many requests, and requests of which each byte comes in a segment of its own: what a web server holds must not grow by
//! them.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::http::Client;

/// What is asked for in turn, and what the answer begins with.
const REQUESTS: [(&str, &str, &str); 6] = [
    ("/index.html", "", "HTTP/1.1 200"),
    ("/nothing", "", "HTTP/1.1 404"),
    ("/docs", "", "HTTP/1.1 301"),
    ("/index.html", "Range: bytes=1-5\r\n", "HTTP/1.1 206"),
    ("/metrics", "", "HTTP/1.1 200"),
    ("/style.css", "Accept-Encoding: gzip\r\n", "HTTP/1.1 200"),
];

/// Connections after which a client makes a new one, so that these are many as well.
const PER_CONNECTION: u64 = 100;

/// Bytes that are written one after the other, each of which Linux sends as a segment of its own: of more, it joins those
/// that wait for the first two to leave the machine.
const AT_ONCE: usize = 2;

/// The server waits so long for a request; on a machine that is slower than this, it refuses some.
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often progress is printed.
const PROGRESS: Duration = Duration::from_secs(10);

/// Makes so many requests and sends so many segments, by so many clients at once; an error where the server's free memory is
/// less than before by more than `allowed` bytes.
pub fn run(address: &str, requests: u64, segments: u64, clients: u64, allowed: u64) -> Result<()> {
    // What it needs for so many at once it takes now, and tells how it is then.
    share("requests before", requests.min(clients * 20), clients, |left| ask(address, left))?;
    let warmup = segments.min(clients * 400);
    let late = AtomicU64::new(0);
    share("segments before", warmup, clients, |left| trickle(address, left, warmup / clients, &late))?;
    let before = metrics(address)?;
    let start = Instant::now();
    share("requests", requests, clients, |left| ask(address, left))?;
    let asked = start.elapsed().as_secs_f64();
    let between = metrics(address)?;
    let start = Instant::now();
    late.store(0, Ordering::Relaxed);
    share("segments", segments, clients, |left| trickle(address, left, segments / clients, &late))?;
    let sent = start.elapsed().as_secs_f64();
    let after = metrics(address)?;
    let value = |all: &BTreeMap<String, u64>, name: &str| all.get(name).copied().with_context(|| format!("no {name}"));
    const FREE: &str = "memory_bytes{kind=\"free\"}";
    const LEAST: &str = "memory_bytes{kind=\"least_free\"}";
    const FRAMES: &str = "net_frames_total{direction=\"received\"}";
    println!(
        "{requests} requests in {asked:.0} s, {segments} segments of a byte in {sent:.0} s ({} requests of these too late); free KiB {}, {}, {}; at the least {}, {}",
        late.load(Ordering::Relaxed),
        value(&before, FREE)? / 1024,
        value(&between, FREE)? / 1024,
        value(&after, FREE)? / 1024,
        value(&before, LEAST)? / 1024,
        value(&after, LEAST)? / 1024,
    );
    // A server that answers none of them is not a slow machine.
    let (late, most) = (late.into_inner(), segments / request(address).len() as u64 / 2);
    ensure!(late <= most, "{late} requests were too late: at most {most} may be");
    // They have arrived one by one.
    let frames = value(&after, FRAMES)? - value(&between, FRAMES)?;
    ensure!(frames >= segments / 10 * 9, "only {frames} frames came for {segments} segments");
    // The heap takes memory in pieces of up to 1 MiB, and gives them back: at some moment it may have one more.
    for (name, allowed) in [(FREE, allowed), (LEAST, allowed + (1 << 20))] {
        let (first, last) = (value(&before, name)?, value(&after, name)?);
        ensure!(last + allowed >= first, "{name} was {first}, and is {last}");
    }
    Ok(())
}

/// Has clients work until nothing is left to be taken, and prints every few seconds how much is.
fn share(what: &str, count: u64, clients: u64, client: impl Fn(&AtomicU64) -> Result<()> + Sync) -> Result<()> {
    let left = AtomicU64::new(count);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(|| client(&left))).collect();
        let mut next = Instant::now() + PROGRESS;
        while !clients.iter().all(|client| client.is_finished()) {
            if Instant::now() >= next {
                println!("{what}: {} of {count}", count - left.load(Ordering::Relaxed));
                next += PROGRESS;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        clients.into_iter().try_for_each(|client| client.join().expect("no panic"))
    })
}

fn take(left: &AtomicU64, most: u64) -> u64 {
    let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(most)));
    taken.unwrap_or(0).min(most)
}

/// Whole requests.
fn ask(address: &str, left: &AtomicU64) -> Result<()> {
    loop {
        let count = take(left, PER_CONNECTION);
        if count == 0 {
            return Ok(());
        }
        let mut connection = Client::connect(address)?;
        for (path, headers, expected) in REQUESTS.iter().cycle().take(count as usize) {
            connection.get(address, path, headers, expected)?;
        }
    }
}

/// Requests whose bytes are written one by one; at most `share` of them on one connection, so that no client takes all.
fn trickle(address: &str, left: &AtomicU64, share: u64, late: &AtomicU64) -> Result<()> {
    let request = request(address);
    loop {
        // Whole requests: the last ones may be a few segments too many.
        let most = share.clamp(1, PER_CONNECTION * request.len() as u64);
        let count = take(left, most).div_ceil(request.len() as u64);
        if count == 0 {
            return Ok(());
        }
        let mut connection = Client::connect(address)?;
        for _ in 0..count {
            let start = Instant::now();
            if let Err(error) = byte_by_byte(&mut connection, &request) {
                ensure!(start.elapsed() >= SERVER_TIMEOUT, error);
                late.fetch_add(1, Ordering::Relaxed);
                connection = Client::connect(address)?;
            }
        }
    }
}

fn request(address: &str) -> String {
    format!("GET /index.html HTTP/1.1\r\nHost: {address}\r\n\r\n")
}

fn byte_by_byte(connection: &mut Client, request: &str) -> Result<()> {
    for bytes in request.as_bytes().chunks(AT_ONCE) {
        for byte in bytes {
            connection.stream().write_all(&[*byte])?;
        }
        connection.wait_until_sent()?;
    }
    connection.answer("/index.html", "HTTP/1.1 200")?;
    Ok(())
}

/// What the server says of itself.
fn metrics(address: &str) -> Result<BTreeMap<String, u64>> {
    // Connections that have just ended take their time.
    std::thread::sleep(Duration::from_secs(5));
    let (_, text) = Client::connect(address)?.get(address, "/metrics", "", "HTTP/1.1 200")?;
    let text = String::from_utf8(text)?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').with_context(|| line.to_owned())?;
            Ok((name.to_owned(), value.parse()?))
        })
        .collect()
}
