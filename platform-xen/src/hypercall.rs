//! Hypercalls: the instruction, and a typed wrapper for each operation that the platform uses.
//!
//! No hypercall page: `vmcall` or `vmmcall` is chosen at start by the processor's vendor, as Linux does since
//! CVE-2024-53241.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use xen_hal::{DomId, Errno};

use crate::abi::{self, nr};
use crate::{counters, serial};

/// Whether the processor wants `vmmcall` (AMD, Hygon) rather than `vmcall`.
static VMMCALL: AtomicBool = AtomicBool::new(false);

/// Chooses the instruction. Before this no hypercall may be made.
pub(crate) fn init() {
    let vendor = raw_cpuid::CpuId::new().get_vendor_info();
    let amd = vendor.is_some_and(|vendor| matches!(vendor.as_str(), "AuthenticAMD" | "HygonGenuine"));
    VMMCALL.store(amd, Ordering::Relaxed);
}

/// Makes a hypercall with up to four arguments; the ABI's fifth is not used by any operation here.
///
/// # Safety
///
/// The operation must not break Rust's rules on the memory that its arguments lead to.
pub(crate) unsafe fn hypercall(number: u64, args: [u64; 4]) -> i64 {
    counters::HYPERCALLS.add_one();
    let [a, b, c, d] = args;
    let result: i64;
    // The argument registers may be changed by the hypervisor (arch-x86/xen-x86_64.h).
    macro_rules! call {
        ($instruction:literal) => {
            // SAFETY: the caller vouches for the operation; the stack is used as in any call.
            unsafe {
                asm!(
                    $instruction,
                    inlateout("rax") number as i64 => result,
                    inlateout("rdi") a => _,
                    inlateout("rsi") b => _,
                    inlateout("rdx") c => _,
                    inlateout("r10") d => _,
                    lateout("r8") _,
                    options(nostack),
                )
            }
        };
    }
    match VMMCALL.load(Ordering::Relaxed) {
        true => call!("vmmcall"),
        false => call!("vmcall"),
    }
    result
}

fn check(result: i64) -> Result<u64, Errno> {
    match u64::try_from(result) {
        Ok(value) => Ok(value),
        Err(_) => Err(Errno::from_number(i32::try_from(-result).unwrap_or(i32::MAX))),
    }
}

/// An operation whose argument is a structure that the hypervisor reads, and writes its answers into.
///
/// # Safety
///
/// `T` is the structure that the operation takes, and what its fields point to may be used as the operation does.
unsafe fn operation<T>(number: u64, command: u64, argument: &mut T) -> Result<u64, Errno> {
    // SAFETY: the caller's; the structure is borrowed for the call.
    check(unsafe { hypercall(number, [command, &raw mut *argument as u64, 0, 0]) })
}

/// An operation on an array of structures.
///
/// # Safety
///
/// As [`operation`].
unsafe fn batch<T>(number: u64, command: u64, arguments: &mut [T]) -> Result<u64, Errno> {
    // SAFETY: the caller's; the array is borrowed for the call.
    check(unsafe { hypercall(number, [command, arguments.as_mut_ptr() as u64, arguments.len() as u64, 0]) })
}

/// XENVER_version: major in the upper, minor in the lower 16 bits.
pub(crate) fn xen_version() -> u32 {
    // SAFETY: takes no memory.
    unsafe { hypercall(nr::XEN_VERSION, [abi::XENVER_VERSION, 0, 0, 0]) as u32 }
}

/// XENVER_extraversion: what follows major and minor, NUL-terminated.
pub(crate) fn xen_extra_version() -> [u8; 16] {
    let mut text = [0; 16];
    // SAFETY: `xen_extraversion_t` is 16 characters. A failure leaves the zeros.
    let _ = unsafe { operation(nr::XEN_VERSION, abi::XENVER_EXTRAVERSION, &mut text) };
    text
}

/// Text for the serial port and the hypervisor's own console: CONSOLEIO_write, or the debug port (XEN_HVM_DEBUGCONS_IOPORT) where the
/// hypervisor was built to refuse that to ordinary domains. It drops what it is not configured to show.
pub(crate) fn console_write(text: &[u8]) {
    serial::write(text);
    // SAFETY: the hypervisor only reads the text.
    let result = unsafe { hypercall(nr::CONSOLE_IO, [0, text.len() as u64, text.as_ptr() as u64, 0]) };
    if result < 0 {
        debug_port(text);
    }
}

/// Text byte by byte to port 0xe9, which other emulators show as well.
pub(crate) fn debug_port(text: &[u8]) {
    for byte in text {
        // SAFETY: the port prints, or does nothing at all.
        unsafe { x86_64::instructions::port::Port::new(0xe9).write(*byte) };
    }
}

/// SCHEDOP_yield.
pub(crate) fn sched_yield() {
    // SAFETY: takes no memory.
    let _ = unsafe { hypercall(nr::SCHED_OP, [abi::SCHEDOP_YIELD, 0, 0, 0]) };
}

/// SCHEDOP_shutdown; returns only for a suspend, with whether that was cancelled.
pub(crate) fn shutdown(reason: u32) -> Result<bool, Errno> {
    let mut argument = reason;
    // SAFETY: `struct sched_shutdown` is one `unsigned int`.
    unsafe { operation(nr::SCHED_OP, abi::SCHEDOP_SHUTDOWN, &mut argument) }.map(|cancelled| cancelled != 0)
}

/// VCPUOP_set_singleshot_timer for virtual CPU 0: VIRQ_TIMER at `deadline`, at once where that has passed.
pub(crate) fn set_timer(deadline_ns: u64) -> Result<(), Errno> {
    let mut timer = abi::SetSingleshotTimer { timeout_abs_ns: deadline_ns, flags: 0 };
    // SAFETY: the structure is the operation's.
    check(unsafe { hypercall(nr::VCPU_OP, [abi::VCPUOP_SET_SINGLESHOT_TIMER, 0, &raw mut timer as u64, 0]) }).map(drop)
}

/// VCPUOP_stop_singleshot_timer for virtual CPU 0.
pub(crate) fn stop_timer() {
    // SAFETY: takes no memory.
    let _ = unsafe { hypercall(nr::VCPU_OP, [abi::VCPUOP_STOP_SINGLESHOT_TIMER, 0, 0, 0]) };
}

/// HVMOP_get_param for this domain.
pub(crate) fn hvm_param(index: u32) -> Result<u64, Errno> {
    let mut param = abi::HvmParam { domid: DomId::SELF.0, index, value: 0 };
    // SAFETY: the structure is the operation's.
    unsafe { operation(nr::HVM_OP, abi::HVMOP_GET_PARAM, &mut param) }?;
    Ok(param.value)
}

/// HVMOP_set_param for this domain.
pub(crate) fn set_hvm_param(index: u32, value: u64) -> Result<(), Errno> {
    let mut param = abi::HvmParam { domid: DomId::SELF.0, index, value };
    // SAFETY: the structure is the operation's.
    unsafe { operation(nr::HVM_OP, abi::HVMOP_SET_PARAM, &mut param) }.map(drop)
}

/// XENMEM_add_to_physmap: puts page `index` of a hypervisor's `space` at guest frame `gfn`.
///
/// # Safety
///
/// Nothing uses the frame, and no RAM is there that anything expects to keep.
pub(crate) unsafe fn add_to_physmap(space: u32, index: u64, gfn: u64) -> Result<(), Errno> {
    let mut argument = abi::AddToPhysmap { domid: DomId::SELF.0, size: 0, space, idx: index, gpfn: gfn };
    // SAFETY: the structure is the operation's; the caller vouches for the frame.
    unsafe { operation(nr::MEMORY_OP, abi::XENMEM_ADD_TO_PHYSMAP, &mut argument) }.map(drop)
}

/// XENMEM_memory_map: fills `entries` and returns how many there are.
pub(crate) fn memory_map(entries: &mut [abi::E820Entry]) -> Result<usize, Errno> {
    let mut argument = abi::MemoryMap { entries: entries.len() as u32, buffer: entries.as_mut_ptr() as u64 };
    // SAFETY: the structure is the operation's; the buffer takes as many entries as it says.
    unsafe { operation(nr::MEMORY_OP, abi::XENMEM_MEMORY_MAP, &mut argument) }?;
    Ok(argument.entries as usize)
}

/// XENMEM_current_reservation of this domain: pages that it has, among them those of the hypervisor's populate-on-demand
/// cache.
pub(crate) fn current_reservation() -> Result<u64, Errno> {
    let mut argument = DomId::SELF.0;
    // SAFETY: the operation takes a `domid_t`.
    unsafe { operation(nr::MEMORY_OP, abi::XENMEM_CURRENT_RESERVATION, &mut argument) }
}

fn reservation(command: u64, extents: &[u64], order: u32) -> Result<usize, Errno> {
    let mut argument = abi::MemoryReservation {
        extent_start: extents.as_ptr() as u64,
        nr_extents: extents.len() as u64,
        extent_order: order,
        mem_flags: 0,
        domid: DomId::SELF.0,
    };
    // SAFETY: the structure is the operation's; both commands only read the list where the map is the domain's own. The
    // pages are the caller's matter.
    unsafe { operation(nr::MEMORY_OP, command, &mut argument) }.map(|done| (done as usize).min(extents.len()))
}

/// XENMEM_decrease_reservation: gives extents of `1 << order` pages back; returns how many of them, from the first on.
///
/// # Safety
///
/// Nothing uses the pages, and nothing touches them before [`populate_physmap`].
pub(crate) unsafe fn decrease_reservation(extents: &[u64], order: u32) -> Result<usize, Errno> {
    reservation(abi::XENMEM_DECREASE_RESERVATION, extents, order)
}

/// XENMEM_populate_physmap: puts memory where there is none; returns how many extents have it, from the first on.
///
/// # Safety
///
/// There is no memory at these frames.
pub(crate) unsafe fn populate_physmap(extents: &[u64], order: u32) -> Result<usize, Errno> {
    reservation(abi::XENMEM_POPULATE_PHYSMAP, extents, order)
}

/// EVTCHNOP_alloc_unbound.
pub(crate) fn evtchn_alloc_unbound(remote: DomId) -> Result<u32, Errno> {
    let mut argument = abi::AllocUnbound { dom: DomId::SELF.0, remote_dom: remote.0, port: 0 };
    // SAFETY: the structure is the operation's.
    unsafe { operation(nr::EVENT_CHANNEL_OP, abi::EVTCHNOP_ALLOC_UNBOUND, &mut argument) }?;
    Ok(argument.port)
}

/// EVTCHNOP_bind_interdomain.
pub(crate) fn evtchn_bind_interdomain(remote: DomId, remote_port: u32) -> Result<u32, Errno> {
    let mut argument = abi::BindInterdomain { remote_dom: remote.0, remote_port, local_port: 0 };
    // SAFETY: the structure is the operation's.
    unsafe { operation(nr::EVENT_CHANNEL_OP, abi::EVTCHNOP_BIND_INTERDOMAIN, &mut argument) }?;
    Ok(argument.local_port)
}

/// EVTCHNOP_bind_virq on virtual CPU 0.
pub(crate) fn evtchn_bind_virq(virq: u32) -> Result<u32, Errno> {
    let mut argument = abi::BindVirq { virq, vcpu: 0, port: 0 };
    // SAFETY: the structure is the operation's.
    unsafe { operation(nr::EVENT_CHANNEL_OP, abi::EVTCHNOP_BIND_VIRQ, &mut argument) }?;
    Ok(argument.port)
}

/// EVTCHNOP_close.
pub(crate) fn evtchn_close(port: u32) -> Result<(), Errno> {
    let mut argument = port;
    // SAFETY: `struct evtchn_close` is one port.
    unsafe { operation(nr::EVENT_CHANNEL_OP, abi::EVTCHNOP_CLOSE, &mut argument) }.map(drop)
}

/// EVTCHNOP_send.
pub(crate) fn evtchn_send(port: u32) -> Result<(), Errno> {
    let mut argument = port;
    // SAFETY: `struct evtchn_send` is one port.
    unsafe { operation(nr::EVENT_CHANNEL_OP, abi::EVTCHNOP_SEND, &mut argument) }.map(drop)
}

/// EVTCHNOP_status of a port of this domain; the number is an `EVTCHNSTAT_*`, 0 for closed.
pub(crate) fn evtchn_status(port: u32) -> Result<u32, Errno> {
    let mut argument = abi::EvtchnStatus { dom: DomId::SELF.0, port, ..Default::default() };
    // SAFETY: the structure is the operation's.
    unsafe { operation(nr::EVENT_CHANNEL_OP, abi::EVTCHNOP_STATUS, &mut argument) }?;
    Ok(argument.status)
}

/// GNTTABOP_set_version.
pub(crate) fn grant_set_version(version: u32) -> Result<(), Errno> {
    let mut argument = [version];
    // SAFETY: `struct gnttab_set_version` is one number.
    unsafe { batch(nr::GRANT_TABLE_OP, abi::GNTTABOP_SET_VERSION, &mut argument) }.map(drop)
}

/// GNTTABOP_query_size: frames in use and frames allowed.
pub(crate) fn grant_query_size() -> Result<(u32, u32), Errno> {
    let mut argument = [abi::QuerySize { dom: DomId::SELF.0, ..Default::default() }];
    // SAFETY: the structure is the operation's.
    unsafe { batch(nr::GRANT_TABLE_OP, abi::GNTTABOP_QUERY_SIZE, &mut argument) }?;
    Ok((argument[0].nr_frames, argument[0].max_nr_frames))
}

/// GNTTABOP_map_grant_ref.
///
/// # Safety
///
/// Nothing uses the addresses that the pages are mapped at.
pub(crate) unsafe fn grant_map(operations: &mut [abi::MapGrantRef]) -> Result<(), Errno> {
    // SAFETY: the structures are the operation's; the caller vouches for the addresses.
    unsafe { batch(nr::GRANT_TABLE_OP, abi::GNTTABOP_MAP_GRANT_REF, operations) }.map(drop)
}

/// GNTTABOP_unmap_grant_ref.
///
/// # Safety
///
/// Nothing uses the mappings any more.
pub(crate) unsafe fn grant_unmap(operations: &mut [abi::UnmapGrantRef]) -> Result<(), Errno> {
    // SAFETY: the structures are the operation's; the caller vouches for the mappings.
    unsafe { batch(nr::GRANT_TABLE_OP, abi::GNTTABOP_UNMAP_GRANT_REF, operations) }.map(drop)
}

/// GNTTABOP_copy.
///
/// # Safety
///
/// The local sides are memory that may be read or written as the operations do.
pub(crate) unsafe fn grant_copy(operations: &mut [abi::GrantCopy]) -> Result<(), Errno> {
    // SAFETY: the structures are the operation's; the caller vouches for the memory.
    unsafe { batch(nr::GRANT_TABLE_OP, abi::GNTTABOP_COPY, operations) }.map(drop)
}
