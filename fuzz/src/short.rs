//! A moment's feeding of each target on the ordinary compiler, always with the same bytes.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use fastrand::Rng;

use crate::{Target, target};

/// The longest input of random bytes.
const MAX_LEN: usize = 600;

pub(crate) fn feed(name: &str) {
    let target = target(name).expect("it is in the table");
    for (path, input) in kept(name) {
        eprintln!("{name}: {path}");
        (target.run)(&input);
    }
    let seeds = (target.seeds)();
    for seed in &seeds {
        feed_one(target, seed);
    }
    let mut random =
        Rng::with_seed(name.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into())));
    for _ in 0..target.short {
        let input = match random.choice(&seeds).filter(|_| random.bool()) {
            Some(seed) => mutated(seed, &mut random),
            None => (0..random.usize(0..MAX_LEN)).map(|_| random.u8(..)).collect(),
        };
        feed_one(target, &input);
    }
}

/// What was found once: `inputs/TARGET/*`.
fn kept(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("inputs").join(name);
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("a file in the folder").path());
    paths.map(|path| (path.display().to_string(), fs::read(path).expect("a file that can be read"))).collect()
}

/// A seed with a few bytes changed, cut out, or put in twice.
fn mutated(seed: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.usize(1..6) {
        if bytes.is_empty() {
            break;
        }
        let at = random.usize(0..bytes.len());
        let end = (at + random.usize(1..20)).min(bytes.len());
        match random.u8(0..6) {
            0 => drop(bytes.drain(at..end)),
            1 => bytes.truncate(end),
            2 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            3 => bytes[at] ^= 1 << random.u8(0..8),
            4 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.usize(0..5)],
            _ => bytes[at] = random.u8(..),
        }
    }
    bytes
}

/// Runs one input; where it fails, the input is kept in a file and named.
fn feed_one(target: &Target, input: &[u8]) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) else { return };
    let name = target.name;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("artifacts").join(name);
    let path = folder.join("from-test");
    match fs::create_dir_all(&folder).and_then(|()| fs::write(&path, input)) {
        Ok(()) => eprintln!("{name}: cargo xen fuzz {name} --input {} runs it again", path.display()),
        Err(error) => eprintln!("{name}: {input:?} fails; it could not be written to {}: {error}", path.display()),
    }
    resume_unwind(panic);
}
