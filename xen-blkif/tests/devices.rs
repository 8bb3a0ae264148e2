//! The devices that are made of other devices, and devices as other crates want them, each against a model.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aligned::Aligned;
use block_device_driver::BlockDevice as _;
use embedded_io_async::{Read, Seek, SeekFrom, Write};
use futures_util::future::{Either, join_all};
use xen_blkif::adapters::{Blocks, Stream};
use xen_blkif::cache::Cache;
use xen_blkif::fair::Fair;
use xen_blkif::faulty::{DeviceRequest, Faulty};
use xen_blkif::ramdisk::{BufferPool, PageBuffer, RamDisk};
use xen_blkif::slice::Slice;
use xen_blkif::{BlockDevice, Buffer, Completed, Error, Geometry};
use xen_hal::Clock;
use xen_sim::{Domain, SimPage, Xen, check, keep_log, take_log};

const SECTOR: usize = 512;

fn random(xen: &Xen) -> impl FnMut(u64) -> u64 + use<> {
    let mut state = xen.seed().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |limit| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % limit
    }
}

/// What was in a buffer's pages is there in the next one, and in no other pool's; beyond 1 MiB pages are given back.
#[test]
fn a_pool_of_buffers_keeps_pages_for_itself() {
    let xen = Xen::new(1);
    let (domain, pages) = (xen.domain(), 256);
    let holds = |buffer: &PageBuffer<SimPage>| {
        let mut bytes = vec![0; buffer.len()];
        buffer.read(0, &mut bytes);
        bytes.chunks(4096).filter(|page| page.iter().any(|byte| *byte != 0)).count()
    };
    let pool = BufferPool::new(domain.clone());
    let full = pool.buffer((pages + 10) * 4096).unwrap();
    assert_eq!(holds(&full), 0);
    full.write(0, &vec![7; full.len()]);
    drop(full);
    let (one, other) = (pool.clone().buffer(4096).unwrap(), BufferPool::new(domain).buffer(4096).unwrap());
    assert_eq!((holds(&one), holds(&other)), (1, 0));
    assert_eq!(holds(&pool.buffer((pages + 20) * 4096 - 1).unwrap()), pages - 1);
}

/// Copies between buffers, wherever in pages they begin, are those between slices.
#[test]
fn buffers_are_copied_across_pages() {
    check("copies between buffers", 20, |xen| {
        let mut random = random(xen);
        let pool = BufferPool::new(xen.domain());
        let lens = [0; 2].map(|_| 1 + random(4 * 4096) as usize);
        let buffers = lens.map(|len| pool.buffer(len).unwrap());
        let mut model = lens.map(|len| (0..len).map(|_| random(256) as u8).collect::<Vec<_>>());
        for (buffer, bytes) in buffers.iter().zip(&model) {
            buffer.write(0, bytes);
        }
        for _ in 0..20 {
            let len = random(1 + *lens.iter().min().unwrap() as u64) as usize;
            let [from, to] = lens.map(|whole| random(1 + (whole - len) as u64) as usize);
            buffers[0].copy(from, len, &buffers[1], to);
            let [source, target] = &mut model;
            target[to..to + len].copy_from_slice(&source[from..from + len]);
            let mut bytes = vec![0; lens[1]];
            buffers[1].read(0, &mut bytes);
            assert_eq!(bytes, *target);
        }
    });
}

/// Requests with the device's own memory are those with any other, also where that is of another place, or none is lent.
#[test]
fn requests_with_memory_of_the_device() {
    check("lent memory", 20, |xen| {
        let (mut random, domain) = (random(xen), xen.domain());
        xen.run(async move {
            const SECTORS: u64 = 64;
            let disk = RamDisk::new(domain, SECTORS + 8).unwrap();
            let shares = Fair::new(1 << 20);
            let device = shares.share(Slice::new(disk.clone(), 8, SECTORS).unwrap());
            let mut model = vec![0; SECTORS as usize * 512];
            let mut lent = 0;
            for step in 0..200 {
                let sector = random(SECTORS);
                let len = (1 + random((SECTORS - sector).min(24))) as usize * 512;
                let start = sector as usize * 512;
                let buffer = device.buffer_at(sector, len).unwrap();
                match random(3) {
                    0 => {
                        let bytes: Vec<_> = (0..len).map(|at| (step + at / 512) as u8).collect();
                        buffer.write(0, &bytes);
                        let mut before = vec![0; len];
                        disk.read_bytes(8 + sector, &mut before).await.unwrap();
                        lent += usize::from(before == bytes);
                        device.write(sector, buffer).await.1.unwrap();
                        model[start..start + len].copy_from_slice(&bytes);
                    }
                    1 => {
                        let (buffer, outcome) = device.read(sector, buffer).await;
                        outcome.unwrap();
                        let mut bytes = vec![0; len];
                        buffer.read(0, &mut bytes);
                        assert_eq!(bytes, model[start..start + len]);
                    }
                    _ => {
                        let elsewhere = random(SECTORS - len as u64 / 512 + 1);
                        let (buffer, outcome) = device.read(elsewhere, buffer).await;
                        outcome.unwrap();
                        let mut bytes = vec![0; len];
                        buffer.read(0, &mut bytes);
                        assert_eq!(bytes, model[elsewhere as usize * 512..][..len]);
                    }
                }
            }
            assert!(lent > 0, "nothing was written at once");
            let mut all = vec![0; model.len()];
            disk.read_bytes(8, &mut all).await.unwrap();
            assert_eq!(all, model);

            let buffer = disk.clone().read_only().buffer_at(0, 512).unwrap();
            buffer.write(0, &[9; 512]);
            let mut bytes = [1; 512];
            disk.read_bytes(0, &mut bytes).await.unwrap();
            assert_eq!(bytes, [0; 512], "a disk that is not to be written lends nothing");
            let beyond = disk.buffer_at(SECTORS + 8, 512).unwrap();
            assert!(matches!(disk.write(SECTORS + 8, beyond).await.1, Err(Error::OutOfRange { .. })));
        });
    });
}

#[test]
fn a_slice_is_the_part_that_it_says() {
    check("slice", 1, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let disk = RamDisk::new(domain, 100).unwrap();
            assert!(matches!(Slice::new(disk.clone(), 50, 51), Err(Error::OutOfRange { .. })));
            let part = Slice::new(disk.clone(), 40, 20).unwrap();
            assert_eq!(part.geometry().sectors, 20);
            part.write_bytes(19, &[7; SECTOR]).await.unwrap();
            let mut bytes = [0; SECTOR];
            disk.read_bytes(59, &mut bytes).await.unwrap();
            assert_eq!(bytes, [7; SECTOR]);
            for (sector, len) in [(20, SECTOR), (19, 2 * SECTOR), (u64::MAX, SECTOR)] {
                let outcome = part.write_bytes(sector, &vec![1; len]).await;
                assert!(matches!(outcome, Err(Error::OutOfRange { .. })), "{sector}");
            }
            assert!(part.discard(10, 11, false).await.is_err());
            part.discard(19, 1, false).await.unwrap();
            disk.read_bytes(59, &mut bytes).await.unwrap();
            assert_eq!(bytes, [0; SECTOR]);
        });
    });
}

#[test]
fn a_cache_gives_what_is_on_the_device_whoever_writes_meanwhile() {
    check("cache", 200, |xen| {
        let domain = xen.domain();
        let delays = Rc::new(RefCell::new(random(xen)));
        let mut next = random(xen);
        xen.run(async move {
            let clock = domain.clone();
            let slow = Faulty::new(RamDisk::new(domain.clone(), 64).unwrap(), async move |_: DeviceRequest| {
                let pause = delays.borrow_mut()(200);
                clock.sleep(Duration::from_micros(pause)).await;
                Ok(())
            });
            let cache = Cache::new(slow, NonZeroUsize::new(5).unwrap());
            for _ in 0..20 {
                // Some read and some write at once. A read that overlaps with a write may give either; afterwards all
                // is as the last write has it.
                let written = next(256) as u8;
                let jobs = (0..4).map(|_| {
                    let sector = next(60);
                    let count = 1 + next(4) as usize;
                    let write = next(2) == 0;
                    let cache = &cache;
                    async move {
                        let mut bytes = vec![written; count * SECTOR];
                        match write {
                            true => cache.write_bytes(sector, &bytes).await.unwrap(),
                            false => cache.read_bytes(sector, &mut bytes).await.unwrap(),
                        }
                        write.then_some(sector..sector + count as u64)
                    }
                });
                let written_ranges: Vec<_> = join_all(jobs).await.into_iter().flatten().collect();
                for sector in written_ranges.into_iter().flatten() {
                    let mut bytes = [0; SECTOR];
                    cache.read_bytes(sector, &mut bytes).await.unwrap();
                    assert_eq!(bytes, [written; SECTOR], "sector {sector}");
                }
            }
            let (hits, misses) = cache.hits_and_misses();
            assert!(hits > 0 && misses > 0, "{hits} hits, {misses} misses");
        });
    });
}

#[test]
fn a_faulty_device_fails_as_it_is_told() {
    check("faulty", 1, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let error = Error::Failed { operation: "write", sector: 3 };
            let disk = Faulty::new(RamDisk::new(domain, 8).unwrap(), async |ask| match ask {
                DeviceRequest::Write(sector, count) if (sector..sector + count).contains(&3) => Err(error),
                _ => Ok(()),
            });
            assert_eq!(disk.write_bytes(2, &[0; 2 * SECTOR]).await, Err(error));
            assert_eq!(disk.write_bytes(4, &[0; 2 * SECTOR]).await, Ok(()));
            assert_eq!(disk.flush().await, Ok(()));
        });
    });
}

#[test]
fn one_of_two_devices() {
    check("either", 1, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let disk = RamDisk::new(domain, 8).unwrap();
            let left: Either<_, Slice<RamDisk<Domain>>> = Either::Left(disk.clone());
            let right: Either<RamDisk<Domain>, _> = Either::Right(Slice::new(disk, 4, 4).unwrap());
            left.write_bytes(5, &[6; SECTOR]).await.unwrap();
            let mut bytes = [0; SECTOR];
            right.read_bytes(1, &mut bytes).await.unwrap();
            assert_eq!(bytes, [6; SECTOR]);
            assert_eq!((left.geometry().sectors, right.geometry().sectors), (8, 4));
            let other = left.buffer(SECTOR).unwrap();
            assert_eq!(right.read(0, other).await.1, Err(Error::Gone));
        });
    });
}

#[test]
fn a_stream_of_bytes_is_as_a_vector() {
    for size in [512, 4096] {
        check("stream", 50, |xen| {
            let domain = xen.domain();
            let mut next = random(xen);
            xen.run(async move {
                let disk = RamDisk::new(domain, 64).unwrap().with_sector_size(size);
                let mut model = vec![0_u8; 64 * SECTOR];
                let mut stream = Stream::new(disk);
                let mut position = 0;
                for _ in 0..60 {
                    match next(3) {
                        0 => {
                            position = next(model.len() as u64 + 100) as usize;
                            let seek = match next(3) {
                                0 => SeekFrom::Start(position as u64),
                                1 => SeekFrom::End(position as i64 - model.len() as i64),
                                _ => {
                                    let now = stream.stream_position().await.unwrap();
                                    SeekFrom::Current(position as i64 - now as i64)
                                }
                            };
                            assert_eq!(stream.seek(seek).await, Ok(position as u64));
                        }
                        1 => {
                            let mut bytes = vec![0; next(3000) as usize];
                            let count = stream.read(&mut bytes).await.unwrap();
                            assert_eq!(count, bytes.len().min(model.len().saturating_sub(position)));
                            assert!(bytes[..count] == model[position.min(model.len())..][..count]);
                            position += count;
                        }
                        _ => {
                            let bytes: Vec<u8> = (0..next(3000)).map(|_| next(256) as u8).collect();
                            match stream.write(&bytes).await {
                                Ok(count) => {
                                    model[position.min(64 * SECTOR)..][..count].copy_from_slice(&bytes[..count]);
                                    position += count;
                                }
                                Err(error) => {
                                    assert!(position >= model.len() && matches!(error, Error::OutOfRange { .. }));
                                }
                            }
                        }
                    }
                }
                assert!(stream.seek(SeekFrom::Current(i64::MIN)).await.is_err());
                stream.flush().await.unwrap();
            });
        });
    }
}

#[test]
fn blocks_for_other_crates_are_where_they_belong() {
    check("blocks", 1, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let disk = RamDisk::new(domain, 64).unwrap();
            let mut blocks = Blocks(disk.clone());
            assert_eq!(block_device_driver::BlockDevice::<2048>::size(&mut blocks).await, Ok(64 * 512));
            let data = [Aligned([3_u8; 2048]), Aligned([4; 2048])];
            blocks.write(5, &data).await.unwrap();
            let mut bytes = [0; SECTOR];
            for (sector, expected) in [(19, 0), (20, 3), (24, 4), (28, 0)] {
                disk.read_bytes(sector, &mut bytes).await.unwrap();
                assert_eq!(bytes, [expected; SECTOR], "sector {sector}");
            }
            let mut found = [Aligned([0_u8; 512]), Aligned([0; 512])];
            blocks.read(23, &mut found).await.unwrap();
            assert_eq!((found[0][0], found[1][511]), (3, 4));
            let outcome: Result<(), Error> = blocks.read(64, &mut found).await;
            assert!(matches!(outcome, Err(Error::OutOfRange { .. })));
        });
    });
}

/// A device that says that it is huge.
struct Huge {
    disk: RamDisk<Domain>,
    sectors: u64,
    sector_size: u32,
}

impl BlockDevice for Huge {
    type Buffer = PageBuffer<SimPage>;

    fn geometry(&self) -> Geometry {
        self.disk.geometry().with_sectors(self.sectors).with_sector_size(self.sector_size)
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error> {
        self.disk.buffer(len)
    }

    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        let outcome = self.geometry().check(sector, xen_blkif::Buffer::len(&buffer));
        (buffer, outcome)
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        self.read(sector, buffer).await
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn discard(&self, _: u64, _: u64, _: bool) -> Result<(), Error> {
        Ok(())
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        self.disk.changed(known).await
    }
}

/// Near the last byte that has a number nothing overflows: what is there is read, or is out of range.
#[test]
fn the_largest_device_has_an_end() {
    check("huge", 1, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let disk = RamDisk::new(domain, 8).unwrap();
            let sectors = u64::MAX / 512;
            let huge = || Huge { disk: disk.clone(), sectors, sector_size: 4096 };
            // No backend can promise more than that, but other devices could.
            let cache =
                Cache::new(Huge { sectors: u64::MAX, sector_size: 512, ..huge() }, NonZeroUsize::new(2).unwrap());
            for (sector, len) in [(u64::MAX - 1, 512), (u64::MAX - 9, 4608)] {
                assert_eq!(cache.read_bytes(sector, &mut vec![0; len]).await, Ok(()), "{sector}");
            }
            let outcome = cache.read_bytes(u64::MAX - 1, &mut [0; 1024]).await;
            assert!(matches!(outcome, Err(Error::OutOfRange { .. })), "{outcome:?}");
            let mut stream = Stream::new(huge());
            let end = sectors * 512 / 4096 * 4096;
            let mut bytes = [0; 100];
            for (position, count) in [(end - 10, 10), (end, 0), (u64::MAX, 0)] {
                stream.seek(SeekFrom::Start(position)).await.unwrap();
                assert_eq!(stream.read(&mut bytes).await, Ok(count), "at {position}");
            }
            assert!(stream.write(&bytes).await.is_err());
            assert!(Slice::new(huge(), 8, sectors).is_err());
            let slice = Slice::new(huge(), 8, sectors / 8 * 8 - 8).unwrap();
            assert!(matches!(slice.read_bytes(u64::MAX - 7, &mut [0; 4096]).await, Err(Error::OutOfRange { .. })));
        });
    });
}

#[test]
fn a_pointer_to_a_device_is_the_device() {
    check("pointers", 1, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            async fn writes(device: impl BlockDevice, byte: u8) {
                device.write_bytes(3, &[byte; 512]).await.unwrap();
                let (buffer, outcome) = device.read(3, device.buffer(512).unwrap()).await;
                outcome.unwrap();
                let mut bytes = [0; 512];
                xen_blkif::Buffer::read(&buffer, 0, &mut bytes);
                assert_eq!(bytes, [byte; 512]);
                device.discard(3, 1, false).await.unwrap();
                device.flush().await.unwrap();
                assert_eq!(device.geometry().sectors, 8);
            }
            let disk = RamDisk::new(domain, 8).unwrap();
            writes(&disk, 1).await;
            writes(&&disk, 2).await;
            writes(Rc::new(disk.clone()), 3).await;
            // As a library for any executor has it.
            #[allow(clippy::arc_with_non_send_sync)]
            writes(Arc::new(disk), 4).await;
        });
    });
}

/// A disk whose backend is not there says what it waits for.
#[test]
fn a_disk_that_waits_for_its_backend_says_so() {
    check("no backend", 2, |xen| {
        keep_log();
        let machine = xen.clone();
        xen.run(async move {
            let (guest, back) = (machine.domain(), machine.domain());
            machine.toolstack().attach("vbd", guest.id(), back.id(), 51712).await.unwrap();
            let (store, own) = (guest.store(), guest.clone());
            let (disk, driver) = xen_blkif::front::connect(&store, own, "device/vbd/51712", Default::default());
            guest.spawn(async move { drop(driver.await) }).detach();
            guest.sleep(Duration::from_secs(30)).await;
            let expected = format!(
                "device/vbd/51712: waiting for its backend for 5 s (domain {}, state 1, Initialising): its driver has \
                 not begun (is it loaded in that domain?)",
                back.id().0
            );
            assert_eq!(take_log(), [expected]);
            drop(disk);
        });
    });
}
