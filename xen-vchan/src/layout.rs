//! The page that both ends share, and where the two rings are.
//!
//! Reference: `struct vchan_interface` in xen/include/public/io/libxenvchan.h.

use alloc::vec::Vec;
use core::fmt;

use xen_hal::{GrantRef, PAGE_SIZE};
use xen_ring::SharedMemory;

/// The reader has taken something: what the writer asks to be notified of (`VCHAN_NOTIFY_READ`).
pub const NOTIFY_READ: u8 = 2;
/// The writer has written something: what the reader asks to be notified of (`VCHAN_NOTIFY_WRITE`).
pub const NOTIFY_WRITE: u8 = 1;

/// Smallest ring, as a power of two of its bytes; it lies in the shared page.
pub const MIN_ORDER: u16 = 10;
/// Largest ring: `MAX_RING_SHIFT` in tools/libs/vchan/init.c.
pub const MAX_ORDER: u16 = 20;
/// Rings from this order on have pages of their own.
const PAGE_ORDER: u16 = PAGE_SIZE.ilog2() as u16;

const ORDERS: usize = 16;
const CLIENT_LIVE: usize = 20;
const SERVER_LIVE: usize = 21;
/// What the server asks the client to notify it of.
const CLIENT_NOTIFY: usize = 22;
/// What the client asks the server to notify it of.
const SERVER_NOTIFY: usize = 23;
const GRANTS: usize = 24;

/// In `cli_live` and `srv_live`: that end is gone.
const GONE: u8 = 0;
/// That end uses the page.
const LIVE: u8 = 1;
/// In `cli_live`: no client has come yet.
const AWAITED: u8 = 2;

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum End {
    /// Grants the page; reads the left ring and writes the right one.
    Server,
    /// Maps it; reads the right ring and writes the left one.
    Client,
}

impl End {
    /// Where this end says that it is there.
    pub(crate) const fn live(self) -> usize {
        match self {
            End::Server => SERVER_LIVE,
            End::Client => CLIENT_LIVE,
        }
    }

    /// The byte that tells this end what to notify its peer of.
    pub(crate) const fn notify(self) -> usize {
        match self {
            End::Server => SERVER_NOTIFY,
            End::Client => CLIENT_NOTIFY,
        }
    }

    /// The other one.
    pub const fn other(self) -> End {
        match self {
            End::Server => End::Client,
            End::Client => End::Server,
        }
    }

    /// The ring that this end reads.
    pub const fn reads(self) -> Side {
        match self {
            End::Server => Side::Left,
            End::Client => Side::Right,
        }
    }

    /// The ring that this end writes.
    pub const fn writes(self) -> Side {
        self.other().reads()
    }
}

/// One of the two rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Side {
    /// From the client to the server.
    Left,
    /// From the server to the client.
    Right,
}

impl Side {
    /// Where its reader's index is in the page, and its writer's (`struct ring_shared`).
    pub const fn indices(self) -> (usize, usize) {
        match self {
            Side::Left => (0, 4),
            Side::Right => (8, 12),
        }
    }
}

/// Where a ring's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the shared page, from here on.
    Page(usize),
    /// In so many pages of its own.
    Own(usize),
}

/// How large the two rings are, in powers of two of their bytes.
///
/// # Examples
///
/// ```
/// use xen_vchan::layout::{Layout, Place, Side};
///
/// let layout = Layout::for_sizes(500, 100_000)?; // left: client to server, right: server to client
/// assert_eq!((layout.size(Side::Left), layout.size(Side::Right)), (2048, 128 << 10));
/// assert_eq!(layout.place(Side::Left), Place::Page(2048));
/// assert_eq!(layout.place(Side::Right), Place::Own(32));
/// # Ok::<(), xen_vchan::layout::BadLayout>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    left: u16,
    right: u16,
}

/// There are no such rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum BadLayout {
    /// A ring is smaller or larger than any may be, or both are at the same place.
    Orders {
        /// `left_order`.
        left: u16,
        /// `right_order`.
        right: u16,
    },
    /// The list of grants runs into a ring in the same page.
    Grants {
        /// How many grants there are.
        count: usize,
        /// How many there is room for.
        room: usize,
    },
    /// More bytes were asked for than the largest ring has.
    Size {
        /// So many.
        bytes: usize,
    },
}

impl fmt::Display for BadLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadLayout::Orders { left, right } => {
                write!(f, "left_order = {left}, right_order = {right}: expected {MIN_ORDER} to {MAX_ORDER}")?;
                f.write_str(", and two places in the page")
            }
            BadLayout::Grants { count, room } => write!(f, "{count} grants are listed where there is room for {room}"),
            BadLayout::Size { bytes } => write!(f, "a ring of {bytes} bytes: expected {} at most", 1_u32 << MAX_ORDER),
        }
    }
}

impl core::error::Error for BadLayout {}

impl Layout {
    /// Rings of these orders.
    ///
    /// # Errors
    ///
    /// Where they cannot be so, which a peer may claim.
    pub fn new(left: u16, right: u16) -> Result<Layout, BadLayout> {
        let legal = MIN_ORDER..=MAX_ORDER;
        let same_place = left == right && left < PAGE_ORDER;
        if !legal.contains(&left) || !legal.contains(&right) || same_place {
            return Err(BadLayout::Orders { left, right });
        }
        let layout = Layout { left, right };
        // "Must not extend into actual ring or grow beyond the end of the initial shared page."
        let end = [Side::Left, Side::Right].map(|side| match layout.place(side) {
            Place::Page(offset) => offset,
            Place::Own(_) => PAGE_SIZE,
        });
        let room = (end[0].min(end[1]) - GRANTS) / 4;
        let count = layout.own_pages();
        if count > room {
            return Err(BadLayout::Grants { count, room });
        }
        Ok(layout)
    }

    /// Rings of so many bytes at least, from the client to the server and back. They are in the page where they fit there,
    /// as `libxenvchan_server_init` has it.
    ///
    /// # Errors
    ///
    /// [`BadLayout::Size`] above 1 MiB.
    pub fn for_sizes(left: usize, right: usize) -> Result<Layout, BadLayout> {
        const SMALL: usize = 1 << MIN_ORDER;
        const LARGE: usize = 2 * SMALL;
        let most = left.max(right);
        if most > 1 << MAX_ORDER {
            return Err(BadLayout::Size { bytes: most });
        }
        let own = |bytes: usize| bytes.next_power_of_two().ilog2().max(PAGE_ORDER.into()) as u16;
        let (left, right) = match (left, right) {
            (..=SMALL, ..=LARGE) => (MIN_ORDER, MIN_ORDER + 1),
            (..=LARGE, ..=SMALL) => (MIN_ORDER + 1, MIN_ORDER),
            (..=LARGE, right) => (MIN_ORDER + 1, own(right)),
            (left, ..=LARGE) => (own(left), MIN_ORDER + 1),
            (left, right) => (own(left), own(right)),
        };
        Layout::new(left, right)
    }

    /// A ring's order.
    pub const fn order(self, side: Side) -> u16 {
        match side {
            Side::Left => self.left,
            Side::Right => self.right,
        }
    }

    /// A ring's bytes.
    pub const fn size(self, side: Side) -> u32 {
        1 << self.order(side)
    }

    /// Where a ring's bytes are.
    pub const fn place(self, side: Side) -> Place {
        match self.order(side) {
            // 1024 bytes at 1024, or 2048 at 2048.
            order if order < PAGE_ORDER => Place::Page(1 << order),
            order => Place::Own(1 << (order - PAGE_ORDER)),
        }
    }

    /// How many pages a ring has of its own.
    pub(crate) const fn pages(self, side: Side) -> usize {
        match self.place(side) {
            Place::Page(_) => 0,
            Place::Own(pages) => pages,
        }
    }

    /// How many pages both have: what is granted besides the shared page.
    pub const fn own_pages(self) -> usize {
        self.pages(Side::Left) + self.pages(Side::Right)
    }

    /// For a client: reads the orders, both at once, and checks them.
    ///
    /// # Errors
    ///
    /// As [`new`](Layout::new).
    pub fn read(page: &SharedMemory) -> Result<Layout, BadLayout> {
        let [a, b, c, d] = page.load(ORDERS).to_le_bytes();
        Layout::new(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
    }

    /// For a client: the references of a ring's own pages, each read once.
    pub fn read_references(self, page: &SharedMemory, side: Side) -> Vec<GrantRef> {
        let first = match side {
            Side::Left => 0,
            Side::Right => self.pages(Side::Left),
        };
        (first..first + self.pages(side)).map(|index| GrantRef(page.load(GRANTS + index * 4))).collect()
    }

    /// For a server: fills in a zeroed page, with the references of the rings' own pages, the left ring's first.
    ///
    /// # Panics
    ///
    /// Where there are not as many references as [`own_pages`](Layout::own_pages).
    pub fn write(self, page: &SharedMemory, references: impl ExactSizeIterator<Item = GrantRef>) {
        assert_eq!(references.len(), self.own_pages(), "a reference for each page");
        page.store(ORDERS, u32::from(self.left) | u32::from(self.right) << 16);
        for (index, reference) in references.enumerate() {
            page.store(GRANTS + index * 4, reference.0);
        }
        page.store_byte(CLIENT_NOTIFY, NOTIFY_WRITE);
        page.store_byte(SERVER_LIVE, LIVE);
        page.store_byte(CLIENT_LIVE, AWAITED);
    }
}

/// For a server: whether a client has come. It may be gone again, and have left something.
pub fn has_client(page: &SharedMemory) -> bool {
    page.load_byte(CLIENT_LIVE) != AWAITED
}

/// For a client: says that it is there, and wants to hear of what the server writes.
pub fn attach(page: &SharedMemory) {
    page.request_notify(SERVER_NOTIFY, NOTIFY_WRITE);
    page.store_byte(CLIENT_LIVE, LIVE);
}

/// Whether an end has not said that it is gone. Any value but 0 counts, as in Xen's library.
pub fn is_live(page: &SharedMemory, end: End) -> bool {
    page.load_byte(end.live()) != GONE
}

/// An end says that it is gone.
pub fn detach(page: &SharedMemory, end: End) {
    page.store_byte(end.live(), GONE);
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;
    use xen_hal::Pages;
    use xen_ring::SharedPage;

    /// As the header declares them.
    #[repr(C)]
    struct RingShared {
        cons: u32,
        prod: u32,
    }

    #[repr(C)]
    struct VchanInterface {
        left: RingShared,
        right: RingShared,
        left_order: u16,
        right_order: u16,
        cli_live: u8,
        srv_live: u8,
        cli_notify: u8,
        srv_notify: u8,
        grants: [u32; 0],
    }

    #[test]
    fn fields_lie_where_c_puts_them() {
        use core::mem::offset_of;
        let (left, right) = (offset_of!(VchanInterface, left), offset_of!(VchanInterface, right));
        let (cons, prod) = (offset_of!(RingShared, cons), offset_of!(RingShared, prod));
        assert_eq!(Side::Left.indices(), (left + cons, left + prod));
        assert_eq!(Side::Right.indices(), (right + cons, right + prod));
        let orders = [offset_of!(VchanInterface, left_order), offset_of!(VchanInterface, right_order)];
        assert_eq!(orders, [ORDERS, ORDERS + 2]);
        let live = [offset_of!(VchanInterface, cli_live), offset_of!(VchanInterface, srv_live)];
        assert_eq!(live, [End::Client.live(), End::Server.live()]);
        let notify = [offset_of!(VchanInterface, cli_notify), offset_of!(VchanInterface, srv_notify)];
        assert_eq!(notify, [End::Client.notify(), End::Server.notify()]);
        assert_eq!(offset_of!(VchanInterface, grants), GRANTS);
    }

    #[test]
    fn sizes_lead_to_the_orders_of_xens_library() {
        let orders = |left, right| Layout::for_sizes(left, right).map(|layout| (layout.left, layout.right));
        for (sizes, expected) in [
            ((0, 0), (10, 11)),
            ((1024, 2048), (10, 11)),
            ((1025, 1024), (11, 10)),
            ((2048, 2048), (11, 12)),
            ((1, 4097), (11, 13)),
            ((4097, 1), (13, 11)),
            ((2049, 2049), (12, 12)),
            ((4096, 65_536), (12, 16)),
            ((1 << 20, 1 << 20), (20, 20)),
            ((1 << 20, 0), (20, 11)),
        ] {
            assert_eq!(orders(sizes.0, sizes.1), Ok(expected), "{sizes:?}");
        }
        assert_eq!(orders(0, (1 << 20) + 1), Err(BadLayout::Size { bytes: (1 << 20) + 1 }));
    }

    proptest! {
        /// Whatever orders a peer writes: rings that are accepted overlap neither each other nor what is before them.
        #[test]
        fn what_is_accepted_does_not_overlap(left in any::<u16>(), right in any::<u16>(), legal in any::<bool>()) {
            let within = |order: u16| if legal { 8 + order % 16 } else { order };
            let (left, right) = (within(left), within(right));
            if let Ok(layout) = Layout::new(left, right) {
                let mut taken = std::vec![(0, GRANTS + 4 * layout.own_pages())];
                for side in [Side::Left, Side::Right] {
                    let size = layout.size(side) as usize;
                    prop_assert!((1 << 10..=1 << 20).contains(&size));
                    match layout.place(side) {
                        Place::Page(offset) => taken.push((offset, offset + size)),
                        Place::Own(pages) => prop_assert_eq!(pages * PAGE_SIZE, size),
                    }
                }
                taken.sort_unstable();
                prop_assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{:?}", taken);
                prop_assert!(taken.iter().all(|(_, end)| *end <= PAGE_SIZE));
            }
        }

        #[test]
        fn what_a_server_writes_is_what_a_client_reads(left in 0_usize..=1 << 20, right in 0_usize..=1 << 20) {
            let xen = xen_sim::Xen::new(1);
            let page = SharedPage::new(xen.domain().alloc_page().unwrap());
            let layout = Layout::for_sizes(left, right).unwrap();
            prop_assert!(layout.size(Side::Left) as usize >= left && layout.size(Side::Right) as usize >= right);
            let count = layout.own_pages() as u32;
            layout.write(&page, (7..7 + count).map(GrantRef));
            prop_assert_eq!(Layout::read(&page), Ok(layout));
            let both = [Side::Left, Side::Right].map(|side| layout.read_references(&page, side)).concat();
            prop_assert!(both.into_iter().eq((7..7 + count).map(GrantRef)));
            prop_assert!(!has_client(&page) && is_live(&page, End::Server));
        }
    }

    #[test]
    fn what_cannot_be_says_why() {
        let error = |left, right| Layout::new(left, right).unwrap_err().to_string();
        let orders = "left_order = 10, right_order = 10: expected 10 to 20, and two places in the page";
        assert_eq!(error(10, 10), orders);
        assert_eq!(error(20, 10), "256 grants are listed where there is room for 250");
        assert!(error(9, 12).starts_with("left_order = 9") && error(12, 21).contains("right_order = 21"));
        assert!(Layout::new(20, 11).is_ok() && Layout::new(20, 20).is_ok() && Layout::new(12, 12).is_ok());
    }
}
