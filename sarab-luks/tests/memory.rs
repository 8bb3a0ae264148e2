//! What becomes of memory: keys are gone from it when they are not needed any more, and where there is too little of it
//! that is said.
//!
//! One test alone, since its allocator is the whole program's; and without the simulation, which has one of its own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sarab_luks::{Argon2Cost, Encrypted, Kdf, Limits, OpenOptions, Volume};
use xen_blkif::BlockDevice;
use xen_hal::{Frame, OutOfPages, PAGE_SIZE, Page, Pages};

mod support;

use support::{DATA, Image, Random, copy, json, quick, roomy};

/// An allocator that looks for secrets in what is given back, and has no large pieces where it is told so.
struct Watching;

/// Eight bytes each.
static SECRETS: [AtomicU64; 40] = [const { AtomicU64::new(0) }; 40];
/// Whether a secret begins with a byte.
static BEGINS: [AtomicBool; 256] = [const { AtomicBool::new(false) }; 256];
static WATCHED: AtomicBool = AtomicBool::new(false);
static FOUND: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(usize::MAX);

#[global_allocator]
static ALLOCATOR: Watching = Watching;

// SAFETY: it is the system's allocator, which gets back what it gave; what is read was allocated with this size, and is
// initialised or has any value, which makes no difference to a comparison of raw bytes that are read as volatile.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGEST.load(Relaxed) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's. All of it is zero, so that only what was written since is found.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if WATCHED.load(Relaxed) {
            // SAFETY: the piece is as long as its layout says, and all of it was zeroed when it was allocated.
            let bytes = unsafe { std::slice::from_raw_parts(start, layout.size()) };
            look(bytes);
        }
        // SAFETY: the caller's.
        unsafe { System.dealloc(start, layout) }
    }
}

fn look(bytes: &[u8]) {
    for window in bytes.windows(8).filter(|window| BEGINS[usize::from(window[0])].load(Relaxed)) {
        let word = u64::from_le_bytes(window.try_into().unwrap());
        if SECRETS.iter().any(|secret| secret.load(Relaxed) == word) {
            FOUND.fetch_add(1, Relaxed);
        }
    }
}

/// Has these found from now on.
fn watch(secrets: &[&[u8]]) {
    let words = secrets.iter().flat_map(|secret| secret.chunks_exact(8));
    let mut count = 0;
    for (place, word) in SECRETS.iter().zip(words) {
        place.store(u64::from_le_bytes(word.try_into().unwrap()), Relaxed);
        BEGINS[usize::from(word[0])].store(true, Relaxed);
        count += 1;
    }
    assert_eq!(count, secrets.iter().map(|secret| secret.len() / 8).sum::<usize>());
    WATCHED.store(true, Relaxed);
}

/// Pages of the heap.
#[derive(Clone)]
struct Heap;

#[repr(align(4096))]
struct Bytes(UnsafeCell<[u8; PAGE_SIZE]>);

struct HeapPage(Box<Bytes>);

// SAFETY: the box is where it is until it is dropped, is aligned, and is nobody else's. No other domain is there to see its frame.
unsafe impl Page for HeapPage {
    fn as_ptr(&self) -> NonNull<u8> {
        NonNull::new(self.0.0.get().cast()).expect("a box is somewhere")
    }

    fn frame(&self) -> Frame {
        Frame(self.as_ptr().addr().get() as u64 / PAGE_SIZE as u64)
    }
}

impl Pages for Heap {
    type Page = HeapPage;

    fn alloc_page(&self) -> Result<HeapPage, OutOfPages> {
        Ok(HeapPage(Box::new(Bytes(UnsafeCell::new([0; PAGE_SIZE])))))
    }

    fn alloc_run(&self, _: usize, _: &mut dyn FnMut(HeapPage)) -> Result<(), OutOfPages> {
        Err(OutOfPages)
    }
}

/// Nothing here waits for anything but its turn.
fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    let context = &mut Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return output;
        }
    }
}

const PASSPHRASE: &[u8] = b"a passphrase of forty bytes, no less....";

async fn make(domain: &Heap, kdf: Kdf, random: &mut Random) -> Volume<Image<Heap>> {
    let image = Image::new(domain, vec![0; DATA + (1 << 20)]);
    Volume::format(image, PASSPHRASE, &roomy().with_kdf(kdf), random).await.unwrap()
}

/// Everything that is done with keys.
async fn use_all(domain: &Heap, kdf: Kdf) {
    let mut volume = make(domain, kdf, &mut Random::new(1)).await;
    let open: Encrypted<_, _> = volume.open(PASSPHRASE, domain.clone(), OpenOptions::default()).await.unwrap();
    open.write_bytes(0, &[7; 8192]).await.unwrap();
    open.read_bytes(8, &mut [0; 4096]).await.unwrap();
    drop(open.clone());
    volume.open(b"wrong", domain.clone(), OpenOptions::default()).await.unwrap_err();
    // Dropped in the middle.
    let mut half = Box::pin(volume.open(PASSPHRASE, domain.clone(), OpenOptions::default()));
    let context = &mut Context::from_waker(Waker::noop());
    let _ = (0..3).any(|_| half.as_mut().poll(context).is_ready());
    drop(half);
    let random = &mut Random::new(2);
    volume.change_key(PASSPHRASE, b"other", Kdf::for_random_keys(), random).await.unwrap();
}

#[test]
fn keys_are_gone_from_memory_and_too_little_of_it_is_reported() {
    for kdf in [Kdf::Argon2id(Argon2Cost { memory_kib: 256, passes: 4, lanes: 2 }), Kdf::for_random_keys()] {
        let domain = Heap;
        run(async move {
            // The same numbers as are used later.
            let mut random = Random { drawn: Some(Vec::new()), ..Random::new(1) };
            let volume = make(&domain, kdf, &mut random).await;
            let drawn = random.drawn.unwrap();
            // The order in which a volume is made: its key, a salt, a UUID, another salt, the split key.
            let (volume_key, material) = (&drawn[..64], &drawn[64 + 32 + 16 + 32..][..64]);
            let mut derived = [0; 64];
            if let Kdf::Argon2id(cost) = kdf {
                let json = json(&volume.device().bytes()[copy(false)]);
                let kdf = &json[json.find("\"kdf\"").unwrap()..];
                let salt = kdf.split("\"salt\":\"").nth(1).unwrap().split('"').next().unwrap();
                let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None).unwrap();
                let mut blocks = vec![argon2::Block::new(); params.block_count()];
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into_with_memory(
                        PASSPHRASE,
                        &STANDARD.decode(salt).unwrap(),
                        &mut derived,
                        &mut blocks[..],
                    )
                    .unwrap();
            }
            let secrets: &[&[u8]] = &[volume_key, material, PASSPHRASE, &derived];
            // No derived key that is known: then zeroes would be found everywhere.
            watch(&secrets[..if matches!(kdf, Kdf::Argon2id(_)) { 4 } else { 3 }]);
            use_all(&domain, kdf).await;
            WATCHED.store(false, Relaxed);
            assert_eq!(FOUND.swap(0, Relaxed), 0, "secrets in memory that was given back");

            // What is looked for would be found, wherever it lies.
            WATCHED.store(true, Relaxed);
            for secret in [volume_key, material, PASSPHRASE] {
                drop([b"odd", secret].concat());
                assert!(FOUND.swap(0, Relaxed) >= 5);
            }
            WATCHED.store(false, Relaxed);
        });
    }
    let domain = Heap;
    run(async move {
        let image = Image::new(&domain, vec![0; 1 << 20]);
        let make = async || {
            Volume::format(image.clone(), PASSPHRASE, &quick().with_kdf(Kdf::default()), &mut Random::new(1)).await
        };
        LARGEST.store(20 << 20, Relaxed);
        let volume = make().await.unwrap();
        let less = Kdf::Argon2id(Argon2Cost { memory_kib: 16 << 10, passes: 16, lanes: 1 });
        assert_eq!(volume.keyslots().next().unwrap().kdf, less, "what fits");
        volume.open(PASSPHRASE, domain.clone(), OpenOptions::default()).await.unwrap();
        LARGEST.store(8 << 20, Relaxed);
        let refused = volume.open(PASSPHRASE, domain.clone(), OpenOptions::default()).await.unwrap_err();
        let text = "the domain does not have the 16384 KiB of memory that deriving the key needs (more memory for the \
                    domain, or `cryptsetup luksConvertKey --pbkdf-memory`)";
        assert_eq!(refused.to_string(), text);
        LARGEST.store(4 << 20, Relaxed);
        let refused = make().await.map(drop).unwrap_err().to_string();
        assert!(refused.starts_with("the domain does not have the 8192 KiB"), "{refused}");
        LARGEST.store(usize::MAX, Relaxed);
        drop(Volume::load(volume.device().clone(), Limits::default()).await);
    });
}
