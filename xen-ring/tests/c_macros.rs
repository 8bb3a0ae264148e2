//! The rings against Xen's own macros on the same page: `xen/io/ring.h`, compiled here by the host's C compiler.
//!
//! `SARAB_XEN_HEADERS` names the folder that holds `xen/io/ring.h`, which `cargo xen test` downloads (Debian's
//! libxen-dev); without it the test says so and does nothing.

use std::ffi::c_void;
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use libloading::{Library, Symbol};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use xen_ring::{BackRing, FrontRing, Protocol, SharedMemory};

/// Slots of the block protocol's size; of each the first 8 bytes count.
#[derive(Clone, Copy)]
struct Slots;

const SLOT: usize = 112;

impl Protocol for Slots {
    type Request = u64;
    type Response = u64;

    fn slot_size(&self) -> usize {
        SLOT
    }

    fn encode_request(&self, request: &u64, slot: &mut [u8]) {
        slot[..8].copy_from_slice(&request.to_le_bytes());
    }

    fn decode_request(&self, slot: &[u8]) -> u64 {
        u64::from_le_bytes(slot[..8].try_into().unwrap())
    }

    fn encode_response(&self, response: &u64, slot: &mut [u8]) {
        slot[..8].copy_from_slice(&response.to_le_bytes());
    }

    fn decode_response(&self, slot: &[u8]) -> u64 {
        u64::from_le_bytes(slot[..8].try_into().unwrap())
    }
}

const PROGRAM: &str = r"
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#define xen_mb() __sync_synchronize()
#define xen_rmb() __sync_synchronize()
#define xen_wmb() __sync_synchronize()
#define __XEN_INTERFACE_VERSION__ 0x00040d00
#include <xen/io/ring.h>

struct slot { uint64_t number; uint8_t rest[104]; };
DEFINE_RING_TYPES(test, struct slot, struct slot);
union ends { test_front_ring_t front; test_back_ring_t back; };

size_t ends_size(void) { return sizeof(union ends); }
unsigned front_init(union ends *e, void *page, size_t size, uint32_t at) {
    test_sring_t *shared = page;
    SHARED_RING_INIT(shared);
    XEN_FRONT_RING_INIT(&e->front, shared, size);
    if (at) {
        shared->req_prod = shared->rsp_prod = at;
        shared->req_event = shared->rsp_event = at + 1;
        e->front.req_prod_pvt = e->front.rsp_cons = at;
    }
    return RING_SIZE(&e->front);
}
void back_attach(union ends *e, void *page, size_t size) {
    test_sring_t *shared = page;
    BACK_RING_ATTACH(&e->back, shared, shared->rsp_prod, size);
}
int front_push(union ends *e, uint64_t number) {
    struct slot slot = { number };
    if (RING_FULL(&e->front)) return 0;
    *RING_GET_REQUEST(&e->front, e->front.req_prod_pvt) = slot;
    e->front.req_prod_pvt++;
    return 1;
}
int front_publish(union ends *e) {
    int notify;
    RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&e->front, notify);
    return notify;
}
int front_pop(union ends *e, uint64_t *number) {
    if (e->front.rsp_cons == e->front.sring->rsp_prod) return 0;
    *number = RING_GET_RESPONSE(&e->front, e->front.rsp_cons)->number;
    e->front.rsp_cons++;
    return 1;
}
int front_arm(union ends *e) {
    int work;
    RING_FINAL_CHECK_FOR_RESPONSES(&e->front, work);
    return work;
}
int back_pop(union ends *e, uint64_t *number) {
    struct slot slot;
    if (e->back.req_cons == e->back.sring->req_prod) return 0;
    RING_COPY_REQUEST(&e->back, e->back.req_cons, &slot);
    *number = slot.number;
    e->back.req_cons++;
    return 1;
}
void back_push(union ends *e, uint64_t number) {
    struct slot slot = { number };
    *RING_GET_RESPONSE(&e->back, e->back.rsp_prod_pvt) = slot;
    e->back.rsp_prod_pvt++;
}
int back_publish(union ends *e) {
    int notify;
    RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&e->back, notify);
    return notify;
}
int back_arm(union ends *e) {
    int work;
    RING_FINAL_CHECK_FOR_REQUESTS(&e->back, work);
    return work;
}
";

/// The macros as a library, or nothing where the header is absent.
fn macros(folder: &Path) -> Option<Library> {
    let headers = PathBuf::from(std::env::var_os("SARAB_XEN_HEADERS")?);
    assert!(headers.join("xen/io/ring.h").is_file(), "SARAB_XEN_HEADERS={}: no xen/io/ring.h", headers.display());
    let (source, library) = (folder.join("macros.c"), folder.join("macros.so"));
    fs::write(&source, PROGRAM).unwrap();
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let compiler = cc::Build::new()
        .cargo_metadata(false)
        .host(&host)
        .target(&host)
        .opt_level(1)
        .warnings(false)
        .extra_warnings(false)
        .out_dir(folder)
        .include(headers)
        .try_get_compiler()
        .expect("a C compiler");
    let status = compiler.to_command().args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(status.success(), "the C compiler: {status}");
    // SAFETY: the library is the program above, which does nothing when it is loaded.
    Some(unsafe { Library::new(&library) }.expect("the compiled macros load"))
}

/// A ring's memory, and an end of C's on it.
struct Memory {
    bytes: Vec<u64>,
    end: Vec<u64>,
}

impl Memory {
    fn new(pages: usize, end: usize) -> Memory {
        Memory { bytes: vec![0; pages * 512], end: vec![0; end.div_ceil(8)] }
    }

    fn page(&mut self) -> *mut c_void {
        self.bytes.as_mut_ptr().cast()
    }

    fn end(&mut self) -> *mut c_void {
        self.end.as_mut_ptr().cast()
    }

    fn shared(&mut self) -> SharedMemory {
        let len = self.bytes.len() * 8;
        // SAFETY: the vector is used through raw pointers alone while the value lives, and is not resized.
        unsafe { SharedMemory::new(NonNull::from(&mut self.bytes[0]).cast(), len) }
    }
}

#[test]
fn rings_are_byte_for_byte_those_of_xens_macros() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = macros(folder.path()) else {
        eprintln!("skipped: SARAB_XEN_HEADERS is not set (`cargo xen test` sets it)");
        return;
    };
    macro_rules! c {
        ($($name:ident: $type:ty;)*) => {
            // SAFETY: the types are those of the program above.
            $(let $name: Symbol<'_, $type> = unsafe { library.get(stringify!($name).as_bytes()) }.unwrap();)*
        };
    }
    type Pop = unsafe extern "C" fn(*mut c_void, *mut u64) -> i32;
    type Ask = unsafe extern "C" fn(*mut c_void) -> i32;
    c! {
        ends_size: unsafe extern "C" fn() -> usize;
        front_init: unsafe extern "C" fn(*mut c_void, *mut c_void, usize, u32) -> u32;
        back_attach: unsafe extern "C" fn(*mut c_void, *mut c_void, usize);
        front_push: unsafe extern "C" fn(*mut c_void, u64) -> i32;
        front_publish: Ask;
        front_pop: Pop;
        front_arm: Ask;
        back_pop: Pop;
        back_push: unsafe extern "C" fn(*mut c_void, u64);
        back_publish: Ask;
        back_arm: Ask;
    }
    // SAFETY: it takes nothing.
    let size = unsafe { ends_size() };
    // Near the wrap of the indices as well; our ends begin at any index through `attach` alone, so the frontend that
    // begins there is C's on both pages.
    let cases = (
        prop_oneof![Just(0_u32), (u32::MAX - 50)..=u32::MAX],
        prop_oneof![Just(1_usize), Just(2), Just(16)],
        prop::collection::vec(0_u8..8, 0..600),
    );
    TestRunner::new(ProptestConfig::with_cases(500))
        .run(&cases, |(start, pages, steps)| {
            // The same steps on two rings: on the one both ends are C's, on the other those of this crate, as far as they
            // can begin there.
            let (mut theirs, mut back) = (Memory::new(pages, size), Memory::new(0, size));
            let mut ours = Memory::new(pages, size);
            // SAFETY: each pointer is to memory of the size that the functions want, which lives to the end of the case.
            unsafe {
                let count = front_init(theirs.end(), theirs.page(), pages * 4096, start);
                front_init(ours.end(), ours.page(), pages * 4096, start);
                back_attach(back.end(), theirs.page(), pages * 4096);
                let memory = ours.shared();
                let mut front = (start == 0).then(|| FrontRing::new(Slots, &memory));
                if let Some(front) = &front {
                    prop_assert_eq!(front.slots(), count);
                }
                let mut our_back = BackRing::attach(Slots, &memory).unwrap();
                let mut taken = 0_u32;
                for (index, step) in steps.into_iter().enumerate() {
                    let number = index as u64 + 1;
                    let (mut one, mut two) = (0, 0);
                    match step {
                        0 | 1 => {
                            let fits = front_push(theirs.end(), number) != 0;
                            match &mut front {
                                Some(front) => prop_assert_eq!(front.push(&memory, &number).is_ok(), fits),
                                None => prop_assert_eq!(front_push(ours.end(), number) != 0, fits),
                            }
                        }
                        2 => {
                            let notify = front_publish(theirs.end()) != 0;
                            match &mut front {
                                Some(front) => prop_assert_eq!(front.publish(&memory), notify),
                                None => prop_assert_eq!(front_publish(ours.end()) != 0, notify),
                            }
                        }
                        3 => {
                            let found = back_pop(back.end(), &mut one) != 0;
                            taken += u32::from(found);
                            prop_assert_eq!(our_back.pop(&memory), Ok(found.then_some(one)));
                        }
                        4 if taken > 0 => {
                            taken -= 1;
                            back_push(back.end(), number);
                            our_back.push(&memory, &number);
                        }
                        5 => prop_assert_eq!(our_back.publish(&memory), back_publish(back.end()) != 0),
                        6 => {
                            let found = front_pop(theirs.end(), &mut one) != 0;
                            match &mut front {
                                Some(front) => prop_assert_eq!(front.pop(&memory), Ok(found.then_some(one))),
                                None => prop_assert_eq!((front_pop(ours.end(), &mut two) != 0, two), (found, one)),
                            }
                        }
                        _ => {
                            let (at_back, at_front) = (back_arm(back.end()) != 0, front_arm(theirs.end()) != 0);
                            // C asks for a notification only where it finds nothing; an event index that is set besides
                            // is the same where there is nothing.
                            if !at_back {
                                prop_assert_eq!(our_back.arm(&memory), Ok(false));
                            }
                            match &mut front {
                                Some(front) if !at_front => prop_assert_eq!(front.arm(&memory, 1), Ok(false)),
                                None => prop_assert_eq!(front_arm(ours.end()) != 0, at_front),
                                Some(_) => {}
                            }
                        }
                    }
                    prop_assert_eq!(&theirs.bytes, &ours.bytes, "after step {}", index);
                }
            }
            Ok(())
        })
        .unwrap();
}
