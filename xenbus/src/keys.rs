//! What one end of a device writes for the other.

use alloc::format;
use alloc::string::String;

use xenstore_client::{Error, ToValue, Tree};

/// The keys of this end's directory, in the transaction that also changes the state.
pub struct Keys<'a> {
    directory: &'a str,
    tree: &'a Tree,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(directory: &'a str, tree: &'a Tree) -> Keys<'a> {
        Keys { directory, tree }
    }

    /// A key's path.
    pub fn path(&self, key: &str) -> String {
        format!("{}/{key}", self.directory)
    }

    /// Writes a key.
    ///
    /// # Errors
    ///
    /// As [`Tree::write`].
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time: the transaction goes through as a whole or not at all.
    pub async fn set<T: ToValue + ?Sized>(&self, key: &str, value: &T) -> Result<(), Error> {
        self.tree.set(&self.path(key), value).await
    }

    /// Writes features, each as 1 or 0.
    ///
    /// # Errors
    ///
    /// As [`Tree::write`].
    ///
    /// # Cancellation
    ///
    /// As [`set`](Keys::set).
    pub async fn set_flags(&self, flags: &[(&str, bool)]) -> Result<(), Error> {
        for (key, value) in flags {
            self.set(key, value).await?;
        }
        Ok(())
    }

    /// Writes numbers, such as limits.
    ///
    /// # Errors
    ///
    /// As [`Tree::write`].
    ///
    /// # Cancellation
    ///
    /// As [`set`](Keys::set).
    pub async fn set_numbers(&self, numbers: &[(&str, u32)]) -> Result<(), Error> {
        for (key, value) in numbers {
            self.set(key, value).await?;
        }
        Ok(())
    }

    /// Removes a key that an earlier connection may have left: the other end would go by it.
    ///
    /// # Errors
    ///
    /// As [`Tree::remove`].
    ///
    /// # Cancellation
    ///
    /// As [`set`](Keys::set).
    pub async fn remove(&self, key: &str) -> Result<(), Error> {
        let path = self.path(key);
        if self.tree.exists(&path).await? { self.tree.remove(&path).await } else { Ok(()) }
    }

    /// Writes this end's state again, as it is: the other end watches it, and so notices a change.
    ///
    /// # Errors
    ///
    /// As [`Tree::write`].
    ///
    /// # Cancellation
    ///
    /// As [`set`](Keys::set).
    pub async fn touch_state(&self) -> Result<(), Error> {
        let state: u32 = self.tree.read_as(&self.path("state")).await?;
        self.set("state", &state).await
    }
}
