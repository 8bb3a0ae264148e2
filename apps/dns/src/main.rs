//! The guest: what boots is `main` of the library, which the tests in `host/` call too.

#![no_std]
#![no_main]

pub use dns::main;
