//! Disks that return other bytes than were written.

mod support;

use futures_util::future::join_all;
use sarab_volumes::{BlockDevice, Create, Error, OpenOptions, Pool, Scrub};
use support::{CHUNK, Drive, SECTOR, new_pool, open, random, read, read_all, until, with_room, write};
use xen_blkif::Error as DiskError;
use xen_blkif::faulty::{DeviceRequest, Faulty};
use xen_blkif::powerloss::Power;
use xen_sim::{Domain, check, keep_log, take_log};

/// Changes a byte of a disk.
async fn damage(disk: &Drive, at: u64) {
    let (sector, mut bytes) = (at / SECTOR as u64, [0; SECTOR]);
    disk.read_bytes(sector, &mut bytes).await.unwrap();
    bytes[at as usize % SECTOR] ^= 0x40;
    disk.write_bytes(sector, &bytes).await.unwrap();
}

/// A pool with two volumes, a snapshot, and what they hold.
async fn some_pool(domain: &Domain, disks: usize) -> (Power<Domain>, Vec<(String, Vec<u32>)>) {
    let (power, pool) = new_pool(domain, disks, 4).await;
    pool.create("v", &Create::thin(4 * CHUNK)).await.unwrap();
    pool.create("w", &Create::thin(4 * CHUNK).with_integrity(true)).await.unwrap();
    for (name, stamp) in [("v", 1), ("w", 2)] {
        write(&pool.volume(name).unwrap(), 5, 2 * CHUNK, stamp).await.unwrap();
    }
    pool.snapshot("v", "s", true).await.unwrap();
    write(&pool.volume("v").unwrap(), 0, 9, 3).await.unwrap();
    pool.flush().await.unwrap();
    let names = pool.volumes().into_iter().map(|info| info.name);
    let all = join_all(names.map(async |name| (name.clone(), read_all(&pool.volume(&name).unwrap()).await))).await;
    assert!(pool.check().await.unwrap().is_clean());
    drop(pool);
    (power.cut(power.now(), 1), all)
}

async fn try_open(domain: &Domain, power: &Power<Domain>) -> Result<Pool<Drive>, Error> {
    let (pool, runner) = Pool::open(power.disks(), &OpenOptions::default()).await?;
    domain.spawn(runner).detach();
    Ok(pool)
}

/// The places of labels and superblocks, in pairs of copies: disk and first byte.
fn pairs(disks: usize) -> Vec<[(usize, u64); 2]> {
    let last = (4 << 20) - (64 << 10);
    let other = |at: u64| if disks == 1 { (0, last + at) } else { (1, at) };
    let labels = (0..disks).map(|disk| [(disk, 0), (disk, last)]);
    labels.chain([4096, 8192].map(|at| [(0, at), other(at)])).collect()
}

#[test]
fn each_byte_of_labels_and_superblocks() {
    for disks in [1, 2] {
        check("records", 1, |xen| {
            let domain = with_room(xen);
            xen.run(async move {
                let (power, expected) = some_pool(&domain, disks).await;
                for pair in pairs(disks) {
                    for byte in 0..SECTOR as u64 {
                        for copies in [&pair[..1], &pair[1..], &pair] {
                            let after = power.cut(power.now(), byte);
                            for (disk, at) in copies {
                                damage(&after.disks()[*disk], at + byte).await;
                            }
                            match try_open(&domain, &after).await {
                                Ok(pool) => {
                                    assert_eq!(copies.len(), 1, "byte {byte} of {copies:?}");
                                    assert_eq!(pool.usage().repaired, 1);
                                    assert_eq!(pool.volumes().len(), expected.len());
                                    assert_eq!(try_open(&domain, &after).await.unwrap().usage().repaired, 0);
                                }
                                Err(error) => {
                                    assert_eq!(copies.len(), 2, "byte {byte} of {copies:?}: {error}");
                                    assert!(matches!(error, Error::Damaged { .. } | Error::NoPool { .. }), "{error}");
                                }
                            }
                        }
                    }
                }
            });
        });
    }
}

#[test]
fn each_block_of_metadata() {
    for disks in [1, 2] {
        check("blocks", 1, |xen| {
            let domain = with_room(xen);
            let mut random = random(xen);
            xen.run(async move {
                let (power, expected) = some_pool(&domain, disks).await;
                let last = (4 << 20) - (64 << 10) - (1 << 20);
                let mut in_use = 0;
                for address in 1..256 {
                    let first = (64 << 10) + address * 4096;
                    let copies = [(0, first), if disks == 1 { (0, last + address * 4096) } else { (1, first) }];
                    let mut bytes = [0; 4096];
                    power.disks()[0].read_bytes(first / SECTOR as u64, &mut bytes).await.unwrap();
                    if bytes == [0; 4096] {
                        continue;
                    }
                    for part in 0..16 {
                        let byte = part * 256 + random(256);
                        for copies in [&copies[..1], &copies[1..], &copies] {
                            let after = power.cut(power.now(), byte);
                            for (disk, at) in copies {
                                damage(&after.disks()[*disk], at + byte).await;
                            }
                            let at = format!("byte {byte} of {copies:?}");
                            let pool = match try_open(&domain, &after).await {
                                Ok(pool) => pool,
                                Err(error) => {
                                    assert_eq!(copies.len(), 2, "{at}: {error}");
                                    in_use += 1;
                                    continue;
                                }
                            };
                            let mut failed = false;
                            for (name, expected) in &expected {
                                let volume = pool.volume(name).unwrap();
                                for first in (0..expected.len()).step_by(CHUNK as usize) {
                                    match read(&volume, first as u64, CHUNK).await {
                                        Ok(found) => assert!(found == expected[first..][..CHUNK as usize], "{at}"),
                                        Err(DiskError::Failed { .. }) => failed = true,
                                        Err(error) => panic!("{at}: {error}"),
                                    }
                                }
                            }
                            let report = pool.scrub(|_| {}).await.unwrap();
                            in_use += report.damaged;
                            assert!(!failed || copies.len() == 2 && report.damaged == 1, "{at}");
                            assert!(report.damaged == 0 || copies.len() == 2, "{at}");
                            if copies.len() == 1 {
                                let report = pool.scrub(|_| {}).await.unwrap();
                                assert_eq!((report.repaired, report.damaged), (0, 0), "{at}");
                                assert!(pool.check().await.unwrap().is_clean(), "{at}");
                            }
                        }
                    }
                }
                assert!(in_use > 100, "{in_use}");
            });
        });
    }
}

#[test]
fn a_block_that_lost_its_write_is_taken_from_the_other_copy() {
    check("lost", 1, |xen| {
        let domain = with_room(xen);
        xen.run(async move {
            let (power, expected) = some_pool(&domain, 2).await;
            // The second disk's metadata is of an older time.
            let (older, _) = (power.disks()[1].clone(), ());
            let mut before = vec![0; 1 << 20];
            older.read_bytes(CHUNK, &mut before).await.unwrap();
            let pool = open(&domain, power.disks()).await;
            write(&pool.volume("v").unwrap(), 0, 4 * CHUNK, 9).await.unwrap();
            pool.flush().await.unwrap();
            drop(pool);
            older.write_bytes(CHUNK, &before).await.unwrap();
            let pool = open(&domain, power.disks()).await;
            assert_eq!(read_all(&pool.volume("v").unwrap()).await, [9; 4 * CHUNK as usize]);
            assert_eq!(read_all(&pool.volume("s").unwrap()).await, expected[0].1);
            let report = pool.scrub(|_| {}).await.unwrap();
            assert!(report.repaired > 0 && report.damaged == 0, "{report:?}");
        });
    });
}

/// The bytes of a disk that hold a number, as it was written.
async fn places_of(disk: &Drive, stamp: u32) -> Vec<u64> {
    let mut places = Vec::new();
    let mut bytes = vec![0; 64 << 10];
    for sector in (0..disk.geometry().sectors).step_by(128) {
        disk.read_bytes(sector, &mut bytes).await.unwrap();
        let here = bytes.chunks(SECTOR).zip(sector..).filter(|(part, _)| part[..4] == stamp.to_le_bytes());
        places.extend(here.map(|(_, sector)| sector * SECTOR as u64));
    }
    places
}

#[test]
fn damaged_data_is_noticed_named_and_can_be_overwritten() {
    check("checksums", 2, |xen| {
        let domain = with_room(xen);
        keep_log();
        xen.run(async move {
            let (power, pool) = new_pool(&domain, 1, 8).await;
            pool.create("mail", &Create::thin(8 * CHUNK).with_integrity(true)).await.unwrap();
            let mail = pool.volume("mail").unwrap();
            write(&mail, 0, 8 * CHUNK, 1).await.unwrap();
            write(&mail, 3 * CHUNK + 9, 1, 77).await.unwrap();
            mail.flush().await.unwrap();
            let places = places_of(&power.disks()[0], 77).await;
            for place in places {
                damage(&power.disks()[0], place + 100).await;
            }
            let bad = 3 * CHUNK + 8;
            let failed = DiskError::Failed { operation: "read", sector: bad };
            assert_eq!(read(&mail, 3 * CHUNK, 20).await, Err(failed));
            assert_eq!(read(&mail, bad + 2, 1).await, Err(failed));
            assert_eq!(read(&mail, bad + 8, 8).await.unwrap(), [1; 8], "its neighbours are whole");
            let line = "volume mail: checksum error, 8 sectors from sector 392";
            assert!(take_log().iter().any(|logged| logged.contains(line)));
            assert_eq!(pool.volumes()[0].bad_blocks, 2);
            let mut told = Vec::new();
            let report = pool.scrub(|scrub| told.push(scrub)).await.unwrap();
            assert_eq!((report.bad_blocks, report.sectors), (1, 8 * CHUNK));
            assert!(told.contains(&Scrub::BadBlock { volume: "mail".into(), sector: bad }));
            assert!(matches!(told.last(), Some(Scrub::Progress { done, total, .. }) if done == total));
            // Others are written beside it, and it stays bad; in part it cannot be written, as a whole it can.
            write(&mail, bad + 16, 1, 5).await.unwrap();
            assert_eq!(read(&mail, bad + 16, 1).await.unwrap(), [5]);
            mail.flush().await.unwrap();
            write(&mail, bad + 24, 1, 5).await.unwrap();
            assert!(read(&mail, bad, 8).await.is_err());
            assert!(matches!(write(&mail, bad + 1, 1, 5).await, Err(DiskError::Failed { .. })));
            write(&mail, bad, 8, 6).await.unwrap();
            assert_eq!(read(&mail, bad, 8).await.unwrap(), [6; 8]);
            assert_eq!(pool.scrub(|_| {}).await.unwrap().bad_blocks, 0);
            assert!(pool.check().await.unwrap().is_clean());
        });
    });
}

#[test]
fn many_bad_blocks_do_not_fill_the_log() {
    check("lines", 1, |xen| {
        let domain = with_room(xen);
        keep_log();
        xen.run(async move {
            let (power, pool) = new_pool(&domain, 1, 8).await;
            pool.create("v", &Create::thin(8 * CHUNK).with_integrity(true)).await.unwrap();
            let volume = pool.volume("v").unwrap();
            write(&volume, 0, 8 * CHUNK, 77).await.unwrap();
            for place in places_of(&power.disks()[0], 77).await {
                damage(&power.disks()[0], place).await;
            }
            for sector in 0..8 * CHUNK {
                assert!(read(&volume, sector, 1).await.is_err());
            }
            let lines = take_log().iter().filter(|line| line.contains("checksum error")).count();
            assert!((8..20).contains(&lines), "{lines}");
        });
    });
}

/// A disk that fails at times: requests fail with it, and afterwards all goes on.
#[test]
fn disks_that_fail_now_and_then() {
    check("failures", 100, |xen| {
        let domain = with_room(xen);
        let (mut random, mut dice) = (random(xen), random(xen));
        xen.run(async move {
            let (power, pool) = new_pool(&domain, 1, 8).await;
            drop(pool);
            let ill = std::rc::Rc::new(std::cell::Cell::new(false));
            let (is_ill, dice) = (ill.clone(), std::cell::RefCell::new(move || dice(12) == 0));
            let disk = Faulty::new(power.disks()[0].clone(), async move |request| {
                let (DeviceRequest::Read(sector, _) | DeviceRequest::Write(sector, _)) = request else { return Ok(()) };
                // The superblocks: a failure there ends all changes.
                let is_spared = !(CHUNK..8 * 2048 - CHUNK).contains(&sector);
                let fails = is_ill.get() && !is_spared && (dice.borrow_mut())();
                if fails { Err(DiskError::Failed { operation: "do it", sector }) } else { Ok(()) }
            });
            let pool = open(&domain, vec![disk]).await;
            for name in ["v", "w"] {
                pool.create(name, &Create::thin(8 * CHUNK).with_integrity(name == "w")).await.unwrap();
            }
            let mut model = [vec![vec![0]; 8 * CHUNK as usize], vec![vec![0]; 8 * CHUNK as usize]];
            for stamp in 1..60 {
                ill.set(stamp % 8 > 3);
                let which = random(2) as usize;
                let volume = pool.volume(["v", "w"][which]).unwrap();
                let (first, count) = (random(7 * CHUNK), 1 + random(30));
                let outcome = volume.write_bytes(first, &support::stamped(stamp, count)).await;
                for sector in first..first + count {
                    let may_be = &mut model[which][sector as usize];
                    // What has failed is done or not.
                    if outcome.is_ok() {
                        may_be.clear();
                    }
                    may_be.push(stamp);
                }
                if random(4) == 0 {
                    let _ = volume.flush().await;
                }
                if random(10) == 0 {
                    let _ = pool.snapshot("v", &format!("s{stamp}"), true).await;
                }
                if random(10) == 0 {
                    let _ = pool.snapshot("w", &format!("s{stamp}"), true).await;
                }
            }
            ill.set(false);
            pool.flush().await.unwrap();
            for (name, model) in ["v", "w"].into_iter().zip(&model) {
                let volume = pool.volume(name).unwrap();
                for (sector, may_be) in model.iter().enumerate() {
                    match read(&volume, sector as u64, 1).await {
                        Ok(found) => assert!(may_be.contains(&found[0]), "{name} {sector}"),
                        // A block of which a write failed has no checksum.
                        Err(error) => assert!(name == "w", "{name} {sector}: {error}"),
                    }
                }
            }
            assert!(pool.check().await.unwrap().is_clean());
            let names = pool.volumes().into_iter().map(|info| info.name);
            for name in names {
                pool.delete(&name).await.unwrap();
            }
            until(&domain, || pool.usage().free_sectors == pool.usage().sectors).await;
            assert!(pool.check().await.unwrap().is_clean());
        });
    });
}
