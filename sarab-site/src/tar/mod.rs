//! Where a tar archive's files are: what GNU tar would leave where it unpacks the archive, or nothing, and a word about it.

mod header;
mod member;
mod places;
mod properties;
mod sparse;
mod tree;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use xen_blkif::{BlockDevice, Error};

use crate::path::{MAX_PATH, clean, join, leads_out, parent, turns_back};
use crate::source::Source;
use crate::warning::{Warning, Warnings};
use crate::window::Window;
use crate::{OpenError, ReadError};
use header::{BLOCK, Header};
use member::{Content, Member, Step, lossy, step};
use places::{Kind, Place, Places};
use properties::Properties;
use sparse::{Failure, Position, Sparse};
use tree::{MAX_LINKS, New, Node, Refused, Tree, hard_link_target};

pub use sparse::Problem;

/// Names with the same hash that are looked at.
const MAX_SAME: usize = 8;
/// How often properties of all files that follow may change.
const MAX_DEFAULTS: usize = 16;
/// Bytes of what is read of a map at once.
const MAP: usize = 4096;

/// All files.
pub(crate) struct Index {
    names: Names,
    /// Properties of all files whose headers are behind a place.
    defaults: Vec<(u64, Properties)>,
}

enum Names {
    /// The last place of each name has what is there.
    Places(Places),
    Tree(Tree),
}

/// A file that was found, and is read.
pub(crate) struct OpenFile<D: BlockDevice> {
    pub(crate) size: u64,
    /// In seconds since 1970.
    pub(crate) modified: i64,
    bytes: Bytes<D>,
    /// What its header was read with; its first bytes are there already.
    window: Window<D>,
}

enum Bytes<D: BlockDevice> {
    /// From this one of the device on.
    From(u64),
    Sparse {
        sparse: Sparse,
        position: Position,
        map: Box<Window<D>>,
    },
}

/// What has a name.
enum Found<D: BlockDevice> {
    Nothing,
    /// A folder, as far as is known.
    Folder,
    File(Box<OpenFile<D>>),
    /// Where it leads.
    Link(Vec<u8>),
    /// What is not served.
    Hidden,
}

impl Index {
    /// Finds all files, and keeps as many places as `memory` bytes are enough for.
    pub(crate) async fn read<D: BlockDevice>(
        window: &mut Window<D>,
        memory: usize,
        warnings: &mut Warnings,
    ) -> Result<Index, OpenError> {
        let mut places = Places::default();
        let mut left_out = 0_u64;
        let mut folder = String::new();
        let defaults = read_all(window, warnings, |at, mut member, warnings| {
            let Some(name) = named(at, &mut member, warnings) else { return Ok(()) };
            // The folders that it is in, as far as they are others than those of the file before.
            let own = if matches!(member.content, Content::Folder) { &name } else { parent(&name) };
            if !is_within(&folder, own) {
                let ends = own.match_indices('/').map(|(end, _)| end).chain([own.len()]);
                for above in ends.map(|end| &own[..end]).filter(|above| !is_within(&folder, above)) {
                    places.push(above, Kind::Folder, at, 0, memory);
                }
                folder.clear();
                folder.push_str(own);
            }
            let kind = match &member.content {
                Content::Folder | Content::Nothing => return Ok(()),
                Content::File { .. } | Content::Sparse(_) | Content::SymbolicLink(_) => Kind::File,
                Content::HardLink(_) => Kind::HardLink,
                Content::Hidden => Kind::Hidden,
            };
            left_out += u64::from(!places.push(&name, kind, at, member.end - at, memory) && kind != Kind::Hidden);
            if let Content::SymbolicLink(link) = &member.content
                && turns_back(link)
            {
                places.entangle();
            }
            if let Content::HardLink(link) = &member.content
                && let Some(target) = hard_link_target(link)
            {
                places.push(&target, Kind::Wanted, at, 0, memory);
            }
            Ok(())
        })
        .await?;
        if places.settle() {
            if left_out > 0 {
                warnings.add(Warning::TooMany { indexed: places.len() as u64, left_out, memory });
            }
            return Ok(Index { names: Names::Places(places), defaults });
        }
        drop(places);
        // What it says a second time is known.
        let mut tree = Tree::new(memory);
        read_all(window, &mut Warnings::default(), |at, mut member, quiet| {
            let Some(name) = named(at, &mut member, quiet) else { return Ok(()) };
            let new = match &member.content {
                Content::Nothing => return Ok(()),
                Content::Folder => New::Folder,
                Content::File { .. } | Content::Sparse(_) => New::File { at },
                Content::SymbolicLink(link) => New::SymbolicLink(link),
                Content::HardLink(link) => New::HardLink(hard_link_target(link)),
                Content::Hidden => New::Hidden,
            };
            match tree.add(&name, new) {
                Ok(()) => {}
                Err(Refused::Blocked) => warnings.add(Warning::Blocked { name }),
                Err(Refused::NoTarget) => {
                    let target =
                        if let Content::HardLink(link) = &member.content { lossy(link) } else { String::new() };
                    warnings.add(Warning::HardLink { name, target });
                }
                Err(Refused::Memory) => return Err(OpenError::Memory { memory }),
            }
            Ok(())
        })
        .await?;
        Ok(Index { names: Names::Tree(tree), defaults })
    }

    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        match &self.names {
            Names::Places(places) => places.names(),
            Names::Tree(tree) => tree.names(),
        }
    }

    /// The file of a clean name, which is read in pieces of so many bytes. Links are followed, those to folders as well.
    pub(crate) async fn find<D: BlockDevice>(
        &self,
        disk: &Rc<Source<D>>,
        name: &str,
        piece: usize,
    ) -> Result<Option<Box<OpenFile<D>>>, Error> {
        let mut path = String::new();
        let mut rest = name.as_bytes().to_vec();
        let mut links = MAX_LINKS;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let part: Vec<u8> = rest.drain(..end).collect();
            let slashes = rest.iter().take_while(|byte| **byte == b'/').count();
            rest.drain(..slashes);
            let part = match &part[..] {
                b"" | b"." => continue,
                b".." => {
                    if path.is_empty() {
                        return Ok(None);
                    }
                    path.truncate(parent(&path).len());
                    continue;
                }
                part => core::str::from_utf8(part),
            };
            let Ok(part) = part else { return Ok(None) };
            let next = join(&path, part);
            match self.look_up(disk, &next, piece).await? {
                Found::Folder => path = next,
                Found::Nothing | Found::Hidden => return Ok(None),
                // What has a slash behind it has to be a folder.
                Found::File(file) => return Ok(Some(file).filter(|_| rest.is_empty() && slashes == 0)),
                Found::Link(mut target) => {
                    let Some(left) = links.checked_sub(1) else { return Ok(None) };
                    links = left;
                    if target.is_empty() || target.len() + rest.len() >= MAX_PATH {
                        return Ok(None);
                    }
                    if target.starts_with(b"/") {
                        path.clear();
                    }
                    if slashes > 0 {
                        target.push(b'/');
                    }
                    target.append(&mut rest);
                    rest = target;
                }
            }
        }
        Ok(None)
    }

    /// What is under a clean name.
    async fn look_up<D: BlockDevice>(&self, disk: &Rc<Source<D>>, name: &str, piece: usize) -> Result<Found<D>, Error> {
        match &self.names {
            Names::Tree(tree) => Ok(match tree.get(name) {
                None => Found::Nothing,
                Some(Node::Folder) => Found::Folder,
                Some(Node::Hidden) => Found::Hidden,
                Some(Node::Link { target, .. }) => Found::Link(target.clone()),
                Some(Node::File { at, hash }) => match self.member(disk, *at, None, piece).await? {
                    Some((member, window)) if clean(&member.name).is_some_and(|name| places::hash(&name) == *hash) => {
                        open(member, window, disk)
                    }
                    _ => Found::Hidden,
                },
            }),
            Names::Places(places) => {
                let Some((member, window, at)) = self.last_member(disk, places, name, u64::MAX, piece).await? else {
                    return Ok(Found::Folder);
                };
                let Content::HardLink(link) = &member.content else { return Ok(open(member, window, disk)) };
                // It is another name of what was there when it was made, which is no hard link itself.
                let Some(target) = hard_link_target(link) else { return Ok(Found::Hidden) };
                let found = self.last_member(disk, places, &target, at, piece).await?;
                Ok(found.map_or(Found::Hidden, |(member, window, _)| open(member, window, disk)))
            }
        }
    }

    /// The last thing of a name whose headers are before a place, and where they are.
    async fn last_member<D: BlockDevice>(
        &self,
        disk: &Rc<Source<D>>,
        places: &Places,
        name: &str,
        before: u64,
        piece: usize,
    ) -> Result<Option<(Box<Member>, Window<D>, u64)>, Error> {
        for Place { at, len, .. } in places.find(name).filter(|place| place.at < before).take(MAX_SAME) {
            // As far as is of use: where the whole file is one piece, it comes with its header.
            let Some((member, window)) = self.member(disk, at, len, piece).await? else { continue };
            if clean(&member.name).as_deref() == Some(name) {
                return Ok(Some((member, window, at)));
            }
        }
        Ok(None)
    }

    /// What stands at a place.
    async fn member<D: BlockDevice>(
        &self,
        disk: &Rc<Source<D>>,
        at: u64,
        len: Option<u64>,
        piece: usize,
    ) -> Result<Option<(Box<Member>, Window<D>)>, Error> {
        let none = Properties::default();
        let defaults = self.defaults.iter().rev().find(|(from, _)| *from < at).map_or(&none, |(_, defaults)| defaults);
        let mut window = Window::before(disk.clone(), len.map_or(u64::MAX, |len| at + len), piece);
        let Step::Member(member) = step(&mut window, at, defaults, &mut Warnings::default()).await? else {
            return Ok(None);
        };
        window.set_end(member.end);
        Ok(Some((member, window)))
    }
}

/// What a member is when a request comes to it.
fn open<D: BlockDevice>(member: Box<Member>, window: Window<D>, disk: &Rc<Source<D>>) -> Found<D> {
    let (size, bytes) = match member.content {
        Content::File { start, size } => (size, Bytes::From(start)),
        Content::Sparse(sparse) => {
            let map = Box::new(Window::before(disk.clone(), member.end, MAP));
            (sparse.size, Bytes::Sparse { position: sparse.begin(), sparse, map })
        }
        Content::SymbolicLink(target) => return Found::Link(target),
        _ => return Found::Hidden,
    };
    Found::File(Box::new(OpenFile { size, modified: member.modified, bytes, window }))
}

impl<D: BlockDevice> OpenFile<D> {
    /// Reads some bytes from `at` on, which is in the file; something in any case.
    pub(crate) async fn read(&mut self, at: u64, to: &mut [u8]) -> Result<usize, ReadError> {
        match &mut self.bytes {
            Bytes::From(start) => Ok(self.window.read(*start + at, to).await?),
            Bytes::Sparse { sparse, position, map } => match sparse.read(position, map, &mut self.window, at, to).await
            {
                Ok(len) => Ok(len),
                Err(Failure::Disk(error)) => Err(error.into()),
                Err(Failure::Map(_)) => Err(ReadError::Changed),
            },
        }
    }

    /// Some bytes from `at` on, if they are kept.
    pub(crate) fn at_hand(&mut self, at: u64, most: usize) -> Option<&[u8]> {
        match self.bytes {
            Bytes::From(start) => self.window.kept(start + at, most),
            Bytes::Sparse { .. } => None,
        }
    }

    pub(crate) fn pause(&mut self) {
        self.window.release();
        if let Bytes::Sparse { map, .. } = &mut self.bytes {
            map.release();
        }
    }
}

/// Whether a clean name is a folder's, or of something in it.
fn is_within(name: &str, folder: &str) -> bool {
    folder.is_empty() || name.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The clean name of a member that has one. A link that leads nowhere is hidden.
fn named(at: u64, member: &mut Member, warnings: &mut Warnings) -> Option<String> {
    let name = clean(&member.name);
    let usable = match (&name, &member.content) {
        (_, Content::Nothing) => return None,
        (_, Content::Folder) => true,
        (Some(name), Content::SymbolicLink(link)) => !link.is_empty() && !leads_out(name, link),
        (name, _) => name.is_some(),
    };
    if !usable {
        warnings.add(Warning::Name { at, name: lossy(&member.name) });
        member.content = Content::Hidden;
    }
    name
}

/// Goes through all members, and gives each with its place to `take`. Returns the properties that were said of all that
/// follow, each with the place that they are said from.
async fn read_all<D: BlockDevice>(
    window: &mut Window<D>,
    warnings: &mut Warnings,
    mut take: impl FnMut(u64, Box<Member>, &mut Warnings) -> Result<(), OpenError>,
) -> Result<Vec<(u64, Properties)>, OpenError> {
    let mut all_defaults: Vec<(u64, Properties)> = Vec::new();
    let mut at = 0;
    loop {
        let none = Properties::default();
        let defaults = all_defaults.last().map_or(&none, |(_, defaults)| defaults);
        let mut member = match step(window, at, defaults, warnings).await? {
            Step::Member(member) => member,
            Step::End { at: 0 } => return Err(OpenError::Empty),
            Step::Stop(Warning::NoHeader { at: 0 }) => return Err(OpenError::Unknown),
            Step::End { at } => {
                if goes_on(window, at).await? {
                    warnings.add(Warning::EndInside { at });
                }
                break;
            }
            Step::Stop(warning) => {
                warnings.add(warning);
                break;
            }
        };
        if let Some(defaults) = member.defaults.take() {
            if all_defaults.len() == MAX_DEFAULTS {
                warnings.add(Warning::Defaults { at });
                break;
            }
            all_defaults.push((at, defaults));
        }
        let next = member.next;
        take(at, member, warnings)?;
        let Some(next) = next else { break };
        at = next;
    }
    Ok(all_defaults)
}

/// Whether a header stands in one of the blocks behind an end mark, as where archives were put one behind the other.
async fn goes_on<D: BlockDevice>(window: &mut Window<D>, end: u64) -> Result<bool, Error> {
    // An end mark is two blocks; tar fills up to twenty.
    for block in 1..=20 {
        let at = end + block * BLOCK as u64;
        let mut bytes = [0; BLOCK];
        if at.checked_add(BLOCK as u64).is_none_or(|end| end > window.size()) {
            break;
        }
        window.read_all(at, &mut bytes).await?;
        if bytes != [0; BLOCK] {
            return Ok(Header::parse(&bytes).is_some());
        }
    }
    Ok(false)
}
