//! Devices that no driver has taken.

use alloc::format;
use core::convert::Infallible;

use xen_hal::information;
use xenstore_client::wire::Op;
use xenstore_client::{Broken, Error, ErrorKind, Store};

/// Below it are the directories of all backends, of which the server shows each domain those of its own devices
/// (docs/misc/xenstore-paths.pandoc). One watch for all of them, since xenstored allows 128.
const ROOT: &str = "/local/domain";

// States as the store has them. This is in every guest and is to be small: it does without their type.
const INITIALISING: &str = "1";
const CLOSING: &str = "5";
const CLOSED: &str = "6";

/// Answers for the devices of this domain that no driver has taken, of any class, those that are there and those that come: a
/// backend that the toolstack asks to close (`xl block-detach`, `xl network-detach`) waits for the frontend to be
/// [`Closed`](crate::State::Closed). A driver may still take such a device later: it begins with any state.
///
/// It has one watch, and keeps nothing for a device.
///
/// # Errors
///
/// Where the connection to the store is gone; it does not end otherwise.
///
/// # Cancellation
///
/// May be dropped at any time.
pub async fn close_unused(store: &Store) -> Result<Infallible, Error> {
    let mut watch = store.watch(ROOT).await?;
    while let Some(event) = watch.next().await {
        match close(store, &event.path).await {
            Err(error) if error.is_broken() => return Err(error),
            // Directories come and go, and what is hidden is not for this domain.
            _ => {}
        }
    }
    Err(Error::new(Op::Watch, ROOT, ErrorKind::Broken(store.broken().unwrap_or(Broken::Stopped))))
}

/// Closes the device of the backend whose state this is, where the backend is closing and no driver has begun with the
/// device. A driver that begins meanwhile finds a state that is not its own, and begins again.
async fn close(store: &Store, state: &str) -> Result<(), Error> {
    // /local/domain/DOMAIN/backend/CLASS/FRONTEND/DEVICE/state
    let Some(backend) = state.strip_suffix("/state") else { return Ok(()) };
    let mut names = backend.rsplit('/');
    let (Some(device), Some(_), Some(class), Some("backend")) =
        (names.next(), names.next(), names.next(), names.next())
    else {
        return Ok(());
    };
    let own = |key: &str| format!("device/{class}/{device}/{key}");
    let (own_state, other) = (own("state"), own("backend"));
    // Any domain can have such a path: it counts for the device that the toolstack has given it.
    for (path, expected) in [(state, CLOSING), (&own_state, INITIALISING), (&other, backend)] {
        if store.read(path).await? != expected.as_bytes() {
            return Ok(());
        }
    }
    store.write(&own_state, CLOSED.as_bytes()).await?;
    information!("device/{}/{}: closed: no driver uses it", class, device);
    Ok(())
}
