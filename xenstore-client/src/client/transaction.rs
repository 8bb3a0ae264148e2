//! Transactions.

use alloc::rc::Rc;
use core::ops::Deref;

use xen_hal::Errno;

use super::call::call;
use super::error::{Error, ErrorKind};
use super::link::{Link, Then, error};
use super::tree::Tree;
use crate::wire::{self, Request};

/// How often a transaction is tried before it counts as hopeless.
pub(super) const MAX_TRIES: u32 = 1000;

/// The store's nodes as one transaction sees them: as they were at its start, with its own changes.
///
/// Everything of [`Tree`] is here. There is no way to begin a transaction inside of one.
pub struct Transaction {
    tree: Tree,
    ended: bool,
}

impl Deref for Transaction {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        &self.tree
    }
}

impl Transaction {
    async fn begin(link: &Rc<Link>) -> Result<Transaction, Error> {
        // A place among the transactions, given back when this one has ended.
        link.transactions.acquire().await.forget();
        let request = Request::TransactionStart;
        let answer = call(link, &request, 0, None, Then::AbortTransaction).await;
        let id = |payload: &[u8]| wire::number(payload).map_err(|what| error(&request, what));
        match answer.and_then(|(payload, generation)| Ok((id(&payload)?, generation))) {
            Ok((id, generation)) => {
                let tree = Tree { link: link.clone(), transaction: id, generation: Some(generation) };
                Ok(Transaction { tree, ended: false })
            }
            Err(error) => {
                link.transactions.add_permits(1);
                Err(error)
            }
        }
    }

    /// Makes the changes; `false` where others have changed what was read.
    async fn commit(mut self) -> Result<bool, Error> {
        // From here on the place among the transactions goes back with the answer.
        self.ended = true;
        let Tree { link, transaction, generation } = &self.tree;
        let then = Then::Commit { transaction: *transaction, generation: *generation };
        let request = Request::TransactionEnd { commit: true };
        let answer = call(link, &request, *transaction, *generation, then).await;
        link.transactions.add_permits(1);
        match answer {
            Ok((payload, _)) => wire::ok(&payload).map(|()| true).map_err(|what| error(&request, what)),
            Err(error) if error.errno() == Some(Errno::EAGAIN) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the connection that it was begun on is gone, and it with it.
    fn is_stale(&self) -> bool {
        self.tree.generation != Some(self.tree.link.state.borrow().generation)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.is_stale() {
            self.tree.link.transactions.add_permits(1);
            return;
        }
        let end = Request::TransactionEnd { commit: false };
        self.tree.link.begin_detached(&end, self.tree.transaction, Then::FreeTransaction);
    }
}

/// Runs `body` in transactions until one of them goes through, but not more often than `tries`.
pub(super) async fn run<T, E: From<Error>>(
    link: &Rc<Link>,
    tries: u32,
    mut body: impl AsyncFnMut(&Transaction) -> Result<T, E>,
) -> Result<T, E> {
    for _ in 0..tries {
        let transaction = match Transaction::begin(link).await {
            Ok(transaction) => transaction,
            Err(Error { kind: ErrorKind::Interrupted, .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        match body(&transaction).await {
            Ok(value) => match transaction.commit().await {
                Ok(true) => return Ok(value),
                Ok(false) => {}
                Err(error) => return Err(error.into()),
            },
            Err(_) if transaction.is_stale() => {}
            Err(error) => return Err(error),
        }
    }
    let kind = ErrorKind::Contended { tries };
    Err(error(&Request::TransactionEnd { commit: true }, kind).into())
}
