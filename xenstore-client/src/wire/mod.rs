//! The wire format of XenStore: headers, requests, replies. No I/O, no waiting.
//!
//! Source: docs/misc/xenstore.txt and xen/include/public/io/xs_wire.h. Both directions are here, so that a server can
//! be written with the same code; the simulation's is.

mod header;
mod limits;
mod permissions;
mod reply;
mod request;
mod ring;

pub use header::{HEADER_SIZE, Header, Op};
pub use limits::{MAX_ABSOLUTE_PATH, MAX_PAYLOAD, MAX_RELATIVE_PATH, PathError, check_path, check_watch_path};
pub use permissions::{Access, Permission};
pub use reply::{DirectoryPart, Malformed, ServerError, WatchEvent};
pub use request::{Request, RequestError};
pub use ring::{Features, RingError, offsets};

pub(crate) use reply::{boolean, directory_part, names, number, ok, permissions, text, watch_event};
