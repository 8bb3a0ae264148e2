//! Fetches a page again and again over connections that stay, and compares each answer with the first.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// `count` fetches by `clients` at once, each over a new connection after every `per_connection` of them.
pub fn run(address: &str, path: &str, clients: u64, count: u64, per_connection: u64) -> Result<()> {
    let expected = Client::connect(address)?.fetch(address, path)?;
    let left = AtomicU64::new(count);
    let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    let client = || -> Result<()> {
        let mut more = take();
        while more {
            let mut connection = Client::connect(address)?;
            for _ in 0..per_connection {
                let found = connection.fetch(address, path)?;
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
    println!("{count} fetches of {} bytes by {clients} clients: {:.0} a second", expected.len(), count as f64 / took);
    Ok(())
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: &str) -> Result<Client> {
        let stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_nodelay(true)?;
        Ok(Client(BufReader::new(stream)))
    }

    fn fetch(&mut self, address: &str, path: &str) -> Result<Vec<u8>> {
        write!(self.0.get_mut(), "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "{path}: {line:?}");
        let mut length = None;
        loop {
            line.clear();
            ensure!(self.0.read_line(&mut line)? > 0, "{path}: the connection ended in the header");
            let Some((key, value)) = line.trim_end().split_once(':') else { break };
            if key.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse::<usize>().with_context(|| line.clone())?);
            }
        }
        let Some(length) = length else { bail!("{path}: no Content-Length") };
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(body)
    }
}
