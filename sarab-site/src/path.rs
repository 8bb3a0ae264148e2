//! Paths in a site.

use alloc::string::String;
use alloc::vec::Vec;

/// Longest path, in bytes: PATH_MAX of Linux.
pub(crate) const MAX_PATH: usize = 4096;

/// A path without what changes nothing; `None` where it leads out of the site, is too long, or is no text.
pub(crate) fn clean(path: &[u8]) -> Option<String> {
    let text = core::str::from_utf8(path).ok().filter(|text| text.len() <= MAX_PATH)?;
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

/// Where a symbolic link with this name leads: from the folder that it is in, or from the begin.
pub(crate) fn target(name: &[u8], link: &[u8]) -> Option<String> {
    if link.starts_with(b"/") {
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
        assert_eq!(clean(&[b'a'; MAX_PATH + 1]), None);
    }

    #[test]
    fn links_lead_where_they_say() {
        let to = |name: &str, link: &str| target(name.as_bytes(), link.as_bytes());
        assert_eq!(to("a/b/c", "d"), Some("a/b/d".into()));
        assert_eq!(to("a/b/c", "../d"), Some("a/d".into()));
        assert_eq!(to("a", "../d"), None);
        assert_eq!(to("a/b", "/d"), Some("d".into()));
    }
}
