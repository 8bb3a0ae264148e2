//! Nodes, and who may do what with them.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::rc::Rc;

use xen_hal::{DomId, Errno};
use xenstore_client::{Access, Permission};

use super::server::Quotas;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its value.
    pub value: Vec<u8>,
    /// Its permissions, the owner's first.
    pub permissions: Vec<Permission>,
    /// Domains whose entries count for nothing: they were not there when these were made, or have ended since
    /// (`domain_alloc_permrefs` and `domain_adjust_node_perms` in tools/xenstored/domain.c).
    pub ignored: BTreeSet<DomId>,
    /// Changes with each change of the node, its list of children included.
    pub generation: u64,
    /// Names of the nodes below.
    pub children: BTreeSet<String>,
}

impl Node {
    /// Bytes of its value and of its list of children.
    pub fn size(&self) -> usize {
        self.value.len() + self.children.iter().map(|name| name.len() + 1).sum::<usize>()
    }

    /// Whether a domain may use the node in this way; `write` or else read.
    pub fn allows(&self, domain: DomId, write: bool) -> bool {
        if domain == DomId::DOM0 || self.permissions[0].domain == domain {
            return true;
        }
        let counts = |entry: &&Permission| entry.domain == domain && !self.ignored.contains(&domain);
        let entry = self.permissions[1..].iter().find(counts).unwrap_or(&self.permissions[0]);
        match entry.access {
            Access::None => false,
            Access::Read => !write,
            Access::Write => write,
            Access::ReadWrite => true,
        }
    }
}

/// Hashed, in all runs alike: paths differ only near their ends, so that a sorted map takes many long comparisons.
type Nodes = HashMap<Rc<str>, Rc<Node>, BuildHasherDefault<DefaultHasher>>;

/// All nodes by their absolute path. A clone is cheap: the nodes are shared until one of the two changes.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Rc<Nodes>,
    /// Those that there are: permissions of others count for nothing.
    domains: BTreeSet<DomId>,
    /// The latest generation.
    generation: u64,
}

/// The path of the node above, `None` for the root.
pub(crate) fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}

fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Whether `path` is `above` or below it.
pub(crate) fn is_at_or_below(path: &str, above: &str) -> bool {
    above == "/" || path == above || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

impl Tree {
    pub(crate) fn new() -> Tree {
        let root = Node {
            value: Vec::new(),
            permissions: vec![Permission::new(DomId::DOM0, Access::None)],
            ignored: BTreeSet::new(),
            generation: 1,
            children: BTreeSet::new(),
        };
        // Enough for a few domains with a device each.
        let mut nodes = Nodes::with_capacity_and_hasher(100, BuildHasherDefault::default());
        nodes.insert("/".into(), Rc::new(root));
        Tree { nodes: Rc::new(nodes), domains: BTreeSet::new(), generation: 1 }
    }

    /// The node at a path.
    pub fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path).map(|node| &**node)
    }

    /// All paths, in order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        let mut paths: Vec<&str> = self.nodes.keys().map(|path| &**path).collect();
        paths.sort_unstable();
        paths.into_iter()
    }

    /// How many nodes a domain owns.
    pub fn owned(&self, domain: DomId) -> usize {
        self.nodes.values().filter(|node| node.permissions[0].domain == domain).count()
    }

    /// The node, as far as a domain may know of it.
    pub(crate) fn visible(&self, domain: DomId, path: &str, write: bool) -> Result<&Node, Errno> {
        match self.node(path) {
            Some(node) if node.allows(domain, write) => Ok(node),
            Some(_) => Err(Errno::EACCES),
            None => Err(self.why_missing(domain, path)),
        }
    }

    /// `ENOENT`, or `EACCES` to a domain that may not even see what is above.
    fn why_missing(&self, domain: DomId, path: &str) -> Errno {
        let mut above = parent(path);
        while let Some(path) = above {
            if let Some(node) = self.node(path) {
                return if node.allows(domain, false) { Errno::ENOENT } else { Errno::EACCES };
            }
            above = parent(path);
        }
        Errno::ENOENT
    }

    fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn change(&mut self, path: &str, change: impl FnOnce(&mut Node)) {
        let generation = self.next_generation();
        if let Some(node) = Rc::make_mut(&mut self.nodes).get_mut(path) {
            let node = Rc::make_mut(node);
            node.generation = generation;
            change(node);
        }
    }

    /// The nearest node at or above a path.
    pub(crate) fn nearest<'a>(&self, path: &'a str) -> &'a str {
        let mut path = path;
        while !self.nodes.contains_key(path) {
            path = parent(path).unwrap_or("/");
        }
        path
    }

    /// Makes a node and what is missing above it; `Ok(false)` where it is there already.
    pub(crate) fn create(&mut self, domain: DomId, path: &str, quotas: &Quotas) -> Result<bool, Errno> {
        let nearest = self.nearest(path);
        if nearest == path {
            return Ok(false);
        }
        let above = &self.nodes[nearest];
        if !above.allows(domain, true) {
            return Err(Errno::EACCES);
        }
        let (mut permissions, ignored) = (above.permissions.clone(), above.ignored.clone());
        if domain != DomId::DOM0 {
            permissions[0].domain = domain;
        }
        let mut missing = Vec::new();
        let mut at = path;
        while at != nearest {
            missing.push(at);
            at = parent(at).unwrap_or("/");
        }
        let owner = permissions[0].domain;
        if owner != DomId::DOM0 {
            let name = missing.last().map_or(0, |path| name(path).len() + 1);
            if self.owned(owner) + missing.len() > quotas.nodes || above.size() + name > quotas.node_size {
                return Err(Errno::ENOSPC);
            }
        }
        for path in missing.into_iter().rev() {
            let generation = self.next_generation();
            let (permissions, ignored) = (permissions.clone(), ignored.clone());
            let node = Node { value: Vec::new(), permissions, ignored, generation, children: BTreeSet::new() };
            Rc::make_mut(&mut self.nodes).insert(path.into(), Rc::new(node));
            let name = name(path).to_owned();
            self.change(parent(path).unwrap_or("/"), |node| {
                node.children.insert(name);
            });
        }
        Ok(true)
    }

    pub(crate) fn write(&mut self, path: &str, value: &[u8]) {
        self.change(path, |node| node.value = value.to_vec());
    }

    pub(crate) fn set_permissions(&mut self, path: &str, permissions: &[Permission]) {
        let others = permissions.iter().skip(1).map(|entry| entry.domain);
        let ignored = others.filter(|domain| !self.domains.contains(domain)).collect();
        self.change(path, |node| (node.permissions, node.ignored) = (permissions.to_vec(), ignored));
    }

    /// A domain that there is from here on.
    pub(crate) fn add_domain(&mut self, domain: DomId) {
        self.domains.insert(domain);
    }

    /// A domain that is gone: what it was allowed is not allowed to a later one with its number.
    pub(crate) fn remove_domain(&mut self, domain: DomId) {
        self.domains.remove(&domain);
        for node in Rc::make_mut(&mut self.nodes).values_mut() {
            if node.permissions[1..].iter().any(|entry| entry.domain == domain) {
                Rc::make_mut(node).ignored.insert(domain);
            }
        }
    }

    /// Removes a node and all below; returns what was removed.
    pub(crate) fn remove(&mut self, path: &str) -> Vec<(Rc<str>, Rc<Node>)> {
        let mut paths: Vec<Rc<str>> = self.nodes.keys().filter(|known| is_at_or_below(known, path)).cloned().collect();
        paths.sort_unstable();
        let nodes = Rc::make_mut(&mut self.nodes);
        let removed = paths.into_iter().filter_map(|path| nodes.remove(&path).map(|node| (path, node))).collect();
        if let Some(above) = parent(path) {
            let name = name(path).to_owned();
            self.change(above, |node| {
                node.children.remove(&name);
            });
        }
        removed
    }
}
