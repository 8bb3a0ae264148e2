//! A disk from inside a guest: what it is like, what is on it, whether it keeps what it is given, and how fast it is.
//!
//! `mode=info` prints geometry and features; `mode=hash` the SHA-256 of the whole disk; `mode=fill seed=N` writes a
//! pattern over all of it, which `mode=verify seed=N` looks for; `mode=bench` measures, with `write=yes` writing too, with
//! `loads=randread:4K:32,write:1M:1` these alone, and with `again=yes` again and again until the guest is asked to shut down;
//! `mode=watch` reads without end, and prints the
//! disk's size whenever that changes. `disk=xvdb` takes another disk than the first that has a medium, and `disk=all` all of
//! them: they are in use together, and worked on one after the other. `ring=0` to `ring=4` says how many pages a disk's ring
//! has, as a power of two.

#![no_std]

extern crate alloc;

mod bench;
mod pattern;

use alloc::{format, vec};
use core::convert::Infallible;
use core::pin::pin;

use futures_util::future::{Either, select, try_join_all};
use futures_util::stream::{self, StreamExt};
use sarab::block::{self, BlockDevice, Buffer};
use sarab::hal::Clock;
use sarab::time::{Duration, with_timeout};
use sarab::{App, Context, Disk, DiskOptions, println};
use sha2::{Digest, Sha256};

/// Bytes of one read or write, and how many of them are on their way at once.
const STEP: usize = 256 << 10;
const AT_ONCE: usize = 4;
/// Between two times that `mode=watch` reads the disk.
const READ_PAUSE: core::time::Duration = core::time::Duration::from_millis(10);
/// How long after a failure the disk may be found to have changed.
const CHANGE: Duration = Duration::from_secs(5);

/// What the guest does.
#[cfg_attr(feature = "guest", sarab::main)]
pub async fn main(app: App) -> sarab::Result {
    let args = app.args();
    args.expect_only(&["mode", "disk", "seed", "write", "again", "ms", "loads", "ring"])?;
    let mode = args.choice("mode", &["info", "hash", "fill", "verify", "bench", "watch"])?.unwrap_or("info");
    let seed = args.get_or("seed", 0_u64)?;
    let usual = DiskOptions::default();
    let options = usual.with_max_ring_order(args.get_or("ring", usual.max_ring_order)?);
    let disks = match args.get::<&str>("disk")? {
        Some("all") => {
            let names = app.disk_names().await?;
            try_join_all(names.iter().map(|name| app.disk_with(name, options))).await?
        }
        Some(name) => vec![app.disk_with(name, options).await?],
        None => vec![app.first_disk_with(options).await?],
    };
    for disk in &disks {
        work(app, mode, disk, seed).await.with_context(|| format!("disk {}", disk.name()))?;
    }
    Ok(())
}

async fn work(app: App, mode: &str, disk: &Disk, seed: u64) -> sarab::Result {
    let args = app.args();
    match mode {
        "info" => {
            info(disk);
            Ok(())
        }
        "hash" => hash(disk).await,
        "fill" => pattern::fill(disk, seed).await,
        "verify" => pattern::verify(disk, seed).await,
        "watch" => match select(pin!(watch(app, disk)), pin!(app.shutdown())).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => Ok(()),
        },
        _ => {
            let (write, ms) = (args.get_or("write", false)?, args.get_or("ms", 500_u64)?);
            let loads = args.get::<&str>("loads")?;
            let again = args.get_or("again", false)?;
            if !again {
                return bench::run(app, disk, write, ms, loads).await;
            }
            let load = async {
                loop {
                    bench::run(app, disk, write, ms, loads).await?;
                }
            };
            match select(pin!(load), pin!(app.shutdown())).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right(_) => Ok(()),
            }
        }
    }
}

/// One line of JSON.
fn info(disk: &Disk) {
    let g = disk.geometry();
    let (granularity, secure) = g.discard.map_or((0, false), |discard| (discard.granularity, discard.secure));
    println!(
        "{{\"disk\":\"{}\",\"bytes\":{},\"sectors\":{},\"sector_size\":{},\"physical_sector_size\":{},\
         \"read_only\":{},\"removable\":{},\"cdrom\":{},\"flush\":{},\"discard\":{},\"discard_granularity\":{},\
         \"discard_secure\":{},\"ring_slots\":{}}}",
        disk.name(),
        g.bytes(),
        g.sectors,
        g.sector_size,
        g.physical_sector_size,
        g.read_only,
        g.removable,
        g.cdrom,
        g.flush,
        g.discard.is_some(),
        granularity,
        secure,
        disk.statistics().ring_slots
    );
}

/// The pieces of a disk, in order: sector and length.
fn steps(disk: &Disk) -> impl Iterator<Item = (u64, usize)> + use<> {
    let sectors = disk.geometry().sectors;
    let step = (STEP / 512) as u64;
    (0..sectors.div_ceil(step)).map(move |index| (index * step, (sectors - index * step).min(step) as usize * 512))
}

/// Prints how large the disk is, now and after each change, and reads all of it over and over meanwhile.
async fn watch(app: App, disk: &Disk) -> sarab::Result {
    loop {
        let known = disk.geometry();
        println!("disk {}: {} sectors", disk.name(), known.sectors);
        let reads = async {
            loop {
                for (sector, len) in steps(disk) {
                    disk.read(sector, disk.buffer(len)?).await.1?;
                }
                app.clock().sleep(READ_PAUSE).await;
            }
        };
        let failed: Result<Infallible, block::Error> = match select(pin!(reads), pin!(disk.changed(&known))).await {
            Either::Left((failed, _)) => failed,
            Either::Right(_) => continue,
        };
        // What is read beyond the end of a disk that has shrunk fails before this is told that it has.
        if let Err(error) = failed
            && with_timeout(CHANGE, disk.changed(&known)).await.is_err()
        {
            return Err(error.into());
        }
    }
}

async fn hash(disk: &Disk) -> sarab::Result {
    // Reads overlap; what they bring is taken in order.
    let mut reads = stream::iter(steps(disk))
        .map(|(sector, len)| async move {
            let (buffer, outcome) = disk.read(sector, disk.buffer(len)?).await;
            outcome.map(|()| buffer)
        })
        .buffered(AT_ONCE);
    let mut sum = Sha256::new();
    let mut bytes = 0;
    let mut page = [0; 4096];
    while let Some(buffer) = reads.next().await {
        let buffer = buffer?;
        for offset in (0..buffer.len()).step_by(page.len()) {
            let part = &mut page[..(buffer.len() - offset).min(4096)];
            buffer.read(offset, part);
            sum.update(&*part);
        }
        bytes += buffer.len();
    }
    println!("sha256 {:x} {bytes}", sum.finalize());
    Ok(())
}
