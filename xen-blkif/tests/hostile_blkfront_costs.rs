//! What a guest can make blkback do with one turn of its ring.
mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use xen_blkif::back::{self, Attachment, Limits, Statistics};
use xen_blkif::protocol::{Body, Request};
use xen_blkif::ramdisk::RamDisk;
use xen_hal::Clock;
use xen_sim::{Script, check};
use xenbus::frontend;

use support::block::{DEVICE, Guest, How, Scripted};

const SECTORS: u64 = 8 << 11; // 8 MiB

/// They move no bytes, and each zeroes the whole disk.
#[test]
fn a_ring_of_discards_leaves_the_others_their_turn() {
    check("discards", 5, |xen| {
        let (toolstack, dom0) = (xen.toolstack(), xen.dom0());
        let (bad, back) = (xen.domain(), xen.domain());
        let (store, domain) = (back.store(), back.clone());
        back.spawn(async move {
            let open = async |_: &Attachment| Ok(RamDisk::new(domain.clone(), SECTORS).unwrap());
            drop(
                back::serve(&store, domain.clone(), Limits::default(), open, |_: &Attachment, _: Statistics| {}).await,
            );
        })
        .detach();
        let run: Script<Guest> = Box::new(|guest: Rc<Guest>| {
            async move {
                for id in 0..31 {
                    let body = Body::Discard { secure: false, sectors: SECTORS };
                    guest.push(&Request { id, sector: 0, handle: 0, body });
                }
                guest.publish();
                guest.domain.sleep(Duration::from_secs(1)).await;
            }
            .boxed_local()
        });
        let done = Rc::new(Cell::new(false));
        let (store, domain, flag) = (bad.store(), bad.clone(), done.clone());
        let (bad_id, back_id) = (bad.id(), back.id());
        xen.run(async move {
            let nodes = [("params", "disk"), ("mode", "w")];
            toolstack.attach_with("vbd", bad_id, back_id, DEVICE, &nodes).await.unwrap();
            bad.spawn(async move {
                let mut driver = Scripted { domain: domain.clone(), how: How::default(), run, done: flag };
                drop(frontend(&store, &domain, &format!("device/vbd/{DEVICE}"), &mut driver).await);
            })
            .detach();
            while !done.get() {
                dom0.sleep(Duration::from_millis(1)).await;
            }
        });
        // `check` does this too: here it is the point.
        xen.check_budgets();
    });
}
