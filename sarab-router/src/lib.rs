#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod alias;
mod bucket;
pub mod flows;
mod fragments;
pub mod icmp;
mod interface;
mod nat;
pub mod packet;
mod policy;
mod related;
pub mod rewrite;
mod router;
pub mod rules;
pub mod services;
pub mod tcp;
pub mod vlan;

pub use alias::Alias;
pub use interface::{Client, ClientLimits, ClientSettings, InterfaceId, UplinkSettings};
pub use nat::{Map, Nat, Publish, Redirect};
pub use policy::{NewFlow, Policy, Side, Verdict};
pub use router::{Drop, DropRecord, Output, Router, Settings, Statistics};
