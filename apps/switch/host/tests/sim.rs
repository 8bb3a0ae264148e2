//! Where frames go, on this machine: guests with real netfronts, whose netback is the switch's.

extern crate alloc;

#[path = "../../src/switching.rs"]
mod switching;

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use embassy_net_driver::{Driver, RxToken as _, TxToken as _};
use switching::Guests;
use xen_hal::Clock;
use xen_netif::back::{self, Limits, Port};
use xen_netif::front::{self, Device, Interface, Options};
use xen_sim::{Domain, Toolstack, check};

const MACS: [[u8; 6]; 3] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 3]];

/// A guest with an interface at the switch.
async fn guest(domain: Domain, switch: &Domain, toolstack: &Toolstack, mac: [u8; 6]) -> Interface<Domain> {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    toolstack.attach_with("vif", domain.id(), switch.id(), 0, &[("mac", mac.as_str())]).await.unwrap();
    let own = format!("/local/domain/{}/device/vif/0/mac", domain.id().0);
    toolstack.store().set(&own, mac.as_str()).await.unwrap();
    let (store, d) = (domain.store(), domain.clone());
    let (interface, runner) = front::connect(&store, d, "device/vif/0", Options::default());
    domain.spawn(async move { drop(runner.await) }).detach();
    interface.ready().await.unwrap();
    interface
}

fn frame(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    [&to[..], &from, &[0x88, 0xb5], &[7; 50]].concat()
}

async fn send(device: &mut Device<Domain>, frame: &[u8]) {
    poll_fn(|cx| match device.transmit(cx) {
        Some(token) => {
            token.consume(frame.len(), |bytes| bytes.copy_from_slice(frame));
            Poll::Ready(())
        }
        None => Poll::Pending,
    })
    .await;
}

/// What has come until now.
async fn received(device: &mut Device<Domain>) -> Vec<Vec<u8>> {
    poll_fn(|cx| {
        let mut frames = Vec::new();
        while let Some((token, _)) = device.receive(cx) {
            frames.push(token.consume(|bytes| bytes.to_vec()));
        }
        Poll::Ready(frames)
    })
    .await
}

#[test]
fn frames_go_to_whom_they_name_and_to_all() {
    check("switch", 8, |xen| {
        let (toolstack, switch) = (xen.toolstack(), xen.domain());
        let domains = MACS.map(|_| xen.domain());
        let (store, domain) = (switch.store(), switch.clone());
        switch
            .spawn(async move {
                let guests = Rc::<Guests>::default();
                let opened = |port: Port| {
                    let guests = guests.clone();
                    domain.spawn(async move { guests.forward(&Rc::new(port)).await }).detach();
                    Ok(())
                };
                let d = domain.clone();
                drop(back::serve(&store, d, Limits::default(), opened).await);
            })
            .detach();
        xen.run(async move {
            let [a, b, c] = domains;
            let clock = a.clone();
            let interfaces = [
                guest(a, &switch, &toolstack, MACS[0]).await,
                guest(b, &switch, &toolstack, MACS[1]).await,
                guest(c, &switch, &toolstack, MACS[2]).await,
            ];
            let mut devices = interfaces.each_ref().map(Interface::device);
            // The switch hears of a guest that is connected a little later than the guest does.
            clock.sleep(Duration::from_millis(10)).await;
            let to_one = frame(MACS[1], MACS[0]);
            let to_all = frame([0xff; 6], MACS[0]);
            let forged = frame(MACS[1], MACS[2]);
            for frame in [&to_one, &to_all, &forged] {
                send(&mut devices[0], frame).await;
            }
            clock.sleep(Duration::from_millis(10)).await;
            assert_eq!(received(&mut devices[0]).await, Vec::<Vec<u8>>::new());
            assert_eq!(received(&mut devices[1]).await, [to_one, to_all.clone()]);
            assert_eq!(received(&mut devices[2]).await, [to_all]);
        });
        xen.end();
    });
}
