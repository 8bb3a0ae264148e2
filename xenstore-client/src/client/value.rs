//! Values as types.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use xen_hal::{DomId, GrantRef, PortNumber};

use crate::wire::{PathError, check_path};

/// A type that a node's value can be read as.
///
/// # Examples
///
/// ```
/// use xenstore_client::FromValue;
///
/// #[derive(Debug, PartialEq)]
/// enum Mode {
///     ReadOnly,
///     ReadWrite,
/// }
///
/// impl FromValue for Mode {
///     const EXPECTED: &'static str = "`r` or `w`";
///
///     fn from_value(value: &[u8]) -> Option<Self> {
///         match value {
///             b"r" => Some(Mode::ReadOnly),
///             b"w" => Some(Mode::ReadWrite),
///             _ => None,
///         }
///     }
/// }
///
/// # let xen = xen_sim::Xen::new(1);
/// # let store = xen.domain().store();
/// # xen.run(async move {
/// store.set("data/mode", "r").await?;
/// assert_eq!(store.get("data/mode").await?, Some(Mode::ReadOnly));
/// # Ok::<(), xenstore_client::Error>(())
/// # })?;
/// # Ok::<(), xenstore_client::Error>(())
/// ```
pub trait FromValue: Sized {
    /// What is expected, for the error: "a decimal number".
    const EXPECTED: &'static str;

    /// Reads the value.
    fn from_value(value: &[u8]) -> Option<Self>;
}

/// A type that can be written as a node's value.
pub trait ToValue {
    /// Appends the value.
    fn to_value(&self, out: &mut Vec<u8>);
}

struct Bytes<'a>(&'a mut Vec<u8>);

impl Write for Bytes<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

macro_rules! numbers {
    ($($type:ty => $expected:literal),*) => {$(
        impl FromValue for $type {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: &[u8]) -> Option<Self> {
                core::str::from_utf8(value).ok()?.parse().ok()
            }
        }

        impl ToValue for $type {
            fn to_value(&self, out: &mut Vec<u8>) {
                let _ = write!(Bytes(out), "{self}");
            }
        }
    )*};
}

numbers! {
    u8 => "a number from 0 to 255", u16 => "a number from 0 to 65535", u32 => "a number from 0 to 2^32 - 1",
    u64 => "a number from 0 to 2^64 - 1", usize => "a number from 0 to 2^64 - 1",
    i32 => "a number from -2^31 to 2^31 - 1", i64 => "a number from -2^63 to 2^63 - 1"
}

macro_rules! ids {
    ($($type:ident => $expected:literal),*) => {$(
        impl FromValue for $type {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: &[u8]) -> Option<Self> {
                FromValue::from_value(value).map($type)
            }
        }

        impl ToValue for $type {
            fn to_value(&self, out: &mut Vec<u8>) {
                self.0.to_value(out);
            }
        }
    )*};
}

ids! {
    DomId => "a domain's number", GrantRef => "a grant reference", PortNumber => "an event channel's port"
}

impl FromValue for bool {
    const EXPECTED: &'static str = "0 or 1";

    fn from_value(value: &[u8]) -> Option<Self> {
        match value {
            b"0" => Some(false),
            b"1" => Some(true),
            _ => None,
        }
    }
}

impl ToValue for bool {
    fn to_value(&self, out: &mut Vec<u8>) {
        out.push(b'0' + u8::from(*self));
    }
}

impl FromValue for String {
    const EXPECTED: &'static str = "text";

    fn from_value(value: &[u8]) -> Option<Self> {
        core::str::from_utf8(value).ok().map(String::from)
    }
}

impl ToValue for str {
    fn to_value(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
}

impl ToValue for String {
    fn to_value(&self, out: &mut Vec<u8>) {
        self.as_str().to_value(out);
    }
}

impl FromValue for Vec<u8> {
    const EXPECTED: &'static str = "bytes";

    fn from_value(value: &[u8]) -> Option<Self> {
        Some(value.to_vec())
    }
}

impl ToValue for [u8] {
    fn to_value(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

/// A path in the store, known to be one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Box<str>);

impl Path {
    /// Checks that the text is a path.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Path, PathError> {
        check_path(text).map(|()| Path(text.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl core::ops::Deref for Path {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromValue for Path {
    const EXPECTED: &'static str = "a path";

    fn from_value(value: &[u8]) -> Option<Self> {
        Path::new(core::str::from_utf8(value).ok()?).ok()
    }
}

impl ToValue for Path {
    fn to_value(&self, out: &mut Vec<u8>) {
        self.as_str().to_value(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn value(value: &(impl ToValue + ?Sized)) -> Vec<u8> {
        let mut out = Vec::new();
        value.to_value(&mut out);
        out
    }

    #[test]
    fn values_lead_back() {
        assert_eq!(u32::from_value(&value(&17_u32)), Some(17));
        assert_eq!(i64::from_value(&value(&-17_i64)), Some(-17));
        assert_eq!(bool::from_value(&value(&true)), Some(true));
        assert_eq!(GrantRef::from_value(&value(&GrantRef(9))), Some(GrantRef(9)));
        assert_eq!(Path::from_value(b"/local/domain/1").as_deref(), Some("/local/domain/1"));
        assert_eq!(value("x"), b"x");
    }

    #[test]
    fn what_is_no_value_is_none() {
        assert_eq!(u8::from_value(b"256"), None);
        assert_eq!(u8::from_value(b""), None);
        assert_eq!(u8::from_value(b"1 "), None);
        assert_eq!(u8::from_value(b"\xff"), None);
        assert_eq!(bool::from_value(b"yes"), None);
        assert_eq!(Path::from_value(b"a b"), None);
        assert_eq!(
            ErrorKind::value("text", &[b'x'; 100]),
            ErrorKind::Value { expected: "text", found: ("x".repeat(64) + "…").into() }
        );
    }
}
