//! What safe code can implement cannot have xen-ring touch memory that is not its own. (What it cannot implement:
//! `xen-hal/tests/unsafe_traits.rs`.)

#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use xen_hal::{Access, DomId, Grant, GrantStatus, GrantTable, MapRequest, OutOfPages, Pages};
use xen_ring::{GrantableRun, ReadOnlyMapping, SharedMapping};
use xen_sim::{Domain, SimGrant, SimPage, Xen};

/// An allocator that hands out other pages than it was asked for.
struct Liar<'a> {
    domain: &'a Domain,
    /// How many pages it gives, of those that it was asked for.
    give: fn(usize) -> usize,
    /// Which of the pages that lie side by side it leaves out.
    skip: Option<usize>,
}

impl Pages for Liar<'_> {
    type Page = SimPage;

    fn alloc_page(&self) -> Result<SimPage, OutOfPages> {
        self.domain.alloc_page()
    }

    fn alloc_run(&self, count: usize, take: &mut dyn FnMut(SimPage)) -> Result<(), OutOfPages> {
        let mut run = Vec::new();
        let more = usize::from(self.skip.is_some());
        self.domain.alloc_run((self.give)(count) + more, &mut |page| run.push(page))?;
        if let Some(index) = self.skip {
            run.remove(index);
        }
        run.into_iter().for_each(take);
        Ok(())
    }
}

#[test]
fn an_allocator_that_lies_gets_no_memory() {
    let xen = Xen::new(0);
    let domain = xen.domain();
    let run = |give, skip| {
        let liar = Liar { domain: &domain, give, skip };
        catch_unwind(AssertUnwindSafe(|| GrantableRun::<SimGrant>::new(&liar, 4).map(|run| run.len())))
    };
    assert_eq!(run(|count| count, None).unwrap(), Ok(4 * 4096), "an honest one");
    assert!(run(|count| count - 1, None).is_err(), "one page less: the run's end would be somebody else's");
    assert!(run(|count| count + 1, None).is_err(), "one page more");
    assert!(run(|_| 0, None).is_err(), "none at all");
    assert!(run(|count| count, Some(2)).is_err(), "a hole");
}

#[test]
fn what_is_mapped_for_reading_is_not_written() {
    let xen = Xen::new(0);
    let (own, peer) = (xen.domain(), xen.domain());
    let grant = own.grant(own.alloc_page().unwrap(), peer.id(), Access::ReadWrite).unwrap();
    let request = |access| MapRequest { peer: own.id(), reference: grant.reference(), access };
    let map = |requests: &[MapRequest]| peer.map(requests).unwrap();
    let (read, both) = (request(Access::ReadOnly), request(Access::ReadWrite));
    assert_eq!(SharedMapping::new(map(&[read])).err(), Some(GrantStatus::PermissionDenied));
    assert_eq!(SharedMapping::new(map(&[both, read])).err(), Some(GrantStatus::PermissionDenied), "not even in part");
    let written = SharedMapping::new(map(&[both])).ok().unwrap();
    written.store(8, 0x5a5a_a5a5);
    let reader = ReadOnlyMapping::new(map(&[read])).ok().unwrap();
    let mut bytes = [0; 4];
    reader.read(8, &mut bytes);
    assert_eq!((reader.load(8), u32::from_le_bytes(bytes)), (0x5a5a_a5a5, 0x5a5a_a5a5));
    assert_eq!(SharedMapping::new(map(&[MapRequest { peer: DomId(999), ..both }])).err(), Some(GrantStatus::BadDomain));
}
