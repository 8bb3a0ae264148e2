//! A disk from inside a guest: what it is like, what is on it, whether it keeps what it is given, and how fast it is.
//!
//! `mode=info` prints geometry and features; `mode=hash` the SHA-256 of the whole disk; `mode=fill seed=N` writes a
//! pattern over all of it, which `mode=verify seed=N` looks for; `mode=bench` measures, with `write=yes` writing too, and
//! with `again=yes` again and again until the guest is asked to shut down. `disk=xvdb` takes another
//! disk than the first that has a medium, `ring=0` to `ring=4` says how many pages its ring has, as a power
//! of two.

#![no_std]

extern crate alloc;

mod bench;
mod pattern;

use alloc::format;
use core::pin::pin;

use futures_util::future::{Either, select};
use futures_util::stream::{self, StreamExt};
use sarab::block::{BlockDevice, Buffer};
use sarab::{App, Context, Disk, DiskOptions, println};
use sha2::{Digest, Sha256};

/// Bytes of one read or write, and how many of them are on their way at once.
const STEP: usize = 256 << 10;
const AT_ONCE: usize = 4;

/// What the guest does.
#[cfg_attr(feature = "guest", sarab::main)]
pub async fn main(app: App) -> sarab::Result {
    let args = app.args();
    args.expect_only(&["mode", "disk", "seed", "write", "again", "ms", "ring"])?;
    let mode = args.choice("mode", &["info", "hash", "fill", "verify", "bench"])?.unwrap_or("info");
    let seed = args.get_or("seed", 0_u64)?;
    let usual = DiskOptions::default();
    let options = usual.with_max_ring_order(args.get_or("ring", usual.max_ring_order)?);
    let disk = match args.get::<&str>("disk")? {
        Some(name) => app.disk_with(name, options).await?,
        None => app.first_disk_with(options).await?,
    };
    work(app, mode, &disk, seed).await.with_context(|| format!("disk {}", disk.name()))
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
        _ => {
            let (write, ms) = (args.get_or("write", false)?, args.get_or("ms", 500_u64)?);
            let again = args.get_or("again", false)?;
            if !again {
                return bench::run(app, disk, write, ms).await;
            }
            let load = async {
                loop {
                    bench::run(app, disk, write, ms).await?;
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
