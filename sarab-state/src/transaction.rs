//! Changes that are made together.

use alloc::vec::Vec;

use xen_blkif::BlockDevice;

use crate::log::{Changes, cost};
use crate::{Error, MAX_TRANSACTION, MAX_VALUE, Store, check_key};

/// Changes of a store that are made together, or not at all. They are in memory until they are committed.
#[must_use = "nothing is written before it is committed"]
pub struct Transaction<D: BlockDevice> {
    store: Store<D>,
    changes: Changes,
    bytes: usize,
}

impl<D: BlockDevice + 'static> Transaction<D> {
    pub(crate) fn new(store: Store<D>) -> Transaction<D> {
        Transaction { store, changes: Changes::new(), bytes: 0 }
    }

    /// Sets a key's value.
    ///
    /// # Errors
    ///
    /// Where key, value or transaction is too large.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if value.len() > MAX_VALUE {
            return Err(Error::LongValue { len: value.len() });
        }
        self.change(key, Some(value))
    }

    /// Removes a key, if it is there.
    ///
    /// # Errors
    ///
    /// Where key or transaction is too large.
    pub fn remove(&mut self, key: &[u8]) -> Result<(), Error> {
        self.change(key, None)
    }

    /// A key's value with the changes so far.
    ///
    /// # Errors
    ///
    /// As [`Store::get`].
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.changes.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.store.get(key).await,
        }
    }

    fn change(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        check_key(key)?;
        let size = |value: Option<&[u8]>| cost(key, value.unwrap_or_default());
        let before = self.changes.get(key).map_or(0, |before| size(before.as_deref()));
        let bytes = self.bytes - before + size(value);
        if bytes > MAX_TRANSACTION {
            return Err(Error::LargeTransaction { bytes });
        }
        self.bytes = bytes;
        self.changes.insert(key.to_vec(), value.map(<[u8]>::to_vec));
        Ok(())
    }

    /// Makes the changes. All of them are on the disk when this returns, whatever happens to the machine then.
    ///
    /// # Errors
    ///
    /// Where the disk is full, is damaged or fails. If it is full, nothing was changed. If it fails, all was changed or
    /// nothing.
    ///
    /// # Cancellation
    ///
    /// If it is dropped, it goes on before the next operation, or is not made at all.
    pub async fn commit(self) -> Result<(), Error> {
        self.store.state.lock().await.commit(self.changes).await
    }
}
