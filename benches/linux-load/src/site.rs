//! Fetches every file of a folder from a server of the same files, whole and in parts, and compares each byte; with
//! requests that are none in between.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::http::Client;

/// Requests that are none, or none that a server of files answers well: what their answers begin with, or nothing where
/// the connection may just end.
const GARBAGE: [(&[u8], &str); 9] = [
    (b"\r\n\r\n", "HTTP/1.1 400"),
    (b"GARBAGE\r\n\r\n", "HTTP/1.1 400"),
    (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "HTTP/1.1 400"),
    (b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 400"),
    (b"GET /%2e%2e/%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 400"),
    (b"DELETE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 405"),
    (b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 404"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nRange: bytes=999999999-\r\nConnection: close\r\n\r\n", "HTTP/1.1 416"),
    (&[0xff; 6000], ""),
];

/// By so many clients at once.
pub fn run(address: &str, folder: &Path, clients: usize) -> Result<()> {
    let mut files = Vec::new();
    find(folder, &mut files)?;
    files.sort();
    ensure!(!files.is_empty(), "{}: no files", folder.display());
    let next = AtomicUsize::new(0);
    let client = || -> Result<usize> {
        let mut bytes = 0;
        let mut connection = Client::connect(address)?;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(index) else { return Ok(bytes) };
            let expected = std::fs::read(file)?;
            let name = file.strip_prefix(folder)?.to_str().context("a name that is not UTF-8")?;
            let path: String = std::iter::once("/".to_owned()).chain(name.bytes().map(encoded)).collect();
            let (_, found) = connection.get(address, &path, "", "HTTP/1.1 200")?;
            ensure!(found == expected, "{path}: {} bytes that are not the file's {}", found.len(), expected.len());
            bytes += found.len();
            if !expected.is_empty() {
                let from = index * 7919 % expected.len();
                let to = (from + index * 31 % 5000).min(expected.len() - 1);
                let header = format!("Range: bytes={from}-{to}\r\n");
                let (_, found) = connection.get(address, &path, &header, "HTTP/1.1 206")?;
                ensure!(found == expected[from..=to], "{path}: not its bytes {from} to {to}");
            }
            if index.is_multiple_of(10) {
                garbage(address, index / 10)?;
            }
        }
    };
    let start = Instant::now();
    let bytes: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().expect("no panic")).sum::<Result<usize>>()
    })?;
    let took = start.elapsed().as_secs_f64();
    println!("{} files with {bytes} bytes, and a part of each, by {clients} clients in {took:.1} s", files.len());
    Ok(())
}

/// A byte as it stands in a request.
fn encoded(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => char::from(byte).into(),
        _ => format!("%{byte:02X}"),
    }
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() { find(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

fn garbage(address: &str, index: usize) -> Result<()> {
    let (request, expected) = GARBAGE[index % GARBAGE.len()];
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(request)?;
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let outcome = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    if !expected.is_empty() && !answer.starts_with(expected) {
        bail!("{:?}: {answer:?}, {outcome:?}", String::from_utf8_lossy(request));
    }
    Ok(())
}

/// Parts of one large file, whose bytes are all zero, by many clients, each several times.
pub fn parts(address: &str, path: &str, clients: u64, count: u64, len: u64, size: u64) -> Result<()> {
    let client = |number: u64| -> Result<()> {
        let mut connection = Client::connect(address)?;
        for turn in 0..count {
            let from = (number * 0x9e37_79b9 + turn * 0x7f4a_7c15) % (size - len);
            let header = format!("Range: bytes={from}-{}\r\n", from + len - 1);
            let (head, found) = connection.get(address, path, &header, "HTTP/1.1 206")?;
            ensure!(found.len() as u64 == len && found.iter().all(|byte| *byte == 0), "{path}: wrong from {from} on");
            ensure!(head.contains(&format!("bytes {from}-{}/{size}", from + len - 1)), "{head}");
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("no panic"))
    })?;
    println!("{} parts of {len} bytes by {clients} clients", clients * count);
    Ok(())
}
