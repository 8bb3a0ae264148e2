//! This program as a file.

use std::path::PathBuf;
use std::{env, io};

/// Where this program is. Where Cargo has built it anew while it runs, as `cargo test` may, that is the new one.
///
/// # Errors
///
/// Where the system does not tell.
pub fn own_program() -> io::Result<PathBuf> {
    let path = env::current_exe()?;
    // What /proc/self/exe says of a file that was removed (proc(5)).
    let replaced = path.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(match replaced {
        Some(replaced) if !path.exists() => replaced,
        _ => path,
    })
}
