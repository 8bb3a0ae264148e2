//! The power is cut, at any moment: what a flush has acknowledged is there, nothing is there that nobody has written,
//! and metadata is whole.

mod support;

use futures_util::future::{join, join_all};
use proptest::collection::vec;
use proptest::prelude::*;
use sarab_volumes::{BlockDevice, Create, Pool};
use support::{CHUNK, Drive, new_pool, open, random, read_all, until, with_room, write};
use xen_blkif::powerloss::Power;
use xen_sim::{Domain, Xen, check};

/// Something that made a sector what it is: when it began and ended, and the number; a discard makes it 0 or not.
#[derive(Clone, Copy)]
struct Change {
    begin: usize,
    end: usize,
    stamp: u32,
    is_write: bool,
}

/// A volume, and all that has happened to it.
struct Life {
    name: String,
    create: Create,
    created: (usize, usize),
    deleted: Option<(usize, usize)>,
    sizes: Vec<(usize, usize, u64)>,
    /// What the sectors are at its begin.
    base: Vec<u32>,
    changes: Vec<Vec<Change>>,
    /// Flushes that were acknowledged: when they began and ended.
    flushes: Vec<(usize, usize)>,
}

impl Life {
    fn sectors(&self) -> u64 {
        self.sizes.last().unwrap().2
    }

    fn now(&self, sector: usize) -> u32 {
        self.changes[sector].last().map_or(self.base[sector], |change| change.stamp)
    }

    fn is_there(&self) -> bool {
        self.deleted.is_none()
    }

    /// What a sector may be after a cut.
    fn may_be(&self, sector: usize, time: usize) -> Vec<u32> {
        let changes = &self.changes[sector];
        let flushed = self.flushes.iter().filter(|(_, end)| *end <= time).map(|(begin, _)| *begin).max().unwrap_or(0);
        let floor = changes.iter().rposition(|change| change.is_write && change.end <= flushed);
        let first = floor.map_or(self.base[sector], |floor| changes[floor].stamp);
        let later = changes[floor.map_or(0, |floor| floor + 1)..].iter().filter(|change| change.begin < time);
        std::iter::once(first).chain(later.map(|change| change.stamp)).collect()
    }
}

struct World {
    power: Power<Domain>,
    pool: Pool<Drive>,
    lives: Vec<Life>,
    stamp: u32,
}

impl World {
    fn now(&self) -> usize {
        self.power.now()
    }

    fn pick(&self, random: &mut impl FnMut(u64) -> u64, fits: impl Fn(&Life) -> bool) -> Option<usize> {
        let all: Vec<_> =
            (0..self.lives.len()).filter(|life| self.lives[*life].is_there() && fits(&self.lives[*life])).collect();
        all.get(random(all.len().max(1) as u64) as usize).copied()
    }

    fn begin_life(&mut self, name: String, create: Create, begin: usize, base: Vec<u32>) {
        let end = self.now();
        let changes = vec![Vec::new(); base.len()];
        let sizes = vec![(begin, end, create.sectors)];
        let flushes = vec![(begin, end)];
        self.lives.push(Life { name, create, created: (begin, end), deleted: None, sizes, base, changes, flushes });
    }

    async fn create(&mut self, random: &mut impl FnMut(u64) -> u64) {
        let sectors = 8 * (1 + random(6 * CHUNK / 8));
        let create = match random(4) {
            0 => Create::thick(sectors),
            _ => Create::thin(sectors),
        };
        let create = create.with_integrity(random(2) == 0);
        let (name, begin) = (format!("v{}", self.lives.len()), self.now());
        if self.pool.create(&name, &create).await.is_ok() {
            self.begin_life(name, create, begin, vec![0; sectors as usize]);
        }
    }

    async fn snapshot(&mut self, origin: usize, writable: bool) {
        let (name, begin) = (format!("v{}", self.lives.len()), self.now());
        self.pool.snapshot(&self.lives[origin].name, &name, writable).await.unwrap();
        let end = self.now();
        self.lives[origin].flushes.push((begin, end));
        let life = &self.lives[origin];
        let mut create = life.create;
        create.sectors = life.sectors();
        let base = (0..life.sectors() as usize).map(|sector| life.now(sector)).collect();
        self.begin_life(name, create, begin, base);
    }

    /// Writes here and there at once, and flushes meanwhile.
    async fn write(&mut self, random: &mut impl FnMut(u64) -> u64) {
        let mut jobs = Vec::new();
        for _ in 0..1 + random(4) {
            let Some(life) = self.pick(random, |_| true) else { return };
            let sectors = self.lives[life].sectors();
            let first = random(sectors);
            let longest = if random(4) == 0 { 3 * CHUNK } else { 20 };
            let count = 1 + random(longest.min(sectors - first));
            let overlaps =
                |job: &&(usize, u64, u64, u32)| job.0 == life && job.1 < first + count && first < job.1 + job.2;
            if jobs.iter().find(overlaps).is_none() {
                self.stamp += 1;
                jobs.push((life, first, count, self.stamp));
            }
        }
        let flushed = self.pick(random, |_| true).filter(|_| random(2) == 0);
        let (pool, power, lives) = (&self.pool, &self.power, &self.lives);
        let writes = jobs.iter().map(async |(life, first, count, stamp)| {
            let volume = pool.volume(&lives[*life].name).unwrap();
            let begin = power.now();
            let outcome = write(&volume, *first, *count, *stamp).await;
            (begin, power.now(), outcome)
        });
        let flush = async {
            let volume = pool.volume(&lives[flushed?].name).unwrap();
            let begin = power.now();
            volume.flush().await.unwrap();
            Some((begin, power.now()))
        };
        let (outcomes, flush) = join(join_all(writes), flush).await;
        for ((life, first, count, stamp), (begin, end, outcome)) in jobs.into_iter().zip(outcomes) {
            if outcome == Err(xen_blkif::Error::ReadOnly) {
                continue;
            }
            outcome.unwrap();
            for sector in first..first + count {
                self.lives[life].changes[sector as usize].push(Change { begin, end, stamp, is_write: true });
            }
        }
        if let Some((flushed, flush)) = flushed.zip(flush) {
            self.lives[flushed].flushes.push(flush);
        }
    }

    async fn discard(&mut self, life: usize, random: &mut impl FnMut(u64) -> u64) {
        let sectors = self.lives[life].sectors();
        let first = random(sectors);
        let count = 1 + random(sectors - first);
        let volume = self.pool.volume(&self.lives[life].name).unwrap();
        let begin = self.now();
        if volume.discard(first, count, false).await == Err(xen_blkif::Error::ReadOnly) {
            return;
        }
        let end = if first + count == sectors { sectors } else { (first + count) / CHUNK * CHUNK };
        let change = Change { begin, end: self.now(), stamp: 0, is_write: false };
        for sector in first.next_multiple_of(CHUNK)..end {
            self.lives[life].changes[sector as usize].push(change);
        }
    }

    async fn step(&mut self, random: &mut impl FnMut(u64) -> u64) {
        let living = self.lives.iter().filter(|life| life.is_there()).count();
        match random(20) {
            0 | 1 if living < 5 => self.create(random).await,
            2 | 3 if living < 6 => {
                if let Some(origin) = self.pick(random, |life| !life.create.thick) {
                    self.snapshot(origin, random(3) > 0).await;
                }
            }
            4 if living > 2 => {
                if let Some(life) = self.pick(random, |_| true) {
                    let begin = self.now();
                    self.pool.delete(&self.lives[life].name).await.unwrap();
                    self.lives[life].deleted = Some((begin, self.now()));
                }
            }
            5 => {
                if let Some(life) = self.pick(random, |_| true) {
                    let sectors = self.lives[life].sectors() + 8 * random(40);
                    let begin = self.now();
                    if self.pool.grow(&self.lives[life].name, sectors).await.is_ok() {
                        let size = (begin, self.now(), sectors);
                        let life = &mut self.lives[life];
                        life.sizes.push(size);
                        life.base.resize(sectors as usize, 0);
                        life.changes.resize(sectors as usize, Vec::new());
                    }
                }
            }
            6 | 7 => {
                if let Some(life) = self.pick(random, |_| true) {
                    self.discard(life, random).await;
                }
            }
            8..=10 => {
                if let Some(life) = self.pick(random, |_| true) {
                    let begin = self.now();
                    self.pool.volume(&self.lives[life].name).unwrap().flush().await.unwrap();
                    let flush = (begin, self.now());
                    self.lives[life].flushes.push(flush);
                }
            }
            _ => self.write(random).await,
        }
    }

    /// Whether all is as it is to be while there is power.
    async fn compare(&self) {
        for life in self.lives.iter().filter(|life| life.is_there()) {
            let found = read_all(&self.pool.volume(&life.name).unwrap()).await;
            let expected: Vec<_> = (0..life.sectors() as usize).map(|sector| life.now(sector)).collect();
            assert!(found == expected, "{}", life.name);
        }
        assert!(self.pool.check().await.unwrap().is_clean());
    }

    /// Whether all is as it may be after a cut.
    async fn compare_after(&self, domain: &Domain, time: usize, seed: u64) {
        let at = format!("cut at {time} of {}, seed {seed}", self.now());
        let pool = open(domain, self.power.cut(time, seed).disks()).await;
        let found = pool.volumes();
        for life in &self.lives {
            let must = life.created.1 <= time && life.deleted.is_none_or(|(begin, _)| begin > time);
            let may = life.created.0 < time && life.deleted.is_none_or(|(_, end)| end > time);
            let Some(info) = found.iter().find(|info| info.name == life.name) else {
                assert!(!must, "{at}: {} is gone", life.name);
                continue;
            };
            assert!(may, "{at}: {} is there", life.name);
            let is_size = |size: &(usize, usize, u64)| size.0 <= time && size.2 == info.sectors;
            assert!(life.sizes.iter().any(is_size), "{at}: {}", life.name);
            let volume = pool.volume(&life.name).unwrap();
            for (sector, stamp) in read_all(&volume).await.into_iter().enumerate() {
                let may_be = life.may_be(sector, time);
                assert!(may_be.contains(&stamp), "{at}: {}, sector {sector}: {stamp}, not of {may_be:?}", life.name);
            }
        }
        let report = pool.check().await.unwrap();
        assert!(report.is_clean(), "{at}: {report:?}");
        assert!(pool.volumes().iter().all(|info| info.bad_blocks == 0) && pool.usage().repaired == 0, "{at}");
        if seed.is_multiple_of(4) {
            // It goes on as ever: what is written now reaches no other.
            let before = pool.volumes();
            for info in before.iter().filter(|info| !info.read_only) {
                let volume = pool.volume(&info.name).unwrap();
                write(&volume, 0, info.sectors.min(2 * CHUNK), u32::MAX).await.unwrap();
                volume.flush().await.unwrap();
            }
            for info in before {
                pool.delete(&info.name).await.unwrap();
            }
            let all = pool.usage().sectors;
            until(domain, || pool.usage().free_sectors == all).await;
            assert!(pool.check().await.unwrap().is_clean(), "{at}");
        }
    }
}

async fn new_world(domain: &Domain, disks: usize) -> World {
    let (power, pool) = new_pool(domain, disks, 8).await;
    World { power, pool, lives: Vec::new(), stamp: 0 }
}

#[test]
fn anything_that_is_done_survives_a_cut_at_any_moment() {
    check("cuts", 60, |xen| {
        let domain = with_room(xen);
        let mut random = random(xen);
        xen.run(async move {
            let mut world = new_world(&domain, 1 + random(2) as usize).await;
            let first = world.now();
            for _ in 0..60 {
                world.step(&mut random).await;
            }
            world.compare().await;
            for _ in 0..40 {
                let time = first + random((world.now() - first) as u64 + 1) as usize;
                world.compare_after(&domain, time, random(1 << 30)).await;
            }
        });
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 300, ..ProptestConfig::default() })]

    /// Any sequence of operations on several volumes and snapshots, against a plain model; and a restart.
    #[test]
    fn any_sequence_is_as_the_model(choices in vec(any::<u64>(), 0..600)) {
        let xen = Xen::new(1);
        let domain = with_room(&xen);
        xen.run(async move {
            let mut choices = choices.into_iter();
            let mut world = new_world(&domain, 1).await;
            while choices.len() > 0 {
                world.step(&mut |limit| choices.next().unwrap_or(0) % limit).await;
            }
            world.compare().await;
            world.pool.flush().await.unwrap();
            world.pool = open(&domain, world.power.cut(world.now(), 1).disks()).await;
            world.compare().await;
        });
        xen.end();
    }
}

/// Each moment, of a short history.
#[test]
fn each_moment_of_a_short_history() {
    check("moments", 6, |xen| {
        let domain = with_room(xen);
        let mut random = random(xen);
        xen.run(async move {
            let mut world = new_world(&domain, 1 + random(2) as usize).await;
            let first = world.now();
            world.create(&mut random).await;
            for _ in 0..6 {
                world.step(&mut random).await;
            }
            for time in first..=world.now() {
                for seed in 0..2 {
                    world.compare_after(&domain, time, 4 * random(1 << 20) + 1 + seed).await;
                }
            }
        });
    });
}

/// A disk that is cut while it is formatted is of no pool, or of an empty one.
#[test]
fn a_cut_while_a_pool_is_made() {
    check("format", 5, |xen| {
        let domain = with_room(xen);
        let mut random = random(xen);
        xen.run(async move {
            let (power, pool) = new_pool(&domain, 2, 8).await;
            pool.create("v", &Create::thin(8 * CHUNK)).await.unwrap();
            drop(pool);
            for seed in 0..100 {
                let again = power.cut(power.now(), 1);
                let force = sarab_volumes::FormatOptions::default().with_force(true);
                Pool::format(&again.disks(), [9; 16], &force).await.unwrap();
                let after = again.cut(random(again.now() as u64 + 1) as usize, seed);
                if let Ok((pool, runner)) = Pool::open(after.disks(), &Default::default()).await {
                    domain.spawn(runner).detach();
                    let expected = if pool.uuid() == [9; 16] { 0 } else { 1 };
                    assert_eq!(pool.volumes().len(), expected);
                }
            }
        });
    });
}
