//! Disks under load, whose content is looked at all the time, whatever happens to domain and backend.

use alloc::string::String;
use alloc::vec;

use core::cell::Cell;
use core::pin::pin;

use futures_util::future::{Either, join, select, try_join_all};
use sarab::block::{self, BlockDevice, front};
use sarab::xenbus::{End, serve};
use sarab::{App, Disk, println};

use crate::text;

/// Bytes of a request, and how many of them are on their way at once.
const BLOCK: usize = 64 << 10;
const AT_ONCE: u64 = 8;
const SECTOR: usize = 512;

/// What a sector is after a turn: both numbers, all over it.
fn fill(bytes: &mut [u8], first: u64, turn: u32) {
    for (sector, bytes) in (first..).zip(bytes.chunks_mut(SECTOR)) {
        for part in bytes.chunks_mut(8) {
            part[..4].copy_from_slice(&turn.to_le_bytes());
            part[4..].copy_from_slice(&(sector as u32).to_le_bytes());
        }
    }
}

/// Whether each sector is as after one of the turns.
fn check(bytes: &[u8], first: u64, turns: core::ops::RangeInclusive<u32>) -> Result<(), String> {
    for (sector, bytes) in (first..).zip(bytes.chunks(SECTOR)) {
        let mut expected = [0; SECTOR];
        let turn = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        fill(&mut expected, sector, turn);
        if !turns.contains(&turn) || bytes != expected {
            return Err(alloc::format!("sector {sector} begins with {:x?}, expected turns {turns:?}", &bytes[..16]));
        }
    }
    Ok(())
}

/// What was written so far, by all disks that were there.
#[derive(Default)]
struct Load {
    flushed: Cell<u32>,
    wrong: Cell<u32>,
}

/// Writes all of each disk that comes, again and again, and reads it back. The disk that comes after one that has gone has to
/// hold what was flushed. Ends at `quit` on the console.
pub async fn run(app: App, checks: &mut crate::checks::Checks) -> Result<(), String> {
    let store = app.store().map_err(text)?;
    let load = Load::default();
    let serving = serve(&store, app.clock(), End::Frontend, "vbd", |found| {
        let (disk, runner) = front::connect(&store, app.xen(), &found.path, front::Options::default());
        let load = &load;
        async move {
            let using = async move {
                let error = load.use_disk(&disk).await;
                println!("load: {} turns were flushed: {error}", load.flushed.get());
            };
            match join(runner, using).await.0 {
                Ok(ended) => println!("load: {ended:?}"),
                Err(error) => println!("load: {error}"),
            }
        }
    });
    let quit = async {
        println!("load: ready");
        while app.console().read_line(64).await != "quit" {}
    };
    if let Either::Left((Err(error), _)) = select(pin!(serving), pin!(quit)).await {
        return Err(text(error));
    }
    checks.equal(load.wrong.get(), 0, "what was read is what was written");
    checks.check(load.flushed.get() > 0, "something was written");
    Ok(())
}

impl Load {
    /// Ends with the disk.
    async fn use_disk(&self, disk: &Disk) -> block::Error {
        let Err(error) = self.use_whole(disk).await;
        error
    }

    async fn use_whole(&self, disk: &Disk) -> Result<core::convert::Infallible, block::Error> {
        let flushed = self.flushed.get();
        if flushed > 0 {
            // The turn that was under way is there in part.
            self.read(disk, flushed..=flushed + 1).await?;
            println!("load: turn {flushed} is there");
        }
        loop {
            let turn = self.flushed.get() + 1;
            each(disk, async |sector, len| {
                let mut bytes = vec![0; len];
                fill(&mut bytes, sector, turn);
                disk.write_bytes(sector, &bytes).await
            })
            .await?;
            disk.flush().await?;
            self.flushed.set(turn);
            self.read(disk, turn..=turn).await?;
            println!("load: turn {turn}");
        }
    }

    async fn read(&self, disk: &Disk, turns: core::ops::RangeInclusive<u32>) -> Result<(), block::Error> {
        each(disk, async |sector, len| {
            let mut bytes = vec![0; len];
            disk.read_bytes(sector, &mut bytes).await?;
            if let Err(error) = check(&bytes, sector, turns.clone()) {
                self.wrong.set(self.wrong.get() + 1);
                println!("FAIL: {error}");
            }
            Ok(())
        })
        .await
    }
}

/// Does something with each block of a disk, several at once.
async fn each(disk: &Disk, act: impl AsyncFn(u64, usize) -> Result<(), block::Error>) -> Result<(), block::Error> {
    // The size of a disk that connects anew is known only then.
    disk.read_bytes(0, &mut [0; SECTOR]).await?;
    let sectors = disk.geometry().sectors;
    let step = (BLOCK / SECTOR) as u64;
    for first in (0..sectors).step_by((step * AT_ONCE) as usize) {
        let blocks = (first..sectors.min(first + step * AT_ONCE)).step_by(step as usize);
        try_join_all(blocks.map(|sector| act(sector, (sectors - sector).min(step) as usize * SECTOR))).await?;
    }
    Ok(())
}
