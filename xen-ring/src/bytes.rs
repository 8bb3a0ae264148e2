//! A ring of bytes, as XenStore, the console and 9pfs use it.

use core::fmt;
use core::sync::atomic::{Ordering, fence};

use crate::SharedMemory;

/// One direction of a ring of bytes: where its data and its indices lie in the shared memory.
///
/// Indices run freely and wrap at 2³²; the peer's is never trusted.
///
/// # Examples
///
/// ```
/// use xen_hal::Pages;
/// use xen_ring::{ByteRing, SharedPage};
///
/// const RING: ByteRing = ByteRing { data: 0, size: 1024, consumer: 2048, producer: 2052 };
///
/// let xen = xen_sim::Xen::new(1);
/// let page = SharedPage::new(xen.domain().alloc_page().unwrap());
/// let (mut reader, mut writer) = (RING.reader(&page)?, RING.writer(&page)?);
///
/// let moved = writer.write(&page, b"hello")?;
/// assert!(moved.bytes == 5 && moved.notify, "the ring was empty: the reader may wait");
/// let mut bytes = [0; 16];
/// let moved = reader.read(&page, &mut bytes)?;
/// assert_eq!(&bytes[..moved.bytes], b"hello");
/// # Ok::<(), xen_ring::BadIndex>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRing {
    /// Where the data begins.
    pub data: usize,
    /// Bytes of data: a power of two.
    pub size: u32,
    /// Where the reader's index is.
    pub consumer: usize,
    /// Where the writer's index is.
    pub producer: usize,
}

/// The peer's index says that there is more in the ring than fits: the peer is broken or hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadIndex {
    /// The reader's index.
    pub consumer: u32,
    /// The writer's index.
    pub producer: u32,
    /// How many bytes the ring holds.
    pub size: u32,
}

impl fmt::Display for BadIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ring indices out of range: producer {:#x} and consumer {:#x} are more than {} bytes apart",
            self.producer, self.consumer, self.size
        )
    }
}

impl core::error::Error for BadIndex {}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// How many bytes were moved.
    pub bytes: usize,
    /// Whether the peer may be waiting for just this, and is to be notified: the ring was full before a read, or empty
    /// before a write.
    ///
    /// That is enough for a peer that takes or gives any number of bytes. One that waits for a whole message, or for
    /// room for one, is to be notified after each step that moves bytes (docs/misc/9pfs.pandoc in Xen, "Ring Usage").
    pub notify: bool,
}

impl ByteRing {
    fn used(&self, consumer: u32, producer: u32) -> Result<u32, BadIndex> {
        match producer.wrapping_sub(consumer) {
            used if used <= self.size => Ok(used),
            _ => Err(BadIndex { consumer, producer, size: self.size }),
        }
    }

    /// The two pieces that `len` bytes from `index` on make.
    fn pieces(&self, index: u32, len: usize) -> (usize, usize, usize) {
        let offset = (index & (self.size - 1)) as usize;
        let first = len.min(self.size as usize - offset);
        (self.data + offset, first, len - first)
    }

    /// The reading end. It goes on where the shared index says that it was.
    ///
    /// # Errors
    ///
    /// Where the indices are out of range.
    ///
    /// # Panics
    ///
    /// Where the size is no power of two.
    pub fn reader(self, memory: &SharedMemory) -> Result<ByteReader, BadIndex> {
        assert!(self.size.is_power_of_two());
        let consumer = memory.load(self.consumer);
        self.used(consumer, memory.load(self.producer))?;
        Ok(ByteReader { ring: self, consumer })
    }

    /// The writing end. It goes on where the shared index says that it was.
    ///
    /// # Errors
    ///
    /// Where the indices are out of range.
    ///
    /// # Panics
    ///
    /// Where the size is no power of two.
    pub fn writer(self, memory: &SharedMemory) -> Result<ByteWriter, BadIndex> {
        assert!(self.size.is_power_of_two());
        let producer = memory.load(self.producer);
        self.used(memory.load(self.consumer), producer)?;
        Ok(ByteWriter { ring: self, producer })
    }
}

/// The reading end of a [`ByteRing`].
#[derive(Debug)]
pub struct ByteReader {
    ring: ByteRing,
    /// Ours; the shared one is only ever written.
    consumer: u32,
}

impl ByteReader {
    /// Takes as many bytes as there are and fit into `to`.
    ///
    /// # Errors
    ///
    /// Where the peer's index is out of range; nothing is taken then.
    pub fn read(&mut self, memory: &SharedMemory, to: &mut [u8]) -> Result<Transfer, BadIndex> {
        let used = self.ring.used(self.consumer, memory.load(self.ring.producer))?;
        let bytes = to.len().min(used as usize);
        if bytes == 0 {
            return Ok(Transfer::default());
        }
        let (offset, first, rest) = self.ring.pieces(self.consumer, bytes);
        memory.read(offset, &mut to[..first]);
        memory.read(self.ring.data, &mut to[first..first + rest]);
        let before = self.consumer;
        self.consumer = before.wrapping_add(bytes as u32);
        memory.store(self.ring.consumer, self.consumer);
        // A writer that found the ring full after our look above waits to hear of the room that there is now.
        fence(Ordering::SeqCst);
        let notify = memory.load(self.ring.producer).wrapping_sub(before) >= self.ring.size;
        Ok(Transfer { bytes, notify })
    }
}

/// The writing end of a [`ByteRing`].
#[derive(Debug)]
pub struct ByteWriter {
    ring: ByteRing,
    /// Ours; the shared one is only ever written.
    producer: u32,
}

impl ByteWriter {
    /// Puts in as many of the bytes as there is room for.
    ///
    /// # Errors
    ///
    /// Where the peer's index is out of range; nothing is put in then.
    pub fn write(&mut self, memory: &SharedMemory, from: &[u8]) -> Result<Transfer, BadIndex> {
        let used = self.ring.used(memory.load(self.ring.consumer), self.producer)?;
        let bytes = from.len().min((self.ring.size - used) as usize);
        if bytes == 0 {
            return Ok(Transfer::default());
        }
        // The room is the reader's to give: its index was read before the bytes that it has taken are overwritten.
        fence(Ordering::SeqCst);
        let (offset, first, rest) = self.ring.pieces(self.producer, bytes);
        memory.write(offset, &from[..first]);
        memory.write(self.ring.data, &from[first..first + rest]);
        let before = self.producer;
        self.producer = before.wrapping_add(bytes as u32);
        memory.store(self.ring.producer, self.producer);
        // A reader that found the ring empty after our look above waits to hear of what there is now.
        fence(Ordering::SeqCst);
        let notify = memory.load(self.ring.consumer) == before;
        Ok(Transfer { bytes, notify })
    }

    /// How many bytes the reader has not taken yet.
    ///
    /// # Errors
    ///
    /// Where the peer's index is out of range.
    pub fn unread(&self, memory: &SharedMemory) -> Result<usize, BadIndex> {
        self.ring.used(memory.load(self.ring.consumer), self.producer).map(|used| used as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;
    use core::ptr::NonNull;
    use proptest::prelude::*;

    const RING: ByteRing = ByteRing { data: 0, size: 16, consumer: 16, producer: 20 };

    #[repr(align(4))]
    struct Words([u8; 24]);

    fn memory(words: &mut Words, index: u32) -> SharedMemory {
        // SAFETY: the array outlives the test's use of it, which is only through this value.
        let memory = unsafe { SharedMemory::new(NonNull::from(&mut words.0).cast(), 24) };
        memory.store(RING.consumer, index);
        memory.store(RING.producer, index);
        memory
    }

    proptest! {
        /// Whatever is put in comes out, in order, wherever the indices begin, also across their wrap.
        #[test]
        fn bytes_come_out_as_they_went_in(
            start in prop_oneof![any::<u32>(), (u32::MAX - 40)..u32::MAX],
            steps in prop::collection::vec((any::<bool>(), 0_usize..20), 0..200),
        ) {
            let mut words = Words([0; 24]);
            let memory = memory(&mut words, start);
            let (mut reader, mut writer) = (RING.reader(&memory).unwrap(), RING.writer(&memory).unwrap());
            let mut model = VecDeque::new();
            let mut next = 0_u8;
            for (write, len) in steps {
                if write {
                    let bytes: Vec<u8> = (0..len).map(|index| next.wrapping_add(index as u8)).collect();
                    let moved = writer.write(&memory, &bytes).unwrap();
                    prop_assert_eq!(moved.bytes, len.min(16 - model.len()));
                    prop_assert_eq!(moved.notify, moved.bytes > 0 && model.is_empty());
                    model.extend(&bytes[..moved.bytes]);
                    prop_assert_eq!(writer.unread(&memory), Ok(model.len()));
                    next = next.wrapping_add(moved.bytes as u8);
                } else {
                    let mut bytes = alloc::vec![0; len];
                    let moved = reader.read(&memory, &mut bytes).unwrap();
                    prop_assert_eq!(moved.bytes, len.min(model.len()));
                    prop_assert_eq!(moved.notify, moved.bytes > 0 && model.len() == 16);
                    let expected: Vec<u8> = model.drain(..moved.bytes).collect();
                    prop_assert_eq!(&bytes[..moved.bytes], &expected[..]);
                }
            }
        }

        /// A peer that writes anything into its index gets nothing but an error.
        #[test]
        fn a_hostile_index_is_an_error(start in any::<u32>(), index in any::<u32>()) {
            let mut words = Words([0; 24]);
            let memory = memory(&mut words, start);
            let mut reader = RING.reader(&memory).unwrap();
            memory.store(RING.producer, index);
            let mut bytes = [0; 64];
            let legal = index.wrapping_sub(start) <= 16;
            prop_assert_eq!(reader.read(&memory, &mut bytes).is_ok(), legal);

            let memory = self::memory(&mut words, start);
            let mut writer = RING.writer(&memory).unwrap();
            memory.store(RING.consumer, index);
            let legal = start.wrapping_sub(index) <= 16;
            prop_assert_eq!(writer.unread(&memory).is_ok(), legal);
            prop_assert_eq!(writer.write(&memory, &bytes).is_ok(), legal);
            prop_assert_eq!(RING.writer(&memory).is_ok(), legal);
        }
    }

    /// A peer with a processor of its own changes both indices and the data between any two accesses here. What is read
    /// is what fits, whatever the indices say the next moment, and the own index goes on by just that much.
    #[cfg(feature = "hook")]
    #[test]
    fn indices_that_change_between_two_accesses_are_read_once() {
        use alloc::boxed::Box;
        use alloc::rc::Rc;
        use core::cell::Cell;

        for seed in 1..2000_u32 {
            let words = Box::leak(Box::new(Words([0; 24])));
            let start = NonNull::from(&mut words.0).cast::<u8>();
            // SAFETY: the array is leaked, and used through these values alone.
            let (ours, peers) = unsafe { (SharedMemory::new(start, 24), SharedMemory::new(start, 24)) };
            let index = seed.wrapping_mul(0x9e37_79b9);
            ours.store(RING.consumer, index);
            ours.store(RING.producer, index);
            let (mut reader, mut writer) = (RING.reader(&ours).unwrap(), RING.writer(&ours).unwrap());
            let random = Cell::new(u64::from(seed));
            let hook: crate::hook::Hook = Rc::new(move |_| {
                random.set(random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                let random = (random.get() >> 33) as u32;
                let near = index.wrapping_add(random % 40).wrapping_sub(20);
                let value = if random & 64 == 0 { near } else { random };
                peers.store(if random & 128 == 0 { RING.consumer } else { RING.producer }, value);
            });
            crate::hook::set(Some(hook));
            for _ in 0..4 {
                let (before, mut bytes) = (reader.consumer, [0; 40]);
                let bytes = reader.read(&ours, &mut bytes).map_or(0, |moved| moved.bytes);
                assert!(bytes <= 16 && reader.consumer == before.wrapping_add(bytes as u32));
                let before = writer.producer;
                let bytes = writer.write(&ours, &[1; 40]).map_or(0, |moved| moved.bytes);
                assert!(bytes <= 16 && writer.producer == before.wrapping_add(bytes as u32));
                assert!(writer.unread(&ours).unwrap_or(0) <= 16);
            }
            crate::hook::set(None);
        }
    }

    #[test]
    #[should_panic(expected = "4 bytes at 24 of 24 shared bytes")]
    fn nothing_outside_is_touched() {
        memory(&mut Words([0; 24]), 0).load(24);
    }
}
