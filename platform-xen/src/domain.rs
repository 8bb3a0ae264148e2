//! The domain as a whole: who it is, and how it ends.

use core::fmt;

use raw_cpuid::CpuId;
use xen_hal::{DomId, Errno};

use crate::{console, events, grants, hvm, hypercall, shared_info, time};

/// The hypervisor's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XenVersion {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
    extra: [u8; 16],
}

impl fmt::Display for XenVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let extra = self.extra.split(|byte| *byte == 0).next().unwrap_or_default();
        write!(f, "{}.{}{}", self.major, self.minor, core::str::from_utf8(extra).unwrap_or(""))
    }
}

/// Asks the hypervisor for its version (`XENVER_version`).
pub fn xen_version() -> XenVersion {
    let version = hypercall::xen_version();
    XenVersion { major: (version >> 16) as u16, minor: version as u16, extra: hypercall::xen_extra_version() }
}

/// Xen's first CPUID leaf, where it says that it is there (xen/include/public/arch-x86/cpuid.h).
pub(crate) fn xen_leaves() -> Option<u32> {
    (0x4000_0000..0x4001_0000).step_by(0x100).find(|base| {
        let leaf = raw_cpuid::cpuid!(*base);
        [leaf.ebx, leaf.ecx, leaf.edx] == [0x566e_6558, 0x6558_4d4d, 0x4d4d_566e]
    })
}

/// This domain's number, where the hypervisor tells it. It may change when the domain is restored or migrated.
pub fn domain_id() -> Option<DomId> {
    const DOMID_PRESENT: u32 = 1 << 4;
    let leaf = raw_cpuid::cpuid!(xen_leaves()? + 4);
    (leaf.eax & DOMID_PRESENT != 0).then_some(DomId(leaf.ecx as u16))
}

/// What the processor calls itself.
pub fn processor_vendor() -> Option<raw_cpuid::VendorInfo> {
    CpuId::new().get_vendor_info()
}

/// Why a domain ends (`SHUTDOWN_*`, xen/include/public/sched.h): the toolstack acts on it as the xl file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownReason {
    /// Done: `on_poweroff=`.
    Poweroff,
    /// To be started again: `on_reboot=`.
    Reboot,
    /// Something went wrong: `on_crash=`.
    Crash,
}

impl ShutdownReason {
    const fn number(self) -> u32 {
        match self {
            ShutdownReason::Poweroff => 0,
            ShutdownReason::Reboot => 1,
            ShutdownReason::Crash => 3,
        }
    }
}

/// Ends the domain, after the console has had up to 2 s to take what was printed.
pub fn shutdown(reason: ShutdownReason) -> ! {
    console::drain();
    shutdown_now(reason)
}

/// Powers the domain off; see [`shutdown`].
pub fn poweroff() -> ! {
    shutdown(ShutdownReason::Poweroff)
}

/// Ends the domain so that the toolstack starts it again; see [`shutdown`].
pub fn reboot() -> ! {
    shutdown(ShutdownReason::Reboot)
}

/// Ends the domain as crashed; see [`shutdown`].
pub fn crash() -> ! {
    shutdown(ShutdownReason::Crash)
}

pub(crate) fn shutdown_now(reason: ShutdownReason) -> ! {
    loop {
        let _ = hypercall::shutdown(reason.number());
    }
}

/// How a suspend ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// The domain goes on where it was, with all its event channels and grants: the toolstack changed its mind, or
    /// only took a copy.
    Cancelled,
    /// The domain was restored from its image, perhaps on another host: all ports and grants from before are gone,
    /// and drivers have to connect again.
    Restored,
}

/// Gives the domain's state to the toolstack, which saves or moves it (`SHUTDOWN_suspend`), and returns when the
/// domain runs again. The caller has brought the drivers to rest before.
///
/// # Errors
///
/// Where the hypervisor refuses. Nothing has changed then.
///
/// # Panics
///
/// Where a restored domain cannot be set up again; there is nothing left then to report an error to.
pub fn suspend() -> Result<Resumed, Errno> {
    const SUSPEND: u32 = 2;
    console::drain();
    time::disarm();
    // The latest time read is where the clock goes on from.
    time::now_ns();
    if hypercall::shutdown(SUSPEND)? {
        return Ok(Resumed::Cancelled);
    }
    hvm::unplug();
    shared_info::map().expect("the shared info page of the restored domain");
    time::resume();
    grants::resume();
    events::init().expect("event channels of the restored domain");
    console::init();
    console::wake();
    Ok(Resumed::Restored)
}

/// What the toolstack has set for this domain; `None` where it has set nothing.
pub(crate) fn param(index: u32) -> Option<u64> {
    hypercall::hvm_param(index).ok().filter(|value| *value != 0 && *value != u64::MAX)
}
