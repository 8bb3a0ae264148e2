//! All that a text says.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sarab_net::IpCidr;

use super::check;
use super::diagnostic::{Errors, Warning};
use super::rule::{PortRange, Transport};
use super::set::Rules;

/// The configuration of a gate: its networks, translations and limits, and the rules.
///
/// It is displayed as a canonical text. Parsing that gives an equal configuration; lines and warnings do not count. The canonical
/// text can be a little longer than the one that was read, and so too long if that was almost [`MAX_TEXT`](super::MAX_TEXT).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The gate's own address in each network of clients. The networks share no address.
    pub clients: Vec<IpCidr>,
    /// The domain that DHCP and router advertisements give to clients, in lower case.
    pub search: Option<Box<str>>,
    /// Clients with fixed addresses and names. MACs, names and addresses are each there once.
    pub hosts: Vec<Host>,
    /// Whose packets leave with the gate's address as their source.
    pub masquerade: Masquerade,
    /// Ports of the gate's own addresses that lead to clients, in the order to look at them: what is published on one
    /// address comes before what is published on all of them.
    pub publish: Vec<Publish>,
    /// Addresses that are translated one to one. No port of them is published.
    pub maps: Vec<Map>,
    /// What one client can use.
    pub limits: Limits,
    /// Whether packets that are dropped or rejected are logged. They are not, unless the text says so.
    pub log_drops: bool,
    /// What is allowed.
    pub rules: Rules,
    /// What is probably not meant, in the order of the lines: at most [`Errors::MAX`].
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Reads a text.
    ///
    /// ```
    /// use sarab_router::rules::Config;
    ///
    /// let config = Config::parse("clients 10.0.1.1/24\npublish tcp 8080 to 10.0.1.9 port 80\nreject udp to any port 53\n")?;
    /// assert_eq!(config.publish[0].to_ports.first, 80);
    ///
    /// let errors = Config::parse("accept tcp to any port htt").unwrap_err();
    /// assert_eq!(
    ///     errors.to_string(),
    ///     "gate.rules:1:24: expected a port or a range such as 80 or 8000-8010, found `htt`\n    \
    ///      accept tcp to any port htt\n                           ^^^"
    /// );
    /// # Ok::<(), sarab_router::rules::Errors>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What has no meaning, with its places: the first [`Errors::MAX`] of them.
    pub fn parse(text: &str) -> Result<Config, Errors> {
        check::config(text)
    }

    /// The host of this name.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| *host.name == *name)
    }
}

impl Default for Config {
    /// The configuration of an empty text.
    fn default() -> Self {
        Config {
            clients: Vec::new(),
            search: None,
            hosts: Vec::new(),
            masquerade: Masquerade::default(),
            publish: Vec::new(),
            maps: Vec::new(),
            limits: Limits::default(),
            log_drops: false,
            rules: Rules::default(),
            warnings: Vec::new(),
        }
    }
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let Config { clients, search, hosts, masquerade, publish, maps, limits, log_drops, rules, warnings: _ } = self;
        *clients == other.clients
            && *search == other.search
            && *hosts == other.hosts
            && *masquerade == other.masquerade
            && *publish == other.publish
            && *maps == other.maps
            && *limits == other.limits
            && *log_drops == other.log_drops
            && *rules == other.rules
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for address in &self.clients {
            writeln!(f, "clients {address}")?;
        }
        if let Some(search) = &self.search {
            writeln!(f, "search {search}")?;
        }
        for host in &self.hosts {
            writeln!(f, "{host}")?;
        }
        writeln!(f, "{}", self.masquerade)?;
        for publish in &self.publish {
            writeln!(f, "{publish}")?;
        }
        for map in &self.maps {
            writeln!(f, "{map}")?;
        }
        write!(f, "{}", self.limits)?;
        writeln!(f, "log {}", if self.log_drops { "drops" } else { "off" })?;
        write!(f, "{}", self.rules)
    }
}

/// A client with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its MAC.
    pub mac: [u8; 6],
    /// Its name, in lower case: one label.
    pub name: Box<str>,
    /// Its fixed addresses, each in a network of clients. There can be none, of one family or of both.
    pub addresses: Vec<IpAddr>,
}

impl Host {
    /// Its first IPv4 address.
    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    /// Its first IPv6 address.
    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {} {}", Mac(self.mac), self.name)?;
        self.addresses.iter().try_for_each(|address| write!(f, " {address}"))
    }
}

/// A MAC as it is written.
pub(super) struct Mac(pub(super) [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Which packets of clients leave by an uplink with the gate's address as their source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// Those of IPv4.
    pub v4: bool,
    /// Those of IPv6.
    pub v6: bool,
}

impl Default for Masquerade {
    /// All.
    fn default() -> Self {
        Masquerade { v4: true, v6: true }
    }
}

impl fmt::Display for Masquerade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.v4, self.v6) {
            (true, true) => "masquerade",
            (true, false) => "masquerade v4",
            (false, true) => "masquerade v6",
            (false, false) => "masquerade off",
        })
    }
}

/// Ports of the gate's own addresses that lead to a client (destination NAT).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The protocol.
    pub transport: Transport,
    /// The ports at the gate.
    pub ports: PortRange,
    /// The one address of the gate's that has them; none means each of its addresses on uplinks.
    pub on: Option<IpAddr>,
    /// The client, as it is written.
    pub to: Target,
    /// The client's address for packets of IPv4; none if they are not published.
    pub v4: Option<Ipv4Addr>,
    /// The client's address for packets of IPv6; none if they are not published.
    pub v6: Option<Ipv6Addr>,
    /// The ports at the client: as many, and in the same order.
    pub to_ports: PortRange,
}

impl Publish {
    /// The client's port for one of the gate's.
    pub fn port(&self, port: u16) -> Option<u16> {
        self.ports.contains(port).then(|| self.to_ports.first.saturating_add(port - self.ports.first))
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "publish {} {}", self.transport, self.ports)?;
        if let Some(on) = self.on {
            write!(f, " on {on}")?;
        }
        write!(f, " to {}", self.to)?;
        match self.to_ports == self.ports {
            true => Ok(()),
            false => write!(f, " port {}", self.to_ports),
        }
    }
}

/// Where published ports lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A client's address.
    Address(IpAddr),
    /// A host of the configuration, by its name: its first address of either family.
    Host(Box<str>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Address(address) => write!(f, "{address}"),
            Target::Host(name) => f.write_str(name),
        }
    }
}

/// An address of the gate's that stands for a client's, both ways. Both are of the same family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// The address on uplinks.
    pub outside: IpAddr,
    /// The client's address.
    pub inside: IpAddr,
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "map {} to {}", self.outside, self.inside)
    }
}

/// What one client can use. What the text does not limit is none, and the router's own bounds hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Flows at a time.
    pub flows: Option<u32>,
    /// New flows per second.
    pub new_flows: Option<u32>,
    /// ICMP packets per second.
    pub icmp: Option<u32>,
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(count) = self.flows {
            writeln!(f, "limit flows {count} per client")?;
        }
        if let Some(count) = self.new_flows {
            writeln!(f, "limit rate {count} new flows per second per client")?;
        }
        if let Some(count) = self.icmp {
            writeln!(f, "limit icmp {count} per second per client")?;
        }
        Ok(())
    }
}
