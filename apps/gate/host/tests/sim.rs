//! The whole gate on this machine, in a simulated Xen: clients at its netback, and a host outside at the other end of its own
//! interface. Each run has a seed; where one fails, its seed is printed.

use embedded_io_async::Write;
use sarab::network::stack::IpAddress;
use sarab::network::stack::tcp::TcpSocket;
use sarab::testing::{Budgets, End, Faults, Guest, Running, check};
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
    socket.set_timeout(Some(sarab::time::Duration::from_secs(5)));
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

/// How many clients come and go; `SARAB_SOAK=1000` says how many.
fn cycles() -> u32 {
    std::env::var("SARAB_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// A guest that asks the host outside which address it has, and ends.
async fn visit(app: App) -> sarab::Result {
    let network = app.network("vif").await?;
    let (mut incoming, mut outgoing) = (vec![0; 2048], vec![0; 2048]);
    let mut socket = TcpSocket::new(network.stack, &mut incoming, &mut outgoing);
    socket.connect((IpAddress::v4(203, 0, 113, 1), 7)).await?;
    socket.write_all(b"hello").await?;
    let mut back = [0; 100];
    let len = socket.read(&mut back).await?;
    println!("{}", String::from_utf8_lossy(&back[..len]));
    socket.close();
    let _ = socket.flush().await;
    Ok(())
}

/// A gate, and a host outside that says to each who connects which address it has, on so many connections at once.
async fn gate_with_outside(guest: Guest, connections: usize) -> Running {
    let gate = guest.memory(64).network().command_line("ip=203.0.113.2/24 gw=203.0.113.1").module(RULES);
    let gate = gate.start(gate::main).await;
    gate.wait_for("gate: ready\n").await;
    serve_outside(&gate, connections).await;
    gate
}

async fn serve_outside(gate: &Running, connections: usize) {
    let outside = gate.peer::<0>("203.0.113.1/24").await;
    for _ in 0..connections {
        let talk = async move {
            loop {
                let (mut incoming, mut outgoing) = (vec![0; 2048], vec![0; 2048]);
                let _ = tell(TcpSocket::new(outside, &mut incoming, &mut outgoing), 7, "outside").await;
            }
        };
        gate.domain().spawn(talk).detach();
    }
}

#[test]
fn clients_that_come_and_go_leave_nothing() {
    check("comings and goings", 1, |xen| {
        xen.set_budgets(Budgets { steps: u64::MAX, ..Budgets::default() });
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let gate = gate_with_outside(guest, 8).await;
            let mut before = None;
            for cycle in 0..20 + cycles() {
                let mut visitor = Guest::new(&xen).network_of(&gate).command_line("ip=dhcp");
                if cycle % 3 == 0 {
                    visitor = visitor.addresses("10.1.0.77").command_line("ip=10.1.0.77/24 gw=10.1.0.1");
                }
                let ended = visitor.start(visit).await.ended().await;
                assert!(
                    ended.console().contains("outside sees 203.0.113.2"),
                    "{cycle}: {}{}",
                    ended.console(),
                    gate.console()
                );
                if cycle == 20 {
                    // Flows are remembered for minutes.
                    gate.sleep(core::time::Duration::from_secs(600)).await;
                    before = Some(gate.domain().in_use());
                }
            }
            gate.sleep(core::time::Duration::from_secs(600)).await;
            assert_eq!(Some(gate.domain().in_use()), before);
            // Not even a directory of theirs, which would count in the gate's quota of the store.
            assert_eq!((gate.get("backend/vif").await.is_some(), gate.get("backend/vif/3").await), (true, None));
            gate.sysrq('g').await;
            gate.wait_for("gate: 0 flows of ").await;
            gate.destroy();
        });
    });
}

#[test]
fn many_clients_at_once_beside_those_that_never_connect() {
    check("many clients", 2, |xen| {
        xen.set_faults(Faults { spurious_events: 5, eagain: 5, ..Faults::default() });
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let gate = gate_with_outside(guest, 32).await;
            let mut clients = Vec::new();
            // More do not fit into a store's quota of 1,000 nodes for each domain.
            for number in 0..48 {
                // Of two with an address, one never comes to the end of its handshake.
                let address = format!("10.1.0.{}", 100 + number / 2);
                let guest = Guest::new(&xen).network_of(&gate).addresses(&address);
                clients.push(match number % 2 {
                    0 => guest.start(idle).await,
                    _ => guest.command_line(&format!("ip={address}/24 gw=10.1.0.1")).start(visit).await,
                });
            }
            for (number, client) in clients.into_iter().enumerate() {
                if number % 2 == 1 {
                    let ended = client.ended().await;
                    assert!(ended.console().contains("outside sees 203.0.113.2\n"), "{}", ended.console());
                }
            }
            gate.destroy();
        });
    });
}

/// A guest that does nothing about its interface.
async fn idle(app: App) {
    app.shutdown().await;
}

#[test]
fn uplinks_come_and_go_and_come_back_as_others() {
    check("uplinks", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let gate = gate_with_outside(guest, 2).await;
            let a = Guest::new(&xen).network_of(&gate).addresses("10.1.0.5");
            let a = a.command_line("ip=10.1.0.5/24 gw=10.1.0.1").start(client).await;
            asks(&a, "203.0.113.1 7", "outside sees 203.0.113.2").await;
            gate.unplug(0).await;
            asks(&a, "203.0.113.1 7", "ConnectionReset").await;
            gate.plug(0, "00:16:3e:00:00:77", &[("mtu", "1400")]).await;
            serve_outside(&gate, 2).await;
            asks(&a, "203.0.113.1 7", "outside sees 203.0.113.2").await;
            gate.destroy();
        });
    });
}
