//! What a guest is sent, in the form that it takes.

use alloc::vec;

use xen_hal::PAGE_SIZE;

use super::packet::{Checksum, Packet};
use crate::checksum;
use crate::headers::Headers;
use crate::offload::can_segment;
use crate::protocol::MAX_SLOTS;
use crate::segment::Segmenter;

/// What a guest can take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    pub(super) gather: bool,
    pub(super) gso_v4: bool,
    pub(super) gso_v6: bool,
    pub(super) blank_v4: bool,
    pub(super) blank_v6: bool,
}

/// A packet on its way to the guest.
#[derive(Debug)]
pub(super) enum Ready {
    /// It takes it as it is.
    Whole(Packet),
    /// It is cut while the guest has room: all pieces at once can take a multiple of the packet's memory.
    Pieces { packet: Packet, cut: Segmenter, next: usize },
    /// It leaves work to the guest that nobody can do. It is dropped, and a slot tells the guest so.
    Refused,
}

impl Guest {
    /// Makes of a packet what the guest takes; `None` where it can take nothing of it.
    pub(super) fn adapt(&self, packet: Packet) -> Option<Ready> {
        let ready = match packet.checksum == Checksum::Blank || packet.gso.is_some() {
            true => self.help(packet).unwrap_or(Ready::Refused),
            false => Ready::Whole(packet),
        };
        match &ready {
            // A guest without scatter and gather has one page for each.
            Ready::Whole(packet) if packet.bytes.is_empty() => None,
            Ready::Whole(packet) if !self.gather && packet.bytes.len() > PAGE_SIZE => None,
            ready if ready.slots() as usize > MAX_SLOTS => None,
            _ => Some(ready),
        }
    }

    /// Does what the packet leaves to others and the guest does not do; `None` where that cannot be done.
    fn help(&self, mut packet: Packet) -> Option<Ready> {
        let headers = Headers::parse(&packet.bytes)?;
        let blank = if headers.v6 { self.blank_v6 } else { self.blank_v4 };
        if let Some((protocol, size)) = packet.gso {
            if !can_segment(&packet.bytes, &headers, protocol, size) {
                return None;
            }
            let gso = if headers.v6 { self.gso_v6 } else { self.gso_v4 };
            if !(gso && blank && self.gather) {
                let size = if self.gather { size } else { size.min((PAGE_SIZE / 2) as u16) };
                let cut = Segmenter::segments(&packet.bytes, &headers, size)?;
                return Some(Ready::Pieces { packet, cut, next: 0 });
            }
            // Segmentation offload implies that the checksum is left blank.
            if packet.checksum != Checksum::Blank {
                checksum::leave_blank(&mut packet.bytes, &headers);
                packet.checksum = Checksum::Blank;
            }
        } else if !checksum::is_present(&packet.bytes, &headers) {
            return None;
        } else if !blank {
            checksum::complete(&mut packet.bytes, &headers);
            packet.checksum = Checksum::Valid;
        }
        Some(Ready::Whole(packet))
    }
}

impl Ready {
    /// Slots that what is sent next takes.
    pub(super) fn slots(&self) -> u32 {
        match self {
            Ready::Whole(packet) => whole_slots(packet) + u32::from(packet.gso.is_some()),
            Ready::Pieces { cut, next, .. } => slots(cut.len(*next)),
            Ready::Refused => 1,
        }
    }

    /// What is sent next, and what is left of it then. A packet of no bytes stands for one that was dropped.
    pub(super) fn take(self) -> (Packet, Option<Ready>) {
        match self {
            Ready::Whole(packet) => (packet, None),
            Ready::Pieces { packet, cut, next } => {
                let mut bytes = vec![0; cut.len(next)];
                cut.write(&packet.bytes, next, &mut bytes);
                let next = next + 1;
                let rest = (next < cut.count()).then_some(Ready::Pieces { packet, cut, next });
                (Packet { bytes: bytes.into(), checksum: Checksum::Valid, gso: None }, rest)
            }
            Ready::Refused => (Packet::default(), None),
        }
    }
}

/// A packet in pages begins in the guest's page where it does in its own, so that each page takes one copy; where that is
/// not too many.
fn whole_slots(packet: &Packet) -> u32 {
    let len = packet.bytes.len();
    let aligned = packet.bytes.offset().map(|offset| slots(offset + len));
    aligned.filter(|slots| len > PAGE_SIZE && (*slots as usize) < MAX_SLOTS).unwrap_or(slots(len))
}

fn slots(bytes: usize) -> u32 {
    bytes.div_ceil(PAGE_SIZE) as u32
}
