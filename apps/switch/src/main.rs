//! A network driver domain: it connects the guests that name it in their xl files, as an Ethernet switch does.
//!
//! A guest joins by `vif = ["backend=switch,mac=00:16:3e:01:02:03"]`; the switch's own xl file says `driver_domain = 1`.
//! Frames go to the guest whose address they name, or to all others where they are for many. What a guest sends under
//! another address than its own is dropped. It ends when the toolstack asks it to.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::pin::pin;

use futures_util::future::{Either, select};
use sarab::network::NetworkError;
use sarab::network::back::{Limits, Packet, Port};
use sarab::{App, ArgError, println};

#[sarab::main]
async fn main(app: App) -> Result<(), Failure> {
    app.args().expect_only(&[])?;
    let guests = Rc::<Guests>::default();
    let opened = |port: Port| {
        app.spawn(forward(Rc::new(port), guests.clone())).detach();
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

/// Who is connected.
type Guests = RefCell<Vec<Rc<Port>>>;

/// Passes on what a guest sends, for as long as it is there.
async fn forward(port: Rc<Port>, guests: Rc<Guests>) {
    let attach = port.attach().clone();
    println!("switch: {} of {} is {:02x?}", attach.device, attach.domain, attach.mac);
    guests.borrow_mut().push(port.clone());
    let mut forged = 0_u64;
    while let Some(packet) = port.receive().await {
        if packet.bytes[6..12] == attach.mac {
            pass_on(&port, packet, &guests.borrow());
        } else {
            forged += 1;
        }
    }
    guests.borrow_mut().retain(|other| !Rc::ptr_eq(other, &port));
    println!(
        "switch: {} of {} is gone; {forged} frames of other addresses, {:?}",
        attach.device,
        attach.domain,
        port.statistics()
    );
}

/// What a guest has no room for is dropped, and counted at its port.
fn pass_on(from: &Rc<Port>, packet: Packet, guests: &[Rc<Port>]) {
    let many = packet.bytes[0] & 1 != 0;
    let others = || guests.iter().filter(|other| !Rc::ptr_eq(other, from));
    if many {
        for other in others() {
            let _ = other.send(packet.clone());
        }
    } else if let Some(other) = others().find(|other| packet.bytes[..6] == other.attach().mac) {
        let _ = other.send(packet);
    }
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
