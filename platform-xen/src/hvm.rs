//! What an HVM guest has besides a PVH guest's machine: a device model with emulated devices, and the interrupt controller
//! of a PC.

use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::port::Port;

use crate::serial;

/// Registers of the platform device (xen/docs/misc/hvm-emulated-unplug.pandoc).
const MAGIC_PORT: u16 = 0x10;
const VERSION_PORT: u16 = 0x12;
const MAGIC: u16 = 0x49d2;
/// Drivers that no number was given to.
const PRODUCT: u16 = 0xffff;
const BUILD: u32 = 1;
/// All emulated disks but CD-ROM drives (IDE and SCSI), network cards, and NVMe disks.
const UNPLUG: u16 = 1 | 1 << 1 | 1 << 3;

/// The interrupt masks of the two 8259 controllers.
const PIC_MASKS: [u16; 2] = [0x21, 0xa1];

/// Whether a boot loader has started this guest, so that there may be a device model.
static BY_LOADER: AtomicBool = AtomicBool::new(false);

/// Whether a boot loader has started this guest.
pub(crate) fn is_by_loader() -> bool {
    cfg!(feature = "hvm") && BY_LOADER.load(Ordering::Relaxed)
}

/// Brings the machine to what a PVH guest finds. Where some of it is not there, nothing answers at its ports.
pub(crate) fn init() {
    BY_LOADER.store(true, Ordering::Relaxed);
    serial::init();
    for port in PIC_MASKS {
        // The firmware's timer would interrupt with the number of an exception.
        // SAFETY: only takes interrupts away, none of which is used.
        unsafe { Port::new(port).write(0xff_u8) };
    }
}

/// Has the device model take away the emulated disks and network cards, whose backends serve the domain's own drivers: two
/// drivers for one disk would destroy it. At start, and again after a restore, which has brought a new device model.
///
/// Nothing happens where there is no platform device (`xen_platform_pci=0`, and in PVH guests).
pub(crate) fn unplug() {
    if !is_by_loader() {
        return;
    }
    // SAFETY: the platform device's ports, which do no more than this function's description; nothing answers where it is
    // missing.
    unsafe {
        let mut magic = Port::<u16>::new(MAGIC_PORT);
        if magic.read() != MAGIC {
            return;
        }
        if Port::<u8>::new(VERSION_PORT).read() >= 1 {
            Port::<u16>::new(VERSION_PORT).write(PRODUCT);
            Port::<u32>::new(MAGIC_PORT).write(BUILD);
            // The device model may refuse drivers that it knows to be faulty.
            if magic.read() != MAGIC {
                return;
            }
        }
        magic.write(UNPLUG);
    }
}
