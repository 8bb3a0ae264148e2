//! The platform's memory functions against loops that cannot be compiled into calls of them.

use alloc::vec::Vec;
use core::ffi::{c_int, c_void};
use core::hint::black_box;

use crate::checks::Checks;

unsafe extern "C" {
    fn memcpy(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void;
    fn memmove(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void;
    fn memset(to: *mut c_void, value: c_int, count: usize) -> *mut c_void;
    fn memcmp(one: *const c_void, two: *const c_void, count: usize) -> c_int;
}

const SIZE: usize = 256;

fn pattern(seed: usize) -> Vec<u8> {
    (0..SIZE).map(|index| black_box((index * 7 + seed * 31 + index / 13) as u8)).collect()
}

pub fn run(checks: &mut Checks) {
    let counts = (0..70).chain([100, 127, 128, 129]);
    for count in counts {
        for (from, to) in [(0, 0), (1, 3), (8, 0), (5, 9), (9, 5), (0, 40), (40, 0), (16, 15), (15, 16)] {
            move_within(checks, count, from, to);
            copy_between(checks, count, from, to);
        }
        set_and_compare(checks, count);
    }
}

fn move_within(checks: &mut Checks, count: usize, from: usize, to: usize) {
    let mut buffer = pattern(count);
    let mut expected = buffer.clone();
    let source: Vec<u8> = (0..count).map(|index| black_box(expected[from + index])).collect();
    (0..count).for_each(|index| expected[to + index] = black_box(source[index]));
    let start = buffer.as_mut_ptr();
    // SAFETY: both ranges lie within the buffer.
    let returned = unsafe { memmove(start.add(to).cast(), start.add(from).cast(), count) };
    checks.check(returned == start.wrapping_add(to).cast(), "memmove returns the destination");
    checks.check(same(&buffer, &expected), format_args!("memmove of {count} from {from} to {to}"));
}

fn copy_between(checks: &mut Checks, count: usize, from: usize, to: usize) {
    let source = pattern(count + 1);
    let mut buffer = pattern(count + 2);
    let mut expected = buffer.clone();
    (0..count).for_each(|index| expected[to + index] = black_box(source[from + index]));
    // SAFETY: each range lies within its buffer.
    unsafe { memcpy(buffer.as_mut_ptr().add(to).cast(), source.as_ptr().add(from).cast(), count) };
    checks.check(same(&buffer, &expected), format_args!("memcpy of {count} from {from} to {to}"));
}

fn set_and_compare(checks: &mut Checks, count: usize) {
    let mut buffer = pattern(count);
    let mut expected = buffer.clone();
    (0..count).for_each(|index| expected[3 + index] = black_box(0xa5));
    // SAFETY: the range lies within the buffer.
    unsafe { memset(buffer.as_mut_ptr().add(3).cast(), 0x7_1a5, count) };
    checks.check(same(&buffer, &expected), format_args!("memset of {count}"));

    let one = pattern(9);
    let mut two = one.clone();
    // SAFETY: the ranges lie within the buffers.
    let compare = |two: &[u8]| unsafe { memcmp(one.as_ptr().add(1).cast(), two.as_ptr().add(1).cast(), count) };
    checks.equal(compare(&two).signum(), 0, format_args!("memcmp of {count} equal bytes"));
    if count > 0 {
        let last = two[count];
        two[count] = last.wrapping_add(1);
        let expected = if last < two[count] { -1 } else { 1 };
        checks.equal(compare(&two).signum(), expected, format_args!("memcmp of {count} bytes that differ"));
    }
}

fn same(one: &[u8], two: &[u8]) -> bool {
    one.len() == two.len() && (0..one.len()).all(|index| black_box(one[index]) == black_box(two[index]))
}
