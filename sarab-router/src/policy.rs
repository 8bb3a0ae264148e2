//! What decides whether a flow may begin.

use core::net::IpAddr;

use crate::InterfaceId;

/// A side of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Clients.
    Inside,
    /// Behind an uplink.
    Outside,
    /// The router itself.
    Gate,
}

/// A flow that is to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFlow {
    /// From which side, and the interface there.
    pub from: (Side, InterfaceId),
    /// To which side, and the interface there.
    pub to: (Side, InterfaceId),
    /// IP's number of the protocol.
    pub protocol: u8,
    /// Who begins it.
    pub source: IpAddr,
    /// With whom, after the translation of published and redirected addresses.
    pub destination: IpAddr,
    /// With whom, before it.
    pub original_destination: IpAddr,
    /// Of TCP and UDP.
    pub source_port: Option<u16>,
    /// Of TCP and UDP, after the translation.
    pub destination_port: Option<u16>,
    /// Of ICMP: type and code.
    pub icmp: Option<(u8, u8)>,
    /// Whether it came to an address of the router's that is published for its destination, or was redirected there.
    pub is_published: bool,
}

/// What is to become of it. The number is that of the rule that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may begin.
    Accept(Option<u32>),
    /// It may not, and nobody is told.
    Drop(Option<u32>),
    /// It may not, and its sender is told: of TCP by a reset, of others by ICMP.
    Reject(Option<u32>),
    /// It may not, and its sender is told by ICMP that an administrator says so, whatever the protocol.
    Prohibit(Option<u32>),
}

/// What decides.
pub trait Policy {
    /// Whether a flow may begin. Asked once for each flow, and again after a change of the rules.
    fn judge(&self, flow: &NewFlow) -> Verdict;

    /// A rule was for a flow, whose first packet has so many bytes.
    fn count(&self, rule: u32, bytes: usize) {
        let _ = (rule, bytes);
    }
}

impl Verdict {
    /// The number of the rule that says so.
    pub fn rule(self) -> Option<u32> {
        let (Verdict::Accept(rule) | Verdict::Drop(rule) | Verdict::Reject(rule) | Verdict::Prohibit(rule)) = self;
        rule
    }
}

impl<F: Fn(&NewFlow) -> Verdict> Policy for F {
    fn judge(&self, flow: &NewFlow) -> Verdict {
        self(flow)
    }
}
