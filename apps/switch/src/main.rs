//! A network driver domain: it connects the guests that name it in their xl files, as an Ethernet switch does.
//!
//! A guest joins by `vif = ["backend=switch,mac=00:16:3e:01:02:03"]`; the switch's own xl file says `driver_domain = 1`.
//! Frames go to the guest whose address they name, or to all others where they are for many. What a guest sends under
//! another address than its own is dropped. It ends when the toolstack asks it to.

#![no_std]
#![no_main]

extern crate alloc;

mod switching;

use alloc::rc::Rc;
use core::fmt;
use core::pin::pin;

use futures_util::future::{Either, select};
use sarab::network::NetworkError;
use sarab::network::back::{Limits, Port};
use sarab::{App, ArgError, println};

use switching::Guests;

#[sarab::main]
async fn main(app: App) -> Result<(), Failure> {
    app.args().expect_only(&[])?;
    let guests = Rc::<Guests>::default();
    let opened = |port: Port| {
        app.spawn(serve(Rc::new(port), guests.clone())).detach();
        Ok(())
    };
    println!("switch: ready");
    let serving = app.serve_interfaces(Limits::default(), opened);
    match select(pin!(serving), pin!(app.shutdown())).await {
        Either::Left((Err(error), _)) => Err(Failure::Network(error)),
        Either::Right((request, _)) => {
            println!("switch: asked to {request}");
            Ok(())
        }
    }
}

/// One guest, from its coming to its going.
async fn serve(port: Rc<Port>, guests: Rc<Guests>) {
    let attach = port.attach();
    println!("switch: {} of {} is {:02x?}", attach.device, attach.domain, attach.mac);
    let forged = guests.forward(&port).await;
    println!(
        "switch: {} of {} is gone; {forged} frames of other addresses, {:?}",
        attach.device,
        attach.domain,
        port.statistics()
    );
}

/// Why the program ends with an error.
enum Failure {
    Argument(ArgError),
    Network(NetworkError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Argument(error) => error.fmt(f),
            Failure::Network(error) => error.fmt(f),
        }
    }
}

impl From<ArgError> for Failure {
    fn from(error: ArgError) -> Self {
        Failure::Argument(error)
    }
}
