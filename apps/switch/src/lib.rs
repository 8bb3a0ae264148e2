//! A network driver domain: it connects the guests that name it in their xl files, as an Ethernet switch does.
//!
//! A guest joins by `vif = ["backend=switch,mac=00:16:3e:01:02:03"]`; the switch's own xl file says `driver_domain = 1`.
//! Frames go to the guest whose address they name, or to all others where they are for many. What a guest sends under
//! another address than its own is dropped. It ends when the toolstack asks it to.

#![no_std]

extern crate alloc;

mod switching;

use alloc::rc::Rc;
use core::pin::pin;

use futures_util::future::{Either, select};
use sarab::network::back::{Limits, Port};
use sarab::{App, println};

use switching::Guests;

/// What the guest does.
#[cfg_attr(feature = "guest", sarab::main)]
pub async fn main(app: App) -> sarab::Result {
    app.args().expect_only(&[])?;
    let guests = Rc::<Guests>::default();
    let opened = |port: Port| {
        app.spawn(serve(Rc::new(port), guests.clone())).detach();
        Ok(())
    };
    println!("switch: ready");
    let serving = app.serve_interfaces(Limits::default(), opened);
    match select(pin!(serving), pin!(app.shutdown())).await {
        Either::Left((Err(error), _)) => Err(error.into()),
        Either::Right((request, _)) => {
            println!("switch: asked to {request}");
            Ok(())
        }
    }
}

/// One guest, from its coming to its going.
async fn serve(port: Rc<Port>, guests: Rc<Guests>) {
    let attach = port.attachment();
    println!("switch: {} of {} is {:02x?}", attach.device, attach.domain, attach.mac);
    let forged = guests.forward(&port).await;
    println!(
        "switch: {} of {} is gone; {forged} frames of other addresses, {:?}",
        attach.device,
        attach.domain,
        port.statistics()
    );
}
