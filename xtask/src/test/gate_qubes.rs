//! gate as a firewall qube of Qubes OS: dom0 is its netvm, has the daemons of QubesDB and qrexec, and the clients in
//! namespaces.

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::qubes::domain::{self, Client, NETVM, NETVM6, QUBE};
use super::qubes::{Beginning, Dom0Qubes};
use crate::apps;
use xen_lab::domain::{Domain, guest};
use xen_lab::{Dom0, Lab};

/// With the newest Xen alone.
pub const AT_LENGTH: &[(&str, Check)] =
    &[("gate as a qube: its life as a firewall", life), ("gate as a qube: 64 clients that start and stop", comings)];

const NAME: &str = "sys-firewall";
/// A site outside, and one more name server.
const SITE: &str = "198.51.100.7";
const SITE6: &str = "2001:db8::7";
const OTHER_DNS: &str = "198.51.100.53";
/// What qubes are given as their name server.
const DNS: &str = "10.139.1.1";
const SITE_NAME: &str = "site.example";

/// dom0 as the world outside. Dropping it takes that away.
struct World<'a>(&'a Lab);

impl<'a> World<'a> {
    fn new(lab: &'a Lab) -> Result<World<'a>> {
        lab.put("/tmp/linux-load", Box::new(std::fs::File::open(apps::linux_load()?)?))?;
        let world = World(lab);
        lab.run(&format!(
            "ip=/usr/bin/ip; chmod 755 /tmp/linux-load
             for address in {SITE}/32 {OTHER_DNS}/32 {DNS}/32 {SITE6}/128; do $ip addr add $address dev lo || exit 1; done
             for server in {DNS} {OTHER_DNS}; do
               setsid /tmp/linux-load dns $server:53 {SITE_NAME}={SITE} {SITE_NAME}={SITE6} by-$server={SITE} \
                 </dev/null >/tmp/dns-$server.log 2>&1 &
             done
             for port in 5201 5202 5203; do iperf3 -s -p $port -D --forceflush >/dev/null 2>&1 </dev/null; done"
        ))?;
        Ok(world)
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        let _ = self.0.run(&format!(
            "killall iperf3 linux-load 2>/dev/null
             for address in {SITE}/32 {OTHER_DNS}/32 {DNS}/32 {SITE6}/128; do /usr/bin/ip addr del $address dev lo; done; true"
        ));
    }
}

fn start<'a>(f: &'a Fixture<'_>) -> Result<(Domain<'a>, Dom0Qubes<'a>)> {
    let services = vec![("qubes.FeaturesRequest".to_owned(), "cat".to_owned())];
    let beginning = Beginning { entries: domain::entries(NAME), services, version: None };
    let (gate, qubes) = domain::qube(guest(&f.lab, f.guest("gate-qubes")?, NAME), &beginning)?;
    gate.wait_for("gate: ready", 20)?;
    qubes.wait_copies(1, 20)?;
    gate.wait_for(&format!("gate: vif/0: {QUBE}/32, "), 20)?;
    Ok((gate, qubes))
}

/// Waits until a client's script succeeds.
fn until(client: &Client<'_>, gate: &Domain<'_>, script: &str) -> Result<()> {
    client
        .run(&format!(
            "tries=50; until {script}; do tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; usleep 100000; done"
        ))
        .map(drop)
        .with_context(|| gate.console().unwrap_or_default())
}

fn handled(qubes: &Dom0Qubes<'_>, ip: &str, times: u32) -> Result<()> {
    qubes.wait_value(&format!("/qubes-firewall-handled/{ip}"), &times.to_string(), 20)
}

fn iperf(to: &str, words: &str) -> String {
    format!("timeout 20 iperf3 -c {to} -t 1 {words} >/dev/null")
}

fn life(f: &Fixture) -> Result<String> {
    let world = World::new(&f.lab)?;
    let (gate, qubes) = start(f)?;
    let told = || gate.console().unwrap_or_default();
    let ping = format!("ping -c 1 -W 2 {SITE} >/dev/null");

    // It makes itself known as a firewall, and keeps out of memory balancing.
    qubes.wait_value("/features-request/qubes-firewall", "1", 20)?;
    qubes.wait_log("rexec", "qubes.FeaturesRequest", 20)?;
    let (status, _) = f.lab.try_run(&format!("xenstore-read /local/domain/{}/memory/meminfo", gate.id))?;
    ensure!(status != 0, "it writes memory/meminfo");

    // A client starts. Nothing passes without rules.
    let work = Client::attach(&f.lab, NAME, "work", 20, true, "")?;
    let (ip, ip6) = (work.ip.clone(), work.ip6.clone().context("an IPv6 address")?);
    qubes.change(&[("/connected-ips", Some(&ip)), ("/connected-ips6", Some(&ip6))])?;
    until(&work, &gate, &format!("ping -c 1 -W 1 {QUBE} >/dev/null"))?;
    ensure!(!work.succeeds(&ping)?, "it passes without rules");

    // Rules with DNS, a name and a port; of IPv6 with a network.
    let by_name = format!("action=accept dsthost={SITE_NAME} proto=tcp dstports=5201-5201");
    qubes.commit_rules(&ip, "drop", &["action=accept specialtarget=dns", &by_name])?;
    handled(&qubes, &ip, 1)?;
    qubes.commit_rules(&ip6, "drop", &["action=accept dst6=2001:db8::/32", "action=accept proto=icmp icmptype=128"])?;
    handled(&qubes, &ip6, 1)?;
    qubes.wait_value(&format!("/dns/{ip}/{SITE_NAME}"), &format!("{{'{SITE}/32'}}"), 20)?;
    until(&work, &gate, &format!("nslookup {SITE_NAME} {DNS} | grep -q {SITE}"))?;
    for words in ["", "-R"] {
        work.run(&iperf(SITE, words)).with_context(told)?;
        work.run(&iperf(SITE6, words)).with_context(told)?;
    }
    work.run(&format!("ping -6 -c 1 -W 2 {SITE6} >/dev/null")).with_context(told)?;
    // What is forbidden is refused at once, by ICMP.
    let refused = work.run(&format!("timeout 10 iperf3 -c {SITE} -p 5202 -t 1; [ $? -lt 124 ]")).with_context(told)?;
    ensure!(refused.contains("No route to host") || refused.contains("unreachable"), "{refused}");
    ensure!(!work.succeeds(&ping)?, "a ping passes that no rule allows");
    // Clients reach the gate by ICMP alone.
    let refused = work.run(&format!("timeout 10 iperf3 -c {QUBE} -p 53 -t 1; [ $? -lt 124 ]"))?;
    ensure!(refused.contains("No route to host") || refused.contains("unreachable"), "{refused}");

    // Rules change while a flow runs: it ends where they forbid it, and others go on.
    f.lab.run(&format!(
        "(/usr/bin/ip netns exec work iperf3 -c {SITE6} -p 5203 -t 30 --forceflush >/tmp/flow6 2>&1 & echo $! >/tmp/flow6.pid)
         (/usr/bin/ip netns exec work iperf3 -c {SITE} -t 30 --forceflush >/tmp/flow 2>&1 & echo $! >/tmp/flow.pid)
         tries=100; until grep -q Mbits /tmp/flow && grep -q Mbits /tmp/flow6; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; usleep 100000; done"
    ))?;
    qubes.commit_rules(&ip, "drop", &["action=accept dstports=5202-5202"])?;
    handled(&qubes, &ip, 2)?;
    gate.wait_for(" flows forgotten, which the rules forbid now", 20)?;
    f.lab.run(
        "lines=$(wc -l </tmp/flow6); tries=100; until [ $(wc -l </tmp/flow6) -gt $((lines + 1)) ]; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; usleep 100000; done
         kill $(cat /tmp/flow.pid) $(cat /tmp/flow6.pid)",
    )?;
    // The other agent's rules may have gaps and options that nobody knows.
    qubes.change(&[
        (&format!("/qubes-firewall/{ip}/0007"), Some("action=accept proto=icmp")),
        (&format!("/qubes-firewall/{ip}"), Some("")),
    ])?;
    handled(&qubes, &ip, 3)?;
    work.run(&ping).with_context(told)?;
    qubes.commit_rules(&ip, "accept", &["action=accept color=red"])?;
    gate.wait_for("rule 0000: unknown option \"color\"; blocking its traffic", 20)?;
    handled(&qubes, &ip, 4)?;
    ensure!(!work.succeeds(&ping)?, "a ping passes by rules that cannot be read");
    qubes.commit_rules(&ip, "accept", &[])?;
    handled(&qubes, &ip, 5)?;
    work.run(&ping).with_context(told)?;

    // Another client with an address that it does not know; they do not reach each other.
    qubes.change(&[
        ("/mapped-ip/10.137.0.30/visible-ip", Some("192.168.100.2")),
        ("/mapped-ip/10.137.0.30/visible-gateway", Some("192.168.100.1")),
    ])?;
    let hidden = Client::attach(&f.lab, NAME, "hidden", 30, false, "")?;
    qubes.commit_rules("10.137.0.30", "accept", &[])?;
    handled(&qubes, "10.137.0.30", 1)?;
    hidden
        .run(
            "ip=/usr/bin/ip; $ip addr flush dev eth0; $ip addr add 192.168.100.2/32 dev eth0; \
         $ip route add 192.168.100.1 dev eth0; $ip route add default via 192.168.100.1; ping -c 1 -W 5 192.168.100.1",
        )
        .with_context(told)?;
    hidden.run(&iperf(SITE, "")).with_context(told)?;
    let hops = hidden.run(&format!("traceroute -n -m 2 -w 2 -q 1 {SITE}"))?;
    ensure!(hops.contains(" 1  192.168.100.1 ") && hops.contains(&format!(" 2  {SITE} ")), "{hops}");
    ensure!(!hidden.succeeds(&format!("ping -c 1 -W 2 {ip}"))?, "one client reaches another");
    // A device with the address of the first that never connects: the PV interface of an HVM qube without drivers.
    let twin = guest(&f.lab, f.guest("hello")?, "twin").memory(4).command_line("exit=shutdown");
    let twin = twin.line(&format!("vif = [\"backend={NAME},ip={ip}\"]")).create()?;
    work.run(&iperf(SITE, "-R")).with_context(told)?;
    f.lab.run(&format!("xl destroy {}", twin.id))?;

    // Upstream is no qube: questions to the qubes' name server go to the real one.
    qubes.change(&[("/qubes-primary-dns", Some(OTHER_DNS)), ("/qubes-secondary-dns", None)])?;
    until(&work, &gate, &format!("nslookup by-{OTHER_DNS} {DNS} | grep -q {SITE}"))?;

    // The netvm is taken away, and another one comes.
    qubes.detach_netvm()?;
    ensure!(!work.succeeds(&ping)?, "a ping passes without a netvm");
    qubes.attach_netvm()?;
    until(&work, &gate, &ping)?;
    until(&work, &gate, &format!("ping -6 -c 1 -W 2 {SITE6} >/dev/null"))?;

    // dom0's daemons are started anew.
    qubes.drop_database()?;
    qubes.wait_copies(2, 20)?;
    qubes.commit_rules(&ip, "accept", &["action=drop proto=icmp"])?;
    handled(&qubes, &ip, 6)?;
    ensure!(!work.succeeds(&ping)?, "a ping passes that the rules forbid");
    qubes.drop_agent()?;

    // The host sleeps and wakes, sets the time, and asks how it is.
    for (service, input, status, output) in [
        ("qubes.WaitForSession", "", 0, ""),
        ("qubes.SuspendPreAll", "", 0, ""),
        ("qubes.SuspendPostAll", "", 0, ""),
        ("qubes.SetDateTime", "2026-11-27T10:54:12+0000\n", 0, ""),
        ("qubes.SetDateTime", "noon\n", 1, "expected a time"),
        ("gate.Status", "", 0, "client d0/"),
        ("gate.Metrics", "", 0, "gate_flows "),
        ("no.Service", "", 127, "no.Service"),
    ] {
        let found = qubes.exec("root", service, input)?;
        let text = format!("{}{}", found.stdout, found.stderr);
        ensure!(found.status == status && text.contains(output), "{service}: {found:?}\n{}", told());
        if service == "qubes.SuspendPreAll" {
            f.lab.run(&format!("xl pause {NAME} && xl unpause {NAME}"))?;
        }
    }
    work.run(&iperf(SITE, "")).with_context(told)?;

    work.detach()?;
    hidden.detach()?;
    gate.wait_for(") is gone", 20)?;
    let left = f.lab.run(&format!("xenstore-ls /local/domain/{}/backend/vif/0 2>/dev/null || true", gate.id))?;
    ensure!(left.trim().is_empty(), "directories of clients that are gone:\n{left}");
    f.lab.run(&format!("xl shutdown -w {NAME}"))?;
    ensure!(gate.console()?.contains("gate: asked to poweroff"), "{}", gate.console()?);
    qubes.stop()?;
    drop(world);
    Ok(format!("netvm {NETVM} and {NETVM6}"))
}

/// How many watches a domain has, by xenstored.
fn watches(lab: &Lab, id: u32) -> Result<String> {
    let text = lab.run(&format!("xenstore-control quota {id}"))?;
    let line = text.lines().find(|line| line.contains("watches")).with_context(|| text.clone())?;
    Ok(line.trim().to_owned())
}

fn comings(f: &Fixture) -> Result<String> {
    let world = World::new(&f.lab)?;
    let (gate, qubes) = start(f)?;
    let mut before = None;
    for round in 0..64_u8 {
        let last = 20 + round;
        let client = Client::attach(&f.lab, NAME, "client", last, false, "")?;
        qubes.commit_rules(&client.ip, "accept", &[])?;
        handled(&qubes, &client.ip, 1)?;
        until(&client, &gate, &format!("ping -c 1 -W 1 {SITE} >/dev/null"))?;
        client.detach()?;
        if round == 0 {
            before = Some(watches(&f.lab, gate.id)?);
        }
    }
    let after = watches(&f.lab, gate.id)?;
    ensure!(before.as_ref() == Some(&after), "before: {before:?}, after: {after}");
    qubes.stop()?;
    drop(world);
    Ok(after)
}
