//! Servers are asked: by UDP from a port of its own for each question, with a number of its own (RFC 5452), the next server
//! where one says nothing, and by TCP where an answer is long.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;

use embassy_net::tcp::TcpSocket;
use embassy_net::udp::{PacketMetadata, UdpSocket};
use embassy_net::{IpAddress, IpEndpoint};
use embassy_time::{Duration, with_timeout};

use super::answer::{Answer, read};
use super::desk::Outcome;
use super::forwarder::{PORT, Shared};
use super::message::{FORMERR, Key, NOTIMP, SERVFAIL, UDP_PAYLOAD, question};

/// How long each server has for its answer, in one round after the other.
const TIMEOUTS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3)];
const TCP_TIMEOUT: Duration = Duration::from_secs(4);
/// All rounds together: clients do not wait for longer.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Wrong answers until a question is asked by TCP: somebody tries to guess the right one (RFC 5452, section 9.3).
const MAX_WRONG: u32 = 64;
/// Bytes of an answer by TCP.
const MAX_TCP_ANSWER: usize = 16 << 10;
const FIRST_LOCAL_PORT: u16 = 1024;
/// Ports that are tried: another question may have one.
const MAX_PORTS: u32 = 4;

/// What one server says.
enum Said {
    Answer(Answer),
    Nothing,
}

impl Shared<'_> {
    /// Asks the servers. Takes a bounded time, whatever they do.
    pub(super) async fn look_up(&self, key: Rc<Key>) -> (Rc<Key>, Outcome) {
        let version = self.version.get();
        let refused = Cell::new(SERVFAIL);
        let found = with_timeout(MAX_TIME, self.ask_servers(&key, &refused)).await.ok().flatten();
        let outcome = match found {
            // What other servers have said than those of now is not remembered.
            Some((body, seconds)) => Outcome::Found(body, if self.version.get() == version { seconds } else { 0 }),
            None => Outcome::Failed(refused.get()),
        };
        (key, outcome)
    }

    async fn ask_servers(&self, key: &Key, refused: &Cell<u16>) -> Option<(super::Body, u32)> {
        let servers = self.servers.borrow().clone();
        let mut silent = vec![true; servers.len()];
        for time in TIMEOUTS {
            let first = self.preferred.get();
            for at in 0..servers.len() {
                let at = (first + at) % servers.len();
                // What servers have refused they refuse again.
                if !silent[at] {
                    continue;
                }
                match self.ask_server(servers[at], key, time).await {
                    Said::Answer(Answer::Body(body, seconds)) => {
                        self.preferred.set(at);
                        return Some((body, seconds));
                    }
                    Said::Answer(Answer::Refused(rcode)) => {
                        refused.set(rcode);
                        silent[at] = false;
                    }
                    Said::Answer(Answer::Truncated) => silent[at] = false,
                    Said::Nothing => self.count(|counters| counters.timeouts += 1),
                }
            }
            if !silent.contains(&true) {
                return None;
            }
        }
        None
    }

    async fn ask_server(&self, server: IpAddress, key: &Key, time: Duration) -> Said {
        let mut edns = true;
        loop {
            let mut said = with_timeout(time, self.ask_by_udp(server, key, edns)).await.unwrap_or(Said::Nothing);
            if let Said::Answer(Answer::Truncated) = said {
                self.count(|counters| counters.sent_tcp += 1);
                said = with_timeout(TCP_TIMEOUT, self.ask_by_tcp(server, key, edns)).await.unwrap_or(Said::Nothing);
            }
            match said {
                // An old server.
                Said::Answer(Answer::Refused(FORMERR | NOTIMP)) if edns => edns = false,
                said => return said,
            }
        }
    }

    async fn ask_by_udp(&self, server: IpAddress, key: &Key, edns: bool) -> Said {
        let mut metadata = [[PacketMetadata::EMPTY; 4]; 2];
        let [incoming, outgoing] = &mut metadata;
        let (mut received, mut sent) = (vec![0; 2 * usize::from(UDP_PAYLOAD)], vec![0; 512]);
        let mut socket = UdpSocket::new(self.stack, incoming, &mut received, outgoing, &mut sent);
        let ports = u64::from(u16::MAX - FIRST_LOCAL_PORT) + 1;
        let port = || FIRST_LOCAL_PORT + (self.random() % ports) as u16;
        if !(0..MAX_PORTS).any(|_| socket.bind(port()).is_ok()) {
            return Said::Nothing;
        }
        let id = self.random() as u16;
        let server = IpEndpoint::new(server, PORT);
        self.count(|counters| counters.sent += 1);
        if socket.send_to(&question(id, key, edns), server).await.is_err() {
            // No way leads to it.
            return Said::Nothing;
        }
        let mut message = vec![0; UDP_PAYLOAD.into()];
        for _ in 0..MAX_WRONG {
            if let Ok((len, from)) = socket.recv_from(&mut message).await
                && from.endpoint == server
                && let Some(answer) = read(&message[..len], id, key)
            {
                return Said::Answer(answer);
            }
            self.count(|counters| counters.wrong += 1);
        }
        Said::Answer(Answer::Truncated)
    }

    async fn ask_by_tcp(&self, server: IpAddress, key: &Key, edns: bool) -> Said {
        let (mut received, mut sent) = (vec![0; 4096], vec![0; 512]);
        let mut socket = TcpSocket::new(self.stack, &mut received, &mut sent);
        if socket.connect((server, PORT)).await.is_err() {
            return Said::Nothing;
        }
        let id = self.random() as u16;
        let said = async {
            write_message(&mut socket, &question(id, key, edns)).await?;
            read_message(&mut socket, MAX_TCP_ANSWER).await
        };
        let said = match said.await {
            None => Said::Nothing,
            Some(message) => Said::Answer(match read(&message, id, key) {
                None | Some(Answer::Truncated) => Answer::Refused(SERVFAIL),
                Some(answer) => answer,
            }),
        };
        socket.close();
        // It ends the connection as it should, unless it takes long.
        let _ = with_timeout(Duration::from_millis(100), socket.flush()).await;
        said
    }
}

/// Sends a message behind its length (RFC 1035, section 4.2.2). `None` where the connection ends.
pub(super) async fn write_message(socket: &mut TcpSocket<'_>, message: &[u8]) -> Option<()> {
    let mut bytes = Vec::from(u16::try_from(message.len()).ok()?.to_be_bytes());
    bytes.extend(message);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let sent = socket.write(rest).await.ok()?;
        rest = &rest[sent..];
    }
    Some(())
}

/// Receives a message of up to `max` bytes. `None` where the connection ends, or the message is longer.
pub(super) async fn read_message(socket: &mut TcpSocket<'_>, max: usize) -> Option<Vec<u8>> {
    let mut len = [0; 2];
    receive(socket, &mut len).await?;
    let len = usize::from(u16::from_be_bytes(len));
    if len > max {
        return None;
    }
    let mut message = vec![0; len];
    receive(socket, &mut message).await?;
    Some(message)
}

async fn receive(socket: &mut TcpSocket<'_>, mut bytes: &mut [u8]) -> Option<()> {
    while !bytes.is_empty() {
        let len = socket.read(bytes).await.ok().filter(|len| *len > 0)?;
        bytes = &mut bytes[len..];
    }
    Some(())
}
