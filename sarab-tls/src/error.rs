//! What can go wrong.

use alloc::string::String;
use core::fmt;

use embedded_io_async::ErrorKind;

/// Why a connection failed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error<E> {
    /// The transport failed.
    Transport(E),
    /// The other end closed the transport without saying so in TLS (`close_notify`): what it sent may have been cut by
    /// somebody in between.
    Truncated,
    /// The two ends do not agree, a certificate was refused, or a record is damaged.
    Protocol(rustls::Error),
    /// The handshake, or one message, is longer than so many bytes.
    TooLong(usize),
    /// A certificate cannot be verified, since the wall clock is wrong.
    Clock(ClockError),
    /// The name of the server is neither a DNS name nor an address.
    Name(String),
    /// This side was closed: nothing can be written.
    Closed,
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Transport(error) => write!(f, "TLS: the transport failed: {error}"),
            Error::Truncated => f.write_str("TLS: the connection was cut: its end was not announced (close_notify)"),
            Error::Protocol(error) => write!(f, "TLS: {error}"),
            Error::TooLong(most) => write!(f, "TLS: a handshake of more than {most} bytes"),
            Error::Clock(error) => write!(f, "TLS: {error}"),
            Error::Name(name) => write!(f, "TLS: the server's name {name:?} is neither a DNS name nor an IP address"),
            Error::Closed => f.write_str("TLS: this side of the connection was closed"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for Error<E> {}

impl<E: embedded_io_async::Error> embedded_io_async::Error for Error<E> {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::Transport(error) => error.kind(),
            Error::Truncated => ErrorKind::ConnectionAborted,
            Error::Protocol(_) | Error::TooLong(_) => ErrorKind::InvalidData,
            Error::Clock(_) => ErrorKind::Other,
            Error::Name(_) => ErrorKind::InvalidInput,
            Error::Closed => ErrorKind::BrokenPipe,
        }
    }
}

/// The wall clock cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockError {
    /// Seconds since 1970 that it shows.
    pub seconds: u64,
}

impl fmt::Display for ClockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let year = 1970 + self.seconds / 31_556_952;
        write!(
            f,
            "the wall clock shows the year {year}, so no certificate can be verified; set the host's clock, from which \
             Xen gives the domain its own"
        )
    }
}

impl core::error::Error for ClockError {}

/// Why certificates, keys or roots cannot be used.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no certificate in the PEM text.
    NoCertificate,
    /// There is no private key in the PEM text. Encrypted keys cannot be read.
    NoKey,
    /// The PEM text is damaged.
    Pem(String),
    /// A certificate or a key cannot be used, or they do not belong together.
    Unusable(rustls::Error),
    /// There are more than so many certificates.
    TooMany(usize),
    /// There are no random numbers.
    Random,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::NoCertificate => f.write_str("no certificate: there is no \"BEGIN CERTIFICATE\" in the PEM text"),
            ConfigError::NoKey => f.write_str(
                "no private key: there is no \"BEGIN PRIVATE KEY\", \"BEGIN EC PRIVATE KEY\" or \"BEGIN RSA PRIVATE KEY\" in \
                 the PEM text; an encrypted key has to be decrypted first (openssl pkey)",
            ),
            ConfigError::Pem(why) => write!(f, "the PEM text is damaged: {why}"),
            ConfigError::Unusable(rustls::Error::InconsistentKeys(_)) => {
                f.write_str("the private key is not the one of the first certificate in the PEM text")
            }
            ConfigError::Unusable(error) => write!(f, "the certificate cannot be used: {error}"),
            ConfigError::TooMany(most) => write!(f, "more than {most} certificates"),
            ConfigError::Random => f.write_str("no random numbers for the keys of session tickets"),
        }
    }
}

impl core::error::Error for ConfigError {}
