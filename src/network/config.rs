//! What the command line and the network itself say of a stack's addresses.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::pin::pin;
use core::time::Duration;

use embassy_net::{Config, ConfigV4, ConfigV6, Ipv4Cidr, Ipv6Cidr, Stack, StaticConfigV4, StaticConfigV6};
use futures_util::future::{Either, select};
use xen_hal::Clock;

use super::guard;
use crate::{ArgError, Args, FromArg};

/// How long an address may take before the console reports it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the network is left alone after it has offered what cannot be used.
const RETRY: Duration = Duration::from_secs(10);

/// `ip=`.
enum V4 {
    Dhcp,
    Static(Ipv4Cidr),
}

impl FromArg for V4 {
    const EXPECTED: &'static str = "dhcp, or a host's address with its prefix such as 10.0.0.2/24";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        match value? {
            "dhcp" => Some(V4::Dhcp),
            text => {
                let (address, prefix) = text.split_once('/')?;
                let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
                let address = Ipv4Cidr::new(address.parse().ok()?, prefix);
                is_host(address).then_some(V4::Static(address))
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
    const EXPECTED: &'static str = "auto, or a host's address with its prefix such as fd00::2/64";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        match value? {
            "auto" => Some(V6::Auto),
            text => {
                let (address, prefix) = text.split_once('/')?;
                let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 128)?;
                let address = address.parse::<Ipv6Addr>().ok()?;
                is_host_v6(address).then(|| V6::Static(Ipv6Cidr::new(address, prefix)))
            }
        }
    }
}

/// Whether it can be one host's address in its network.
fn is_host(cidr: Ipv4Cidr) -> bool {
    let (address, hosts) = (cidr.address().to_bits(), u32::MAX.checked_shr(cidr.prefix_len().into()).unwrap_or(0));
    // Networks of two addresses and of one have neither a broadcast address nor one of their own.
    let is_all = hosts > 1 && (address & hosts == hosts || address & hosts == 0);
    is_unicast(cidr.address()) && !is_all
}

fn is_unicast(address: Ipv4Addr) -> bool {
    // 0.0.0.0/8 and 240.0.0.0/4 are no host's (RFC 6890).
    let first = address.octets()[0];
    first != 0 && first < 224 && !address.is_loopback()
}

fn is_host_v6(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

/// What the command line asks for. [`new_stack`](super::new_stack) has its own way with `ConfigV6::Slaac`.
#[doc(hidden)]
pub fn config(args: &Args) -> Result<Config, ArgError> {
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

/// Waits until the stack has an address, and returns it in words. An offer that cannot be used is refused, and asked for
/// again after a while.
///
/// # Cancellation
///
/// May be dropped at any time.
#[doc(hidden)]
pub async fn configured(
    stack: Stack<'_>,
    asked: &Config,
    clock: &impl Clock,
    say: impl Fn(fmt::Arguments<'_>),
) -> String {
    loop {
        {
            let up = pin!(stack.wait_config_up());
            if let Either::Right(((), up)) = select(up, pin!(clock.sleep(TIMEOUT))).await {
                say(format_args!("network: no address after {} s; is there a DHCP server?", TIMEOUT.as_secs()));
                up.await;
            }
        }
        let Some(offer) = stack.config_v4().filter(|offer| !is_usable(offer)) else { return addresses(stack) };
        say(format_args!("network: DHCP offer rejected: {}", Shown(&offer)));
        stack.set_config_v4(ConfigV4::None);
        clock.sleep(RETRY).await;
        stack.set_config_v4(asked.ipv4.clone());
    }
}

fn is_usable(offer: &StaticConfigV4) -> bool {
    // A server without a gateway may say 0.0.0.0.
    let gateway = offer.gateway.filter(|gateway| !gateway.is_unspecified());
    is_host(offer.address) && gateway.is_none_or(|gateway| is_unicast(gateway) && gateway != offer.address.address())
}

struct Shown<'a>(&'a StaticConfigV4);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.address)?;
        self.0.gateway.map_or(Ok(()), |gateway| write!(f, ", gateway {gateway}"))
    }
}

/// A stack's addresses, in words.
fn addresses(stack: Stack<'_>) -> String {
    let mut text = String::new();
    if let Some(config) = stack.config_v4() {
        text += &format!("{}", Shown(&config));
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
    fn only_a_hosts_address_is_taken() {
        let takes = |line: &'static str| config(&Args::new(line.as_bytes())).is_ok();
        for line in ["", "ip=dhcp", "ip=10.0.0.2/24 gw=10.0.0.1", "ip=10.0.0.1/32", "ip=10.0.0.0/31", "ip6=fd00::2/64"]
        {
            assert!(takes(line), "{line}");
        }
        for line in [
            "ip=0.0.0.0/0",
            "ip=10.0.0.255/24",
            "ip=10.0.0.0/24",
            "ip=127.0.0.1/8",
            "ip=224.0.0.1/4",
            "ip=255.255.255.255/32",
            "ip=10.0.0.1",
            "ip=10.0.0.1/33",
            "ip6=::/64",
            "ip6=::1/128",
            "ip6=ff02::1/64",
            "ip6=fd00::2/129",
        ] {
            assert!(!takes(line), "{line}");
        }
    }
}
