//! The whole driver domain on this machine, in a simulated Xen, and guests at it, which have its netback at their netfronts. Each
//! run has a seed; where one fails, its seed is printed.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use embassy_net_driver::{Driver, RxToken as _, TxToken as _};
use embedded_io_async::{Read, Write};
use sarab::network::Options;
use sarab::network::stack::IpAddress;
use sarab::network::stack::tcp::TcpSocket;
use sarab::testing::{End, Faults, Guest, Running, check};
use sarab::{App, ensure, println};

const ALL: &str = "ff:ff:ff:ff:ff:ff";

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

fn text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// A frame of whoever types the addresses, and a VLAN's tag where there is one: as long as Ethernet's longest then.
fn frame(line: &str) -> Option<Vec<u8>> {
    let mut words = line.split(' ');
    let addresses = [mac(words.next()?)?, mac(words.next()?)?].concat();
    Some(match words.next() {
        None => [&addresses[..], &[0x88, 0xb5], &[7; 50]].concat(),
        Some(tag) => {
            let tag = u16::from_str_radix(tag, 16).ok()?.to_be_bytes();
            [&addresses[..], &[0x81, 0], &tag, &[0x88, 0xb5], &[7; 1500]].concat()
        }
    })
}

/// What is printed of a frame.
fn shown(frame: &[u8]) -> String {
    let addresses = format!("{} of {}", text(&frame[..6]), text(&frame[6..12]));
    match frame[12..14] {
        [0x81, 0] => {
            let whole = frame.len() == 1518 && frame[18..].iter().all(|byte| *byte == 7);
            format!("{addresses}, tag {:02x}{:02x}, whole: {whole}", frame[14], frame[15])
        }
        _ => addresses,
    }
}

/// A guest that sends frames, by whose addresses are typed on its console, and prints those of the frames that arrive.
async fn station(app: App) -> sarab::Result {
    let interface = app.interface("vif", Options::default()).await?;
    let device = Rc::new(RefCell::new(interface.device()));
    let receiving = device.clone();
    app.spawn(async move {
        loop {
            let arrived = poll_fn(|cx| {
                let mut device = receiving.borrow_mut();
                let Some((token, _)) = device.receive(cx) else { return Poll::Pending };
                Poll::Ready(token.consume(|frame| shown(frame)))
            });
            println!("a frame to {}", arrived.await);
        }
    })
    .detach();
    println!("up");
    loop {
        let line = app.console().read_line(80).await;
        let frame = frame(&line).expect("two addresses, and perhaps a tag");
        poll_fn(|cx| match device.borrow_mut().transmit(cx) {
            Some(token) => {
                token.consume(frame.len(), |bytes| bytes.copy_from_slice(&frame));
                Poll::Ready(())
            }
            None => Poll::Pending,
        })
        .await;
        println!("sent {line}");
    }
}

/// The guest's address, once the switch forwards its frames.
async fn joined(guest: &Running, switch: &Running) -> String {
    let address = guest.get("device/vif/0/mac").await.expect("the toolstack has written it");
    switch.wait_for(&format!("is {:02x?}\n", mac(&address).expect("an address"))).await;
    address
}

/// Of a VLAN, of the greatest one, and of a priority alone: 1,500 bytes behind four more than usual.
#[test]
fn tags_of_vlans_are_carried() {
    check("tags", 6, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let switch = guest.start(switch::main).await;
            switch.wait_for("switch: ready\n").await;
            let mut stations = Vec::new();
            for _ in 0..2 {
                let station = Guest::new(&xen).network_of(&switch).start(station).await;
                station.wait_for("up\n").await;
                let address = joined(&station, &switch).await;
                stations.push((station, address));
            }
            let [(a, of_a), (b, of_b)] = stations.try_into().ok().expect("there are two");
            for to in [&of_b[..], ALL] {
                for tag in ["000a", "0fff", "e000"] {
                    a.type_in(&format!("{to} {of_a} {tag}\n"));
                    b.wait_for(&format!("a frame to {to} of {of_a}, tag {tag}, whole: true\n")).await;
                }
            }
            switch.destroy();
        });
    });
}

#[test]
fn frames_go_to_whom_they_name_and_to_all() {
    check("frames", 10, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let switch = guest.start(switch::main).await;
            switch.wait_for("switch: ready\n").await;
            let mut stations = Vec::new();
            for _ in 0..3 {
                let station = Guest::new(&xen).network_of(&switch).start(station).await;
                station.wait_for("up\n").await;
                let address = joined(&station, &switch).await;
                stations.push((station, address));
            }
            let [(a, of_a), (b, of_b), (c, of_c)] = stations.try_into().ok().expect("there are three");
            // The one of another's address is dropped: the last one arrives, and comes after it.
            for line in [format!("{of_b} {of_a}"), format!("{of_b} {of_c}"), format!("{ALL} {of_a}")] {
                a.type_in(&format!("{line}\n"));
                a.wait_for(&format!("sent {line}\n")).await;
            }
            let to_all = format!("a frame to {ALL} of {of_a}\n");
            b.wait_for(&to_all).await;
            c.wait_for(&to_all).await;
            assert_eq!(b.console(), format!("up\na frame to {of_b} of {of_a}\n{to_all}"));
            assert_eq!(c.console(), format!("up\n{to_all}"));

            a.shutdown().await;
            assert_eq!(a.ended().await.how(), End::PowerOff);
            switch.wait_for("is gone; 1 frames of other addresses, ").await;
            // Who is gone is in nobody's way.
            for line in [format!("{of_a} {of_b}"), format!("{of_c} {of_b}")] {
                b.type_in(&format!("{line}\n"));
            }
            c.wait_for(&format!("a frame to {of_c} of {of_b}\n")).await;
            switch.shutdown().await;
            let ended = switch.ended().await;
            assert_eq!(ended.how(), End::PowerOff);
            assert!(ended.console().ends_with("switch: asked to poweroff\n"), "{}", ended.console());
        });
    });
}

/// A guest that sends back what it receives on a connection.
async fn echo(app: App) -> sarab::Result {
    let network = app.network("vif").await?;
    let (mut incoming, mut outgoing) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    let mut socket = TcpSocket::new(network.stack, &mut incoming, &mut outgoing);
    println!("listening");
    socket.accept(7).await.expect("a connection");
    let mut bytes = [0; 4096];
    while let len @ 1.. = socket.read(&mut bytes).await? {
        socket.write_all(&bytes[..len]).await?;
    }
    println!("asked to {}", app.shutdown().await);
    Ok(())
}

/// A guest that sends it something, and looks at what comes back.
async fn client(app: App) -> sarab::Result {
    let network = app.network("vif").await?;
    let (mut incoming, mut outgoing) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    let mut socket = TcpSocket::new(network.stack, &mut incoming, &mut outgoing);
    socket.connect((IpAddress::v4(10, 0, 0, 1), 7)).await?;
    for number in 0..20 {
        let mut back = [0; 10_000];
        socket.write_all(&[number; 10_000]).await?;
        socket.read_exact(&mut back).await?;
        ensure!(back == [number; 10_000], "other bytes than those of {number}");
    }
    socket.close();
    Ok(socket.flush().await?)
}

#[test]
fn guests_reach_each_other() {
    check("two guests", 10, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let switch = guest.start(switch::main).await;
            let server = Guest::new(&xen).network_of(&switch).command_line("ip=10.0.0.1/24").start(echo).await;
            server.wait_for("listening\n").await;
            joined(&server, &switch).await;
            let client = Guest::new(&xen).network_of(&switch).command_line("ip=10.0.0.2/24").start(client).await;
            let ended = client.ended().await;
            assert_eq!((ended.how(), ended.console()), (End::PowerOff, "network: 10.0.0.2/24\n"));
            server.shutdown().await;
            assert_eq!(server.ended().await.how(), End::PowerOff);
            switch.shutdown().await;
            assert_eq!(switch.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn it_takes_no_arguments() {
    check("arguments", 5, |xen| {
        let ended = Guest::new(xen).command_line("port=1").run(switch::main);
        assert_eq!(ended.how(), End::Crash);
        assert!(ended.console().starts_with("error: command line: `port=1`: unknown key"), "{}", ended.console());
    });
}
