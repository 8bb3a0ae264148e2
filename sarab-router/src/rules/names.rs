//! The addresses of the names in rules.

mod table;

use core::net::IpAddr;

pub use self::table::{NameTable, Question};

/// The number of a name among those of [`Rules::names`](super::Rules::names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(pub(super) u32);

/// Where the rules look up what names stand for. A lookup waits for nothing: it gives what is known.
pub trait Names {
    /// The addresses of a name, of both families; none if it has not been resolved.
    fn lookup(&self, name: NameId) -> &[IpAddr];
}

/// No name has an address.
impl Names for () {
    fn lookup(&self, _: NameId) -> &[IpAddr] {
        &[]
    }
}

impl<T: Names + ?Sized> Names for &T {
    fn lookup(&self, name: NameId) -> &[IpAddr] {
        (**self).lookup(name)
    }
}
