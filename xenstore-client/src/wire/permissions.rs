//! Who may do what with a node.

use core::fmt;
use core::str::FromStr;

use xen_hal::DomId;

/// What a domain may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Access {
    /// Nothing.
    None,
    /// Read it and list it.
    Read,
    /// Write it and make nodes below it.
    Write,
    /// Both.
    ReadWrite,
}

/// One entry of a node's permissions.
///
/// The first entry of a list names the node's owner, who may do everything; its access is what all domains get that no
/// other entry names. Further entries say what single domains may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Permission {
    /// The domain.
    pub domain: DomId,
    /// What it may do; in the first entry, what all others may do.
    pub access: Access,
}

impl Permission {
    /// The entry for `domain`.
    pub const fn new(domain: DomId, access: Access) -> Permission {
        Permission { domain, access }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.access {
            Access::None => 'n',
            Access::Read => 'r',
            Access::Write => 'w',
            Access::ReadWrite => 'b',
        };
        write!(f, "{letter}{}", self.domain.0)
    }
}

impl FromStr for Permission {
    type Err = ();

    fn from_str(text: &str) -> Result<Permission, ()> {
        let mut characters = text.chars();
        let access = match characters.next() {
            Some('n') => Access::None,
            Some('r') => Access::Read,
            Some('w') => Access::Write,
            Some('b') => Access::ReadWrite,
            _ => return Err(()),
        };
        let domain = characters.as_str().parse().map_err(|_| ())?;
        Ok(Permission { domain, access })
    }
}
