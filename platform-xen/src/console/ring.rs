//! The console's shared page: a ring in each direction (xen/include/public/io/console.h).
//!
//! The peer can write anything into the page. Its indices are bounded on each use, ours are kept here.

use core::ptr::NonNull;

use xen_ring::{BadIndex, ByteReader, ByteRing, ByteWriter, SharedMemory, Transfer};

const INPUT: ByteRing = ByteRing { data: 0, size: 1024, consumer: 3072, producer: 3076 };
const OUTPUT: ByteRing = ByteRing { data: 1024, size: 2048, consumer: 3080, producer: 3084 };
/// Bytes of the page that are used.
const SIZE: usize = 3088;

/// This domain's end of a console page.
pub(crate) struct Ring {
    page: SharedMemory,
    input: ByteReader,
    output: ByteWriter,
}

impl Ring {
    /// Takes over a page where the last user of this domain left it.
    ///
    /// # Safety
    ///
    /// `page` is a page that stays mapped, is accessed in this domain only through the value made here, and by peers
    /// only with plain loads and stores.
    pub unsafe fn new(page: NonNull<u8>) -> Result<Ring, BadIndex> {
        // SAFETY: the caller's promise; a page is aligned and larger.
        let page = unsafe { SharedMemory::new(page, SIZE) };
        Ok(Ring { input: INPUT.reader(&page)?, output: OUTPUT.writer(&page)?, page })
    }

    /// Bytes that the peer has not taken yet; none where its index makes no sense.
    pub fn unread(&self) -> usize {
        self.output.unread(&self.page).unwrap_or(0)
    }

    /// Puts in as many of `bytes` as there is room for, and returns how many. The peer must be notified then, whatever it
    /// had left: a console daemon does not look again at what came while it was taking.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, BadIndex> {
        Ok(self.output.write(&self.page, bytes)?.bytes)
    }

    /// Takes out as many bytes as there are, up to the length of `bytes`. The peer is to be notified where it may wait for
    /// room, and not for each byte: the daemon counts events, and takes none for a while where they are many.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<Transfer, BadIndex> {
        self.input.read(&self.page, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u8; 4096]);

    /// A page, and the peer's view of it.
    fn page() -> (NonNull<u8>, SharedMemory) {
        let page = NonNull::from(Box::leak(Box::new(Page([0; 4096])))).cast();
        // SAFETY: a leaked page of the test's own.
        (page, unsafe { SharedMemory::new(page, 4096) })
    }

    fn ring(page: NonNull<u8>) -> Result<Ring, BadIndex> {
        // SAFETY: a leaked page of the test's own, which no other ring uses any more.
        unsafe { Ring::new(page) }
    }

    #[test]
    fn output_stops_at_the_peer_and_goes_on_across_the_wrap() {
        let (page, peer) = page();
        peer.store(OUTPUT.producer, u32::MAX - 99);
        peer.store(OUTPUT.consumer, u32::MAX - 99);
        let mut ring = ring(page).unwrap();
        let text: Vec<u8> = (0..3000).map(|n| n as u8).collect();
        assert_eq!(ring.write(&text), Ok(2048));
        assert_eq!((ring.write(&text), ring.unread()), (Ok(0), 2048));
        assert_eq!(peer.load(OUTPUT.producer), 1948);
        let mut taken = [0; 2048];
        peer.read(OUTPUT.data, &mut taken);
        assert_eq!((taken[1948], taken[2047], taken[0]), (0, 99, 100));
        peer.store(OUTPUT.consumer, 1948);
        assert_eq!(ring.unread(), 0);
        assert_eq!(ring.write(&text[2048..]), Ok(952));
        peer.read(OUTPUT.data + 1948, &mut taken[..1]);
        assert_eq!(taken[0], text[2048]);
    }

    #[test]
    fn input_comes_in_order_and_the_peer_hears_of_room_where_it_had_none() {
        let (page, peer) = page();
        let mut ring = ring(page).unwrap();
        peer.write(INPUT.data, b"hello");
        peer.store(INPUT.producer, 5);
        let mut bytes = [0; 3];
        assert_eq!(ring.read(&mut bytes), Ok(Transfer { bytes: 3, notify: false }));
        assert_eq!(&bytes, b"hel");
        assert_eq!(ring.read(&mut bytes), Ok(Transfer { bytes: 2, notify: false }));
        assert_eq!(ring.read(&mut bytes), Ok(Transfer { bytes: 0, notify: false }));
        assert_eq!(peer.load(INPUT.consumer), 5);
        peer.store(INPUT.producer, 5 + 1024);
        assert_eq!(ring.read(&mut bytes), Ok(Transfer { bytes: 3, notify: true }));
        assert_eq!(ring.read(&mut bytes), Ok(Transfer { bytes: 3, notify: false }));
    }

    /// An index is read once: what it says later, that there is less or more, changes nothing of what was taken.
    #[test]
    fn a_peer_whose_indices_make_no_sense_is_noticed() {
        let (page, peer) = page();
        let mut console = ring(page).unwrap();
        assert_eq!(console.write(b"text"), Ok(4));
        for index in [5, 5_u32.wrapping_sub(2049 + 2), u32::MAX - 2050, 1 << 31] {
            peer.store(OUTPUT.consumer, index);
            assert_eq!(console.write(b"x").map_err(|error| error.consumer), Err(index));
            assert_eq!(console.unread(), 0);
            assert!(ring(page).is_err());
        }
        peer.store(OUTPUT.consumer, 4);
        peer.store(INPUT.producer, 10);
        assert_eq!(console.read(&mut [0; 8]).map(|moved| moved.bytes), Ok(8));
        // It moves back, and far ahead.
        for index in [7, 0, 8 + 1025, u32::MAX] {
            peer.store(INPUT.producer, index);
            assert_eq!(console.read(&mut [0; 4]).map_err(|error| error.producer), Err(index));
            assert!(ring(page).is_err());
        }
        // Back, but not past what was taken: there is less to take.
        peer.store(INPUT.producer, 9);
        assert_eq!(console.read(&mut [0; 4]).map(|moved| moved.bytes), Ok(1));
    }
}
