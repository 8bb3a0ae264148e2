//! Sends bytes as they are, and prints what comes back: in hexadecimal, for requests that no client would send.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How long an answer is waited for in the middle, and for the end of all.
const MIDDLE: Duration = Duration::from_secs(2);
const END: Duration = Duration::from_secs(20);

/// Sends each line of a file over a connection of its own: parts in hexadecimal, between which an answer is waited for. Prints
/// a line for each, of what came until the server ended the connection.
pub fn run(address: &str, file: &str) -> Result<()> {
    for line in std::fs::read_to_string(file).with_context(|| file.to_owned())?.lines() {
        let parts = line.split(' ').map(bytes).collect::<Result<Vec<_>>>()?;
        let answer = ask(address, &parts).with_context(|| line.to_owned())?;
        println!("{}", answer.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    Ok(())
}

fn ask(address: &str, parts: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let (mut answer, start, mut buffer) = (Vec::new(), Instant::now(), [0; 4096]);
    let gone = |kind| matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected);
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            stream.set_read_timeout(Some(MIDDLE))?;
            match stream.read(&mut buffer) {
                Ok(len) => answer.extend_from_slice(&buffer[..len]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if gone(error.kind()) => return Ok(answer),
                Err(error) => return Err(error.into()),
            }
        }
        match stream.write_all(part) {
            Err(error) if !gone(error.kind()) => return Err(error.into()),
            _ => {}
        }
    }
    // A server waits for no more.
    let _ = stream.shutdown(Shutdown::Write);
    stream.set_read_timeout(Some(END))?;
    loop {
        ensure!(start.elapsed() < END, "the server does not end the connection");
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(len) => answer.extend_from_slice(&buffer[..len]),
            Err(error) if gone(error.kind()) => return Ok(answer),
            Err(error) => return Err(error.into()),
        }
    }
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    ensure!(hex.len().is_multiple_of(2) && hex.is_ascii(), "no hexadecimal: {hex}");
    (0..hex.len() / 2).map(|at| Ok(u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16)?)).collect()
}
