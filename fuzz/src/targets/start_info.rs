//! What the toolstack leaves for a guest's start: command line, modules and memory map.

use platform_xen::fuzzing::START_INFO;

pub(super) const SHORT: u32 = 5000;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut memory = vec![0; 0x140];
    let mut put = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0x336e_c578_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(12, &1_u32.to_le_bytes());
    for (at, value) in [(16, 0x40), (24, 0x60), (40, 0x80)] {
        put(at, &(START_INFO + value).to_le_bytes());
    }
    put(48, &3_u32.to_le_bytes());
    for (at, value) in [(0x40, START_INFO + 0x100), (0x48, 5), (0x50, START_INFO + 0x68)] {
        put(at, &value.to_le_bytes());
    }
    put(0x60, b"a=1 b\0");
    put(0x68, b"own\0");
    for (entry, (address, size, kind)) in
        [(0_u64, 0x80_0000_u64, 1_u32), (0xfee0_0000, 0x1000, 2), (0x1_0000_0000, 0x40_0000, 1)].into_iter().enumerate()
    {
        put(0x80 + entry * 24, &address.to_le_bytes());
        put(0x88 + entry * 24, &size.to_le_bytes());
        put(0x90 + entry * 24, &kind.to_le_bytes());
    }
    put(0x100, b"hello");
    vec![memory]
}

pub(super) fn run(data: &[u8]) {
    platform_xen::fuzzing::start_info(data);
}
