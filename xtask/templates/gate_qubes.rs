//! The gate as a qube of Qubes OS, in a simulated Xen: dom0 here speaks QubesDB and qrexec by Qubes' headers
//! (`qubesdb.h`, `qrexec.h`), byte by byte.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use embedded_io_async::{Read, Write};
use futures_util::future::{Either, select};
use sarab::network::stack::IpAddress;
use sarab::network::stack::Stack;
use sarab::network::stack::tcp::TcpSocket;
use sarab::network::stack::udp::{PacketMetadata, UdpSocket};
use sarab::testing::{End, Faults, Guest, Running, Xen, check};
use sarab::{App, println};
use xen_hal::{Clock, DomId};
use xen_sim::Domain;
use xen_vchan::{Channel, Client, ReadHalf, Server, WriteHalf};

/// dom0's daemons for one qube.
#[derive(Clone)]
struct Dom0 {
    domain: Domain,
    store: xenstore_client::Store,
    qube: DomId,
    db: Rc<RefCell<Db>>,
}

#[derive(Default)]
struct Db {
    entries: BTreeMap<String, Vec<u8>>,
    /// Messages for the qube.
    pushed: VecDeque<Message>,
    /// Drops the channel.
    closes: bool,
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
    fn new(xen: &Xen, qube: &Running) -> Dom0 {
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

    fn write(&self, path: &str, value: &str) {
        let mut db = self.db.borrow_mut();
        db.entries.insert(path.into(), value.into());
        db.pushed.push_back((WRITE, path.into(), value.into()));
    }

    fn remove(&self, path: &str) {
        let mut db = self.db.borrow_mut();
        db.entries.retain(|own, _| if path.ends_with('/') { !own.starts_with(path) } else { own != path });
        db.pushed.push_back((RM, path.into(), Vec::new()));
    }

    /// As `reload_firewall_for_vm` of qubes-core-admin does it.
    fn rules(&self, address: &str, policy: &str, rules: &[(u32, &str)]) {
        self.remove(&format!("/qubes-firewall/{address}/"));
        for (number, rule) in rules {
            self.write(&format!("/qubes-firewall/{address}/{number:04}"), rule);
        }
        self.write(&format!("/qubes-firewall/{address}/policy"), policy);
        self.write(&format!("/qubes-firewall/{address}"), "");
    }

    fn get(&self, path: &str) -> Option<String> {
        self.db.borrow().entries.get(path).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    async fn until(&self, path: &str, value: &str) {
        for _ in 0..2000 {
            if self.get(path).as_deref() == Some(value) {
                return;
            }
            self.domain.sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} is {:?}, not {value:?}", self.get(path));
    }

    /// Calls a service of the qube: its output and exit code.
    async fn call(&self, control: &mut Channel<Domain>, service: &str, input: &[u8]) -> (String, u32) {
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

    async fn control(&self) -> Channel<Domain> {
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

async fn send(channel: &mut Channel<Domain>, kind: u32, body: &[u8]) {
    let header = [kind.to_le_bytes(), (body.len() as u32).to_le_bytes()].concat();
    channel.write_all(&[&header, body].concat()).await.expect("it is sent");
}

async fn receive(channel: &mut Channel<Domain>) -> (u32, Vec<u8>) {
    let mut header = [0; 8];
    channel.read_exact(&mut header).await.expect("a header");
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let mut body = vec![0; word(4) as usize];
    channel.read_exact(&mut body).await.expect("a body");
    (word(0), body)
}

/// A guest that connects to whom its console is told, and prints what comes back.
async fn client(app: App) -> sarab::Result {
    let network = app.network("vif").await?;
    println!("up");
    loop {
        let line = app.console().read_line(80).await;
        let (address, port) = line.rsplit_once(' ').expect("an address and a port");
        let address: core::net::IpAddr = address.parse().expect("an address");
        let (mut incoming, mut outgoing) = (vec![0; 4096], vec![0; 4096]);
        let mut socket = TcpSocket::new(network.stack, &mut incoming, &mut outgoing);
        socket.set_timeout(Some(sarab::time::Duration::from_secs(3)));
        let port: u16 = port.parse().expect("a port");
        if let Err(error) = socket.connect((IpAddress::from(address), port)).await {
            println!("{line}: {error:?}");
            continue;
        }
        let mut back = [0; 100];
        let len = socket.read(&mut back).await?;
        println!("{line}: {}", String::from_utf8_lossy(&back[..len]));
        socket.close();
        let _ = socket.flush().await;
    }
}

/// A host outside, which tells each who connects to a port which address it sees.
async fn outside(gate: &Running, ports: &'static [u16]) -> Stack<'static> {
    let stack = gate.peer::<0>("10.137.0.1/24").await;
    for port in ports {
        let talk = async move {
            loop {
                let (mut incoming, mut outgoing) = (vec![0; 2048], vec![0; 2048]);
                let mut socket = TcpSocket::new(stack, &mut incoming, &mut outgoing);
                socket.accept(*port).await.expect("a connection");
                let remote = socket.remote_endpoint().expect("a client").addr;
                socket.set_timeout(Some(sarab::time::Duration::from_secs(5)));
                let _ = socket.write_all(format!("{port} sees {remote}").as_bytes()).await;
                socket.close();
                let _ = socket.flush().await;
            }
        };
        gate.domain().spawn(talk).detach();
    }
    stack
}

/// Answers for all names with the address that there is at the time, and with none of IPv6. Silent while there is none.
async fn answer_names(stack: Stack<'static>, address: Rc<Cell<Option<[u8; 4]>>>) {
    let (mut metadata, mut bytes) = ([[PacketMetadata::EMPTY; 8]; 2], [vec![0; 2048], vec![0; 2048]]);
    let ([m, n], [a, b]) = (&mut metadata, &mut bytes);
    let mut socket = UdpSocket::new(stack, m, a, n, b);
    socket.bind(53).expect("the port is free");
    let mut message = [0; 512];
    loop {
        let (len, from) = socket.recv_from(&mut message).await.expect("a question");
        let Some(address) = address.get() else { continue };
        let name = message[12..len].iter().position(|byte| *byte == 0).expect("the end of a name");
        let question = &message[12..12 + name + 5];
        let is_v4 = question[name + 2] == 1;
        let mut answer = [&message[..2], &[0x81, 0x80, 0, 1, 0, is_v4.into(), 0, 0, 0, 0], question].concat();
        if is_v4 {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 10, 0, 4]);
            answer.extend(address);
        }
        let _ = socket.send_to(&answer, from.endpoint).await;
    }
}

async fn asks(client: &Running, whom: &str, answer: &str) {
    client.type_in(&format!("{whom}\n"));
    client.wait_for(&format!("{whom}: {answer}\n")).await;
}

/// A firewall qube that has been started, and its dom0.
async fn firewall(xen: &Xen, guest: Guest) -> (Running, Dom0) {
    let (gate, dom0, _) = firewall_and_outside(xen, guest).await;
    (gate, dom0)
}

/// And the host outside.
async fn firewall_and_outside(xen: &Xen, guest: Guest) -> (Running, Dom0, Stack<'static>) {
    let gate = guest.memory(32).network().start(gate::main).await;
    let dom0 = Dom0::new(xen, &gate);
    let mac = gate.get("device/vif/0/mac").await.expect("a MAC");
    for (key, value) in [
        ("/name", "sys-firewall"),
        ("/qubes-random-seed", "c2FyYWI="),
        ("/qubes-ip", "10.137.0.10"),
        ("/qubes-netmask", "255.255.255.255"),
        ("/qubes-gateway", "10.137.0.1"),
        ("/qubes-primary-dns", "10.139.1.1"),
        ("/qubes-secondary-dns", "10.139.1.2"),
        ("/qubes-netvm-gateway", "10.137.0.10"),
        ("/qubes-netvm-primary-dns", "10.139.1.1"),
        ("/qubes-netvm-secondary-dns", "10.139.1.2"),
        ("/connected-ips", "10.137.0.20 10.137.0.21"),
    ] {
        dom0.write(key, value);
    }
    // The simulation's host has a MAC of its own, where a netvm has fe:ff:ff:ff:ff:ff.
    for (key, value) in
        [("ip", "10.137.0.10"), ("netmask", "255.255.255.255"), ("gateway", "10.137.0.1"), ("custom", "true")]
    {
        dom0.write(&format!("/net-config/{mac}/{key}"), value);
    }
    gate.wait_for("gate: vif/0: 10.137.0.10/32, gateway 10.137.0.1\n").await;
    let stack = outside(&gate, &[7, 8, 53]).await;
    (gate, dom0, stack)
}

async fn qube(xen: &Xen, gate: &Running, address: &str) -> Running {
    let guest = Guest::new(xen).network_of(gate).addresses(address);
    let qube = guest.command_line(&format!("ip={address}/32 gw=10.137.0.10")).start(client).await;
    qube.wait_for("up\n").await;
    qube
}

#[test]
fn the_life_of_a_firewall_qube() {
    check("a firewall qube", 6, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            let a = qube(&xen, &gate, "10.137.0.20").await;
            // Nothing passes before there are rules.
            asks(&a, "10.137.0.1 7", "ConnectionReset").await;
            dom0.rules("10.137.0.20", "drop", &[(0, "action=accept proto=tcp dst4=10.137.0.0/24 dstports=7-7")]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "1").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            asks(&a, "10.137.0.1 8", "ConnectionReset").await;
            // The PV interface of an HVM qube, which has the address of its stub domain's and is not connected.
            let twin = Guest::new(&xen).network_of(&gate).addresses("10.137.0.20").start(idle).await;
            gate.wait_for("10.137.0.20 is another client's too").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            twin.destroy();
            twin.ended().await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            // Half of a change is none: it counts when dom0 says that it is complete.
            dom0.remove("/qubes-firewall/10.137.0.20/");
            dom0.write("/qubes-firewall/10.137.0.20/0003", "action=accept dstports=8-8");
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            dom0.write("/qubes-firewall/10.137.0.20/policy", "drop");
            dom0.write("/qubes-firewall/10.137.0.20", "");
            dom0.until("/qubes-firewall-handled/10.137.0.20", "2").await;
            asks(&a, "10.137.0.1 8", "8 sees 10.137.0.10").await;
            asks(&a, "10.137.0.1 7", "ConnectionReset").await;
            // One that cannot be read blocks all, and says why.
            dom0.rules("10.137.0.20", "accept", &[(0, "action=accept color=red")]);
            gate.wait_for("gate: 10.137.0.20: rule 0000: unknown option \"color\"; blocking its traffic\n").await;
            dom0.until("/qubes-firewall-handled/10.137.0.20", "3").await;
            asks(&a, "10.137.0.1 8", "ConnectionReset").await;
            // Qubes do not reach each other, nor the gate, but for pings.
            dom0.rules("10.137.0.20", "accept", &[]);
            dom0.rules("10.137.0.21", "accept", &[]);
            let b = qube(&xen, &gate, "10.137.0.21").await;
            dom0.until("/qubes-firewall-handled/10.137.0.21", "1").await;
            asks(&b, "10.137.0.1 8", "8 sees 10.137.0.10").await;
            asks(&a, "10.137.0.21 7", "ConnectionReset").await;
            asks(&a, "10.137.0.10 53", "ConnectionReset").await;
            // dom0's daemon is started anew, and has other rules.
            dom0.db.borrow_mut().entries.insert("/qubes-firewall/10.137.0.21/policy".into(), "drop".into());
            dom0.db.borrow_mut().closes = true;
            dom0.until("/qubes-firewall-handled/10.137.0.21", "2").await;
            asks(&b, "10.137.0.1 8", "ConnectionReset").await;
            asks(&a, "10.137.0.1 8", "8 sees 10.137.0.10").await;
            // Another one begins empty, and says nothing yet.
            let before = std::mem::take(&mut dom0.db.borrow_mut().entries);
            dom0.db.borrow_mut().closes = true;
            gate.wait_for("gate: QubesDB has no /name yet").await;
            asks(&a, "10.137.0.1 8", "8 sees 10.137.0.10").await;
            for (path, value) in before {
                dom0.write(&path, &String::from_utf8_lossy(&value));
            }
            asks(&a, "10.137.0.1 8", "8 sees 10.137.0.10").await;
            asks(&b, "10.137.0.1 8", "ConnectionReset").await;
            a.shutdown().await;
            a.ended().await;
            gate.wait_for(" is gone\n").await;
            gate.shutdown().await;
            assert_eq!(gate.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn rules_are_about_the_name_server_that_was_asked() {
    check("redirected questions", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            // The netvm is no qube that translates: both servers that qubes know stand for one of its network.
            dom0.write("/qubes-primary-dns", "10.137.0.1");
            dom0.remove("/qubes-secondary-dns");
            dom0.rules("10.137.0.20", "drop", &[(0, "action=accept dst4=10.139.1.2/32 dstports=53-53")]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "1").await;
            let a = qube(&xen, &gate, "10.137.0.20").await;
            asks(&a, "10.139.1.2 53", "53 sees 10.137.0.10").await;
            asks(&a, "10.139.1.1 53", "ConnectionReset").await;
            asks(&a, "10.137.0.1 53", "ConnectionReset").await;
            dom0.rules("10.137.0.20", "drop", &[(0, "action=accept specialtarget=dns")]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "2").await;
            asks(&a, "10.139.1.1 53", "53 sees 10.137.0.10").await;
            asks(&a, "10.139.1.1 7", "ConnectionReset").await;
            gate.destroy();
        });
    });
}

#[test]
fn a_name_that_is_not_known_yet_may_be_what_a_rule_forbids() {
    check("a forbidden name", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0, stack) = firewall_and_outside(&xen, guest).await;
            let address = Rc::new(Cell::new(None));
            gate.domain().spawn(answer_names(stack, address.clone())).detach();
            dom0.write("/qubes-primary-dns", "10.137.0.1");
            let rules = [(0, "action=drop dsthost=bad.example"), (1, "action=accept dsthost=good.example")];
            dom0.rules("10.137.0.20", "accept", &rules);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "1").await;
            let a = qube(&xen, &gate, "10.137.0.20").await;
            asks(&a, "10.137.0.1 7", "ConnectionReset").await;
            // It is somebody else.
            address.set(Some([203, 0, 113, 9]));
            dom0.until("/dns/10.137.0.20/bad.example", "{'203.0.113.9/32'}").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            // It is the same from now on.
            address.set(Some([10, 137, 0, 1]));
            while !dom0.get("/dns/10.137.0.20/bad.example").expect("it is there").contains("10.137.0.1/32") {
                gate.sleep(Duration::from_secs(1)).await;
            }
            asks(&a, "10.137.0.1 8", "ConnectionReset").await;
            // Nobody says any more that it was ever another.
            address.set(None);
            gate.sleep(Duration::from_secs(1000)).await;
            assert_eq!(dom0.get("/dns/10.137.0.20/bad.example"), None);
            asks(&a, "10.137.0.1 8", "ConnectionReset").await;
            gate.destroy();
        });
    });
}

#[test]
fn what_the_gate_writes_itself_changes_no_network() {
    check("its own entries", 2, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            dom0.write("/qubes-netvm-gateway6", "bad");
            let told = "gate: QubesDB: /qubes-netvm-gateway6 is \"bad\"";
            gate.wait_for(told).await;
            let before = gate.console().matches(told).count();
            for count in ["1", "2", "3"] {
                dom0.rules("10.137.0.20", "accept", &[]);
                dom0.until("/qubes-firewall-handled/10.137.0.20", count).await;
            }
            assert_eq!(gate.console().matches(told).count(), before);
            // Rules that are taken back: nothing passes.
            let a = qube(&xen, &gate, "10.137.0.20").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            dom0.remove("/qubes-firewall/10.137.0.20/");
            dom0.remove("/qubes-firewall/10.137.0.20");
            gate.wait_for("gate: 10.137.0.20: it has no rules any more").await;
            asks(&a, "10.137.0.1 7", "ConnectionReset").await;
            gate.destroy();
        });
    });
}

#[test]
fn a_name_may_be_too_long_for_a_path() {
    check("a long name", 2, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0, stack) = firewall_and_outside(&xen, guest).await;
            let address = Rc::new(Cell::new(Some([10, 137, 0, 1])));
            gate.domain().spawn(answer_names(stack, address.clone())).detach();
            dom0.write("/qubes-primary-dns", "10.137.0.1");
            let name = format!("{}.example", "long".repeat(15));
            let (long, short) = (format!("action=accept dsthost={name}"), "action=accept dsthost=short.example");
            dom0.rules("10.137.0.20", "drop", &[(0, &long), (1, short)]);
            dom0.until("/dns/10.137.0.20/short.example", "{'10.137.0.1/32'}").await;
            let told = format!("gate: /dns/10.137.0.20/{name} is longer than QubesDB takes");
            gate.wait_for(&told).await;
            let a = qube(&xen, &gate, "10.137.0.20").await;
            dom0.rules("10.137.0.20", "drop", &[(0, &long)]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "2").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            while dom0.get("/dns/10.137.0.20/short.example").is_some() {
                gate.sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(gate.console().matches(&told).count(), 1);
            gate.destroy();
        });
    });
}

#[test]
fn names_are_asked_for_again_when_there_is_another_server() {
    check("another name server", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0, stack) = firewall_and_outside(&xen, guest).await;
            let address = Rc::new(Cell::new(Some([10, 137, 0, 1])));
            gate.domain().spawn(answer_names(stack, address.clone())).detach();
            dom0.rules("10.137.0.20", "drop", &[(0, "action=accept dsthost=a.example")]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "1").await;
            // The one that there is says nothing: it is asked ever less often.
            gate.sleep(Duration::from_secs(1900)).await;
            assert_eq!(dom0.get("/dns/10.137.0.20/a.example"), None);
            dom0.write("/qubes-primary-dns", "10.137.0.1");
            dom0.until("/dns/10.137.0.20/a.example", "{'10.137.0.1/32'}").await;
            gate.destroy();
        });
    });
}

#[test]
fn addresses_of_qubes_that_do_not_run_are_nobodys_outside() {
    check("connected addresses", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            dom0.rules("10.137.0.20", "accept", &[]);
            let a = qube(&xen, &gate, "10.137.0.20").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            dom0.write("/connected-ips", "10.137.0.20 10.137.0.1 junk");
            gate.wait_for("gate: QubesDB: /connected-ips has \"junk\": expected addresses\n").await;
            asks(&a, "10.137.0.1 8", "ConnectionReset").await;
            dom0.write("/connected-ips", "10.137.0.20");
            dom0.rules("10.137.0.20", "accept", &[]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "2").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            gate.destroy();
        });
    });
}

/// A guest that does nothing about its interface.
async fn idle(app: App) {
    app.shutdown().await;
}

#[test]
fn a_qube_may_not_know_its_address() {
    check("a hidden address", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            dom0.write("/mapped-ip/10.137.0.20/visible-ip", "192.168.100.2");
            dom0.write("/mapped-ip/10.137.0.20/visible-gateway", "192.168.100.1");
            dom0.rules("10.137.0.20", "accept", &[]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "1").await;
            let guest = Guest::new(&xen).network_of(&gate).addresses("10.137.0.20");
            let qube = guest.command_line("ip=192.168.100.2/32 gw=192.168.100.1").start(client).await;
            qube.wait_for("up\n").await;
            asks(&qube, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            gate.destroy();
        });
    });
}

#[test]
fn dom0_calls_services() {
    check("services of a firewall qube", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            let mut control = dom0.control().await;
            // It asks to be known as a firewall.
            let (kind, body) = receive(&mut control).await;
            assert_eq!(kind, 0x213);
            assert!(body.ends_with(b"qubes.FeaturesRequest\0"), "{}", String::from_utf8_lossy(&body));
            assert_eq!(dom0.get("/features-request/qubes-firewall").as_deref(), Some("1"));
            send(&mut control, 0x203, &body[128..160]).await;
            for (service, input, output, code) in [
                ("qubes.WaitForSession", "", "", 0),
                ("qubes.SetDateTime", "2026-11-27T10:54:12+0000\n", "", 0),
                ("qubes.SetDateTime", "2026-11-27T10:54:12+00:00\n", "", 0),
                ("qubes.SuspendPre", "", "", 0),
                ("qubes.SuspendPostAll", "", "", 0),
                ("qubes.SetDateTime", "yesterday\n", "expected a time such as", 1),
                ("gate.Status", "", "vif/0: up, 10.137.0.10/32", 0),
                ("gate.Metrics", "", "\ngate_flows 0\n", 0),
                ("my.Service+x", "", "", 127),
            ] {
                let (found, own) = dom0.call(&mut control, service, input.as_bytes()).await;
                assert!(own == code && found.contains(output), "{service}: {own}: {found}");
            }
            gate.wait_for("gate: qubes.SetDateTime: \"yesterday\" is no time\n").await;
            gate.destroy();
        });
    });
}

#[test]
fn the_netvm_is_taken_away_and_another_one_comes() {
    check("another netvm", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            dom0.rules("10.137.0.20", "accept", &[]);
            let a = qube(&xen, &gate, "10.137.0.20").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            gate.unplug(0).await;
            for key in ["/qubes-ip", "/qubes-netmask", "/qubes-gateway"] {
                dom0.remove(key);
            }
            asks(&a, "10.137.0.1 7", "ConnectionReset").await;
            for (key, value) in
                [("ip", "10.137.0.11"), ("netmask", "255.255.255.255"), ("gateway", "10.137.0.1"), ("custom", "true")]
            {
                dom0.write(&format!("/net-config/00:16:3e:00:00:77/{key}"), value);
            }
            gate.plug(0, "00:16:3e:00:00:77", &[]).await;
            gate.wait_for("gate: vif/0: 10.137.0.11/32, gateway 10.137.0.1\n").await;
            outside(&gate, &[7]).await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.11").await;
            gate.destroy();
        });
    });
}
