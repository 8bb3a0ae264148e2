//! What a disk's frontend may not do, or not as much (xen/include/public/io/blkif.h).

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use sarab::hal::{Access, GrantRef, Port};

use super::device::{CONNECTED, Device, INITIALISED, Ring, noise, passes, port, repeat};

/// Slots of a ring of one page, and their size.
const SLOTS: u32 = 32;
const SLOT: usize = 112;
/// More than a backend keeps mapped for a queue (1056).
const PAGES: usize = 1200;

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// As many large reads as there is room for, always.
    Full,
    /// Flushes with data, barriers and discards of the whole disk.
    Storm,
    /// Pages that nobody lends.
    Unmappable,
    /// Ever other pages, each once.
    Churn,
    /// Any bytes.
    Noise,
    /// Indirect requests of too many segments, with pages that hold noise.
    Indirect,
    /// The producer forth and back.
    Index,
    /// Events alone.
    Events,
    /// States alone, with rings that are good.
    States,
}

const MODES: [Mode; 9] = [
    Mode::Full,
    Mode::Storm,
    Mode::Unmappable,
    Mode::Churn,
    Mode::Noise,
    Mode::Indirect,
    Mode::Events,
    Mode::States,
    Mode::Index,
];

/// Misbehaves in one way after the other; what was done.
pub async fn attack(device: Device, deadline: Duration) -> Result<String, String> {
    const SLICE: Duration = Duration::from_millis(700);
    let pages = device.pages(PAGES, Access::ReadWrite)?;
    let references: Vec<GrantRef> = pages.references().collect();
    // A backend that closes the device has done right: the next connection goes on with the next mode.
    let mut modes = passes(MODES, |mode| matches!(mode, Mode::States | Mode::Index));
    while device.now() < deadline {
        let (mut ring, bell) = (Ring::new(&device, SLOTS, SLOT)?, port(&device)?);
        let keys = [
            ("ring-ref", format!("{}", ring.reference().0)),
            ("event-channel", format!("{}", bell.number().0)),
            ("protocol", "x86_64-abi".into()),
            ("feature-persistent", "1".into()),
        ];
        if !device.connect(&keys, INITIALISED).await? {
            continue;
        }
        let mut next = 0_usize;
        while device.now() < deadline && device.backend_state().await == CONNECTED {
            let mode = modes.next().expect("passes go on for ever");
            let until = (device.now() + SLICE).min(deadline);
            match mode {
                Mode::States => device.cycle(until).await?,
                _ => repeat(&device, until, || step(mode, &device, &mut ring, &bell, &references, &mut next)).await,
            }
        }
    }
    Ok(device.summary())
}

fn step(
    mode: Mode,
    device: &Device,
    ring: &mut Ring<'_>,
    bell: &sarab::platform::XenPort,
    pages: &[GrantRef],
    next: &mut usize,
) {
    let mut page = |step: usize| {
        *next = (*next + step) % pages.len();
        pages[*next].0
    };
    match mode {
        Mode::Full => {
            for _ in 0..ring.room() {
                ring.put(&direct(0, 11, 0, core::array::from_fn(|_| page(0))));
            }
            ring.publish(bell);
        }
        Mode::Storm => {
            for turn in 0..ring.room() {
                let slot = match turn % 4 {
                    0 => direct(3, 0, 0, [0; 11]),
                    1 => direct(3, 11, 0, core::array::from_fn(|_| page(0))),
                    2 => direct(2, 1, 8, core::array::from_fn(|_| page(0))),
                    _ => discard(u64::MAX >> (device.random() % 64)),
                };
                ring.put(&slot);
            }
            ring.publish(bell);
        }
        Mode::Unmappable => {
            for _ in 0..ring.room() {
                ring.put(&direct(0, 11, 0, core::array::from_fn(|_| device.random() as u32)));
            }
            ring.publish(bell);
        }
        Mode::Churn => {
            for _ in 0..ring.room() {
                ring.put(&direct(0, 11, 0, core::array::from_fn(|_| page(97))));
            }
            ring.publish(bell);
        }
        Mode::Noise => {
            ring.put(&noise(device, SLOT));
            ring.publish(bell);
        }
        Mode::Indirect => {
            for _ in 0..ring.room() {
                let mut slot = vec![0; SLOT];
                slot[0] = 6;
                slot[1] = (device.random() % 7) as u8;
                slot[2..4].copy_from_slice(&(device.random() as u16).to_le_bytes());
                for index in 0..8 {
                    let reference = if device.random().is_multiple_of(2) { page(1) } else { device.random() as u32 };
                    slot[28 + index * 4..32 + index * 4].copy_from_slice(&reference.to_le_bytes());
                }
                ring.put(&slot);
            }
            ring.publish(bell);
        }
        Mode::Index => {
            for _ in 0..ring.room().min(20) {
                ring.put(&direct(0, 1, 0, core::array::from_fn(|_| page(0))));
            }
            ring.publish(bell);
            ring.publish_at(-10, bell);
            ring.publish_at(0, bell);
        }
        Mode::Events => ring.notify(bell),
        Mode::States => {}
    }
}

/// A request of `count` segments, each a whole page.
fn direct(operation: u8, count: u8, sector: u64, pages: [u32; 11]) -> Vec<u8> {
    let mut slot = vec![0; SLOT];
    slot[0] = operation;
    slot[1] = count;
    slot[8..16].copy_from_slice(&7_u64.to_le_bytes());
    slot[16..24].copy_from_slice(&sector.to_le_bytes());
    for (index, page) in pages.into_iter().enumerate() {
        let at = 24 + index * 8;
        slot[at..at + 4].copy_from_slice(&page.to_le_bytes());
        slot[at + 5] = 7;
    }
    slot
}

fn discard(sectors: u64) -> Vec<u8> {
    let mut slot = vec![0; SLOT];
    slot[0] = 5;
    slot[24..32].copy_from_slice(&sectors.to_le_bytes());
    slot
}
