//! Commands for the lab's dom0.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::dom0::{Dom0, Stream};
use crate::marker::Marker;

/// After so long a silence dom0 is sent something. The emulator loses a timer of Xen's now and then: everything stands still
/// then until the next interrupt, which may be minutes away.
const WAKE_UP: Duration = Duration::from_secs(5);

/// Runs commands in the lab's dom0 over a forwarded port: one connection a command.
#[derive(Clone)]
pub struct Agent {
    pub(crate) port: u16,
    pub(crate) token: String,
    /// How long a command may print nothing.
    pub(crate) timeout: Option<Duration>,
}

impl Agent {
    /// The same, with a bound on how long a command may print nothing.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Agent {
        Agent { timeout: Some(timeout), ..self }
    }
}

impl Dom0 for Agent {
    fn stream(&self, command: &str, stdin: Option<Box<dyn Read + Send>>) -> Result<Box<dyn Stream>> {
        use base64::prelude::{BASE64_STANDARD, Engine};
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).context("the lab has ended")?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(self.timeout.map_or(WAKE_UP, |timeout| timeout.min(WAKE_UP))))?;
        writeln!(socket, "{}\n{}", self.token, BASE64_STANDARD.encode(command))?;
        let mut writer = socket.try_clone()?;
        if let Some(mut stdin) = stdin {
            std::thread::spawn(move || {
                let _ = io::copy(&mut stdin, &mut writer);
                let _ = writer.shutdown(Shutdown::Write);
            });
        }
        let (marker, heard) = (Marker::new(&self.token), Instant::now());
        Ok(Box::new(AgentStream { agent: self.clone(), socket, marker, heard }))
    }

    fn bridge(&self) -> Option<&str> {
        Some("xenbr0")
    }
}

struct AgentStream {
    agent: Agent,
    socket: TcpStream,
    marker: Marker,
    /// When the command has printed something last.
    heard: Instant,
}

impl Stream for AgentStream {
    fn read(&mut self) -> Result<Option<Vec<u8>>> {
        let mut bytes = [0; 16 << 10];
        loop {
            if self.marker.value().is_some() {
                return Ok(None);
            }
            let shown = match self.socket.read(&mut bytes) {
                Ok(0) => {
                    let rest = self.marker.rest();
                    return Ok((!rest.is_empty()).then_some(rest));
                }
                Ok(count) => {
                    self.heard = Instant::now();
                    self.marker.feed(&bytes[..count])
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.agent.timeout.is_some_and(|timeout| self.heard.elapsed() >= timeout) {
                        bail!("a command in dom0 is stuck");
                    }
                    // A connection without a token, which dom0's agent ends.
                    drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.agent.port)));
                    continue;
                }
                Err(error) => return Err(error).context("reading from dom0"),
            };
            if !shown.is_empty() {
                return Ok(Some(shown));
            }
        }
    }

    fn status(&mut self) -> Result<i32> {
        let status = self.marker.value().context("the connection to dom0 broke: the lab has ended")?;
        status.parse().with_context(|| format!("dom0's agent reported status {status:?}"))
    }
}
