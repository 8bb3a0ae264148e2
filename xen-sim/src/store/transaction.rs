//! Transactions: a view of the tree as it was, the changes made to it, and what was read.

use std::collections::BTreeMap;

use xen_hal::DomId;
use xenstore_client::Permission;

use super::server::Quotas;
use super::tree::Tree;

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write { path: String, value: Vec<u8> },
    Mkdir { path: String },
    Remove { path: String },
    SetPermissions { path: String, permissions: Vec<Permission> },
}

pub(crate) struct Transaction {
    /// The tree at its start.
    base: Tree,
    pub(crate) view: Tree,
    pub(crate) changes: Vec<Change>,
    /// The generation that each node that was read had at the start; `None` for one that was not there.
    reads: BTreeMap<String, Option<u64>>,
}

impl Transaction {
    pub(crate) fn new(tree: &Tree) -> Transaction {
        Transaction { base: tree.clone(), view: tree.clone(), changes: Vec::new(), reads: BTreeMap::new() }
    }

    /// Takes note that a node's value was read: that matters unless the transaction has set it itself.
    pub(crate) fn read_value(&mut self, path: &str) {
        let set = |change: &Change| matches!(change, Change::Write { path: changed, .. } if changed == path);
        if !self.changes.iter().any(set) {
            self.read(path);
        }
    }

    /// Takes note that it mattered whether a node is there and what is below it.
    pub(crate) fn read(&mut self, path: &str) {
        let generation = self.base.node(path).map(|node| node.generation);
        self.reads.insert(path.into(), generation);
    }

    /// Whether what was read is as it was.
    pub(crate) fn holds(&self, tree: &Tree) -> bool {
        self.reads.iter().all(|(path, generation)| tree.node(path).map(|node| node.generation) == *generation)
    }

    /// The changes, without the trees: the store's own need not be copied for them any more.
    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes
    }

    /// Whether the changes can be made by this domain, within its quota of nodes.
    pub(crate) fn fits(&self, tree: &Tree, domain: DomId, quotas: &Quotas) -> bool {
        let mut tree = tree.clone();
        for change in &self.changes {
            if let Change::Write { path, .. } | Change::Mkdir { path } = change
                && tree.create(domain, path, &Quotas::NONE).is_err()
            {
                return false;
            }
            if let Change::Remove { path } = change {
                tree.remove(path);
            }
        }
        domain == DomId::DOM0 || tree.owned(domain) <= quotas.nodes
    }
}
