//! Takes in what `cargo xen new` makes projects out of, so that an installed program needs no checkout of Sarab.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_TEMPLATES").is_none() {
        return;
    }
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let root = folder.parent().expect("the repository");
    let mut files = Vec::new();
    // A package from elsewhere than the repository has none of these, and `cargo xen new` says so.
    if root.join("apps").is_dir() {
        for file in ["Cargo.toml", "Cargo.lock", "apps/Cargo.toml", "apps/Cargo.lock", "apps/.cargo/config.toml"] {
            files.push(file.to_owned());
        }
        for app in names(&root.join("apps")) {
            let path = format!("apps/{app}");
            if root.join(&path).join("host/tests").is_dir() {
                collect(root, &path, &mut files);
            }
        }
        println!("cargo::rerun-if-changed={}", root.join("apps/Cargo.toml").display());
    }
    files.sort();
    let mut text = String::from("&[\n");
    for file in files {
        let path = root.join(&file);
        println!("cargo::rerun-if-changed={}", path.display());
        writeln!(text, "    ({file:?}, include_bytes!({:?})),", path.display().to_string()).expect("a string");
    }
    text.push(']');
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("templates.rs"), text).expect("OUT_DIR can be written");
}

fn collect(root: &Path, folder: &str, files: &mut Vec<String>) {
    for name in names(&root.join(folder)) {
        let path = format!("{folder}/{name}");
        match root.join(&path).is_dir() {
            true if name != "target" => collect(root, &path, files),
            true => {}
            false => files.push(path),
        }
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}
