//! The emulator: Debian's newest that the lab knows, unpacked beside its other downloads, for every Xen.
//!
//! Not the host's own: nested SVM is emulated with different faults in different versions, and this one is tested with
//! each Xen. It loses a guest's CR2 under Xen 4.17; bookworm's 7.2 does not, but loses wake-ups.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::Suite;
use crate::apt::{self, Apt};
use crate::images::{Partial, home, locked_home};

/// The processor that the lab emulates. `-rdtscp`: with it nested Linux guests die of an instruction that Xen cannot
/// emulate. Named features rather than `max`, which is slower and less stable under Xen.
pub const CPU: &str = "qemu64,+svm,+npt,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf_lm,+aes,+pclmulqdq,+rdrand,-rdtscp";

/// The release that the emulator is taken from.
const SUITE: Suite = crate::suite::DEFAULT;

/// A QEMU that can be started.
pub struct Qemu {
    program: PathBuf,
    arguments: Vec<String>,
    modules: Option<PathBuf>,
}

impl Qemu {
    /// `$SARAB_QEMU`, else the lab's own, which is downloaded where it is not there yet; checked for nested SVM.
    pub fn find() -> Result<Qemu> {
        let (home, lock) = locked_home(SUITE)?;
        let qemu = match Self::present()? {
            Some(qemu) => qemu,
            None => {
                let what = format!("QEMU (Debian {})", SUITE.codename);
                let files = Apt::new(SUITE.codename, home.clone())?.download(&what, &["qemu-system-x86".to_owned()])?;
                let partial = Partial::new(home.join("qemu.tmp"))?;
                apt::unpack(&what, &files, partial.path())?;
                fs::rename(partial.path(), home.join("qemu")).context("cannot keep the unpacked QEMU")?;
                Self::unpacked(&home.join("qemu"))
            }
        };
        drop(lock);
        qemu.check()?;
        Ok(qemu)
    }

    /// The QEMU that would be used without a download.
    pub fn present() -> Result<Option<Qemu>> {
        if let Some(path) = std::env::var_os("SARAB_QEMU") {
            let path = PathBuf::from(path);
            ensure!(path.is_file(), "SARAB_QEMU: {} is not a file", path.display());
            return Ok(Some(Qemu { program: path, arguments: Vec::new(), modules: None }));
        }
        let root = home(SUITE)?.join("qemu");
        Ok(root.exists().then(|| Self::unpacked(&root)))
    }

    fn unpacked(root: &Path) -> Qemu {
        let usr = |path: &str| root.join("usr").join(path).display().to_string();
        let libraries = format!("{}:{}", root.join("lib/x86_64-linux-gnu").display(), usr("lib/x86_64-linux-gnu"));
        let linker = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]
            .map(|dir| root.join(dir).join("ld-linux-x86-64.so.2"))
            .into_iter()
            .find(|path| path.exists());
        Qemu {
            program: linker.unwrap_or_else(|| root.join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")),
            arguments: vec![
                "--library-path".into(),
                libraries,
                usr("bin/qemu-system-x86_64"),
                "-L".into(),
                usr("share/qemu"),
                "-L".into(),
                usr("share/seabios"),
            ],
            modules: Some(root.join("usr/lib/x86_64-linux-gnu/qemu")),
        }
    }

    /// A command that starts it, without a machine yet.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        if let Some(modules) = &self.modules {
            command.env("QEMU_MODULE_DIR", modules);
        }
        command
    }

    /// What `--version` says, for `doctor`.
    pub fn version(&self) -> Result<String> {
        let output = self.command().arg("--version").output().with_context(|| format!("cannot start {self}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success() && text.starts_with("QEMU emulator"),
            "{self} does not run as a QEMU: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    /// Starts a machine that never runs, which QEMU refuses if it cannot emulate what Xen needs.
    pub fn check(&self) -> Result<()> {
        self.version()?;
        let mut command = self.command();
        command
            .args(["-accel", "tcg", "-machine", "pc", "-display", "none", "-nodefaults", "-S", "-monitor", "stdio"])
            .args(["-cpu", &format!("{CPU},enforce")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        crate::process::end_with_parent(&mut command);
        let mut child = command.spawn().with_context(|| format!("cannot start {self}"))?;
        // A QEMU that has refused already has closed the pipe: its own words tell more than the write's error.
        let _ = child.stdin.take().expect("stdin is piped").write_all(b"quit\n");
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let reason = errors.lines().next().unwrap_or("no reason given");
        bail!(
            "{self} cannot emulate the processor that Xen needs (AMD SVM with nested paging; {reason}): name QEMU \
             7.2 or newer by SARAB_QEMU, or unset it and `cargo xen` fetches its own"
        )
    }
}

impl std::fmt::Display for Qemu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.modules {
            None => write!(f, "{}", self.program.display()),
            Some(_) => write!(f, "{}", self.arguments[2]),
        }
    }
}
