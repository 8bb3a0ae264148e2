//! What guests can be given: memory, disks of this domain's, their partitions, and volumes.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use futures_util::future::Either;
use rand_core::TryRng;
use sarab::block::fair::Fair;
use sarab::block::ramdisk::RamDisk;
use sarab::block::slice::Slice;
use sarab::block::{BlockDevice, Vdev};
use sarab::platform::XenGrantTable;
use sarab::{App, Context, Disk, Size, bail, println};
use sarab_luks::Encrypted;
use sarab_volumes::{Content, FormatOptions, OpenOptions, Overlay, Pool, Volume, identify};

use crate::partitions;

/// A disk that this domain has.
pub type Own = Either<RamDisk<XenGrantTable>, Disk>;
/// What is on it, as it is there.
pub type Plain = Either<Either<Own, Slice<Own>>, Volume<Own>>;
/// The same as its user knows it.
pub type Clear = Either<Plain, Encrypted<Plain, XenGrantTable>>;
/// The same, perhaps with what is written kept in memory.
pub type Shown = Either<Clear, Overlay<Clear>>;

/// The name of the disk in memory.
const RAM: &str = "ram";
/// Bytes of requests that a disk is given at once. What it holds already nobody can overtake.
const WINDOW: usize = 4 << 20;
/// Of the domain's free memory, the part that the pool's metadata may take.
const CACHE_PART: u64 = 8;

/// Which device it is, whatever it is called: a volume can be renamed at any time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    /// The name of what is there from the start.
    Fixed(String),
    /// The number of a volume.
    Volume(u64),
}

/// A device that was looked for.
pub struct Found {
    pub id: Id,
    /// The disk that it is a partition of.
    pub parent: Option<Id>,
    pub device: Plain,
    /// Who else uses the disk that it is on.
    pub fair: Fair,
}

/// All of them.
pub struct Devices {
    fixed: Vec<Fixed>,
    pub pool: Option<Pool<Own>>,
    pool_fair: Fair,
}

/// A device that is there from the start.
struct Fixed {
    name: String,
    /// The disk that it is a partition of.
    parent: Option<&'static str>,
    device: Either<Own, Slice<Own>>,
    fair: Fair,
}

impl Devices {
    /// Those that the command line names.
    pub async fn open(app: App) -> sarab::Result<Devices> {
        let args = app.args();
        let mut fixed = Vec::new();
        let disks: Vec<&str> = list(args.get("pool")?).collect();
        check_once(list(args.get("pass")?).chain(disks.iter().copied()))?;
        let ram = match args.get::<Size>("ramdisk")? {
            Some(size) => Some(RamDisk::new(app.grant_table(), size.0 / 512).context("ramdisk")?),
            None => None,
        };
        if let Some(disk) = ram.as_ref().filter(|_| !disks.contains(&RAM)) {
            // Memory has no queue in which one could be behind another.
            fixed.push(Fixed {
                name: RAM.into(),
                parent: None,
                device: Either::Left(Either::Left(disk.clone())),
                fair: Fair::new(usize::MAX / 2),
            });
        }
        for name in list(args.get("pass")?) {
            let disk: Own = Either::Right(app.disk(name).await?);
            let fair = Fair::new(WINDOW);
            for (number, slice) in partitions::of(&disk).await.with_context(|| format!("disk {name}"))? {
                let device = Either::Right(slice);
                let parent = Some(name);
                fixed.push(Fixed { name: partitions::name(name, number), parent, device, fair: fair.clone() });
            }
            fixed.push(Fixed { name: name.into(), parent: None, device: Either::Left(disk), fair });
        }
        let pool = if disks.is_empty() { None } else { Some(open_pool(app, &disks, ram.as_ref()).await?) };
        if fixed.is_empty() && pool.is_none() {
            bail!("nothing to serve: give ramdisk=SIZE, pass=DISK or pool=DISK");
        }
        for Fixed { name, device, .. } in &fixed {
            println!("vault: {name}: {} sectors", device.geometry().sectors);
        }
        Ok(Devices { fixed, pool, pool_fair: Fair::new(WINDOW) })
    }

    /// The device of a name.
    pub fn find(&self, name: &str) -> Option<Found> {
        if let Some(Fixed { name, parent, device, fair }) = self.fixed.iter().find(|fixed| fixed.name == name) {
            return Some(Found {
                id: Id::Fixed(name.clone()),
                parent: parent.map(|parent| Id::Fixed(parent.into())),
                device: Either::Left(device.clone()),
                fair: fair.clone(),
            });
        }
        let volume = self.pool.as_ref()?.volume(name).ok()?;
        Some(Found {
            id: Id::Volume(volume.id()),
            parent: None,
            device: Either::Right(volume),
            fair: self.pool_fair.clone(),
        })
    }

    /// What a device is called now.
    pub fn name(&self, id: &Id) -> Option<String> {
        match id {
            Id::Fixed(name) => Some(name.clone()),
            Id::Volume(id) => {
                self.pool.as_ref()?.volumes().into_iter().find(|volume| volume.id == *id).map(|volume| volume.name)
            }
        }
    }

    /// Whether a device that is no volume has this name.
    pub fn is_fixed(&self, name: &str) -> bool {
        name == RAM || self.fixed.iter().any(|fixed| fixed.name == name)
    }

    /// The names of those that are no volumes, with their sectors.
    pub fn fixed(&self) -> impl Iterator<Item = (&str, u64)> {
        self.fixed.iter().map(|fixed| (&*fixed.name, fixed.device.geometry().sectors))
    }

    /// All names.
    pub fn names(&self) -> Vec<String> {
        let fixed = self.fixed.iter().map(|fixed| fixed.name.clone());
        let volumes = self.pool.iter().flat_map(Pool::volumes).map(|volume| volume.name);
        fixed.chain(volumes).collect()
    }

    /// Brings all that was written to the disks.
    pub async fn flush(&self) -> sarab::Result {
        if let Some(pool) = &self.pool {
            pool.flush().await.context("pool")?;
        }
        for Fixed { name, device, .. } in &self.fixed {
            if device.geometry().flush {
                device.flush().await.with_context(|| format!("disk {name}"))?;
            }
        }
        Ok(())
    }
}

fn list(names: Option<&'static str>) -> impl Iterator<Item = &'static str> {
    names.into_iter().flat_map(|names| names.split(',')).filter(|name| !name.is_empty())
}

/// No disk may be named twice, by whatever name: it would have two users who know nothing of each other.
fn check_once<'a>(names: impl Iterator<Item = &'a str>) -> sarab::Result {
    let mut seen: Vec<(&str, Option<Vdev>)> = Vec::new();
    for name in names {
        let vdev = name.parse().ok();
        if let Some((other, _)) =
            seen.iter().find(|(other, known)| *other == name || (vdev.is_some() && *known == vdev))
        {
            bail!("disk {name}: pass= and pool= name it more than once (as {other}); each disk has one use");
        }
        seen.push((name, vdev));
    }
    Ok(())
}

async fn open_pool(app: App, names: &[&str], ram: Option<&RamDisk<XenGrantTable>>) -> sarab::Result<Pool<Own>> {
    let mut disks: Vec<Own> = Vec::new();
    for name in names {
        disks.push(match (*name, ram) {
            (RAM, Some(disk)) => Either::Left(disk.clone()),
            (RAM, None) => bail!("pool={RAM}: ramdisk=SIZE says how large it is"),
            _ => Either::Right(app.disk(name).await.context("pool")?),
        });
    }
    // Disks are counted from 0 in errors.
    let named = || {
        let names = names.iter().enumerate().map(|(index, name)| format!("disk {index} is {name}"));
        format!("pool ({})", names.collect::<Vec<_>>().join(", "))
    };
    match app.args().choice("format", &["yes", "force"])? {
        Some("force") => format(app, &disks, true).await.with_context(named)?,
        // A disk of a pool is left alone.
        Some(_) if is_empty(&disks).await.with_context(named)? => {
            format(app, &disks, false).await.with_context(named)?
        }
        _ => {}
    }
    let cache = usize::try_from(app.memory().free / CACHE_PART).unwrap_or(usize::MAX);
    let options = OpenOptions::default().with_cache_bytes(cache.max(sarab_volumes::MIN_CACHE));
    let (pool, runner) = Pool::open(disks, &options).await.with_context(named)?;
    app.spawn(runner).detach();
    let usage = pool.usage();
    println!(
        "vault: pool: {} volumes, {} of {} MiB free",
        usage.volumes,
        usage.free_sectors >> 11,
        usage.sectors >> 11
    );
    Ok(pool)
}

/// Whether there is no pool on any of the disks.
async fn is_empty(disks: &[Own]) -> Result<bool, sarab::block::Error> {
    for disk in disks {
        if identify(disk).await? == Content::Pool {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn format(app: App, disks: &[Own], force: bool) -> sarab::Result {
    let mut uuid = [0; 16];
    app.entropy()?.try_fill_bytes(&mut uuid)?;
    Pool::format(disks, uuid, &FormatOptions::default().with_force(force)).await?;
    println!("vault: pool: formatted {} disks", disks.len());
    Ok(())
}
