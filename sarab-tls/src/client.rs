//! The client's side.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use embedded_io_async::{Read, Write};
use pki_types::ServerName;
use rustls::RootCertStore;
use rustls::client::{ClientConfig, Resumption, UnbufferedClientConnection};
use rustls::version::{TLS12, TLS13};

use crate::certificates::{certificates, shared_provider};
use crate::sessions::Sessions;
use crate::stream::{Connection, Limits};
use crate::time::WallClock;
use crate::{ConfigError, Error, TlsStream};

/// The certificates that a client trusts.
#[derive(Clone, Debug)]
pub struct Roots {
    store: RootCertStore,
}

impl Roots {
    /// The certificates in this PEM text, such as Debian's `/etc/ssl/certs/ca-certificates.crt`. Those that cannot be used
    /// are left out, as others do.
    ///
    /// # Errors
    ///
    /// Where there is no certificate in it that can be used.
    pub fn from_pem(text: &[u8]) -> Result<Roots, ConfigError> {
        let mut store = RootCertStore::empty();
        let (usable, _) = store.add_parsable_certificates(certificates(text)?);
        match usable {
            0 => Err(ConfigError::NoCertificate),
            _ => Ok(Roots { store }),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }
}

/// What a client asks for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Protocols above TLS, the preferred one first (ALPN, RFC 7301).
    pub alpn: Vec<Vec<u8>>,
    /// TLS 1.3 alone.
    pub only_tls13: bool,
    /// Servers whose sessions are kept, to be resumed. 0: none.
    pub sessions: usize,
    /// What one connection may take.
    pub limits: Limits,
}

impl Default for ClientOptions {
    fn default() -> Self {
        // Servers send chains of certificates.
        let limits = Limits { handshake: 128 << 10, ..Limits::default() };
        ClientOptions { alpn: Vec::new(), only_tls13: false, sessions: 16, limits }
    }
}

/// A client: the roots that it trusts, and sessions to resume.
pub struct Client {
    config: Arc<ClientConfig>,
    clock: WallClock,
    limits: Limits,
}

impl Client {
    /// A client that trusts these roots. `now` is the wall clock: time since 1970-01-01 00:00 UTC, as `XenClock::wall`.
    ///
    /// # Errors
    ///
    /// Where rustls does not take the options.
    pub fn new(
        roots: Roots,
        options: ClientOptions,
        now: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Result<Client, ConfigError> {
        let clock = WallClock::new(now);
        let versions: &[_] = if options.only_tls13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
        let mut config = ClientConfig::builder_with_details(shared_provider(), Arc::new(clock.clone()))
            .with_protocol_versions(versions)
            .map_err(ConfigError::Unusable)?
            .with_root_certificates(roots.store)
            .with_no_client_auth();
        config.alpn_protocols = options.alpn;
        config.max_fragment_size = Some(options.limits.fragment());
        config.resumption = match options.sessions {
            0 => Resumption::disabled(),
            servers => Resumption::store(Arc::new(Sessions::new(servers))),
        };
        Ok(Client { config: Arc::new(config), clock, limits: options.limits })
    }

    /// Does the handshake with the server of this name, a DNS name or an IP address, for which its certificate has to be
    /// valid. There is no limit of time: the caller sets one, by dropping the future.
    ///
    /// # Errors
    ///
    /// Where the certificate is refused, the two do not agree, the transport fails, or the wall clock cannot be right.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the transport goes with it, unless it was passed as `&mut`.
    pub async fn connect<T: Read + Write>(&self, name: &str, transport: T) -> Result<TlsStream<T>, Error<T::Error>> {
        self.clock.check().map_err(Error::Clock)?;
        let name = ServerName::try_from(name).map_err(|_| Error::Name(name.to_owned()))?.to_owned();
        let connection = UnbufferedClientConnection::new(self.config.clone(), name).map_err(Error::Protocol)?;
        TlsStream::begin(transport, Connection::Client(Box::new(connection)), &self.limits).await
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("limits", &self.limits).finish_non_exhaustive()
    }
}
