//! A packet between a guest and the application.

use alloc::vec::Vec;

use crate::Buffer;
use crate::protocol::Gso;

/// What is known of a packet's checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The field is filled in, but has not been verified.
    #[default]
    Present,
    /// It is correct, or is known not to matter.
    Valid,
    /// The field holds the sum of the pseudo-header alone: whoever sends the packet off this machine has to complete it
    /// ([`checksum::complete`](crate::checksum::complete)).
    Blank,
}

/// An Ethernet frame, perhaps larger than any wire takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// From the Ethernet header on.
    pub bytes: Buffer,
    /// What is known of the checksum of TCP or UDP in it.
    pub checksum: Checksum,
    /// That it is to be cut into segments with so much payload before it leaves for a wire.
    pub gso: Option<(Gso, u16)>,
}

impl From<Vec<u8>> for Packet {
    fn from(bytes: Vec<u8>) -> Packet {
        Packet { bytes: bytes.into(), checksum: Checksum::Present, gso: None }
    }
}
