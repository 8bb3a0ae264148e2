//! Where things are in the repository.

use std::path::{Path, PathBuf};

/// The repository's root.
pub fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_owned()
}

/// The folder with the example appliances.
pub fn apps() -> PathBuf {
    repo().join("apps")
}
