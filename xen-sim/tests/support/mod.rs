//! What several tests use.

#![allow(dead_code, reason = "each test is a crate of its own, and uses a part")]

pub mod segment;
