//! The disk with the site: found, read, and found again where it comes back.

use alloc::format;
use alloc::rc::Rc;
use core::cell::RefCell;

use sarab::block::BlockDevice;
use sarab::time::{Duration, Timer};
use sarab::{App, Disk, DiskError, println};
use sarab_site::Site;

use crate::current::Current;

/// What is said where there is nothing to serve.
const NO_DISK: &str =
    "the domain has no disk; its xl file gives it one (disk = ['format=raw,vdev=xvda,target=/site.tar'])";
/// The pause before a disk is tried again that could not be used; it is doubled.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The disk that is in use, for its counters.
pub type InUse = Rc<RefCell<Option<Disk>>>;

/// Serves what is on the first disk, for as long as the domain runs.
pub async fn keep(app: App, current: Rc<Current<Disk>>, in_use: InUse) {
    if let Err(error) = follow(app, &current, &in_use).await {
        nothing(&current, &format!("{error:#}"));
    }
}

/// Ends only where there is no store, or none any more.
async fn follow(app: App, current: &Current<Disk>, in_use: &InUse) -> sarab::Result {
    let mut watch = app.store()?.watch_any("device/vbd").await?;
    let mut pause = FIRST_PAUSE;
    loop {
        match app.first_disk().await {
            Ok(disk) => {
                pause = FIRST_PAUSE;
                in_use.replace(Some(disk.clone()));
                serve(app, current, &disk).await;
                in_use.replace(None);
                if current.lose() {
                    println!("web: disk {} is gone", disk.name());
                }
                continue;
            }
            // That the disk is gone was told.
            Err(DiskError::None) if current.is_lost() => {}
            Err(DiskError::None) => nothing(current, NO_DISK),
            Err(error @ DiskError::Gone(_)) => {
                nothing(current, &format!("{error}"));
                // What was done about it has changed its directory, too.
                Timer::after(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
        if watch.next().await.is_none() {
            return Ok(());
        }
    }
}

/// Serves what is on a disk until that is removed, and reads it anew where it may be another one.
async fn serve(app: App, current: &Current<Disk>, disk: &Disk) {
    loop {
        let generation = disk.generation();
        // What it has to know of the site may take a quarter of the memory.
        match open(disk, app.memory().free as usize / 4).await {
            Ok(site) => current.serve(site),
            // A disk that was removed meanwhile is not there.
            Err(_) if disk.has_ended() => {}
            Err(why) => nothing(current, &format!("the first disk: {why:#}")),
        }
        if !disk.renewed(&generation).await {
            return;
        }
    }
}

/// Says that there is nothing to serve, once.
fn nothing(current: &Current<Disk>, why: &str) {
    if current.nothing(why) {
        println!("web: no site: {why}");
    }
}

/// Finds out what is on the disk, and tells of it.
async fn open(disk: &Disk, memory: usize) -> sarab::Result<Site<Disk>> {
    let site = Site::new(disk.clone(), memory).await?;
    println!("web: {} on a disk of {} KiB", site.format(), disk.geometry().sectors / 2);
    let (warnings, count) = site.warnings();
    for warning in warnings {
        println!("web: {warning}");
    }
    if count > warnings.len() {
        println!("web: and {} more of the kind", count - warnings.len());
    }
    Ok(site)
}
