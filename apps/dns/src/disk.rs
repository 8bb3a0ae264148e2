//! Where zones come from: a module, or the first disk, which may be taken away and another one attached.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use sarab::block::BlockDevice;
use sarab::block::ramdisk::RamDisk;
use sarab::platform::XenGrantTable;
use sarab::time::{Duration, Timer};
use sarab::{Disk, DiskError, println};
use sarab_site::Site;

use crate::server::Dns;
use crate::zones;

const SECTOR_SIZE: usize = 512;
const NO_DISK: &str = "the domain has neither a disk nor a module; its xl file gives it one \
                       (disk = ['format=raw,vdev=xvda,access=ro,target=/srv/zones.tar'])";
/// The pause before a disk is tried again that could not be used; it is doubled.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What zones are read from.
pub enum Source {
    Disk(Disk),
    Module(RamDisk<XenGrantTable>),
}

/// Bytes of a file.
pub enum File {
    Disk(sarab_site::File<Disk>),
    Module(sarab_site::File<RamDisk<XenGrantTable>>),
}

/// Files, as they are now.
pub enum Files {
    Disk(Site<Disk>),
    Module(Site<RamDisk<XenGrantTable>>),
}

impl Source {
    /// What is there now: the index of a tar archive is made anew.
    pub async fn files(&self, memory: usize) -> Result<Files, String> {
        let wrong = |error: sarab_site::OpenError| format!("{error}");
        match self {
            Source::Disk(disk) => Site::new(disk.clone(), memory).await.map(Files::Disk).map_err(wrong),
            Source::Module(disk) => Site::new(disk.clone(), memory).await.map(Files::Module).map_err(wrong),
        }
    }
}

impl Files {
    pub async fn open(&self, name: &str) -> Result<Option<File>, String> {
        let wrong = |error: sarab_site::ReadError| format!("{error}");
        match self {
            Files::Disk(site) => site.open(name).await.map(|file| file.map(File::Disk)).map_err(wrong),
            Files::Module(site) => site.open(name).await.map(|file| file.map(File::Module)).map_err(wrong),
        }
    }

    pub fn format(&self) -> sarab_site::Format {
        match self {
            Files::Disk(site) => site.format(),
            Files::Module(site) => site.format(),
        }
    }
}

impl File {
    pub fn size(&self) -> u64 {
        match self {
            File::Disk(file) => file.size(),
            File::Module(file) => file.size(),
        }
    }

    pub async fn read(&mut self, at: u64, to: &mut [u8]) -> Result<usize, String> {
        let outcome = match self {
            File::Disk(file) => file.read(at, to).await,
            File::Module(file) => file.read(at, to).await,
        };
        outcome.map_err(|error| format!("{error}"))
    }
}

/// Serves what there is, for as long as the domain runs.
pub async fn keep(dns: Rc<Dns>) {
    if let Some(module) = dns.app.modules().first() {
        let outcome = from_module(&dns, module).await;
        if let Err(error) = outcome {
            println!("dns: the module: {error}");
        }
        dns.settle();
        return;
    }
    if let Err(error) = follow(&dns).await {
        println!("dns: {error:#}");
        dns.settle();
    }
}

async fn from_module(dns: &Rc<Dns>, module: &[u8]) -> Result<(), String> {
    let sectors = module.len().div_ceil(SECTOR_SIZE);
    let copied: Result<_, sarab::block::Error> = async {
        let disk = RamDisk::new(dns.app.grant_table(), sectors as u64)?;
        let mut bytes: Vec<u8> = module.to_vec();
        bytes.resize(sectors * SECTOR_SIZE, 0);
        disk.write_bytes(0, &bytes).await?;
        Ok(disk)
    }
    .await;
    let disk = copied.map_err(|error| format!("{error}"))?;
    zones::use_source(dns, Source::Module(disk)).await;
    Ok(())
}

/// Ends only where there is no store, or none any more.
async fn follow(dns: &Rc<Dns>) -> sarab::Result {
    let mut watch = dns.app.store()?.watch_any("device/vbd").await?;
    let (mut pause, mut told) = (FIRST_PAUSE, String::new());
    let mut say = |text: String| {
        if told != text {
            println!("dns: {text}");
            told = text;
        }
    };
    loop {
        match dns.app.first_disk().await {
            Ok(disk) => {
                pause = FIRST_PAUSE;
                say(format!("disk {} of {} KiB", disk.name(), disk.geometry().sectors / 2));
                serve(dns, &disk).await;
                dns.source.replace(None);
                say(format!("disk {} is gone; its zones are served on", disk.name()));
                continue;
            }
            Err(DiskError::None) if dns.server.catalog().zones().is_empty() => say(NO_DISK.into()),
            Err(DiskError::None) => {}
            Err(error @ DiskError::Gone(_)) => {
                say(format!("{error}"));
                dns.settle();
                // What was done about it has changed its directory, too.
                Timer::after(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
        dns.settle();
        if watch.next().await.is_none() {
            return Ok(());
        }
    }
}

/// Serves what is on a disk until that is removed, and reads it anew where it may be another one.
async fn serve(dns: &Rc<Dns>, disk: &Disk) {
    loop {
        let generation = disk.generation();
        zones::use_source(dns, Source::Disk(disk.clone())).await;
        if !disk.renewed(&generation).await {
            return;
        }
    }
}

/// All of a small file.
pub async fn read_all(file: &mut File, most: usize) -> Result<Vec<u8>, String> {
    let len = usize::try_from(file.size()).unwrap_or(usize::MAX);
    if len > most {
        return Err(format!("{len} bytes, of {most} at most"));
    }
    let (mut bytes, mut at) = (vec![0; len], 0);
    while at < len {
        match file.read(at as u64, &mut bytes[at..]).await? {
            0 => return Err("it is shorter than it says".into()),
            count => at += count,
        }
    }
    Ok(bytes)
}
