//! Hashes of names, by which large folders are searched (Linux, fs/ext4/hash.c; the algorithms are those of the format).

/// How names are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hash {
    pub(crate) kind: Kind,
    pub(crate) unsigned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Legacy,
    HalfMd4,
    Tea,
}

impl Hash {
    /// By the number in a folder's index.
    pub(crate) fn new(version: u8, unsigned: bool) -> Option<Hash> {
        let kind = match version {
            0 | 3 => Kind::Legacy,
            1 | 4 => Kind::HalfMd4,
            2 | 5 => Kind::Tea,
            _ => return None,
        };
        Some(Hash { kind, unsigned: unsigned || version > 2 })
    }

    /// The hash of a name, with its lowest bit clear: in an index that says that a hash goes on from the block before.
    pub(crate) fn of(self, name: &[u8], seed: [u32; 4]) -> u32 {
        let mut state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
        if seed != [0; 4] {
            state = seed;
        }
        let hash = match self.kind {
            Kind::Legacy => self.legacy(name),
            Kind::HalfMd4 => {
                name.chunks(32).for_each(|chunk| half_md4(&mut state, self.words(chunk)));
                state[1]
            }
            Kind::Tea => {
                name.chunks(16).for_each(|chunk| tea(&mut state, self.words(chunk)));
                state[0]
            }
        };
        match hash & !1 {
            // The greatest one means the end.
            0xffff_fffe => 0xffff_fffc,
            hash => hash,
        }
    }

    fn byte(self, byte: u8) -> u32 {
        if self.unsigned { byte.into() } else { i32::from(byte.cast_signed()).cast_unsigned() }
    }

    fn legacy(self, name: &[u8]) -> u32 {
        let (mut hash, mut before) = (0x12a3_fe2d_u32, 0x37ab_e8f9_u32);
        for byte in name {
            let mut next = before.wrapping_add(hash ^ self.byte(*byte).wrapping_mul(7_152_373));
            if next & 0x8000_0000 != 0 {
                next = next.wrapping_sub(0x7fff_ffff);
            }
            (before, hash) = (hash, next);
        }
        hash << 1
    }

    /// A part of a name as numbers, filled up with its length.
    fn words<const N: usize>(self, chunk: &[u8]) -> [u32; N] {
        let fill = u32::from_ne_bytes([chunk.len() as u8; 4]);
        let mut words = [fill; N];
        for (word, bytes) in words.iter_mut().zip(chunk.chunks(4)) {
            *word = bytes.iter().fold(fill, |word, byte| self.byte(*byte).wrapping_add(word << 8));
        }
        words
    }
}

fn half_md4(state: &mut [u32; 4], data: [u32; 8]) {
    const ROUNDS: [([usize; 8], [u32; 4], u32); 3] = [
        ([0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19], 0),
        ([1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13], 0x5a82_7999),
        ([3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15], 0x6ed9_eba1),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (round, (order, shifts, constant)) in ROUNDS.into_iter().enumerate() {
        for (step, index) in order.into_iter().enumerate() {
            let mixed = match round {
                0 => d ^ (b & (c ^ d)),
                1 => (b & c) | (b & d) | (c & d),
                _ => b ^ c ^ d,
            };
            let sum = a.wrapping_add(mixed).wrapping_add(data[index]).wrapping_add(constant);
            (a, b, c, d) = (d, sum.rotate_left(shifts[step % 4]), b, c);
        }
    }
    for (state, own) in state.iter_mut().zip([a, b, c, d]) {
        *state = state.wrapping_add(own);
    }
}

fn tea(state: &mut [u32; 4], data: [u32; 4]) {
    let [mut a, mut b, ..] = *state;
    let mut sum = 0_u32;
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9e37_79b9);
        let mix = |own: u32, first: u32, second: u32| {
            (own << 4).wrapping_add(first) ^ own.wrapping_add(sum) ^ (own >> 5).wrapping_add(second)
        };
        a = a.wrapping_add(mix(b, data[0], data[1]));
        b = b.wrapping_add(mix(a, data[2], data[3]));
    }
    state[0] = state[0].wrapping_add(a);
    state[1] = state[1].wrapping_add(b);
}
