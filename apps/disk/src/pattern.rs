//! A pattern of which every word depends on seed, sector and place: a sector that was swapped with another, torn in the
//! middle or left from an earlier run does not pass for the one that belongs there.

use alloc::vec;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use sarab::block::{BlockDevice, Buffer};
use sarab::{Disk, bail, println};

use crate::{AT_ONCE, steps};

const SECTOR: usize = 512;

/// A sector's eight bytes at `word`; the mixing is SplitMix64's.
fn word(seed: u64, sector: u64, word: usize) -> [u8; 8] {
    let mut mixed = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(sector)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        .wrapping_add(word as u64 + 1);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)).to_le_bytes()
}

fn expected(seed: u64, sector: u64, bytes: &mut [u8]) {
    for (index, sector_bytes) in bytes.chunks_exact_mut(SECTOR).enumerate() {
        for (at, to) in sector_bytes.chunks_exact_mut(8).enumerate() {
            to.copy_from_slice(&word(seed, sector + index as u64, at));
        }
    }
}

/// Writes the pattern over the whole disk and brings it to the medium.
pub async fn fill(disk: &Disk, seed: u64) -> sarab::Result {
    let writes = stream::iter(steps(disk)).map(|(sector, len)| async move {
        let mut bytes = vec![0; len];
        expected(seed, sector, &mut bytes);
        disk.write_bytes(sector, &bytes).await
    });
    writes.buffer_unordered(AT_ONCE).try_for_each(|()| async { Ok(()) }).await?;
    let geometry = disk.geometry();
    if geometry.flush {
        disk.flush().await?;
    }
    println!("fill: {} sectors with seed {seed}", geometry.sectors);
    Ok(())
}

/// Compares the whole disk with the pattern.
pub async fn verify(disk: &Disk, seed: u64) -> sarab::Result {
    let mut reads = stream::iter(steps(disk))
        .map(|(sector, len)| async move {
            let (buffer, outcome) = disk.read(sector, disk.buffer(len)?).await;
            outcome.map(|()| (sector, buffer))
        })
        .buffered(AT_ONCE);
    let (mut found, mut wanted) = ([0; 4096], [0; 4096]);
    while let Some(read) = reads.next().await {
        let (sector, buffer) = read?;
        for offset in (0..buffer.len()).step_by(4096) {
            let len = (buffer.len() - offset).min(4096);
            let sector = sector + (offset / SECTOR) as u64;
            buffer.read(offset, &mut found[..len]);
            expected(seed, sector, &mut wanted[..len]);
            if let Some(at) = found[..len].iter().zip(&wanted[..len]).position(|(found, wanted)| found != wanted) {
                let sector = sector + (at / SECTOR) as u64;
                let (at, found, wanted) = (at % SECTOR, found[at], wanted[at]);
                bail!("verify: byte {at} of sector {sector} is {found:#04x}, expected {wanted:#04x}");
            }
        }
    }
    println!("verify: {} sectors with seed {seed}", disk.geometry().sectors);
    Ok(())
}
