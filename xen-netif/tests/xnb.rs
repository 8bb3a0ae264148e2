//! The ideas of FreeBSD's tests of its network backend (sys/dev/xen/netback/netback_unit_tests.c), under their names,
//! through a ring and its grants. What needs no ring is beside its code: `ring2pkt` in netif's `back/chain.rs`.

mod support;

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use etherparse::PacketBuilder;
use xen_hal::Clock;
use xen_netif::back::{Checksum, Packet, Port};
use xen_netif::checksum;
use xen_netif::headers::Headers;
use xen_netif::protocol::{Extra, Gso, RxRequest, RxSlot, TxRequest, TxResponse, TxSlot, TxStatus, rx_flags, tx_flags};
use xen_sim::check;

use support::guest::{Guest, against};
use support::network::frame;

const MORE: u16 = tx_flags::MORE_DATA;
const EXTRA: u16 = tx_flags::EXTRA_INFO;
const GSO: Extra = Extra::Gso { size: 1448, protocol: Gso::TcpV4 };
/// Room of a page.
const PAGE: usize = 4096;

/// Runs a script as a guest, with the backend's port; nothing may break.
fn with(name: &str, script: impl AsyncFn(&Guest, &Port) + Send + Sync + 'static) {
    let script = Arc::new(script);
    check(name, 4, move |xen| {
        let found = Rc::new(RefCell::new(None));
        let (opened, script) = (found.clone(), script.clone());
        let error = against(
            xen,
            move |_, port| *opened.borrow_mut() = Some(Rc::new(port)),
            async move |guest| {
                let port = found.borrow().clone().expect("the port is opened before the guest is connected");
                while !port.is_up() {
                    guest.domain.sleep(Duration::from_micros(100)).await;
                }
                script(guest, &port).await;
            },
        );
        assert_eq!(error, None);
    });
}

impl Guest {
    /// A slot with these bytes, at this place of one of the pages that are granted for reading.
    fn filled(&self, page: usize, offset: usize, bytes: &[u8], size: usize, flags: u16) -> TxSlot {
        let index = page * 2 + 1;
        self.data[index].write(offset, bytes);
        let (offset, size, id) = (offset as u16, size as u16, page as u16);
        TxRequest { reference: self.reference(index), offset, flags, id, size }.into()
    }

    /// Sends a packet in slots of these lengths, each in a page and at an offset of its own.
    fn send_in(&self, packet: &[u8], lengths: &[usize], flags: u16, extra: Option<Extra>) {
        assert_eq!(lengths.iter().sum::<usize>(), packet.len());
        let mut slots = Vec::new();
        let mut rest = packet;
        for (index, len) in lengths.iter().enumerate() {
            let (own, after) = rest.split_at(*len);
            rest = after;
            let first = index == 0;
            let size = if first { packet.len() } else { *len };
            let mut own_flags = if first { flags } else { 0 };
            own_flags |= if after.is_empty() { 0 } else { MORE };
            own_flags |= if first && extra.is_some() { EXTRA } else { 0 };
            let offset = (index * 13 + 1).min(PAGE - len);
            slots.push(self.filled(index, offset, own, size, own_flags));
            if let Some(extra) = extra.filter(|_| first) {
                slots.push((extra, false).into());
            }
        }
        self.send(&slots);
    }

    /// What the backend has put on the receive ring, after a while.
    async fn slots(&self) -> Vec<RxSlot> {
        self.domain.sleep(Duration::from_millis(10)).await;
        std::iter::from_fn(|| self.rx.borrow_mut().pop(&self.rx_page).unwrap()).collect()
    }

    fn page(&self, id: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.data[id * 2].read(0, &mut bytes);
        bytes
    }

    async fn responses(&self) -> Vec<TxResponse> {
        self.domain.sleep(Duration::from_millis(10)).await;
        std::iter::from_fn(|| self.tx.borrow_mut().pop(&self.tx_page).unwrap()).collect()
    }
}

/// The next packet, where it is there by now.
async fn now(port: &Port) -> Option<Packet> {
    let mut next = std::pin::pin!(port.receive());
    poll_fn(|cx| match next.as_mut().poll(cx) {
        Poll::Ready(packet) => Poll::Ready(packet),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

fn okay(id: u16) -> TxResponse {
    TxResponse { id, status: TxStatus::Okay }
}

#[test]
fn ring2pkt_wraps() {
    with("ring2pkt_wraps", async |guest, port| {
        for turn in 0..300 {
            guest.send_in(&frame(200, turn), &[100, 60, 40], 0, None);
            assert!(port.receive().await.unwrap().bytes == frame(200, turn), "{turn}");
            assert_eq!(guest.responses().await, [okay(0), okay(1), okay(2)]);
        }
    });
}

#[test]
fn txpkt2rsp_emptypkt() {
    with("txpkt2rsp_emptypkt", async |guest, port| {
        guest.send(&[]);
        assert_eq!((guest.responses().await, now(port).await), (vec![], None));
    });
}

#[test]
fn txpkt2rsp_1req() {
    with("txpkt2rsp_1req", async |guest, _| {
        guest.send_in(&frame(60, 1), &[60], 0, None);
        assert_eq!(guest.responses().await, [okay(0)]);
    });
}

#[test]
fn txpkt2rsp_extra() {
    with("txpkt2rsp_extra", async |guest, _| {
        guest.send_in(&tcp(3000), &[1000, 2054], tx_flags::CSUM_BLANK, Some(GSO));
        assert_eq!(guest.responses().await, [okay(0), TxResponse { id: 0, status: TxStatus::Null }, okay(1)]);
    });
}

#[test]
fn txpkt2rsp_long() {
    with("txpkt2rsp_long", async |guest, _| {
        guest.send_in(&frame(9000, 1), &[4000, 4000, 1000], 0, None);
        assert_eq!(guest.responses().await, [okay(0), okay(1), okay(2)]);
    });
}

#[test]
fn txpkt2rsp_invalid() {
    with("txpkt2rsp_invalid", async |guest, port| {
        // The rest is larger than the whole.
        guest.send(&[guest.filled(0, 0, &[1], 100, MORE), guest.filled(1, 0, &[1], 101, 0)]);
        let error = |id| TxResponse { id, status: TxStatus::Error };
        assert_eq!((guest.responses().await, now(port).await), (vec![error(0), error(1)], None));
        assert_eq!(port.statistics().refused, 1);
    });
}

#[test]
fn txpkt2rsp_error() {
    with("txpkt2rsp_error", async |guest, port| {
        // Of the second slot nobody knows the page.
        let reference = xen_hal::GrantRef(9999);
        let second = TxRequest { reference, offset: 0, flags: 0, id: 1, size: 40 };
        guest.send(&[guest.filled(0, 0, &[1], 100, MORE), second.into()]);
        let error = |id| TxResponse { id, status: TxStatus::Error };
        assert_eq!((guest.responses().await, now(port).await), (vec![error(0), error(1)], None));
    });
}

#[test]
fn txpkt2rsp_wraps() {
    with("txpkt2rsp_wraps", async |guest, port| {
        for turn in 0..255 {
            guest.send_in(&frame(60, turn), &[60], 0, None);
            port.receive().await.unwrap();
            assert_eq!(guest.response().await, Some(okay(0)));
        }
        // The last slot of the ring, and the first.
        guest.send_in(&frame(100, 1), &[60, 40], 0, None);
        assert_eq!(guest.responses().await, [okay(0), okay(1)]);
    });
}

/// What was sent in slots of these lengths arrives whole.
fn arrives(name: &str, lengths: &'static [usize], flags: u16, sum: Checksum) {
    with(name, async move |guest, port| {
        let bytes = frame(lengths.iter().sum(), 3);
        guest.send_in(&bytes, lengths, flags, None);
        let packet = port.receive().await.unwrap();
        assert_eq!((packet.checksum, packet.gso), (sum, None));
        assert!(packet.bytes == bytes);
    });
}

#[test]
fn pkt2mbufc_empty() {
    with("pkt2mbufc_empty", async |guest, port| {
        guest.send(&[guest.filled(0, 0, &[], 0, 0)]);
        assert_eq!(guest.responses().await, [TxResponse { id: 0, status: TxStatus::Error }]);
        assert_eq!(now(port).await, None);
    });
}

#[test]
fn pkt2mbufc_short() {
    arrives("pkt2mbufc_short", &[64], 0, Checksum::Present);
}

#[test]
fn pkt2mbufc_csum() {
    arrives("pkt2mbufc_csum", &[64], tx_flags::DATA_VALIDATED, Checksum::Valid);
    with("pkt2mbufc_csum", async |guest, port| {
        guest.send_in(&tcp(10), &[64], tx_flags::DATA_VALIDATED | tx_flags::CSUM_BLANK, None);
        let packet = port.receive().await.unwrap();
        assert_eq!((packet.checksum, packet.gso), (Checksum::Blank, None));
        assert!(packet.bytes == tcp(10));
    });
}

#[test]
fn pkt2mbufc_1cluster() {
    arrives("pkt2mbufc_1cluster", &[2048], 0, Checksum::Present);
}

#[test]
fn pkt2mbufc_largecluster() {
    arrives("pkt2mbufc_largecluster", &[4096], 0, Checksum::Present);
}

#[test]
fn pkt2mbufc_2cluster() {
    arrives("pkt2mbufc_2cluster", &[2048, 2049], 0, Checksum::Present);
}

#[test]
fn txpkt2gnttab_empty() {
    with("txpkt2gnttab_empty", async |guest, port| {
        guest.send(&[]);
        guest.domain.sleep(Duration::from_millis(5)).await;
        assert_eq!(port.statistics().grant_copies, 0);
    });
}

#[test]
fn txpkt2gnttab_short() {
    arrives("txpkt2gnttab_short", &[500], 0, Checksum::Present);
}

#[test]
fn txpkt2gnttab_2req() {
    arrives("txpkt2gnttab_2req", &[1900, 1000], 0, Checksum::Present);
}

#[test]
fn txpkt2gnttab_2cluster() {
    arrives("txpkt2gnttab_2cluster", &[4000, 4090, 900], 0, Checksum::Present);
}

#[test]
fn update_mbufc_short() {
    arrives("update_mbufc_short", &[16], 0, Checksum::Present);
}

#[test]
fn update_mbufc_2req() {
    arrives("update_mbufc_2req", &[14, 1], 0, Checksum::Present);
}

#[test]
fn update_mbufc_2cluster() {
    arrives("update_mbufc_2cluster", &[4096, 4096, 4096, 1], 0, Checksum::Present);
}

/// Linux's packets: headers, and then data whose pieces end with their pages. Each slot takes one copy, and so does each page
/// on the way to a guest: it is where it was in its page.
#[test]
fn txpkt2gnttab_aligned() {
    with("txpkt2gnttab_aligned", async |guest, port| {
        // From the last one's start to the page's end there is no room for all headers: that one begins at 0 for a guest.
        for (turn, (offset, kept)) in (0..).zip([(1000, true), (3900, true), (66, true), (0, false)]) {
            let packet = frame(66 + (PAGE - offset) + PAGE + 700, turn);
            let (headers, data) = packet.split_at(66);
            let (first, rest) = data.split_at(PAGE - offset);
            let (second, third) = rest.split_at(PAGE);
            guest.send(&[
                guest.filled(0, 7, headers, packet.len(), MORE),
                guest.filled(1, offset, first, first.len(), MORE),
                guest.filled(2, 0, second, PAGE, MORE),
                guest.filled(3, 0, third, third.len(), 0),
            ]);
            let before = port.statistics();
            let received = port.receive().await.unwrap();
            assert!(received.bytes == packet, "{offset}");
            assert_eq!(guest.responses().await, [okay(0), okay(1), okay(2), okay(3)]);
            let taken = port.statistics();
            assert_eq!(taken.copy_operations - before.copy_operations, 4, "{offset}");

            let start = if kept { (offset + PAGE - 66) % PAGE } else { 0 };
            let pages = (start + packet.len()).div_ceil(PAGE);
            guest.offer_pages(pages);
            port.send(received).unwrap();
            let slots = guest.slots().await;
            assert_eq!(usize::from(slots[0].response().offset), start);
            let mut whole = Vec::new();
            for response in slots.iter().map(RxSlot::response) {
                let len = response.status as usize;
                let mut bytes = vec![0; len];
                guest.data[usize::from(response.id) * 2].read(response.offset.into(), &mut bytes);
                whole.extend(bytes);
            }
            assert!(whole == packet, "{offset}");
            let given = port.statistics();
            let copies = (given.copy_operations - taken.copy_operations) as usize;
            assert!(copies == pages || (!kept && copies <= 2 * pages), "{offset}: {copies} copies");
        }
    });
}

#[test]
fn mbufc2pkt_empty() {
    with("mbufc2pkt_empty", async |guest, port| {
        guest.offer_pages(2);
        assert_eq!(port.send(Packet::default()), Ok(()));
        assert_eq!(guest.slots().await, []);
    });
}

/// The guest has pages, and gets a packet; what it finds, and that its bytes are right.
async fn given(guest: &Guest, port: &Port, pages: usize, packet: Packet) -> Vec<(u16, i16)> {
    guest.offer_pages(pages);
    let bytes = packet.bytes.clone();
    port.send(packet).unwrap();
    let mut found = Vec::new();
    let mut whole = Vec::new();
    let mut extra = false;
    for slot in guest.slots().await {
        if std::mem::take(&mut extra) {
            found.push((u16::MAX, 0));
            continue;
        }
        let response = slot.response();
        extra = response.flags & rx_flags::EXTRA_INFO != 0;
        found.push((response.flags, response.status));
        whole.extend(guest.page(response.id.into(), response.status.try_into().unwrap()));
    }
    assert!(found.is_empty() || whole == bytes);
    found
}

const RX_MORE: u16 = rx_flags::MORE_DATA;

#[test]
fn mbufc2pkt_short() {
    with("mbufc2pkt_short", async |guest, port| {
        assert_eq!(given(guest, port, 4, frame(60, 1).into()).await, [(0, 60)]);
    });
}

#[test]
fn mbufc2pkt_1cluster() {
    with("mbufc2pkt_1cluster", async |guest, port| {
        assert_eq!(given(guest, port, 4, frame(PAGE, 1).into()).await, [(0, 4096)]);
    });
}

#[test]
fn mbufc2pkt_2short() {
    with("mbufc2pkt_2short", async |guest, port| {
        assert_eq!(given(guest, port, 4, frame(PAGE + 1, 1).into()).await, [(RX_MORE, 4096), (0, 1)]);
    });
}

#[test]
fn mbufc2pkt_long() {
    with("mbufc2pkt_long", async |guest, port| {
        let found = given(guest, port, 6, frame(5 * PAGE + 7, 1).into()).await;
        assert_eq!(found, [[(RX_MORE, 4096); 5].as_slice(), &[(0, 7)]].concat());
    });
}

fn tcp(payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(80, 5000, 7, 9);
    builder.write(&mut bytes, &frame(payload, 1)).unwrap();
    bytes
}

fn segments(payload: usize) -> Packet {
    let mut bytes = tcp(payload);
    let headers = Headers::parse(&bytes).unwrap();
    checksum::leave_blank(&mut bytes, &headers);
    Packet { bytes: bytes.into(), checksum: Checksum::Blank, gso: Some((Gso::TcpV4, 1448)) }
}

const BLANK: u16 = rx_flags::DATA_VALIDATED | rx_flags::CSUM_BLANK;

#[test]
fn mbufc2pkt_extra() {
    with("mbufc2pkt_extra", async |guest, port| {
        let found = given(guest, port, 4, segments(5000)).await;
        let rest = 5054 - 4096;
        assert_eq!(found, [(BLANK | RX_MORE | rx_flags::EXTRA_INFO, 4096), (u16::MAX, 0), (0, rest)]);
    });
}

#[test]
fn mbufc2pkt_nospace() {
    with("mbufc2pkt_nospace", async |guest, port| {
        // It waits until all of it has room.
        assert_eq!(given(guest, port, 1, frame(5000, 1).into()).await, []);
        guest.offer_pages(1);
        assert_eq!(guest.slots().await.len(), 2);
    });
}

#[test]
fn rxpkt2gnttab_empty() {
    with("rxpkt2gnttab_empty", async |guest, port| {
        guest.offer_pages(2);
        guest.domain.sleep(Duration::from_millis(5)).await;
        assert_eq!(port.statistics().grant_copies, 0);
    });
}

#[test]
fn rxpkt2gnttab_short() {
    with("rxpkt2gnttab_short", async |guest, port| {
        guest.data[0].write(60, &[0x77; 8]);
        assert_eq!(given(guest, port, 1, frame(60, 9).into()).await, [(0, 60)]);
        assert_eq!(guest.page(0, 68)[60..], [0x77; 8], "nothing is written behind it");
    });
}

#[test]
fn rxpkt2gnttab_2req() {
    with("rxpkt2gnttab_2req", async |guest, port| {
        assert_eq!(given(guest, port, 2, frame(6000, 9).into()).await, [(RX_MORE, 4096), (0, 1904)]);
    });
}

#[test]
fn rxpkt2rsp_empty() {
    with("rxpkt2rsp_empty", async |guest, _| {
        guest.offer_pages(2);
        assert_eq!(guest.slots().await, []);
    });
}

#[test]
fn rxpkt2rsp_short() {
    with("rxpkt2rsp_short", async |guest, port| {
        let packet = Packet { checksum: Checksum::Valid, ..frame(60, 1).into() };
        assert_eq!(given(guest, port, 1, packet).await, [(rx_flags::DATA_VALIDATED, 60)]);
    });
}

#[test]
fn rxpkt2rsp_extra() {
    with("rxpkt2rsp_extra", async |guest, port| {
        let found = given(guest, port, 4, segments(2000)).await;
        assert_eq!(found, [(BLANK | rx_flags::EXTRA_INFO, 2054), (u16::MAX, 0)]);
    });
}

#[test]
fn rxpkt2rsp_2short() {
    with("rxpkt2rsp_2short", async |guest, port| {
        guest.offer_pages(2);
        for seed in 0..2 {
            port.send(frame(60, seed).into()).unwrap();
        }
        let found: Vec<_> = guest.slots().await.into_iter().map(|slot| slot.response()).collect();
        let found: Vec<_> = found.iter().map(|response| (response.id, response.flags, response.status)).collect();
        assert_eq!(found, [(0, 0, 60), (1, 0, 60)]);
        assert!((0..2).all(|id| guest.page(id, 60) == frame(60, id as u64)));
    });
}

#[test]
fn rxpkt2rsp_2slots() {
    with("rxpkt2rsp_2slots", async |guest, port| {
        assert_eq!(given(guest, port, 3, frame(8000, 1).into()).await, [(RX_MORE, 4096), (0, 3904)]);
    });
}

#[test]
fn rxpkt2rsp_copyerror() {
    with("rxpkt2rsp_copyerror", async |guest, port| {
        // A page that may only be read.
        guest.rx.borrow_mut().push(&guest.rx_page, &RxRequest { id: 5, reference: guest.reference(1) }).unwrap();
        let _ = guest.rx.borrow_mut().publish(&guest.rx_page);
        port.send(frame(60, 1).into()).unwrap();
        let found: Vec<_> = guest.slots().await.into_iter().map(|slot| slot.response().status).collect();
        assert_eq!((found, port.statistics().dropped), (vec![-1], 1));
    });
}

/// The guest has left a checksum to the backend, which makes it; what carries none is left alone.
async fn completed(guest: &Guest, port: &Port, expected: Vec<u8>, blank: bool) {
    let mut sent = expected.clone();
    if blank {
        let headers = Headers::parse(&sent).unwrap();
        assert!(checksum::leave_blank(&mut sent, &headers));
        assert!(sent != expected);
    }
    let flags = if blank { tx_flags::CSUM_BLANK | tx_flags::DATA_VALIDATED } else { 0 };
    guest.send_in(&sent, &[sent.len()], flags, None);
    let mut packet = port.receive().await.unwrap();
    if packet.checksum == Checksum::Blank
        && let Some(headers) = Headers::parse(&packet.bytes)
    {
        assert!(checksum::complete(&mut packet.bytes, &headers));
    }
    assert!(packet.bytes == expected);
}

#[test]
fn add_mbuf_cksum_arp() {
    with("add_mbuf_cksum_arp", async |guest, port| {
        let mut arp = frame(60, 4);
        arp[12..14].copy_from_slice(&[8, 6]);
        completed(guest, port, arp, false).await;
    });
}

#[test]
fn add_mbuf_cksum_icmp() {
    with("add_mbuf_cksum_icmp", async |guest, port| {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1; 4], [2; 4], 64).icmpv4_echo_request(1, 2);
        builder.write(&mut bytes, &frame(56, 1)).unwrap();
        completed(guest, port, bytes.clone(), false).await;
        // Who says that there is one to make is wrong, and the packet is dropped, as Linux does.
        guest.responses().await;
        guest.send_in(&bytes, &[bytes.len()], tx_flags::CSUM_BLANK, None);
        assert_eq!(guest.responses().await, [TxResponse { id: 0, status: TxStatus::Error }]);
        assert_eq!((now(port).await, port.statistics().refused), (None, 1));
    });
}

#[test]
fn add_mbuf_cksum_tcp() {
    with("add_mbuf_cksum_tcp", async |guest, port| completed(guest, port, tcp(1000), true).await);
}

#[test]
fn add_mbuf_cksum_tcp_swcksum() {
    with("add_mbuf_cksum_tcp_swcksum", async |guest, port| completed(guest, port, tcp(1000), false).await);
}

#[test]
fn add_mbuf_cksum_udp() {
    with("add_mbuf_cksum_udp", async |guest, port| {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1; 4], [2; 4], 64).udp(1, 2);
        builder.write(&mut bytes, &frame(333, 1)).unwrap();
        completed(guest, port, bytes, true).await;
    });
}
