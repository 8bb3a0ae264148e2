//! All devices of a class, as they come and go.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::future::Future;
use core::pin::Pin;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use xen_hal::DomId;

use super::state::{End, State};
use crate::wire::Op;
use crate::{Broken, Error, ErrorKind, Store, WatchEvent};

/// A device that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its directory at this end, for [`frontend()`](super::frontend()) or [`backend()`](super::backend()).
    pub path: String,
    /// Its number in its class, as far as it has one: `51712` for `xvda`.
    pub id: String,
    /// For a backend: the domain that uses it.
    pub frontend: Option<DomId>,
}

type Running<'a> = Pin<Box<dyn Future<Output = String> + 'a>>;

/// Runs `start` for each device of `class` that this domain has at one end, those that are there and those that come
/// while it runs, all side by side. A device whose future has ended is started again when the toolstack makes it again.
///
/// # Errors
///
/// Where the store fails; it does not end otherwise.
///
/// # Cancellation
///
/// Dropping the future drops those of all devices.
pub async fn serve<F: Future<Output = ()>>(
    store: &Store,
    end: End,
    class: &str,
    mut start: impl FnMut(Found) -> F,
) -> Result<Infallible, Error> {
    let root = match end {
        End::Frontend => format!("device/{class}"),
        End::Backend => format!("backend/{class}"),
    };
    let mut watch = store.watch(&root).await?;
    let mut running: FuturesUnordered<Running<'_>> = FuturesUnordered::new();
    // Directory, and whether its future runs; those that have ended stay until their directory is gone or begins anew.
    let mut known: BTreeMap<String, bool> = BTreeMap::new();
    loop {
        let event = match running.is_empty() {
            true => Either::Left(watch.next().await),
            false => match select(core::pin::pin!(watch.next()), running.next()).await {
                Either::Left((event, _)) => Either::Left(event),
                Either::Right((ended, _)) => Either::Right(ended),
            },
        };
        let candidates = match event {
            Either::Left(Some(event)) => match device_of(&root, end, &event) {
                Some(path) => Vec::from([path]),
                None => list(store, &root, end).await?,
            },
            Either::Left(None) => {
                let broken = store.broken().unwrap_or(Broken::Stopped);
                return Err(Error::new(Op::Watch, &root, ErrorKind::Broken(broken)));
            }
            Either::Right(Some(path)) => {
                known.insert(path.clone(), false);
                Vec::from([path])
            }
            Either::Right(None) => continue,
        };
        for path in candidates {
            let state = store.get::<State>(&format!("{path}/state")).await?;
            match (state, known.get(&path)) {
                (_, Some(true)) => {}
                (None, Some(false)) => drop(known.remove(&path)),
                (Some(State::Initialising), _) => {
                    known.insert(path.clone(), true);
                    let future = start(found(&path, end));
                    running.push(Box::pin(async move {
                        future.await;
                        path
                    }));
                }
                _ => {}
            }
        }
    }
}

/// How many names lead from the class's directory to a device.
fn depth(end: End) -> usize {
    match end {
        End::Frontend => 1,
        End::Backend => 2,
    }
}

/// The device that an event is about, `None` where it may be any.
fn device_of(root: &str, end: End, event: &WatchEvent) -> Option<String> {
    if event.all {
        return None;
    }
    let names: Vec<&str> = event.path.strip_prefix(root)?.strip_prefix('/')?.split('/').collect();
    let device = names.get(..depth(end))?;
    Some(format!("{root}/{}", device.join("/")))
}

fn found(path: &str, end: End) -> Found {
    let mut names = path.rsplit('/');
    let id = names.next().unwrap_or_default();
    let frontend = match end {
        End::Frontend => None,
        End::Backend => names.next().and_then(|name| name.parse().ok()),
    };
    Found { path: path.into(), id: id.into(), frontend }
}

async fn names(store: &Store, path: &str) -> Result<Vec<String>, Error> {
    match store.list(path).await {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        other => other,
    }
}

async fn list(store: &Store, root: &str, end: End) -> Result<Vec<String>, Error> {
    let mut paths = Vec::from([String::from(root)]);
    for _ in 0..depth(end) {
        let mut below = Vec::new();
        for path in &paths {
            below.extend(names(store, path).await?.into_iter().map(|name| format!("{path}/{name}")));
        }
        paths = below;
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_lead_to_their_device() {
        let event = |path: &str| WatchEvent { path: path.into(), all: false };
        let front = |path| device_of("device/vbd", End::Frontend, &event(path));
        assert_eq!(front("device/vbd/51712/state").as_deref(), Some("device/vbd/51712"));
        assert_eq!(front("device/vbd/51712").as_deref(), Some("device/vbd/51712"));
        assert_eq!(front("device/vbd"), None);
        let back = |path| device_of("backend/vif", End::Backend, &event(path));
        assert_eq!(back("backend/vif/3/0/mac").as_deref(), Some("backend/vif/3/0"));
        assert_eq!(back("backend/vif/3"), None);
        let found = found("backend/vif/3/0", End::Backend);
        assert_eq!((&*found.id, found.frontend), ("0", Some(DomId(3))));
    }
}
