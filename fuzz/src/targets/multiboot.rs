//! What a boot loader leaves for an HVM guest's start: the information of Multiboot 1 or 2. The first byte chooses.

use platform_xen::fuzzing::START_INFO;

pub(super) const SHORT: u32 = 5000;

fn put(memory: &mut [u8], at: usize, words: &[u32]) {
    for (index, word) in words.iter().enumerate() {
        memory[at + 4 * index..][..4].copy_from_slice(&word.to_le_bytes());
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let at = |offset: u32| START_INFO as u32 + offset;
    // As QEMU writes it: a command line after the image's path, a module, a map of two entries.
    let mut first = vec![0; 0x160];
    put(&mut first, 0, &[1 << 2 | 1 << 3 | 1 << 6 | 1 << 9, 639, 15360, 0, at(0x60), 1, at(0x80)]);
    put(&mut first, 44, &[48, at(0xa0)]);
    put(&mut first, 64, &[at(0x50)]);
    first[0x50..0x55].copy_from_slice(b"qemu\0");
    first[0x60..0x69].copy_from_slice(b"/web a=1\0");
    put(&mut first, 0x80, &[at(0x100), at(0x105), at(0x60), 0]);
    put(&mut first, 0xa0, &[20, 0, 0, 0x9_fc00, 0, 1, 20, 0x10_0000, 0, 0xef_f000, 0, 1]);
    first[0x100..0x105].copy_from_slice(b"hello");
    // As GRUB writes it: the same, in tags.
    let mut second = vec![0; 0x160];
    put(&mut second, 0, &[0x78, 0, 1, 12]);
    second[16..20].copy_from_slice(b"a=1\0");
    put(&mut second, 0x18, &[3, 20, at(0x100), at(0x105), 0]);
    put(&mut second, 0x30, &[6, 64, 24, 0, 0, 0, 0x9_fc00, 0, 1, 0, 0x10_0000, 0, 0xef_f000, 0, 1, 0]);
    put(&mut second, 0x70, &[0, 8]);
    [(0, first), (1, second)].map(|(choice, memory)| [vec![choice], memory].concat()).into()
}

pub(super) fn run(data: &[u8]) {
    if let [choice, memory @ ..] = data {
        platform_xen::fuzzing::multiboot(memory, choice & 1 == 1);
    }
}
