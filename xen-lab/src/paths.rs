//! The cache that all clones share, and programs.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// Where downloads and built lab images are kept: `$SARAB_CACHE`, else `sarab` in the user's cache folder.
///
/// # Errors
///
/// Where neither variable is set, nor `HOME`.
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
