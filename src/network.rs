//! The domain's network: its interfaces, and a TCP/IP stack on one of them.

mod guard;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use core::convert::Infallible;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use embassy_net::{Config, ConfigV4, ConfigV6, Ipv4Cidr, Ipv6Cidr, StackResources, StaticConfigV4, StaticConfigV6};
use futures_util::future::{Either, select};
use platform_xen::{XenGrantTable, println};
use xen_hal::{Clock, Errno};
use xen_netif::front::Gone;
use xenstore_client::xenbus::Failure;
use xenstore_client::{Broken, Error};

use crate::{App, ArgError, FromArg};

pub use embassy_net as stack;
pub use front::{Info, Options, Statistics};
pub use guard::{Guarded, GuardedFrame};
pub use xen_netif::front;
pub use xen_netif::{back, pcap};

/// A network interface that another domain serves; see [`xen_netif::front::Interface`].
pub type Interface = front::Interface<XenGrantTable>;
/// A TCP/IP stack: what sockets are made on.
pub type Stack = embassy_net::Stack<'static>;

/// How long an address may take before the console tells of it.
const PATIENCE: Duration = Duration::from_secs(10);

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
                write!(f, "network interface {name}: its backend does not serve it, or it was removed")
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

/// `ip=`.
enum V4 {
    Dhcp,
    Static(Ipv4Cidr),
}

impl FromArg for V4 {
    const EXPECTED: &'static str = "dhcp, or an address with its prefix such as 10.0.0.2/24";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        match value? {
            "dhcp" => Some(V4::Dhcp),
            text => {
                let (address, prefix) = text.split_once('/')?;
                let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
                let Host(address) = Host::from_arg(Some(address))?;
                Some(V4::Static(Ipv4Cidr::new(address, prefix)))
            }
        }
    }
}

/// `gw=`, `dns=`: an address of a single host. The stack panics at others.
struct Host(Ipv4Addr);

impl FromArg for Host {
    const EXPECTED: &'static str = "a host's IPv4 address such as 10.0.0.1";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        value?.parse().ok().filter(|address: &Ipv4Addr| guard::is_host(*address)).map(Host)
    }
}

/// `ip6=`.
enum V6 {
    Auto,
    Static(Ipv6Cidr),
}

impl FromArg for V6 {
    const EXPECTED: &'static str = "auto, or an address with its prefix such as fd00::2/64";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        match value? {
            "auto" => Some(V6::Auto),
            text => {
                let (address, prefix) = text.split_once('/')?;
                let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 128)?;
                let address = address.parse::<Ipv6Addr>().ok()?;
                // The stack panics at others.
                let host = !address.is_unspecified() && !address.is_multicast();
                host.then(|| V6::Static(Ipv6Cidr::new(address, prefix)))
            }
        }
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
        let (interface, runner) =
            front::connect(&store, self.grant_table(), self.event_channels(), self.clock(), &path, options);
        // What ends it is in the log, and the link is down from then on.
        self.spawn(async { drop(runner.await) }).detach();
        let rings = interface.rings();
        let shown = path.clone();
        self.show_rings(move || {
            println!("sysrq: {shown}: {rings}");
            rings.is_there()
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
            let (rings, attach) = (port.rings(), port.attach().clone());
            self.show_rings(move || {
                println!("sysrq: interface {} of {}: {rings}", attach.device, attach.domain);
                rings.is_there()
            });
            opened(port)
        };
        Ok(back::serve(&store, self.grant_table(), self.event_channels(), self.clock(), limits, opened).await?)
    }

    /// A TCP/IP stack with room for so many sockets on the [first interface](App::interface), once it has an address.
    /// The command line says which: `ip=dhcp`, which is usual, or `ip=A.B.C.D/NN` with `gw=` and `dns=`; `ip6=auto` or
    /// `ip6=ADDRESS/NN`. The address is printed, and written to the store as `data/ip`.
    ///
    /// Of the sockets DHCP takes one, and names another.
    ///
    /// # Errors
    ///
    /// Where a word is wrong, or there is no interface.
    ///
    /// # Cancellation
    ///
    /// Dropping the future closes the interface, unless its address is on the way already.
    pub async fn network<const SOCKETS: usize>(&self) -> Result<Network, NetworkError> {
        let config = self.network_config()?;
        let interface = self.interface(Options::default()).await?;
        let resources = Box::leak(Box::new(StackResources::<SOCKETS>::new()));
        let (stack, mut runner) = embassy_net::new(Guarded(interface.device()), config, resources, self.seed());
        self.spawn(async move { runner.run().await }).detach();
        {
            let up = core::pin::pin!(stack.wait_config_up());
            let clock = self.clock();
            let late = core::pin::pin!(clock.sleep(PATIENCE));
            if let Either::Right(((), up)) = select(up, late).await {
                println!("network: no address after {} s; is there a DHCP server?", PATIENCE.as_secs());
                up.await;
            }
        }
        let address = addresses(stack);
        println!("network: {address}");
        self.store()?.set("data/ip", address.as_str()).await?;
        Ok(Network { interface, stack })
    }

    fn network_config(&self) -> Result<Config, NetworkError> {
        let args = self.args();
        let mut config = Config::default();
        let gateway = args.get("gw")?.map(|Host(address)| address);
        let dns = args.get("dns")?.map(|Host(address)| address);
        config.ipv4 = match args.get_or("ip", V4::Dhcp)? {
            V4::Dhcp => ConfigV4::Dhcp(Default::default()),
            V4::Static(address) => {
                let mut config = StaticConfigV4 { address, gateway, dns_servers: Default::default() };
                config.dns_servers.extend(dns);
                ConfigV4::Static(config)
            }
        };
        config.ipv6 = match args.get::<V6>("ip6")? {
            None => ConfigV6::None,
            Some(V6::Auto) => ConfigV6::Slaac,
            Some(V6::Static(address)) => {
                ConfigV6::Static(StaticConfigV6 { address, gateway: None, dns_servers: Default::default() })
            }
        };
        Ok(config)
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

/// A stack's addresses, in words.
fn addresses(stack: Stack) -> String {
    let mut text = String::new();
    if let Some(config) = stack.config_v4() {
        text += &format!("{}", config.address);
        if let Some(gateway) = config.gateway {
            text += &format!(" by way of {gateway}");
        }
    }
    if let Some(config) = stack.config_v6() {
        text += &format!("{}{}", if text.is_empty() { "" } else { ", " }, config.address);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_command_line_are_hosts() {
        let ip = |text| V4::from_arg(Some(text)).is_some();
        assert!(ip("10.0.0.2/24") && ip("10.0.0.2/0") && ip("192.168.1.1/32") && ip("dhcp"));
        for bad in
            ["0.0.0.0/0", "224.0.0.1/24", "255.255.255.255/32", "10.0.0.2", "10.0.0.2/33", "10.0.0.2/-1", "/", ""]
        {
            assert!(!ip(bad), "{bad}");
        }
        let host = |text| Host::from_arg(Some(text)).is_some();
        assert!(host("10.0.0.1") && !host("0.0.0.0") && !host("239.1.2.3") && !host("255.255.255.255") && !host("x"));
        let ip6 = |text| V6::from_arg(Some(text)).is_some();
        assert!(ip6("auto") && ip6("fd00::2/64") && ip6("fe80::1/128"));
        assert!(!ip6("ff02::1/64") && !ip6("::/0") && !ip6("fd00::2/129") && !ip6("fd00::2"));
    }
}
