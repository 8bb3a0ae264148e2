//! What lies in the slots of the network rings (xen/include/public/io/netif.h).
//!
//! A packet is a chain of slots: the first, then what is extra to say of it, then the rest of its bytes.

use xen_hal::GrantRef;
use xen_ring::Protocol;

/// Slots of a ring of one page, of either kind.
pub const SLOTS: u32 = 256;
/// A packet of at most this many slots has to be accepted by every backend (`XEN_NETIF_NR_SLOTS_MIN`).
pub const MAX_SLOTS: usize = 18;
/// Most bytes of a packet, Ethernet header included: the length of all of it is 16 bits wide.
pub const MAX_BYTES: usize = 65535;

/// Flags of a slot that the frontend transmits (`XEN_NETTXF_*`).
pub mod tx_flags {
    /// The checksum field holds the sum of the pseudo-header alone.
    pub const CSUM_BLANK: u16 = 1;
    /// The data is known to be good.
    pub const DATA_VALIDATED: u16 = 2;
    /// More of the packet follows in the next slot.
    pub const MORE_DATA: u16 = 4;
    /// What is extra follows in the next slot.
    pub const EXTRA_INFO: u16 = 8;
}

/// Flags of a slot that the frontend receives (`XEN_NETRXF_*`): the first two are the other way round.
pub mod rx_flags {
    /// The data is known to be good.
    pub const DATA_VALIDATED: u16 = 1;
    /// The checksum field holds the sum of the pseudo-header alone.
    pub const CSUM_BLANK: u16 = 2;
    /// More of the packet follows in the next slot.
    pub const MORE_DATA: u16 = 4;
    /// What is extra follows in the next slot.
    pub const EXTRA_INFO: u16 = 8;
}

/// How a transmitted slot ended (`XEN_NETIF_RSP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum TxStatus {
    /// It was dropped.
    Dropped,
    /// It was bad.
    Error,
    /// It was sent.
    Okay,
    /// The slot was no request but what was extra; the id means nothing.
    Null,
    /// A status that the header does not list.
    Other(i16),
}

impl TxStatus {
    const fn from_number(number: i16) -> TxStatus {
        match number {
            -2 => TxStatus::Dropped,
            -1 => TxStatus::Error,
            0 => TxStatus::Okay,
            1 => TxStatus::Null,
            other => TxStatus::Other(other),
        }
    }

    pub(crate) const fn number(self) -> i16 {
        match self {
            TxStatus::Dropped => -2,
            TxStatus::Error => -1,
            TxStatus::Okay => 0,
            TxStatus::Null => 1,
            TxStatus::Other(number) => number,
        }
    }
}

/// A request to transmit, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxRequest {
    /// The page.
    pub reference: GrantRef,
    /// Where in the page the bytes are.
    pub offset: u16,
    /// See [`tx_flags`].
    pub flags: u16,
    /// Comes back in the response.
    pub id: u16,
    /// Of the first slot, bytes of the whole packet; of others, their own.
    pub size: u16,
}

/// Something extra that is said of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// It is to be divided into segments.
    Gso {
        /// Most bytes of payload of each.
        size: u16,
        /// Which protocol it is.
        protocol: Gso,
    },
    /// The frontend wants to receive this multicast address.
    MulticastAdd([u8; 6]),
    /// It does no longer.
    MulticastRemove([u8; 6]),
    /// A hash of the packet's addresses.
    Hash {
        /// Of what: `XEN_NETIF_CTRL_HASH_TYPE_*`.
        kind: u8,
        /// How it was made.
        algorithm: u8,
        /// The hash.
        value: [u8; 4],
    },
    /// What the header does not list.
    Other(u8),
}

/// What is divided into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Gso {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// What the header does not list.
    Other(u8),
}

const EXTRA_GSO: u8 = 1;
const EXTRA_MULTICAST_ADD: u8 = 2;
const EXTRA_MULTICAST_REMOVE: u8 = 3;
const EXTRA_HASH: u8 = 4;
const EXTRA_MORE: u8 = 1;

impl Extra {
    /// Reads one from a slot; whether another follows.
    pub fn decode(slot: &[u8; 8]) -> (Extra, bool) {
        let [kind, flags, a, b, c, d, e, f] = *slot;
        let extra = match kind {
            EXTRA_GSO => {
                let protocol = match c {
                    1 => Gso::TcpV4,
                    2 => Gso::TcpV6,
                    other => Gso::Other(other),
                };
                Extra::Gso { size: u16::from_le_bytes([a, b]), protocol }
            }
            EXTRA_MULTICAST_ADD => Extra::MulticastAdd([a, b, c, d, e, f]),
            EXTRA_MULTICAST_REMOVE => Extra::MulticastRemove([a, b, c, d, e, f]),
            EXTRA_HASH => Extra::Hash { kind: a, algorithm: b, value: [c, d, e, f] },
            other => Extra::Other(other),
        };
        (extra, flags & EXTRA_MORE != 0)
    }

    /// Writes it to a slot.
    pub fn encode(&self, more: bool) -> [u8; 8] {
        let flags = if more { EXTRA_MORE } else { 0 };
        match *self {
            Extra::Gso { size, protocol } => {
                let kind = match protocol {
                    Gso::TcpV4 => 1,
                    Gso::TcpV6 => 2,
                    Gso::Other(other) => other,
                };
                let [a, b] = size.to_le_bytes();
                [EXTRA_GSO, flags, a, b, kind, 0, 0, 0]
            }
            Extra::MulticastAdd([a, b, c, d, e, f]) => [EXTRA_MULTICAST_ADD, flags, a, b, c, d, e, f],
            Extra::MulticastRemove([a, b, c, d, e, f]) => [EXTRA_MULTICAST_REMOVE, flags, a, b, c, d, e, f],
            Extra::Hash { kind, algorithm, value: [c, d, e, f] } => [EXTRA_HASH, flags, kind, algorithm, c, d, e, f],
            Extra::Other(kind) => [kind, flags, 0, 0, 0, 0, 0, 0],
        }
    }
}

/// A slot of the transmit ring: a request, or what is extra; which of them, the slot before tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxSlot([u8; 12]);

impl TxSlot {
    /// As a request.
    pub fn request(&self) -> TxRequest {
        let [r0, r1, r2, r3, o0, o1, f0, f1, i0, i1, s0, s1] = self.0;
        TxRequest {
            reference: GrantRef(u32::from_le_bytes([r0, r1, r2, r3])),
            offset: u16::from_le_bytes([o0, o1]),
            flags: u16::from_le_bytes([f0, f1]),
            id: u16::from_le_bytes([i0, i1]),
            size: u16::from_le_bytes([s0, s1]),
        }
    }

    /// As something extra; whether more of it follows.
    pub fn extra(&self) -> (Extra, bool) {
        let [slot @ .., _, _, _, _] = self.0;
        Extra::decode(&slot)
    }
}

impl From<TxRequest> for TxSlot {
    fn from(request: TxRequest) -> TxSlot {
        let [r0, r1, r2, r3] = request.reference.0.to_le_bytes();
        let [o0, o1] = request.offset.to_le_bytes();
        let [f0, f1] = request.flags.to_le_bytes();
        let [i0, i1] = request.id.to_le_bytes();
        let [s0, s1] = request.size.to_le_bytes();
        TxSlot([r0, r1, r2, r3, o0, o1, f0, f1, i0, i1, s0, s1])
    }
}

impl From<(Extra, bool)> for TxSlot {
    fn from((extra, more): (Extra, bool)) -> TxSlot {
        let [a, b, c, d, e, f, g, h] = extra.encode(more);
        TxSlot([a, b, c, d, e, f, g, h, 0, 0, 0, 0])
    }
}

/// The end of a transmitted slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxResponse {
    /// The request's.
    pub id: u16,
    /// How it ended.
    pub status: TxStatus,
}

/// The transmit ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct TxProtocol;

impl Protocol for TxProtocol {
    type Request = TxSlot;
    type Response = TxResponse;

    fn slot_size(&self) -> usize {
        12
    }

    fn encode_request(&self, request: &TxSlot, slot: &mut [u8]) {
        slot.copy_from_slice(&request.0);
    }

    fn decode_request(&self, slot: &[u8]) -> TxSlot {
        TxSlot(slot.try_into().expect("a slot of 12 bytes"))
    }

    fn encode_response(&self, response: &TxResponse, slot: &mut [u8]) {
        slot[..2].copy_from_slice(&response.id.to_le_bytes());
        slot[2..4].copy_from_slice(&response.status.number().to_le_bytes());
    }

    fn decode_response(&self, slot: &[u8]) -> TxResponse {
        TxResponse {
            id: u16::from_le_bytes([slot[0], slot[1]]),
            status: TxStatus::from_number(i16::from_le_bytes([slot[2], slot[3]])),
        }
    }
}

/// A page for the backend to fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxRequest {
    /// Comes back in the response.
    pub id: u16,
    /// The page.
    pub reference: GrantRef,
}

/// A page that the backend has filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxResponse {
    /// The request's.
    pub id: u16,
    /// Where in the page the bytes are.
    pub offset: u16,
    /// See [`rx_flags`].
    pub flags: u16,
    /// How many bytes there are, or what went wrong where it is below 0.
    pub status: i16,
}

/// A slot of the receive ring: a response, or what is extra; which of them, the slot before tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxSlot([u8; 8]);

impl RxSlot {
    /// As a response.
    pub fn response(&self) -> RxResponse {
        let [i0, i1, o0, o1, f0, f1, s0, s1] = self.0;
        RxResponse {
            id: u16::from_le_bytes([i0, i1]),
            offset: u16::from_le_bytes([o0, o1]),
            flags: u16::from_le_bytes([f0, f1]),
            status: i16::from_le_bytes([s0, s1]),
        }
    }

    /// As something extra; whether more of it follows.
    pub fn extra(&self) -> (Extra, bool) {
        Extra::decode(&self.0)
    }
}

impl From<RxResponse> for RxSlot {
    fn from(response: RxResponse) -> RxSlot {
        let [i0, i1] = response.id.to_le_bytes();
        let [o0, o1] = response.offset.to_le_bytes();
        let [f0, f1] = response.flags.to_le_bytes();
        let [s0, s1] = response.status.to_le_bytes();
        RxSlot([i0, i1, o0, o1, f0, f1, s0, s1])
    }
}

impl From<(Extra, bool)> for RxSlot {
    fn from((extra, more): (Extra, bool)) -> RxSlot {
        RxSlot(extra.encode(more))
    }
}

/// The receive ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct RxProtocol;

impl Protocol for RxProtocol {
    type Request = RxRequest;
    type Response = RxSlot;

    fn slot_size(&self) -> usize {
        8
    }

    fn encode_request(&self, request: &RxRequest, slot: &mut [u8]) {
        slot[..2].copy_from_slice(&request.id.to_le_bytes());
        slot[4..].copy_from_slice(&request.reference.0.to_le_bytes());
    }

    fn decode_request(&self, slot: &[u8]) -> RxRequest {
        RxRequest {
            id: u16::from_le_bytes([slot[0], slot[1]]),
            reference: GrantRef(u32::from_le_bytes([slot[4], slot[5], slot[6], slot[7]])),
        }
    }

    fn encode_response(&self, response: &RxSlot, slot: &mut [u8]) {
        slot.copy_from_slice(&response.0);
    }

    fn decode_response(&self, slot: &[u8]) -> RxSlot {
        RxSlot(slot.try_into().expect("a slot of 8 bytes"))
    }
}
