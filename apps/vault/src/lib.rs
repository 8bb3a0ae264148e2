//! A storage driver domain: it serves disks to other guests, which name it in their xl files.
//!
//! `ramdisk=16M` serves memory, as `target=ram`; `pass=xvda` serves a disk of its own, as `target=xvda`. A guest gets one by
//! `disk = ["format=raw,vdev=xvda,access=rw,backendtype=phy,backend=vault,target=ram"]`; the vault's own xl file says
//! `driver_domain = 1`. It ends when the toolstack asks it to.

#![no_std]

extern crate alloc;

use alloc::format;

use futures_util::future::{Either, select};
use sarab::block::BlockDevice;
use sarab::block::back::{self, Attachment, Limits};
use sarab::block::ramdisk::RamDisk;
use sarab::hal::Errno;
use sarab::xenbus::Failure as Refusal;
use sarab::{App, Context, Size, bail, println};

/// What the guest does.
#[cfg_attr(feature = "guest", sarab::main)]
pub async fn main(app: App) -> sarab::Result {
    let args = app.args();
    args.expect_only(&["ramdisk", "pass"])?;
    let ram = match args.get::<Size>("ramdisk")? {
        Some(size) => Some(RamDisk::new(app.grant_table(), size.0 / 512).context("ramdisk")?),
        None => None,
    };
    let pass = match args.get::<&str>("pass")? {
        Some(name) => Some((name, app.disk(name).await?)),
        None => None,
    };
    if ram.is_none() && pass.is_none() {
        bail!("nothing to serve: give ramdisk=SIZE, pass=DISK or both");
    }
    let open = async |attach: &Attachment| match (attach.params.as_str(), &ram, &pass) {
        ("ram", Some(disk), _) => Ok(Either::Left(disk.clone())),
        (name, _, Some((own, disk))) if name == *own => Ok(Either::Right(disk.clone())),
        (name, ..) => {
            let text = format!(
                "target={name}: there is no such disk here; `ram` is the ramdisk, `xvda` a disk that is passed on"
            );
            Err(Refusal::new(Errno::ENOENT, text))
        }
    };
    let ended = |attach: &Attachment, did: back::Statistics| {
        println!(
            "vault: {} of {}: {} reads ({} bytes), {} writes ({} bytes), {} flushes, {} discards, {} merged, {} failed",
            attach.name(),
            attach.domain,
            did.reads,
            did.read_bytes,
            did.writes,
            did.written_bytes,
            did.flushes,
            did.discards,
            did.merged,
            did.failures
        );
    };
    for (name, sectors) in [
        ("ram", ram.as_ref().map(|disk| disk.geometry().sectors)),
        ("pass", pass.as_ref().map(|(_, disk)| disk.geometry().sectors)),
    ] {
        if let Some(sectors) = sectors {
            println!("vault: {name}: {sectors} sectors");
        }
    }
    println!("vault: ready");
    let store = app.store()?;
    let serving = back::serve(&store, app.xen(), Limits::default(), open, ended);
    match select(core::pin::pin!(serving), core::pin::pin!(app.shutdown())).await {
        Either::Left((Err(error), _)) => Err(error.into()),
        Either::Right((request, _)) => {
            println!("vault: asked to {request}");
            if let Some((name, disk)) = &pass
                && disk.geometry().flush
            {
                disk.flush().await.with_context(|| format!("disk {name}"))?;
            }
            Ok(())
        }
    }
}
