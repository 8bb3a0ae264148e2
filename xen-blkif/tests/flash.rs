//! A disk as flash memory: against a model, and under a map that keeps its data there.

use std::rc::Rc;

use embedded_storage_async::nor_flash::{NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash};
use sequential_storage::cache::Cache;
use sequential_storage::map::{MapConfig, MapStorage};
use xen_blkif::adapters::{Flash, FlashError};
use xen_blkif::back::{self, Attachment};
use xen_blkif::faulty::{DeviceRequest, Faulty};
use xen_blkif::front::{self, Disk};
use xen_blkif::ramdisk::RamDisk;
use xen_blkif::{BlockDevice, Error};
use xen_sim::{Domain, Faults, Xen, check};
use xenbus::Failure;

const DEVICE: u32 = 51712;
const BYTES: usize = 64 << 10;

fn random(xen: &Xen) -> impl FnMut(usize) -> usize + use<> {
    let mut state = xen.seed().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |limit| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % limit
    }
}

#[test]
fn it_is_as_a_flash_chip_is() {
    check("flash", 20, |xen| {
        let (domain, mut random) = (xen.domain(), random(xen));
        xen.run(async move {
            let sector_size = [512, 1024, 4096][random(3)];
            let disk = RamDisk::new(domain, (BYTES / 512) as u64).unwrap().with_sector_size(sector_size);
            let mut flash: Flash<_> = Flash::new(disk).unwrap();
            assert_eq!(flash.capacity(), BYTES);
            let mut model = vec![0; BYTES];
            for _ in 0..100 {
                let offset = random(BYTES + 100);
                let len = [random(20), random(5000), random(BYTES)][random(3)];
                let place = offset as u32;
                match random(3) {
                    0 => {
                        let mut bytes = vec![0; len];
                        match flash.read(place, &mut bytes).await {
                            Ok(()) => assert!(bytes == model[offset..offset + len], "{len} bytes at {offset}"),
                            Err(error) => refused(error, offset, len),
                        }
                    }
                    1 => {
                        let bytes: Vec<u8> = (0..len).map(|_| random(256) as u8).collect();
                        match flash.write(place, &bytes).await {
                            Ok(()) => model[offset..].iter_mut().zip(&bytes).for_each(|(old, new)| *old &= new),
                            Err(error) => refused(error, offset, len),
                        }
                    }
                    _ => {
                        let (offset, len) = (offset / 4096 * 4096, len.next_multiple_of(4096));
                        match flash.erase(offset as u32, (offset + len) as u32).await {
                            Ok(()) => model[offset..offset + len].fill(0xff),
                            Err(error) => refused(error, offset, len),
                        }
                    }
                }
            }
            let mut bytes = vec![0; BYTES];
            flash.into_inner().read_bytes(0, &mut bytes).await.unwrap();
            assert!(bytes == model);
        });
    });
}

fn refused(error: FlashError, offset: usize, len: usize) {
    assert!(offset + len > BYTES, "{error}: {len} bytes at {offset}");
    assert_eq!(error.kind(), NorFlashErrorKind::OutOfBounds);
}

#[test]
fn what_cannot_be_is_refused() {
    check("errors", 1, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let ram = RamDisk::new(domain, 32).unwrap();
            let coarse = ram.clone().with_sector_size(4096);
            let error = Flash::<_, 512>::new(coarse).err();
            assert_eq!(error, Some(FlashError::BlockSize { block_size: 512, sector_size: 4096 }));

            let mut flash = Flash::<_, 1024>::new(ram.clone()).unwrap();
            for (from, to) in [(0, 1000), (512, 1536), (1, 1025)] {
                assert_eq!(flash.erase(from, to).await.unwrap_err().kind(), NorFlashErrorKind::NotAligned, "{from}");
            }
            for (from, to) in [(1024, 0), (0, 17 << 10), (u32::MAX - 1023, u32::MAX)] {
                assert_eq!(flash.erase(from, to).await.unwrap_err().kind(), NorFlashErrorKind::OutOfBounds, "{from}");
            }
            assert_eq!(flash.read(u32::MAX, &mut [0; 2]).await.unwrap_err().kind(), NorFlashErrorKind::OutOfBounds);

            let mut read_only = Flash::<_>::new(ram.clone().read_only()).unwrap();
            assert_eq!(read_only.write(0, &[0]).await, Err(FlashError::Device(Error::ReadOnly)));
            let failed = Error::Failed { operation: "read", sector: 3 };
            let mut faulty = Flash::<_>::new(Faulty::new(ram, async move |ask| match ask {
                DeviceRequest::Read(..) => Err(failed),
                _ => Ok(()),
            }))
            .unwrap();
            let error = faulty.write(1600, b"x").await.unwrap_err();
            assert_eq!((error, error.kind()), (FlashError::Device(failed), NorFlashErrorKind::Other));
            // Nothing is read for that.
            assert_eq!(faulty.erase(0, 4096).await, Ok(()));
        });
    });
}

/// A disk that another domain serves.
async fn served(xen: &Xen) -> Disk<Domain> {
    let (front, back) = (xen.domain(), xen.domain());
    let (store, domain) = (back.store(), back.clone());
    let ram = RamDisk::new(back.clone(), (BYTES / 512) as u64).unwrap();
    back.spawn(async move {
        let open = async |_: &Attachment| Ok::<_, Failure>(ram.clone());
        drop(back::serve(&store, domain, Default::default(), open, |_, _| ()).await);
    })
    .detach();
    xen.toolstack().attach_with("vbd", front.id(), back.id(), DEVICE, &[("mode", "w")]).await.unwrap();
    let store = front.store();
    let path = format!("device/vbd/{DEVICE}");
    let (disk, runner) = front::connect(&store, front.clone(), &path, Default::default());
    front.spawn(async move { drop(runner.await) }).detach();
    disk.ready().await.unwrap();
    disk
}

/// Writes values of a map until the flash was filled several times, and reads the last ones on another map.
async fn remembers<D: BlockDevice + Clone>(device: D) {
    const RANGE: std::ops::Range<u32> = 0..BYTES as u32;
    let mut buffer = [0; 512];
    let flash = Flash::<_>::new(device.clone()).unwrap();
    let mut map = MapStorage::<u8, _, _>::new(flash, MapConfig::new(RANGE), Cache::new_uncached());
    // What is on a new disk is nothing that was erased.
    map.erase_all().await.unwrap();
    let value = |key: u8, round: u8| [key ^ round; 300];
    for round in 0..70 {
        for key in 0..5 {
            map.store_item(&mut buffer, &key, &value(key, round).as_slice()).await.unwrap();
        }
    }
    drop(map);
    let flash = Flash::<_>::new(device).unwrap();
    let mut map = MapStorage::<u8, _, _>::new(flash, MapConfig::new(RANGE), Cache::new_uncached());
    for key in 0..5 {
        let found = map.fetch_item::<&[u8]>(&mut buffer, &key).await.unwrap();
        assert_eq!(found, Some(value(key, 69).as_slice()), "{key}");
    }
    assert_eq!(map.fetch_item::<&[u8]>(&mut buffer, &9).await.unwrap(), None);
}

#[test]
fn a_map_keeps_its_values_on_a_disk_of_another_domain() {
    check("map", 3, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let xen = xen.clone();
        xen.clone().run(async move {
            let disk = served(&xen).await;
            remembers(&disk).await;
            assert!(disk.statistics().requests > 0);
            let shared = Rc::new(disk);
            remembers(shared.clone()).await;
            assert_eq!(shared.statistics().failures, 0);
        });
    });
}
