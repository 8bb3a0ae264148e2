//! Where a tar archive's files are (POSIX pax, "ustar Interchange Format"; GNU tar, "Basic Tar Format").

mod header;
mod places;

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use xen_blkif::{BlockDevice, Error};

use crate::path::{MAX_PATH, clean, target};
use crate::warning::{Warning, Warnings};
use crate::window::Window;
use crate::{OpenError, path};
use header::{BLOCK, Header, Kind, Properties, until_zero};
use places::{Place, Places};

/// Links that lead to links.
const MAX_LINKS: usize = 8;
/// Names with the same hash that are looked at.
const MAX_SAME: usize = 8;
/// Headers that describe one file, and bytes of each.
const MAX_DESCRIPTIONS: usize = 16;
const MAX_PROPERTIES: u64 = 1 << 20;

/// All files.
pub(crate) struct Index(Places);

/// What is in an archive, with all that describes it.
struct Member {
    kind: Kind,
    name: Vec<u8>,
    /// Where it leads, for a link.
    link: Vec<u8>,
    /// Where its bytes are, and where they end.
    start: u64,
    end: u64,
    modified: u64,
    /// Where the next one is.
    next: u64,
}

/// A file that was found.
pub(crate) struct FoundFile<D: BlockDevice> {
    pub(crate) at: u64,
    pub(crate) size: u64,
    /// In seconds since 1970.
    pub(crate) modified: u64,
    /// What its header was read with; its first bytes are there already.
    pub(crate) window: Window<D>,
}

/// What stands somewhere in an archive.
enum Step {
    Member(Member),
    /// Zeroes: the end mark.
    End,
    /// Nothing that can be read on from.
    Stop(Warning),
}

impl Index {
    /// Finds all files, and keeps as many places as `memory` bytes are enough for.
    pub(crate) async fn read<D: BlockDevice>(
        window: &mut Window<D>,
        memory: usize,
        warnings: &mut Warnings,
    ) -> Result<Index, OpenError> {
        let mut places = Places::default();
        let (mut at, mut left_out) = (0, 0_u64);
        loop {
            let member = match step(window, at, Some(warnings)).await? {
                Step::Member(member) => member,
                Step::End if at == 0 => return Err(OpenError::Empty),
                Step::Stop(Warning::NoHeader { at: 0 }) => return Err(OpenError::Unknown),
                Step::End => break,
                Step::Stop(warning) => {
                    warnings.add(warning);
                    break;
                }
            };
            let lossy = || String::from_utf8_lossy(&member.name[..member.name.len().min(MAX_PATH)]).into_owned();
            match member.kind {
                Kind::Sparse => warnings.add(Warning::Sparse { name: lossy() }),
                Kind::File | Kind::Link { .. } if member.is_folder() => {}
                Kind::File | Kind::Link { .. } => match clean(&member.name).filter(|_| member.leads_somewhere()) {
                    None => warnings.add(Warning::Name { at, name: lossy() }),
                    Some(name) => left_out += u64::from(!places.push(&name, at, member.end - at, memory)),
                },
                _ => {}
            }
            at = member.next;
        }
        places.sort();
        if left_out > 0 {
            warnings.add(Warning::TooMany { indexed: places.len() as u64, left_out, memory });
        }
        Ok(Index(places))
    }

    /// How many names there are.
    pub(crate) fn len(&self) -> usize {
        self.0.names()
    }

    /// The file of a clean name, which is read in pieces of so many bytes.
    pub(crate) async fn find<D: BlockDevice>(
        &self,
        disk: &Rc<D>,
        name: &str,
        piece: usize,
    ) -> Result<Option<FoundFile<D>>, Error> {
        let mut name = String::from(name);
        for _ in 0..MAX_LINKS {
            let Some((member, window)) = self.member(disk, &name, piece).await? else { return Ok(None) };
            let Kind::Link { symbolic } = member.kind else {
                let (at, size) = (member.start, member.end - member.start);
                return Ok(Some(FoundFile { at, size, modified: member.modified, window }));
            };
            match member.target(symbolic) {
                Some(target) => name = target,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// What is in the archive under a clean name.
    async fn member<D: BlockDevice>(
        &self,
        disk: &Rc<D>,
        name: &str,
        piece: usize,
    ) -> Result<Option<(Member, Window<D>)>, Error> {
        for Place { at, len } in self.0.find(name).take(MAX_SAME) {
            // As far as is of use: where the whole file is one piece, it comes with its header.
            let end = len.map_or(u64::MAX, |len| at + len);
            let mut window = Window::before(disk.clone(), end, piece);
            let Step::Member(member) = step(&mut window, at, None).await? else { continue };
            if clean(&member.name).as_deref() == Some(name) {
                window.set_end(member.end);
                return Ok(Some((member, window)));
            }
        }
        Ok(None)
    }
}

impl Member {
    /// Old archives have folders as files whose name ends so.
    fn is_folder(&self) -> bool {
        self.kind == Kind::File && self.name.ends_with(b"/")
    }

    /// Whether it is no link, or one that leads to where something can be.
    fn leads_somewhere(&self) -> bool {
        match self.kind {
            Kind::Link { symbolic } => self.target(symbolic).is_some(),
            _ => true,
        }
    }

    fn target(&self, symbolic: bool) -> Option<String> {
        if symbolic { target(&self.name, &self.link) } else { path::clean(&self.link) }
    }
}

/// Reads what stands at a place: headers that describe, and the one that is described.
async fn step<D: BlockDevice>(
    window: &mut Window<D>,
    begin: u64,
    mut warnings: Option<&mut Warnings>,
) -> Result<Step, Error> {
    let size = window.size();
    let mut properties = Properties::default();
    let mut at = begin;
    for _ in 0..=MAX_DESCRIPTIONS {
        let mut bytes = [0; BLOCK];
        if at.checked_add(BLOCK as u64).is_none_or(|end| end > size) {
            return Ok(Step::Stop(Warning::NoEnd { at }));
        }
        window.read_all(at, &mut bytes).await?;
        if bytes == [0; BLOCK] {
            return Ok(Step::End);
        }
        let no_header = Ok(Step::Stop(Warning::NoHeader { at }));
        let Some(header) = Header::parse(&bytes) else { return no_header };
        let kind = header.kind();
        let start = at + BLOCK as u64;
        // What is said of a file is not said of what describes it, and a link has no bytes, whatever its header says.
        let len = match kind {
            Kind::Link { .. } => Some(0),
            kind if kind.describes() => header.size(),
            _ => properties.size.or(header.size()),
        };
        let end = len.and_then(|len| start.checked_add(len));
        let next = end.and_then(|end| end.checked_next_multiple_of(BLOCK as u64));
        let (Some(len), Some(end), Some(next)) = (len, end, next) else { return no_header };
        if end > size {
            let name = properties.name.take().unwrap_or_else(|| header.name());
            let name = String::from_utf8_lossy(&name).into_owned();
            return Ok(Step::Stop(Warning::Truncated { name, end, size }));
        }
        match kind {
            Kind::LongName => properties.name = Some(text(window, start, len).await?),
            Kind::LongLink => properties.link = Some(text(window, start, len).await?),
            Kind::Properties if len > MAX_PROPERTIES => return Ok(Step::Stop(Warning::Properties { at })),
            Kind::Properties => {
                let whole = records(window, start, end, &mut properties).await?;
                if let Some(warnings) = warnings.as_mut().filter(|_| !whole) {
                    warnings.add(Warning::Properties { at });
                }
            }
            Kind::Defaults => {}
            _ => {
                let link = properties.link.take().unwrap_or_else(|| header.link().into());
                let modified = properties.modified.or_else(|| header.modified()).unwrap_or(0);
                let name = properties.name.take().unwrap_or_else(|| header.name());
                return Ok(Step::Member(Member { kind, name, link, start, end, modified, next }));
            }
        }
        at = next;
    }
    Ok(Step::Stop(Warning::Properties { at: begin }))
}

/// A long name. What is longer than a name can be keeps one byte too many, so that it is none.
async fn text<D: BlockDevice>(window: &mut Window<D>, at: u64, len: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; len.min(MAX_PATH as u64 + 1) as usize];
    window.read_all(at, &mut bytes).await?;
    let own = until_zero(&bytes).len();
    bytes.truncate(own);
    Ok(bytes)
}

/// Reads the records of a pax header: `LEN KEY=VALUE\n`, the length including itself. Records that are not of interest are
/// passed over, however long they are. False where one is not a record.
async fn records<D: BlockDevice>(
    window: &mut Window<D>,
    start: u64,
    end: u64,
    properties: &mut Properties,
) -> Result<bool, Error> {
    let mut at = start;
    while at < end {
        // Digits of the length, and the longest key that is of interest.
        let mut begin = [0; 32];
        let known = (end - at).min(begin.len() as u64) as usize;
        window.read_all(at, &mut begin[..known]).await?;
        let begin = &begin[..known];
        let Some(space) = begin.iter().position(|byte| *byte == b' ') else { return Ok(false) };
        let digits = core::str::from_utf8(&begin[..space]).ok().filter(|text| !text.starts_with('+'));
        let len = digits.and_then(|text| text.parse::<u64>().ok()).filter(|len| *len <= end - at);
        // At least a key of one byte, `=` and the end of the line.
        let Some(len) = len.filter(|len| *len >= space as u64 + 4) else { return Ok(false) };
        let key = begin[space + 1..].split(|byte| *byte == b'=').next().unwrap_or_default();
        let value = at + (space + 1 + key.len() + 1) as u64;
        let value_end = at + len - 1;
        at += len;
        if !Properties::wants(key) {
            continue;
        }
        let Some(value_len) = value_end.checked_sub(value) else { return Ok(false) };
        let mut bytes = vec![0; value_len.min(MAX_PATH as u64 + 1) as usize];
        window.read_all(value, &mut bytes).await?;
        if !properties.add(key, &bytes) {
            return Ok(false);
        }
    }
    Ok(true)
}
