//! What can go wrong.

use core::fmt;

use xen_hal::{
    DomId, EventChannelError, EventChannelErrorKind, GrantError, GrantErrorKind, GrantRef, GrantStatus, OutOfPages,
};
use xen_ring::{BadIndex, GrantPagesError};
use xenstore_client::Error as StoreError;

use crate::layout::BadLayout;

/// Why a channel does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The peer has closed the channel, or is gone.
    Closed,
    /// The peer's index in the ring that this end reads, or in the one that it writes, is out of range.
    BadIndex(BadIndex),
    /// A message is longer than the ring that it is to be written to at once.
    TooLong {
        /// Its bytes.
        len: usize,
        /// The ring's.
        size: usize,
    },
}

impl From<BadIndex> for Error {
    fn from(error: BadIndex) -> Self {
        Error::BadIndex(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Closed => f.write_str("the peer has closed the vchan"),
            Error::BadIndex(error) => error.fmt(f),
            Error::TooLong { len, size } => write!(f, "message of {len} bytes: the ring has {size}"),
        }
    }
}

impl core::error::Error for Error {}

impl embedded_io_async::Error for Error {
    fn kind(&self) -> embedded_io_async::ErrorKind {
        match self {
            Error::Closed => embedded_io_async::ErrorKind::BrokenPipe,
            Error::BadIndex(_) => embedded_io_async::ErrorKind::InvalidData,
            Error::TooLong { .. } => embedded_io_async::ErrorKind::InvalidInput,
        }
    }
}

/// Why a channel could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetupError {
    /// The store has refused something, or is gone.
    Store(StoreError),
    /// No pages side by side are free for the rings.
    OutOfPages,
    /// The grant table refuses to grant the rings' pages, or to map those of the peer.
    Grants(GrantErrorKind),
    /// A page that the peer has named cannot be mapped.
    Refused {
        /// Who has named it.
        peer: DomId,
        /// The page, or the first of those of a ring.
        reference: GrantRef,
        /// Why it, or another one of that ring's, is not mapped.
        status: GrantStatus,
    },
    /// No event channel to the peer.
    Port {
        /// The domain at the other end.
        peer: DomId,
        /// Why.
        kind: EventChannelErrorKind,
    },
    /// The server has closed the channel that its keys are of.
    Closed {
        /// The server.
        peer: DomId,
    },
    /// The rings cannot be as they are said to be.
    Layout(BadLayout),
    /// The rings' indices are out of range from the start.
    BadIndex(BadIndex),
}

impl SetupError {
    pub(crate) fn map(error: &impl GrantError) -> SetupError {
        SetupError::Grants(error.kind())
    }

    pub(crate) fn port(peer: DomId, error: &impl EventChannelError) -> SetupError {
        SetupError::Port { peer, kind: error.kind() }
    }

    /// Whether it may be over once the store has other keys: what a server has left that is gone or has another client.
    pub(crate) fn is_stale(&self) -> bool {
        match self {
            SetupError::Port { kind, .. } => {
                matches!(kind, EventChannelErrorKind::Refused | EventChannelErrorKind::NoDomain)
            }
            SetupError::Refused { status, .. } => {
                matches!(status, GrantStatus::GeneralError | GrantStatus::BadDomain | GrantStatus::BadGrantRef)
            }
            SetupError::Closed { .. } => true,
            _ => false,
        }
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetupError::Store(error) => error.fmt(f),
            SetupError::OutOfPages => OutOfPages.fmt(f),
            SetupError::Grants(kind) => f.write_str(match kind {
                GrantErrorKind::NoGrants => "the grant table is full",
                GrantErrorKind::NoAddressSpace => "no address space left to map foreign pages",
                GrantErrorKind::OutOfMemory => "out of memory to map foreign pages",
                GrantErrorKind::PagesKept => "the peer maps too many pages that it is granted no longer",
                _ => "the grant table refuses the rings' pages",
            }),
            SetupError::Refused { peer, reference, status } => {
                write!(f, "cannot map the rings of {peer}, {reference}: {status}")
            }
            SetupError::Port { peer, kind } => {
                write!(f, "cannot open an event channel with {peer}: ")?;
                f.write_str(match kind {
                    EventChannelErrorKind::NoPorts => "no port is free",
                    EventChannelErrorKind::NoDomain => "no such domain",
                    EventChannelErrorKind::Refused => "the port is not open to this domain",
                    _ => "the hypervisor refuses",
                })
            }
            SetupError::Closed { peer } => write!(f, "{peer} has closed the vchan"),
            SetupError::Layout(error) => error.fmt(f),
            SetupError::BadIndex(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for SetupError {}

impl From<StoreError> for SetupError {
    fn from(error: StoreError) -> Self {
        SetupError::Store(error)
    }
}

impl From<BadLayout> for SetupError {
    fn from(error: BadLayout) -> Self {
        SetupError::Layout(error)
    }
}

impl From<BadIndex> for SetupError {
    fn from(error: BadIndex) -> Self {
        SetupError::BadIndex(error)
    }
}

impl<E: GrantError> From<GrantPagesError<E>> for SetupError {
    fn from(error: GrantPagesError<E>) -> Self {
        match error {
            GrantPagesError::Memory(_) => SetupError::OutOfPages,
            GrantPagesError::Grant(error) => SetupError::Grants(error.kind()),
        }
    }
}
