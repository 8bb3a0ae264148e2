//! libFuzzer with one of the targets, which `SARAB_FUZZ_TARGET` names; its seeds go to the folder `SARAB_FUZZ_SEEDS`.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;
use std::{env, fs};

static RUN: OnceLock<fn(&[u8])> = OnceLock::new();

fn start() {
    let name = env::var("SARAB_FUZZ_TARGET").expect("SARAB_FUZZ_TARGET names a target");
    let target = sarab_fuzz::target(&name).unwrap_or_else(|| panic!("there is no target {name}"));
    if let Some(folder) = env::var_os("SARAB_FUZZ_SEEDS") {
        for (index, seed) in (target.seeds)().into_iter().enumerate() {
            fs::write(Path::new(&folder).join(format!("seed-{index}")), seed).expect("the folder for seeds");
        }
    }
    RUN.get_or_init(|| target.run);
}

libfuzzer_sys::fuzz_target!(init: start(), |data: &[u8]| {
    let run = RUN.get().expect("it is set at the start");
    run(data);
});
