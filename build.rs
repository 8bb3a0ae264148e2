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
    // A guest has no C library. Crates that call it name it (`#[link(name = "c")]`), and so would get the host's, whose code
    // expects Linux: the linker finds these instead, which hold nothing, and says what is missing.
    let empty = Path::new(&out).join("no-c-library");
    fs::create_dir_all(&empty).expect("OUT_DIR can be written");
    for name in ["c", "m", "rt", "pthread", "util", "dl", "gcc", "gcc_eh", "gcc_s"] {
        fs::write(empty.join(format!("lib{name}.a")), "!<arch>\n").expect("OUT_DIR can be written");
    }
    let arguments = [
        format!("-L{}", empty.display()),
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
