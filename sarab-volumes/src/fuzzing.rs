//! What the fuzz target runs: a pool whose metadata somebody has changed, with right checksums. A panic is a bug, and so is a
//! call that does not end.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use futures_util::future::{Either, select};
use hashbrown::HashMap;
use xen_blkif::{BlockDevice, Buffer, Completed, Error, Geometry};

use crate::layout::{BLOCK, BLOCK_SECTORS, CHUNK_SECTORS, Layout, SECTOR, Seed, put, u32_at};
use crate::node::{FANOUT, HEADER, Kind, Ptr};
use crate::{Create, FormatOptions, OpenOptions, Pool, layout};

const SECTORS: u64 = 4 << 11;
const UUID: [u8; 16] = [5; 16];
/// Requests of one input.
const MAX_REQUESTS: u32 = 2_000_000;
/// Where a record of the table has its tree.
const RECORD_ROOT: usize = 32;

/// A disk in memory.
#[derive(Clone, Default)]
struct Memory {
    blocks: Rc<RefCell<HashMap<u64, [u8; BLOCK]>>>,
    requests: Rc<Cell<u32>>,
}

struct Bytes(RefCell<Vec<u8>>);

impl Buffer for Bytes {
    fn len(&self) -> usize {
        self.0.borrow().len()
    }

    fn page(&self, _: usize) -> &xen_ring::SharedMemory {
        unreachable!("its bytes are copied")
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.0.borrow()[offset..offset + to.len()]);
    }

    fn copy(&self, offset: usize, len: usize, to: &impl Buffer, to_offset: usize) {
        to.write(to_offset, &self.0.borrow()[offset..offset + len]);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        self.0.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
    }
}

impl Memory {
    fn block(&self, number: u64) -> [u8; BLOCK] {
        self.blocks.borrow().get(&number).copied().unwrap_or([0; BLOCK])
    }

    fn set_block(&self, number: u64, bytes: [u8; BLOCK]) {
        self.blocks.borrow_mut().insert(number, bytes);
    }

    fn count(&self) {
        self.requests.set(self.requests.get() + 1);
        assert!(self.requests.get() < MAX_REQUESTS, "it goes on and on");
    }
}

impl BlockDevice for Memory {
    type Buffer = Bytes;

    fn geometry(&self) -> Geometry {
        Geometry::plain(SECTORS).with_flush(true)
    }

    fn buffer(&self, len: usize) -> Result<Bytes, Error> {
        assert!(len <= 1 << 20, "{len} bytes at once");
        Ok(Bytes(RefCell::new(vec![0; len])))
    }

    async fn read(&self, sector: u64, buffer: Bytes) -> Completed<Bytes> {
        self.count();
        let outcome = self.geometry().check(sector, buffer.len());
        if outcome.is_ok() {
            for (number, part) in buffer.0.borrow_mut().chunks_mut(SECTOR).enumerate() {
                let sector = sector + number as u64;
                let at = (sector % BLOCK_SECTORS) as usize * SECTOR;
                part.copy_from_slice(&self.block(sector / BLOCK_SECTORS)[at..at + SECTOR]);
            }
        }
        (buffer, outcome)
    }

    async fn write(&self, sector: u64, buffer: Bytes) -> Completed<Bytes> {
        self.count();
        let outcome = self.geometry().check(sector, buffer.len());
        if outcome.is_ok() {
            for (number, part) in buffer.0.borrow().chunks(SECTOR).enumerate() {
                let sector = sector + number as u64;
                let at = (sector % BLOCK_SECTORS) as usize * SECTOR;
                let mut blocks = self.blocks.borrow_mut();
                blocks.entry(sector / BLOCK_SECTORS).or_insert([0; BLOCK])[at..at + SECTOR].copy_from_slice(part);
            }
        }
        (buffer, outcome)
    }

    async fn flush(&self) -> Result<(), Error> {
        self.count();
        Ok(())
    }

    async fn discard(&self, _: u64, _: u64, _: bool) -> Result<(), Error> {
        Err(Error::Unsupported("discard"))
    }

    async fn changed(&self, _: &Geometry) -> Geometry {
        core::future::pending().await
    }
}

/// Bytes that run out.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }
}

fn end_of<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..MAX_REQUESTS {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
    panic!("it does not come to an end")
}

/// Opens a pool, and does something with it, if it can be opened.
async fn with_pool(disk: &Memory, act: impl AsyncFnOnce(&Pool<Memory>)) {
    let Ok((pool, runner)) = Pool::open(vec![disk.clone()], &OpenOptions::default()).await else { return };
    let act = async move { act(&pool).await };
    if let Either::Right((_, runner)) = select(pin!(runner), pin!(act)).await {
        runner.await;
    }
}

/// A pool as it should be.
async fn make(disk: &Memory) {
    let disks = [disk.clone()];
    Pool::format(&disks, UUID, &FormatOptions::default()).await.expect("the disk does not fail");
    with_pool(disk, async |pool| {
        let chunks = |count: u64| count * CHUNK_SECTORS;
        pool.create("thin", &Create::thin(chunks(600))).await.expect("there is room");
        pool.create("checked", &Create::thin(chunks(70)).with_integrity(true)).await.expect("there is room");
        pool.create("thick", &Create::thick(chunks(3))).await.expect("there is room");
        for name in ["thin", "checked", "thick"] {
            let volume = pool.volume(name).expect("it was created");
            for chunk in [0, 2] {
                volume.write_bytes(chunks(chunk), &[7; BLOCK]).await.expect("there is room");
            }
        }
        pool.snapshot("thin", "snapshot", true).await.expect("there is room");
        let thin = pool.volume("thin").expect("it was created");
        thin.write_bytes(chunks(599), &[8; BLOCK]).await.expect("there is room");
        pool.flush().await.expect("the disk does not fail");
    })
    .await;
}

/// Makes the checksums right again, of a block and all below it.
fn seal(disk: &Memory, layout: &Layout, address: u32, seen: &mut BTreeSet<u32>) -> u32 {
    if address >= layout.metadata {
        return 0;
    }
    let places = layout.block(address);
    let mut block = disk.block(places[0].sector / BLOCK_SECTORS);
    if seen.insert(address) {
        let entries: Vec<_> = match (block[4], block[5]) {
            (kind, 0) if kind == Kind::Table as u8 => {
                (0..Kind::Table.leaf() as usize).map(|slot| HEADER + slot * Kind::Table.entry() + RECORD_ROOT).collect()
            }
            (_, 0) => Vec::new(),
            _ => (0..FANOUT).map(|slot| HEADER + slot * 8).collect(),
        };
        for at in entries {
            let child = u32_at(&block, at);
            if child != 0 {
                let check = seal(disk, layout, child, seen);
                put(&mut block, at + 4, &check.to_le_bytes());
            }
        }
        for place in places {
            disk.set_block(place.sector / BLOCK_SECTORS, block);
        }
    }
    Seed::new(&UUID).block(address, &block)
}

/// Changes bytes of the metadata, and makes all checksums right.
fn change(disk: &Memory, input: &mut Input<'_>) {
    let layout = Layout::new(&[(SECTORS / CHUNK_SECTORS) as u32], 256).expect("it was formatted so");
    let blocks: Vec<_> = (1..layout.metadata)
        .map(|address| layout.block(address).map(|place| place.sector / BLOCK_SECTORS))
        .filter(|[first, _]| disk.block(*first) != [0; BLOCK])
        .collect();
    let superblocks = [0, 1].map(|slot| layout.superblock(slot).map(|place| place.sector / BLOCK_SECTORS));
    for _ in 0..input.byte() % 32 {
        let (which, at, value) = (input.byte(), usize::from(input.word()) % BLOCK, input.byte());
        let copies = match blocks.get(usize::from(which)) {
            Some(copies) => copies,
            None => &superblocks[usize::from(which) % 2],
        };
        for copy in copies {
            let mut block = disk.block(*copy);
            block[at] = value;
            disk.set_block(*copy, block);
        }
    }
    let mut seen = BTreeSet::new();
    for copies in superblocks {
        let mut block = disk.block(copies[0]);
        for at in [layout::SUPERBLOCK_REFS, layout::SUPERBLOCK_TABLE] {
            let ptr = Ptr::decode(&block, at);
            let check = seal(disk, &layout, ptr.address, &mut seen);
            put(&mut block, at + 4, &check.to_le_bytes());
        }
        let mut record = [0; layout::RECORD];
        record.copy_from_slice(&block[..layout::RECORD]);
        layout::seal(&mut record);
        put(&mut block, 0, &record);
        copies.into_iter().for_each(|copy| disk.set_block(copy, block));
    }
}

/// What guests and administrators do.
async fn use_it(pool: &Pool<Memory>, input: &mut Input<'_>) {
    let names: Vec<_> = pool.volumes().into_iter().map(|info| info.name).take(6).collect();
    let _ = format!("{:?} {:?}", pool.volumes(), pool.usage());
    for number in 0..24 {
        let (what, whose) = (input.byte(), input.byte());
        let Some(name) = names.get(usize::from(whose) % names.len().max(1)) else { return };
        let Ok(volume) = pool.volume(name) else { continue };
        let sectors = volume.geometry().sectors;
        let sector = (u64::from(input.word()) * CHUNK_SECTORS / 4 % sectors.max(1)).min(sectors.saturating_sub(16));
        let mut bytes = vec![9; 16 * SECTOR];
        match what % 10 {
            0 | 1 => _ = volume.read_bytes(sector, &mut bytes).await,
            2 | 3 => _ = volume.write_bytes(sector, &bytes).await,
            4 => _ = volume.discard(sector, (sectors - sector).min(1 << 20), false).await,
            5 => _ = volume.flush().await,
            6 => _ = pool.snapshot(name, &format!("f{number}"), true).await,
            7 => _ = pool.grow(name, sectors + 8 * u64::from(what) * CHUNK_SECTORS).await,
            8 => {
                drop(volume);
                let _ = pool.delete(name).await;
            }
            _ => _ = pool.check().await,
        }
    }
    let _ = pool.scrub(|_| {}).await;
    let _ = pool.flush().await;
}

/// Changes a pool's metadata, and uses what has become of it, twice.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let disk = Memory::default();
    end_of(make(&disk));
    change(&disk, &mut input);
    for _ in 0..2 {
        end_of(with_pool(&disk, async |pool| use_it(pool, &mut input).await));
    }
}
