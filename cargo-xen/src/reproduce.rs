//! Builds whose bytes do not depend on the folder, the user and the machine.
//!
//! Two things of a folder reach what rustc makes: the paths of sources, in panics and debug information; and a hash of
//! Cargo's that tells crates of the same name apart (`-C metadata`), which for a dependency outside of the workspace is a
//! hash of its path, and decides on the order of functions. `--remap-path-prefix` in RUSTFLAGS replaces the one, nothing in
//! Cargo the other. So Cargo starts this program instead of rustc (RUSTC_WRAPPER), which replaces both and starts rustc.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::program::own_program;

/// Says that this process stands for rustc; holds what the paths of the standard library's sources become.
const MARK: &str = "CARGO_XEN_RUSTC";

/// Has this build be the same everywhere. It goes into a folder of its own below Cargo's target folder.
pub fn prepare(cargo: &mut Command, compiler: &Compiler, target: &Path) -> Result<()> {
    let own = own_program().context("the path of this program")?;
    let folder = target.join("reproducible");
    clear(&folder).with_context(|| folder.display().to_string())?;
    cargo.arg("--target-dir").arg(folder);
    cargo.env("RUSTC_WRAPPER", own).env(MARK, &compiler.library);
    // SOURCE_DATE_EPOCH and the like stay: they are the user's.
    cargo.env("CARGO_INCREMENTAL", "0");
    Ok(())
}

/// Removes what another version of this module has built: Cargo does not know that it would come out differently.
fn clear(folder: &Path) -> io::Result<()> {
    let version = format!("{:x}\n", Sha256::digest(include_bytes!("reproduce.rs")));
    let note = folder.join("made-by");
    if fs::read_to_string(&note).ok().as_ref() == Some(&version) {
        return Ok(());
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(folder)?,
    }
    fs::write(note, version)
}

/// Does rustc's work, if Cargo has started this program instead of it. To be called before anything else.
pub fn rustc() -> Option<ExitCode> {
    let library = env::var_os(MARK)?;
    let mut arguments = env::args_os().skip(1);
    let program = arguments.next()?;
    let error = Command::new(&program).args(Unit::of_cargo(library).rewrite(arguments)).exec();
    eprintln!("error: cannot start {}: {error}", program.display());
    Some(ExitCode::FAILURE)
}

/// The compiler that builds.
pub struct Compiler {
    /// As `rustc --version` prints it.
    pub version: String,
    /// What the paths of the standard library's sources become, as an argument of `--remap-path-prefix`.
    library: String,
}

impl Compiler {
    /// That of the package in the current folder of `rustc`.
    pub fn ask(rustc: impl Fn() -> Command) -> Result<Compiler> {
        let say = |argument: &[&str]| {
            let output = rustc().args(argument).output().context("cannot start rustc")?;
            ensure!(output.status.success(), "rustc {argument:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let said = say(&["--version", "--verbose"])?;
        let version = said.lines().next().unwrap_or_default().to_owned();
        let commit = said.lines().find_map(|line| line.strip_prefix("commit-hash: ")).unwrap_or("unknown");
        // Where they are installed (component rust-src), rustc may name the files instead of what they had been.
        let library = format!("{}/lib/rustlib/src/rust=/rustc/{commit}", say(&["--print", "sysroot"])?);
        Ok(Compiler { version, library })
    }
}

/// What Cargo has compiled just now.
struct Unit {
    /// Name and version of the package.
    package: String,
    /// The paths that get others, the most particular last: rustc takes the last one that fits.
    paths: Vec<(PathBuf, String)>,
    library: OsString,
}

impl Unit {
    fn of_cargo(library: OsString) -> Unit {
        let text = |key: &str| env::var(key).unwrap_or_default();
        let package = format!("{}-{}", text("CARGO_PKG_NAME"), text("CARGO_PKG_VERSION"));
        let mut paths = vec![];
        let mut add = |path: Option<PathBuf>, name: String| {
            let Some(path) = path else { return };
            // Cargo may know a folder by a link to it, which the current folder's path does not have.
            paths.extend(path.canonicalize().ok().filter(|real| *real != path).map(|real| (real, name.clone())));
            paths.push((path, name));
        };
        add(env::current_dir().ok(), "/build".to_owned());
        add(env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from), format!("/{package}"));
        add(env::var_os("OUT_DIR").map(PathBuf::from), format!("/{package}/out"));
        Unit { package, paths, library }
    }

    fn rewrite(&self, arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
        let mut arguments: Vec<_> = arguments.collect();
        let identity = self.identity(&arguments);
        let mut is_codegen = false;
        for argument in &mut arguments {
            let text = argument.to_string_lossy();
            if is_codegen && text.starts_with("metadata=") {
                *argument = format!("metadata={identity}").into();
            } else if text.starts_with("-Cmetadata=") {
                *argument = format!("-Cmetadata={identity}").into();
            }
            is_codegen = argument == "-C";
        }
        // Cargo asks rustc about itself, too, where there is no package.
        if self.package.len() > 1 {
            let pairs = self.paths.iter().map(|(path, name)| {
                let mut pair = path.clone().into_os_string();
                pair.push("=");
                pair.push(name);
                pair
            });
            for pair in [self.library.clone()].into_iter().chain(pairs) {
                let mut argument = OsString::from("--remap-path-prefix=");
                argument.push(pair);
                arguments.push(argument);
            }
        }
        arguments
    }

    /// In place of Cargo's hash: what tells this crate from the others in a guest, without paths.
    fn identity(&self, arguments: &[OsString]) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.package);
        // Libraries may be there with other features for build scripts and macros, which run on this machine.
        let is_told_by = |option: &OsStr| {
            ["--crate-name", "--crate-type", "--cfg", "--target", "--test"].map(OsStr::new).contains(&option)
        };
        for pair in arguments.windows(2).filter(|pair| is_told_by(&pair[0])) {
            for word in pair {
                hash.update(word.as_encoded_bytes());
                hash.update([0]);
            }
        }
        format!("{:x}", hash.finalize())[..16].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(folder: &str, features: &[&str], metadata: &str) -> Vec<String> {
        let paths =
            vec![(PathBuf::from(folder), "/build".to_owned()), (format!("{folder}/a").into(), "/a-1.0.0".into())];
        let unit = Unit { package: "a-1.0.0".into(), paths, library: "/lib/src=/rustc/0".into() };
        let mut arguments =
            vec!["--crate-name", "a", "src/lib.rs", "-C", metadata, "-C", "opt-level=s", "--crate-type", "lib"];
        arguments.extend(features.iter().flat_map(|feature| ["--cfg", feature]));
        unit.rewrite(arguments.into_iter().map(OsString::from))
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect()
    }

    #[test]
    fn what_tells_of_a_folder_is_replaced() {
        let (one, other) = (rewrite("/one", &[], "metadata=1"), rewrite("/another/place", &[], "metadata=2"));
        assert_eq!(one[..9], other[..9], "what comes of the folder alone");
        assert!(one[4].starts_with("metadata=") && one[4] != "metadata=1" && one[6] == "opt-level=s", "{one:?}");
        assert_eq!(
            one[9..],
            ["/lib/src=/rustc/0", "/one=/build", "/one/a=/a-1.0.0"].map(|pair| format!("--remap-path-prefix={pair}"))
        );
    }

    #[test]
    fn what_another_version_has_built_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, built) = (dir.path().join("reproducible"), dir.path().join("reproducible/release"));
        clear(&folder).unwrap();
        fs::create_dir(&built).unwrap();
        clear(&folder).unwrap();
        assert!(built.exists());
        fs::write(folder.join("made-by"), "another\n").unwrap();
        clear(&folder).unwrap();
        assert!(!built.exists());
    }

    #[test]
    fn crates_stay_apart() {
        let hash = |features: &[&str]| rewrite("/one", features, "metadata=1")[4].clone();
        assert_ne!(hash(&[]), hash(&["feature=\"std\""]));
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }

    #[test]
    fn where_there_is_no_package_nothing_is_added() {
        let unit = Unit { package: "-".into(), paths: vec![], library: "".into() };
        assert_eq!(unit.rewrite(["-vV".into()].into_iter()), ["-vV"]);
    }
}
