//! Volumes for Linux on disks whose power can be cut at any moment, and what a cut leaves of them.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};

use core::cell::RefCell;
use core::pin::pin;

use futures_util::future::{Either, select};
use sarab::block::back::{self, Attachment, Limits, Statistics};
use sarab::block::powerloss::{Disk, Power};
use sarab::block::{BlockDevice, Completed, Error, Geometry};
use sarab::hal::Errno;
use sarab::platform::XenGrantTable;
use sarab::xenbus::Failure;
use sarab::{App, println};
use sarab_luks::{Encrypted, Kdf};
use sarab_volumes::{Create, Pool, Volume};

use crate::text;

type Plain = Volume<Disk<XenGrantTable>>;
type Clear = Either<Plain, Encrypted<Plain, XenGrantTable>>;

/// Sectors of each of the two disks.
const DISK: u64 = 12 << 11;
/// The targets, with their sectors. The last one is encrypted.
const VOLUMES: [(&str, u64); 3] = [("thin", 10 << 11), ("sums", 8 << 11), ("luks", 9 << 11)];
const KEY: &[u8] = b"a passphrase";

/// What a target is at present. Where the power is cut, nobody has requests under way.
#[derive(Clone)]
struct Target(Rc<RefCell<Clear>>);

impl Target {
    fn now(&self) -> Clear {
        self.0.borrow().clone()
    }
}

impl BlockDevice for Target {
    type Buffer = <Clear as BlockDevice>::Buffer;

    fn geometry(&self) -> Geometry {
        self.now().geometry()
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error> {
        self.now().buffer(len)
    }

    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        self.now().read(sector, buffer).await
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        self.now().write(sector, buffer).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.now().flush().await
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
        self.now().discard(sector, count, secure).await
    }

    /// A volume is as large after a cut as before.
    async fn changed(&self, _: &Geometry) -> Geometry {
        core::future::pending().await
    }
}

/// Opens the pool that is on the disks, and its volumes; all of it has to be whole.
async fn open(app: App, power: &Power<XenGrantTable>) -> Result<Vec<Clear>, String> {
    let (pool, runner) = Pool::open(power.disks(), &sarab_volumes::OpenOptions::default()).await.map_err(text)?;
    app.spawn(runner).detach();
    let report = pool.check().await.map_err(text)?;
    let repaired = pool.usage().repaired;
    if !report.is_clean() || repaired > 0 {
        return Err(format!("{repaired} blocks repaired, {report:?}"));
    }
    let mut opened = Vec::new();
    for (name, _) in VOLUMES {
        let volume = pool.volume(name).map_err(text)?;
        opened.push(match name {
            "luks" => Either::Right(unlock(app, volume).await?),
            _ => Either::Left(volume),
        });
    }
    Ok(opened)
}

async fn unlock(app: App, volume: Plain) -> Result<Encrypted<Plain, XenGrantTable>, String> {
    let header = sarab_luks::Volume::load(volume, sarab_luks::Limits::default()).await.map_err(text)?;
    if let Some(repair) = header.repair() {
        return Err(text(repair));
    }
    header.open(KEY, app.grant_table(), sarab_luks::OpenOptions::default()).await.map_err(text)
}

/// Makes pool and volumes on new disks.
async fn make(app: App) -> Result<Power<XenGrantTable>, String> {
    let power = Power::new(app.grant_table());
    let disks = vec![power.disk(DISK), power.disk(DISK)];
    Pool::format(&disks, [7; 16], &sarab_volumes::FormatOptions::default()).await.map_err(text)?;
    let (pool, runner) = Pool::open(disks, &sarab_volumes::OpenOptions::default()).await.map_err(text)?;
    app.spawn(runner).detach();
    for (name, sectors) in VOLUMES {
        pool.create(name, &Create::thin(sectors).with_integrity(name == "sums")).await.map_err(text)?;
    }
    let options = sarab_luks::FormatOptions::default().with_kdf(Kdf::for_random_keys()).with_data_offset(1 << 20);
    let mut random = app.entropy().map_err(text)?;
    let plain = pool.volume("luks").map_err(text)?;
    sarab_luks::Volume::format(plain, KEY, &options, &mut random).await.map_err(text)?;
    pool.flush().await.map_err(text)?;
    Ok(power)
}

/// Serves `thin`, `sums` and `luks`. On the console, `mark` says that something was done, such as a file synced, and
/// `cut SEED` has the targets be what a cut at a time after the first mark has left: it prints how many marks came before that
/// time. The next cut is one of the same past.
pub async fn run(app: App) -> Result<(), String> {
    let store = app.store().map_err(text)?;
    let power = make(app).await?;
    let targets: Vec<_> =
        open(app, &power).await?.into_iter().map(|device| Target(Rc::new(RefCell::new(device)))).collect();
    let find = async |attach: &Attachment| {
        let index = VOLUMES.iter().position(|(name, _)| *name == attach.params);
        let target = index.and_then(|index| targets.get(index).cloned());
        target.ok_or_else(|| Failure::new(Errno::ENOENT, format!("params = {}: not a target", attach.params)))
    };
    let ended = |attach: &Attachment, did: Statistics| {
        println!(
            "powercut: {}: {} writes, {} flushes, {} failed",
            attach.params, did.writes, did.flushes, did.failures
        );
    };
    let serving = back::serve(&store, app.xen(), Limits::default(), find, ended);
    match select(pin!(serving), pin!(console(app, &power, &targets))).await {
        Either::Left((Err(error), _)) => Err(text(error)),
        Either::Right((outcome, _)) => outcome,
    }
}

async fn console(app: App, power: &Power<XenGrantTable>, targets: &[Target]) -> Result<(), String> {
    let mut marks = Vec::new();
    println!("powercut: ready");
    loop {
        let line = app.console().read_line(64).await;
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("mark", _) => {
                marks.push(power.now());
                println!("powercut: mark {} at {}", marks.len(), power.now());
            }
            ("cut", seed) => {
                let seed = seed.parse().map_err(|error| format!("cut {seed}: {error}"))?;
                let time = time(seed, &marks, power.now());
                let devices = open(app, &power.cut(time, seed)).await;
                let devices = devices.map_err(|error| format!("cut {seed} at {time}: {error}"))?;
                for (target, device) in targets.iter().zip(devices) {
                    target.0.replace(device);
                }
                let before = marks.partition_point(|mark| *mark <= time);
                println!("powercut: cut {seed} at {time} of {}: {before} marks", power.now());
            }
            ("quit", _) => return Ok(()),
            _ => {}
        }
    }
}

/// A time after the first mark; of four cuts one is just after a mark.
fn time(seed: u64, marks: &[usize], now: usize) -> usize {
    // The first step of SplitMix64.
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let random = ((mixed ^ (mixed >> 27)) >> 8) as usize;
    let first = marks.first().copied().unwrap_or(now);
    match seed % 4 {
        0 => (marks.get(random % marks.len().max(1)).copied().unwrap_or(now) + random / 997 % 16).min(now),
        _ => first + random % (now - first + 1),
    }
}
