//! The whole server on this machine, in a simulated Xen: the test is its toolstack, and its clients. Each run has a seed; where
//! one fails, its seed is printed.

use std::time::Duration;

use embedded_io_async::Write;
use sarab::network::Stack;
use sarab::network::stack::tcp::TcpSocket;
use sarab::network::stack::udp::{PacketMetadata, UdpSocket};
use sarab::network::stack::{IpAddress, IpEndpoint};
use sarab::testing::{End, Faults, Guest, check};

/// The peer's and the server's addresses.
const PEER: &str = "10.0.0.1/24";
const SERVER: IpAddress = IpAddress::v4(10, 0, 0, 2);
const ARGUMENTS: &str = "ip=10.0.0.2/24 tcp=4";

const CONFIG: &str = "zone example.test a.zone transfer=10.0.0.1\nzone other.test b.zone\nratelimit off\n";
const ZONE: &str = "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.2\n";

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn zones(first: &str, second: &str) -> Vec<u8> {
    archive(&[("dns.conf", CONFIG), ("a.zone", first), ("b.zone", second)])
}

/// A question about a name, of a type.
fn question(name: &str, qtype: u16) -> Vec<u8> {
    let mut bytes = vec![1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, qtype as u8, 0, 1]);
    bytes
}

/// Code and last four bytes of what is said to it by UDP: an address.
async fn ask(peer: Stack, name: &str) -> (u8, [u8; 4]) {
    let (mut incoming, mut outgoing) = ([0; 1024], [0; 1024]);
    let (mut received, mut sent) = ([PacketMetadata::EMPTY; 4], [PacketMetadata::EMPTY; 4]);
    let mut socket = UdpSocket::new(peer, &mut received, &mut incoming, &mut sent, &mut outgoing);
    socket.bind(0).unwrap();
    socket.send_to(&question(name, 1), IpEndpoint::new(SERVER, 53)).await.unwrap();
    let mut bytes = [0; 512];
    let (len, from) = socket.recv_from(&mut bytes).await.unwrap();
    assert_eq!((from.endpoint.addr, &bytes[..2]), (SERVER, &[1, 2][..]));
    (bytes[3] & 15, bytes[len - 4..len].try_into().unwrap())
}

async fn read_message(socket: &mut TcpSocket<'_>) -> Option<Vec<u8>> {
    let mut len = [0; 2];
    fill(socket, &mut len).await?;
    let mut bytes = vec![0; u16::from_be_bytes(len).into()];
    fill(socket, &mut bytes).await?;
    Some(bytes)
}

async fn fill(socket: &mut TcpSocket<'_>, mut to: &mut [u8]) -> Option<()> {
    while !to.is_empty() {
        match socket.read(to).await {
            Ok(len @ 1..) => to = &mut to[len..],
            _ => return None,
        }
    }
    Some(())
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes(), message].concat()
}

#[test]
fn zones_are_served_from_a_disk() {
    check("zones", 10, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let guest =
            Guest::new(xen).command_line(ARGUMENTS).read_only_disk("xvda", zones(ZONE, "$TTL 1\nwrong")).network();
        xen.run(async move {
            let running = guest.start(dns::main).await;
            let peer = running.peer::<8>(PEER).await;
            running.wait_for("dns: ready on port 53\n").await;
            // One zone is wrong, and the other one is served.
            let console = running.console();
            assert!(console.contains("dns: error: b.zone:2: a record has a type and data\n"), "{console}");
            assert!(console.contains("dns: example.test. serial 1: 4 records of 3 names\n"), "{console}");
            assert_eq!(ask(peer, "www.example.test").await, (0, [192, 0, 2, 2]));
            assert_eq!(ask(peer, "none.example.test").await.0, 3);
            assert_eq!(ask(peer, "other.test").await.0, 5);

            // By TCP: several at once, answers in their order, and a transfer.
            let (mut incoming, mut outgoing) = ([0; 8192], [0; 1024]);
            let mut socket = TcpSocket::new(peer, &mut incoming, &mut outgoing);
            socket.connect(IpEndpoint::new(SERVER, 53)).await.unwrap();
            let all = [question("ns.example.test", 1), question("none.example.test", 1), question("example.test", 252)];
            let all: Vec<u8> = all.iter().flat_map(|message| framed(message)).collect();
            socket.write_all(&all).await.unwrap();
            for (code, answers) in [(0, 1), (3, 0), (0, 5)] {
                let message = read_message(&mut socket).await.unwrap();
                assert_eq!((message[3] & 15, message[7]), (code, answers), "{message:?}");
            }
            // Who says nothing more is closed.
            assert_eq!(read_message(&mut socket).await, None);
            assert!(running.console().contains("dns: example.test. serial 1 to 10.0.0.1: 1 messages"));
            running.shutdown().await;
            let ended = running.ended().await;
            assert_eq!(ended.how(), End::PowerOff);
            assert!(
                ended.console().contains("dns: asked to poweroff; 3 messages by UDP, 3 by TCP"),
                "{}",
                ended.console()
            );
        });
    });
}

/// A command in the store, and what is said to it.
async fn command(running: &sarab::testing::Running, line: &str) -> String {
    running.set("data/dns/status", "").await;
    running.set("data/dns/command", line).await;
    loop {
        match running.get("data/dns/status").await {
            Some(text) if !text.is_empty() => return text,
            _ => running.sleep(Duration::from_millis(100)).await,
        }
    }
}

#[test]
fn another_disk_has_other_zones() {
    check("another disk", 10, |xen| {
        let guest = Guest::new(xen).command_line(ARGUMENTS).read_only_disk("xvda", zones(ZONE, ZONE)).network();
        xen.run(async move {
            let running = guest.start(dns::main).await;
            let peer = running.peer::<8>(PEER).await;
            running.wait_for("dns: ready").await;
            assert_eq!(ask(peer, "www.other.test").await, (0, [192, 0, 2, 2]));
            running.detach_disk("xvda").await;
            running.wait_for("dns: disk xvda is gone; its zones are served on\n").await;
            assert_eq!(ask(peer, "www.other.test").await, (0, [192, 0, 2, 2]));
            assert_eq!(command(&running, "reload").await, "error: there is no disk to read from");
            // One zone is newer, the other one has become wrong and stays as it was.
            let newer = ZONE.replace("h 1 ", "h 7 ").replace("192.0.2.2", "192.0.2.9");
            running.attach_disk("xvda", zones(&newer, &ZONE.replace("www A", "www CNAME ns\nwww A"))).await;
            running.wait_for("b.zone:5: www.other.test. has a CNAME record and others").await;
            running.wait_for("dns: example.test. serial 7").await;
            assert_eq!(ask(peer, "www.example.test").await, (0, [192, 0, 2, 9]));
            assert_eq!(ask(peer, "www.other.test").await, (0, [192, 0, 2, 2]));
            let said = command(&running, "reload other.test").await;
            assert!(
                said.starts_with("error: b.zone:5: ") && said.ends_with("its older version is served on"),
                "{said}"
            );
            assert!(command(&running, "zones").await.contains("example.test. serial 7, 3 names, 4 records"));
            assert_eq!(command(&running, "reload nothing").await, "error: the configuration has no such zone");
            assert_eq!(command(&running, "what").await, "error: `what`: unknown; `help` lists the commands");
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn a_zone_that_does_not_fit_says_so_and_others_are_served() {
    check("memory", 2, |xen| {
        let mut large = ZONE.to_owned();
        (0..60_000).for_each(|host| large.push_str(&format!("a-host-with-a-rather-long-name-{host} A 192.0.2.3\n")));
        let guest =
            Guest::new(xen).memory(12).command_line(ARGUMENTS).read_only_disk("xvda", zones(&large, ZONE)).network();
        xen.run(async move {
            let running = guest.start(dns::main).await;
            let peer = running.peer::<8>(PEER).await;
            running.wait_for("the zone does not fit into the ").await;
            running.wait_for("dns: ready").await;
            assert_eq!(ask(peer, "www.other.test").await, (0, [192, 0, 2, 2]));
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}
