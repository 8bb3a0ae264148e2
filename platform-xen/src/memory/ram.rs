//! Which frames of the memory map are free, and which have been given back to the hypervisor.

use xen_hal::{Errno, ReservationSize};

use super::bitmap::{Bitmap, EXTENT};

/// What is given back or taken in one hypercall, where it is not a whole extent of 2 MiB.
pub(crate) const BATCH: usize = 128;
/// log2 of the pages in 2 MiB, for `extent_order`.
const EXTENT_ORDER: u32 = EXTENT.trailing_zeros();

/// Gives extents of `1 << order` pages back, or takes them: the hypercalls, or a test's model of them. The result is how
/// many of them it has done, from the first on.
pub(crate) type Hypercall<'a> = &'a mut dyn FnMut(&[u64], u32) -> Result<usize, Errno>;

/// All frames of the memory map.
pub(crate) struct Ram<'a> {
    /// Free memory.
    frames: Bitmap<'a>,
    /// Frames without memory.
    absent: Bitmap<'a>,
    /// Pages in the memory map.
    maximum: u64,
    least_free: usize,
}

impl<'a> Ram<'a> {
    /// Nothing is free yet.
    pub fn new(frames: &'a mut [u64], absent: &'a mut [u64], maximum: u64) -> Ram<'a> {
        Ram { frames: Bitmap::new(frames), absent: Bitmap::new(absent), maximum, least_free: 0 }
    }

    /// Adds memory that is free, at the start.
    pub fn add(&mut self, start: usize, count: usize) {
        self.frames.give(start, count);
        self.least_free = self.frames.free_count();
    }

    pub fn size(&self) -> ReservationSize {
        ReservationSize {
            maximum: self.maximum,
            current: self.maximum - self.absent.free_count() as u64,
            free: self.frames.free_count() as u64,
        }
    }

    /// The fewest pages that were ever free, but for those that were given back then.
    pub fn least_free(&self) -> usize {
        self.least_free
    }

    /// Frames without memory.
    pub fn absent(&self) -> usize {
        self.absent.free_count()
    }

    pub fn take(&mut self, count: usize) -> Option<usize> {
        let start = self.frames.take_run(count)?;
        self.least_free = self.least_free.min(self.frames.free_count());
        Some(start)
    }

    /// Takes the frames from `start` on, where they are free.
    pub fn take_at(&mut self, start: usize, count: usize) -> bool {
        let taken = self.frames.take_at(start, count);
        self.least_free = self.least_free.min(self.frames.free_count());
        taken
    }

    pub fn give(&mut self, start: usize, count: usize) {
        self.frames.give(start, count);
    }

    /// Gives up to `pages` back, one batch: an extent of 2 MiB while there is a free one, so that the hypervisor's large
    /// pages stay whole, and then single pages. Returns how many.
    pub fn decrease(&mut self, pages: u64, hypercall: Hypercall<'_>) -> Result<u64, Errno> {
        if pages >= EXTENT as u64
            && let Some(start) = self.frames.take_extent()
        {
            return match hypercall(&[start as u64], EXTENT_ORDER) {
                Ok(1..) => {
                    self.absent.give(start, EXTENT);
                    Ok(EXTENT as u64)
                }
                // Some of its pages may be gone, and which is not known: it stays out of use. That has no ordinary cause.
                Ok(0) => Err(Errno::EAGAIN),
                Err(errno) => Err(errno),
            };
        }
        let mut batch = [0; BATCH];
        let wish = usize::try_from(pages).unwrap_or(BATCH).min(BATCH);
        let count = self.frames.take_high(&mut batch[..wish]);
        if count == 0 {
            return Ok(0);
        }
        let result = hypercall(&batch[..count], 0);
        let done = result.unwrap_or(0).min(count);
        batch[..done].iter().for_each(|frame| self.absent.give(*frame as usize, 1));
        batch[done..count].iter().for_each(|frame| self.frames.give(*frame as usize, 1));
        match (result, done) {
            (Err(errno), _) => Err(errno),
            (Ok(_), 0) => Err(Errno::EAGAIN),
            (Ok(_), done) => Ok(done as u64),
        }
    }

    /// Takes up to `pages` from the hypervisor, one batch: 2 MiB while that is missing as a whole and the host has it in
    /// one piece, and then single pages. Returns how many; they are free then.
    pub fn increase(&mut self, pages: u64, hypercall: Hypercall<'_>) -> Result<u64, Errno> {
        let extent = (pages >= EXTENT as u64).then(|| self.absent.take_extent()).flatten();
        if let Some(start) = extent {
            let result = hypercall(&[start as u64], EXTENT_ORDER);
            if let Ok(1..) = result {
                self.frames.give(start, EXTENT);
                return Ok(EXTENT as u64);
            }
            self.absent.give(start, EXTENT);
        }
        let mut batch = [0; BATCH];
        let mut count = 0;
        while count < BATCH && (count as u64) < pages {
            let taken = match extent {
                Some(start) => self.absent.take_at(start + count, 1).then_some(start + count),
                None => self.absent.take(),
            };
            let Some(frame) = taken else { break };
            batch[count] = frame as u64;
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        let result = hypercall(&batch[..count], 0);
        let done = result.unwrap_or(0).min(count);
        batch[..done].iter().for_each(|frame| self.frames.give(*frame as usize, 1));
        batch[done..count].iter().for_each(|frame| self.absent.give(*frame as usize, 1));
        result.map(|_| done as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A hypervisor that has the pages of one domain.
    struct Model {
        present: BTreeSet<u64>,
        /// What the toolstack lets the domain have.
        most: usize,
        /// Whether the host has pieces of 2 MiB.
        large: bool,
        /// Extents after which a call ends.
        patience: usize,
        calls: Vec<(usize, u32)>,
    }

    impl Model {
        fn decrease(&mut self, extents: &[u64], order: u32) -> Result<usize, Errno> {
            self.calls.push((extents.len(), order));
            for extent in extents.iter().take(self.patience) {
                assert!(extent.is_multiple_of(1 << order));
                for page in *extent..extent + (1 << order) {
                    assert!(self.present.remove(&page), "page {page} was not there");
                }
            }
            Ok(extents.len().min(self.patience))
        }

        fn increase(&mut self, extents: &[u64], order: u32) -> Result<usize, Errno> {
            self.calls.push((extents.len(), order));
            for (done, extent) in extents.iter().enumerate() {
                let full = self.present.len() + (1 << order) > self.most;
                if full || (order > 0 && !self.large) || done == self.patience {
                    return Ok(done);
                }
                for page in *extent..extent + (1 << order) {
                    assert!(self.present.insert(page), "page {page} was there already");
                }
            }
            Ok(extents.len())
        }
    }

    #[test]
    fn follows_a_model_of_the_hypervisor() {
        const PAGES: usize = 8 * EXTENT;
        for seed in 0..6_u64 {
            let (mut free, mut absent) = ([0; PAGES / 64], [0; PAGES / 64]);
            let mut ram = Ram::new(&mut free, &mut absent, PAGES as u64);
            ram.add(3, PAGES - 3);
            let mut model =
                Model { present: (0..PAGES as u64).collect(), most: PAGES, large: true, patience: 1000, calls: vec![] };
            let mut used: Vec<(usize, usize)> = Vec::new();
            let mut state = seed * 2 + 1;
            for _ in 0..3000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let random = (state >> 33) as usize;
                let wish = (random / 8 % 1500) as u64;
                match random % 8 {
                    0..2 => {
                        let count = 1 + random / 8 % 40;
                        if let Some(start) = ram.take(count) {
                            let there = (start..start + count).all(|page| model.present.contains(&(page as u64)));
                            assert!(there, "free memory is memory");
                            used.push((start, count));
                        }
                    }
                    2..4 if !used.is_empty() => {
                        let (start, count) = used.swap_remove(random / 8 % used.len());
                        ram.give(start, count);
                    }
                    4..6 => {
                        let before = ram.size();
                        let done = ram.decrease(wish, &mut |extents, order| model.decrease(extents, order));
                        let done = done.unwrap_or_else(|errno| {
                            assert_eq!((errno, model.patience), (Errno::EAGAIN, 0));
                            0
                        });
                        assert!(done <= wish && before.free - done == ram.size().free);
                        assert!(done > 0 || wish == 0 || before.free == 0 || model.patience == 0);
                    }
                    6 => {
                        let before = ram.size();
                        let done = ram.increase(wish, &mut |extents, order| model.increase(extents, order)).unwrap();
                        assert!(done <= wish && before.free + done == ram.size().free);
                    }
                    _ => {
                        model.most = random / 8 % (PAGES + 1);
                        model.large = !(random / 8).is_multiple_of(3);
                        // 0 would lose an extent, which is not the model's to follow.
                        model.patience = [1, 7, 1000][random / 8 % 3];
                    }
                }
                let size = ram.size();
                assert_eq!(size.current, model.present.len() as u64);
                let held: usize = used.iter().map(|(_, count)| count).sum();
                assert_eq!(size.free as usize + held + 3, size.current as usize);
            }
        }
    }

    #[test]
    fn whole_extents_go_and_come_first() {
        const PAGES: usize = 4 * EXTENT;
        let (mut free, mut absent) = ([0; PAGES / 64], [0; PAGES / 64]);
        let mut ram = Ram::new(&mut free, &mut absent, PAGES as u64);
        ram.add(100, PAGES - 100);
        let mut model =
            Model { present: (0..PAGES as u64).collect(), most: PAGES, large: true, patience: 1000, calls: vec![] };
        let target = 700;
        while ram.size().current > target {
            let wish = ram.size().current - target;
            assert!(ram.decrease(wish, &mut |extents, order| model.decrease(extents, order)).unwrap() > 0);
        }
        assert_eq!(model.calls, [(1, 9), (1, 9), (128, 0), (128, 0), (68, 0)]);
        model.calls.clear();
        while ram.size().current < PAGES as u64 - 3 {
            let wish = PAGES as u64 - 3 - ram.size().current;
            assert!(ram.increase(wish, &mut |extents, order| model.increase(extents, order)).unwrap() > 0);
        }
        assert_eq!(model.calls, [(1, 9), (1, 9), (128, 0), (128, 0), (65, 0)]);
        // A host in pieces: the same, page by page.
        (model.large, model.calls) = (false, vec![]);
        while ram.size().current > 700 {
            ram.decrease(u64::MAX, &mut |extents, order| model.decrease(extents, order)).unwrap();
        }
        model.calls.clear();
        assert_eq!(ram.increase(512, &mut |extents, order| model.increase(extents, order)), Ok(128));
        assert_eq!(model.calls, [(1, 9), (128, 0)]);
    }

    #[test]
    fn what_fails_is_not_used_again() {
        const PAGES: usize = 2 * EXTENT;
        let (mut free, mut absent) = ([0; PAGES / 64], [0; PAGES / 64]);
        let mut ram = Ram::new(&mut free, &mut absent, PAGES as u64);
        ram.add(0, PAGES);
        // Part of an extent may be gone: nobody gets it.
        assert_eq!(ram.decrease(512, &mut |_, _| Err(Errno::EINVAL)), Err(Errno::EINVAL));
        assert_eq!(ram.size(), ReservationSize { maximum: 1024, current: 1024, free: 512 });
        // A single page that fails is still there.
        assert_eq!(ram.decrease(4, &mut |_, _| Err(Errno::EINVAL)), Err(Errno::EINVAL));
        assert_eq!(ram.decrease(4, &mut |_, _| Ok(0)), Err(Errno::EAGAIN));
        assert_eq!(ram.size().free, 512);
        assert_eq!(ram.decrease(4, &mut |_, _| Ok(3)), Ok(3));
        assert_eq!(ram.increase(4, &mut |_, _| Err(Errno::ENOMEM)), Err(Errno::ENOMEM));
        assert_eq!(ram.size(), ReservationSize { maximum: 1024, current: 1021, free: 509 });
        assert_eq!(ram.increase(4, &mut |frames, _| Ok(frames.len())), Ok(3));
        assert_eq!(ram.increase(4, &mut |frames, _| Ok(frames.len())), Ok(0), "nothing is missing");
    }
}
