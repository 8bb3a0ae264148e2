//! A network as a value.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use sarab_net::{Addresses, Config, Counters, Route};

use super::{Interface, ResolveError, Resolver, Stack};

/// An interface with a TCP/IP stack on it. Clones are the same one; when the last is gone the stack goes on.
#[derive(Clone)]
pub struct Network {
    /// The interface.
    pub interface: Interface,
    /// The stack.
    pub stack: Stack,
    pub(super) name: Rc<str>,
    pub(super) link: sarab_net::Interface,
    pub(super) resolver: Resolver,
}

impl Network {
    /// Its name: `vif/0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its MAC: another one after it was unplugged, and another interface was plugged into its place.
    pub fn mac(&self) -> [u8; 6] {
        self.link.mac()
    }

    /// The most bytes of an IP packet on the wire.
    pub fn mtu(&self) -> u16 {
        self.interface.info().mtu
    }

    /// Whether there is a backend at the other end of the wire.
    pub fn has_carrier(&self) -> bool {
        self.link.has_carrier()
    }

    /// Its addresses, routes and name servers.
    pub fn addresses(&self) -> Addresses {
        self.link.addresses()
    }

    /// Where its packets go.
    pub fn routes(&self) -> Vec<Route> {
        self.link.addresses().routes
    }

    /// Whom it asks for names.
    pub fn name_servers(&self) -> Vec<IpAddr> {
        self.link.addresses().name_servers
    }

    /// How it comes by its addresses.
    pub fn config(&self) -> Config {
        self.link.config()
    }

    /// Has it come by its addresses in another way from now on. Connections of addresses that it loses end.
    pub fn configure(&self, config: Config) {
        self.link.configure(config);
    }

    /// Waits until it has an address beside the link-local one.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn configured(&self) -> Addresses {
        self.link.configured().await
    }

    /// Waits until its MAC, carrier, addresses, routes or name servers are others than when it returned last. Each clone
    /// counts for itself, from where it was made.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the next call still returns for what has changed.
    ///
    /// # Examples
    ///
    /// ```
    /// use sarab::network::Network;
    ///
    /// /// Says what becomes of a network.
    /// async fn watch(network: Network) {
    ///     loop {
    ///         let carrier = if network.has_carrier() { "up" } else { "down" };
    ///         sarab::println!("{}: {carrier}, {}", network.name(), network.addresses());
    ///         network.changed().await;
    ///     }
    /// }
    /// ```
    pub async fn changed(&self) {
        self.link.changed().await;
    }

    /// A name's addresses, at least one, as [`Resolver::resolve`] finds them.
    ///
    /// # Errors
    ///
    /// Where there is no address, or no answer.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        self.resolver.resolve(name).await
    }

    /// What finds names' addresses, and remembers them.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Asks whether anybody has its addresses, then tells everybody of them, as after a restore. A wire that was unplugged
    /// does that by itself.
    pub fn announce(&self) {
        self.link.announce();
    }

    /// Packets that could not be sent, and frames that were not for this host.
    pub fn counters(&self) -> Counters {
        self.link.counters()
    }

    /// How many neighbours it knows.
    pub fn neighbors(&self) -> usize {
        self.link.neighbors()
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses = self.addresses();
        f.debug_struct("Network")
            .field("name", &self.name)
            .field("mac", &self.mac())
            .field("addresses", &addresses)
            .finish()
    }
}
