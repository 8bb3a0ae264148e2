//! What a guest is told of its addresses, and of the way out of its network.

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::lan::{Lan, VIF};
use super::net::{log, start_with};
use xen_lab::Dom0;
use xen_lab::domain::{Domain, destroy_all};

/// What is done for one Xen alone, for its time.
pub const AT_LENGTH: &[(&str, Check)] = &[
    ("addresses: a router outside of the guest's network, by hand", router_by_hand),
    ("addresses: a router outside of the guest's network, by DHCP", router_by_dhcp),
    ("addresses: routes of DHCP's option 121", routes),
    ("addresses: a link-local router of IPv6, by hand", router_v6),
    ("addresses: a lease that is renewed without its router", renewal),
    ("addresses: leases that end and that are refused, for another address", leases),
];

/// What the console says of an address that DHCP has given later.
fn new_address(address: &str) -> String {
    format!("network: {address}/")
}

/// The argument that names a router of IPv6.
const GATEWAY_V6: &str = "gw6";

/// A router with addresses on the guest's side, and a host behind it.
fn routed<'a>(f: &'a Fixture<'_>, inside: &str, guest: &str) -> Result<Lan<'a>> {
    let lan = Lan::new(f)?;
    lan.hosts(&[("router", inside), ("client", "192.0.2.2/24")])?;
    f.lab.run(
        "set -e; ip link set client nomaster; ip=/usr/bin/ip; $ip link set client netns router
         $ip netns exec router sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    )?;
    lan.run(
        "router",
        &format!(
            "ip addr add 192.0.2.1/24 dev client && ip link set client up || exit 1
             ip -6 addr add 2001:db8::1/64 dev client || exit 1
             /usr/bin/ip route replace {guest} dev eth0"
        ),
    )?;
    lan.run("client", "ip route add default via 192.0.2.1 && ip -6 addr add 2001:db8::2/64 dev eth0 && ip -6 route add default via 2001:db8::1")?;
    Ok(lan)
}

/// A page through the router.
fn fetch(f: &Fixture, lan: &Lan<'_>, web: &Domain<'_>, address: &str) -> Result<()> {
    let got =
        lan.run("client", &format!("timeout 20 wget -q -O /tmp/got \"http://{address}/bytes\" && wc -c </tmp/got"));
    let got = got.with_context(|| log(f, web))?;
    ensure!(got.trim() == "100000", "{got} bytes of {address}");
    Ok(())
}

/// As Qubes OS has it.
fn router_by_hand(f: &Fixture) -> Result<String> {
    let lan = routed(f, "10.0.0.1/32", "10.137.0.5/32")?;
    let (web, address) = start_with(f, "byhand", "ip=10.137.0.5/32 gw=10.0.0.1", VIF)?;
    fetch(f, &lan, &web, &address)?;
    Ok(String::new())
}

fn serve(lan: &Lan<'_>, words: &str) -> Result<()> {
    lan.start("router", "dhcp", &format!("/tmp/linux-load lan dhcp eth0 {words}"), "serving")
}

/// A mask of one address, as clouds have it.
fn router_by_dhcp(f: &Fixture) -> Result<String> {
    let lan = routed(f, "10.0.0.1/32", "10.137.0.5/32")?;
    serve(&lan, "10.0.0.1 10.137.0.5 255.255.255.255 3600 router=10.0.0.1")?;
    let (web, address) = start_with(f, "bydhcp", "", VIF).with_context(|| lan.printed("dhcp").unwrap_or_default())?;
    ensure!(address == "10.137.0.5", "{address}");
    fetch(f, &lan, &web, &address)?;
    Ok(String::new())
}

/// The router's own option counts no more where there are routes (RFC 3442), and it names one that is not there.
fn routes(f: &Fixture) -> Result<String> {
    let mut told = Vec::new();
    for (inside, mask, routes) in [
        // 10.0.0.1 is reached directly, and everything else through it.
        ("10.0.0.1/32", "255.255.255.255", "200a00000100000000000a000001"),
        // 192.0.2.0/24 alone, through a router of the same network.
        ("10.137.0.254/16", "255.255.0.0", "18c000020a8900fe"),
    ] {
        let server = inside.split('/').next().unwrap_or_default();
        let lan = routed(f, inside, "10.137.0.5/32")?;
        serve(&lan, &format!("{server} 10.137.0.5 {mask} 3600 router=10.137.0.99 routes={routes}"))?;
        let (web, address) =
            start_with(f, "routes", "", VIF).with_context(|| lan.printed("dhcp").unwrap_or_default())?;
        fetch(f, &lan, &web, &address).with_context(|| format!("mask {mask}, routes {routes}"))?;
        told.push(format!("{mask} via {server}"));
        destroy_all(&f.lab)?;
    }
    Ok(told.join(", "))
}

fn router_v6(f: &Fixture) -> Result<String> {
    let lan = routed(f, "10.7.0.1/16", "10.7.0.2/32")?;
    lan.run(
        "router",
        "/usr/bin/ip -6 addr add fe80::1/64 dev eth0 nodad && /usr/bin/ip -6 route add fd00::77/128 dev eth0",
    )?;
    let (web, _) = start_with(f, "gatewayv6", &format!("ip=10.7.0.2/16 ip6=fd00::77/64 {GATEWAY_V6}=fe80::1"), VIF)?;
    // An address is of use once nobody else has it, here and on the hosts.
    lan.wait_until(20, "answer to a ping over IPv6", || {
        let (status, told) = f.lab.try_run("/usr/bin/ip netns exec client ping -6 -c 1 -W 1 fd00::77")?;
        Ok(if status == 0 { Ok(()) } else { Err(format!("{told}\n{}", log(f, &web))) })
    })?;
    fetch(f, &lan, &web, "[fd00::77]")?;
    Ok(String::new())
}

/// What the server does not repeat stays what it was.
fn renewal(f: &Fixture) -> Result<String> {
    let lan = routed(f, "10.7.0.1/16", "10.7.0.0/16")?;
    serve(&lan, "10.7.0.1 10.7.0.50 255.255.0.0 20 router=10.7.0.1 renew=bare")?;
    let (web, address) = start_with(f, "renewal", "", VIF).with_context(|| lan.printed("dhcp").unwrap_or_default())?;
    fetch(f, &lan, &web, &address).context("before a renewal")?;
    lan.wait_printed("dhcp", "renewal of 10.7.0.50: ack", 30)?;
    fetch(f, &lan, &web, &address).context("after a renewal that names no router")?;
    Ok(String::new())
}

/// The store and the console follow.
fn leases(f: &Fixture) -> Result<String> {
    let lan = routed(f, "10.7.0.1/16", "10.7.0.0/16")?;
    serve(&lan, "10.7.0.1 10.7.0.50 255.255.0.0 10 router=10.7.0.1 renew=none")?;
    let (web, address) = start_with(f, "leases", "", VIF).with_context(|| lan.printed("dhcp").unwrap_or_default())?;
    ensure!(address == "10.7.0.50", "{address}");
    lan.stop("dhcp")?;

    let mut told = Vec::new();
    for (address, seconds, renewal) in [("10.7.0.60", 20, "none"), ("10.7.0.70", 3600, "nak")] {
        serve(&lan, &format!("10.7.0.1 {address} 255.255.0.0 {seconds} router=10.7.0.1 renew={renewal}"))?;
        let path = format!("/local/domain/{}/data/ip", web.id);
        let wait = lan.wait_until(40, &format!("address {address}"), || {
            let found = f.lab.run(&format!("xenstore-read {path}"))?;
            Ok(if found.starts_with(address) { Ok(()) } else { Err(format!("data/ip is {found}")) })
        });
        let served = || lan.printed("dhcp").unwrap_or_default();
        wait.with_context(|| format!("the server:\n{}the guest:\n{}", served(), log(f, &web)))?;
        web.wait_for(&new_address(address), 10)?;
        fetch(f, &lan, &web, address)?;
        let refused = served().contains(": nak");
        ensure!(refused == (renewal == "nak"), "{address}, renewals are answered by {renewal}:\n{}", served());
        told.push(served().trim().replace('\n', ", "));
        lan.stop("dhcp")?;
    }
    Ok(told.join("; "))
}
