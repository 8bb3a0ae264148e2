//! The whole gate on this machine, in a simulated Xen: clients at its netback, and a host outside at the other end of its own
//! interface. Each run has a seed; where one fails, its seed is printed.

use embedded_io_async::Write;
use sarab::network::stack::IpAddress;
use sarab::network::stack::tcp::TcpSocket;
use sarab::testing::{End, Faults, Guest, Running, check};
use sarab::{App, println};

const RULES: &str = "clients 10.1.0.1/24\nclients fd00:1::1/64\npublish tcp 8080 to 10.1.0.9 port 7\n";

/// A guest that connects to whom its console is told, says something, and prints what comes back.
async fn client(app: App) -> sarab::Result {
    let network = app.network("vif").await?;
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
        socket.write_all(b"hello").await?;
        let mut back = [0; 100];
        let len = socket.read(&mut back).await?;
        println!("{line}: {}", String::from_utf8_lossy(&back[..len]));
        socket.close();
        let _ = socket.flush().await;
    }
}

/// Says to each who connects which address it has.
async fn tell(mut socket: TcpSocket<'_>, port: u16, name: &str) -> sarab::Result {
    socket.accept(port).await.expect("a connection");
    let remote = socket.remote_endpoint().expect("a client").addr;
    let mut bytes = [0; 100];
    let _ = socket.read(&mut bytes).await;
    let _ = socket.write_all(format!("{name} sees {remote}").as_bytes()).await;
    socket.close();
    let _ = socket.flush().await;
    Ok(())
}

/// A guest that says to each who connects which address it has.
async fn server(app: App) -> sarab::Result {
    let network = app.network("vif").await?;
    println!("listening");
    loop {
        let (mut incoming, mut outgoing) = (vec![0; 4096], vec![0; 4096]);
        tell(TcpSocket::new(network.stack, &mut incoming, &mut outgoing), 7, "inside").await?;
    }
}

async fn asks(client: &Running, whom: &str, answer: &str) {
    client.type_in(&format!("{whom}\n"));
    client.wait_for(&format!("{whom}: {answer}\n")).await;
}

#[test]
fn clients_reach_others_and_what_is_published_is_reached() {
    check("the gate", 10, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let gate = guest
                .memory(32)
                .network()
                .command_line("ip=203.0.113.2/24 gw=203.0.113.1")
                .module(RULES)
                .start(gate::main)
                .await;
            gate.wait_for("gate: ready\n").await;
            let outside = gate.peer::<4>("203.0.113.1/24").await;
            let talker = gate.domain().clone();
            talker
                .spawn(async move {
                    loop {
                        let (mut incoming, mut outgoing) = (vec![0; 4096], vec![0; 4096]);
                        let _ = tell(TcpSocket::new(outside, &mut incoming, &mut outgoing), 7, "outside").await;
                    }
                })
                .detach();
            // One that has its addresses of the gate, and one that has them of the toolstack.
            let a = Guest::new(&xen).network_of(&gate).command_line("ip=dhcp ip6=auto").start(client).await;
            a.wait_for("gateway 10.1.0.1").await;
            let b = Guest::new(&xen).network_of(&gate).addresses("10.1.0.9 fd00:1::9");
            let b = b.command_line("ip=10.1.0.9/24 gw=10.1.0.1").start(server).await;
            b.wait_for("listening\n").await;
            asks(&a, "203.0.113.1 7", "outside sees 203.0.113.2").await;
            // By the address outside, and by the one inside.
            asks(&a, "203.0.113.2 8080", "inside sees 203.0.113.2").await;
            let console = a.console();
            let own = console.find("10.1.0.").and_then(|at| console[at..].split('/').next()).expect("its address");
            asks(&a, "10.1.0.9 7", &format!("inside sees {own}")).await;

            gate.set("data/gate/rules", "clients 10.1.0.1/24\nreject tcp to any port 7\n").await;
            gate.wait_for("gate: 1 rules of store; ").await;
            asks(&a, "203.0.113.1 7", "ConnectionReset").await;
            gate.set("data/gate/rules", "accept tcp to any port banana\n").await;
            gate.wait_for("gate: store:1:24: expected a port").await;
            // It is written once it was printed.
            gate.sleep(core::time::Duration::from_secs(1)).await;
            assert_eq!(
                gate.get("data/gate/status").await.map(|text| text.starts_with("error: store:1:24: ")),
                Some(true)
            );
            asks(&a, "203.0.113.1 7", "ConnectionReset").await;
            gate.sysrq('g').await;
            gate.wait_for("gate: rule 1: 2 flows: reject tcp to any port 7\n").await;
            a.shutdown().await;
            a.ended().await;
            gate.wait_for("(0 of d3) is gone\n").await;
            gate.shutdown().await;
            assert_eq!(gate.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn what_is_wrong_on_the_command_line_is_named() {
    check("arguments", 3, |xen| {
        for (line, text) in [
            ("port=1", "error: command line: `port=1`: unknown"),
            ("vif0.5.port=1", "error: command line: `vif0.5.port=1`: unknown"),
            ("rules=\"policy maybe\"", "error: rules=:1:8: expected"),
            ("rules=module", "error: rules=module: the toolstack has loaded none"),
        ] {
            let ended = Guest::new(xen).memory(32).command_line(line).run(gate::main);
            assert_eq!(ended.how(), End::Crash);
            assert!(ended.console().contains(text), "{}", ended.console());
        }
    });
}
