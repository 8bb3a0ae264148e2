//! What a connection tracker has to know of TCP: how far a connection is, so that it is forgotten neither too early nor too
//! late (RFC 5382, section 5). Windows are the ends' matter, but for resets: a blind attacker's must not end a flow.

use crate::flows::{Class, Direction};
use crate::packet::tcp_flags::{ACK, FIN, RST, SYN};

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// A SYN went one way.
    Opening,
    /// And a SYN came back.
    Answered,
    /// Both ends have agreed.
    Established,
    /// One end has nothing more to send.
    Closing,
    /// Both have.
    Closed,
    /// One end broke it off.
    Reset,
}

/// A connection as it passes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// How far it is.
    pub state: TcpState,
    /// Which directions have had a FIN.
    fins: u8,
    /// By direction: what its last segment acknowledged, and the window it offered: where the other's next may be.
    expected: [Option<(u32, u32)>; 2],
    /// By direction: the factor of its window (RFC 7323), as a shift.
    scale: [u8; 2],
}

/// What of a segment counts.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// See [`tcp_flags`](crate::packet::tcp_flags).
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// As it stands in the header.
    pub window: u16,
    /// The window scale option of a SYN.
    pub scale: Option<u8>,
}

impl Tcp {
    /// Begins with a connection's first segment; one that began before counts as established once the other end answers.
    pub fn new(first: &Segment) -> Tcp {
        let state = if first.flags & SYN != 0 { TcpState::Opening } else { TcpState::Answered };
        let mut tcp =
            Tcp { state, fins: 0, expected: [None; 2], scale: [if first.flags & SYN != 0 { 0 } else { 14 }; 2] };
        tcp.note(Direction::Original, first);
        tcp
    }

    fn note(&mut self, direction: Direction, segment: &Segment) {
        let own = direction as usize;
        if segment.flags & SYN != 0 {
            self.scale[own] = segment.scale.unwrap_or(0).min(14);
        }
        if segment.flags & ACK != 0 {
            let shift = if segment.flags & SYN != 0 { 0 } else { self.scale[own] };
            self.expected[own] = Some((segment.acknowledgement, u32::from(segment.window) << shift));
        }
    }

    /// Whether a reset is where the other end expects one (RFC 5961, section 3.2, as far as it can be seen from here).
    fn is_expected(&self, direction: Direction, segment: &Segment) -> bool {
        match self.expected[direction.other() as usize] {
            // To a SYN a reset answers with its number.
            None => segment.flags & ACK != 0,
            Some((next, window)) => segment.sequence.wrapping_sub(next) <= window,
        }
    }

    /// Takes the next segment. `false` for a reset that the other end does not expect: it is a stranger's.
    pub fn advance(&mut self, direction: Direction, segment: &Segment) -> bool {
        let flags = segment.flags;
        if flags & RST != 0 {
            let is_expected = self.is_expected(direction, segment);
            if is_expected {
                self.state = TcpState::Reset;
            }
            return is_expected;
        }
        self.note(direction, segment);
        if flags & FIN != 0 && self.state != TcpState::Opening {
            self.fins |= 1 << direction as u8;
            self.state = if self.fins == 3 { TcpState::Closed } else { TcpState::Closing };
            return true;
        }
        match (self.state, direction) {
            (TcpState::Opening, Direction::Reply) if flags & (SYN | ACK) == SYN | ACK => {
                self.state = TcpState::Answered
            }
            // Both at once (RFC 9293, section 3.5).
            (TcpState::Opening, Direction::Reply) if flags & SYN != 0 => self.state = TcpState::Answered,
            (TcpState::Answered, _) if flags & (SYN | ACK) == ACK && self.expected.iter().all(Option::is_some) => {
                self.state = TcpState::Established;
            }
            _ => {}
        }
        true
    }

    /// Whether a SYN in the direction of the first begins another connection of the same ports.
    pub fn is_over(&self) -> bool {
        matches!(self.state, TcpState::Closed | TcpState::Reset)
    }

    /// For how long it is remembered without another segment.
    pub fn class(&self) -> Class {
        match self.state {
            TcpState::Opening | TcpState::Answered => Class::TcpOpening,
            TcpState::Established => Class::TcpEstablished,
            TcpState::Closing | TcpState::Closed => Class::TcpClosing,
            TcpState::Reset => Class::TcpReset,
        }
    }
}
