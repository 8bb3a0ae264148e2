//! Paths in a site.

use alloc::string::String;

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

/// Whether a symbolic link with this clean name leads out of the site by its first steps up.
pub(crate) fn leads_out(name: &str, link: &[u8]) -> bool {
    let mut parts = link.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let depth = if link.starts_with(b"/") { 0 } else { name.matches('/').count() };
    parts.by_ref().take_while(|part| *part == b"..").count() > depth
}

/// Whether a symbolic link goes up again from where it has gone: there has to be a folder then.
pub(crate) fn turns_back(link: &[u8]) -> bool {
    let parts = link.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    parts.skip_while(|part| *part == b"..").any(|part| part == b"..")
}

/// The folder that a clean name is in.
pub(crate) fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A name in a folder.
pub(crate) fn join(folder: &str, name: &str) -> String {
    let mut path = String::with_capacity(folder.len() + 1 + name.len());
    path.push_str(folder);
    if !folder.is_empty() {
        path.push('/');
    }
    path.push_str(name);
    path
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
    fn links_that_lead_out() {
        for (name, link, expected) in [
            ("a/b/c", "d", false),
            ("a/b/c", "../../d", false),
            ("a/b/c", "./..//../../d", true),
            ("a", "../d", true),
            ("a", "b/../../d", false),
            ("a/b", "/d", false),
            ("a/b", "/../d", true),
        ] {
            assert_eq!(leads_out(name, link.as_bytes()), expected, "{name} -> {link}");
        }
        assert!(turns_back(b"../a/..") && !turns_back(b".././../a/b"));
        assert_eq!((parent("a/b"), parent("a"), join("", "a"), join("a", "b")), ("a", "", "a".into(), "a/b".into()));
    }
}
