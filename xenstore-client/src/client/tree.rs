//! Nodes: reading, writing, listing.

use alloc::borrow::Cow;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use xen_hal::Errno;

use super::call::call;
use super::error::{Error, ErrorKind};
use super::link::{Link, Then, error};
use super::value::{FromValue, ToValue};
use crate::wire::{self, Malformed, Permission, Request};

/// How often a listing begins again when the directory changes under it.
const MAX_LISTINGS: u32 = 64;
/// Bytes that a list of names may take in memory, of which each name takes some besides its own.
const MAX_LIST: usize = 1 << 20;
const NAME_OVERHEAD: usize = 48;

/// The store's nodes, as all see them ([`Store`](crate::Store)) or as a transaction sees them
/// ([`Transaction`](crate::Transaction)); both lead here.
///
/// Paths are absolute, or relative to the domain's own directory, `/local/domain/<domid>`.
///
/// # Cancellation
///
/// So for all methods: a future that is dropped before its request was sent changes nothing; later, a request that
/// changes something may or may not be carried out, and its answer is discarded.
pub struct Tree {
    pub(super) link: Rc<Link>,
    pub(super) transaction: u32,
    /// Where this is a transaction: which connection it belongs to.
    pub(super) generation: Option<u32>,
}

impl Tree {
    pub(super) async fn ask(&self, request: &Request<'_>) -> Result<Vec<u8>, Error> {
        let (payload, _) = call(&self.link, request, self.transaction, self.generation, Then::Nothing).await?;
        Ok(payload)
    }

    pub(super) async fn command(&self, request: Request<'_>) -> Result<(), Error> {
        let payload = self.ask(&request).await?;
        wire::ok(&payload).map_err(|what| error(&request, what))
    }

    pub(super) async fn query<T>(
        &self,
        request: Request<'_>,
        read: impl FnOnce(&[u8]) -> Result<T, Malformed>,
    ) -> Result<T, Error> {
        let payload = self.ask(&request).await?;
        read(&payload).map_err(|what| error(&request, what))
    }

    /// A node's value: any bytes.
    ///
    /// # Errors
    ///
    /// `ENOENT` where there is no such node, `EACCES` where this domain may not read it.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.ask(&Request::Read { path }).await
    }

    /// A node's value as a type.
    ///
    /// # Errors
    ///
    /// As [`read`](Tree::read); and where the value is not of that type, with path and value.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn read_as<T: FromValue>(&self, path: &str) -> Result<T, Error> {
        let value = self.read(path).await?;
        T::from_value(&value).ok_or_else(|| error(&Request::Read { path }, ErrorKind::value(T::EXPECTED, &value)))
    }

    /// A node's value as a type, `None` where there is no such node.
    ///
    /// # Errors
    ///
    /// As [`read_as`](Tree::read_as), but for `ENOENT`.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    ///
    /// # Examples
    ///
    /// ```
    /// # let xen = xen_sim::Xen::new(1);
    /// # let store = xen.domain().store();
    /// # xen.run(async move {
    /// store.set("data/port", &80_u16).await?;
    /// assert_eq!(store.get::<u16>("data/port").await?, Some(80));
    /// assert_eq!(store.get::<u16>("data/missing").await?, None);
    ///
    /// store.set("data/port", "http").await?;
    /// let error = store.get::<u16>("data/port").await.unwrap_err();
    /// assert!(error.to_string().contains("http"), "it names the value and what was expected");
    /// # Ok::<(), xenstore_client::Error>(())
    /// # })?;
    /// # Ok::<(), xenstore_client::Error>(())
    /// ```
    pub async fn get<T: FromValue>(&self, path: &str) -> Result<Option<T>, Error> {
        match self.read_as(path).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a node's value. The node is made where it is not there, and so are those above it.
    ///
    /// # Errors
    ///
    /// `EACCES` where this domain may not, `ENOSPC` where a quota says no.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn write(&self, path: &str, value: &[u8]) -> Result<(), Error> {
        self.command(Request::Write { path, value }).await
    }

    /// Sets a node's value from a type: numbers in decimal, booleans as 0 and 1.
    ///
    /// # Errors
    ///
    /// As [`write`](Tree::write).
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn set<T: ToValue + ?Sized>(&self, path: &str, value: &T) -> Result<(), Error> {
        let mut bytes = Vec::new();
        value.to_value(&mut bytes);
        self.write(path, &bytes).await
    }

    /// Makes a node with an empty value, and those above it. One that is there is left as it is.
    ///
    /// # Errors
    ///
    /// As [`write`](Tree::write).
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn mkdir(&self, path: &str) -> Result<(), Error> {
        self.command(Request::Mkdir { path }).await
    }

    /// Removes a node and all below it.
    ///
    /// # Errors
    ///
    /// `ENOENT` where there is none, though servers answer that only where the node above is missing too.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        self.command(Request::Rm { path }).await
    }

    /// Whether there is such a node that this domain may read.
    ///
    /// # Errors
    ///
    /// As [`read`](Tree::read), but for `ENOENT`.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn exists(&self, path: &str) -> Result<bool, Error> {
        Ok(self.get::<Vec<u8>>(path).await?.is_some())
    }

    /// The names of the nodes below a node, however many there are.
    ///
    /// A list that is longer than a packet is read in parts, from the start again where it changes meanwhile.
    ///
    /// # Errors
    ///
    /// As [`read`](Tree::read); [`ErrorKind::Contended`] where the list kept changing; [`ErrorKind::TooLong`]; `E2BIG` where it is too long for
    /// a packet and the server knows no parts.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    ///
    /// # Examples
    ///
    /// ```
    /// # let xen = xen_sim::Xen::new(1);
    /// # let store = xen.domain().store();
    /// # xen.run(async move {
    /// for name in ["a", "b"] {
    ///     store.set(&format!("data/{name}"), name).await?;
    /// }
    /// let mut names = store.list("data").await?;
    /// names.sort();
    /// assert_eq!(names, ["a", "b"]);
    /// # Ok::<(), xenstore_client::Error>(())
    /// # })?;
    /// # Ok::<(), xenstore_client::Error>(())
    /// ```
    pub async fn list(&self, path: &str) -> Result<Vec<String>, Error> {
        match self.list_short(path).await {
            Err(failed) if failed.errno() == Some(Errno::E2BIG) => match self.list_parts(path).await {
                Err(parts) if parts.errno() == Some(Errno::ENOSYS) => Err(failed),
                other => other,
            },
            other => other,
        }
    }

    /// [`list`](Tree::list) in one packet (`DIRECTORY`), which is what it tries first.
    ///
    /// # Errors
    ///
    /// As [`list`](Tree::list); `E2BIG` where the names do not fit.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn list_short(&self, path: &str) -> Result<Vec<String>, Error> {
        let own = |names: Vec<&str>| names.into_iter().map(String::from).collect();
        self.query(Request::Directory { path }, |payload| wire::names(payload).map(own)).await
    }

    /// [`list`](Tree::list) in parts (`DIRECTORY_PART`), whatever the length.
    ///
    /// # Errors
    ///
    /// As [`list`](Tree::list); `ENOSYS` where the server knows no parts; [`ErrorKind::TooLong`].
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn list_parts(&self, path: &str) -> Result<Vec<String>, Error> {
        let mut tries = 0;
        'again: loop {
            tries += 1;
            if tries > MAX_LISTINGS {
                let kind = ErrorKind::Contended { tries: MAX_LISTINGS };
                return Err(error(&Request::DirectoryPart { path, offset: 0 }, kind));
            }
            let mut names = Vec::new();
            let mut generation: Option<String> = None;
            let (mut offset, mut held) = (0, 0);
            loop {
                let request = Request::DirectoryPart { path, offset };
                let payload = self.ask(&request).await?;
                let part = wire::directory_part(&payload).map_err(|what| error(&request, what))?;
                if generation.get_or_insert_with(|| part.generation.into()) != part.generation {
                    continue 'again;
                }
                held += part.len + part.names.len() * NAME_OVERHEAD;
                if held > MAX_LIST {
                    return Err(error(&request, ErrorKind::TooLong { max: MAX_LIST }));
                }
                names.extend(part.names.iter().map(|name| String::from(*name)));
                if part.last {
                    return Ok(names);
                }
                offset += part.len as u32;
            }
        }
    }

    /// A node's permissions, the owner's entry first.
    ///
    /// # Errors
    ///
    /// As [`read`](Tree::read).
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    pub async fn permissions(&self, path: &str) -> Result<Vec<Permission>, Error> {
        self.query(Request::GetPerms { path }, wire::permissions).await
    }

    /// Sets a node's permissions, the owner's entry first.
    ///
    /// # Errors
    ///
    /// `EACCES` where this domain is not the owner, `EPERM` where it would give the node away, `ENOSPC` where there are
    /// more entries than a quota allows.
    ///
    /// # Cancellation
    ///
    /// As for all methods of [`Tree`].
    ///
    /// # Examples
    ///
    /// ```
    /// use xen_hal::DomId;
    /// use xenstore_client::{Access, Permission};
    ///
    /// # let xen = xen_sim::Xen::new(1);
    /// # let (domain, peer) = (xen.domain(), xen.domain().id());
    /// # let store = domain.store();
    /// # let own = domain.id();
    /// # xen.run(async move {
    /// store.set("data/shared", "for one peer").await?;
    /// // The first entry names the owner, and what all others may do.
    /// let permissions = [Permission::new(own, Access::None), Permission::new(peer, Access::Read)];
    /// store.set_permissions("data/shared", &permissions).await?;
    /// # Ok::<(), xenstore_client::Error>(())
    /// # })?;
    /// # Ok::<(), xenstore_client::Error>(())
    /// ```
    pub async fn set_permissions(&self, path: &str, permissions: &[Permission]) -> Result<(), Error> {
        self.command(Request::SetPerms { path, permissions: Cow::Borrowed(permissions) }).await
    }
}
