//! Disks that come and go, at both ends, and what they leave in use.

use alloc::string::String;

use core::time::Duration;

use futures_util::future::{Either, join, select};
use sarab::block::back::{self, Attachment, Limits, Statistics};
use sarab::block::ramdisk::RamDisk;
use sarab::block::{self, BlockDevice, front};
use sarab::hal::{Clock, Errno};
use sarab::platform::grant_use;
use sarab::store::Store;
use sarab::xenbus::{End, Failure, serve};
use sarab::{App, Disk, println};

use crate::text;

/// What is in use, for the test to compare.
fn show_use(app: App, store: &Store) {
    let grants = grant_use();
    println!(
        "use: ports {} grants {} deferred {} watches {} free {}",
        app.event_channels().open_ports(),
        grants.in_use,
        grants.deferred,
        store.watches(),
        app.memory().free
    );
}

/// Answers `use` on the console with what is in use, until `quit`.
pub async fn console(app: App, store: &Store) {
    println!("vbd: ready");
    loop {
        match app.console().read_line(64).await.as_str() {
            "use" => show_use(app, store),
            "quit" => return,
            _ => {}
        }
    }
}

/// A user for each disk that comes, who reads and writes for as long as it is there.
pub async fn disks(app: App) -> Result<(), String> {
    let store = app.store().map_err(text)?;
    let serving = serve(&store, app.clock(), End::Frontend, "vbd", |found| {
        let options = front::Options::default();
        let (disk, runner) = front::connect(&store, app.xen(), &found.path, options);
        async move {
            let using = async { println!("vbd {}: {}", found.id, user(app, &found.id, &disk).await) };
            match join(runner, using).await.0 {
                Ok(ended) => println!("vbd {}: {ended:?}", found.id),
                Err(error) => println!("vbd {}: {error}", found.id),
            }
        }
    });
    match select(core::pin::pin!(serving), core::pin::pin!(console(app, &store))).await {
        Either::Left((Err(error), _)) => Err(text(error)),
        Either::Right(_) => Ok(()),
    }
}

/// Writes a number and reads it back; ends when the disk does.
async fn user(app: App, id: &str, disk: &Disk) -> block::Error {
    let mut connections = 0;
    let mut sector = [0; 512];
    for turn in 0_u32.. {
        sector[..4].copy_from_slice(&turn.to_le_bytes());
        let mut found = [0; 512];
        let outcome = match disk.write_bytes(7, &sector).await {
            Ok(()) => disk.read_bytes(7, &mut found).await,
            Err(error) => Err(error),
        };
        // A connection counts that has ended before anything was read.
        let now = disk.statistics().connections;
        if now > connections {
            connections = now;
            println!("vbd {id}: {} sectors, connected", disk.geometry().sectors);
        }
        if let Err(error) = outcome {
            return error;
        }
        assert!(found == sector, "what was written is not what is read");
        app.clock().sleep(Duration::from_millis(5)).await;
    }
    unreachable!("there is no end of turns")
}

/// A disk in memory for each block device that the toolstack wants of this domain.
pub async fn backends(app: App) -> Result<(), String> {
    let store = app.store().map_err(text)?;
    let disk = RamDisk::new(app.grant_table(), 2048).map_err(text)?;
    let open = async |attach: &Attachment| match attach.params.as_str() {
        "broken" => Err(Failure::new(Errno::ENOENT, "params = broken: there is no such disk")),
        _ => Ok(disk.clone()),
    };
    let ended = |attach: &Attachment, statistics: Statistics| {
        println!("back {}: {} writes, {} failed", attach.device, statistics.writes, statistics.failures);
    };
    let serving = back::serve(&store, app.xen(), Limits::default(), open, ended);
    match select(core::pin::pin!(serving), core::pin::pin!(console(app, &store))).await {
        Either::Left((Err(error), _)) => Err(text(error)),
        Either::Right(_) => Ok(()),
    }
}
