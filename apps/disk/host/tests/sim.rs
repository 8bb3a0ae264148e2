//! What the program does with disks, on this machine, with a disk in simulated memory that fails where it is told to.

use xen_blkif::faulty::{Ask, Faulty};
use xen_blkif::ramdisk::RamDisk;
use xen_blkif::{BlockDevice, Error};
use xen_sim::check;

#[test]
fn what_is_written_is_read() {
    check("disk", 10, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let disk = RamDisk::new(domain, 64).unwrap();
            disk.write_bytes(7, &[0xa5; 1024]).await.unwrap();
            let mut found = [0; 1024];
            disk.read_bytes(7, &mut found).await.unwrap();
            assert!(found == [0xa5; 1024]);
        });
    });
}

#[test]
fn a_bad_sector_is_an_error_and_nothing_else() {
    check("bad sector", 10, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let disk = Faulty::new(RamDisk::new(domain, 64).unwrap(), async |ask| match ask {
                Ask::Read(sector, count) if (sector..sector + count).contains(&9) => {
                    Err(Error::Failed { operation: "read", sector: 9 })
                }
                _ => Ok(()),
            });
            let mut sector = [0; 512];
            assert!(disk.read_bytes(9, &mut sector).await.is_err());
            assert!(disk.read_bytes(8, &mut sector).await.is_ok());
        });
    });
}
