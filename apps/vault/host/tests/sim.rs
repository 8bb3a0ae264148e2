//! A disk in one domain's memory, served to another, on this machine.

use std::time::Duration;

use xen_blkif::BlockDevice;
use xen_blkif::back::{self, Attach, Limits};
use xen_blkif::front;
use xen_blkif::ramdisk::RamDisk;
use xen_hal::{Clock, Errno};
use xen_sim::{Faults, check};
use xenbus::Failure;

const DEVICE: u32 = 51712;

#[test]
fn a_guest_finds_again_what_it_has_written() {
    check("vault", 10, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let (toolstack, vault, guest) = (xen.toolstack(), xen.domain(), xen.domain());
        let (store, domain) = (vault.store(), vault.clone());
        vault
            .spawn(async move {
                let disk = RamDisk::new(domain.clone(), 128).unwrap();
                let open = async |attach: &Attach| match attach.params.as_str() {
                    "ram" => Ok(disk.clone()),
                    other => Err(Failure::new(Errno::ENOENT, format!("target={other}: there is no such disk"))),
                };
                let limits = Limits::default();
                drop(back::serve(&store, domain, limits, open, |_, _| ()).await);
            })
            .detach();
        xen.run(async move {
            let store = guest.store();
            // The disk stays what it is while guests come and go.
            for byte in [0, 1] {
                let nodes = [("params", "ram"), ("mode", "w")];
                toolstack.attach_with("vbd", guest.id(), vault.id(), DEVICE, &nodes).await.unwrap();
                let path = format!("device/vbd/{DEVICE}");
                let own = guest.clone();
                let (disk, runner) = front::connect(&store, own, &path, Default::default());
                guest.spawn(async move { drop(runner.await) }).detach();
                disk.ready().await.unwrap();
                let mut found = [0; 1024];
                disk.read_bytes(9, &mut found).await.unwrap();
                assert_eq!(found, [byte; 1024]);
                disk.write_bytes(9, &[byte + 1; 1024]).await.unwrap();
                disk.flush().await.unwrap();
                drop(disk);
                assert!(toolstack.detach("vbd", guest.id(), vault.id(), DEVICE).await.unwrap(), "closed in time");
                guest.sleep(Duration::from_secs(1)).await;
            }
        });
        xen.end();
    });
}
