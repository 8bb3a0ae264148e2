//! What several tests use.

#![allow(dead_code, reason = "each test is a crate of its own, and uses a part")]

pub mod backend;
pub mod block;
pub mod guest;
pub mod log;
pub mod network;
pub mod packets;
pub mod script;
pub mod segment;
pub mod wire;
