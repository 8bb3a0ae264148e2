//! From the first Rust function to the application's main.

use core::fmt;
use core::ops::Range;

use crate::abi::E820Entry;
use crate::cell::Global;
use crate::memory::map::{self, MemoryMap};
use crate::memory::{address_space, paging};
use crate::start_info::{PhysicalMemory, RESERVED, StartInfo};
use crate::{
    console, domain, events, executor, hvm, hypercall, image, log, memory, multiboot, pci, serial, shared_info, time,
    traps,
};

static BOOT: Global<Boot> = Global::new(Boot { protocol: BootProtocol::Pvh, command_line: b"", modules: &[] });

struct Boot {
    protocol: BootProtocol,
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

/// Who has started the guest, and in which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootProtocol {
    /// Xen itself, `type="pvh"`.
    Pvh,
    /// A boot loader of an HVM guest, by Multiboot 1: QEMU, with `kernel=`.
    Multiboot,
    /// A boot loader of an HVM guest, by Multiboot 2: GRUB.
    Multiboot2,
}

impl fmt::Display for BootProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BootProtocol::Pvh => "PVH",
            BootProtocol::Multiboot => "Multiboot",
            BootProtocol::Multiboot2 => "Multiboot 2",
        })
    }
}

/// Who has started the guest.
pub fn boot_protocol() -> BootProtocol {
    BOOT.get().protocol
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
pub(crate) extern "C" fn sarab_start(start_info: u32, magic: u32) -> ! {
    traps::init();
    hypercall::init();
    let protocol = match magic {
        multiboot::MAGIC_1 if cfg!(feature = "hvm") => BootProtocol::Multiboot,
        multiboot::MAGIC_2 if cfg!(feature = "hvm") => BootProtocol::Multiboot2,
        _ => BootProtocol::Pvh,
    };
    if protocol != BootProtocol::Pvh {
        hvm::init();
    }
    if domain::xen_leaves().is_none() {
        // Not Xen: a hypercall would only fault. QEMU and others that boot PVH images show this port.
        const TEXT: &[u8] = b"sarab: this machine is not a Xen guest\n";
        hypercall::debug_port(TEXT);
        serial::write(TEXT);
        loop {
            x86_64::instructions::hlt();
        }
    }
    // SAFETY: called with everything below 4 GiB mapped one to one; what the start info leads to is reserved from here on.
    let memory = unsafe { Identity::new() };
    let address = start_info.into();
    let info = match protocol {
        BootProtocol::Pvh => StartInfo::parse(&memory, address),
        BootProtocol::Multiboot => multiboot::parse_1(&memory, address),
        BootProtocol::Multiboot2 => multiboot::parse_2(&memory, address),
    };
    let info = info.unwrap_or_else(|error| panic!("what the loader tells ({protocol}): {error}"));
    let map = memory_map(&info);
    let reserved = reserved(&info);
    // SAFETY: called once; what the toolstack has loaded is reserved.
    unsafe { memory::init(&map, &reserved) };
    // A PVH guest has no such devices, and looking for them takes a while.
    let devices_end = if hvm::is_by_loader() { pci::high_memory_end() } else { 0 };
    let window = address_space::choose(&map, devices_end);
    paging::init(&map, &window, || memory::allocate_run(1).expect("out of memory: no room for page tables"));
    address_space::init(window);
    boot_info(protocol, &info);

    hvm::unplug();
    shared_info::map().expect("the shared info page");
    time::init();
    events::init().expect("event channels");
    console::init();
    console::start();
    log::text::init();
    // SAFETY: `#[sarab::main]` has made it with this signature.
    unsafe { sarab_application() };
    executor::run()
}

/// Memory below 4 GiB, mapped one to one, less this image.
struct Identity(());

impl Identity {
    /// # Safety
    ///
    /// It is mapped, and what is read from it is not written to afterwards.
    unsafe fn new() -> Identity {
        Identity(())
    }
}

impl PhysicalMemory<'static> for Identity {
    fn bytes(&self, address: u64, len: u64) -> Option<&'static [u8]> {
        let end = address.checked_add(len).filter(|end| *end <= 1 << 32)?;
        let image = image::whole();
        if address == 0 || (address < image.end && end > image.start) {
            return None;
        }
        let start = core::ptr::with_exposed_provenance(address as usize);
        // SAFETY: mapped, not the null pointer, and not this program's own; `new`'s caller promises that it stays as it is.
        Some(unsafe { core::slice::from_raw_parts(start, len as usize) })
    }
}

fn memory_map(info: &StartInfo<'_>) -> MemoryMap {
    info.memory_map().unwrap_or_else(|| {
        // The hypervisor has the map.
        let mut entries = [E820Entry::default(); map::MAX_ENTRIES];
        let count = hypercall::memory_map(&mut entries).expect("a memory map");
        MemoryMap::new(entries.into_iter().take(count))
    })
}

/// What must stay: the image, and all that the start info leads to.
fn reserved(info: &StartInfo<'_>) -> [Range<u64>; 2 + RESERVED] {
    let mut ranges = core::array::from_fn(|_| 0..0);
    ranges[0] = 0..0x1000;
    ranges[1] = image::whole();
    ranges[2..].clone_from_slice(&info.reserved());
    ranges
}

/// Keeps what the application may ask for. Copies the small things, so that nothing depends on the toolstack's layout.
fn boot_info(protocol: BootProtocol, info: &StartInfo<'static>) {
    let copy = |text: &[u8]| -> &'static [u8] { alloc::vec::Vec::from(text).leak() };
    let modules: alloc::vec::Vec<Module> = info
        .modules()
        .iter()
        .map(|module| Module { data: module.data.bytes, command_line: copy(module.command_line()) })
        .collect();
    *BOOT.get() = Boot { protocol, command_line: copy(info.command_line()), modules: modules.leak() };
}
