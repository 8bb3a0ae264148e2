//! What the command line says of an interface's addresses.

use alloc::format;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sarab_net::{Config, Ipv4, Ipv4Cidr, Ipv6, Ipv6Cidr, Route};

use crate::{ArgError, Args, FromArg};

/// `ip=`.
struct V4(Ipv4);

impl FromArg for V4 {
    const EXPECTED: &'static str = "dhcp, none, or a host's address with its prefix such as 10.0.0.2/24";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        match value? {
            "dhcp" => Some(V4(Ipv4::Dhcp)),
            "none" => Some(V4(Ipv4::None)),
            text => {
                let (address, prefix) = text.split_once('/')?;
                let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
                let address = Ipv4Cidr::new(address.parse().ok()?, prefix);
                sarab_net::is_host(address).then_some(V4(Ipv4::Static(address)))
            }
        }
    }
}

/// `gw=`: an address of a single host, in whatever network.
struct Gateway(Ipv4Addr);

impl FromArg for Gateway {
    const EXPECTED: &'static str = "a host's IPv4 address such as 10.0.0.1";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        value?.parse().ok().filter(|address: &Ipv4Addr| sarab_net::is_unicast(*address)).map(Gateway)
    }
}

/// `ip6=`.
struct V6(Ipv6);

impl FromArg for V6 {
    const EXPECTED: &'static str = "auto, none, or a host's address with its prefix such as fd00::2/64";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        match value? {
            "auto" => Some(V6(Ipv6::Auto)),
            "none" => Some(V6(Ipv6::None)),
            text => {
                let (address, prefix) = text.split_once('/')?;
                let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 128)?;
                let address = address.parse::<Ipv6Addr>().ok()?;
                sarab_net::is_unicast_v6(address).then(|| V6(Ipv6::Static(Ipv6Cidr::new(address, prefix))))
            }
        }
    }
}

/// `gw6=`.
struct GatewayV6(Ipv6Addr);

impl FromArg for GatewayV6 {
    const EXPECTED: &'static str = "a host's IPv6 address such as fe80::1";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        value?.parse().ok().filter(|address: &Ipv6Addr| sarab_net::is_unicast_v6(*address)).map(GatewayV6)
    }
}

/// How many name servers are asked.
const MAX_SERVERS: usize = 3;

/// `dns=`.
struct Servers(Vec<IpAddr>);

impl FromArg for Servers {
    const EXPECTED: &'static str = "one to three addresses of name servers such as 10.0.0.1,fd00::1";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        let server = |text: &str| {
            text.parse().ok().filter(|address| match *address {
                IpAddr::V4(address) => sarab_net::is_unicast(address),
                IpAddr::V6(address) => sarab_net::is_unicast_v6(address),
            })
        };
        let servers = value?.split(',').map(server).collect::<Option<Vec<IpAddr>>>()?;
        (servers.len() <= MAX_SERVERS).then_some(Servers(servers))
    }
}

/// What the command line asks for, with a prefix of its keys: `vif1.` for `vif1.ip=`.
#[doc(hidden)]
pub fn config(args: &Args, prefix: &str) -> Result<Config, ArgError> {
    let key = |name: &str| format!("{prefix}{name}");
    let mut config = Config::default();
    config.ipv4 = args.get(&key("ip"))?.map_or(config.ipv4, |V4(ipv4)| ipv4);
    config.ipv6 = args.get(&key("ip6"))?.map_or(config.ipv6, |V6(ipv6)| ipv6);
    config.routes.extend(args.get(&key("gw"))?.map(|Gateway(gateway)| Route::default_via(gateway)));
    config.routes.extend(args.get(&key("gw6"))?.map(|GatewayV6(gateway)| Route::default_via(gateway)));
    config.name_servers.extend(args.get(&key("dns"))?.into_iter().flat_map(|Servers(servers)| servers));
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hosts_address_is_taken() {
        let takes = |line: &'static str| config(&Args::new(line.as_bytes()), "").is_ok();
        for line in [
            "",
            "ip=dhcp",
            "ip=none ip6=auto",
            "ip=10.0.0.2/24 gw=10.0.0.1",
            "ip=10.137.0.5/32 gw=10.0.0.1",
            "ip=10.0.0.1/32",
            "ip=10.0.0.0/31",
            "ip6=fd00::2/64",
            "ip6=fd00::2/64 gw6=fe80::1",
            "dns=10.0.0.1,fd00::1",
        ] {
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
            "gw=0.0.0.0",
            "gw=224.0.0.1",
            "gw6=ff02::1",
            "gw6=10.0.0.1",
            "dns=",
            "dns=10.0.0.1,",
            "dns=10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4",
            "ip6=::/64",
            "ip6=::1/128",
            "ip6=ff02::1/64",
            "ip6=fd00::2/129",
        ] {
            assert!(!takes(line), "{line}");
        }
    }

    #[test]
    fn an_interface_has_keys_of_its_own() {
        let args = Args::new(b"ip=dhcp vif1.ip=10.0.0.2/24 vif1.gw=10.0.0.1");
        assert_eq!(config(&args, "").unwrap().ipv4, Ipv4::Dhcp);
        let second = config(&args, "vif1.").unwrap();
        let address = Ipv4Cidr::new(Ipv4Addr::new(10, 0, 0, 2), 24);
        assert_eq!(second.ipv4, Ipv4::Static(address));
        assert_eq!(second.routes, [Route::default_via(Ipv4Addr::new(10, 0, 0, 1))]);
    }
}
