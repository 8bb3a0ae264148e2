//! Pools and volumes as an application uses them.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::slice::from_ref;

use futures_util::future::join_all;
use sarab_volumes::{BlockDevice, Content, Create, Error, FormatOptions, OpenOptions, Overlay, Pool, identify};
use support::{CHUNK, SECTOR, new_pool, open, random, read, read_all, stamped, until, with_room, write};
use xen_blkif::Error as DiskError;
use xen_blkif::powerloss::Power;
use xen_blkif::ramdisk::{PageBuffer, RamDisk};
use xen_blkif::{Buffer, Completed, Geometry};
use xen_sim::{Domain, SimPage, check};

#[test]
fn volumes_come_and_go_and_stay_over_a_restart() {
    for disks in [1, 2, 3] {
        check("volumes", 3, |xen| {
            let domain = xen.domain();
            xen.run(async move {
                let (power, pool) = new_pool(&domain, disks, 8).await;
                let free = pool.usage().free_sectors;
                pool.create("thin", &Create::thin(8 * CHUNK)).await.unwrap();
                pool.create("thick", &Create::thick(8 * CHUNK)).await.unwrap();
                pool.create("checked", &Create::thin(8 * CHUNK).with_integrity(true)).await.unwrap();
                assert_eq!(pool.create("thin", &Create::thin(8)).await, Err(Error::Exists));
                assert_eq!(pool.usage().reserved_sectors, 8 * CHUNK);
                for (number, name) in ["thin", "thick", "checked"].into_iter().enumerate() {
                    let volume = pool.volume(name).unwrap();
                    assert_eq!(read_all(&volume).await, [0; 8 * CHUNK as usize]);
                    write(&volume, 3 * CHUNK - 5, 10, 1 + number as u32).await.unwrap();
                    assert_eq!(read(&volume, 3 * CHUNK - 6, 12).await.unwrap()[1..11], [1 + number as u32; 10]);
                    volume.flush().await.unwrap();
                }
                assert_eq!(pool.usage().free_sectors, free - 6 * CHUNK);
                assert_eq!(pool.usage().reserved_sectors, 6 * CHUNK);
                assert!(pool.check().await.unwrap().is_clean());
                drop(pool);

                let pool = open(&domain, power.cut(power.now(), 1).disks()).await;
                let names: Vec<_> =
                    pool.volumes().into_iter().map(|info| (info.name, info.thick, info.integrity)).collect();
                let expected = [("checked", false, true), ("thick", true, false), ("thin", false, false)];
                assert_eq!(names, expected.map(|(name, thick, integrity)| (name.to_string(), thick, integrity)));
                assert_eq!(read(&pool.volume("checked").unwrap(), 3 * CHUNK, 6).await.unwrap(), [3, 3, 3, 3, 3, 0]);
                pool.rename("thin", "other").await.unwrap();
                assert_eq!(pool.rename("other", "thick").await, Err(Error::Exists));
                assert_eq!(pool.volume("thin").err(), Some(Error::NotFound));
                let other = pool.volume("other").unwrap();
                assert_eq!(pool.delete("other").await, Err(Error::InUse));
                drop(other);
                for name in ["other", "thick", "checked"] {
                    pool.delete(name).await.unwrap();
                    assert_eq!(pool.volume(name).err(), Some(Error::NotFound));
                }
                until(&domain, || pool.usage().free_sectors == free).await;
                assert_eq!(pool.usage().reserved_sectors, 0);
                let report = pool.check().await.unwrap();
                assert!(report.is_clean() && report.chunks == 0, "{report:?}");
            });
        });
    }
}

#[test]
fn snapshots_keep_what_was() {
    for integrity in [false, true] {
        check("snapshots", 3, |xen| {
            let domain = xen.domain();
            xen.run(async move {
                let (_, pool) = new_pool(&domain, 1, 16).await;
                let free = pool.usage().free_sectors;
                pool.create("v", &Create::thin(8 * CHUNK).with_integrity(integrity)).await.unwrap();
                let volume = pool.volume("v").unwrap();
                for stamp in 1..=5 {
                    write(&volume, 0, 2 * CHUNK, stamp).await.unwrap();
                    write(&volume, u64::from(stamp) * CHUNK, 8, 100 + stamp).await.unwrap();
                    pool.snapshot("v", &format!("s{stamp}"), stamp % 2 == 0).await.unwrap();
                }
                write(&volume, 0, 2, 6).await.unwrap();
                for stamp in 1..=5 {
                    let snapshot = pool.volume(&format!("s{stamp}")).unwrap();
                    assert_eq!(read(&snapshot, 0, 4).await.unwrap(), [stamp; 4]);
                    assert_eq!(read(&snapshot, u64::from(stamp) * CHUNK, 1).await.unwrap(), [100 + stamp]);
                    let written = write(&snapshot, 1, 1, 50).await;
                    assert_eq!(written, if stamp % 2 == 0 { Ok(()) } else { Err(DiskError::ReadOnly) });
                }
                assert_eq!(read(&volume, 0, 3).await.unwrap(), [6, 6, 5]);
                assert_eq!(read(&pool.volume("s2").unwrap(), 0, 3).await.unwrap(), [2, 50, 2]);
                // A snapshot of a snapshot.
                pool.snapshot("s2", "s2a", true).await.unwrap();
                assert_eq!(
                    pool.volumes().iter().find(|info| info.name == "s2a").unwrap().origin.as_deref(),
                    Some("s2")
                );
                assert_eq!(read(&pool.volume("s2a").unwrap(), 0, 3).await.unwrap(), [2, 50, 2]);
                assert!(pool.check().await.unwrap().is_clean());
                drop(volume);
                for name in ["s3", "v", "s2", "s1", "s5", "s4"] {
                    pool.delete(name).await.unwrap();
                    assert!(pool.check().await.unwrap().is_clean(), "{name}");
                }
                assert_eq!(read(&pool.volume("s2a").unwrap(), 0, 3).await.unwrap(), [2, 50, 2]);
                pool.delete("s2a").await.unwrap();
                until(&domain, || pool.usage().free_sectors == free).await;
                assert!(pool.check().await.unwrap().is_clean());
            });
        });
    }
}

#[test]
fn a_volume_grows_while_it_is_used() {
    check("growth", 3, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let (power, pool) = new_pool(&domain, 1, 16).await;
            pool.create("v", &Create::thin(8)).await.unwrap();
            let volume = pool.volume("v").unwrap();
            write(&volume, 0, 8, 1).await.unwrap();
            pool.snapshot("v", "s", true).await.unwrap();
            let before = volume.geometry();
            // To a tree of more levels, twice.
            for chunks in [2, 600, 600 * 600] {
                pool.grow("v", chunks * CHUNK).await.unwrap();
                assert_eq!(volume.changed(&before).await.sectors, chunks * CHUNK);
                write(&volume, (chunks - 1) * CHUNK, 1, 2).await.unwrap();
                assert_eq!(read(&volume, (chunks - 1) * CHUNK, 2).await.unwrap(), [2, 0]);
                assert_eq!(read(&volume, 0, 9).await.unwrap(), [1, 1, 1, 1, 1, 1, 1, 1, 0]);
            }
            assert_eq!(read(&pool.volume("s").unwrap(), 0, 8).await.unwrap(), [1; 8]);
            assert!(matches!(pool.grow("v", 8).await, Err(Error::Invalid(_))));
            assert!(pool.check().await.unwrap().is_clean());
            let pool = open(&domain, power.cut(power.now(), 2).disks()).await;
            assert_eq!(pool.volume("v").unwrap().geometry().sectors, 600 * 600 * CHUNK);
        });
    });
}

#[test]
fn discarded_chunks_are_free_and_read_as_zeroes() {
    for create in [Create::thin(8 * CHUNK), Create::thick(8 * CHUNK), Create::thin(8 * CHUNK).with_integrity(true)] {
        check("discard", 3, |xen| {
            let domain = xen.domain();
            xen.run(async move {
                let (_, pool) = new_pool(&domain, 1, 8).await;
                pool.create("v", &create).await.unwrap();
                let volume = pool.volume("v").unwrap();
                write(&volume, 0, 8 * CHUNK, 1).await.unwrap();
                let free = pool.usage().free_sectors;
                volume.discard(CHUNK - 1, 2 * CHUNK, false).await.unwrap();
                assert_eq!(pool.usage().free_sectors, free + CHUNK);
                let all = read_all(&volume).await;
                assert!(all.iter().enumerate().all(|(sector, stamp)| *stamp == u32::from(sector as u64 / CHUNK != 1)));
                assert!(matches!(volume.discard(0, CHUNK, true).await, Err(DiskError::Unsupported(_))));
                assert!(matches!(volume.discard(8 * CHUNK, 1, false).await, Err(DiskError::OutOfRange { .. })));
                volume.discard(0, 8 * CHUNK, false).await.unwrap();
                assert_eq!(read_all(&volume).await, [0; 8 * CHUNK as usize]);
                assert!(pool.check().await.unwrap().is_clean());
            });
        });
    }
}

#[test]
fn a_full_pool_tells_its_writer_and_disturbs_no_other() {
    check("full", 3, |xen| {
        let domain = with_room(xen);
        xen.run(async move {
            let (_, pool) = new_pool(&domain, 1, 8).await;
            pool.create("thick", &Create::thick(10 * CHUNK)).await.unwrap();
            pool.create("checked", &Create::thin(10 * CHUNK).with_integrity(true)).await.unwrap();
            pool.create("greedy", &Create::thin(1000 * CHUNK)).await.unwrap();
            let all = pool.usage().sectors;
            assert_eq!(pool.create("large", &Create::thick(all)).await, Err(Error::NoSpace));
            let [thick, checked, greedy] = ["thick", "checked", "greedy"].map(|name| pool.volume(name).unwrap());
            write(&checked, 0, 10 * CHUNK, 1).await.unwrap();
            let mut written = 0;
            let error = loop {
                match write(&greedy, written * CHUNK, CHUNK, 9).await {
                    Ok(()) => written += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!(error, DiskError::NoSpace);
            assert!(pool.usage().no_space > 0 && written > 50, "{written}");
            // What is there can be written, what is reserved as well, and checksums need no space of others.
            write(&greedy, 0, CHUNK, 8).await.unwrap();
            write(&thick, 0, 10 * CHUNK, 2).await.unwrap();
            for stamp in 3..20 {
                write(&checked, 1, 10 * CHUNK - 2, stamp).await.unwrap();
                checked.flush().await.unwrap();
            }
            assert_eq!(read(&checked, 0, 2).await.unwrap(), [1, 19]);
            assert_eq!(pool.snapshot("greedy", "s", true).await, Ok(()), "it takes no space");
            assert_eq!(write(&greedy, 0, 1, 7).await, Err(DiskError::NoSpace));
            assert_eq!(read(&greedy, 0, 1).await.unwrap(), [8]);
            pool.delete("s").await.unwrap();
            // Room comes back, if not at once.
            greedy.discard(CHUNK, 3 * CHUNK, false).await.unwrap();
            write(&greedy, 999 * CHUNK, CHUNK, 7).await.unwrap();
            assert!(pool.check().await.unwrap().is_clean());
        });
    });
}

#[test]
fn many_requests_are_under_way_at_once() {
    for create in [Create::thin(32 * CHUNK), Create::thick(32 * CHUNK), Create::thin(32 * CHUNK).with_integrity(true)] {
        check("many", 20, |xen| {
            let domain = with_room(xen);
            let mut random = random(xen);
            xen.run(async move {
                let (_, pool) = new_pool(&domain, 2, 8).await;
                pool.create("v", &create).await.unwrap();
                let volume = pool.volume("v").unwrap();
                let mut model = vec![0; 32 * CHUNK as usize];
                let mut stamp = 0;
                for round in 0..4 {
                    // Writes that do not overlap, in any order; reads of anything and flushes between.
                    let mut at = 0;
                    let mut jobs = Vec::new();
                    while at < 30 * CHUNK {
                        let count = 1 + random(200);
                        stamp += 1;
                        if random(3) > 0 {
                            model[at as usize..(at + count) as usize].fill(stamp);
                            jobs.push((at, count, stamp));
                        }
                        at += count;
                    }
                    let writes = jobs.iter().map(|(at, count, stamp)| write(&volume, *at, *count, *stamp));
                    let others = (0..10).map(async |_| {
                        volume.flush().await?;
                        read(&volume, 3 * CHUNK, 5 * CHUNK).await.map(drop)
                    });
                    let snapshot = async {
                        if !create.thick {
                            pool.snapshot("v", &format!("s{round}"), false).await.unwrap();
                        }
                    };
                    let (written, read, ()) =
                        futures_util::future::join3(join_all(writes), join_all(others), snapshot).await;
                    assert!(written.into_iter().chain(read).all(|outcome| outcome.is_ok()));
                    assert_eq!(read_all(&volume).await, model);
                    if !create.thick {
                        pool.delete(&format!("s{round}")).await.unwrap();
                    }
                }
                assert!(pool.check().await.unwrap().is_clean());
            });
        });
    }
}

#[test]
fn flushes_at_once_are_one_commit() {
    check("flushes", 3, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let (_, pool) = new_pool(&domain, 1, 8).await;
            pool.create("v", &Create::thin(32 * CHUNK)).await.unwrap();
            let volume = pool.volume("v").unwrap();
            write(&volume, 0, 1, 1).await.unwrap();
            let before = pool.usage().commits;
            join_all((0..50).map(|_| volume.flush())).await.into_iter().collect::<Result<(), _>>().unwrap();
            assert_eq!(pool.usage().commits, before + 1);
            // Nothing is mapped anew: the disks alone are flushed.
            write(&volume, 1, 1, 1).await.unwrap();
            volume.flush().await.unwrap();
            assert_eq!(pool.usage().commits, before + 1);
        });
    });
}

#[test]
fn disks_that_are_no_pool_are_refused_with_words() {
    check("refused", 1, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let power = Power::new(domain.clone());
            let disks: Vec<_> = (0..3).map(|_| power.disk(8 << 11)).collect();
            let options = FormatOptions::default();
            let opened = async |disks: &[_]| {
                let error = Pool::open(disks.to_vec(), &OpenOptions::default()).await.err().unwrap();
                (error, error.to_string())
            };
            let (_, text) = opened(&disks[..1]).await;
            assert_eq!(text, "disk 0 is of no pool: it holds nothing but zeroes");
            disks[1].write_bytes(2, &[&[0; 56][..], &[0x53, 0xef], &[0; 454]].concat()).await.unwrap();
            let error = Pool::format(&disks, [1; 16], &options).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                "disk 1 is not empty: it holds an ext2, ext3 or ext4 file system; formatting it has to be forced"
            );
            Pool::format(&disks[..2], [1; 16], &options.with_force(true)).await.unwrap();
            assert_eq!(identify(&disks[1]).await, Ok(Content::Pool));
            let error = Pool::format(&disks[..2], [1; 16], &options).await.unwrap_err();
            assert_eq!(error, Error::NotEmpty { disk: 0, content: Content::Pool });

            Pool::format(&disks[2..], [2; 16], &options).await.unwrap();
            let pick = |list: &[usize]| list.iter().map(|disk| disks[*disk].clone()).collect::<Vec<_>>();
            assert_eq!(opened(&pick(&[0])).await.0, Error::DiskCount { given: 1, expected: 2 });
            assert_eq!(opened(&pick(&[1, 0])).await.0, Error::Swapped { disk: 0, label: 1 });
            assert_eq!(opened(&pick(&[0, 0])).await.0, Error::Swapped { disk: 1, label: 0 });
            assert_eq!(opened(&pick(&[0, 2])).await.0, Error::Foreign { disk: 1 });
            assert_eq!(opened(&pick(&[0, 2])).await.1, "disk 1 is of another pool than disk 0");
            assert!(Pool::open(pick(&[0, 1]), &OpenOptions::default()).await.is_ok());

            let small = RamDisk::new(domain.clone(), 2 << 11).unwrap();
            let error = Pool::format(from_ref(&small), [1; 16], &options).await.unwrap_err();
            assert_eq!(error.to_string(), "disk 0 cannot be used: it is too small");
            let error = Pool::format(&[small.read_only()], [1; 16], &options).await.unwrap_err();
            assert_eq!(error.to_string(), "disk 0 cannot be used: it is read-only");
            assert!(matches!(Pool::format(&disks[..0], [1; 16], &options).await, Err(Error::Invalid(_))));
            let huge = power.disk(16 << 21);
            let error = Pool::format(&[huge], [1; 16], &options.with_metadata_bytes(1 << 20)).await.unwrap_err();
            assert_eq!(error.to_string(), "that is too little metadata for disks of this size");
        });
    });
}

#[test]
fn names_and_sizes_that_cannot_be() {
    check("names", 1, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let (_, pool) = new_pool(&domain, 1, 8).await;
            for name in ["", "-v", ".", "..", "a/b", "a b", "ü", &"x".repeat(64)] {
                assert!(matches!(pool.create(name, &Create::thin(8)).await, Err(Error::Invalid(_))), "{name}");
            }
            for sectors in [0, 7, u64::MAX, u64::MAX / 8 * 8, 1 << 60] {
                assert!(matches!(pool.create("v", &Create::thin(sectors)).await, Err(Error::Invalid(_))), "{sectors}");
            }
            let largest = 1 << 37;
            pool.create("v", &Create::thin(largest)).await.unwrap();
            pool.create("w", &Create::thin(largest).with_integrity(true)).await.unwrap();
            for name in ["v", "w"] {
                let volume = pool.volume(name).unwrap();
                write(&volume, largest - 8, 8, 7).await.unwrap();
                assert_eq!(read(&volume, largest - 9, 9).await.unwrap(), [0, 7, 7, 7, 7, 7, 7, 7, 7]);
                assert!(matches!(write(&volume, largest - 7, 8, 7).await, Err(DiskError::OutOfRange { .. })));
                volume.discard(0, largest, false).await.unwrap();
                assert_eq!(read(&volume, largest - 9, 9).await.unwrap(), [0; 9]);
            }
            assert!(pool.check().await.unwrap().is_clean());
        });
    });
}

#[test]
fn as_many_volumes_as_there_can_be() {
    check("volumes", 1, |xen| {
        let domain = with_room(xen);
        xen.run(async move {
            let power = Power::new(domain.clone());
            let disk = power.disk(128 << 11);
            let options = FormatOptions::default().with_metadata_bytes(8 << 20);
            Pool::format(from_ref(&disk), [7; 16], &options).await.unwrap();
            let pool = open(&domain, vec![disk.clone()]).await;
            pool.create("v0", &Create::thin(8 * CHUNK)).await.unwrap();
            let volume = pool.volume("v0").unwrap();
            for number in 1..sarab_volumes::MAX_VOLUMES as u32 {
                write(&volume, u64::from(number % 8) * CHUNK, 1, number).await.unwrap();
                pool.snapshot("v0", &format!("v{number}"), true).await.unwrap();
            }
            assert_eq!(pool.snapshot("v0", "more", true).await, Err(Error::TooManyVolumes));
            drop((volume, pool));
            let pool = open(&domain, vec![disk]).await;
            assert_eq!(pool.usage().volumes, sarab_volumes::MAX_VOLUMES);
            assert_eq!(read(&pool.volume("v1001").unwrap(), CHUNK, 2).await.unwrap(), [1001, 0]);
            assert!(pool.check().await.unwrap().is_clean());
            let free = pool.usage().sectors;
            for info in pool.volumes() {
                pool.delete(&info.name).await.unwrap();
            }
            until(&domain, || pool.usage().free_sectors == free).await;
            assert!(pool.check().await.unwrap().is_clean());
        });
    });
}

#[test]
fn requests_that_are_dropped_are_finished_by_the_runner() {
    check("dropped", 100, |xen| {
        let domain = xen.domain();
        let mut random = random(xen);
        xen.run(async move {
            let (_, pool) = new_pool(&domain, 1, 8).await;
            pool.create("v", &Create::thin(8 * CHUNK)).await.unwrap();
            pool.create("w", &Create::thin(8 * CHUNK).with_integrity(true)).await.unwrap();
            let volumes = [pool.volume("v").unwrap(), pool.volume("w").unwrap()];
            for stamp in 1..30 {
                let volume = &volumes[random(2) as usize];
                let bytes = stamped(stamp, 20);
                let mut job = Box::pin(volume.write_bytes(random(7 * CHUNK), &bytes));
                for _ in 0..random(12) {
                    if futures_util::poll!(job.as_mut()).is_ready() {
                        break;
                    }
                    xenbus::yield_now().await;
                }
                drop(job);
                if random(3) == 0 {
                    volume.discard(0, 8 * CHUNK, false).await.unwrap();
                }
                if random(4) == 0 {
                    let name = format!("s{stamp}");
                    let _ = futures_util::poll!(Box::pin(pool.snapshot("v", &name, true)));
                }
            }
            drop(volumes);
            pool.flush().await.unwrap();
            assert!(pool.check().await.unwrap().is_clean());
            for name in ["v", "w"] {
                read_all(&pool.volume(name).unwrap()).await;
            }
        });
    });
}

#[test]
fn without_a_runner_nothing_waits_for_ever() {
    check("gone", 1, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let (_, pool) = new_pool(&domain, 1, 8).await;
            pool.create("v", &Create::thin(8 * CHUNK)).await.unwrap();
            let disk = RamDisk::new(domain.clone(), 8 << 11).unwrap();
            Pool::format(from_ref(&disk), [3; 16], &FormatOptions::default()).await.unwrap();
            let (lonely, runner) = Pool::open(vec![disk], &OpenOptions::default()).await.unwrap();
            drop(runner);
            assert_eq!(lonely.create("v", &Create::thin(8)).await, Err(Error::Gone));
            assert_eq!(lonely.flush().await, Err(Error::Gone));
        });
    });
}

#[test]
fn buffers_hold_nothing_of_other_volumes() {
    check("buffers", 1, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let (_, pool) = new_pool(&domain, 1, 8).await;
            pool.create("v", &Create::thin(8 * CHUNK)).await.unwrap();
            let buffer = pool.volume("v").unwrap().buffer(3 * SECTOR).unwrap();
            let mut bytes = [1; 3 * SECTOR];
            buffer.read(0, &mut bytes);
            assert_eq!(bytes, [0; 3 * SECTOR]);
        });
    });
}

/// A disk of 64 MiB, of which only the blocks that are not zero take memory.
#[derive(Clone)]
struct Sparse {
    memory: Domain,
    blocks: Rc<RefCell<BTreeMap<u64, Box<[u8; SECTOR]>>>>,
}

impl Sparse {
    /// Bytes that it has allocated, about.
    fn allocation(&self) -> usize {
        self.blocks.borrow().len() * (SECTOR + 24)
    }
}

impl BlockDevice for Sparse {
    type Buffer = PageBuffer<SimPage>;

    fn geometry(&self) -> Geometry {
        Geometry::plain(64 << 11).with_flush(true)
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, DiskError> {
        PageBuffer::new(&self.memory, len)
    }

    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        for number in 0..buffer.len() / SECTOR {
            let bytes = self.blocks.borrow().get(&(sector + number as u64)).map_or([0; SECTOR], |bytes| **bytes);
            buffer.write(number * SECTOR, &bytes);
        }
        (buffer, Ok(()))
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        for number in 0..buffer.len() / SECTOR {
            let mut bytes = Box::new([0; SECTOR]);
            buffer.read(number * SECTOR, &mut bytes[..]);
            match *bytes == [0; SECTOR] {
                true => drop(self.blocks.borrow_mut().remove(&(sector + number as u64))),
                false => drop(self.blocks.borrow_mut().insert(sector + number as u64, bytes)),
            }
        }
        (buffer, Ok(()))
    }

    async fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }

    async fn discard(&self, _: u64, _: u64, _: bool) -> Result<(), DiskError> {
        Err(DiskError::Unsupported("discard"))
    }

    async fn changed(&self, _: &Geometry) -> Geometry {
        core::future::pending().await
    }
}

#[test]
fn metadata_takes_no_more_memory_than_it_may() {
    check("memory", 1, |xen| {
        let domain = with_room(xen);
        xen.run(async move {
            let machine = domain.machine();
            let disk = Sparse { memory: domain.clone(), blocks: Rc::default() };
            let options = FormatOptions::default().with_metadata_bytes(12 << 20);
            Pool::format(from_ref(&disk), [7; 16], &options).await.unwrap();
            let before = machine.allocation() - disk.allocation();
            let pool = open(&domain, vec![disk.clone()]).await;
            // Each of these chunks is far from all others: its leaf and what is above are its own.
            pool.create("v", &Create::thin(1 << 37)).await.unwrap();
            let volume = pool.volume("v").unwrap();
            let far = |chunk: u64| chunk * (1 << 37) / 512;
            for chunk in 0..500 {
                volume.write_bytes(far(chunk), &stamped(chunk as u32 + 1, 1)).await.unwrap();
            }
            for chunk in 0..500 {
                assert_eq!(read(&volume, far(chunk), 1).await.unwrap(), [chunk as u32 + 1]);
            }
            let free = pool.usage().free_metadata_blocks;
            let used = pool.usage().metadata_blocks - free;
            assert!(used > 700, "{used} blocks, of which memory holds 256");
            let taken = machine.allocation() - disk.allocation() - before;
            assert!(taken < 2 * sarab_volumes::MIN_CACHE + (512 << 10), "{taken} bytes");
            assert!(pool.check().await.unwrap().is_clean());
            // What is discarded takes no metadata either.
            volume.discard(0, 1 << 37, false).await.unwrap();
            pool.flush().await.unwrap();
            assert!(pool.usage().free_metadata_blocks > free + 700, "{:?}", pool.usage());
            assert!(pool.check().await.unwrap().is_clean());
        });
    });
}

#[test]
fn an_overlay_is_the_device_and_what_was_written() {
    check("overlay", 50, |xen| {
        let domain = xen.domain();
        let mut random = random(xen);
        xen.run(async move {
            let disk = RamDisk::new(domain, 200).unwrap();
            disk.write_bytes(0, &stamped(1, 200)).await.unwrap();
            let blocks = 12;
            let overlay = Overlay::new(disk.clone(), blocks * (4096 + 64));
            let (mut model, mut is_kept) = (vec![1; 200], [false; 25]);
            for stamp in 2..60 {
                let first = random(200);
                let count = 1 + random((200 - first).min(20));
                let touched = first as usize / 8..(first + count).div_ceil(8) as usize;
                if random(5) == 0 {
                    overlay.discard(first, count, false).await.unwrap();
                    for block in first.div_ceil(8) as usize..(first + count) as usize / 8 {
                        is_kept[block] = false;
                        model[block * 8..block * 8 + 8].fill(1);
                    }
                } else {
                    let kept = is_kept.iter().filter(|kept| **kept).count();
                    let fits = kept + touched.clone().filter(|block| !is_kept[*block]).count() <= blocks;
                    let outcome = overlay.write_bytes(first, &stamped(stamp, count)).await;
                    assert_eq!(outcome, if fits { Ok(()) } else { Err(DiskError::NoSpace) });
                    if !fits {
                        // What it has of this is open.
                        overlay.discard(0, 200, false).await.unwrap();
                        (model, is_kept) = (vec![1; 200], [false; 25]);
                        continue;
                    }
                    model[first as usize..(first + count) as usize].fill(stamp);
                    is_kept[touched].fill(true);
                }
                assert_eq!(read_all(&overlay).await, model);
                assert!(overlay.used_bytes() <= blocks * (4096 + 64));
            }
            assert_eq!(read_all(&disk).await, [1; 200]);
            overlay.flush().await.unwrap();
            assert!(overlay.write_bytes(200, &[0; SECTOR]).await.is_err());
            assert!(matches!(overlay.discard(0, 8, true).await, Err(DiskError::Unsupported(_))));
            let read_only = Overlay::new(disk.read_only(), 1 << 20);
            read_only.write_bytes(3, &stamped(9, 1)).await.unwrap();
            assert_eq!(read(&read_only, 2, 3).await.unwrap(), [1, 9, 1]);
        });
    });
}
