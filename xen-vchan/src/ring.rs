//! One direction: the arithmetic of a ring of bytes whose indices are in the shared page.
//!
//! Indices run freely and wrap at 2³². An end trusts its own, which it keeps to itself, and reads its peer's once for each
//! step; one that cannot be is an error ([`BadIndex`]). Reference: tools/libs/vchan/io.c in Xen, which takes such a ring for
//! empty instead.

use core::ops::Range;

use xen_ring::{BadIndex, SharedMemory};

use crate::layout::{End, Layout, NOTIFY_READ, NOTIFY_WRITE, Side};

/// What both ends of a direction know of it.
#[derive(Clone, Copy, Debug)]
struct Ring {
    size: u32,
    consumer: usize,
    producer: usize,
    /// The byte that says what to notify the peer of.
    notify: usize,
    /// The byte that tells the peer what to notify this end of.
    request: usize,
}

impl Ring {
    fn new(layout: Layout, side: Side, end: End) -> Ring {
        let (consumer, producer) = side.indices();
        Ring { size: layout.size(side), consumer, producer, notify: end.notify(), request: end.other().notify() }
    }

    fn used(&self, consumer: u32, producer: u32) -> Result<usize, BadIndex> {
        match producer.wrapping_sub(consumer) {
            used if used <= self.size => Ok(used as usize),
            _ => Err(BadIndex { consumer, producer, size: self.size }),
        }
    }

    /// Calls `copy` for each of the pieces that `len` bytes from `index` on make: with where it is in the ring, and which
    /// of the bytes it holds.
    fn pieces(&self, index: u32, len: usize, mut copy: impl FnMut(usize, Range<usize>)) {
        let offset = (index & (self.size - 1)) as usize;
        let first = len.min(self.size as usize - offset);
        copy(offset, 0..first);
        if first < len {
            copy(0, first..len);
        }
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// How many bytes were moved.
    pub bytes: usize,
    /// Whether the peer has asked to be notified of that.
    pub notify: bool,
}

/// The reading end.
#[derive(Debug)]
pub struct Reader {
    ring: Ring,
    /// Ours; the shared one is only ever written.
    consumer: u32,
}

impl Reader {
    /// `end`'s, which goes on where the shared index says: a server of Xen's library can have clients one after the other.
    ///
    /// # Errors
    ///
    /// Where the indices are out of range.
    pub fn attach(layout: Layout, end: End, page: &SharedMemory) -> Result<Reader, BadIndex> {
        let ring = Ring::new(layout, end.reads(), end);
        let reader = Reader { ring, consumer: page.load(ring.consumer) };
        reader.ready(page).map(|_| reader)
    }

    /// How many bytes can be read.
    ///
    /// # Errors
    ///
    /// Where the peer's index is out of range.
    pub fn ready(&self, page: &SharedMemory) -> Result<usize, BadIndex> {
        self.ring.used(self.consumer, page.load(self.ring.producer))
    }

    /// Reads as many bytes as there are, and `most` at most. `copy` copies them from the ring, in one or two pieces: from
    /// where in its data, and to which of the bytes.
    ///
    /// # Errors
    ///
    /// Where the peer's index is out of range; nothing is read then.
    pub fn read(
        &mut self,
        page: &SharedMemory,
        most: usize,
        copy: impl FnMut(usize, Range<usize>),
    ) -> Result<Moved, BadIndex> {
        let bytes = self.ready(page)?.min(most);
        if bytes == 0 {
            return Ok(Moved::default());
        }
        self.ring.pieces(self.consumer, bytes, copy);
        self.consumer = self.consumer.wrapping_add(bytes as u32);
        let notify = page.publish_index(self.ring.consumer, self.consumer, self.ring.notify, NOTIFY_READ);
        Ok(Moved { bytes, notify })
    }

    /// Asks to be notified when there is more. [`ready`](Reader::ready) is to be looked at once more afterwards.
    pub fn request_notify(&self, page: &SharedMemory) {
        page.request_notify(self.ring.request, NOTIFY_WRITE);
    }
}

/// The writing end.
#[derive(Debug)]
pub struct Writer {
    ring: Ring,
    /// Ours; the shared one is only ever written.
    producer: u32,
}

impl Writer {
    /// `end`'s, which goes on where the shared index says.
    ///
    /// # Errors
    ///
    /// Where the indices are out of range.
    pub fn attach(layout: Layout, end: End, page: &SharedMemory) -> Result<Writer, BadIndex> {
        let ring = Ring::new(layout, end.writes(), end);
        let writer = Writer { ring, producer: page.load(ring.producer) };
        writer.unread(page).map(|_| writer)
    }

    /// Bytes of the ring.
    pub fn size(&self) -> usize {
        self.ring.size as usize
    }

    /// How many bytes the peer has not read yet.
    ///
    /// # Errors
    ///
    /// Where the peer's index is out of range.
    pub fn unread(&self, page: &SharedMemory) -> Result<usize, BadIndex> {
        self.ring.used(page.load(self.ring.consumer), self.producer)
    }

    /// Writes as many of `len` bytes as there is room for, where that is for `least` at least. `copy` copies them into the
    /// ring, in one or two pieces: to where in its data, and which of the bytes.
    ///
    /// # Errors
    ///
    /// Where the peer's index is out of range; nothing is written then.
    pub fn write(
        &mut self,
        page: &SharedMemory,
        least: usize,
        len: usize,
        copy: impl FnMut(usize, Range<usize>),
    ) -> Result<Moved, BadIndex> {
        let room = self.size() - self.unread(page)?;
        let bytes = room.min(len);
        if bytes == 0 || room < least {
            return Ok(Moved::default());
        }
        self.ring.pieces(self.producer, bytes, copy);
        self.producer = self.producer.wrapping_add(bytes as u32);
        let notify = page.publish_index(self.ring.producer, self.producer, self.ring.notify, NOTIFY_WRITE);
        Ok(Moved { bytes, notify })
    }

    /// Asks to be notified when the peer has read. [`unread`](Writer::unread) is to be looked at once more afterwards.
    pub fn request_notify(&self, page: &SharedMemory) {
        page.request_notify(self.ring.request, NOTIFY_READ);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;
    use core::cell::RefCell;
    use proptest::prelude::*;
    use xen_hal::Pages;
    use xen_ring::SharedPage;
    use xen_sim::{SimPage, Xen};

    /// A page whose rings begin at `index`, and the left one's two ends.
    fn left(xen: &Xen, index: u32) -> (SharedPage<SimPage>, Reader, Writer) {
        let page = SharedPage::new(xen.domain().alloc_page().unwrap());
        let layout = Layout::new(10, 11).unwrap();
        (0..4).for_each(|word| page.store(word * 4, index));
        let reader = Reader::attach(layout, End::Server, &page).unwrap();
        let writer = Writer::attach(layout, End::Client, &page).unwrap();
        (page, reader, writer)
    }

    proptest! {
        /// Whatever is put in comes out, in order, wherever the indices begin, also across their wrap; and who has asked
        /// to be notified is, once.
        #[test]
        fn bytes_come_out_as_they_went_in(
            start in prop_oneof![any::<u32>(), (u32::MAX - 3000)..u32::MAX],
            steps in prop::collection::vec((0_u8..4, 0_usize..1500), 0..100),
        ) {
            let xen = Xen::new(1);
            let (page, mut reader, mut writer) = left(&xen, start);
            let data = RefCell::new([0_u8; 1024]);
            let (mut model, mut next) = (VecDeque::new(), 0_u8);
            let (mut asks_write, mut asks_read) = (false, false);
            for (step, len) in steps {
                match step {
                    0 => {
                        let bytes: Vec<u8> = (0..len).map(|index| next.wrapping_add(index as u8)).collect();
                        let copy = |offset: usize, range: Range<usize>| {
                            data.borrow_mut()[offset..offset + range.len()].copy_from_slice(&bytes[range]);
                        };
                        let moved = writer.write(&page, 0, len, copy).unwrap();
                        prop_assert_eq!(moved.bytes, len.min(1024 - model.len()));
                        prop_assert_eq!(moved.notify, moved.bytes > 0 && asks_write);
                        asks_write &= moved.bytes == 0;
                        model.extend(&bytes[..moved.bytes]);
                        next = next.wrapping_add(moved.bytes as u8);
                    }
                    1 => {
                        let mut bytes = alloc::vec![0; len];
                        let copy = |offset: usize, range: Range<usize>| {
                            bytes[range.clone()].copy_from_slice(&data.borrow()[offset..offset + range.len()]);
                        };
                        let moved = reader.read(&page, len, copy).unwrap();
                        prop_assert_eq!(moved.bytes, len.min(model.len()));
                        prop_assert_eq!(moved.notify, moved.bytes > 0 && asks_read);
                        asks_read &= moved.bytes == 0;
                        let expected: Vec<u8> = model.drain(..moved.bytes).collect();
                        prop_assert_eq!(&bytes[..moved.bytes], &expected[..]);
                    }
                    2 => {
                        reader.request_notify(&page);
                        asks_write = true;
                    }
                    _ => {
                        writer.request_notify(&page);
                        asks_read = true;
                    }
                }
                prop_assert_eq!((reader.ready(&page), writer.unread(&page)), (Ok(model.len()), Ok(model.len())));
            }
        }

        /// A peer that writes anything into its index gets nothing but an error.
        #[test]
        fn a_hostile_index_is_an_error(start in any::<u32>(), index in any::<u32>(), near in any::<bool>()) {
            let xen = Xen::new(1);
            let index = if near { start.wrapping_add(index % 4096).wrapping_sub(2048) } else { index };
            let (page, mut reader, _) = left(&xen, start);
            page.store(4, index);
            let legal = index.wrapping_sub(start) <= 1024;
            let within = |offset: usize, range: Range<usize>| assert!(offset + range.len() <= 1024 && range.end <= 5000);
            prop_assert_eq!(reader.read(&page, 5000, within).is_ok(), legal);

            let (page, _, mut writer) = left(&xen, start);
            page.store(0, index);
            let legal = start.wrapping_sub(index) <= 1024;
            prop_assert_eq!(writer.write(&page, 0, 5000, within).is_ok(), legal);
            prop_assert_eq!(Writer::attach(Layout::new(10, 11).unwrap(), End::Client, &page).is_ok(), legal);
        }
    }

    #[test]
    fn a_message_is_written_whole_or_not_at_all() {
        let xen = Xen::new(1);
        let (page, mut reader, mut writer) = left(&xen, 5);
        assert_eq!(writer.write(&page, 1000, 1000, |_, _| {}).unwrap().bytes, 1000);
        assert_eq!(writer.write(&page, 25, 25, |_, _| panic!("there is no room")).unwrap().bytes, 0);
        assert_eq!(reader.read(&page, 1, |_, _| {}).unwrap().bytes, 1);
        assert_eq!(writer.write(&page, 25, 25, |_, _| {}).unwrap().bytes, 25);
    }
}
