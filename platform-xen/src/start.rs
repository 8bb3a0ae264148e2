//! From the first Rust function to the application's main.

use core::ffi::CStr;
use core::ops::Range;

use pvh::start_info::reader::StartInfoReader;

use crate::abi::E820Entry;
use crate::cell::Global;
use crate::memory::map::{self, MemoryMap};
use crate::memory::{address_space, paging};
use crate::{console, domain, events, executor, hypercall, image, memory, shared_info, time, traps};

static BOOT: Global<Boot> = Global::new(Boot { command_line: b"", modules: &[] });

struct Boot {
    command_line: &'static [u8],
    modules: &'static [Module],
}

/// A file that the toolstack has loaded beside the guest (`ramdisk=` in the xl file).
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Its bytes.
    pub data: &'static [u8],
    /// Its own command line; the toolstack leaves it empty.
    pub command_line: &'static [u8],
}

/// The command line, as the toolstack passed it (`cmdline=`, or `root=` and `extra=`).
pub fn command_line() -> &'static [u8] {
    BOOT.get().command_line
}

/// The files that the toolstack has loaded.
pub fn modules() -> &'static [Module] {
    BOOT.get().modules
}

unsafe extern "Rust" {
    /// The application's start: spawns its main task. Made by `#[sarab::main]`.
    fn sarab_application();
}

/// Called by the boot code with paging on and everything mapped one to one.
pub(crate) extern "C" fn sarab_start(start_info: u32) -> ! {
    traps::init();
    hypercall::init();
    if domain::xen_leaves().is_none() {
        // Not Xen: a hypercall would only fault. QEMU and others that boot PVH images show this port.
        hypercall::debug_port(b"sarab: this machine is no Xen guest\n");
        loop {
            x86_64::instructions::hlt();
        }
    }
    // SAFETY: Xen has put the address of its start info into EBX, all of it lies below 4 GiB and stays as it is.
    let info =
        unsafe { StartInfoReader::from_paddr_identity(start_info) }.expect("hvm_start_info with Xen's magic number");
    let map = memory_map(&info);
    let reserved = reserved(&info, start_info);
    // SAFETY: called once; what the toolstack has loaded is reserved.
    unsafe { memory::init(&map, &reserved) };
    let window = address_space::choose(&map);
    paging::init(&map, &window, || memory::allocate_run(1).expect("out of memory: no room for page tables"));
    address_space::init(window);
    boot_info(&info);

    shared_info::map().expect("the shared info page");
    time::init();
    events::init().expect("event channels");
    console::init();
    console::start();
    // SAFETY: `#[sarab::main]` has made it with this signature.
    unsafe { sarab_application() };
    executor::run()
}

fn memory_map(info: &StartInfoReader<'_, pvh::start_info::reader::IdentityMap>) -> MemoryMap {
    let table = info.memmap();
    if !table.is_empty() {
        return MemoryMap::new(table.iter().map(|entry| E820Entry {
            addr: entry.addr,
            size: entry.size,
            kind: entry.ty,
        }));
    }
    // A toolstack from before version 1 of the start info: the hypervisor has the map.
    let mut entries = [E820Entry::default(); map::MOST_ENTRIES];
    let count = hypercall::memory_map(&mut entries).expect("a memory map");
    MemoryMap::new(entries.into_iter().take(count))
}

/// What must stay: the image, and all that the start info leads to.
fn reserved(info: &StartInfoReader<'_, pvh::start_info::reader::IdentityMap>, start_info: u32) -> [Range<u64>; 38] {
    const MOST_MODULES: usize = 16;
    let mut ranges = core::array::from_fn(|_| 0..0);
    let start = u64::from(start_info);
    ranges[0] = 0..0x1000;
    ranges[1] = image::whole();
    ranges[2] = start..start + size_of::<pvh::start_info::StartInfo>() as u64;
    ranges[3] = bytes(info.cmdline().map_or(b"", CStr::to_bytes_with_nul));
    let table = info.memmap();
    ranges[4] = table.as_ptr().addr() as u64..table.as_ptr_range().end.addr() as u64;
    let modules = u64::from(info.raw().nr_modules);
    ranges[5] = info.raw().modlist_paddr..info.raw().modlist_paddr + modules * 32;
    assert!(modules <= MOST_MODULES as u64, "{modules} modules were loaded, at most {MOST_MODULES} can be used");
    for (index, module) in info.modlist().enumerate() {
        ranges[6 + index * 2] = bytes(module.as_slice());
        ranges[7 + index * 2] = bytes(module.cmdline().map_or(b"", CStr::to_bytes_with_nul));
    }
    ranges
}

fn bytes(slice: &[u8]) -> Range<u64> {
    let range = slice.as_ptr_range();
    range.start.addr() as u64..range.end.addr() as u64
}

/// Keeps what the application may ask for. Copies the small things, so that nothing depends on the toolstack's layout.
fn boot_info(info: &StartInfoReader<'_, pvh::start_info::reader::IdentityMap>) {
    let copy = |text: Option<&CStr>| -> &'static [u8] {
        alloc::vec::Vec::from(text.map_or(b"".as_slice(), CStr::to_bytes)).leak()
    };
    let modules: alloc::vec::Vec<Module> = info
        .modlist()
        .map(|module| {
            let data = module.as_slice();
            // SAFETY: the module's memory is reserved for as long as the domain runs, and nobody writes to it.
            let data = unsafe { core::slice::from_raw_parts(data.as_ptr(), data.len()) };
            Module { data, command_line: copy(module.cmdline()) }
        })
        .collect();
    *BOOT.get() = Boot { command_line: copy(info.cmdline()), modules: modules.leak() };
}
