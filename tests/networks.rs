//! Networks as values: several at once, each coming and going.
#![cfg(feature = "net")]

use core::pin::pin;
use core::time::Duration;
use std::collections::BTreeSet;

use embedded_io_async::{Read, Write};
use futures_util::StreamExt;
use sarab::network::stack::IpAddress;
use sarab::network::stack::tcp::TcpSocket;
use sarab::network::{Network, NetworkEvent, Stack};
use sarab::testing::{End, Guest, Running, check};
use sarab::{App, println};

/// Serves each network as it comes, and says what becomes of it.
async fn all(app: App) -> sarab::Result {
    let mut networks = pin!(app.networks().await?);
    let mut served = BTreeSet::new();
    while let Some(event) = networks.next().await {
        match event? {
            NetworkEvent::Arrived(name) => {
                println!("{name} has come");
                if served.insert(name.clone()) {
                    app.spawn(serve(app, name)).detach();
                }
            }
            NetworkEvent::Lost(name) => println!("{name} is gone"),
            _ => {}
        }
    }
    Ok(())
}

async fn serve(app: App, name: Box<str>) {
    let network = match app.network(&name).await {
        Ok(network) => network,
        Err(error) => return println!("{error}"),
    };
    app.spawn(echo(network.stack)).detach();
    loop {
        println!("{}", shown(&network));
        network.changed().await;
    }
}

fn shown(network: &Network) -> String {
    let carrier = if network.has_carrier() { "carrier" } else { "no carrier" };
    let mac: Vec<_> = network.mac().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}: {carrier}, {}, MTU {}, {}", network.name(), mac.join(":"), network.mtu(), network.addresses())
}

async fn echo(stack: Stack) {
    loop {
        let (mut incoming, mut outgoing) = ([0; 2048], [0; 2048]);
        let mut socket = TcpSocket::new(stack, &mut incoming, &mut outgoing);
        let mut bytes = [0; 64];
        if socket.accept(7).await.is_ok()
            && let Ok(len) = socket.read(&mut bytes).await
            && socket.write_all(&bytes[..len]).await.is_ok()
        {
            let _ = socket.flush().await;
        }
    }
}

async fn is_answered(running: &Running, peer: Stack, to: [u8; 4]) {
    let (mut incoming, mut outgoing) = ([0; 2048], [0; 2048]);
    let mut socket = TcpSocket::new(peer, &mut incoming, &mut outgoing);
    // One at a time is served.
    while socket.connect((IpAddress::Ipv4(to.into()), 7)).await.is_err() {
        running.sleep(Duration::from_millis(10)).await;
    }
    socket.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
}

const A: &str = "00:16:3e:00:00:0a";
const B: &str = "00:16:3e:00:00:0b";

#[test]
fn networks_come_and_go_and_come_back_as_others() {
    check("networks", 8, |xen| {
        let guest = Guest::new(xen).network().command_line("ip=10.0.0.2/24 vif1.ip=10.1.0.2/24");
        xen.run(async move {
            let running = guest.start(all).await;
            let first = running.peer::<4>("10.0.0.1/24").await;
            is_answered(&running, first, [10, 0, 0, 2]).await;
            running.plug(1, A, &[]).await;
            let second = running.peer::<4>("10.1.0.1/24").await;
            running.wait_for(&format!("vif/1: carrier, {A}, MTU 1500, 10.1.0.2/24\n")).await;
            is_answered(&running, second, [10, 1, 0, 2]).await;
            is_answered(&running, first, [10, 0, 0, 2]).await;
            assert_eq!(running.get("data/ip").await.as_deref(), Some("10.0.0.2/24"));
            assert_eq!(running.get("data/vif/1/ip").await.as_deref(), Some("10.1.0.2/24"));

            running.unplug(1).await;
            running.wait_for("vif/1 is gone\n").await;
            running.wait_for(&format!("vif/1: no carrier, {A}, MTU 1500, 10.1.0.2/24\n")).await;
            // Another card in its place, on another network.
            running.plug(1, B, &[("mtu", "1400")]).await;
            let third = running.peer::<4>("10.1.0.1/24").await;
            running.wait_for(&format!("vif/1: carrier, {B}, MTU 1400, 10.1.0.2/24\n")).await;
            is_answered(&running, third, [10, 1, 0, 2]).await;
            is_answered(&running, first, [10, 0, 0, 2]).await;
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn a_network_that_is_not_there_is_an_error() {
    for (name, expected) in [
        ("vif", "error: the domain has no network interface; its xl file lists them (vif = [...])\n"),
        ("vif/7", "error: network interface vif/7: the domain has none of this name (vif = [...] in its xl file)\n"),
        ("eth0", "error: eth0: expected the name of a network interface such as vif/0\n"),
    ] {
        check("no network", 1, move |xen| {
            let ended = Guest::new(xen).run(async move |app: App| -> sarab::Result {
                app.network(name).await?;
                Ok(())
            });
            assert_eq!((ended.console(), ended.how()), (expected, End::Crash));
        });
    }
}
