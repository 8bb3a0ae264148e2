//! Hands the linker script and the link arguments of a PVH guest to every application: a build script's link arguments
//! reach only its own package, but what it says under `links` reaches the build scripts of dependents, and theirs is
//! two lines (see `apps/hello/build.rs`).

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=sarab.ld");
    println!("cargo::rerun-if-changed=build.rs");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let script = Path::new(&out).join("sarab.ld");
    let source = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR")).join("sarab.ld");
    fs::copy(&source, &script).unwrap_or_else(|error| panic!("cannot copy {}: {error}", source.display()));
    let arguments = [
        format!("-T{}", script.display()),
        "-Tdefmt.x".into(),
        "-nostdlib".into(),
        "-nostartfiles".into(),
        "-static".into(),
        "-no-pie".into(),
        "-Wl,-zmax-page-size=4096".into(),
        "-Wl,--build-id=sha1".into(),
        "-Wl,-znorelro".into(),
    ];
    println!("cargo::metadata=LINK_ARGS={}", arguments.join("\x1f"));
}
