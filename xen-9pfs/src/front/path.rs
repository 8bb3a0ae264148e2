//! Paths of users: names between slashes, from a directory downwards.

use alloc::vec::Vec;

use super::Error;

/// The names of a path. Slashes at its ends and `.` do not count; the way up is not to be had.
///
/// # Errors
///
/// Where a name is `..`, or has a byte 0.
pub(super) fn names(path: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.map(|name| if name == b".." || name.contains(&0) { Err(Error::InvalidPath) } else { Ok(name) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_down_alone() {
        assert_eq!(names(b""), Ok(Vec::new()));
        assert_eq!(names(b"/./"), Ok(Vec::new()));
        assert_eq!(names(b"/a//b/./c/"), Ok(Vec::from([&b"a"[..], b"b", b"c"])));
        assert_eq!(names(b"...\xff"), Ok(Vec::from([&b"...\xff"[..]])));
        for path in [&b".."[..], b"a/../b", b"a\0", b"/.."] {
            assert_eq!(names(path), Err(Error::InvalidPath));
        }
    }
}
