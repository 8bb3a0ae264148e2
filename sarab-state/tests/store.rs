//! Stores beside a map in memory, on disks whose power fails, that are full, damaged, or somebody else's.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use sarab_state::{Error, Foreign, Format, MAX_KEY, MAX_TRANSACTION, MAX_VALUE, Options, Store};

use support::{Disk, polled, random, run};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// The smallest disk.
const SMALL: usize = 17 << 16;

async fn open(disk: &Disk) -> Result<Store<Disk>, Error> {
    Store::open(disk.clone(), Options::default()).await
}

/// All that is in a store.
async fn all(store: &Store<Disk>) -> Map {
    let mut map = Map::new();
    let mut scan = store.scan(b"");
    while let Some((key, value)) = scan.next().await.unwrap() {
        assert!(map.last_key_value().is_none_or(|(last, _)| *last < key), "in order, and once");
        map.insert(key, value);
    }
    map
}

/// Some changes, as a transaction would have them.
fn changes(random: &mut impl FnMut() -> usize) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let count = 1 + random() % 4;
    let mut one = || {
        let key = format!("{}", random() % 40).into_bytes();
        let len = if random().is_multiple_of(10) { random() % 6000 } else { random() % 60 };
        let value = (!random().is_multiple_of(4)).then(|| vec![random() as u8; len]);
        (key, value)
    };
    (0..count).map(|_| one()).collect()
}

async fn commit(store: &Store<Disk>, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> Result<(), Error> {
    let mut transaction = store.transaction();
    for (key, value) in changes {
        match value {
            Some(value) => transaction.set(key, value)?,
            None => transaction.remove(key)?,
        }
    }
    transaction.commit().await
}

fn apply(map: &mut Map, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
    for (key, value) in changes {
        match value {
            Some(value) => drop(map.insert(key, value)),
            None => drop(map.remove(&key)),
        }
    }
}

/// Commits changes until the power fails, and returns what would be there with those that were being made.
async fn work(store: &Store<Disk>, map: &mut Map, random: &mut impl FnMut() -> usize) -> Map {
    loop {
        let changes = changes(random);
        let outcome = commit(store, &changes).await;
        let mut after = map.clone();
        apply(&mut after, changes);
        match outcome {
            Ok(()) => *map = after,
            Err(Error::Disk(xen_blkif::Error::Gone)) => return after,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The power fails at each write and each flush, those of formatting included, and again after that. What was committed is
/// there; what was being committed is there as a whole or not at all.
#[test]
fn power_fails_anywhere() {
    for seed in 0..6 {
        let mut random = random(seed);
        let mut map = Map::new();
        let mut medium = vec![0; SMALL];
        for cut in 0..40 {
            let disk = Disk::new(medium);
            // Each of the first ones, and then any.
            disk.fail_after(if cut < 8 { cut } else { (random() % 150) as u64 });
            let after = run(async {
                match open(&disk).await {
                    Ok(store) => {
                        assert!(all(&store).await == map, "seed {seed}, cut {cut}");
                        work(&store, &mut map, &mut random).await
                    }
                    Err(error) => {
                        assert!(disk.has_failed(), "seed {seed}, cut {cut}: {error}");
                        map.clone()
                    }
                }
            });
            medium = disk.after_power_loss(&mut random);
            let found = run(async { all(&open(&Disk::new(medium.clone())).await.expect("it is a store")).await });
            let keys = |map: &Map| map.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect::<Vec<_>>();
            let shown = || (keys(&found), keys(&map), keys(&after));
            assert!(found == map || found == after, "seed {seed}, cut {cut}: {:?}", shown());
            map = found;
        }
    }
}

/// Whatever is dropped on its way: the store goes on, and has all of a transaction or nothing.
#[test]
fn operations_that_are_dropped() {
    for seed in 0..20 {
        let mut random = random(seed);
        let disk = Disk::new(vec![0; SMALL]);
        disk.be_slow();
        let mut map = Map::new();
        let store = run(open(&disk)).unwrap();
        for round in 0..60 {
            let changes = changes(&mut random);
            let ended = polled(random() % 60, commit(&store, &changes)).is_some();
            let mut after = map.clone();
            apply(&mut after, changes);
            let found = run(all(&store));
            assert!(found == after || !ended && found == map, "seed {seed}, round {round}");
            map = found;
        }
        assert_eq!(run(async { all(&open(&disk).await.unwrap()).await }), map);
    }
}

/// A full store says so, has what it had, and takes more where there is less in it.
#[test]
fn full_stores() {
    run(async {
        let disk = Disk::new(vec![0; SMALL]);
        let store = open(&disk).await.unwrap();
        let mut count = 0;
        let key = |index: usize| format!("key {index}").into_bytes();
        let error = loop {
            match store.set(&key(count), &[7; 1000]).await {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
        };
        // Half of a log's 512 KiB.
        assert_eq!((count, error), (244, Error::Full { used: 261_214, limit: 262_144 }));
        // What is not larger is possible.
        store.set(&key(0), &[8; 1000]).await.unwrap();
        let store = open(&disk).await.unwrap();
        assert_eq!(all(&store).await.len(), count);
        for index in 0..count {
            store.remove(&key(index)).await.unwrap_or_else(|error| panic!("{index} of {count}: {error}"));
        }
        assert_eq!(all(&store).await.len(), 0);
        // Far more than there is room for at a time.
        for round in 0..500 {
            store.set(b"again", &vec![round as u8; 5000]).await.unwrap();
        }
        assert_eq!(all(&store).await, Map::from([(b"again".to_vec(), vec![243; 5000])]));
    });
}

#[test]
fn what_is_too_large() {
    run(async {
        let store = open(&Disk::new(vec![0; SMALL])).await.unwrap();
        store.set(&[1; MAX_KEY], &[2; MAX_VALUE]).await.unwrap();
        assert_eq!(store.get(&[1; MAX_KEY]).await.unwrap().unwrap(), [2; MAX_VALUE]);
        for (error, text) in [
            (store.set(&[1; MAX_KEY + 1], b"").await, "the key has 257 bytes: at most 256 are possible"),
            (store.get(&[1; MAX_KEY + 1]).await.map(drop), "the key has 257 bytes: at most 256 are possible"),
            (store.set(b"", b"").await, "the key is empty"),
            (store.set(b"k", &[0; MAX_VALUE + 1]).await, "the value has 16385 bytes: at most 16384 are possible"),
        ] {
            assert_eq!(error.unwrap_err().to_string(), text);
        }
        let mut transaction = store.transaction();
        let error = (0..100).find_map(|index| transaction.set(&[index], &[0; 5000]).err()).unwrap();
        assert!(matches!(error, Error::LargeTransaction { bytes } if bytes > MAX_TRANSACTION));
        // What is set again counts once.
        for _ in 0..100 {
            transaction.set(&[0], &[1; 5000]).unwrap();
        }
        assert_eq!(transaction.get(&[0]).await.unwrap().unwrap(), [1; 5000]);
        let error = Store::open(Disk::new(vec![0; SMALL - 4096]), Options::default()).await.err().unwrap();
        assert_eq!(error.to_string(), "the disk has 1110016 bytes, and the store needs 1114112");
    });
}

/// What is not a store is not touched.
#[test]
fn disks_of_others() {
    let sign = |at: usize, sign: &[u8]| {
        let mut bytes = vec![0; 2 * SMALL];
        bytes[at..at + sign.len()].copy_from_slice(sign);
        bytes
    };
    for (bytes, what) in [
        (sign(0, b"LUKS\xba\xbe"), Foreign::Luks),
        (sign(1080, &[0x53, 0xef]), Foreign::Ext),
        (sign(0, b"XFSB"), Foreign::Xfs),
        (sign(0x1_0040, b"_BHRfS_M"), Foreign::Btrfs),
        (sign(4086, b"SWAPSPACE2"), Foreign::Swap),
        (sign(512, b"LABELONE"), Foreign::Lvm),
        (sign(512, b"EFI PART"), Foreign::Gpt),
        (sign(510, &[0x55, 0xaa]), Foreign::BootRecord),
        (sign(257, b"ustar"), Foreign::Tar),
        (sign(2 * SMALL - 1, b"x"), Foreign::Unknown),
        (sign(100_000, b"x"), Foreign::Unknown),
    ] {
        run(async {
            let disk = Disk::new(bytes.clone());
            for format in [Format::IfEmpty, Format::Never] {
                let error = Store::open(disk.clone(), Options::default().format(format)).await.err().unwrap();
                match format {
                    Format::Never => assert_eq!(error, Error::NoStore),
                    _ => assert!(matches!(error, Error::Foreign { what: found, .. } if found == what), "{error}"),
                }
            }
            assert!(disk.after_power_loss(&mut random(0)) == bytes, "{what}");
            let store = Store::open(disk.clone(), Options::default().format(Format::Always)).await.unwrap();
            store.set(b"a", b"b").await.unwrap();
            // That is not to be lost then.
            let store = Store::open(disk, Options::default().format(Format::Always)).await.unwrap();
            assert_eq!(store.get(b"a").await.unwrap().unwrap(), b"b");
        });
    }
    // The last page of a disk larger than a store can be.
    run(async {
        let mut bytes = vec![0; 70 << 20];
        *bytes.last_mut().unwrap() = 1;
        let error = open(&Disk::new(bytes)).await.err().unwrap();
        assert_eq!(error, Error::Foreign { what: Foreign::Unknown, at: (70 << 20) - 1 });
    });
}

/// A larger disk has the store that it had, and a smaller one is refused, as is a later version.
#[test]
fn disks_that_change() {
    run(async {
        let disk = Disk::new(vec![0; SMALL]);
        open(&disk).await.unwrap().set(b"a", b"b").await.unwrap();
        let mut medium = disk.after_power_loss(&mut random(0));
        medium.resize(4 * SMALL, 9);
        assert_eq!(open(&Disk::new(medium.clone())).await.unwrap().get(b"a").await.unwrap().unwrap(), b"b");
        let large = Disk::new(vec![0; 2 * SMALL + 4096]);
        open(&large).await.unwrap();
        let mut smaller = large.after_power_loss(&mut random(0));
        smaller.truncate(SMALL);
        assert!(matches!(open(&Disk::new(smaller)).await.err(), Some(Error::SmallDisk { .. })));
        medium[8] = 2;
        let error = open(&Disk::new(medium)).await.err().unwrap();
        assert_eq!(error.to_string(), "the disk's store has version 2, which is unknown");
    });
}

/// Commits of a value of 100 bytes: what they cost is what the documentation says.
#[test]
fn what_a_commit_costs() {
    run(async {
        let disk = Disk::new(vec![0; 4 << 20]);
        let store = open(&disk).await.unwrap();
        let before = disk.counts();
        for index in 0..1000_u32 {
            store.set(&(index % 300).to_be_bytes(), &[1; 100]).await.unwrap();
        }
        let after = disk.counts();
        let each = |count: u64| count as f64 / 1000.0;
        let (flushes, written) =
            (each(after.flushes - before.flushes), each(after.written_bytes - before.written_bytes));
        let (reads, writes) = (each(after.reads - before.reads), each(after.writes - before.writes));
        let costs = format!("{reads:.1} reads, {writes:.1} writes of {written:.0} bytes, {flushes:.1} flushes");
        assert_eq!(costs, "0.0 reads, 3.0 writes of 1538 bytes, 3.0 flushes");
        let before = disk.counts();
        let store = open(&disk).await.unwrap();
        let mount = disk.counts();
        let mount = (mount.reads - before.reads, (mount.read_bytes - before.read_bytes) >> 10);
        // All of the log in use, in large pieces.
        assert!(mount.0 < 40 && mount.1 < 2300, "{mount:?}");
        let before = disk.counts();
        for index in 0..300_u32 {
            store.get(&index.to_be_bytes()).await.unwrap().unwrap();
        }
        assert_eq!(disk.counts().reads, before.reads);
    });
}

/// More than may be in memory is refused, when it is written and when it is read.
#[test]
fn memory_has_a_bound() {
    run(async {
        let disk = Disk::new(vec![0; 4 << 20]);
        let options = Options::default().memory(200_000);
        let store = Store::open(disk.clone(), options).await.unwrap();
        let mut error = None;
        for index in 0..20_u32 {
            error = error.or(store.set(&index.to_be_bytes(), &[7; 10_000]).await.err());
        }
        assert!(matches!(error, Some(Error::Full { limit: 200_000, .. })), "{error:?}");
        let error = Store::open(disk, options.memory(20_000)).await.err().unwrap();
        assert_eq!(error, Error::Memory { limit: 20_000 });
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// A damaged disk causes errors, and never a panic or a wait.
    #[test]
    fn damaged_disks(seed in any::<u64>(), flips in prop::collection::vec((any::<u32>(), any::<u8>()), 1..30)) {
        let mut random = random(seed);
        let disk = Disk::new(vec![0; SMALL]);
        run(async {
            let store = open(&disk).await.unwrap();
            for _ in 0..20 {
                commit(&store, &changes(&mut random)).await.unwrap();
            }
        });
        let mut medium = disk.after_power_loss(&mut random);
        let used: Vec<usize> = (0..medium.len()).filter(|at| medium[*at] != 0xff && medium[*at] != 0).collect();
        for (at, value) in flips {
            let len = used.len();
            medium[used[at as usize % len]] = value;
        }
        run(async {
            let Ok(store) = open(&Disk::new(medium)).await else { return };
            let mut scan = store.scan(b"");
            for _ in 0..1000 {
                if !matches!(scan.next().await, Ok(Some(_))) {
                    break;
                }
            }
            for _ in 0..20 {
                let _ = commit(&store, &changes(&mut random)).await;
                let _ = store.get(b"7").await;
            }
        });
    }
}
