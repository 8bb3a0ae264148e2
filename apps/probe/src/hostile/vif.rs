//! What a network interface's frontend may not do, or not as much (xen/include/public/io/netif.h).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use sarab::hal::{Access, GrantRef, Port};

use super::device::{CONNECTED, Device, Ring, noise, passes, port, repeat};

const SLOTS: u32 = 256;
/// `netif_tx_request`, `netif_rx_request`.
const TX_SLOT: usize = 12;
const RX_SLOT: usize = 8;

const CSUM_BLANK: u16 = 1;
const DATA_VALIDATED: u16 = 2;
const MORE_DATA: u16 = 4;
const EXTRA_INFO: u16 = 8;

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// As many frames as there is room for, always.
    Full,
    /// Packets of 14 KB behind long extension headers, to be cut into segments of one byte.
    Segments,
    /// Frames of one byte in a slot, of none, and of too many slots.
    Chains,
    /// Any bytes.
    Noise,
    /// Groups to join and leave, more than there can be.
    Groups,
    /// The producer forth and back.
    Index,
    /// Events alone.
    Events,
    /// States alone, with rings that are good.
    States,
}

const MODES: [Mode; 8] =
    [Mode::Full, Mode::Segments, Mode::Chains, Mode::Noise, Mode::Groups, Mode::Index, Mode::Events, Mode::States];

/// Misbehaves in one way after the other; what was done.
pub async fn attack(device: Device, deadline: Duration) -> Result<String, String> {
    const SLICE: Duration = Duration::from_millis(700);
    let mac: String = device.store.read_as(&format!("{}/mac", device.path)).await.map_err(crate::text)?;
    let mac: Vec<u8> = mac.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    let pages = device.pages(4, Access::ReadOnly)?;
    pages.write(0, &packet(&mac));
    let pages: Vec<GrantRef> = pages.references().collect();
    // A backend that closes the device has done right: the next connection goes on with the next mode.
    let mut modes = passes(MODES, |mode| matches!(mode, Mode::States | Mode::Noise | Mode::Index));
    while device.now() < deadline {
        let (mut tx, mut rx) = (Ring::new(&device, SLOTS, TX_SLOT)?, Ring::new(&device, SLOTS, RX_SLOT)?);
        let bell = port(&device)?;
        let mut keys = [
            ("tx-ring-ref", format!("{}", tx.reference().0)),
            ("rx-ring-ref", format!("{}", rx.reference().0)),
            ("event-channel", format!("{}", bell.number().0)),
        ]
        .to_vec();
        for key in [
            "request-rx-copy",
            "feature-rx-notify",
            "feature-sg",
            "feature-gso-tcpv4",
            "feature-gso-tcpv6",
            "feature-ipv6-csum-offload",
            "request-multicast-control",
        ] {
            keys.push((key, "1".into()));
        }
        if !device.connect(&keys, CONNECTED).await? {
            continue;
        }
        // Pages to receive into that nobody lends.
        for id in 0..SLOTS {
            rx.put(&[&id.to_le_bytes()[..], &(device.random() as u32).to_le_bytes()].concat());
        }
        rx.publish(&bell);
        while device.now() < deadline && device.backend_state().await == CONNECTED {
            let mode = modes.next().expect("passes go on for ever");
            let until = (device.now() + SLICE).min(deadline);
            match mode {
                Mode::States => device.cycle(until).await?,
                _ => repeat(&device, until, || step(mode, &device, &mut tx, &bell, &pages)).await,
            }
        }
    }
    Ok(device.summary())
}

fn step(mode: Mode, device: &Device, tx: &mut Ring<'_>, bell: &sarab::platform::XenPort, pages: &[GrantRef]) {
    let first = pages[0].0;
    match mode {
        Mode::Full => {
            for _ in 0..tx.room() {
                tx.put(&slot(first, 0, DATA_VALIDATED, 1514));
            }
            tx.publish(bell);
        }
        Mode::Segments => {
            for turn in 0..tx.room() / 6 {
                let kind = 1 + (turn % 2) as u8;
                tx.put(&slot(first, 0, CSUM_BLANK | DATA_VALIDATED | MORE_DATA | EXTRA_INFO, 14_336));
                tx.put(&gso(1 + (turn % 3) as u16, kind));
                for (index, page) in pages.iter().enumerate().skip(1) {
                    let (size, more) = if index < 3 { (4096, MORE_DATA) } else { (2048, 0) };
                    tx.put(&slot(page.0, 0, more, size));
                }
            }
            tx.publish(bell);
        }
        Mode::Chains => {
            for _ in 0..tx.room() / 40 {
                let slots = 1 + (device.random() % 19) as u16;
                let each = (device.random() % 3) as u16;
                tx.put(&slot(first, 0, CSUM_BLANK | MORE_DATA, 20 + slots * each));
                for index in 0..slots {
                    tx.put(&slot(first, 20, if index + 1 < slots { MORE_DATA } else { 0 }, each));
                }
            }
            tx.publish(bell);
        }
        Mode::Noise => {
            tx.put(&noise(device, TX_SLOT));
            tx.publish(bell);
        }
        Mode::Groups => {
            for turn in 0..tx.room() / 2 {
                tx.put(&slot(first, 0, EXTRA_INFO, 0));
                let mut extra = [0; TX_SLOT];
                extra[0] = 2 + (turn % 5 == 4) as u8;
                extra[2..8].copy_from_slice(&(device.random() | 1).to_le_bytes()[..6]);
                tx.put(&extra);
            }
            tx.publish(bell);
        }
        Mode::Index => {
            for _ in 0..tx.room().min(20) {
                tx.put(&slot(first, 0, 0, 60));
            }
            tx.publish(bell);
            tx.publish_at(-10, bell);
            tx.publish_at(0, bell);
        }
        Mode::Events => tx.notify(bell),
        Mode::States => {}
    }
}

fn slot(page: u32, offset: u16, flags: u16, size: u16) -> [u8; TX_SLOT] {
    let mut bytes = [0; TX_SLOT];
    bytes[..4].copy_from_slice(&page.to_le_bytes());
    bytes[4..6].copy_from_slice(&offset.to_le_bytes());
    bytes[6..8].copy_from_slice(&flags.to_le_bytes());
    bytes[8..10].copy_from_slice(&7_u16.to_le_bytes());
    bytes[10..].copy_from_slice(&size.to_le_bytes());
    bytes
}

/// That a packet is to be cut into segments of `size` bytes: `kind` 1 is TCP over IPv4, 2 over IPv6.
fn gso(size: u16, kind: u8) -> [u8; TX_SLOT] {
    let mut bytes = [0; TX_SLOT];
    bytes[0] = 1;
    bytes[2..4].copy_from_slice(&size.to_le_bytes());
    bytes[4] = kind;
    bytes
}

/// A page with the beginning of a TCP packet over IPv6, to nobody, behind hop-by-hop options of 2,048 bytes.
fn packet(mac: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from([2, 0, 0, 0, 0, 0x77]);
    bytes.extend(mac);
    bytes.extend([0x86, 0xdd]);
    bytes.extend([0x60, 0, 0, 0, 0x37, 0xca, 0, 64]);
    bytes.extend([0xfd; 32]);
    // TCP follows; (255 + 1) * 8 bytes, all padding.
    bytes.extend([6, 255]);
    bytes.extend([1, 252]);
    bytes.resize(14 + 40 + 2048, 0);
    for at in (14 + 40 + 4 + 252..14 + 40 + 2048 - 255).step_by(254) {
        bytes[at..at + 2].copy_from_slice(&[1, 252]);
    }
    bytes.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.resize(4096, 7);
    bytes
}
