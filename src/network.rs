//! The domain's network: its interfaces, and a TCP/IP stack on one of them.

mod auto;
mod config;
mod guard;
mod resolver;
mod slaac;

use alloc::boxed::Box;
use alloc::format;
use core::convert::Infallible;
use core::fmt;

use embassy_net::StackResources;
use xen_hal::{Clock, Errno};
use xen_netif::front::Gone;
use xenbus::Failure;
use xenstore_client::{Broken, Error};

use crate::machine::{XenPlatform, println};
use crate::{App, ArgError};

#[doc(hidden)]
pub use auto::{Autoconfiguration, SlaacDriver, SlaacRxToken, new_stack};
#[doc(hidden)]
pub use config::{config, configured};
pub use embassy_net as stack;
pub use front::{Info, Options, Statistics};
pub use guard::{Guarded, GuardedFrame};
#[doc(hidden)]
pub use resolver::fuzzing as resolver_fuzzing;
pub use resolver::{ResolveError, Resolver};
pub use xen_netif::front;
pub use xen_netif::{back, pcap};

/// A network interface that another domain serves; see [`xen_netif::front::Interface`].
pub type Interface = front::Interface<XenPlatform>;
/// A TCP/IP stack: what sockets are made on.
pub type Stack = embassy_net::Stack<'static>;

/// An interface with a stack on it.
#[derive(Clone)]
pub struct Network {
    /// The interface.
    pub interface: Interface,
    /// The stack, which has an address.
    pub stack: Stack,
}

/// Why there is no network.
#[derive(Debug)]
#[non_exhaustive]
pub enum NetworkError {
    /// The command line asks for what cannot be.
    Argument(ArgError),
    /// The domain has no store to find an interface in.
    NoStore(Broken),
    /// The store fails.
    Store(Error),
    /// The toolstack has given the domain no interface at all.
    None,
    /// Its backend cannot serve it, or it was removed, before it could be used: the log says why.
    Gone(Box<str>),
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkError::Argument(error) => error.fmt(f),
            NetworkError::NoStore(error) => write!(f, "network: {error}"),
            NetworkError::Store(error) => write!(f, "network: {error}"),
            NetworkError::None => {
                f.write_str("the domain has no network interface; its xl file lists them (vif = [...])")
            }
            NetworkError::Gone(name) => {
                write!(f, "network interface {name}: refused by its backend, or removed")
            }
        }
    }
}

impl core::error::Error for NetworkError {}

impl From<ArgError> for NetworkError {
    fn from(error: ArgError) -> Self {
        NetworkError::Argument(error)
    }
}

impl From<Broken> for NetworkError {
    fn from(error: Broken) -> Self {
        NetworkError::NoStore(error)
    }
}

impl From<Error> for NetworkError {
    fn from(error: Error) -> Self {
        NetworkError::Store(error)
    }
}

impl App {
    /// The network interface with the least number, once it can be used. It is driven by a task of its own until its
    /// last handle is dropped. To be called once: handles can be cloned.
    ///
    /// # Errors
    ///
    /// Where there is none, or it is removed before it can be used.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the interface.
    pub async fn interface(&self, options: Options) -> Result<Interface, NetworkError> {
        let store = self.store()?;
        let names = match store.list("device/vif").await {
            Ok(names) => names,
            Err(error) if error.errno() == Some(Errno::ENOENT) => return Err(NetworkError::None),
            Err(error) => return Err(error.into()),
        };
        let first = names.iter().filter_map(|name| name.parse::<u32>().ok()).min().ok_or(NetworkError::None)?;
        let path = format!("device/vif/{first}");
        let (interface, runner) = front::connect(&store, self.xen(), &path, options);
        // What ends it is in the log, and the link is down from then on.
        self.spawn(async { drop(runner.await) }).detach();
        let rings = interface.rings();
        let shown = path.clone();
        self.show_rings(move || {
            println!("sysrq: {shown}: {rings}");
            rings.is_alive()
        });
        match interface.ready().await {
            Ok(_) => Ok(interface),
            Err(Gone) => Err(NetworkError::Gone(path.into())),
        }
    }

    /// Makes this domain the network of others: each guest's interface that names it as its backend is given to `opened`
    /// as a [`Port`](back::Port), whose failure is what `xl` shows.
    ///
    /// # Errors
    ///
    /// Where there is no store, or it fails: an interface's own failures end that one alone.
    ///
    /// # Cancellation
    ///
    /// Dropping it stops all interfaces at once.
    pub async fn serve_interfaces(
        &self,
        limits: back::Limits,
        opened: impl Fn(back::Port) -> Result<(), Failure>,
    ) -> Result<Infallible, NetworkError> {
        let store = self.store()?;
        let opened = |port: back::Port| {
            let (rings, attach) = (port.rings(), port.attachment().clone());
            self.show_rings(move || {
                println!("sysrq: interface {} of {}: {rings}", attach.device, attach.domain);
                rings.is_alive()
            });
            opened(port)
        };
        Ok(back::serve(&store, self.xen(), limits, opened).await?)
    }

    /// A TCP/IP stack for so many sockets on the [first interface](App::interface), once it has an address.
    /// The command line says which: `ip=dhcp`, which is usual, or `ip=A.B.C.D/NN` with `gw=` and `dns=`; `ip6=auto` or
    /// `ip6=ADDRESS/NN`. The address is printed, and written to the store as `data/ip`. With `ip6=auto` routers tell it
    /// (RFC 4862), which may come later than an address of IPv4 and may change: the console reports that.
    ///
    /// Of the sockets DHCP takes one, and names another.
    ///
    /// # Errors
    ///
    /// If an argument is wrong, or there is no interface.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the interface, unless its address is on the way already.
    pub async fn network<const SOCKETS: usize>(&self) -> Result<Network, NetworkError> {
        let config = config(&self.args())?;
        let interface = self.interface(Options::default()).await?;
        let resources = Box::leak(Box::new(StackResources::<SOCKETS>::new()));
        let (stack, mut runner, routers) = new_stack(interface.device(), &config, resources, self.seed());
        self.spawn(async move { runner.run().await }).detach();
        self.spawn(routers.run(|text| println!("{text}"))).detach();
        let address = configured(stack, &config, &self.clock(), |text| println!("{text}")).await;
        println!("network: {address}");
        self.store()?.set("data/ip", address.as_str()).await?;
        Ok(Network { interface, stack })
    }

    /// Where ports and sequence numbers begin.
    fn seed(&self) -> u64 {
        use rand_core::TryRng;
        match self.entropy() {
            Ok(mut entropy) => entropy.try_next_u64().unwrap_or_default(),
            Err(_) => self.clock().now().as_nanos() as u64,
        }
    }
}
