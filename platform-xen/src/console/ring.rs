//! The console's shared page: a ring in each direction (xen/include/public/io/console.h).
//!
//! The peer can write anything into the page. Its indices are bounded on each use, ours are kept here.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

const IN: usize = 0;
const IN_SIZE: u32 = 1024;
const OUT: usize = 1024;
const OUT_SIZE: u32 = 2048;
const IN_CONS: usize = 3072;
const IN_PROD: usize = 3076;
const OUT_CONS: usize = 3080;
const OUT_PROD: usize = 3084;

/// The peer's indices make no sense: there is no telling what is in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// This domain's end of a console page.
pub(crate) struct Ring {
    page: NonNull<u8>,
    in_cons: u32,
    out_prod: u32,
}

impl Ring {
    /// Takes over a page where the last user of this domain left it.
    ///
    /// # Safety
    ///
    /// `page` is a page that stays mapped, is accessed by nobody in this domain but the value made here, and by peers
    /// only with plain loads and stores.
    pub unsafe fn new(page: NonNull<u8>) -> Ring {
        let mut ring = Ring { page, in_cons: 0, out_prod: 0 };
        ring.in_cons = ring.index(IN_CONS).load(Ordering::Relaxed);
        ring.out_prod = ring.index(OUT_PROD).load(Ordering::Relaxed);
        ring
    }

    fn index(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: within the page, aligned; shared with the peer only as an atomic.
        unsafe { self.page.add(offset).cast().as_ref() }
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        debug_assert!(offset < IN_CONS);
        // SAFETY: within the page; shared with the peer only as an atomic.
        unsafe { self.page.add(offset).cast().as_ref() }
    }

    /// Free bytes towards the peer.
    pub fn room(&self) -> Result<usize, Broken> {
        let used = self.out_prod.wrapping_sub(self.index(OUT_CONS).load(Ordering::Acquire));
        OUT_SIZE.checked_sub(used).map(|room| room as usize).ok_or(Broken)
    }

    /// Bytes that the peer has not taken yet.
    pub fn untaken(&self) -> usize {
        self.room().map_or(0, |room| OUT_SIZE as usize - room)
    }

    /// Whether the peer has taken everything.
    pub fn is_drained(&self) -> bool {
        self.index(OUT_CONS).load(Ordering::Acquire) == self.out_prod
    }

    /// Puts in as many of `bytes` as there is room for, and returns how many. The peer must be notified then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, Broken> {
        let count = bytes.len().min(self.room()?);
        for byte in &bytes[..count] {
            self.byte(OUT + (self.out_prod % OUT_SIZE) as usize).store(*byte, Ordering::Relaxed);
            self.out_prod = self.out_prod.wrapping_add(1);
        }
        self.index(OUT_PROD).store(self.out_prod, Ordering::Release);
        Ok(count)
    }

    /// Takes out as many bytes as there are, up to the length of `bytes`, and returns how many. Where it took some,
    /// the peer must be notified: it may wait for room.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Broken> {
        let available = self.index(IN_PROD).load(Ordering::Acquire).wrapping_sub(self.in_cons);
        if available > IN_SIZE {
            return Err(Broken);
        }
        let count = bytes.len().min(available as usize);
        for byte in &mut bytes[..count] {
            *byte = self.byte(IN + (self.in_cons % IN_SIZE) as usize).load(Ordering::Relaxed);
            self.in_cons = self.in_cons.wrapping_add(1);
        }
        self.index(IN_CONS).store(self.in_cons, Ordering::Release);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u8; 4096]);

    fn page() -> NonNull<u8> {
        NonNull::from(Box::leak(Box::new(Page([0; 4096])))).cast()
    }

    fn peek(ring: &Ring, offset: usize) -> u32 {
        ring.index(offset).load(Ordering::Relaxed)
    }

    #[test]
    fn output_stops_at_the_peer_and_goes_on_across_the_wrap() {
        let page = page();
        // SAFETY: a leaked page of the test's own.
        let ring = unsafe { Ring::new(page) };
        ring.index(OUT_PROD).store(u32::MAX - 99, Ordering::Relaxed);
        ring.index(OUT_CONS).store(u32::MAX - 99, Ordering::Relaxed);
        // SAFETY: as above; the first ring is not used any more.
        let mut ring = unsafe { Ring::new(page) };
        let text: Vec<u8> = (0..3000).map(|n| n as u8).collect();
        assert_eq!(ring.write(&text), Ok(2048));
        assert_eq!(ring.write(&text), Ok(0));
        assert_eq!(peek(&ring, OUT_PROD), 1948);
        assert_eq!(ring.byte(OUT + (u32::MAX - 99) as usize % 2048).load(Ordering::Relaxed), 0);
        ring.index(OUT_CONS).store(1948, Ordering::Relaxed);
        assert!(ring.is_drained());
        assert_eq!(ring.write(&text[2048..]), Ok(952));
        assert_eq!(ring.byte(OUT + 1948).load(Ordering::Relaxed), text[2048]);
    }

    #[test]
    fn input_comes_in_order() {
        // SAFETY: a leaked page of the test's own.
        let mut ring = unsafe { Ring::new(page()) };
        for (at, byte) in b"hello".iter().enumerate() {
            ring.byte(IN + at).store(*byte, Ordering::Relaxed);
        }
        ring.index(IN_PROD).store(5, Ordering::Relaxed);
        let mut bytes = [0; 3];
        assert_eq!(ring.read(&mut bytes), Ok(3));
        assert_eq!(&bytes, b"hel");
        assert_eq!(ring.read(&mut bytes), Ok(2));
        assert_eq!(ring.read(&mut bytes), Ok(0));
        assert_eq!(peek(&ring, IN_CONS), 5);
    }

    #[test]
    fn a_peer_with_senseless_indices_is_noticed() {
        // SAFETY: a leaked page of the test's own.
        let mut ring = unsafe { Ring::new(page()) };
        ring.index(OUT_CONS).store(1, Ordering::Relaxed);
        assert_eq!(ring.write(b"x"), Err(Broken));
        ring.index(IN_PROD).store(1025, Ordering::Relaxed);
        assert_eq!(ring.read(&mut [0; 4]), Err(Broken));
    }
}
