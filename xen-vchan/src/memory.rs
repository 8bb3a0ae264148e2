//! The pages of a channel, as either end has them.

use xen_hal::{Access, DomId, GrantRef, GrantTable, MapRequest, PAGE_SIZE, Xen};
use xen_ring::{GrantedPages, ReadOnlyMapping, SharedMapping, SharedMemory};

use crate::error::SetupError;
use crate::layout::{Layout, Place, Side};

/// The shared page, and the rings' own pages.
pub(crate) enum Memory<X: Xen> {
    /// A server's: all of them side by side, the left ring's after the shared page.
    Granted(GrantedPages<<X as GrantTable>::Grant>),
    /// A client's, which writes to the left ring and only reads the right one.
    Mapped {
        page: SharedMapping<X::Mapping>,
        left: Option<SharedMapping<X::Mapping>>,
        right: Option<ReadOnlyMapping<X::Mapping>>,
    },
}

impl<X: Xen> Memory<X> {
    /// A server's, filled in.
    pub(crate) fn grant(xen: &X, peer: DomId, layout: Layout) -> Result<Memory<X>, SetupError> {
        let pages = GrantedPages::grant(xen, 1 + layout.own_pages(), peer, Access::ReadWrite)?;
        let mut references = pages.references();
        // The first is that of the shared page itself.
        references.next();
        layout.write(&pages, references);
        Ok(Memory::Granted(pages))
    }

    /// A client's. All that the page says is read once, and checked.
    pub(crate) fn map(xen: &X, peer: DomId, reference: GrantRef) -> Result<(Memory<X>, Layout), SetupError> {
        let map = |references: &[GrantRef], access: Access| -> Result<X::Mapping, SetupError> {
            let request = |reference: &GrantRef| MapRequest { peer, reference: *reference, access };
            let requests: alloc::vec::Vec<_> = references.iter().map(request).collect();
            xen.map(&requests).map_err(|error| SetupError::map(&error))
        };
        let refused = |reference: &GrantRef, status| SetupError::Refused { peer, reference: *reference, status };
        let page = SharedMapping::new(map(&[reference], Access::ReadWrite)?).map_err(|why| refused(&reference, why))?;
        let layout = Layout::read(&page)?;
        let [left, right] = [Side::Left, Side::Right].map(|side| layout.read_references(&page, side));
        let left = match left.first() {
            None => None,
            Some(first) => {
                let mapping = SharedMapping::new(map(&left, Access::ReadWrite)?);
                Some(mapping.map_err(|why| refused(first, why))?)
            }
        };
        let right = match right.first() {
            None => None,
            Some(first) => {
                let mapping = ReadOnlyMapping::new(map(&right, Access::ReadOnly)?);
                Some(mapping.map_err(|why| refused(first, why))?)
            }
        };
        Ok((Memory::Mapped { page, left, right }, layout))
    }

    /// The shared page.
    pub(crate) fn page(&self) -> &SharedMemory {
        match self {
            Memory::Granted(pages) => pages,
            Memory::Mapped { page, .. } => page,
        }
    }

    /// Copies bytes of the ring that this end reads.
    pub(crate) fn read(&self, layout: Layout, offset: usize, to: &mut [u8]) {
        match self {
            Memory::Granted(pages) => pages.read(granted(layout, Side::Left) + offset, to),
            Memory::Mapped { page, right, .. } => match (right, layout.place(Side::Right)) {
                (Some(right), _) => right.read(offset, to),
                (None, place) => page.read(in_page(place) + offset, to),
            },
        }
    }

    /// Copies bytes into the ring that this end writes.
    pub(crate) fn write(&self, layout: Layout, offset: usize, from: &[u8]) {
        match self {
            Memory::Granted(pages) => pages.write(granted(layout, Side::Right) + offset, from),
            Memory::Mapped { page, left, .. } => match (left, layout.place(Side::Left)) {
                (Some(left), _) => left.write(offset, from),
                (None, place) => page.write(in_page(place) + offset, from),
            },
        }
    }

    /// The references of a server's pages, the shared page's first.
    pub(crate) fn reference(&self) -> Option<GrantRef> {
        match self {
            Memory::Granted(pages) => pages.references().next(),
            Memory::Mapped { .. } => None,
        }
    }
}

fn in_page(place: Place) -> usize {
    match place {
        Place::Page(offset) => offset,
        Place::Own(_) => unreachable!("a ring with pages of its own has them mapped"),
    }
}

/// Where a ring's bytes are in a server's pages.
fn granted(layout: Layout, side: Side) -> usize {
    match (layout.place(side), side) {
        (Place::Page(offset), _) => offset,
        (Place::Own(_), Side::Left) => PAGE_SIZE,
        (Place::Own(_), Side::Right) => PAGE_SIZE * (1 + layout.pages(Side::Left)),
    }
}
