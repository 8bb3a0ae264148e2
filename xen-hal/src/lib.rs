#![doc = include_str!("../README.md")]
#![no_std]

mod clock;
mod errno;
mod event;
mod grant;
mod ids;
mod log;
mod page;
mod peer_grants;
mod reservation;
mod store;
mod xen;

pub use clock::{Clock, SleepUntil};
pub use errno::Errno;
pub use event::{EventChannelError, EventChannelErrorKind, EventChannels, Port, Wait};
pub use grant::{
    Access, CopyOp, Grant, GrantError, GrantErrorKind, GrantStatus, GrantTable, MapRequest, Mapping, Memory,
    RefusedGrant, Remote,
};
pub use ids::{DomId, Frame, GrantRef, PortNumber};
pub use page::{OutOfPages, PAGE_SIZE, Page, Pages};
pub use peer_grants::PeerGrants;
pub use reservation::{Reservation, ReservationSize};
pub use store::StoreChannel;
pub use xen::Xen;
