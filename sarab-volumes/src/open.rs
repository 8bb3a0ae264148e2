//! How a pool is made, and opened.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use xen_blkif::BlockDevice;
use xen_hal::warning;

use crate::content::{Content, identify};
use crate::disks::{Disks, flush, read_record, write, write_record};
use crate::layout::{
    BLOCK, CHUNK_BLOCKS, CHUNK_SECTORS, CHUNK_SIZE, Label, Layout, MAX_CHUNKS, MAX_DISKS, MAX_VOLUMES, MIN_METADATA,
    Place, Seed, Superblock, labels, superblock,
};
use crate::node::{Kind, Ptr, Root};
use crate::record::Record;
use crate::state::{Entry, Shared, State, Units, blocks_of};
use crate::{Error, FormatOptions, MIN_CACHE, OpenOptions};

/// Blocks of metadata that a pool has beyond those for its counts: a fourth, since a commit writes all to new places, and so
/// does the next one.
const MIN_SPARE: u64 = 18;

/// Whole chunks of each disk, if all of them can be of a pool.
fn sizes<D: BlockDevice>(disks: &[D]) -> Result<Vec<u32>, Error> {
    if disks.is_empty() || disks.len() > MAX_DISKS {
        return Err(Error::Invalid("a pool is on 1 to 16 disks"));
    }
    let size = |(disk, device): (usize, &D)| {
        let geometry = device.geometry();
        if geometry.read_only {
            return Err(Error::UnsuitableDisk { disk, reason: "it is read-only" });
        }
        if geometry.sector_size as usize > BLOCK {
            return Err(Error::UnsuitableDisk { disk, reason: "its sectors are larger than 4 KiB" });
        }
        let chunks = geometry.sectors / CHUNK_SECTORS;
        if chunks < 3 {
            return Err(Error::UnsuitableDisk { disk, reason: "it is too small" });
        }
        Ok(chunks.min(MAX_CHUNKS) as u32)
    };
    disks.iter().enumerate().map(size).collect()
}

pub(crate) async fn format<D: BlockDevice>(disks: &[D], uuid: [u8; 16], options: &FormatOptions) -> Result<(), Error> {
    let sizes = sizes(disks)?;
    for (disk, device) in disks.iter().enumerate() {
        let content = identify(device).await.map_err(|error| Error::Disk { disk, error })?;
        if content != Content::Nothing && !options.force {
            return Err(Error::NotEmpty { disk, content });
        }
    }
    let all: u64 = sizes.iter().map(|size| u64::from(*size)).sum();
    let wanted = options.metadata_bytes.unwrap_or((all * CHUNK_SIZE as u64 / 128).max(MIN_METADATA * BLOCK as u64));
    let blocks = wanted.div_ceil(CHUNK_SIZE as u64).saturating_mul(CHUNK_BLOCKS as u64);
    let layout = Layout::new(&sizes, u32::try_from(blocks).unwrap_or(u32::MAX))?;
    let units = Units::new(layout.metadata, layout.chunks);
    if u64::from(layout.metadata) < 4 * (Kind::Refs.nodes(units.end.into()) + MIN_SPARE) {
        return Err(Error::Invalid("that is too little metadata for disks of this size"));
    }
    // What was there is not to be found any more, neither by this crate nor by others: a pool first of all has no label.
    let zeroes = vec![0; CHUNK_SIZE];
    for (disk, size) in sizes.iter().enumerate() {
        for sector in labels(*size) {
            write(disks, Place { disk, sector }, &zeroes[..BLOCK]).await?;
        }
    }
    flush(disks).await?;
    for (disk, size) in sizes.iter().enumerate() {
        for chunk in [0, 1, size - 1] {
            write(disks, Place { disk, sector: u64::from(chunk) * CHUNK_SECTORS }, &zeroes).await?;
        }
    }
    flush(disks).await?;
    let first = Superblock {
        uuid,
        generation: 1,
        clock: 0,
        next_id: 1,
        refs: Root { ptr: Ptr::NONE, levels: Kind::Refs.levels(units.end.into()) },
        table: Root { ptr: Ptr::NONE, levels: Kind::Table.levels(MAX_VOLUMES as u64) },
        free_blocks: layout.metadata - 1,
        free_chunks: layout.chunks,
        metadata: layout.metadata,
        sizes: sizes.clone(),
    };
    for place in layout.superblock(0) {
        write_record(disks, place, &first.encode()).await?;
    }
    flush(disks).await?;
    for (index, size) in sizes.iter().enumerate() {
        let label = Label { uuid, index, disks: disks.len(), size: *size };
        for sector in labels(*size) {
            write_record(disks, Place { disk: index, sector }, &label.encode()).await?;
        }
    }
    flush(disks).await
}

/// Reads a disk's label. Its second value says that one of the copies has to be written anew.
async fn read_label<D: BlockDevice>(disks: &[D], disk: usize, size: u32) -> Result<(Label, bool), Error> {
    let read = async |sector| match read_record(disks, Place { disk, sector }).await {
        Ok(record) => Label::decode(&record).map(Ok),
        Err(error) => Ok(Err(error)),
    };
    let first = read(labels(size)[0]).await?;
    let known_size = match &first {
        Ok(Some(label)) if label.size <= size => label.size,
        Ok(Some(_)) => {
            return Err(Error::UnsuitableDisk { disk, reason: "it is smaller than when it was formatted" });
        }
        _ => size,
    };
    let second = read(labels(known_size)[1]).await?;
    match (first, second) {
        (Ok(Some(first)), second) => Ok((first, second != Ok(Some(first)))),
        (_, Ok(Some(second))) if second.size == known_size => Ok((second, true)),
        (Err(error), _) => Err(error),
        _ => {
            let content = identify(&disks[disk]).await.map_err(|error| Error::Disk { disk, error })?;
            Err(Error::NoPool { disk, content })
        }
    }
}

/// Reads the superblock of the last commit, and its place of both. What is missing of it is written.
async fn read_superblock<D: BlockDevice>(
    disks: &[D],
    sizes: &[u32],
    uuid: &[u8; 16],
) -> Result<(Superblock, usize, u64), Error> {
    let mut best: Option<(Superblock, usize)> = None;
    let mut copies: [[Option<Superblock>; 2]; 2] = Default::default();
    let mut is_blank = [true; 2];
    let mut failure = Error::Damaged { what: "both copies of a superblock" };
    for (slot, copies) in copies.iter_mut().enumerate() {
        for (place, copy) in superblock(slot, sizes).into_iter().zip(copies) {
            let found = match read_record(disks, place).await {
                Ok(record) => {
                    is_blank[slot] &= record.iter().all(|byte| *byte == 0);
                    Superblock::decode(&record)?
                }
                Err(error) => {
                    (failure, is_blank[slot]) = (error, false);
                    None
                }
            };
            *copy = found.filter(|found| found.uuid == *uuid && found.sizes == sizes);
            if let Some(found) = copy
                && best.as_ref().is_none_or(|(best, _)| best.generation < found.generation)
            {
                best = Some((found.clone(), slot));
            }
        }
    }
    let Some((best, slot)) = best else { return Err(failure) };
    // Without the other one, nobody knows whether that was the newer. A pool without any commit has only one.
    if copies[1 - slot].iter().all(Option::is_none) && !(best.generation == 1 && is_blank[1 - slot]) {
        return Err(failure);
    }
    let mut repaired = 0;
    for (at, copies) in copies.iter().enumerate() {
        let newest = copies.iter().flatten().max_by_key(|copy| copy.generation);
        let Some(newest) = newest else { continue };
        for (number, place) in superblock(at, sizes).into_iter().enumerate() {
            if copies[number].as_ref() == Some(newest) {
                continue;
            }
            // An older one is what a power cut leaves, or nothing where there was no older one. Otherwise it is damage.
            if copies[number].is_none() && newest.generation > 2 {
                repaired += 1;
                warning!("volumes: copy {} of superblock {} was damaged: repaired from the other", number, at);
            }
            write_record(disks, place, &newest.encode()).await?;
        }
    }
    flush(disks).await?;
    Ok((best, slot, repaired))
}

pub(crate) async fn open<D: BlockDevice>(disks: Vec<D>, options: &OpenOptions) -> Result<Rc<Shared<D>>, Error> {
    let mut sizes = sizes(&disks)?;
    let mut found: Vec<(Label, bool)> = Vec::new();
    for (disk, size) in sizes.iter_mut().enumerate() {
        let (label, is_damaged) = read_label(&disks, disk, *size).await?;
        if found.first().is_some_and(|(first, _)| first.uuid != label.uuid) {
            return Err(Error::Foreign { disk });
        }
        if label.index != disk {
            return Err(Error::Swapped { disk, label: label.index });
        }
        if label.disks != disks.len() {
            return Err(Error::DiskCount { given: disks.len(), expected: label.disks });
        }
        *size = label.size;
        found.push((label, is_damaged));
    }
    let uuid = found[0].0.uuid;
    let (superblock, slot, mut repaired) = read_superblock(&disks, &sizes, &uuid).await?;
    for (disk, (label, _)) in found.iter().enumerate().filter(|(_, (_, is_damaged))| *is_damaged) {
        for sector in labels(label.size) {
            write_record(&disks, Place { disk, sector }, &label.encode()).await?;
        }
        repaired += 1;
        warning!("volumes: a copy of the label of disk {} was damaged: repaired from the other", disk);
    }
    flush(&disks).await?;
    let layout =
        Layout::new(&sizes, superblock.metadata).map_err(|_| Error::Damaged { what: "the superblock's sizes" })?;
    let units = Units::new(layout.metadata, layout.chunks);
    if superblock.refs.levels != Kind::Refs.levels(units.end.into())
        || superblock.table.levels != Kind::Table.levels(MAX_VOLUMES as u64)
        || superblock.free_blocks >= layout.metadata
        || superblock.free_chunks > layout.chunks
        || superblock.generation >= u64::MAX / 2
        || superblock.next_id >= u64::MAX / 2
        || superblock.next_id == 0
    {
        return Err(Error::Damaged { what: "the superblock's counters" });
    }
    let cache = blocks_of(options.cache_bytes.max(MIN_CACHE));
    let state = State::new(&superblock, slot, units, cache);
    let disks = Disks { list: disks, layout, seed: Seed::new(&uuid) };
    let shared = Shared::new(disks, state, units, cache.get());
    shared.state.borrow_mut().repaired = repaired;
    read_table(&shared).await?;
    Ok(shared)
}

/// Reads all volumes.
async fn read_table<D: BlockDevice>(shared: &Shared<D>) -> Result<(), Error> {
    let root = shared.state.borrow().table;
    let damaged = Err(Error::Damaged { what: "two volumes are the same" });
    for first in (0..MAX_VOLUMES as u64).step_by(Kind::Table.leaf() as usize) {
        let Some(leaf) = shared.leaf(Kind::Table, root, first).await? else { continue };
        for index in first..(first + Kind::Table.leaf()).min(MAX_VOLUMES as u64) {
            let Some(record) = Record::decode(leaf.entry(Kind::Table, Kind::Table.slot(0, index)))? else { continue };
            let mut state = shared.state.borrow_mut();
            let is_other = |entry: &Rc<Entry>| entry.record.borrow().id != record.id;
            if record.id >= state.next_id
                || !state.volumes.values().all(is_other)
                || (!record.deleting && state.by_name(&record.name).is_some())
            {
                return damaged;
            }
            let slot = index as u32;
            state.volumes.insert(slot, Entry::new(slot, record));
        }
    }
    Ok(())
}
