//! A storage driver domain: it serves disks to other guests, which name it in their xl files.
//!
//! What it teaches: blkback in front of anything that is a `BlockDevice`, and devices that are made of others: volumes,
//! encryption, turns and rates.
//!
//! `ramdisk=16M` serves memory, as `target=ram`; `pass=xvda` serves a disk of its own, as `target=xvda`, and its partitions
//! (`target=xvda1`); `pool=xvdb,xvdc` has volumes on disks of its own, each with its name as the target, which
//! `format=yes` makes on empty disks (`pool=ram` is in memory). A guest gets one by
//! `disk = ["format=raw,vdev=xvda,access=rw,backendtype=phy,backend=vault,target=ram"]`; the vault's own xl file says
//! `driver_domain = 1`. `target=mail,snapshot=on` keeps in memory what the guest writes, until it leaves.
//!
//! Commands on the console (`help` lists them), in the store (`data/vault/command`) and on the command line (`commands=`,
//! with `;` between) create, snapshot, encrypt and delete volumes, and say who may have which, and how fast. `key=module` is a
//! key file for encrypted ones. It ends when the toolstack asks it to.

#![no_std]

extern crate alloc;

mod access;
mod commands;
mod control;
mod devices;
mod exports;
mod holds;
mod keys;
mod partitions;
mod words;

use alloc::rc::Rc;
use core::cell::Cell;
use core::pin::pin;

use futures_util::future::{Either, select};
use sarab::block::back::{self, Attachment, Limits};
use sarab::{App, Size, println};

use access::Settings;
use devices::Devices;
use exports::{Export, Spare};
use holds::Holds;
use keys::Keys;

/// All that the parts share.
struct Vault {
    app: App,
    devices: Devices,
    holds: Holds,
    keys: Keys,
    settings: Settings,
    spare: Rc<Spare>,
    scrubbing: Cell<bool>,
}

/// What the guest does.
#[cfg_attr(feature = "guest", sarab::main)]
pub async fn main(app: App) -> sarab::Result {
    let args = app.args();
    args.expect_only(&["ramdisk", "pass", "pool", "format", "key", "commands", "inflight"])?;
    args.choice("key", &["module"])?;
    let mut limits = Limits::default();
    if let Some(Size(bytes)) = args.get("inflight")? {
        limits = limits.with_in_flight(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    let devices = Devices::open(app).await?;
    // For overlays (`Spare`), keys, and what a pool remembers.
    app.keep_memory(app.memory().free / 4 * 3);
    let vault = Rc::new(Vault {
        app,
        devices,
        holds: Holds::default(),
        keys: Keys::new(app),
        settings: Settings::default(),
        spare: Rc::new(Spare::new(app.memory().free)),
        scrubbing: Cell::new(false),
    });
    control::first(&vault).await?;
    app.spawn(control::console(vault.clone())).detach();
    app.spawn(control::store(vault.clone())).detach();
    let shown = vault.clone();
    app.on_sysrq('v', move || commands::list(&shown).lines().for_each(|line| println!("vault: {line}")));
    println!("vault: ready");
    let open = async |attach: &Attachment| Export::open(&vault, attach).await;
    let store = app.store()?;
    let serving = back::serve(&store, app.xen(), limits, open, ended);
    match select(pin!(serving), pin!(app.shutdown())).await {
        Either::Left((Err(error), _)) => Err(error.into()),
        Either::Right((request, _)) => {
            println!("vault: asked to {request}");
            vault.devices.flush().await
        }
    }
}

/// A disk is no longer attached.
fn ended(attach: &Attachment, did: back::Statistics) {
    println!(
        "vault: {} of {}: {} reads ({} bytes), {} writes ({} bytes), {} flushes, {} discards, {} merged, {} failed; \
         {} grant copies, {} notifications",
        attach.name(),
        attach.domain,
        did.reads,
        did.read_bytes,
        did.writes,
        did.written_bytes,
        did.flushes,
        did.discards,
        did.merged,
        did.failures,
        did.grant_copies,
        did.notifications
    );
}
