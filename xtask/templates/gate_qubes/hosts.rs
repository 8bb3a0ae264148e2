//! Who is around a firewall qube: its clients, and a host outside.

use std::cell::Cell;
use std::rc::Rc;

use embedded_io_async::Write;
use sarab::network::stack::tcp::TcpSocket;
use sarab::network::stack::udp::{PacketMetadata, UdpSocket};
use sarab::network::stack::{IpAddress, Stack};
use sarab::testing::{Guest, Running, Xen};
use sarab::{App, println};

use crate::dom0::Dom0;

/// A guest that connects to whom its console is told, and prints what comes back.
pub async fn client(app: App) -> sarab::Result {
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

/// A guest that tells each who connects to port 7 which address it sees.
pub async fn server(app: App) -> sarab::Result {
    let network = app.network("vif").await?;
    println!("up");
    loop {
        let (mut incoming, mut outgoing) = (vec![0; 2048], vec![0; 2048]);
        let mut socket = TcpSocket::new(network.stack, &mut incoming, &mut outgoing);
        socket.accept(7).await.expect("a connection");
        let remote = socket.remote_endpoint().expect("a client").addr;
        let _ = socket.write_all(format!("inside sees {remote}").as_bytes()).await;
        socket.close();
        let _ = socket.flush().await;
    }
}

/// A host outside, which tells each who connects to a port which address it sees.
pub async fn outside(gate: &Running, ports: &'static [u16]) -> Stack<'static> {
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
pub async fn answer_names(stack: Stack<'static>, address: Rc<Cell<Option<[u8; 4]>>>) {
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

pub async fn asks(client: &Running, whom: &str, answer: &str) {
    client.type_in(&format!("{whom}\n"));
    client.wait_for(&format!("{whom}: {answer}\n")).await;
}

/// A firewall qube that has been started, and its dom0.
pub async fn firewall(xen: &Xen, guest: Guest) -> (Running, Dom0) {
    let (gate, dom0, _) = firewall_and_outside(xen, guest).await;
    (gate, dom0)
}

/// And the host outside.
pub async fn firewall_and_outside(xen: &Xen, guest: Guest) -> (Running, Dom0, Stack<'static>) {
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

pub async fn qube(xen: &Xen, gate: &Running, address: &str) -> Running {
    let guest = Guest::new(xen).network_of(gate).addresses(address);
    let qube = guest.command_line(&format!("ip={address}/32 gw=10.137.0.10")).start(client).await;
    qube.wait_for("up\n").await;
    qube
}
