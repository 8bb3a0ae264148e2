//! What unpacking an archive would leave, in memory: for archives that put files through links, or something else in a
//! folder's place. In those the last header with a name need not be what is found there. It follows GNU tar.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::places::hash;
use crate::path::{self, join};

/// Links on the way to a file (as in Linux).
pub(crate) const MAX_LINKS: u32 = 40;
/// Bytes of a name's entry, without its text.
const ENTRY: usize = 128;

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Folder,
    /// Where its headers are, and the hash of the name that they have.
    File {
        at: u64,
        hash: u64,
    },
    /// Where it leads. GNU tar makes links that could lead out of the folder at the very end.
    Link {
        target: Vec<u8>,
        at_the_end: bool,
    },
    Hidden,
}

/// What a member is to be.
pub(crate) enum New<'a> {
    Folder,
    File { at: u64 },
    SymbolicLink(&'a [u8]),
    HardLink(Option<String>),
    Hidden,
}

/// Why a member is not unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// What should be the folder that it is in is none, or what is in its place is one, and not empty.
    Blocked,
    /// What it is another name of is not there.
    NoTarget,
    /// There is no memory for it.
    Memory,
}

pub(crate) struct Tree {
    nodes: BTreeMap<String, Node>,
    /// Bytes that may still be taken.
    left: usize,
}

impl Tree {
    pub(crate) fn new(memory: usize) -> Tree {
        Tree { nodes: BTreeMap::new(), left: memory }
    }

    /// How many names something is served under.
    pub(crate) fn names(&self) -> usize {
        self.nodes.values().filter(|node| matches!(node, Node::File { .. } | Node::Link { .. })).count()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Unpacks a member with this clean name.
    pub(crate) fn add(&mut self, name: &str, new: New<'_>) -> Result<(), Refused> {
        let target = match &new {
            New::HardLink(target) => self.find(target.as_deref().unwrap_or(""))?,
            _ => None,
        };
        let (folder, last) = name.rsplit_once('/').unwrap_or(("", name));
        let mut path = join(&self.folder(folder, true).map_err(blocked)?, last);
        let node = match new {
            New::Folder if matches!(self.nodes.get(&path), Some(Node::Folder)) => return Ok(()),
            New::Folder => Node::Folder,
            New::File { at } => Node::File { at, hash: hash(name) },
            New::SymbolicLink(target) => {
                let at_the_end =
                    target.starts_with(b"/") || target.split(|byte| *byte == b'/').any(|part| part == b"..");
                Node::Link { target: target.to_owned(), at_the_end }
            }
            New::Hidden => Node::Hidden,
            New::HardLink(_) => match target {
                None => return Err(Refused::NoTarget),
                Some((target, Node::Folder)) => {
                    // Linux finds out when what had the name is gone, unless that is a folder with files.
                    if target != path && self.is_empty(&path) {
                        self.remove(&path);
                    }
                    return Err(Refused::NoTarget);
                }
                Some((target, _)) if target == path => return Ok(()),
                Some((_, node)) => node,
            },
        };
        if matches!(self.nodes.get(&path), Some(Node::Folder)) && !self.is_empty(&path) {
            return Err(Refused::Blocked);
        }
        if self.remove(&path) {
            // That may have been a link on the way.
            path = join(&self.folder(folder, true).map_err(blocked)?, last);
        }
        self.put(path, node)
    }

    /// What has a name, links on the way to it followed.
    fn find(&mut self, name: &str) -> Result<Option<(String, Node)>, Refused> {
        let (folder, last) = name.rsplit_once('/').unwrap_or(("", name));
        let folder = match self.folder(folder, false) {
            Ok(folder) => folder,
            Err(Refused::NoTarget) => return Ok(None),
            Err(_) => return Err(Refused::NoTarget),
        };
        if last.is_empty() {
            return Ok(Some((folder, Node::Folder)));
        }
        let path = join(&folder, last);
        Ok(self.nodes.get(&path).cloned().map(|node| (path, node)))
    }

    fn is_empty(&self, folder: &str) -> bool {
        let inside = join(folder, "");
        self.nodes.range(inside.clone()..).next().is_none_or(|(name, _)| !name.starts_with(&inside))
    }

    fn remove(&mut self, path: &str) -> bool {
        let Some(node) = self.nodes.remove(path) else { return false };
        self.left += cost(path, &node);
        true
    }

    /// Puts it where nothing is.
    fn put(&mut self, path: String, node: Node) -> Result<(), Refused> {
        self.left = self.left.checked_sub(cost(&path, &node)).ok_or(Refused::Memory)?;
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Where a folder is, links followed. Those that are missing are made, unless a link leads to them.
    fn folder(&mut self, name: &str, make: bool) -> Result<String, Refused> {
        let mut links = MAX_LINKS;
        let mut path = String::new();
        for part in name.split('/').filter(|part| !part.is_empty()) {
            let next = join(&path, part);
            path = match self.nodes.get(&next) {
                None if make => {
                    self.put(next.clone(), Node::Folder)?;
                    next
                }
                _ => self.enter(path, next, &mut links)?,
            };
        }
        Ok(path)
    }

    /// The folder that something in a folder is, or leads to.
    fn enter(&self, folder: String, next: String, links: &mut u32) -> Result<String, Refused> {
        let target = match self.nodes.get(&next) {
            None => return Err(Refused::NoTarget),
            Some(Node::Folder) => return Ok(next),
            Some(Node::Link { target, at_the_end: false }) => target,
            Some(_) => return Err(Refused::Blocked),
        };
        *links = links.checked_sub(1).ok_or(Refused::Blocked)?;
        let target = core::str::from_utf8(target).map_err(|_| Refused::NoTarget)?;
        let mut path = folder;
        for part in target.split('/').filter(|part| !matches!(*part, "" | ".")) {
            let next = join(&path, part);
            path = self.enter(path, next, links)?;
        }
        Ok(path)
    }
}

/// Why a folder could not be entered or made.
fn blocked(refused: Refused) -> Refused {
    if refused == Refused::Memory { refused } else { Refused::Blocked }
}

/// Bytes of memory that an entry takes.
fn cost(path: &str, node: &Node) -> usize {
    ENTRY + path.len() + if let Node::Link { target, .. } = node { target.len() } else { 0 }
}

/// What a hard link is another name of. Like GNU tar it drops all up to the last `..`.
pub(crate) fn hard_link_target(link: &[u8]) -> Option<String> {
    let parts = link.split(|byte| *byte == b'/');
    let behind = parts.rev().take_while(|part| *part != b"..").map(|part| part.len() + 1).sum::<usize>();
    path::clean(&link[link.len().saturating_sub(behind)..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_hard_links() {
        for (link, expected) in [
            ("a/b", Some("a/b")),
            ("/a", Some("a")),
            ("../a", Some("a")),
            ("a/../b/c", Some("b/c")),
            ("..", None),
            ("", None),
        ] {
            assert_eq!(hard_link_target(link.as_bytes()).as_deref(), expected, "{link}");
        }
    }
}
