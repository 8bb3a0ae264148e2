//! Labs that run just now, for commands from elsewhere: each has a file that only its user can read, with the port of its
//! agent and the token that it wants.

use std::env;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::agent::Agent;
use crate::paths::cache;

/// A lab of another process of this user.
pub struct Running {
    /// The process that has booted it.
    pub process: u32,
    /// What it was booted for.
    pub name: String,
    /// Runs commands in its dom0.
    pub agent: Agent,
}

/// The labs that run, the oldest first.
///
/// # Errors
///
/// Where the folder of their files cannot be read.
pub fn all() -> Result<Vec<Running>> {
    read(&folder()?)
}

fn folder() -> Result<PathBuf> {
    Ok(match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(folder) if folder.is_dir() => folder.join("sarab"),
        _ => cache()?.join("running"),
    })
}

fn read(folder: &Path) -> Result<Vec<Running>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| folder.display().to_string())?,
    };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let Some((modified, running)) = parse(&path) else { continue };
        if Path::new("/proc").join(running.process.to_string()).exists() {
            found.push((modified, running));
        } else {
            // What a process has left that was killed.
            let _ = fs::remove_file(&path);
        }
    }
    found.sort_by_key(|(modified, _)| *modified);
    Ok(found.into_iter().map(|(_, running)| running).collect())
}

fn parse(path: &Path) -> Option<(std::time::SystemTime, Running)> {
    let process = path.file_name()?.to_str()?.strip_prefix("lab-")?.parse().ok()?;
    let text = fs::read_to_string(path).ok()?;
    let mut words = text.split_whitespace();
    let (port, token, name) = (words.next()?.parse().ok()?, words.next()?.to_owned(), words.next()?.to_owned());
    let modified = fs::metadata(path).ok()?.modified().ok()?;
    Some((modified, Running { process, name, agent: Agent { port, token, timeout: None } }))
}

/// The file of a lab of this process. It goes away with this.
pub(crate) struct Announcement(PathBuf);

impl Announcement {
    pub(crate) fn new(name: &str, agent: &Agent) -> Result<Announcement> {
        Self::in_folder(&folder()?, name, agent)
    }

    fn in_folder(folder: &Path, name: &str, agent: &Agent) -> Result<Announcement> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(|| folder.display().to_string())?;
        let path = folder.join(format!("lab-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(file, "{} {} {name}", agent.port, agent.token)?;
        Ok(Announcement(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_lab_is_found_while_it_runs_and_by_its_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("sarab");
        assert!(read(&folder).unwrap().is_empty());
        let agent = Agent { port: 7, token: "secret".into(), timeout: None };
        let announcement = Announcement::in_folder(&folder, "web", &agent).unwrap();
        assert_eq!(fs::metadata(announcement.path()).unwrap().permissions().mode() & 0o777, 0o600);
        // Of a process that there cannot be.
        fs::write(folder.join("lab-4194305"), "8 other old\n").unwrap();
        let found = read(&folder).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].process, found[0].name.as_str(), found[0].agent.port), (std::process::id(), "web", 7));
        assert!(!folder.join("lab-4194305").exists());
        drop(announcement);
        assert!(read(&folder).unwrap().is_empty());
    }
}
