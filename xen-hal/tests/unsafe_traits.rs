//! The traits whose implementors promise something about memory cannot be implemented by safe code: without that, a program
//! that forbids `unsafe` could have xen-ring read and write wherever it likes. Each forgery in `forged/` is compiled as it
//! stands, without the word `unsafe`, and where `unsafe` is forbidden.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

const FORGED: [(&str, &str); 4] = [
    ("page", include_str!("forged/page.rs")),
    ("mapping", include_str!("forged/mapping.rs")),
    ("grant", include_str!("forged/grant.rs")),
    ("grant_table", include_str!("forged/grant_table.rs")),
];

/// What the compiler has against each program of a package: the codes of its errors.
fn errors(programs: &[(String, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let hal = env!("CARGO_MANIFEST_DIR");
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unsafe_traits");
    let bins = package.join("src/bin");
    let _ = std::fs::remove_dir_all(&bins);
    std::fs::create_dir_all(&bins).unwrap();
    for (name, source) in programs {
        std::fs::write(bins.join(name).with_extension("rs"), source).unwrap();
    }
    let manifest = format!(
        "[package]\nname = \"forged\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [dependencies]\nxen-hal = {{ path = {hal:?} }}\n\n[workspace]\n"
    );
    std::fs::write(package.join("Cargo.toml"), manifest).unwrap();
    // The versions that are here already.
    std::fs::copy(Path::new(hal).join("../Cargo.lock"), package.join("Cargo.lock")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--keep-going", "--bins", "--message-format=json", "--target-dir"])
        .arg(package.join("target"))
        .current_dir(&package)
        .output()
        .unwrap();
    let mut errors: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        if message["target"]["kind"][0] != "bin" {
            continue;
        }
        let found = errors.entry(message["target"]["name"].as_str().unwrap().into()).or_default();
        let text = &message["message"];
        if text["level"] == "error"
            && let Some(code) = text["code"]["code"].as_str()
        {
            found.insert(code.into());
        }
    }
    assert_eq!(errors.len(), programs.len(), "{}", String::from_utf8_lossy(&output.stderr));
    errors
}

#[test]
fn safe_code_cannot_forge_memory() {
    let mut programs = Vec::new();
    for (name, source) in FORGED {
        programs.push((format!("{name}_unsafe"), source.to_string()));
        programs.push((format!("{name}_safe"), source.replace("unsafe impl", "impl")));
        let forbidden = source.replacen("\nuse ", "\n#![forbid(unsafe_code)]\nuse ", 1);
        programs.push((format!("{name}_forbidden"), forbidden));
    }
    let errors = errors(&programs);
    for (name, _) in FORGED {
        let codes = |kind: &str| errors[&format!("{name}_{kind}")].iter().map(String::as_str).collect::<Vec<_>>();
        // Nothing else is wrong with them.
        assert_eq!(codes("unsafe"), [""; 0], "{name}");
        assert_eq!(codes("safe"), ["E0200"], "{name}: a safe `impl` of an unsafe trait");
        assert_eq!(codes("forbidden"), ["unsafe_code"], "{name}: an `unsafe impl` where it is forbidden");
    }
}
