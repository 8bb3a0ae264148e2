//! Disks whose power can be cut at any moment of the past: for tests of what has to survive that.

mod image;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use xen_hal::Pages;
use xenbus::yield_now;

use crate::device::{BlockDevice, Buffer, Completed, Discard, Error, Geometry};
use crate::protocol::SECTOR_SIZE;
use crate::ramdisk::PageBuffer;
use image::Image;

/// What several disks are plugged into, with a record of all that they were asked to write.
///
/// After a [`cut`](Power::cut) a disk holds what a flush has made durable. Of all other sectors that were written or
/// discarded each is as it was or as one of these requests has made it: requests are lost, torn between sectors of 512
/// bytes, and carried out in any order. A flush makes durable what was answered before it began.
///
/// # Examples
///
/// A program that writes a record and then says where it is. Without the first flush, some cut leaves a place that
/// holds no record:
///
/// ```
/// use xen_blkif::powerloss::{Disk, Power};
/// use xen_blkif::{BlockDevice, Error};
/// use xen_sim::{Domain, Xen};
///
/// /// Whether the record is there after every possible cut, wherever it is said to be.
/// fn survives(flush: bool) -> bool {
///     let xen = Xen::new(1);
///     let domain = xen.domain();
///     xen.run(async move {
///         let power = Power::new(domain);
///         let disk = power.disk(64);
///         disk.write_bytes(8, &[7; 512]).await?;
///         if flush {
///             disk.flush().await?;
///         }
///         disk.write_bytes(0, &[8; 512]).await?;
///         for time in 0..=power.now() {
///             for after in power.all_cuts(time, 1000).expect("few sectors were written") {
///                 let (mut place, mut record) = ([0; 512], [0; 512]);
///                 after.disks()[0].read_bytes(0, &mut place).await?;
///                 after.disks()[0].read_bytes(8, &mut record).await?;
///                 if place[0] == 8 && record[0] != 7 {
///                     return Ok(false);
///                 }
///             }
///         }
///         Ok::<_, Error>(true)
///     })
///     .expect("the disk does not fail")
/// }
/// assert!(survives(true));
/// assert!(!survives(false));
/// ```
#[derive(Debug)]
pub struct Power<M> {
    supply: Rc<Supply<M>>,
}

#[derive(Debug)]
struct Supply<M> {
    memory: M,
    disks: RefCell<Vec<Contents>>,
    events: RefCell<Vec<Event>>,
    random: Cell<u64>,
}

/// What is on a disk.
#[derive(Clone, Debug)]
struct Contents {
    geometry: Geometry,
    /// Before the first event.
    first: Image,
    /// Now, as long as there is power.
    now: Image,
}

/// What happened, in the order of time.
#[derive(Debug)]
enum Event {
    /// A request to write, or to discard, began.
    Begin(Rc<Change>),
    /// The request of this event was answered.
    End(usize),
    /// A flush of a disk began.
    FlushBegin(usize),
    /// The flush of this event was answered.
    FlushEnd(usize),
}

/// Sectors that are to be other ones.
#[derive(Debug)]
struct Change {
    disk: usize,
    sector: u64,
    count: u64,
    /// Zeroes where there are none.
    bytes: Option<Vec<u8>>,
}

impl Change {
    /// Makes some of the sectors what they are to be.
    fn apply(&self, image: &mut Image, first: u64, count: u64) {
        match &self.bytes {
            Some(bytes) => {
                let at = first as usize * SECTOR_SIZE;
                image.write(self.sector + first, &bytes[at..at + count as usize * SECTOR_SIZE]);
            }
            None => image.zero(self.sector + first, count),
        }
    }

    fn apply_all(&self, image: &mut Image) {
        self.apply(image, 0, self.count);
    }
}

impl<M> Clone for Power<M> {
    fn clone(&self) -> Self {
        Power { supply: self.supply.clone() }
    }
}

impl<M: Pages + Clone> Power<M> {
    /// Power without disks. Buffers are made of `memory`.
    pub fn new(memory: M) -> Power<M> {
        let (disks, events) = Default::default();
        Power { supply: Rc::new(Supply { memory, disks, events, random: Cell::new(1) }) }
    }

    /// Plugs in a disk of zeroes, of this many sectors.
    pub fn disk(&self, sectors: u64) -> Disk<M> {
        let discard = Some(Discard::new(SECTOR_SIZE as u32));
        let geometry = Geometry { flush: true, discard, ..Geometry::plain(sectors) };
        let mut disks = self.supply.disks.borrow_mut();
        disks.push(Contents { geometry, first: Image::default(), now: Image::default() });
        Disk { supply: self.supply.clone(), index: disks.len() - 1 }
    }

    /// The disks, in the order in which they were plugged in.
    pub fn disks(&self) -> Vec<Disk<M>> {
        let count = self.supply.disks.borrow().len();
        (0..count).map(|index| Disk { supply: self.supply.clone(), index }).collect()
    }

    /// What time it is: the number of events so far.
    pub fn now(&self) -> usize {
        self.supply.events.borrow().len()
    }

    /// Disks as they are after a cut at this time, of those many states one that `seed` chooses.
    pub fn cut(&self, time: usize, seed: u64) -> Power<M> {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d | 1);
        let (mut images, mut pending) = self.at(time);
        match random.below(5) {
            0 => pending.clear(),
            1 => {}
            2 => {
                // In order up to some point, where one is torn.
                let end = random.below(pending.len() as u64 + 1) as usize;
                if let Some(change) = pending.get(end) {
                    let count = random.below(change.count + 1);
                    let change = change.clone();
                    pending.truncate(end);
                    pending.iter().for_each(|change| change.apply_all(&mut images[change.disk]));
                    change.apply(&mut images[change.disk], 0, count);
                    pending.clear();
                }
            }
            3 => {
                random.shuffle(&mut pending);
                pending.retain(|_| random.below(2) == 0);
            }
            _ => {
                random.shuffle(&mut pending);
                for change in pending.drain(..) {
                    for sector in (0..change.count).filter(|_| random.below(2) == 0) {
                        change.apply(&mut images[change.disk], sector, 1);
                    }
                }
            }
        }
        pending.iter().for_each(|change| change.apply_all(&mut images[change.disk]));
        self.with(images)
    }

    /// Disks in each state that a cut at this time can leave, where there are no more than `limit`.
    pub fn all_cuts(&self, time: usize, limit: usize) -> Option<Vec<Power<M>>> {
        let (images, pending) = self.at(time);
        let mut sectors: Vec<(usize, u64)> = pending
            .iter()
            .flat_map(|change| (change.sector..change.sector + change.count).map(|sector| (change.disk, sector)))
            .collect();
        sectors.sort_unstable();
        sectors.dedup();
        let mut states = alloc::vec![images];
        for (disk, sector) in sectors {
            let mut more = Vec::new();
            for change in pending
                .iter()
                .filter(|change| change.disk == disk && (change.sector..change.sector + change.count).contains(&sector))
            {
                for state in &states {
                    let mut state = state.clone();
                    change.apply(&mut state[disk], sector - change.sector, 1);
                    more.push(state);
                }
                if states.len() + more.len() > limit {
                    return None;
                }
            }
            states.append(&mut more);
        }
        Some(states.into_iter().map(|images| self.with(images)).collect())
    }

    /// What is durable at this time, and what besides may be there or not, in the order of time.
    fn at(&self, time: usize) -> (Vec<Image>, Vec<Rc<Change>>) {
        let events = self.supply.events.borrow();
        let events = &events[..time.min(events.len())];
        let mut images: Vec<_> = self.supply.disks.borrow().iter().map(|disk| disk.first.clone()).collect();
        // When each request was answered, and before which time answered requests are durable, for each disk.
        let mut answered = alloc::vec![usize::MAX; events.len()];
        let mut durable = alloc::vec![0; images.len()];
        for (now, event) in events.iter().enumerate() {
            match event {
                Event::End(begin) => answered[*begin] = now,
                Event::FlushEnd(begin) => {
                    if let Event::FlushBegin(disk) = &events[*begin] {
                        durable[*disk] = durable[*disk].max(*begin);
                    }
                }
                Event::Begin(_) | Event::FlushBegin(_) => {}
            }
        }
        let mut pending = Vec::new();
        for (begin, event) in events.iter().enumerate() {
            let Event::Begin(change) = event else { continue };
            match answered[begin] < durable[change.disk] {
                true => change.apply_all(&mut images[change.disk]),
                false => pending.push(change.clone()),
            }
        }
        (images, pending)
    }

    fn with(&self, images: Vec<Image>) -> Power<M> {
        let power = Power::new(self.supply.memory.clone());
        let disks = self.supply.disks.borrow();
        *power.supply.disks.borrow_mut() = disks
            .iter()
            .zip(images)
            .map(|(disk, image)| Contents { geometry: disk.geometry, first: image.clone(), now: image })
            .collect();
        power
    }
}

/// A small generator (xorshift), so that a seed says everything.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit.max(1)
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (1..list.len()).rev() {
            list.swap(end, self.below(end as u64 + 1) as usize);
        }
    }
}

/// A disk that is plugged in. Clones are the same disk.
#[derive(Debug)]
pub struct Disk<M> {
    supply: Rc<Supply<M>>,
    index: usize,
}

impl<M> Clone for Disk<M> {
    fn clone(&self) -> Self {
        Disk { supply: self.supply.clone(), index: self.index }
    }
}

impl<M> Disk<M> {
    fn record(&self, event: Event) -> usize {
        let mut events = self.supply.events.borrow_mut();
        events.push(event);
        events.len() - 1
    }

    async fn change(&self, change: Change) {
        change.apply_all(&mut self.supply.disks.borrow_mut()[self.index].now);
        let begin = self.record(Event::Begin(Rc::new(change)));
        self.pause().await;
        self.record(Event::End(begin));
    }

    /// So that others run meanwhile, and requests end in another order than they began.
    async fn pause(&self) {
        let mut random = Random(self.supply.random.get());
        let turns = random.below(3);
        self.supply.random.set(random.0);
        for _ in 0..turns {
            yield_now().await;
        }
    }
}

impl<M: Pages> BlockDevice for Disk<M> {
    type Buffer = PageBuffer<M::Page>;

    fn geometry(&self) -> Geometry {
        self.supply.disks.borrow()[self.index].geometry
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error> {
        PageBuffer::new(&self.supply.memory, len)
    }

    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        let outcome = self.geometry().check(sector, buffer.len());
        if outcome.is_ok() {
            self.pause().await;
            let mut bytes = alloc::vec![0; buffer.len()];
            self.supply.disks.borrow()[self.index].now.read(sector, &mut bytes);
            buffer.write(0, &bytes);
        }
        (buffer, outcome)
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        let outcome = self.geometry().check(sector, buffer.len());
        if outcome.is_ok() {
            let mut bytes = alloc::vec![0; buffer.len()];
            buffer.read(0, &mut bytes);
            let count = (bytes.len() / SECTOR_SIZE) as u64;
            self.change(Change { disk: self.index, sector, count, bytes: Some(bytes) }).await;
        }
        (buffer, outcome)
    }

    async fn flush(&self) -> Result<(), Error> {
        let begin = self.record(Event::FlushBegin(self.index));
        self.pause().await;
        self.record(Event::FlushEnd(begin));
        Ok(())
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
        if secure {
            return Err(Error::Unsupported("discard securely"));
        }
        self.geometry().check_sectors(sector, count)?;
        self.change(Change { disk: self.index, sector, count, bytes: None }).await;
        Ok(())
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        if *known == self.geometry() {
            core::future::pending::<()>().await;
        }
        self.geometry()
    }
}
