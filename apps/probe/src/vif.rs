//! Network interfaces that come and go, and what they leave in use.

use alloc::string::String;
use core::future::poll_fn;
use core::task::Poll;
use core::time::Duration;

use embassy_net_driver::{Driver, LinkState, RxToken, TxToken};
use futures_util::future::{Either, join, select};
use sarab::hal::Clock;
use sarab::network::Interface;
use sarab::network::front::{self, Options};
use sarab::xenbus::{End, serve};
use sarab::{App, println};

use crate::text;
use crate::vbd::console;

/// A user for each interface that comes, who sends and receives for as long as it is there.
pub async fn interfaces(app: App) -> Result<(), String> {
    let store = app.store().map_err(text)?;
    let serving = serve(&store, app.clock(), End::Frontend, "vif", |found| {
        let (interface, runner) = front::connect(&store, app.xen(), &found.path, Options::default());
        async move {
            match join(runner, user(app, &found.id, interface)).await.0 {
                Ok(ended) => println!("vif {}: {ended:?}", found.id),
                Err(error) => println!("vif {}: {error}", found.id),
            }
        }
    });
    match select(core::pin::pin!(serving), core::pin::pin!(console(app, &store))).await {
        Either::Left((Err(error), _)) => Err(text(error)),
        Either::Right(_) => Ok(()),
    }
}

/// Sends frames to everybody, of one page and of several, until the link is down.
async fn user(app: App, id: &str, interface: Interface) {
    let Ok(info) = interface.ready().await else { return };
    println!("vif {id}: {:02x?}, connected", info.mac);
    let mut device = interface.device();
    // The last handle but the device.
    drop(interface);
    for turn in 0_usize.. {
        let up = poll_fn(|cx| {
            while let Some((frame, _)) = device.receive(cx) {
                frame.consume(|bytes| assert!(!bytes.is_empty(), "a frame of nothing"));
            }
            let len = [60, 1514, 64, 1000][turn % 4];
            if let Some(token) = device.transmit(cx) {
                token.consume(len, |bytes| {
                    bytes[..6].fill(0xff);
                    bytes[6..12].copy_from_slice(&info.mac);
                    // For experiments (IEEE 802).
                    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
                });
            }
            Poll::Ready(device.link_state(cx) == LinkState::Up)
        })
        .await;
        if !up {
            return;
        }
        app.clock().sleep(Duration::from_millis(5)).await;
    }
}
