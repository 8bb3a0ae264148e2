//! What is in an archive, with all that describes it.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use xen_blkif::{BlockDevice, Error};

use super::header::{BLOCK, Header, Kind, until_zero};
use super::properties::Properties;
use super::sparse::{self, Failure, Sparse};
use crate::path::MAX_PATH;
use crate::warning::{Warning, Warnings};
use crate::window::Window;

/// Bytes of a header that describes: with more of them a file is left out, for they are read at each request.
const MAX_PROPERTIES: u64 = 1 << 20;
/// Headers that describe one file.
const MAX_DESCRIPTIONS: usize = 16;

pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) content: Content,
    /// In seconds since 1970.
    pub(crate) modified: i64,
    /// Where it ends on the device.
    pub(crate) end: u64,
    /// Where the next one is; nothing where that is not known.
    pub(crate) next: Option<u64>,
    /// What is said here of all that follow, together with what was said before.
    pub(crate) defaults: Option<Properties>,
}

pub(crate) enum Content {
    File {
        start: u64,
        size: u64,
    },
    Sparse(Sparse),
    /// Where it leads.
    SymbolicLink(Vec<u8>),
    /// What it is another name of.
    HardLink(Vec<u8>),
    Folder,
    /// What is not served, in the place of anything of this name before it.
    Hidden,
    /// A label of the archive's.
    Nothing,
}

/// What stands somewhere in an archive.
pub(crate) enum Step {
    Member(Box<Member>),
    /// Zeroes: the end mark.
    End {
        at: u64,
    },
    /// Nothing that can be read on from.
    Stop(Warning),
}

/// As far as it is text, for a message.
pub(crate) fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(MAX_PATH)]).into_owned()
}

/// What was said of a member before its header.
#[derive(Default)]
struct Described {
    /// These count where no property says it.
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    own: Properties,
    of_all: Properties,
    headers: usize,
    /// There was more than is looked at.
    too_much: bool,
}

/// Reads what stands at a place: headers that describe, and the one that is described. `defaults` were said before.
///
/// # Cancellation
///
/// May be dropped at any time.
pub(crate) async fn step<D: BlockDevice>(
    window: &mut Window<D>,
    begin: u64,
    defaults: &Properties,
    warnings: &mut Warnings,
) -> Result<Step, Error> {
    let device_end = window.size();
    let mut described = Described::default();
    let mut at = begin;
    loop {
        let mut bytes = [0; BLOCK];
        let Some(start) = at.checked_add(BLOCK as u64).filter(|end| *end <= device_end) else {
            return Ok(Step::Stop(Warning::NoEnd { at }));
        };
        window.read_all(at, &mut bytes).await?;
        if bytes == [0; BLOCK] {
            return Ok(Step::End { at });
        }
        let Some(header) = Header::parse(&bytes) else { return Ok(Step::Stop(Warning::NoHeader { at })) };
        if !header.kind().describes() {
            return Ok(Step::Member(Box::new(member(window, at, &header, described, defaults, warnings).await?)));
        }
        let end = header.size().and_then(|size| start.checked_add(size));
        let next = end.and_then(|end| end.checked_next_multiple_of(BLOCK as u64));
        let (Some(end), Some(next)) = (end, next) else { return Ok(Step::Stop(Warning::NoHeader { at })) };
        if end > device_end {
            return Ok(Step::Stop(Warning::Truncated { name: lossy(&header.name()), end, size: device_end }));
        }
        described.read(window, at, header.kind(), end, warnings).await?;
        at = next;
    }
}

impl Described {
    /// Takes what stands behind a header that describes, up to `end`.
    async fn read<D: BlockDevice>(
        &mut self,
        window: &mut Window<D>,
        at: u64,
        kind: Kind,
        end: u64,
        warnings: &mut Warnings,
    ) -> Result<(), Error> {
        let start = at + BLOCK as u64;
        self.headers += 1;
        if self.headers > MAX_DESCRIPTIONS || end - start > MAX_PROPERTIES {
            if !self.too_much {
                warnings.add(Warning::Properties { at });
            }
            self.too_much = true;
            return Ok(());
        }
        match kind {
            Kind::LongName => self.long_name = Some(text(window, start, end).await?),
            Kind::LongLink => self.long_link = Some(text(window, start, end).await?),
            _ => {
                let mut properties = Properties::default();
                if !properties.read(window, start, end).await? {
                    warnings.add(Warning::Malformed { at });
                }
                match kind {
                    Kind::Defaults => self.of_all = properties.or(&self.of_all),
                    // The last one counts alone, as in GNU tar.
                    _ => self.own = properties,
                }
            }
        }
        Ok(())
    }
}

/// What a header describes.
async fn member<D: BlockDevice>(
    window: &mut Window<D>,
    at: u64,
    header: &Header<'_>,
    described: Described,
    defaults: &Properties,
    warnings: &mut Warnings,
) -> Result<Member, Error> {
    let Described { long_name, long_link, own, of_all, too_much, .. } = described;
    let defaults_from_here = of_all.matter().then(|| of_all.or(defaults));
    let said = own.or(defaults_from_here.as_ref().unwrap_or(defaults));
    let is_sparse = said.holes.map.is_some() || said.holes.records.is_some() || said.holes.major.is_some();
    let name = said.holes.name.clone().filter(|_| is_sparse).or(said.name).or(long_name);
    let name = name.unwrap_or_else(|| header.name());
    let kind = match header.kind() {
        // Old archives have folders as files whose name ends so.
        Kind::File | Kind::Unknown(_) if name.ends_with(b"/") => Kind::Folder,
        kind => kind,
    };
    let mut member = Member {
        content: Content::Hidden,
        modified: said.modified.or_else(|| header.modified()).unwrap_or(0),
        end: at + BLOCK as u64,
        next: None,
        defaults: defaults_from_here,
        name,
    };
    // More of a map lies between such a header and its bytes, and is not counted with them.
    let start = match kind {
        Kind::Sparse => sparse::end_of_slots(window, at).await?,
        _ => Some(member.end),
    };
    let size = if kind.has_bytes() { said.size.or_else(|| header.size()) } else { Some(0) };
    let range = start.zip(size).and_then(|(start, size)| Some((start, size, start.checked_add(size)?)));
    let Some((start, size, end)) = range else {
        warnings.add(Warning::NoHeader { at });
        return Ok(member);
    };
    let shown = lossy(&member.name);
    if end > window.size() {
        warnings.add(Warning::Truncated { name: shown, end, size: window.size() });
        return Ok(member);
    }
    (member.end, member.next) = (end, end.checked_next_multiple_of(BLOCK as u64));
    let holes = match kind {
        Kind::Sparse => Sparse::of_header(window, at, start, header.whole_size(), size).await.map(Some),
        Kind::File | Kind::Unknown(_) if is_sparse => Sparse::of_properties(window, &said.holes, start, end).await,
        _ => Ok(None),
    };
    let holes = match holes {
        Ok(holes) => holes,
        Err(Failure::Disk(error)) => return Err(error),
        Err(Failure::Map(problem)) => {
            warnings.add(Warning::Sparse { name: shown, problem });
            return Ok(member);
        }
    };
    let link = || said.link.or(long_link).unwrap_or_else(|| header.link().into());
    member.content = match kind {
        Kind::Folder | Kind::List => Content::Folder,
        Kind::Label => Content::Nothing,
        // What it is called may be in what was not read.
        _ if too_much => Content::Hidden,
        Kind::Link { symbolic: true } => Content::SymbolicLink(link()),
        Kind::Link { symbolic: false } => Content::HardLink(link()),
        Kind::Special => {
            warnings.add(Warning::Special { name: shown });
            Content::Hidden
        }
        Kind::Continued => {
            warnings.add(Warning::Continued { name: shown });
            Content::Hidden
        }
        kind => {
            if let Kind::Unknown(kind) = kind {
                warnings.add(Warning::Type { name: shown, kind });
            }
            holes.map_or(Content::File { start, size }, Content::Sparse)
        }
    };
    Ok(member)
}

/// A long name. What is longer than a name can be keeps one byte too many, so that it is none.
async fn text<D: BlockDevice>(window: &mut Window<D>, at: u64, end: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; (end - at).min(MAX_PATH as u64 + 1) as usize];
    window.read_all(at, &mut bytes).await?;
    let own = until_zero(&bytes).len();
    bytes.truncate(own);
    Ok(bytes)
}
