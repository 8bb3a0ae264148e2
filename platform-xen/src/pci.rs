//! PCI functions of an HVM guest: the emulated ones, and those that are passed through (`pci=` in its xl file). They are
//! found by the configuration ports (PCI Local Bus Specification 3.0, sections 3.2.2.3.2 and 6). There are no drivers for
//! them here: this says what is there.

use alloc::vec::Vec;
use core::fmt;

use x86_64::instructions::port::Port;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;

/// Offsets in a function's configuration space.
const COMMAND: u8 = 0x04;
const CLASS: u8 = 0x08;
const HEADER_TYPE: u8 = 0x0c;
const BARS: u8 = 0x10;
const CAPABILITIES: u8 = 0x34;
const INTERRUPT: u8 = 0x3c;

/// Bits of the command register: the function answers at its addresses.
const DECODES: u32 = 3;
/// The status register's bit for a list of capabilities, as it lies in the command's word.
const HAS_CAPABILITIES: u32 = 1 << 20;
const MSI: u8 = 0x05;
const MSI_X: u8 = 0x11;
/// Capabilities have at least 4 bytes each, in 192.
const MAX_CAPABILITIES: usize = 48;

/// Where a function is: on bus 0, where Xen's device model puts all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The device, below 32.
    pub device: u8,
    /// The function of the device, below 8.
    pub function: u8,
}

impl fmt::Display for Address {
    /// As `lspci` and the xl file write it: `0000:00:03.0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0000:00:{:02x}.{}", self.device, self.function)
    }
}

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Function {
    /// Where it is.
    pub address: Address,
    /// Who made it: 0x8086 is Intel, 0x5853 Xen.
    pub vendor: u16,
    /// The maker's number for it: 1 is Xen's platform device.
    pub device: u16,
    /// Class, subclass and programming interface, in this order from bit 23 down: 0x010802 is NVMe.
    pub class: u32,
    /// The revision.
    pub revision: u8,
    /// Its ranges of addresses.
    pub bars: Vec<Bar>,
    /// Its interrupt line; `None` where it uses none.
    pub interrupt: Option<Interrupt>,
    /// Whether it can send MSI.
    pub msi: bool,
    /// Whether it can send MSI-X.
    pub msi_x: bool,
}

/// A range of addresses by which a function is used (base address register).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Which register, below 6; one of 64 bits takes two.
    pub index: u8,
    /// What kind of addresses.
    pub kind: BarKind,
    /// The first address, as the firmware has set it; 0 where it has set none.
    pub address: u64,
    /// Bytes, or ports: a power of two.
    pub size: u64,
}

/// What kind of addresses a [`Bar`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory.
    Memory {
        /// Reading changes nothing.
        prefetchable: bool,
    },
}

/// An interrupt line, as the firmware has connected it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// 1 to 4: INTA# to INTD#.
    pub pin: u8,
    /// The number of the interrupt controller's input.
    pub line: u8,
}

impl fmt::Display for Function {
    /// Two lines or more, without the last one's end: what it is, then its addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:04x}:{:04x} class {:06x}", self.address, self.vendor, self.device, self.class)?;
        if let Some(Interrupt { pin, line }) = self.interrupt {
            write!(f, ", interrupt {line} (INT{})", char::from(b'A' + pin.saturating_sub(1) % 4))?;
        }
        for (has, name) in [(self.msi, "MSI"), (self.msi_x, "MSI-X")] {
            if has {
                write!(f, ", {name}")?;
            }
        }
        for Bar { index, kind, address, size } in &self.bars {
            let kind = match kind {
                BarKind::Io => "ports",
                BarKind::Memory { prefetchable: false } => "memory",
                BarKind::Memory { prefetchable: true } => "prefetchable memory",
            };
            write!(f, "\n  BAR {index}: {kind} at {address:#x}, size {size:#x}")?;
        }
        Ok(())
    }
}

/// All functions of bus 0. In a PVH guest there are none.
pub fn functions() -> Vec<Function> {
    addresses(&Ports).map(|address| describe(&Ports, address)).collect()
}

/// The end of the memory that functions have above 4 GiB; 0 where none has any. Each access is an exit to the device model,
/// so only these registers are tried for their sizes.
pub(crate) fn high_memory_end() -> u64 {
    high_end(&Ports)
}

fn high_end(space: &impl Configuration) -> u64 {
    let ends = addresses(space).map(|address| {
        let mut bars = Bars::new(space, address);
        let mut end = 0;
        while bars.next < bars.end {
            let word = |index| space.read(address, BARS + index * 4);
            let is_wide = bars.next + 1 < bars.end && word(bars.next) & 7 == 4;
            match is_wide && word(bars.next + 1) != 0 {
                true => end = bars.next().map_or(end, |bar| end.max(bar.address.saturating_add(bar.size))),
                false => bars.next += 1 + u8::from(is_wide),
            }
        }
        end
    });
    ends.max().unwrap_or(0)
}

/// Configuration spaces, by words of 32 bits.
trait Configuration {
    fn read(&self, address: Address, offset: u8) -> u32;
    fn write(&self, address: Address, offset: u8, value: u32);
}

/// The configuration ports.
struct Ports;

impl Ports {
    fn select(address: Address, offset: u8) -> Port<u32> {
        let number =
            1 << 31 | u32::from(address.device) << 11 | u32::from(address.function) << 8 | u32::from(offset & !3);
        // SAFETY: chooses the word that the other port shows; nothing else uses the two.
        unsafe { Port::new(ADDRESS_PORT).write(number) };
        Port::new(DATA_PORT)
    }
}

impl Configuration for Ports {
    fn read(&self, address: Address, offset: u8) -> u32 {
        // SAFETY: reading a configuration space's header and capabilities changes nothing.
        unsafe { Ports::select(address, offset).read() }
    }

    fn write(&self, address: Address, offset: u8, value: u32) {
        // SAFETY: only `Bars` writes, the registers that it puts back; no driver uses the function meanwhile.
        unsafe { Ports::select(address, offset).write(value) };
    }
}

/// The addresses at which there is a function.
fn addresses(space: &impl Configuration) -> impl Iterator<Item = Address> {
    (0..32).flat_map(move |device| {
        let exists = move |function: &u8| {
            let vendor = space.read(Address { device, function: *function }, 0) as u16;
            vendor != 0 && vendor != u16::MAX
        };
        let first = exists(&0);
        let several = first && space.read(Address { device, function: 0 }, HEADER_TYPE) & (1 << 23) != 0;
        let count = if several { 8 } else { u8::from(first) };
        (0..count).filter(exists).map(move |function| Address { device, function })
    })
}

fn describe(space: &impl Configuration, address: Address) -> Function {
    let read = |offset| space.read(address, offset);
    let (id, class, interrupt) = (read(0), read(CLASS), read(INTERRUPT));
    let pin = (interrupt >> 8) as u8;
    let interrupt = (1..=4).contains(&pin).then_some(Interrupt { pin, line: interrupt as u8 });
    let [msi, msi_x] = [MSI, MSI_X].map(|kind| has_capability(space, address, kind));
    Function {
        address,
        vendor: id as u16,
        device: (id >> 16) as u16,
        class: class >> 8,
        revision: class as u8,
        bars: Bars::new(space, address).collect(),
        interrupt,
        msi,
        msi_x,
    }
}

fn has_capability(space: &impl Configuration, address: Address, kind: u8) -> bool {
    if space.read(address, COMMAND) & HAS_CAPABILITIES == 0 {
        return false;
    }
    let mut next = space.read(address, CAPABILITIES) as u8 & !3;
    for _ in 0..MAX_CAPABILITIES {
        // They begin behind the header.
        if next < 0x40 {
            return false;
        }
        let word = space.read(address, next);
        if word as u8 == kind {
            return true;
        }
        next = (word >> 8) as u8 & !3;
    }
    false
}

/// Goes through a function's base address registers, finding their sizes.
struct Bars<'s, S> {
    space: &'s S,
    address: Address,
    next: u8,
    end: u8,
}

impl<'s, S: Configuration> Bars<'s, S> {
    fn new(space: &'s S, address: Address) -> Bars<'s, S> {
        let end = match space.read(address, HEADER_TYPE) >> 16 & 0x7f {
            0 => 6,
            // A bridge.
            1 => 2,
            _ => 0,
        };
        Bars { space, address, next: 0, end }
    }

    /// A register's value, and which of its bits can be set.
    fn probe(&self, index: u8) -> (u32, u32) {
        let offset = BARS + index * 4;
        let command = self.space.read(self.address, COMMAND) & 0xffff;
        // What is written on the way must not lead anywhere. The status, in the upper half, has bits that ones clear.
        self.space.write(self.address, COMMAND, command & !DECODES);
        let value = self.space.read(self.address, offset);
        self.space.write(self.address, offset, u32::MAX);
        let mask = self.space.read(self.address, offset);
        self.space.write(self.address, offset, value);
        self.space.write(self.address, COMMAND, command);
        (value, mask)
    }
}

impl<S: Configuration> Iterator for Bars<'_, S> {
    type Item = Bar;

    fn next(&mut self) -> Option<Bar> {
        while self.next < self.end {
            let index = self.next;
            self.next += 1;
            let (low, mask) = self.probe(index);
            if mask == 0 {
                continue;
            }
            if low & 1 != 0 {
                let size = (!(mask & !3)).wrapping_add(1) & 0xffff;
                return Some(Bar { index, kind: BarKind::Io, address: u64::from(low & !3), size: size.into() });
            }
            let kind = BarKind::Memory { prefetchable: low & 8 != 0 };
            let (mut address, mut mask) = (u64::from(low & !15), u64::from(mask & !15));
            if low & 6 == 4 && self.next < self.end {
                let (high, high_mask) = self.probe(self.next);
                self.next += 1;
                address |= u64::from(high) << 32;
                mask |= u64::from(high_mask) << 32;
            } else {
                mask |= 0xffff_ffff << 32;
            }
            return Some(Bar { index, kind, address, size: (!mask).wrapping_add(1) });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use core::cell::RefCell;
    use std::collections::BTreeMap;

    /// A function's configuration space, and for each of its words which bits can be written.
    type Space = ([u32; 64], [u32; 64]);

    /// A bus, by device and function.
    #[derive(Default)]
    struct Bus(RefCell<BTreeMap<(u8, u8), Space>>);

    impl Configuration for Bus {
        fn read(&self, address: Address, offset: u8) -> u32 {
            let functions = self.0.borrow();
            functions
                .get(&(address.device, address.function))
                .map_or(u32::MAX, |space| space.0[usize::from(offset) / 4])
        }

        fn write(&self, address: Address, offset: u8, value: u32) {
            let mut functions = self.0.borrow_mut();
            let (words, writable) = functions.get_mut(&(address.device, address.function)).unwrap();
            let word = usize::from(offset) / 4;
            assert!(word == 1 || words[1] & DECODES == 0, "written to while it decodes addresses");
            words[word] = words[word] & !writable[word] | value & writable[word];
        }
    }

    impl Bus {
        fn add(&self, at: (u8, u8), words: &[(usize, u32, u32)]) {
            let mut space = ([0; 64], [0; 64]);
            space.1[1] = 0xffff;
            for (index, value, writable) in words {
                space.0[*index] = *value;
                space.1[*index] |= *writable;
            }
            self.0.borrow_mut().insert(at, space);
        }

        fn list(&self) -> Vec<Function> {
            addresses(self).map(|address| describe(self, address)).collect()
        }
    }

    fn usual() -> Bus {
        let bus = Bus::default();
        // A bridge to the ISA bus with a second function: the first says that there are several.
        bus.add((1, 0), &[(0, 0x7000_8086, 0), (2, 0x0601_0000, 0), (3, 1 << 23, 0)]);
        bus.add((1, 1), &[(0, 0x7010_8086, 0), (1, 5, 0), (2, 0x0101_8000, 0), (8, 0xc041, 0xfff0)]);
        // As Xen's platform device is.
        let memory = (5, 0xf200_0008, 0xff00_0000);
        bus.add(
            (2, 0),
            &[(0, 0x0001_5853, 0), (1, 3, 0), (2, 0xff80_0001, 0), (4, 0xc001, 0xff00), memory, (15, 0x0118, 0)],
        );
        // 64 bits, MSI-X behind another capability.
        let high = [(4, 0x0000_0004, 0xffff_c000), (5, 9, u32::MAX)];
        let rest = [
            (0, 0x0010_1b36, 0),
            (1, HAS_CAPABILITIES | 2, 0),
            (2, 0x0108_0202, 0),
            (13, 0x40, 0),
            (16, 0x8001, 0),
            (32, 0x11, 0),
        ];
        bus.add((3, 0), &[high.as_slice(), &rest].concat());
        bus
    }

    #[test]
    fn functions_are_listed_and_left_as_they_were() {
        let bus = usual();
        let before = bus.0.borrow().clone();
        let list = bus.list();
        assert_eq!(*bus.0.borrow(), before);
        let text: Vec<_> = list.iter().map(Function::to_string).collect();
        assert_eq!(
            text,
            [
                "0000:00:01.0 8086:7000 class 060100",
                "0000:00:01.1 8086:7010 class 010180\n  BAR 4: ports at 0xc040, size 0x10",
                "0000:00:02.0 5853:0001 class ff8000, interrupt 24 (INTA)\n  BAR 0: ports at 0xc000, size 0x100\n  \
                 BAR 1: prefetchable memory at 0xf2000000, size 0x1000000",
                "0000:00:03.0 1b36:0010 class 010802, MSI-X\n  BAR 0: memory at 0x900000000, size 0x4000",
            ]
        );
        assert_eq!((list[2].revision, list[2].address.to_string().as_str()), (1, "0000:00:02.0"));
        assert_eq!(high_end(&bus), 0x9_0000_4000);
        assert_eq!(*bus.0.borrow(), before);
        assert!(Bus::default().list().is_empty() && high_end(&Bus::default()) == 0);
    }

    #[test]
    fn capabilities_in_a_circle_end() {
        let bus = usual();
        bus.add((3, 0), &[(0, 0x0010_1b36, 0), (1, HAS_CAPABILITIES, 0), (13, 0x40, 0), (16, 0x4001, 0)]);
        let list = bus.list();
        assert!(!list[3].msi && !list[3].msi_x && list[3].bars.is_empty());
    }
}
