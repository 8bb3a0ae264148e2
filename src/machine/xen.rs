//! The machine below an [`App`](crate::App): the guest that this program is linked into.

use alloc::vec::Vec;

use xen_hal::DomId;

use crate::app::Domain;
#[cfg(feature = "guest")]
use crate::args::Args;

#[allow(unused_imports)] // Without `control` and `guest` nothing ends the domain.
pub(crate) use platform_xen::{
    Console, Entropy, EntropyError, MemoryInfo, Resumed, ShutdownReason, Task, XenClock, XenEventChannels,
    XenGrantTable, XenPlatform, XenStoreChannel, XenVersion, add_entropy, counters, crash, memory, poweroff, println,
    reboot, shutdown, suspend,
};

/// The one domain.
#[derive(Clone, Copy)]
pub(crate) struct Own(&'static Domain);

impl Own {
    #[cfg(feature = "guest")]
    pub(crate) fn new(domain: Domain) -> Own {
        // One for the domain's whole life.
        Own(alloc::boxed::Box::leak(alloc::boxed::Box::new(domain)))
    }

    #[cfg(feature = "guest")]
    pub(crate) fn args(self) -> Args {
        Args::new(platform_xen::command_line())
    }

    pub(crate) fn domain(self) -> &'static Domain {
        self.0
    }

    pub(crate) fn console(self) -> Console {
        platform_xen::console_handle()
    }

    pub(crate) fn clock(self) -> XenClock {
        XenClock
    }

    pub(crate) fn xen(self) -> XenPlatform {
        XenPlatform
    }

    pub(crate) fn event_channels(self) -> XenEventChannels {
        XenEventChannels
    }

    pub(crate) fn grant_table(self) -> XenGrantTable {
        XenGrantTable
    }

    pub(crate) fn store_channel(self) -> XenStoreChannel {
        XenStoreChannel
    }

    pub(crate) fn entropy(self) -> Result<Entropy, EntropyError> {
        Entropy::new()
    }

    pub(crate) fn add_entropy(self, bytes: &[u8]) {
        add_entropy(bytes);
    }

    pub(crate) fn spawn<T: 'static>(self, future: impl Future<Output = T> + 'static) -> Task<T> {
        platform_xen::spawn(future)
    }

    pub(crate) fn domain_id(self) -> Option<DomId> {
        platform_xen::domain_id()
    }

    pub(crate) fn xen_version(self) -> XenVersion {
        platform_xen::xen_version()
    }

    #[cfg(feature = "guest")]
    pub(crate) fn modules(self) -> Vec<&'static [u8]> {
        #[cfg(feature = "guest")]
        return platform_xen::modules().iter().map(|module| module.data).collect();
        // A library that is not linked into a guest has none.
        #[cfg(not(feature = "guest"))]
        Vec::new()
    }

    /// What does not boot has none.
    #[cfg(not(feature = "guest"))]
    pub(crate) fn modules(self) -> Vec<&'static [u8]> {
        Vec::new()
    }

    pub(crate) fn pci(self) -> Vec<platform_xen::pci::Function> {
        platform_xen::pci::functions()
    }

    pub(crate) fn memory(self) -> MemoryInfo {
        memory()
    }
}
