//! A pool of volumes on a disk, of which somebody has written the metadata with right checksums: opened, and used by guests.

pub(super) const SHORT: u32 = 300;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // How many bytes are changed; for each which block, where, and to what; then what is done.
    let changes =
        [[0, 4, 0, 1], [2, 32, 0, 3], [3, 32, 1, 9], [5, 10, 0, 1], [7, 76, 1, 1], [255, 57, 0, 0], [254, 81, 0, 9]];
    let uses: Vec<u8> =
        (0..40).flat_map(|number: u8| [number, number / 10, number.wrapping_mul(37), number % 3]).collect();
    let changed =
        (0..=changes.len()).map(|count| [&[count as u8], changes[..count].concat().as_slice(), &uses].concat());
    changed.collect()
}

pub(super) fn run(data: &[u8]) {
    sarab_volumes::fuzzing::run(data);
}
