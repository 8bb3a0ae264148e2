//! Where a frame goes.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use sarab::network::back::{Packet, Port};

/// Who is connected.
#[derive(Default)]
pub struct Guests(RefCell<Vec<Rc<Port>>>);

impl Guests {
    /// Passes on what a guest sends, for as long as it is there. How many of its frames came from another address than
    /// its own, and were dropped.
    pub async fn forward(&self, port: &Rc<Port>) -> u64 {
        self.0.borrow_mut().push(port.clone());
        let mut forged = 0;
        while let Some(packet) = port.receive().await {
            match packet.bytes[6..12] == port.attachment().mac {
                true => self.pass_on(port, packet),
                false => forged += 1,
            }
        }
        self.0.borrow_mut().retain(|other| !Rc::ptr_eq(other, port));
        forged
    }

    /// What a guest has no room for is dropped, and counted at its port.
    fn pass_on(&self, from: &Rc<Port>, packet: Packet) {
        let guests = self.0.borrow();
        let others = || guests.iter().filter(|other| !Rc::ptr_eq(other, from));
        let for_many = packet.bytes[0] & 1 != 0;
        if for_many {
            for other in others() {
                let _ = other.send(packet.clone());
            }
        } else if let Some(other) = others().find(|other| packet.bytes[..6] == other.attachment().mac) {
            let _ = other.send(packet);
        }
    }
}
