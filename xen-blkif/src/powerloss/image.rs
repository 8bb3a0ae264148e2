//! What a disk holds, of which most is zero.

use alloc::rc::Rc;

use hashbrown::HashMap;

use crate::protocol::SECTOR_SIZE;

/// Sectors that are kept together.
const SECTORS: u64 = 8;
const BLOCK: usize = SECTORS as usize * SECTOR_SIZE;

/// Bytes by sectors. A clone shares them until one of both is changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Image(HashMap<u64, Rc<[u8; BLOCK]>>);

impl Image {
    pub(super) fn read(&self, sector: u64, to: &mut [u8]) {
        each(sector, to.len(), |block, at, range| match self.0.get(&block) {
            Some(bytes) => to[range.clone()].copy_from_slice(&bytes[at..at + range.len()]),
            None => to[range].fill(0),
        });
    }

    pub(super) fn write(&mut self, sector: u64, from: &[u8]) {
        each(sector, from.len(), |block, at, range| {
            let bytes = self.0.entry(block).or_insert_with(|| Rc::new([0; BLOCK]));
            Rc::make_mut(bytes)[at..at + range.len()].copy_from_slice(&from[range]);
        });
    }

    pub(super) fn zero(&mut self, sector: u64, count: u64) {
        let end = sector + count;
        self.0.retain(|block, bytes| {
            let (first, last) = (sector.max(block * SECTORS), end.min((block + 1) * SECTORS));
            if first < last {
                let at = (first % SECTORS) as usize * SECTOR_SIZE;
                Rc::make_mut(bytes)[at..at + (last - first) as usize * SECTOR_SIZE].fill(0);
            }
            last.saturating_sub(first) < SECTORS
        });
    }
}

/// Calls `act` with each block that the bytes reach into, where in it, and which of the bytes.
fn each(sector: u64, len: usize, mut act: impl FnMut(u64, usize, core::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let here = sector + (done / SECTOR_SIZE) as u64;
        let at = (here % SECTORS) as usize * SECTOR_SIZE;
        let count = (BLOCK - at).min(len - done);
        act(here / SECTORS, at, done..done + count);
        done += count;
    }
}
