//! Where a tar archive's files are (POSIX pax, "ustar Interchange Format"; GNU tar, "Basic Tar Format").

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use xen_blkif::{BlockDevice, Error};

use crate::window::Window;
use crate::{OpenError, Warning, Warnings};

const BLOCK: usize = 512;
/// Longest that names and lists of properties may be.
const MOST_TEXT: u64 = 64 << 10;
/// Links that lead to links.
const MOST_LINKS: usize = 8;

/// A file's place.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) at: u64,
    pub(crate) size: u64,
    /// In seconds since 1970.
    pub(crate) modified: u64,
    /// Where it leads, for a link.
    link: Option<Box<str>>,
}

/// All files, in the order of their names.
pub(crate) struct Index(Vec<(Box<str>, Entry)>);

/// What comes before a file, and is said of it.
#[derive(Default)]
struct Properties {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<u64>,
}

impl Index {
    pub(crate) async fn read<D: BlockDevice>(
        window: &mut Window<D>,
        warnings: &mut Warnings,
    ) -> Result<Index, OpenError> {
        let size = window.size();
        let mut entries = Vec::new();
        let mut properties = Properties::default();
        let mut at = 0;
        loop {
            let mut header = [0; BLOCK];
            if at + BLOCK as u64 > size {
                warnings.add(Warning::NoEnd { at });
                break;
            }
            window.read_all(at, &mut header).await?;
            if header == [0; BLOCK] {
                if at == 0 {
                    return Err(OpenError::Empty);
                }
                break;
            }
            if !is_header(&header) {
                if at == 0 {
                    return Err(OpenError::Unknown);
                }
                warnings.add(Warning::NoHeader { at });
                break;
            }
            let kind = header[156];
            let stored = number(&header[124..136]);
            // What is said of a file is not said of what describes it.
            let own_size = match kind {
                b'x' | b'g' | b'L' | b'K' => stored,
                _ => properties.size.or(stored),
            };
            let start = at + BLOCK as u64;
            let end = own_size.and_then(|size| start.checked_add(size));
            let next = end.and_then(|end| end.checked_next_multiple_of(BLOCK as u64));
            let (Some(own_size), Some(end), Some(next)) = (own_size, end, next) else {
                warnings.add(Warning::NoHeader { at });
                break;
            };
            let is_link = matches!(kind, b'1' | b'2');
            if end > size && !is_link {
                let name = String::from_utf8_lossy(&name(&header, &properties)).into_owned();
                warnings.add(Warning::Truncated { name, end, size });
                break;
            }
            match kind {
                b'L' => properties.name = Some(text(window, start, own_size).await?),
                b'K' => properties.link = Some(text(window, start, own_size).await?),
                b'x' => properties.add(&read(window, start, own_size).await?),
                // Of all that follow: nothing that matters here.
                b'g' => {}
                _ => {
                    let own = core::mem::take(&mut properties);
                    let name = name(&header, &own);
                    let modified = own.modified.or_else(|| number(&header[136..148])).unwrap_or(0);
                    let link =
                        is_link.then(|| own.link.clone().unwrap_or_else(|| until_zero(&header[157..257]).into()));
                    let file = matches!(kind, 0 | b'0' | b'7') && !name.ends_with(b"/");
                    if kind == b'S' {
                        warnings.add(Warning::Sparse { name: String::from_utf8_lossy(&name).into_owned() });
                    } else if file || is_link {
                        let target = link.as_ref().map(|link| target(&name, link, kind == b'2'));
                        match (clean(&name), target) {
                            (Some(name), None) => {
                                entries.push((name.into(), Entry { at: start, size: own_size, modified, link: None }));
                            }
                            (Some(name), Some(Some(link))) => {
                                let link = Some(link.into());
                                entries.push((name.into(), Entry { at: 0, size: 0, modified, link }));
                            }
                            _ => {
                                let name = String::from_utf8_lossy(&name).into_owned();
                                warnings.add(Warning::Name { at, name });
                            }
                        }
                    }
                }
            }
            // A link has no bytes, whatever its header says.
            at = if is_link { start } else { next };
        }
        // Of two with one name the later counts, as tar unpacks them.
        entries.reverse();
        entries.sort_by(|(one, _): &(Box<str>, Entry), (other, _)| one.cmp(other));
        entries.dedup_by(|(later, _), (kept, _)| later == kept);
        entries.shrink_to_fit();
        Ok(Index(entries))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The file of a clean name.
    pub(crate) fn find(&self, name: &str) -> Option<&Entry> {
        let mut name = name;
        for _ in 0..MOST_LINKS {
            let index = self.0.binary_search_by(|(own, _)| (**own).cmp(name)).ok()?;
            let entry = &self.0[index].1;
            match &entry.link {
                None => return Some(entry),
                Some(link) => name = link,
            }
        }
        None
    }
}

impl Properties {
    /// Records of an extended header: `LEN KEY=VALUE\n`, the length including itself.
    fn add(&mut self, mut records: &[u8]) {
        while let Some(space) = records.iter().position(|byte| *byte == b' ') {
            let len = core::str::from_utf8(&records[..space]).ok().and_then(|text| text.parse::<usize>().ok());
            let Some(record) = len.and_then(|len| records.get(space + 1..len)) else { return };
            records = &records[len.unwrap_or_default()..];
            let record = record.strip_suffix(b"\n").unwrap_or(record);
            let Some(equals) = record.iter().position(|byte| *byte == b'=') else { continue };
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            // Times have fractions.
            let whole = || core::str::from_utf8(value).ok()?.split('.').next()?.parse().ok();
            match key {
                b"path" => self.name = Some(value.into()),
                b"linkpath" => self.link = Some(value.into()),
                b"size" => self.size = whole(),
                b"mtime" => self.modified = whole(),
                _ => {}
            }
        }
    }
}

async fn read<D: BlockDevice>(window: &mut Window<D>, at: u64, len: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; len.min(MOST_TEXT) as usize];
    window.read_all(at, &mut bytes).await?;
    Ok(bytes)
}

async fn text<D: BlockDevice>(window: &mut Window<D>, at: u64, len: u64) -> Result<Vec<u8>, Error> {
    Ok(until_zero(&read(window, at, len).await?).into())
}

fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The name in a header, or what was said before it.
fn name(header: &[u8; BLOCK], properties: &Properties) -> Vec<u8> {
    if let Some(name) = &properties.name {
        return name.clone();
    }
    let own = until_zero(&header[..100]);
    let prefix = until_zero(&header[345..500]);
    // GNU's form of the magic has other things there.
    match &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        true => [prefix, b"/", own].concat(),
        false => own.into(),
    }
}

/// Whether the checksum is right: the sum of all bytes, with spaces in its own place.
fn is_header(header: &[u8; BLOCK]) -> bool {
    let sum = |own: fn(u8) -> i64| -> i64 {
        header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { own(*byte) }).sum()
    };
    let Some(expected) = number(&header[148..156]) else { return false };
    // Old programs have added signed bytes.
    [sum(i64::from), sum(|byte| i64::from(byte as i8))].contains(&(expected as i64))
}

/// A number in octal digits, or in base 256 where its first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = field.split_first()?;
        let start = u64::from(first & 0x7f);
        return rest.iter().try_fold(start, |value, byte| value.checked_mul(256)?.checked_add((*byte).into()));
    }
    let digits = until_zero(field).trim_ascii();
    if digits.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(core::str::from_utf8(digits).ok()?, 8).ok()
}

/// Where a link leads: from the archive's begin, or for a symbolic one from the folder that it is in.
fn target(name: &[u8], link: &[u8], symbolic: bool) -> Option<String> {
    if !symbolic || link.starts_with(b"/") {
        return clean(link);
    }
    let folder = name.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |end| &name[..end]);
    let mut parts = Vec::new();
    for part in folder.split(|byte| *byte == b'/').chain(link.split(|byte| *byte == b'/')) {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    clean(&parts.join(&b'/'))
}

/// A path without what changes nothing; `None` where it leads out of the archive, or is no text.
pub(crate) fn clean(path: &[u8]) -> Option<String> {
    let text = core::str::from_utf8(path).ok()?;
    let mut clean = String::with_capacity(text.len());
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            _ if part.contains('\0') => return None,
            _ => {
                if !clean.is_empty() {
                    clean.push('/');
                }
                clean.push_str(part);
            }
        }
    }
    (!clean.is_empty()).then_some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::borrow::ToOwned;

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [
            ("a", Some("a")),
            ("./a//b/.", Some("a/b")),
            ("/a", Some("a")),
            ("", None),
            ("./", None),
            ("a/../b", None),
            ("..", None),
            ("a\0", None),
            ("...", Some("...")),
        ] {
            assert_eq!(clean(path.as_bytes()), expected.map(str::to_owned), "{path}");
        }
        assert_eq!(clean(&[b'a', 0xff]), None);
    }

    #[test]
    fn links_lead_where_they_say() {
        let to = |name: &str, link: &str| target(name.as_bytes(), link.as_bytes(), true);
        assert_eq!(to("a/b/c", "d"), Some("a/b/d".into()));
        assert_eq!(to("a/b/c", "../d"), Some("a/d".into()));
        assert_eq!(to("a", "../d"), None);
        assert_eq!(to("a/b", "/d"), Some("d".into()));
        assert_eq!(target(b"a/b", b"c/d", false), Some("c/d".into()));
    }

    #[test]
    fn numbers_in_both_forms() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b" 12 \0\0\0\0"), Some(0o12));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(b"9\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 2, 0, 0, 0, 1]), Some(0x2_0000_0001));
        assert_eq!(number(&[0xff; 12]), None, "more than there can be");
    }
}
