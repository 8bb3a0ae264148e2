//! The ABI's numbers as types, so that one cannot stand for another.

use core::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $show:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $show, self.0)
            }
        }

        impl core::str::FromStr for $name {
            type Err = core::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// A domain's number (`domid_t`, xen/include/public/xen.h).
    DomId(u16), "d{}"
}

id! {
    /// An entry of a domain's grant table (`grant_ref_t`, xen/include/public/grant_table.h).
    GrantRef(u32), "gref {}"
}

id! {
    /// A domain's end of an event channel (`evtchn_port_t`, xen/include/public/event_channel.h).
    PortNumber(u32), "port {}"
}

id! {
    /// A page of the guest's physical address space (`gfn`): its address divided by [`PAGE_SIZE`](crate::PAGE_SIZE).
    Frame(u64), "frame {:#x}"
}

impl DomId {
    /// The caller itself, whatever its number (`DOMID_SELF`).
    ///
    /// # Examples
    ///
    /// ```
    /// use xen_hal::DomId;
    ///
    /// let domain: DomId = "3".parse()?;
    /// assert_eq!(domain.to_string(), "d3");
    /// assert!(domain < DomId::FIRST_RESERVED);
    /// # Ok::<(), core::num::ParseIntError>(())
    /// ```
    pub const SELF: DomId = DomId(0x7ff0);
    /// The domain that the toolstack usually runs in.
    pub const DOM0: DomId = DomId(0);
    /// The first number that names no ordinary domain (`DOMID_FIRST_RESERVED`).
    pub const FIRST_RESERVED: DomId = DomId(0x7ff0);
}
