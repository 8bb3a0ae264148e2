//! A peer that writes anything into its rings' pages.

use std::time::Duration;

use xen_hal::{GrantRef, Port};
use xen_ring::SharedMemory;
use xen_sim::{SimPort, Xen};

use crate::input::Input;
use crate::peer::pause;

/// Where a ring's producers and event indices are, and its slots.
pub(crate) const INDICES: [usize; 4] = [0, 4, 8, 12];
const FIRST_SLOT: usize = 64;

/// What a ring's slots are like.
#[derive(Clone, Copy)]
pub(crate) struct Slots {
    pub(crate) size: usize,
    pub(crate) count: u8,
    /// What the bytes of most words are below.
    pub(crate) below: [u16; 4],
}

/// Most fields of a request to a disk are small.
pub(crate) const BLOCK_SLOTS: Slots = Slots { size: 112, count: 32, below: [8, 12, 2, 1] };
/// Offsets and lengths reach a little beyond a page.
pub(crate) const TX_SLOTS: Slots = Slots { size: 12, count: 64, below: [256, 17, 16, 4] };
pub(crate) const RX_SLOTS: Slots = Slots { size: 8, count: 64, below: [256, 17, 16, 17] };

/// Does to the rings what the input says, and rings the bell.
pub(crate) fn disturb(
    xen: &Xen,
    input: &mut Input<'_>,
    rings: &[&SharedMemory],
    slots: Slots,
    port: &SimPort,
    references: &[GrantRef],
) {
    let mut produced = vec![[0_u32; 4]; rings.len()];
    while !input.0.is_empty() {
        let choice = input.byte();
        let which = usize::from(choice >> 4) % 4;
        let number = usize::from(choice >> 6 & 1) % rings.len();
        let ring = rings[number];
        match choice % 4 {
            // An index moves a little, or anywhere.
            0 => {
                let step = if choice & 4 == 0 { u32::from(input.byte() % 40) } else { input.word() };
                let index = &mut produced[number][which];
                *index = index.wrapping_add(step);
                ring.store(INDICES[which], *index);
            }
            // One more, which is what an honest peer does.
            1 => {
                let now = ring.load(INDICES[which & 2]);
                ring.store(INDICES[which & 2], now.wrapping_add(1));
            }
            // Bytes of a slot; often a grant reference that there is.
            _ => {
                let slot = usize::from(input.byte() % slots.count);
                let at = usize::from(input.byte()) % (slots.size / 4) * 4;
                let word = match choice & 8 {
                    0 => slots.below.map(|below| (u16::from(input.byte()) % below) as u8),
                    _ => references[usize::from(input.byte()) % references.len()].0.to_le_bytes(),
                };
                ring.write(FIRST_SLOT + slot * slots.size + at, &word);
            }
        }
        if choice & 0x80 != 0 {
            port.notify();
            pause(xen, Duration::from_micros(30));
        }
    }
    port.notify();
    pause(xen, Duration::from_millis(2));
}
