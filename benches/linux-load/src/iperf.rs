//! A client of iperf3's that is slower than any real one: it looks at what the server says of the test's end only after
//! it has read all that the server sends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// First on each connection; the same for all of a test.
const COOKIE: &[u8; 37] = b"abcdefghijklmnopqrstuvwxyz0123456789\0";
/// How long the server may take for each step.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Has the server send, in one stream, until more than `bytes` have come.
pub fn drain(address: &str, bytes: u64) -> Result<()> {
    let mut control = connect(address)?;
    expect(&mut control, 9)?;
    tell(&mut control, r#"{"tcp":true,"time":10,"parallel":1,"reverse":true,"len":131072}"#)?;
    expect(&mut control, 10)?;
    let mut stream = connect(address)?;
    expect(&mut control, 1)?;
    expect(&mut control, 2)?;
    let mut block = vec![0; 131_072];
    let mut count = 0;
    while count <= bytes {
        stream.read_exact(&mut block).context("while the server sends")?;
        count += block.len() as u64;
    }
    control.write_all(&[4])?;
    loop {
        match stream.read(&mut block).context("the server does not end its stream")? {
            0 => break,
            read => count += read as u64,
        }
    }
    expect(&mut control, 13)?;
    tell(&mut control, "{}")?;
    let mut length = [0; 4];
    control.read_exact(&mut length)?;
    let mut results = vec![0; u32::from_be_bytes(length) as usize];
    control.read_exact(&mut results)?;
    expect(&mut control, 14)?;
    control.write_all(&[16])?;
    println!("{count} bytes");
    Ok(())
}

fn connect(address: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(COOKIE)?;
    Ok(stream)
}

/// The next state, of iperf_api.h.
fn expect(control: &mut TcpStream, state: u8) -> Result<()> {
    let mut found = [0];
    control.read_exact(&mut found).with_context(|| format!("no state {state}"))?;
    ensure!(found[0] == state, "state {} instead of {state}", found[0]);
    Ok(())
}

fn tell(control: &mut TcpStream, text: &str) -> Result<()> {
    control.write_all(&(text.len() as u32).to_be_bytes())?;
    control.write_all(text.as_bytes())?;
    Ok(())
}
