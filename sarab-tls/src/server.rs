//! The server's side.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::time::Duration;

use embedded_io_async::{Read, Write};
use rustls::server::{ServerConfig, UnbufferedServerConnection};
use rustls::version::{TLS12, TLS13};

use crate::certificates::shared_provider;
use crate::stream::{Connection, Limits};
use crate::tickets::Tickets;
use crate::time::WallClock;
use crate::{Certificates, ConfigError, Error, TlsStream};

/// What a server offers besides its certificates.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Protocols above TLS, the preferred one first: `b"http/1.1"` (ALPN, RFC 7301). Empty: the client's wish is ignored.
    pub alpn: Vec<Vec<u8>>,
    /// TLS 1.3 alone. Otherwise 1.2 is spoken too, with forward secrecy and authenticated ciphers only.
    pub only_tls13: bool,
    /// What one connection may take.
    pub limits: Limits,
}

/// A server: certificates, and the keys of its session tickets. Connections live on when its certificates are replaced.
pub struct Server {
    config: RefCell<Arc<ServerConfig>>,
    tickets: Arc<Tickets>,
    clock: WallClock,
    options: ServerOptions,
}

impl Server {
    /// A server with these certificates. `now` is the wall clock: time since 1970-01-01 00:00 UTC, as `XenClock::wall`.
    ///
    /// # Errors
    ///
    /// Where there is no certificate, or there are no random numbers.
    pub fn new(
        certificates: Certificates,
        options: ServerOptions,
        now: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Result<Server, ConfigError> {
        let clock = WallClock::new(now);
        let tickets = Arc::new(Tickets::new(clock.clone()).ok_or(ConfigError::Random)?);
        let config = configure(certificates, &options, tickets.clone(), clock.clone())?;
        Ok(Server { config: RefCell::new(config), tickets, clock, options })
    }

    /// Uses these certificates for connections from now on. Those that there are go on; tickets stay valid.
    ///
    /// # Errors
    ///
    /// Where there is no certificate; then the server goes on with the ones that it has.
    pub fn replace(&self, certificates: Certificates) -> Result<(), ConfigError> {
        let config = configure(certificates, &self.options, self.tickets.clone(), self.clock.clone())?;
        self.config.replace(config);
        Ok(())
    }

    /// Does the handshake with a client. There is no limit of time: the caller sets one, by dropping the future.
    ///
    /// # Errors
    ///
    /// Where the two do not agree, or the transport fails; the client was told why where that was possible.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the transport goes with it, unless it was passed as `&mut`.
    pub async fn accept<T: Read + Write>(&self, transport: T) -> Result<TlsStream<T>, Error<T::Error>> {
        let config = self.config.borrow().clone();
        let connection = UnbufferedServerConnection::new(config).map_err(Error::Protocol)?;
        TlsStream::begin(transport, Connection::Server(Box::new(connection)), &self.options.limits).await
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("options", &self.options).finish_non_exhaustive()
    }
}

fn configure(
    certificates: Certificates,
    options: &ServerOptions,
    tickets: Arc<Tickets>,
    clock: WallClock,
) -> Result<Arc<ServerConfig>, ConfigError> {
    if certificates.is_empty() {
        return Err(ConfigError::NoCertificate);
    }
    let versions: &[_] = if options.only_tls13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let mut config = ServerConfig::builder_with_details(shared_provider(), Arc::new(clock))
        .with_protocol_versions(versions)
        .map_err(ConfigError::Unusable)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.ticketer = tickets;
    config.alpn_protocols = options.alpn.clone();
    config.max_fragment_size = Some(options.limits.fragment());
    Ok(Arc::new(config))
}
