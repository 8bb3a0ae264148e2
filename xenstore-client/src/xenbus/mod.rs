//! XenBus: how the two ends of a split device find each other through the store, and agree to begin and to end.
//!
//! Each end has a directory of its own, which names the other's (`device/<class>/<id>` and
//! `backend/<class>/<domid>/<id>`), and a node `state` there that only it writes and the other watches
//! (xen/include/public/io/xenbus.h). The order in which the states are gone through is the same for all classes of
//! devices and is here; what is written besides, and what the rings carry, is the driver's.
//!
//! - [`State`], [`is_legal`], [`frontend_step`], [`backend_step`]: the protocol as tables, without I/O.
//! - [`Frontend`] and [`Backend`]: what a driver does at each turn; [`frontend()`] and [`backend()`] lead it through a
//!   device's life, over reconnects, until the device is removed.
//! - [`Peer`]: what the other end has written, read as it was at one moment.
//! - [`serve()`]: all devices of a class, as they come and go.

mod backend;
mod backoff;
mod device;
mod frontend;
mod peer;
mod serve;
mod signals;
mod state;

pub use backend::{Backend, backend};
pub use device::{Device, Ended, Failure};
pub use frontend::{Frontend, frontend};
pub use peer::Peer;
pub use serve::{Found, serve};
pub use signals::Signals;
pub use state::{
    BackendStage, BackendStep, End, FrontendStage, FrontendStep, State, backend_step, frontend_step, is_legal,
};
