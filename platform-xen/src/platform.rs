//! The whole platform in one value, for drivers.

use core::task::{Context, Poll};
use core::time::Duration;

use xen_hal::{
    Access, Clock, CopyOp, DomId, Errno, EventChannels, GrantTable, MapRequest, OutOfPages, Pages, PortNumber,
    RefusedGrant, Reservation, ReservationSize,
};

use crate::events::{XenEventChannelError, XenEventChannels, XenPort};
use crate::grants::{XenGrant, XenGrantError, XenGrantTable, XenMapping};
use crate::memory::{RamPage, RamPages};
use crate::time::XenClock;

/// All of the domain's platform: [`XenGrantTable`], [`XenEventChannels`] and [`XenClock`] in one, as
/// [`Xen`](xen_hal::Xen) asks for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct XenPlatform;

// SAFETY: every call goes to `XenGrantTable`, which keeps the promises.
unsafe impl GrantTable for XenPlatform {
    type Error = XenGrantError;
    type Page = RamPage;
    type Grant = XenGrant;
    type Mapping = XenMapping;

    fn grant(
        &self,
        page: RamPage,
        peer: DomId,
        access: Access,
    ) -> Result<XenGrant, RefusedGrant<RamPage, XenGrantError>> {
        XenGrantTable.grant(page, peer, access)
    }

    fn keeps_too_many(&self, peer: DomId) -> bool {
        XenGrantTable.keeps_too_many(peer)
    }

    fn map(&self, requests: &[MapRequest]) -> Result<XenMapping, XenGrantError> {
        XenGrantTable.map(requests)
    }

    fn copy(&self, operations: &mut [CopyOp<'_>]) -> Result<(), XenGrantError> {
        XenGrantTable.copy(operations)
    }
}

impl Pages for XenPlatform {
    type Page = RamPage;

    fn alloc_page(&self) -> Result<RamPage, OutOfPages> {
        RamPages.alloc_page()
    }

    fn alloc_run(&self, count: usize, take: &mut dyn FnMut(RamPage)) -> Result<(), OutOfPages> {
        RamPages.alloc_run(count, take)
    }
}

impl Reservation for XenPlatform {
    fn size(&self) -> ReservationSize {
        RamPages.size()
    }

    fn decrease(&self, pages: u64) -> Result<u64, Errno> {
        RamPages.decrease(pages)
    }

    fn increase(&self, pages: u64) -> Result<u64, Errno> {
        RamPages.increase(pages)
    }
}

impl EventChannels for XenPlatform {
    type Error = XenEventChannelError;
    type Port = XenPort;

    fn alloc_unbound(&self, remote: DomId) -> Result<XenPort, XenEventChannelError> {
        XenEventChannels.alloc_unbound(remote)
    }

    fn bind_interdomain(&self, remote: DomId, remote_port: PortNumber) -> Result<XenPort, XenEventChannelError> {
        XenEventChannels.bind_interdomain(remote, remote_port)
    }
}

impl Clock for XenPlatform {
    fn now(&self) -> Duration {
        XenClock.now()
    }

    fn poll_until(&self, deadline: Duration, cx: &mut Context<'_>) -> Poll<()> {
        XenClock.poll_until(deadline, cx)
    }
}
