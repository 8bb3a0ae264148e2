//! Numbers and layouts of Xen's public headers (xen/include/public/), 64-bit.

use core::mem::offset_of;

/// Hypercall numbers (xen.h).
pub mod nr {
    pub const MEMORY_OP: u64 = 12;
    pub const XEN_VERSION: u64 = 17;
    pub const CONSOLE_IO: u64 = 18;
    pub const GRANT_TABLE_OP: u64 = 20;
    pub const VCPU_OP: u64 = 24;
    pub const SCHED_OP: u64 = 29;
    pub const EVENT_CHANNEL_OP: u64 = 32;
    pub const HVM_OP: u64 = 34;
}

/// memory.h
pub const XENMEM_DECREASE_RESERVATION: u64 = 1;
pub const XENMEM_CURRENT_RESERVATION: u64 = 3;
pub const XENMEM_POPULATE_PHYSMAP: u64 = 6;
pub const XENMEM_ADD_TO_PHYSMAP: u64 = 7;
pub const XENMEM_MEMORY_MAP: u64 = 9;
pub const XENMAPSPACE_SHARED_INFO: u32 = 0;
pub const XENMAPSPACE_GRANT_TABLE: u32 = 1;

#[repr(C)]
pub struct AddToPhysmap {
    pub domid: u16,
    pub size: u16,
    pub space: u32,
    pub idx: u64,
    pub gpfn: u64,
}

/// `struct xen_memory_reservation`: `nr_extents` frame numbers, each of the first of `1 << extent_order` pages.
#[repr(C)]
pub struct MemoryReservation {
    pub extent_start: u64,
    pub nr_extents: u64,
    pub extent_order: u32,
    pub mem_flags: u32,
    pub domid: u16,
}
const _: () = assert!(size_of::<MemoryReservation>() == 32 && offset_of!(MemoryReservation, domid) == 24);

#[repr(C)]
pub struct MemoryMap {
    pub entries: u32,
    pub buffer: u64,
}

/// An entry as XENMEM_memory_map writes it: the processor's E820 layout, 20 bytes.
#[repr(C, packed(4))]
#[derive(Clone, Copy, Default)]
pub struct E820Entry {
    pub addr: u64,
    pub size: u64,
    pub kind: u32,
}
const _: () = assert!(size_of::<E820Entry>() == 20);

/// version.h
pub const XENVER_VERSION: u64 = 0;
pub const XENVER_EXTRAVERSION: u64 = 1;

/// sched.h
pub const SCHEDOP_YIELD: u64 = 0;
pub const SCHEDOP_SHUTDOWN: u64 = 2;

/// vcpu.h
pub const VCPUOP_SET_SINGLESHOT_TIMER: u64 = 8;
pub const VCPUOP_STOP_SINGLESHOT_TIMER: u64 = 9;

#[repr(C)]
pub struct SetSingleshotTimer {
    pub timeout_abs_ns: u64,
    pub flags: u32,
}

/// event_channel.h
pub const EVTCHNOP_BIND_INTERDOMAIN: u64 = 0;
pub const EVTCHNOP_BIND_VIRQ: u64 = 1;
pub const EVTCHNOP_CLOSE: u64 = 3;
pub const EVTCHNOP_SEND: u64 = 4;
pub const EVTCHNOP_STATUS: u64 = 5;
pub const EVTCHNOP_ALLOC_UNBOUND: u64 = 6;
/// Bound to a port of another domain's (event_channel.h).
pub const EVTCHNSTAT_INTERDOMAIN: u32 = 2;
/// xen.h
pub const VIRQ_TIMER: u32 = 0;

#[repr(C)]
pub struct AllocUnbound {
    pub dom: u16,
    pub remote_dom: u16,
    pub port: u32,
}

#[repr(C)]
pub struct BindInterdomain {
    pub remote_dom: u16,
    pub remote_port: u32,
    pub local_port: u32,
}

#[repr(C)]
pub struct BindVirq {
    pub virq: u32,
    pub vcpu: u32,
    pub port: u32,
}

#[repr(C)]
#[derive(Default)]
pub struct EvtchnStatus {
    pub dom: u16,
    pub port: u32,
    pub status: u32,
    pub vcpu: u32,
    pub union: [u32; 2],
}

/// hvm/hvm_op.h, hvm/params.h
pub const HVMOP_SET_PARAM: u64 = 0;
pub const HVMOP_GET_PARAM: u64 = 1;
pub const HVM_PARAM_CALLBACK_IRQ: u32 = 0;
pub const HVM_PARAM_STORE_PFN: u32 = 1;
pub const HVM_PARAM_STORE_EVTCHN: u32 = 2;
pub const HVM_PARAM_CONSOLE_PFN: u32 = 17;
pub const HVM_PARAM_CONSOLE_EVTCHN: u32 = 18;

#[repr(C)]
pub struct HvmParam {
    pub domid: u16,
    pub index: u32,
    pub value: u64,
}

/// grant_table.h
pub const GNTTABOP_MAP_GRANT_REF: u64 = 0;
pub const GNTTABOP_UNMAP_GRANT_REF: u64 = 1;
pub const GNTTABOP_COPY: u64 = 5;
pub const GNTTABOP_QUERY_SIZE: u64 = 6;
pub const GNTTABOP_SET_VERSION: u64 = 8;
pub const GNTMAP_HOST_MAP: u32 = 1 << 1;
pub const GNTMAP_READONLY: u32 = 1 << 2;
pub const GNTCOPY_SOURCE_GREF: u16 = 1;
pub const GNTCOPY_DEST_GREF: u16 = 2;
pub const GTF_PERMIT_ACCESS: u16 = 1;
pub const GTF_READONLY: u16 = 1 << 2;
pub const GTF_READING: u16 = 1 << 3;
pub const GTF_WRITING: u16 = 1 << 4;
/// Entries of a version 1 table that the toolstack uses (GNTTAB_NR_RESERVED_ENTRIES).
pub const GNTTAB_RESERVED_ENTRIES: u32 = 8;

#[repr(C)]
pub struct MapGrantRef {
    pub host_addr: u64,
    pub flags: u32,
    pub reference: u32,
    pub dom: u16,
    pub status: i16,
    pub handle: u32,
    pub dev_bus_addr: u64,
}
const _: () = assert!(size_of::<MapGrantRef>() == 32 && offset_of!(MapGrantRef, handle) == 20);

#[repr(C)]
pub struct UnmapGrantRef {
    pub host_addr: u64,
    pub dev_bus_addr: u64,
    pub handle: u32,
    pub status: i16,
}
const _: () = assert!(size_of::<UnmapGrantRef>() == 24);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct CopyPtr {
    /// A grant reference in the low half, or a guest frame.
    pub gref_or_gmfn: u64,
    pub domid: u16,
    pub offset: u16,
}

#[repr(C)]
pub struct GrantCopy {
    pub source: CopyPtr,
    pub dest: CopyPtr,
    pub len: u16,
    pub flags: u16,
    pub status: i16,
}
const _: () =
    assert!(size_of::<GrantCopy>() == 40 && offset_of!(GrantCopy, dest) == 16 && offset_of!(GrantCopy, len) == 32);

#[repr(C)]
#[derive(Default)]
pub struct QuerySize {
    pub dom: u16,
    pub nr_frames: u32,
    pub max_nr_frames: u32,
    pub status: i16,
}

/// Offsets within `struct shared_info` and `struct vcpu_info` (xen.h, arch-x86/xen.h). Virtual CPU 0's `vcpu_info` is
/// the first thing in the page.
pub mod shared {
    pub const UPCALL_PENDING: usize = 0;
    pub const PENDING_SEL: usize = 8;
    pub const TIME_VERSION: usize = 32;
    pub const TIME_TSC_TIMESTAMP: usize = 40;
    pub const TIME_SYSTEM_TIME: usize = 48;
    pub const TIME_TSC_TO_SYSTEM_MUL: usize = 56;
    pub const TIME_TSC_SHIFT: usize = 60;
    pub const EVTCHN_PENDING: usize = 2048;
    pub const EVTCHN_MASK: usize = 2560;
    pub const WC_VERSION: usize = 3072;
    pub const WC_SEC: usize = 3076;
    pub const WC_NSEC: usize = 3080;
    pub const WC_SEC_HI: usize = 3084;
}
