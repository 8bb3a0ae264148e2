//! Domains and interfaces as Qubes OS makes them, with dom0 in the place of sys-net.
#![allow(dead_code, reason = "clients are for the checks of a firewall")]

use anyhow::{Context, Result};

use super::{Beginning, Dom0Qubes};
use xen_lab::domain::{Builder, Domain};
use xen_lab::{Dom0, Lab};

/// dom0's address as the qube's netvm, which is no neighbour of the qube's: the route to it is the interface's.
pub const NETVM: &str = "10.137.0.1";
/// Where every netvm of Qubes OS is by IPv6.
pub const NETVM6: &str = "fe80::fcff:ffff:feff:ffff";
/// The addresses of a firewall qube.
pub const QUBE: &str = "10.137.0.5";
pub const QUBE6: &str = "fd09:24ef:4179::a89:5";
/// Of every interface that a netvm has for a client.
const NETVM_MAC: &str = "fe:ff:ff:ff:ff:ff";
const QUBE_MAC: &str = "00:16:3e:5e:6c:05";
const SCRIPT: &str = "vif-route-qubes";

/// The entries of a firewall qube with a netvm, as Qubes OS writes them at its start.
pub fn entries(name: &str) -> Vec<(String, String)> {
    [
        ("/name", name),
        ("/type", "StandaloneVM"),
        ("/qubes-vm-type", "ProxyVM"),
        ("/qubes-vm-persistence", "full"),
        ("/qubes-vm-updateable", "True"),
        ("/qubes-base-template", ""),
        ("/qubes-debug-mode", "0"),
        ("/qubes-timezone", "Europe/Berlin"),
        ("/qubes-block-devices", ""),
        ("/qubes-usb-devices", ""),
        ("/default-user", "user"),
        (
            "/qubes-random-seed",
            "bm90IHJhbmRvbSBhdCBhbGwsIGJ1dCBhcyBsb25nIGFzIGEgc2VlZCBvZiBRdWJlcyBPUyBpczogc2l4dHktZm91ciBieXRlcw==",
        ),
        ("/qubes-service/qubes-firewall", "1"),
        ("/qubes-service/meminfo-writer", "0"),
        ("/qubes-mac", QUBE_MAC),
        ("/qubes-ip", QUBE),
        ("/qubes-netmask", "255.255.255.255"),
        ("/qubes-gateway", NETVM),
        ("/qubes-ip6", QUBE6),
        ("/qubes-netmask6", "128"),
        ("/qubes-gateway6", NETVM6),
        ("/qubes-primary-dns", "10.139.1.1"),
        ("/qubes-secondary-dns", "10.139.1.2"),
        ("/qubes-netvm-network", QUBE),
        ("/qubes-netvm-gateway", QUBE),
        ("/qubes-netvm-netmask", "255.255.255.255"),
        ("/qubes-netvm-gateway6", NETVM6),
        ("/qubes-netvm-primary-dns", "10.139.1.1"),
        ("/qubes-netvm-secondary-dns", "10.139.1.2"),
        ("/connected-ips", ""),
        ("/connected-ips6", ""),
    ]
    .map(|(path, value)| (path.to_owned(), value.to_owned()))
    .to_vec()
}

/// Creates a firewall qube as Qubes OS does: with three disks that it may leave alone, and one interface on dom0 as a router.
/// QubesDB and qrexec are there before it runs. Qubes OS gives it no command line.
pub fn qube<'a>(builder: Builder<'a>, beginning: &Beginning) -> Result<(Domain<'a>, Dom0Qubes<'a>)> {
    let lab = builder.lab();
    put_script(lab)?;
    let mut disks = Vec::new();
    for (device, part) in [("xvda", "root"), ("xvdb", "private"), ("xvdc", "volatile")] {
        let file = format!("/tmp/qube-{part}.img");
        lab.run(&format!("dd if=/dev/zero of={file} bs=64K count=1 2>/dev/null"))?;
        disks.push(format!("\"format=raw,vdev={device},access=rw,target={file}\""));
    }
    let domain = builder
        .memory(32)
        .line("maxmem = 32")
        .line("driver_domain = 1")
        .line("on_reboot = \"destroy\"")
        .line(&format!("disk = [{}]", disks.join(", ")))
        .line(&format!("vif = [\"{}\"]", uplink().join(",")))
        .paused()
        .create()?;
    let qubes = Dom0Qubes::start(lab, domain.id, beginning)?;
    lab.run(&format!("xl unpause {}", domain.id))?;
    Ok((domain, qubes))
}

fn uplink() -> [String; 3] {
    [format!("mac={QUBE_MAC}"), format!("ip={QUBE} {QUBE6}"), format!("script={SCRIPT}")]
}

fn put_script(lab: &Lab) -> Result<()> {
    let text = include_str!("vif-route.sh").replace("@GATEWAY@", NETVM);
    let path = format!("/etc/xen/scripts/{SCRIPT}");
    lab.put(&path, Box::new(std::io::Cursor::new(text)))?;
    lab.run(&format!("chmod 755 {path}")).map(drop)
}

impl Dom0Qubes<'_> {
    /// Takes the qube's netvm away: its interface, and then what QubesDB says of it.
    pub fn detach_netvm(&self) -> Result<()> {
        self.lab.run(&format!("xl network-detach {} {QUBE_MAC}", self.id))?;
        self.change(&["/qubes-gateway", "/qubes-gateway6"].map(|path| (path, None)))
    }

    /// Gives it one again.
    pub fn attach_netvm(&self) -> Result<()> {
        self.change(&[("/qubes-gateway", Some(NETVM)), ("/qubes-gateway6", Some(NETVM6))])?;
        let words = uplink().map(|word| super::quote(&word)).join(" ");
        self.lab.run(&format!("xl network-attach {} {words}", self.id)).map(drop)
    }
}

/// A client of a firewall qube: a namespace of dom0's whose card has that qube as its backend. Dropping it removes the
/// namespace, but leaves the card, which [`Client::detach`] takes away.
pub struct Client<'a> {
    lab: &'a Lab,
    name: String,
    mac: String,
    /// Its own addresses.
    pub ip: String,
    pub ip6: Option<String>,
}

impl<'a> Client<'a> {
    /// Attaches one with the last number of its addresses; by IPv6, too, if it is wanted. `words` go on xl's line.
    pub fn attach(
        lab: &'a Lab,
        backend: &str,
        name: &str,
        last: u8,
        has_ipv6: bool,
        words: &str,
    ) -> Result<Client<'a>> {
        let client = Client {
            lab,
            name: name.to_owned(),
            mac: format!("00:16:3e:5e:6c:{last:02x}"),
            ip: format!("10.137.0.{last}"),
            ip6: has_ipv6.then(|| format!("fd09:24ef:4179::a89:{last:x}")),
        };
        let Client { mac, ip, .. } = &client;
        let ip6 = client.ip6.as_deref().unwrap_or_default();
        let addresses = format!("{ip} {ip6}");
        let found = lab.run(&format!(
            "xl network-attach 0 backend={backend} mac={mac} 'ip={}' script={SCRIPT} {words} || exit 1; tries=200
             until card=$(grep -l {mac} /sys/class/net/*/address); do
               tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'no card'; /usr/bin/ip link; exit 1; }}; usleep 50000
             done
             card=$(basename ${{card%/address}}); ip=/usr/bin/ip
             $ip netns add {name} && $ip link set $card netns {name} name eth0 || exit 1
             ip=\"/usr/bin/ip -n {name}\"
             $ip link set lo up && $ip link set eth0 up && $ip addr add {ip}/32 dev eth0 && $ip route add {QUBE} dev eth0 \
               && $ip route add default via {QUBE} dev eth0 \
               && $ip neigh replace {QUBE} lladdr {NETVM_MAC} nud permanent dev eth0 || exit 1
             [ -z '{ip6}' ] || {{ $ip addr add {ip6}/128 dev eth0 nodad && $ip route add default via {NETVM6} dev eth0 \
               && $ip neigh replace {NETVM6} lladdr {NETVM_MAC} nud permanent dev eth0; }}",
            addresses.trim_end()
        ));
        found.with_context(|| format!("client {name}"))?;
        Ok(client)
    }

    /// What a shell in it prints. The script has no single quotes.
    pub fn run(&self, script: &str) -> Result<String> {
        let out = self.lab.run(&format!("/usr/bin/ip netns exec {} sh -c '{script}' 2>&1", self.name));
        out.with_context(|| format!("client {}: {script}", self.name))
    }

    /// Whether a shell in it succeeds.
    pub fn succeeds(&self, script: &str) -> Result<bool> {
        Ok(self.lab.try_run(&format!("/usr/bin/ip netns exec {} sh -c '{script}' >/dev/null 2>&1", self.name))?.0 == 0)
    }

    /// Takes its card away, as when it is shut down.
    pub fn detach(self) -> Result<()> {
        self.lab.run(&format!("xl network-detach 0 {}", self.mac)).map(drop)
    }
}

/// A second interface with a client's addresses that never connects: an HVM qube has its own beside that of its stub
/// domain. Its domain stays paused. Here xl makes emulated interfaces for an HVM alone, so that its type is written afterwards.
pub fn twin<'a>(builder: Builder<'a>, backend: &str, client: &Client<'_>) -> Result<Domain<'a>> {
    let lab = builder.lab();
    let addresses = [client.ip.as_str(), client.ip6.as_deref().unwrap_or_default()].join(" ");
    let vif = format!("backend={backend},mac={},ip={},script={SCRIPT}", client.mac, addresses.trim_end());
    let domain = builder.memory(4).line(&format!("vif = [\"{vif}\"]")).paused().create()?;
    let directory = format!("/local/domain/$(xl domid {backend})/backend/vif/{}/0", domain.id);
    lab.run(&format!("xenstore-write {directory}/type vif_ioemu"))?;
    Ok(domain)
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        let _ = self.lab.run(&format!("/usr/bin/ip netns del {} 2>/dev/null; true", self.name));
    }
}
