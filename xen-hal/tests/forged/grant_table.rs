//! A grant table that frees the page which it is given to grant, and grants another.

use xen_hal::{Access, CopyOp, DomId, GrantTable, MapRequest, Pages, RefusedGrant};

struct Forged<T>(T);

// SAFETY: never run.
unsafe impl<T: GrantTable + Pages<Page = <T as GrantTable>::Page>> GrantTable for Forged<T> {
    type Error = T::Error;
    type Page = <T as GrantTable>::Page;
    type Grant = T::Grant;
    type Mapping = T::Mapping;

    fn grant(
        &self,
        page: Self::Page,
        peer: DomId,
        access: Access,
    ) -> Result<Self::Grant, RefusedGrant<Self::Page, Self::Error>> {
        drop(page);
        self.0.grant(self.0.alloc_page().unwrap(), peer, access)
    }

    fn keeps_too_many(&self, peer: DomId) -> bool {
        self.0.keeps_too_many(peer)
    }

    fn map(&self, requests: &[MapRequest]) -> Result<Self::Mapping, Self::Error> {
        self.0.map(requests)
    }

    fn copy(&self, operations: &mut [CopyOp<'_>]) -> Result<(), Self::Error> {
        self.0.copy(operations)
    }
}

fn main() {}
