//! dom0's side of QubesDB and qrexec, by Qubes' headers (`qubesdb.h`, `qrexec.h`), byte by byte.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use embedded_io_async::{Read, Write};
use futures_util::future::{Either, select};
use sarab::testing::{Running, Xen};
use xen_hal::{Clock, DomId};
use xen_sim::Domain;
use xen_vchan::{Channel, Client, ReadHalf, Server, WriteHalf};

/// dom0's daemons for one qube.
#[derive(Clone)]
pub struct Dom0 {
    domain: Domain,
    store: xenstore_client::Store,
    qube: DomId,
    pub db: Rc<RefCell<Db>>,
}

#[derive(Default)]
pub struct Db {
    pub entries: BTreeMap<String, Vec<u8>>,
    /// Messages for the qube.
    pushed: VecDeque<Message>,
    /// Drops the channel.
    pub closes: bool,
}

const WRITE: u8 = 1;
const MULTIREAD: u8 = 2;
const RM: u8 = 4;
const OK: u8 = 7;
const MULTIREAD_RESP: u8 = 11;

fn message(kind: u8, path: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 72];
    bytes[0] = kind;
    bytes[1..1 + path.len()].copy_from_slice(path.as_bytes());
    bytes[68..].copy_from_slice(&(value.len() as u32).to_le_bytes());
    bytes.extend(value);
    bytes
}

type Message = (u8, String, Vec<u8>);

/// The next message, with the half that it came on.
async fn next(mut reads: ReadHalf<Domain>) -> (ReadHalf<Domain>, Option<Message>) {
    let message = read(&mut reads).await;
    (reads, message)
}

async fn read(channel: &mut ReadHalf<Domain>) -> Option<Message> {
    let mut header = [0; 72];
    channel.read_exact(&mut header).await.ok()?;
    let path = header[1..65].split(|byte| *byte == 0).next().unwrap();
    let len = u32::from_le_bytes(header[68..].try_into().unwrap());
    let mut value = vec![0; len as usize];
    channel.read_exact(&mut value).await.ok()?;
    Some((header[0], String::from_utf8(path.to_vec()).expect("a path"), value))
}

impl Dom0 {
    pub fn new(xen: &Xen, qube: &Running) -> Dom0 {
        let toolstack = xen.toolstack();
        let (domain, store) = (toolstack.domain().clone(), toolstack.store().clone());
        let dom0 = Dom0 { domain, store, qube: qube.domain().id(), db: Rc::default() };
        dom0.domain.spawn(dom0.clone().serve()).detach();
        dom0
    }

    async fn serve(self) {
        let server = Server::new(self.domain.clone(), &self.store, self.qube, 111);
        let mut server = server.with_sizes(4096, 4096).expect("a layout");
        while let Ok(channel) = server.accept().await {
            self.talk(channel).await;
        }
    }

    async fn talk(&self, channel: Channel<Domain>) {
        let (reads, mut writes) = channel.split();
        let (reads, first) = next(reads).await;
        assert_eq!(first, Some((MULTIREAD, String::new(), Vec::new())));
        self.db.borrow_mut().pushed.clear();
        let entries = self.db.borrow().entries.clone();
        for (path, value) in entries {
            writes.write_all(&message(MULTIREAD_RESP, &path, &value)).await.expect("an entry is sent");
        }
        writes.write_all(&message(MULTIREAD_RESP, "", b"")).await.expect("the end is sent");
        // A message that comes in two parts is not to be lost by looking elsewhere in between.
        let mut coming = Box::pin(next(reads));
        loop {
            let pushed = self.db.borrow_mut().pushed.pop_front();
            if let Some((kind, path, value)) = pushed {
                writes.write_all(&message(kind, &path, &value)).await.expect("a change is sent");
                continue;
            }
            if std::mem::take(&mut self.db.borrow_mut().closes) {
                return;
            }
            let look = Box::pin(self.domain.sleep(Duration::from_millis(10)));
            match select(coming, look).await {
                Either::Left(((_, None), _)) => return,
                Either::Left(((reads, Some(message)), _)) => {
                    answer(self, &mut writes, message).await;
                    coming = Box::pin(next(reads));
                }
                Either::Right((_, rest)) => coming = rest,
            }
        }
    }

    pub fn write(&self, path: &str, value: &str) {
        let mut db = self.db.borrow_mut();
        db.entries.insert(path.into(), value.into());
        db.pushed.push_back((WRITE, path.into(), value.into()));
    }

    pub fn remove(&self, path: &str) {
        let mut db = self.db.borrow_mut();
        db.entries.retain(|own, _| if path.ends_with('/') { !own.starts_with(path) } else { own != path });
        db.pushed.push_back((RM, path.into(), Vec::new()));
    }

    /// As `reload_firewall_for_vm` of qubes-core-admin does it.
    pub fn rules(&self, address: &str, policy: &str, rules: &[(u32, &str)]) {
        self.remove(&format!("/qubes-firewall/{address}/"));
        for (number, rule) in rules {
            self.write(&format!("/qubes-firewall/{address}/{number:04}"), rule);
        }
        self.write(&format!("/qubes-firewall/{address}/policy"), policy);
        self.write(&format!("/qubes-firewall/{address}"), "");
    }

    pub fn get(&self, path: &str) -> Option<String> {
        self.db.borrow().entries.get(path).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    pub async fn until(&self, path: &str, value: &str) {
        for _ in 0..2000 {
            if self.get(path).as_deref() == Some(value) {
                return;
            }
            self.domain.sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} is {:?}, not {value:?}", self.get(path));
    }

    /// Calls a service of the qube: its output and exit code.
    pub async fn call(&self, control: &mut Channel<Domain>, service: &str, input: &[u8]) -> (String, u32) {
        const PORT: u32 = 513;
        let command = format!("root:QUBESRPC {service} dom0\0");
        let mut body = [0_u32.to_le_bytes(), PORT.to_le_bytes()].concat();
        body.extend(command.as_bytes());
        send(control, 0x200, &body).await;
        let server = Server::new(self.domain.clone(), &self.store, self.qube, PORT);
        let mut data = server.with_sizes(4096, 4096).expect("a layout").accept().await.expect("the qube connects");
        send(&mut data, 0x300, &4_u32.to_le_bytes()).await;
        assert_eq!(receive(&mut data).await, (0x300, 4_u32.to_le_bytes().to_vec()));
        send(&mut data, 0x190, input).await;
        if !input.is_empty() {
            send(&mut data, 0x190, b"").await;
        }
        let mut output = Vec::new();
        let code = loop {
            match receive(&mut data).await {
                (0x191 | 0x192, bytes) => output.extend(bytes),
                (0x193, code) => break u32::from_le_bytes(code.try_into().expect("an exit code")),
                (kind, _) => panic!("message {kind:#x}"),
            }
        };
        drop(data);
        let (kind, body) = receive(control).await;
        assert_eq!((kind, body), (0x211, [0_u32.to_le_bytes(), PORT.to_le_bytes()].concat()));
        (String::from_utf8(output).expect("text"), code)
    }

    pub async fn control(&self) -> Channel<Domain> {
        let client = Client::new(self.domain.clone(), &self.store, self.qube, 512);
        let mut control = client.connect().await.expect("the agent listens");
        assert_eq!(receive(&mut control).await.0, 0x300);
        send(&mut control, 0x300, &4_u32.to_le_bytes()).await;
        control
    }
}

/// Carries out what the qube asks for.
async fn answer(dom0: &Dom0, writes: &mut WriteHalf<Domain>, (kind, path, value): Message) {
    match kind {
        OK => return,
        WRITE => drop(dom0.db.borrow_mut().entries.insert(path.clone(), value)),
        RM => dom0.db.borrow_mut().entries.retain(|own, _| !own.starts_with(&path)),
        kind => panic!("the original ends the channel at a message of type {kind}"),
    }
    writes.write_all(&message(OK, &path, b"")).await.expect("an answer is sent");
}

pub async fn send(channel: &mut Channel<Domain>, kind: u32, body: &[u8]) {
    let header = [kind.to_le_bytes(), (body.len() as u32).to_le_bytes()].concat();
    channel.write_all(&[&header, body].concat()).await.expect("it is sent");
}

pub async fn receive(channel: &mut Channel<Domain>) -> (u32, Vec<u8>) {
    let mut header = [0; 8];
    channel.read_exact(&mut header).await.expect("a header");
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let mut body = vec![0; word(4) as usize];
    channel.read_exact(&mut body).await.expect("a body");
    (word(0), body)
}
