//! The table of targets: a file of `src/targets` is one.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/targets");
    let files = fs::read_dir("src/targets").expect("cargo runs this in the package");
    let names = files.map(|file| file.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<_> = names.filter_map(|name| name.strip_suffix(".rs").map(str::to_owned)).collect();
    names.sort();
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let table = format!("targets! {{ {} }}\n", names.join(", "));
    fs::write(Path::new(&out).join("targets.rs"), table).expect("OUT_DIR can be written");
}
