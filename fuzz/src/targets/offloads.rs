//! netback, with frames of a guest's that may ask for segmentation and checksums, and a receiver with other offloads.
//!
//! The receiver is the guest itself, which negotiates what it receives apart from what it sends: as a second one would.

use std::collections::VecDeque;
use std::time::Duration;

use xen_hal::{Access, GrantRef, PAGE_SIZE, Port};
use xen_netif::back::Packet;
use xen_netif::checksum;
use xen_netif::headers::{Headers, TCP, UDP};
use xen_netif::protocol::{
    Extra, Gso, RxProtocol, RxRequest, RxSlot, TxProtocol, TxRequest, TxSlot, rx_flags, tx_flags,
};
use xen_ring::{FrontRing, GrantablePage};
use xen_sim::{SimGrant, Xen};

use crate::frame::{Checksum, frame};
use crate::input::Input;
use crate::net::{Guest, connect};
use crate::peer::{grant_page, pause};

pub(super) const SHORT: u32 = 60;

/// Pages for frames to be sent, and for those that come.
const TX_PAGES: usize = 20;
const RX_PAGES: usize = 64;
/// Frames in one input.
const MAX_FRAMES: u8 = 24;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let frame = |kind: u8, size: u8| vec![kind, size, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 16, 0, 0, 0, 0, 0];
    let mut seeds = Vec::new();
    for features in [0, 1, 7, 0x1f, 8] {
        for kind in [0, 1, 0x10, 0x40] {
            let mut seed = vec![0, features];
            for gso in [0, 0x81, 0xc2] {
                seed.extend(frame(kind, 0xbf));
                seed.extend([gso, 88, 2, 3]);
            }
            seeds.push(seed);
        }
    }
    seeds
}

/// What was asked for a frame that was sent.
struct Sent {
    checksum: Checksum,
    blank: bool,
    gso: Option<(Gso, u16)>,
}

/// What the receiver has negotiated.
#[derive(Clone, Copy)]
struct Negotiated(u8);

impl Negotiated {
    fn gather(self) -> bool {
        self.0 & 1 != 0
    }

    fn gso(self, protocol: Gso) -> bool {
        match protocol {
            Gso::TcpV4 => self.0 & 2 != 0,
            Gso::TcpV6 => self.0 & 4 != 0,
            Gso::Other(_) => false,
        }
    }

    fn blank(self, v6: bool) -> bool {
        if v6 { self.0 & 16 != 0 } else { self.0 & 8 == 0 }
    }
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let xen = Xen::new(u64::from(input.byte()));
    // Without groups: all that is sent comes back.
    let negotiated = Negotiated(input.byte() & 0x3f);
    let guest = connect(&xen, negotiated.0, |packet: Packet| vec![packet]);
    let pages = |count| -> Vec<GrantablePage<SimGrant>> {
        (0..count).map(|_| grant_page(&guest.domain, guest.server.id(), Access::ReadWrite)).collect()
    };
    let (tx_pages, rx_pages) = (pages(TX_PAGES), pages(RX_PAGES));
    let mut receiver =
        Receiver { ring: FrontRing::new(RxProtocol, &guest.rx), pages: rx_pages, posted: VecDeque::new(), negotiated };
    let mut tx = FrontRing::new(TxProtocol, &guest.tx);
    let mut sent = Vec::new();
    receiver.post(&guest, 0..RX_PAGES as u16);
    while !input.0.is_empty() && sent.len() < usize::from(MAX_FRAMES) {
        let (bytes, checksum) = frame(&mut input, sent.len() as u8);
        let (slots, this) = slots(&mut input, &bytes, checksum, &tx_pages);
        sent.push(this);
        for slot in &slots {
            tx.push(&guest.tx, slot).expect("answers come before the ring is full");
        }
        let _ = tx.publish(&guest.tx);
        guest.port.notify();
        pause(&xen, Duration::from_micros(200));
        while tx.pop(&guest.tx).expect("a good producer").is_some() {}
        receiver.receive(&guest, &sent);
        if tx.free() < 40 {
            // The device is broken, or slow.
            break;
        }
    }
    pause(&xen, Duration::from_millis(2));
    receiver.receive(&guest, &sent);
    drop((receiver, tx_pages, guest));
    xen.check_budgets();
    xen.end();
}

/// Puts a frame into pages, and says what is asked for it.
fn slots(
    input: &mut Input<'_>,
    bytes: &[u8],
    checksum: Checksum,
    pages: &[GrantablePage<SimGrant>],
) -> (Vec<TxSlot>, Sent) {
    let asked = input.byte();
    let gso = (asked & 0x80 != 0).then(|| {
        let protocol = if asked & 1 == 0 { Gso::TcpV4 } else { Gso::TcpV6 };
        let size = if asked & 0x40 == 0 { u16::from(input.byte()) + 1 } else { (input.word() as u16).max(1) };
        (protocol, size)
    });
    // A guest may say so also where it is not true.
    let blank = (checksum == Checksum::Blank) ^ (asked & 0x20 != 0);
    // The pieces end anywhere.
    let piece = if asked & 0x10 == 0 { PAGE_SIZE } else { 64 + usize::from(input.byte()) * 15 };
    let piece = piece.max(bytes.len().div_ceil(pages.len()));
    let count = bytes.chunks(piece).count();
    let mut slots: Vec<TxSlot> = Vec::new();
    for (index, (chunk, page)) in bytes.chunks(piece).zip(pages).enumerate() {
        let offset = (PAGE_SIZE - chunk.len()).min(usize::from(asked & 0xf) * 8);
        page.write(offset, chunk);
        let mut flags = if index + 1 < count { tx_flags::MORE_DATA } else { 0 };
        if index == 0 {
            flags |= if blank { tx_flags::CSUM_BLANK | tx_flags::DATA_VALIDATED } else { 0 };
            flags |= if gso.is_some() { tx_flags::EXTRA_INFO } else { 0 };
        }
        let size = if index == 0 { bytes.len() } else { chunk.len() } as u16;
        let reference = page.reference().expect("it is granted");
        slots.push(TxRequest { reference, offset: offset as u16, flags, id: index as u16, size }.into());
        if index == 0
            && let Some((protocol, size)) = gso
        {
            slots.push((Extra::Gso { size, protocol }, false).into());
        }
    }
    (slots, Sent { checksum, blank, gso })
}

struct Receiver {
    ring: FrontRing<RxProtocol>,
    pages: Vec<GrantablePage<SimGrant>>,
    /// Which pages are in the ring, in order.
    posted: VecDeque<u16>,
    negotiated: Negotiated,
}

impl Receiver {
    fn post(&mut self, guest: &Guest, ids: impl IntoIterator<Item = u16>) {
        for id in ids {
            let reference: GrantRef = self.pages[usize::from(id)].reference().expect("it is granted");
            self.ring.push(&guest.rx, &RxRequest { id, reference }).expect("fewer pages than slots");
            self.posted.push_back(id);
        }
        let _ = self.ring.publish(&guest.rx);
        guest.port.notify();
    }

    fn next(&mut self, guest: &Guest) -> RxSlot {
        self.ring.pop(&guest.rx).expect("a good producer").expect("a packet comes whole")
    }

    fn taken(&mut self, id: u16) {
        let at = self.posted.iter().position(|posted| *posted == id).expect("a page that was posted");
        self.posted.remove(at);
    }

    /// Takes what has come; each packet is within what was negotiated.
    fn receive(&mut self, guest: &Guest, sent: &[Sent]) {
        while let Some(first) = self.ring.pop(&guest.rx).expect("a good producer") {
            let mut response = first.response();
            let flags = response.flags;
            self.taken(response.id);
            let mut gso = None;
            let (mut frame, mut used, mut good) = (Vec::new(), vec![response.id], response.status >= 0);
            if flags & rx_flags::EXTRA_INFO != 0 {
                let (Extra::Gso { size, protocol }, false) = self.next(guest).extra() else {
                    panic!("only GSO is said")
                };
                gso = Some((protocol, size));
                // Its slot was a page's, which comes back without a word.
                used.extend(self.posted.pop_front());
            }
            let mut slots = 0;
            loop {
                slots += 1;
                if let Ok(len) = usize::try_from(response.status) {
                    let start = frame.len();
                    frame.resize(start + len, 0);
                    assert!(usize::from(response.offset) + len <= PAGE_SIZE);
                    self.pages[usize::from(response.id)].read(response.offset.into(), &mut frame[start..]);
                } else {
                    good = false;
                }
                if response.flags & rx_flags::MORE_DATA == 0 {
                    break;
                }
                response = self.next(guest).response();
                self.taken(response.id);
                used.push(response.id);
            }
            if good {
                self.negotiated.check(&frame, flags, slots, gso, sent);
            }
            self.post(guest, used);
        }
    }
}

impl Negotiated {
    fn check(self, frame: &[u8], flags: u16, slots: usize, gso: Option<(Gso, u16)>, sent: &[Sent]) {
        let Some(sent) = frame.get(11).and_then(|number| sent.get(usize::from(*number))) else {
            panic!("a frame that nobody has sent: {frame:?}")
        };
        assert!(self.gather() || slots == 1, "{slots} slots, without feature-sg");
        let headers = Headers::parse(frame);
        if let Some((protocol, size)) = gso {
            assert!(self.gso(protocol) && size > 0, "{protocol:?} was not negotiated");
            assert!(headers.is_some_and(|headers| {
                headers.protocol == TCP && headers.v6 == (protocol == Gso::TcpV6) && headers.tcp_header(frame).is_some()
            }));
            assert!(flags & rx_flags::CSUM_BLANK != 0, "segmentation without a checksum to be completed");
        }
        if flags & rx_flags::CSUM_BLANK != 0 {
            let headers = headers.expect("a blank checksum has a place");
            assert!(matches!(headers.protocol, TCP | UDP) && !headers.fragment, "a blank checksum of {headers:?}");
            assert!(self.blank(headers.v6), "a blank checksum was not negotiated");
        } else if sent.blank && sent.checksum == Checksum::Blank && flags & rx_flags::DATA_VALIDATED != 0 {
            // What was blank was completed.
            let headers = headers.expect("it had headers when it was sent");
            assert!(checksum::is_valid(frame, &headers), "a checksum was not completed");
        }
        if let (Some((_, size)), Some(headers), None) = (sent.gso, headers, gso)
            && flags & rx_flags::DATA_VALIDATED != 0
            && let Some(length) = headers.tcp_header(frame)
        {
            let payload = headers.end - headers.transport - length;
            assert!(payload <= usize::from(size), "{payload} bytes in a segment of {size}");
        }
    }
}
