//! dom0's qrexec daemon and its clients, with bytes of their own, as strict as the original: what that takes for fatal is a
//! panic here.

use futures_util::future::join;
use xen_hal::DomId;
use xen_sim::Domain;
use xen_vchan::{Channel, Client, ReadHalf, Server, WriteHalf};

use super::{Bench, read_exact, write_all};

pub const STDIN: u32 = 0x190;
pub const STDOUT: u32 = 0x191;
pub const STDERR: u32 = 0x192;
pub const EXIT: u32 = 0x193;
pub const TERMINATED: u32 = 0x211;

pub fn raw(kind: u32, body: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(body.len() as u32).to_le_bytes(), body].concat()
}

pub fn connection(domain: DomId, port: u32) -> Vec<u8> {
    [u32::from(domain.0).to_le_bytes(), port.to_le_bytes()].concat()
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).expect("a NUL at the end");
    assert!(field[end..].iter().all(|byte| *byte == 0), "nothing after the NUL");
    String::from_utf8(field[..end].to_vec()).unwrap()
}

/// The control channel.
pub struct Control {
    pub channel: Channel<Domain>,
    pub version: u32,
}

/// What an agent asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    Terminated(u32),
    Trigger { target: String, service: String, ident: String },
}

impl Control {
    pub async fn connect(bench: &Bench, version: u32) -> Control {
        let client = Client::new(bench.dom0.clone(), &bench.dom0_store, bench.qube.id(), 512);
        let mut channel = client.connect().await.unwrap();
        let mut hello = [0; 12];
        assert!(read_exact(&mut channel, &mut hello).await, "the agent greets first");
        assert_eq!(hello[..], raw(0x300, &4_u32.to_le_bytes()));
        assert!(write_all(&mut channel, &raw(0x300, &version.to_le_bytes())).await);
        Control { channel, version }
    }

    pub async fn send(&mut self, kind: u32, domain: DomId, port: u32, rest: &[u8]) {
        let message = raw(kind, &[&connection(domain, port)[..], rest].concat());
        assert!(write_all(&mut self.channel, &message).await);
    }

    pub async fn exec(&mut self, port: u32, line: &str) {
        self.send(0x200, DomId(0), port, format!("{line}\0").as_bytes()).await;
    }

    pub async fn just_exec(&mut self, port: u32, line: &str) {
        self.send(0x201, DomId(0), port, format!("{line}\0").as_bytes()).await;
    }

    pub async fn service_connect(&mut self, port: u32, ident: &str) {
        let mut field = ident.as_bytes().to_vec();
        field.resize(32, 0);
        self.send(0x202, DomId(0), port, &field).await;
    }

    pub async fn refuse(&mut self, ident: &str) {
        let mut field = ident.as_bytes().to_vec();
        field.resize(32, 0);
        assert!(write_all(&mut self.channel, &raw(0x203, &field)).await);
    }

    /// What the agent asks for next, which has to be a message of the version.
    pub async fn next(&mut self) -> Asked {
        let mut header = [0; 8];
        assert!(read_exact(&mut self.channel, &mut header).await, "the agent has closed its channel");
        let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
        let mut body = vec![0; u32::from_le_bytes(header[4..].try_into().unwrap()) as usize];
        assert!(body.len() <= 66_000 && read_exact(&mut self.channel, &mut body).await);
        let (target, ident, service) = match (self.version, kind) {
            (_, TERMINATED) => {
                assert_eq!(body.len(), 8);
                let port = u32::from_le_bytes(body[4..].try_into().unwrap());
                assert!((513..769).contains(&port), "invalid port {port}");
                return Asked::Terminated(port);
            }
            (2, 0x210) => {
                assert_eq!(body.len(), 128);
                (&body[64..96], &body[96..], &body[..64])
            }
            (3, 0x212) => (&body[..64], &body[64..96], &body[96..]),
            (4, 0x213) => {
                assert_eq!(text(&body[..64]), "", "the source is this domain");
                (&body[64..128], &body[128..160], &body[160..])
            }
            (version, kind) => panic!("message {kind:#x} in version {version}"),
        };
        let (target, service, ident) = (text(target), text(service), text(ident));
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-. ".contains(&byte);
        assert!(!ident.is_empty() && ident.bytes().all(allowed), "bad ident {ident}");
        assert!(!service.is_empty() && !service.starts_with('+'));
        Asked::Trigger { target, service, ident }
    }
}

/// One end of a data channel.
pub struct Data {
    pub from: ReadHalf<Domain>,
    pub to: WriteHalf<Domain>,
    version: u32,
}

impl Data {
    /// As dom0's client for a service in the qube: it waits for the agent. Half of them have rings in which more than the
    /// longest piece has room.
    pub async fn accept(bench: &Bench, port: u32, version: u32) -> Data {
        let ring = if port.is_multiple_of(2) { 512 << 10 } else { 64 << 10 };
        let server = Server::new(bench.dom0.clone(), &bench.dom0_store, bench.qube.id(), port);
        let channel = server.with_sizes(ring, ring).unwrap().accept().await.unwrap();
        Data::open(channel, version).await
    }

    /// As a service that the qube has called.
    pub async fn connect(bench: &Bench, port: u32, version: u32) -> Data {
        let client = Client::new(bench.dom0.clone(), &bench.dom0_store, bench.qube.id(), port);
        Data::open(client.connect().await.unwrap(), version).await
    }

    async fn open(mut channel: Channel<Domain>, version: u32) -> Data {
        assert!(write_all(&mut channel, &raw(0x300, &version.to_le_bytes())).await);
        let mut hello = [0; 12];
        assert!(read_exact(&mut channel, &mut hello).await);
        assert_eq!(hello[..], raw(0x300, &4_u32.to_le_bytes()));
        let (from, to) = channel.split();
        Data { from, to, version: version.min(4) }
    }

    fn max_chunk(&self) -> usize {
        if self.version < 3 { 4096 } else { 65536 }
    }

    /// Sends a stream in pieces as long as they may be, and its end.
    pub async fn send_all(to: &mut WriteHalf<Domain>, kind: u32, bytes: &[u8], max: usize) {
        for chunk in bytes.chunks(max).chain([&[][..]]) {
            let message = raw(kind, chunk);
            let mut rest = &message[..];
            while !rest.is_empty() {
                let Ok(len) = to.write(rest).await else { return };
                rest = &rest[len..];
            }
        }
    }

    /// The next message; `None` where the channel is closed.
    pub async fn next(from: &mut ReadHalf<Domain>, max: usize) -> Option<(u32, Vec<u8>)> {
        let mut header = [0; 8];
        read_half(from, &mut header).await?;
        let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
        let len = u32::from_le_bytes(header[4..].try_into().unwrap()) as usize;
        assert!(len <= max, "a piece of {len} bytes: {max} are allowed");
        let mut body = vec![0; len];
        read_half(from, &mut body).await?;
        Some((kind, body))
    }

    /// All messages until the exit code, with the streams joined.
    pub async fn results(from: &mut ReadHalf<Domain>, max: usize) -> Results {
        let mut results = Results::default();
        loop {
            let Some((kind, body)) = Data::next(from, max).await else { return results };
            match kind {
                STDOUT if body.is_empty() => results.ends.push(STDOUT),
                STDERR if body.is_empty() => results.ends.push(STDERR),
                STDOUT => results.stdout.extend(body),
                STDERR => results.stderr.extend(body),
                EXIT => {
                    results.exit = Some(u32::from_le_bytes(body[..].try_into().unwrap()));
                    return results;
                }
                kind => panic!("message {kind:#x} from a service"),
            }
        }
    }

    /// Sends a standard input, and returns what comes back.
    pub async fn run(mut self, input: &[u8]) -> Results {
        let max = self.max_chunk();
        let (_, results) =
            join(Data::send_all(&mut self.to, STDIN, input, max), Data::results(&mut self.from, max)).await;
        results
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Results {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub ends: Vec<u32>,
    pub exit: Option<u32>,
}

async fn read_half(from: &mut ReadHalf<Domain>, to: &mut [u8]) -> Option<()> {
    let mut filled = 0;
    while filled < to.len() {
        match from.read(&mut to[filled..]).await {
            Ok(0) | Err(_) => return None,
            Ok(len) => filled += len,
        }
    }
    Some(())
}
