#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod backend;
mod backoff;
mod device;
mod failure;
mod frontend;
mod keys;
mod life;
mod notify;
mod pace;
mod peer;
mod ring;
mod serve;
mod signals;
mod state;
mod status;
mod stop;
mod throttle;
mod watches;
mod r#yield;

pub use backend::{Backend, backend};
pub use device::Device;
pub use failure::{Ended, Failure};
pub use frontend::{Frontend, frontend};
pub use keys::Keys;
pub use notify::{Notify, WakerSlot};
pub use pace::Pace;
pub use peer::Peer;
pub use ring::attach_ring;
pub use serve::{Found, serve};
pub use signals::Signals;
pub use state::{
    BackendStage, BackendStep, End, FrontendStage, FrontendStep, State, backend_step, frontend_step, is_legal,
};
pub use status::{Counters, Handle, Phase, Status, Users};
pub use throttle::{EventThrottle, Wake};
pub use r#yield::{BUDGET, Turn, yield_now};
