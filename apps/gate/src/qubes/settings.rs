//! What QubesDB says of networks (`network/setup-ip` and `network/vif-route-qubes` of qubes-core-agent-linux).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use sarab::network::{Config, Ipv4, Ipv4Cidr, Ipv6, Ipv6Cidr, Route};
use sarab::println;
use sarab::qubes::Database;
use sarab_router::services::GATE_MAC;

use crate::provider::{Mapped, Provider};

/// A value that is there and can be read; one that cannot is printed.
fn value<T: FromStr>(db: &Database, path: &str, expected: &str) -> Option<T> {
    let bytes = db.get(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    let found = text.parse().ok();
    if found.is_none() {
        println!("gate: QubesDB: {path} is {text:?}: expected {expected}");
    }
    found
}

fn v4(db: &Database, path: &str) -> Option<Ipv4Addr> {
    value(db, path, "an IPv4 address")
}

fn v6(db: &Database, path: &str) -> Option<Ipv6Addr> {
    value(db, path, "an IPv6 address")
}

/// What an interface of this MAC is to have; none of both families where there is no network.
pub fn uplink(db: &Database, mac: [u8; 6]) -> Config {
    let [a, b, c, d, e, f] = mac;
    let own = format!("/net-config/{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}/");
    let key = |of_mac: &str, general: &str| match db.get(&format!("{own}ip")) {
        Some(_) => format!("{own}{of_mac}"),
        None => String::from(general),
    };
    let mut config = Config { ipv4: Ipv4::None, ipv6: Ipv6::None, ..Config::default() };
    let mut gateways: Vec<IpAddr> = Vec::new();
    if let Some(address) = v4(db, &key("ip", "/qubes-ip")) {
        let mask = v4(db, &key("netmask", "/qubes-netmask")).unwrap_or(Ipv4Addr::BROADCAST);
        let prefix = mask.to_bits().leading_ones() as u8;
        config.ipv4 = Ipv4::Static(Ipv4Cidr::new(address, prefix));
        gateways.extend(v4(db, &key("gateway", "/qubes-gateway")).map(IpAddr::V4));
    }
    if let Some(address) = v6(db, &key("ip6", "/qubes-ip6")) {
        let prefix = value(db, &key("netmask6", "/qubes-netmask6"), "a prefix length").unwrap_or(128_u8).min(128);
        config.ipv6 = Ipv6::Static(Ipv6Cidr::new(address, prefix));
        gateways.extend(v6(db, &key("gateway6", "/qubes-gateway6")).map(IpAddr::V6));
    }
    // Custom networks have neighbours that answer.
    let is_custom = db.text(&format!("{own}custom")).is_some_and(|text| text == "true");
    for gateway in gateways {
        config.routes.push(Route::default_via(gateway));
        if !is_custom {
            config.neighbors.push((gateway, GATE_MAC));
        }
    }
    config.name_servers = servers(db, "/qubes");
    config
}

/// Name servers of this qube, or with `/qubes-netvm` those that it gives its clients.
pub fn servers(db: &Database, prefix: &str) -> Vec<IpAddr> {
    let which = ["primary", "secondary"].into_iter();
    which.filter_map(|which| value(db, &format!("{prefix}-{which}-dns"), "an address")).collect()
}

/// What clients have.
pub fn provider(db: &Database) -> Provider {
    let mapped = db.children("/mapped-ip").into_iter().filter_map(|address| {
        let directory = format!("/mapped-ip/{address}");
        let actual = address.parse().ok()?;
        let address = v4(db, &format!("{directory}/visible-ip"))?;
        let gateway = v4(db, &format!("{directory}/visible-gateway"))?;
        (address != actual).then_some((actual, Mapped { address, gateway }))
    });
    Provider {
        gateway_v4: v4(db, "/qubes-netvm-gateway"),
        gateway_v6: v6(db, "/qubes-netvm-gateway6"),
        name_servers: servers(db, "/qubes-netvm"),
        mapped: mapped.collect(),
    }
}

/// Addresses of clients, whether they run or not: nobody else has them.
pub fn inside(db: &Database) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for path in ["/connected-ips", "/connected-ips6"] {
        let Some(text) = db.text(path) else { continue };
        for word in text.split_whitespace() {
            match word.parse() {
                Ok(address) => all.push(address),
                Err(_) => println!("gate: QubesDB: {path} has {word:?}: expected addresses"),
            }
        }
    }
    all
}
