//! `cargo xen` itself, as a user meets it.

use anyhow::Result;

type Check = fn() -> Result<String>;

/// All checks by name.
pub const ALL: &[(&str, Check)] = &[];
