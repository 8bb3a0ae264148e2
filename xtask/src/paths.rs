//! Where things are: the repository, and the cache that clones share.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The repository's root.
pub fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_owned()
}

/// The folder with the example appliances.
pub fn apps() -> PathBuf {
    repo().join("apps")
}

/// Where downloads and built lab images are kept: `$SARAB_CACHE`, else `sarab` in the user's cache folder.
pub fn cache() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SARAB_CACHE") {
        return Ok(path.into());
    }
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(path) if !path.is_empty() => PathBuf::from(path),
        _ => PathBuf::from(env::var_os("HOME").context("HOME is not set: set SARAB_CACHE to a folder for downloads")?)
            .join(".cache"),
    };
    Ok(base.join("sarab"))
}

/// Finds a program on `$PATH`.
pub fn which(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}
