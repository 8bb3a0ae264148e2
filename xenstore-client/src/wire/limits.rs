//! What may be sent, checked before it is.

use core::fmt;

/// Most bytes of payload, both ways (`XENSTORE_PAYLOAD_MAX`).
pub const MAX_PAYLOAD: usize = 4096;
/// Most bytes of an absolute path (`XENSTORE_ABS_PATH_MAX`).
pub const MAX_ABSOLUTE_PATH: usize = 3072;
/// Most bytes of a path relative to the domain's own directory (`XENSTORE_REL_PATH_MAX`).
pub const MAX_RELATIVE_PATH: usize = 2048;

/// Why something is no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum PathError {
    /// It has no characters.
    Empty,
    /// It is longer than the protocol allows.
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// How long it may be.
        max: usize,
    },
    /// A character that is none of `A-Z a-z 0-9 - / _ @`.
    Character {
        /// The character.
        character: char,
        /// Where it is, in bytes.
        at: usize,
    },
    /// Two slashes one after the other, or one at the end.
    EmptyName {
        /// Where the second slash or the end is, in bytes.
        at: usize,
    },
    /// `@` elsewhere than at the start of a special watch path.
    Special,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathError::Empty => f.write_str("the path is empty"),
            PathError::TooLong { len, max } => write!(f, "the path has {len} bytes, at most {max} are allowed"),
            PathError::Character { character, at } => {
                write!(f, "the path holds {character:?} at byte {at}; allowed are A-Z a-z 0-9 - / _ @")
            }
            PathError::EmptyName { at } => write!(f, "the path holds an empty name at byte {at}"),
            PathError::Special => f.write_str("a path that begins with @ can only be watched"),
        }
    }
}

impl core::error::Error for PathError {}

/// Checks a node's path: absolute, or relative to the domain's own directory.
///
/// # Errors
///
/// What is wrong with it.
///
/// # Examples
///
/// ```
/// use xenstore_client::wire::check_path;
///
/// assert!(check_path("device/vbd/51712").is_ok());
/// let error = check_path("data//name").unwrap_err();
/// assert_eq!(error.to_string(), "the path holds an empty name at byte 5");
/// ```
pub fn check_path(path: &str) -> Result<(), PathError> {
    if path.starts_with('@') {
        return Err(PathError::Special);
    }
    check_characters(path)
}

/// Checks a path to be watched, which may also be one of the special ones, such as `@releaseDomain`.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_watch_path(path: &str) -> Result<(), PathError> {
    check_characters(path)
}

fn check_characters(path: &str) -> Result<(), PathError> {
    let max = if path.starts_with('/') { MAX_ABSOLUTE_PATH } else { MAX_RELATIVE_PATH };
    if path.is_empty() {
        return Err(PathError::Empty);
    }
    // The root is the one path that ends in a slash.
    if path == "/" {
        return Ok(());
    }
    if path.len() > max {
        return Err(PathError::TooLong { len: path.len(), max });
    }
    let mut slash_before = false;
    for (at, character) in path.char_indices() {
        if !(character.is_ascii_alphanumeric() || matches!(character, '-' | '/' | '_' | '@')) {
            return Err(PathError::Character { character, at });
        }
        let slash = character == '/';
        if slash && slash_before {
            return Err(PathError::EmptyName { at });
        }
        slash_before = slash;
    }
    match slash_before {
        true => Err(PathError::EmptyName { at: path.len() }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String, ToString};

    #[test]
    fn paths_are_checked() {
        for good in ["/", "/a", "a", "/local/domain/0", "device/vbd/51712", "a-b_C@9", "data"] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        assert_eq!(check_path(""), Err(PathError::Empty));
        assert_eq!(check_path("/a/"), Err(PathError::EmptyName { at: 3 }));
        assert_eq!(check_path("//"), Err(PathError::EmptyName { at: 1 }));
        assert_eq!(check_path("a//b"), Err(PathError::EmptyName { at: 2 }));
        assert_eq!(check_path("a b"), Err(PathError::Character { character: ' ', at: 1 }));
        assert_eq!(check_path("/ä"), Err(PathError::Character { character: 'ä', at: 1 }));
        assert_eq!(check_path("a\0"), Err(PathError::Character { character: '\0', at: 1 }));
        assert_eq!(check_path("@releaseDomain"), Err(PathError::Special));
        assert_eq!(check_watch_path("@releaseDomain"), Ok(()));
    }

    #[test]
    fn absolute_and_relative_paths_have_their_own_limits() {
        let name = |len: usize| "x".repeat(len);
        assert_eq!(check_path(&name(2048)), Ok(()));
        assert_eq!(check_path(&name(2049)), Err(PathError::TooLong { len: 2049, max: 2048 }));
        let absolute = |len: usize| String::from("/") + &name(len - 1);
        assert_eq!(check_path(&absolute(3072)), Ok(()));
        let error = check_path(&absolute(3073)).unwrap_err();
        assert_eq!(error.to_string(), "the path has 3073 bytes, at most 3072 are allowed");
    }
}
