//! The domain's networks: its interfaces, and TCP/IP stacks on them.

mod arrivals;
mod config;
mod port;
mod resolver;
mod value;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use core::convert::Infallible;
use core::fmt;
use core::net::IpAddr;

use embassy_net::StackResources;
use futures_util::Stream;
use xen_hal::Clock;
use xen_netif::front::Gone;
use xenbus::Failure;
use xenstore_client::{Broken, Error};

use crate::machine::{XenPlatform, println};
use crate::{App, ArgError};

pub use arrivals::NetworkEvent;
#[doc(hidden)]
pub use config::config;
pub use embassy_net as stack;
pub use front::{Info, Options, Statistics};
#[doc(hidden)]
pub use resolver::fuzzing as resolver_fuzzing;
pub use resolver::{ResolveError, Resolver};
pub use sarab_net::{Addresses, Config, Counters, IpCidr, Ipv4, Ipv4Cidr, Ipv6, Ipv6Cidr, Route};
pub use value::Network;
pub use xen_netif::front;
pub use xen_netif::{back, checksum, headers, pcap};

/// A network interface that another domain serves; see [`xen_netif::front::Interface`].
pub type Interface = front::Interface<XenPlatform>;
/// A TCP/IP stack: what sockets are made on.
pub type Stack = embassy_net::Stack<'static>;

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
    /// The domain has no interface of this name.
    NotFound(Box<str>),
    /// It is no interface's name.
    Name(Box<str>),
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
            NetworkError::NotFound(name) => {
                write!(f, "network interface {name}: the domain has none of this name (vif = [...] in its xl file)")
            }
            NetworkError::Name(name) => write!(f, "{name}: expected the name of a network interface such as vif/0"),
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
    /// A network interface, `vif/1`, or with `vif` the one with the least number, once it can be used. It is driven by a
    /// task of its own until its last handle is dropped. To be called once for each: handles can be cloned.
    ///
    /// # Errors
    ///
    /// Where there is none, or it is removed before it can be used.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the interface.
    pub async fn interface(&self, name: &str, options: Options) -> Result<Interface, NetworkError> {
        let store = self.store()?;
        let number = self.interface_number(name).await?;
        let path = format!("device/vif/{number}");
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

    async fn interface_number(&self, name: &str) -> Result<u32, NetworkError> {
        let numbers = arrivals::numbers(&self.store()?).await?;
        if name == "vif" {
            return numbers.first().copied().ok_or(NetworkError::None);
        }
        let number = name.strip_prefix("vif/").and_then(|number| number.parse().ok());
        let number = number.ok_or_else(|| NetworkError::Name(name.into()))?;
        match numbers.contains(&number) {
            true => Ok(number),
            false => Err(NetworkError::NotFound(name.into())),
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

    /// The domain's network interfaces as they come and go: those that there are come first.
    ///
    /// # Errors
    ///
    /// Where there is no store, or it fails.
    ///
    /// # Cancellation
    ///
    /// Dropping the stream ends its watch.
    ///
    /// # Examples
    ///
    /// ```
    /// use core::pin::pin;
    ///
    /// use futures_util::StreamExt;
    /// use sarab::App;
    /// use sarab::network::NetworkEvent;
    ///
    /// /// Has a task for each network.
    /// async fn all(app: App) -> sarab::Result {
    ///     let mut networks = pin!(app.networks().await?);
    ///     while let Some(event) = networks.next().await {
    ///         if let NetworkEvent::Arrived(name) = event? {
    ///             let serve = async move {
    ///                 match app.network(&name).await {
    ///                     Ok(network) => sarab::println!("{name}: {}", network.addresses()),
    ///                     Err(error) => sarab::println!("{error}"),
    ///                 }
    ///             };
    ///             app.spawn(serve).detach();
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub async fn networks(&self) -> Result<impl Stream<Item = Result<NetworkEvent, Error>>, NetworkError> {
        Ok(arrivals::arrivals(self.store()?).await?)
    }

    /// A TCP/IP stack on an [interface](App::interface), `vif/1`, or with `vif` the first one, once it has an address.
    ///
    /// The command line says which: `ip=dhcp`, which is usual, or `ip=A.B.C.D/NN` with `gw=`; `ip6=auto` or `ip6=ADDRESS/NN`
    /// with `gw6=`; `dns=`. `vif` and `vif/0` take these, and others their own: `vif1.ip=`. The addresses are printed, and
    /// written to the store as `data/ip` or `data/vif/1/ip` likewise, whenever they change: a DHCP server may give others,
    /// and with `ip6=auto` routers tell them (RFC 4862), which may be later than an address of IPv4.
    ///
    /// # Errors
    ///
    /// If an argument is wrong, or there is no such interface.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the interface, unless its address is on the way already.
    pub async fn network(&self, name: &str) -> Result<Network, NetworkError> {
        let number = self.interface_number(name).await?;
        // By name, and not by who is there: a second interface is not to take the first one's address while that is away.
        let is_main = name == "vif" || number == 0;
        let own = format!("vif/{number}");
        let prefix = if is_main { String::new() } else { format!("vif{number}.") };
        let config = config::config(&self.args(), &prefix)?;
        let key = if is_main { "data/ip".to_string() } else { format!("data/vif/{number}/ip") };
        let title = if is_main { "network".to_string() } else { format!("network {own}") };
        let network =
            self.network_with(&own, config, Options::default(), move |text| println!("{title}: {text}")).await?;
        let store = self.store()?;
        let shown = network.clone();
        let mut text = network.configured().await.to_string();
        store.set(&key, text.as_str()).await?;
        self.spawn(async move {
            loop {
                shown.changed().await;
                let now = shown.addresses().to_string();
                // A store that fails now is others' to notice.
                if now != text && store.set(&key, now.as_str()).await.is_ok() {
                    text = now;
                }
            }
        })
        .detach();
        Ok(network)
    }

    /// [`network`](App::network) without the command line and the store, and before it has an address. What an administrator
    /// is to know of its addresses goes to `say`.
    ///
    /// # Errors
    ///
    /// As [`interface`](App::interface).
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the interface.
    pub async fn network_with(
        &self,
        name: &str,
        config: Config,
        options: Options,
        say: impl Fn(fmt::Arguments<'_>) + 'static,
    ) -> Result<Network, NetworkError> {
        let interface = self.interface(name, options).await?;
        let resources = Box::leak(Box::new(StackResources::<0>::new()));
        let device = port::Port(interface.device());
        let (stack, mut runner, configurator, link) = sarab_net::new(device, config, resources, self.seed());
        self.spawn(async move { runner.run().await }).detach();
        self.spawn(configurator.run(say)).detach();
        let name = format!("vif/{}", interface.name()).into();
        let resolver = self.resolver(stack);
        #[cfg(feature = "guest-agent")]
        if let Ok(number) = interface.name().parse() {
            self.spawn(report_addresses(*self, number, link.clone())).detach();
        }
        Ok(Network { interface, stack, name, link, resolver })
    }

    /// Has the toolstack see an interface's addresses, each with the length of its prefix, where the feature `guest-agent` is
    /// on: `attr/vif/N/ipv4/0` in the store, and so on (docs/misc/xenstore-paths.pandoc). They take the place of those
    /// before; with none, the interface has no addresses. [`network`](App::network) does that by itself: this is for a stack
    /// of one's own on an [interface](App::interface).
    ///
    /// At most 10 of each family are told, at once or a second after the last change.
    pub fn report_addresses(&self, interface: u32, addresses: impl IntoIterator<Item = (IpAddr, u8)>) {
        #[cfg(feature = "guest-agent")]
        self.own.domain().agent.set_addresses(interface, addresses.into_iter().collect());
        #[cfg(not(feature = "guest-agent"))]
        let _ = (interface, addresses);
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

/// Has the toolstack see an interface's addresses for as long as there is a backend at its other end.
#[cfg(feature = "guest-agent")]
async fn report_addresses(app: App, number: u32, link: sarab_net::Interface) {
    loop {
        let addresses = if link.has_carrier() { link.addresses() } else { Addresses::default() };
        app.report_addresses(number, addresses.iter().map(|cidr| (cidr.address().into(), cidr.prefix_len())));
        link.changed().await;
    }
}
