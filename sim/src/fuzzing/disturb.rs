//! A peer that writes anything into its rings' pages.

use std::time::Duration;

use xen_hal::{Access, Clock, DomId, GrantRef, GrantTable, MapRequest, Port};
use xen_ring::{SharedMapping, SharedMemory};
use xenstore_client::{Error, Store};

use crate::{Domain, SimMapping, SimPort, Xen};

/// Where a ring's producers and event indices are, and its slots.
pub(super) const INDICES: [usize; 4] = [0, 4, 8, 12];
const FIRST_SLOT: usize = 64;

/// Bytes that run out.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl Input<'_> {
    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }
}

/// What a ring's slots are like.
#[derive(Clone, Copy)]
pub(super) struct Slots {
    pub(super) size: usize,
    pub(super) count: u8,
    /// What the bytes of most words are below.
    pub(super) below: [u16; 4],
}

/// Waits until `path` is in a state.
pub(super) async fn state(store: &Store, path: &str, wanted: u32) -> Result<(), Error> {
    let is = move |value: Option<&[u8]>| (value == Some(wanted.to_string().as_bytes())).then_some(());
    store.wait_for(&format!("{path}/state"), is).await
}

/// Maps a page that the frontend lends.
pub(super) fn map(domain: &Domain, peer: DomId, reference: GrantRef) -> SharedMapping<SimMapping> {
    let request = MapRequest { peer, reference, access: Access::ReadWrite };
    SharedMapping::new(domain.map(&[request]).expect("a mapping")).expect("the frontend lends it")
}

/// Does to the rings what the input says, and rings the bell.
pub(super) fn disturb(
    xen: &Xen,
    input: &mut Input<'_>,
    rings: &[&SharedMemory],
    slots: Slots,
    port: &SimPort,
    references: &[GrantRef],
) {
    let clock = xen.dom0();
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
            let clock = clock.clone();
            xen.run(async move { clock.sleep(Duration::from_micros(30)).await });
        }
    }
    port.notify();
    let clock = clock.clone();
    xen.run(async move { clock.sleep(Duration::from_millis(2)).await });
}
