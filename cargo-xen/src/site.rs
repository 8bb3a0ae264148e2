//! A folder as a guest's first disk: a tar archive, whose server is published on a port of this machine.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

/// Packs a folder. Links in it stay links.
pub fn pack(folder: &Path) -> Result<NamedTempFile> {
    ensure!(folder.is_dir(), "--site {}: no such folder", folder.display());
    let file = tempfile::Builder::new().prefix("sarab-site-").suffix(".tar").tempfile()?;
    let mut builder = tar::Builder::new(std::io::BufWriter::new(file.as_file()));
    builder.follow_symlinks(false);
    let packed = builder.append_dir_all(".", folder).and_then(|()| builder.into_inner()?.flush());
    packed.with_context(|| format!("--site {}: cannot pack it", folder.display()))?;
    Ok(file)
}

/// Prints the address of a site once it answers.
pub struct Announcer {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Announcer {
    pub fn new(port: u16) -> Announcer {
        let over = Arc::new(AtomicBool::new(false));
        let flag = over.clone();
        let thread = std::thread::spawn(move || announce(port, || flag.load(Ordering::Relaxed)));
        Announcer { over, thread: Some(thread) }
    }
}

/// Prints the address of a site once it answers, unless nobody wants to know any more.
pub fn announce(port: u16, is_over: impl Fn() -> bool) {
    while !is_over() {
        if answers(port) {
            eprintln!("Serving at http://localhost:{port}/ (Ctrl-C to stop)");
            return;
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let timeout = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.write_all(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut begin = [0; 5];
        stream.read_exact(&mut begin)?;
        Ok(&begin == b"HTTP/")
    };
    ask().unwrap_or(false)
}
