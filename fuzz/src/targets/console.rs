//! The console's ring, whose other end writes anything into the page.

pub(super) const SHORT: u32 = 5000;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    vec![
        // Output until the ring is full, and input.
        vec![2, 0, 8, 0, 0, 2, 0, 8, 0, 0, 12, 0, 4, 0, 0, 2, 0, 4, 0, 0, 6, 9, 0, 0, 0, 3, 9, 0, 0, 0],
    ]
}

pub(super) fn run(data: &[u8]) {
    platform_xen::fuzzing::console(data);
}
