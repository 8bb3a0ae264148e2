//! Pools in the simulation, and sectors that say who has written them.
#![allow(dead_code, reason = "each test uses some of it")]

use sarab_volumes::{BlockDevice, FormatOptions, OpenOptions, Pool, Volume};
use xen_blkif::Error;
use xen_blkif::powerloss::{Disk, Power};
use xen_sim::{Budgets, Domain, Xen};

pub const SECTOR: usize = 512;
pub const CHUNK: u64 = 128;
pub type Drive = Disk<Domain>;

/// Sectors that all hold one number.
pub fn stamped(stamp: u32, sectors: u64) -> Vec<u8> {
    stamp.to_le_bytes().repeat(sectors as usize * SECTOR / 4)
}

/// The numbers of sectors, each of which has one.
pub fn stamps(bytes: &[u8]) -> Vec<u32> {
    let stamp = |sector: &[u8]| {
        let stamp: [u8; 4] = sector[..4].try_into().unwrap();
        assert!(sector.chunks(4).all(|part| part == stamp), "a torn sector: {sector:?}");
        u32::from_le_bytes(stamp)
    };
    bytes.chunks(SECTOR).map(stamp).collect()
}

/// A part of a volume, as numbers.
pub async fn read<D: BlockDevice>(device: &D, sector: u64, count: u64) -> Result<Vec<u32>, Error> {
    let mut bytes = vec![0; count as usize * SECTOR];
    device.read_bytes(sector, &mut bytes).await?;
    Ok(stamps(&bytes))
}

/// All of a volume, as numbers.
pub async fn read_all<D: BlockDevice>(device: &D) -> Vec<u32> {
    let (mut all, sectors) = (Vec::new(), device.geometry().sectors);
    for first in (0..sectors).step_by(2 * CHUNK as usize) {
        all.extend(read(device, first, (sectors - first).min(2 * CHUNK)).await.unwrap());
    }
    all
}

/// Opens a pool, with its runner as a task.
pub async fn open<D: BlockDevice + 'static>(domain: &Domain, disks: Vec<D>) -> Pool<D> {
    let (pool, runner) = Pool::open(disks, &OpenOptions::default().with_cache_bytes(0)).await.unwrap();
    domain.spawn(runner).detach();
    pool
}

/// An empty pool on so many new disks.
pub async fn new_pool(domain: &Domain, disks: usize, mebibytes: u64) -> (Power<Domain>, Pool<Drive>) {
    let power = Power::new(domain.clone());
    let drives: Vec<_> = (0..disks).map(|_| power.disk(mebibytes << 11)).collect();
    Pool::format(&drives, [7; 16], &FormatOptions::default()).await.unwrap();
    let pool = open(domain, drives).await;
    (power, pool)
}

/// Waits until the space of deleted volumes is free.
pub async fn until(domain: &Domain, is_so: impl Fn() -> bool) {
    use xen_hal::Clock;
    for _ in 0..10_000 {
        if is_so() {
            return;
        }
        domain.sleep(core::time::Duration::from_millis(1)).await;
    }
    panic!("it does not become so");
}

/// Writes numbers.
pub async fn write(volume: &Volume<Drive>, sector: u64, count: u64, stamp: u32) -> Result<(), Error> {
    volume.write_bytes(sector, &stamped(stamp, count)).await
}

/// Numbers below a limit, the same for each seed.
pub fn random(xen: &Xen) -> impl FnMut(u64) -> u64 + use<> {
    let mut state = xen.seed().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |limit| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 8) % limit
    }
}

/// A domain of a machine with room for disks that remember all that was ever written.
pub fn with_room(xen: &Xen) -> Domain {
    xen.set_budgets(Budgets { allocation: 512 << 20, steps: 200_000_000, ..Budgets::default() });
    xen.domain()
}
