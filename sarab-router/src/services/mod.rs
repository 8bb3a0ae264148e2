//! What clients ask of a router: addresses (DHCP), routes (router advertisements) and names (DNS).
//!
//! Each client has a port of its own, and what it may call itself is known in advance: one MAC, one IPv4 address, some IPv6
//! addresses. Frames and the time go in, frames come out. Only [`dns::Forwarder::run`] has sockets and a clock.

pub mod advertise;
pub mod dhcp;
pub mod dns;
mod frame;
pub mod neighbor;
pub mod pool;

pub use neighbor::asks_about;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The MAC that a gate has on all its ports unless it is told another: clients of Qubes OS have an entry for it that does not
/// end.
pub const GATE_MAC: Mac = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];
