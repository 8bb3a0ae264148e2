//! The bytes of a packet, wherever they are.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::ops::{Deref, DerefMut, Range};

use xen_hal::PAGE_SIZE;

/// Bytes on the heap, or in pages that can be granted as they are.
///
/// A large packet of a guest's, or of a network's, has pages, which the hypervisor copies into and out of, and which the
/// backend of another network reads: it is passed on without a copy of this domain's own. Pages are of a bounded number,
/// and return to where they are from when the buffer is dropped.
///
/// # Examples
///
/// ```
/// use xen_netif::Buffer;
///
/// let mut buffer = Buffer::from(vec![1, 2, 3, 4]);
/// buffer.insert(2, &[9, 9]);
/// assert_eq!(*buffer, [1, 2, 9, 9, 3, 4]);
/// buffer.remove(1..5);
/// assert_eq!(*buffer, [1, 4]);
/// ```
pub struct Buffer {
    place: Place,
    /// Where the bytes are there.
    start: usize,
    len: usize,
}

/// Bytes that have to be in the first slot of a packet: Linux's netfront takes so many for its headers (`RX_COPY_THRESHOLD`), and
/// fails where there are fewer than an Ethernet header has; Linux's netback refuses such a packet.
const HEAD: usize = 256;

enum Place {
    Heap(Vec<u8>),
    Pages(Box<dyn Storage>),
}

/// Pages side by side.
pub(crate) trait Storage {
    fn bytes(&self) -> &[u8];
    fn bytes_mut(&mut self) -> &mut [u8];
    /// For whoever knows their type.
    fn as_any(&mut self) -> &mut dyn Any;
}

impl Buffer {
    /// So many bytes of pages. What they hold is what they have held.
    pub(crate) fn in_pages(pages: Box<dyn Storage>, start: usize, len: usize) -> Buffer {
        debug_assert!(start + len <= pages.bytes().len());
        Buffer { place: Place::Pages(pages), start, len }
    }

    /// Its pages, where it has pages of this type, and where in them the bytes are. What else those pages hold that they are
    /// in is zero then: whoever may read a page may read all of it (XSA-403).
    pub(crate) fn pages<T: 'static>(&mut self) -> Option<(&mut T, Range<usize>)> {
        let (start, end) = (self.start, self.start + self.len);
        let Place::Pages(pages) = &mut self.place else { return None };
        if !pages.as_any().is::<T>() {
            return None;
        }
        let bytes = pages.bytes_mut();
        bytes[start / PAGE_SIZE * PAGE_SIZE..start].fill(0);
        bytes[end..end.next_multiple_of(PAGE_SIZE)].fill(0);
        pages.as_any().downcast_mut().map(|pages| (pages, start..end))
    }

    /// Puts bytes in, in front of the one with this number.
    ///
    /// # Panics
    ///
    /// Where there are not as many as that.
    pub fn insert(&mut self, at: usize, new: &[u8]) {
        assert!(at <= self.len, "byte {at} of {}", self.len);
        let (start, count) = (self.start, new.len());
        if let Some(before) = start.checked_sub(count) {
            self.all_mut().copy_within(start..start + at, before);
            (self.start, self.len) = (before, self.len + count);
        } else {
            let mut bytes = Vec::with_capacity(self.len + count);
            bytes.extend_from_slice(&self[..at]);
            bytes.extend_from_slice(new);
            bytes.extend_from_slice(&self[at..]);
            *self = bytes.into();
        }
        self[at..at + count].copy_from_slice(new);
    }

    /// Takes bytes out. What is before them is moved, and nothing behind them.
    ///
    /// # Panics
    ///
    /// Where they are not all there.
    pub fn remove(&mut self, range: Range<usize>) {
        let Range { start: at, end } = range;
        assert!(at <= end && end <= self.len, "bytes {at} to {end} of {}", self.len);
        self.copy_within(..at, end - at);
        self.start += end - at;
        self.len -= end - at;
    }

    /// Where in its first page it begins, if it is in pages that can be sent as they are: its headers are all in the first.
    pub(crate) fn offset(&self) -> Option<usize> {
        let offset = self.start % PAGE_SIZE;
        (matches!(self.place, Place::Pages(_)) && PAGE_SIZE - offset >= HEAD).then_some(offset)
    }

    /// Memory that it takes, in bytes: at least as many as there are.
    pub fn memory(&self) -> usize {
        match &self.place {
            Place::Heap(bytes) => bytes.capacity(),
            Place::Pages(pages) => memory_of_pages(pages.bytes().len()),
        }
    }

    fn all_mut(&mut self) -> &mut [u8] {
        match &mut self.place {
            Place::Heap(bytes) => bytes,
            Place::Pages(pages) => pages.bytes_mut(),
        }
    }
}

/// What pages with so many bytes take: each is known by a few words.
pub(crate) fn memory_of_pages(bytes: usize) -> usize {
    bytes + bytes / PAGE_SIZE * 64 + 128
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let all = match &self.place {
            Place::Heap(bytes) => bytes,
            Place::Pages(pages) => pages.bytes(),
        };
        &all[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let range = self.start..self.start + self.len;
        &mut self.all_mut()[range]
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Buffer {
        let len = bytes.len();
        Buffer { place: Place::Heap(bytes), start: 0, len }
    }
}

impl From<Buffer> for Vec<u8> {
    /// Copies them, unless they are on the heap.
    fn from(buffer: Buffer) -> Vec<u8> {
        match buffer {
            Buffer { place: Place::Heap(mut bytes), start: 0, len } => {
                bytes.truncate(len);
                bytes
            }
            other => other.to_vec(),
        }
    }
}

impl Default for Buffer {
    fn default() -> Buffer {
        Vec::new().into()
    }
}

/// Of whatever kind, the copy is on the heap.
impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        self.to_vec().into()
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Buffer) -> bool {
        **self == **other
    }
}

impl Eq for Buffer {}

impl PartialEq<Vec<u8>> for Buffer {
    fn eq(&self, other: &Vec<u8>) -> bool {
        **self == **other
    }
}

impl PartialEq<Buffer> for Vec<u8> {
    fn eq(&self, other: &Buffer) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::area::{Area, Run};
    use alloc::vec;
    use proptest::prelude::*;
    use xen_sim::Domain;

    proptest! {
        /// As a vector, whatever is done to it, on the heap and in pages.
        #[test]
        fn bytes_go_in_and_out(
            len in 0..5000_usize,
            start in 0..100_usize,
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), 0..20_usize), 0..20),
        ) {
            let xen = xen_sim::Xen::new(1);
            let mut model: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let run = Area::new(&xen.domain(), 3).unwrap().take(0..3).unwrap();
            let mut pages = Buffer::in_pages(run.into(), start, len);
            pages.copy_from_slice(&model);
            let mut both = [pages, model.clone().into()];
            for (insert, at, count) in steps {
                let at = at.index(model.len() + 1);
                let new = vec![0xaa; count];
                let range = at..model.len().min(at + count);
                for buffer in &mut both {
                    if insert { buffer.insert(at, &new) } else { buffer.remove(range.clone()) }
                }
                if insert {
                    model.splice(at..at, new);
                } else {
                    model.drain(range);
                }
                for buffer in &both {
                    prop_assert_eq!(&**buffer, &*model);
                    prop_assert!(buffer.memory() >= buffer.len());
                }
            }
        }
    }

    #[test]
    fn headers_are_in_one_page_of_what_is_sent_as_it_is() {
        let xen = xen_sim::Xen::new(1);
        let area = Area::new(&xen.domain(), 2).unwrap();
        for (start, offset) in [(0, Some(0)), (3840, Some(3840)), (3841, None), (4095, None), (4096, Some(0))] {
            let run = area.take(0..2).unwrap();
            assert_eq!(Buffer::in_pages(run.into(), start, 300).offset(), offset);
        }
        assert_eq!(Buffer::from(vec![0; 9000]).offset(), None);
    }

    #[test]
    fn xsa_403_what_else_is_in_pages_is_shown_to_nobody() {
        let xen = xen_sim::Xen::new(1);
        let area = Area::new(&xen.domain(), 4).unwrap();
        let mut run = area.take(0..4).unwrap();
        Storage::bytes_mut(&mut run).fill(0xee);
        let mut buffer = Buffer::in_pages(run.into(), 5000, 4000);
        let (run, range) = buffer.pages::<Run<Domain>>().unwrap();
        assert_eq!(range, 5000..9000);
        let bytes = run.pages_mut().bytes();
        assert!(bytes[4096..5000].iter().chain(&bytes[9000..12288]).all(|byte| *byte == 0));
        assert!(bytes[5000..9000].iter().all(|byte| *byte == 0xee));
        assert!(buffer.pages::<u8>().is_none() && Buffer::from(vec![1]).pages::<Run<Domain>>().is_none());
    }
}
