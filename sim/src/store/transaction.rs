//! Transactions: a view of the tree as it was, the changes made to it, and what was read.

use std::collections::BTreeMap;

use xen_hal::DomId;
use xenstore_client::Permission;

use super::tree::Tree;

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write { path: String, value: Vec<u8> },
    Mkdir { path: String },
    Remove { path: String },
    SetPermissions { path: String, permissions: Vec<Permission> },
}

pub(crate) struct Transaction {
    pub(crate) view: Tree,
    pub(crate) changes: Vec<Change>,
    /// The generation of each node that was read before it was written; `None` for one that was not there.
    reads: BTreeMap<String, Option<u64>>,
}

impl Transaction {
    pub(crate) fn new(tree: &Tree) -> Transaction {
        Transaction { view: tree.clone(), changes: Vec::new(), reads: BTreeMap::new() }
    }

    /// Takes note that a node was read.
    pub(crate) fn read(&mut self, path: &str) {
        let written = self.changes.iter().any(|change| match change {
            Change::Write { path: changed, .. }
            | Change::Mkdir { path: changed }
            | Change::Remove { path: changed }
            | Change::SetPermissions { path: changed, .. } => changed == path,
        });
        if !written && !self.reads.contains_key(path) {
            self.reads.insert(path.into(), self.view.node(path).map(|node| node.generation));
        }
    }

    /// Whether what was read is as it was.
    pub(crate) fn holds(&self, tree: &Tree) -> bool {
        self.reads.iter().all(|(path, generation)| tree.node(path).map(|node| node.generation) == *generation)
    }

    /// Whether the changes can be made by this domain, within its quota of nodes.
    pub(crate) fn fits(&self, tree: &Tree, domain: DomId, most_owned: usize) -> bool {
        let mut tree = tree.clone();
        for change in &self.changes {
            if let Change::Write { path, .. } | Change::Mkdir { path } = change
                && tree.create(domain, path, usize::MAX).is_err()
            {
                return false;
            }
            if let Change::Remove { path } = change {
                tree.remove(path);
            }
        }
        domain == DomId::DOM0 || tree.owned(domain) <= most_owned
    }
}
