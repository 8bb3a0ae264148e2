//! A ring's pages: the interface page, and after it the data, *in* and then *out*.
//!
//! Reference: `DEFINE_XEN_FLEX_RING_AND_INTF` in xen/include/public/io/ring.h, used by xen/include/public/io/9pfs.h;
//! docs/misc/9pfs.pandoc, "Ring Setup". (The diagram there leaves out the second padding and has `ring_order` at 72.
//! The structure above it, its bound of `ref[]` and the header have it at 128.)

use xen_hal::{GrantRef, PAGE_SIZE};
use xen_ring::{ByteRing, SharedMemory};

/// The version of the transport (9pfs.h, `versions` and `version`).
pub const VERSION: &str = "1";
/// Smallest data, as the power of two of its pages: one page for each direction.
pub const MIN_ORDER: u32 = 1;
/// Largest data: the interface page has room for so many references ("Ring Setup").
pub const MAX_ORDER: u32 = 9;

/// Most rings of a share that this crate has; xen-9pfsd has as many.
pub const MAX_RINGS: u32 = 4;

const IN_CONS: usize = 0;
const IN_PROD: usize = 4;
const OUT_CONS: usize = 64;
const OUT_PROD: usize = 68;
const RING_ORDER: usize = 128;
const REFS: usize = 132;

/// Bytes of one direction (`XEN_FLEX_RING_SIZE`).
pub const fn size(order: u32) -> u32 {
    (PAGE_SIZE as u32 / 2) << order
}

/// Responses, where the data lies just after the interface page.
pub const fn responses(order: u32) -> ByteRing {
    ByteRing { data: PAGE_SIZE, size: size(order), consumer: IN_CONS, producer: IN_PROD }
}

/// Requests, where the data lies just after the interface page.
pub const fn requests(order: u32) -> ByteRing {
    ByteRing { data: PAGE_SIZE + size(order) as usize, size: size(order), consumer: OUT_CONS, producer: OUT_PROD }
}

/// For a frontend: writes into the interface page where the data's pages are, of which there are a power of two.
pub fn write_references(interface: &SharedMemory, references: impl ExactSizeIterator<Item = GrantRef>) {
    interface.store(RING_ORDER, references.len().ilog2());
    for (index, reference) in references.enumerate() {
        interface.store(REFS + index * 4, reference.0);
    }
}

/// For a backend: what the frontend says of the order, which is to be checked.
pub fn read_order(interface: &SharedMemory) -> u32 {
    interface.load(RING_ORDER)
}

/// For a backend: a data page's reference.
pub fn read_reference(interface: &SharedMemory, index: usize) -> GrantRef {
    GrantRef(interface.load(REFS + index * 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct xen_9pfs_data_intf` as the macro declares it.
    #[repr(C)]
    struct DataIntf {
        in_cons: u32,
        in_prod: u32,
        pad1: [u8; 56],
        out_cons: u32,
        out_prod: u32,
        pad2: [u8; 56],
        ring_order: u32,
        refs: [u32; 1 << MAX_ORDER],
    }

    #[test]
    fn fields_lie_where_c_puts_them() {
        use core::mem::offset_of;
        assert_eq!([IN_CONS, IN_PROD], [offset_of!(DataIntf, in_cons), offset_of!(DataIntf, in_prod)]);
        assert_eq!([OUT_CONS, OUT_PROD], [offset_of!(DataIntf, out_cons), offset_of!(DataIntf, out_prod)]);
        assert_eq!([RING_ORDER, REFS], [offset_of!(DataIntf, ring_order), offset_of!(DataIntf, refs)]);
        assert!(size_of::<DataIntf>() <= PAGE_SIZE);
        // XEN_FLEX_RING_SIZE(order) is 1UL << (order + XEN_PAGE_SHIFT - 1).
        assert_eq!((size(1), size(4), size(9)), (4096, 32 << 10, 1 << 20));
        assert_eq!(requests(4).data + size(4) as usize, PAGE_SIZE * (1 + 16));
    }
}
