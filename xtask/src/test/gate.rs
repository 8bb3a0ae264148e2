//! gate between dom0's Linux on both sides: clients in namespaces, whose cards are gate's, and the bridge outside.

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::net::VIF;
use xen_lab::domain::{Domain, guest};
use xen_lab::{Dom0, Lab};

pub const ALL: &[(&str, Check)] = &[
    ("gate: Linux clients behind it, and what is published", clients),
    ("gate: clients that come and go, and a change of rules", comings),
    ("gate: a trunk, rules from a disk, names in rules, and counters", trunk),
];

const GATE: &str = "10.0.2.60";

/// The gate, and the namespaces behind it. Dropping it removes these.
struct Gate<'a> {
    lab: &'a Lab,
    domain: Domain<'a>,
}

impl<'a> Gate<'a> {
    fn start(f: &'a Fixture<'_>, arguments: &str) -> Result<Gate<'a>> {
        let line = format!("ip={GATE}/24 gw=10.0.2.2 {arguments}");
        let domain =
            guest(&f.lab, f.guest("gate")?, "gate").memory(32).line("driver_domain=1").command_line(line).line(VIF);
        let domain = domain.create()?;
        domain.wait_for("gate: ready", 20)?;
        domain.wait_for(&format!("gate: vif/0: {GATE}/24"), 20)?;
        Ok(Gate { lab: &f.lab, domain })
    }

    /// A namespace whose card is the gate's, with what xl's line says besides.
    fn attach(&self, name: &str, number: u32, words: &str) -> Result<()> {
        let mac = format!("00:16:3e:00:60:{number:02}");
        self.lab
            .run(&format!(
                "xl network-attach 0 backend=gate mac={mac} {words} || exit 1; tries=200
                 until card=$(grep -l {mac} /sys/class/net/*/address); do
                   tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'no card'; /usr/bin/ip link; exit 1; }}; usleep 50000
                 done
                 card=$(basename ${{card%/address}}); ip=/usr/bin/ip
                 $ip netns add {name} && $ip link set $card netns {name} name eth0 && $ip -n {name} link set lo up \
                   && $ip -n {name} link set eth0 up"
            ))
            .map(drop)
            .with_context(|| self.console())
    }

    fn detach(&self, name: &str, number: u32) -> Result<()> {
        let mac = format!("00:16:3e:00:60:{number:02}");
        self.lab.run(&format!("xl network-detach 0 {mac} && /usr/bin/ip netns del {name}")).map(drop)
    }

    fn console(&self) -> String {
        self.domain.console().unwrap_or_default()
    }

    /// What a shell in a namespace says.
    fn inside(&self, name: &str, script: &str) -> Result<String> {
        let out = self.lab.run(&format!("/usr/bin/ip netns exec {name} sh -c '{script}' 2>&1"));
        out.with_context(|| format!("{script}\n{}", self.console()))
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        let _ =
            self.lab.run("for name in $(/usr/bin/ip netns list | cut -d' ' -f1); do /usr/bin/ip netns del $name; done");
    }
}

/// An address by DHCP, by busybox's client.
const DHCP: &str = "udhcpc -i eth0 -O mtu -n -q -t 5 -T 1 -s /tmp/udhcpc.script >/dev/null";

fn put_script(f: &Fixture) -> Result<()> {
    f.lab
        .run(
            "printf '%s\\n' '#!/bin/sh' '[ $1 = bound ] || exit 0' \\
             '/usr/bin/ip addr add $ip/$mask dev $interface' '/usr/bin/ip route add default via $router' \\
             'echo $ip $router $mtu $dns $domain $hostname >/tmp/lease' >/tmp/udhcpc.script; chmod +x /tmp/udhcpc.script",
        )
        .map(drop)
}

fn clients(f: &Fixture) -> Result<String> {
    put_script(f)?;
    let rules = "clients 10.7.0.1/24; clients fd07::1/64; search lab.example; publish tcp 8080 to 10.7.0.9 port 5201; \
                 host 00:16:3e:00:60:01 one 10.7.0.21";
    let gate = Gate::start(f, &format!("rules=\"{rules}\" metrics=9100"))?;
    gate.attach("one", 1, "")?;
    gate.attach("two", 2, "ip=10.7.0.22")?;
    gate.inside("one", DHCP)?;
    let lease = f.lab.run("cat /tmp/lease")?;
    ensure!(lease.trim() == "10.7.0.21 10.7.0.1 1500 10.7.0.1 lab.example one", "{lease}");
    gate.inside("two", "/usr/bin/ip addr add 10.7.0.22/24 dev eth0; /usr/bin/ip route add default via 10.7.0.1")?;
    // The gate, others outside, and each other.
    for (name, to) in [("one", "10.7.0.1"), ("one", "10.0.2.10"), ("two", "10.0.2.10"), ("one", "10.7.0.22")] {
        gate.inside(name, &format!("ping -c 3 -W 2 {to} >/dev/null"))?;
    }
    // By router advertisements, an address of its own and a router.
    gate.inside(
        "one",
        "tries=100; until /usr/bin/ip -6 addr show dev eth0 | grep -q \"fd07::.* scope global\"; do \
          tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; usleep 100000; done; ping -6 -c 3 -W 2 fd07::1 >/dev/null",
    )?;
    let hops = gate.inside("one", "traceroute -n -m 3 -w 2 -q 1 10.0.2.10")?;
    ensure!(hops.contains(" 1  10.7.0.1 ") && hops.contains(" 2  10.0.2.10 "), "{hops}");
    // A client's name, of its search domain.
    let named = gate.inside("two", "nslookup one.lab.example 10.7.0.1")?;
    ensure!(named.contains("10.7.0.21"), "{named}");
    f.lab.run("iperf3 -s -D --forceflush >/dev/null 2>&1 </dev/null")?;
    let mut speeds = Vec::new();
    for words in ["", "-R", "-P 4", "-P 4 -R", "-u -b 5M", "-u -b 5M -R"] {
        let out = gate.inside("one", &format!("timeout 30 iperf3 -c 10.0.2.10 -t 1 -f m {words}"))?;
        let speed = out.lines().rev().find(|line| line.contains("receiver")).unwrap_or_default();
        speeds
            .push(speed.split_whitespace().skip_while(|word| !word.contains("Bytes")).nth(1).unwrap_or("?").to_owned());
    }
    f.lab.run("killall iperf3")?;
    // A guest of ours behind it: published outside, and for those inside.
    let server = guest(&f.lab, f.guest("iperf")?, "iperf").memory(32).command_line("ip=10.7.0.9/24 gw=10.7.0.1");
    let server = server.line("vif = [\"backend=gate,mac=00:16:3e:00:60:09,ip=10.7.0.9\"]").create()?;
    server.wait_for("iperf: ready", 20)?;
    for words in ["", "-R"] {
        let out = f.lab.run(&format!("timeout 30 iperf3 -c {GATE} -p 8080 -t 1 -f m {words} 2>&1"));
        out.with_context(|| gate.console())?;
        gate.inside("two", &format!("timeout 30 iperf3 -c {GATE} -p 8080 -t 1 {words}"))?;
        gate.inside("two", &format!("timeout 30 iperf3 -c 10.7.0.9 -t 1 {words}"))?;
    }
    // Nothing else of it is reached.
    let (status, _) = f.lab.try_run(&format!("timeout 3 nc -w 2 {GATE} 5201 </dev/null"))?;
    ensure!(status != 0, "port 5201 is not published");
    f.lab.run("xl sysrq gate g")?;
    let shown = gate.domain.wait_for("gate: names: ", 20)?;
    ensure!(shown.contains("gate: client one: up, "), "{shown}");
    // The lab keeps domains that have ended.
    f.lab.run(&format!("xl shutdown -w iperf && xl destroy {}", server.id))?;
    gate.detach("one", 1)?;
    gate.domain.wait_for("gate: client one (", 20)?;
    gate.detach("two", 2)?;
    // A directory that is dom0's own counts in nobody's quota.
    let left =
        f.lab.run(&format!("xenstore-ls -fp /local/domain/{}/backend/vif 2>/dev/null || true", gate.domain.id))?;
    let own = format!("(n{},", gate.domain.id);
    let own = left.lines().filter(|line| line.contains(&own)).collect::<Vec<_>>();
    ensure!(own.len() <= 1, "directories of clients that are gone:\n{left}");
    f.lab.run("xl shutdown -w gate")?;
    Ok(format!("Mbit/s: {}", speeds.join(", ")))
}

fn comings(f: &Fixture) -> Result<String> {
    let gate = Gate::start(f, "rules=\"clients 10.7.0.1/24\"")?;
    let outside = "/usr/bin/ip addr add 10.7.0.5/24 dev eth0; /usr/bin/ip route add default via 10.7.0.1";
    for _ in 0..10 {
        gate.attach("one", 5, "ip=10.7.0.5")?;
        gate.inside("one", &format!("{outside}; ping -c 1 -W 5 10.0.2.10 >/dev/null"))?;
        gate.detach("one", 5)?;
    }
    gate.attach("one", 5, "ip=10.7.0.5")?;
    gate.inside("one", outside)?;
    f.lab.run("iperf3 -s -D --forceflush >/dev/null 2>&1 </dev/null")?;
    // A flow that the new rules forbid ends, and one that they allow does not.
    let set =
        |text: &str| f.lab.run(&format!("xenstore-write /local/domain/{}/data/gate/rules '{text}'", gate.domain.id));
    set("clients 10.7.0.1/24\nreject tcp to any port 5201\n")?;
    gate.domain.wait_for("gate: 1 rules of store", 20)?;
    let (status, out) = f.lab.try_run("/usr/bin/ip netns exec one timeout 10 iperf3 -c 10.0.2.10 -t 1 2>&1")?;
    ensure!(status != 0 && out.contains("refused"), "{out}");
    gate.inside("one", "ping -c 1 -W 5 10.0.2.10 >/dev/null")?;
    set("clients 10.7.0.1/24\nreject tcp to any prot 5201\n")?;
    gate.domain.wait_for("gate: store:2:19: ", 20)?;
    let told = f.lab.run(&format!("xenstore-read /local/domain/{}/data/gate/status", gate.domain.id))?;
    ensure!(told.starts_with("error: store:2:19: "), "{told}");
    set("clients 10.7.0.1/24\naccept tcp to any port 5201\n")?;
    gate.domain.wait_for("gate: 1 rules of store; 0 flows forgotten", 20)?;
    gate.inside("one", "timeout 20 iperf3 -c 10.0.2.10 -t 1")?;
    // What is sent in another's name goes nowhere, and is counted.
    gate.inside(
        "one",
        "/usr/bin/ip addr add 10.7.0.77/24 dev eth0; ! ping -c 2 -W 1 -I 10.7.0.77 10.0.2.10 >/dev/null",
    )?;
    f.lab.run("killall iperf3; xl sysrq gate g")?;
    let shown = gate.domain.wait_for("gate: dropped: spoofed ", 20)?;
    ensure!(shown.contains("gate: client d0/"), "{shown}");
    gate.detach("one", 5)?;
    f.lab.run("xl shutdown -w gate")?;
    Ok("11 times".into())
}

/// A site outside that is known by its name.
const SITE: &str = "198.51.100.7";

/// Dropping it takes from dom0 what [`trunk`] has given it.
struct Trunk<'a>(&'a Lab);

impl Drop for Trunk<'_> {
    fn drop(&mut self) {
        let _ = self.0.run(&format!(
            "killall iperf3 linux-load 2>/dev/null; /usr/bin/ip addr del {SITE}/32 dev lo; /usr/bin/ip link del xenbr0.5; true"
        ));
    }
}

fn trunk(f: &Fixture) -> Result<String> {
    let lab = &f.lab;
    lab.put("/tmp/linux-load", Box::new(std::fs::File::open(crate::apps::linux_load()?)?))?;
    let rules = "clients 10.7.0.1/24\npolicy drop\naccept icmp\naccept tcp to site.example port 5201\n\
                 accept tcp from 10.7.0.0/24 to gate port 9100\n";
    lab.put("/tmp/gate.rules", Box::new(std::io::Cursor::new(rules.to_owned() + &"\0".repeat(4096 - rules.len()))))?;
    let _trunk = Trunk(lab);
    lab.run(&format!(
        "ip=/usr/bin/ip; chmod 755 /tmp/linux-load; $ip addr add {SITE}/32 dev lo
         $ip link add link xenbr0 name xenbr0.5 type vlan id 5 && $ip addr add 10.5.0.1/24 dev xenbr0.5 \
           && $ip link set xenbr0.5 up || exit 1
         setsid /tmp/linux-load dns 10.0.2.10:53 site.example={SITE} </dev/null >/tmp/dns.log 2>&1 &
         iperf3 -s -D --forceflush >/dev/null 2>&1 </dev/null"
    ))?;
    let line = format!(
        "vif0.ip={GATE}/24 vif0.gw=10.0.2.10 vif0.dns=10.0.2.10 vif0.vlans=5 vif0.5.ip=10.5.0.60/24 rules=xvda metrics=9100"
    );
    let domain = guest(lab, f.guest("gate")?, "gate").memory(32).line("driver_domain=1").command_line(line).line(VIF);
    let domain = domain.line(&super::disk::disk("/tmp/gate.rules", "ro")).create()?;
    for text in ["gate: 3 rules of xvda", "gate: ready", "gate: vif/0: 10.0.2.60/24", "gate: vif/0.5: 10.5.0.60/24"] {
        domain.wait_for(text, 20)?;
    }
    let gate = Gate { lab, domain };
    gate.attach("one", 1, "ip=10.7.0.22")?;
    gate.inside("one", "/usr/bin/ip addr add 10.7.0.22/24 dev eth0; /usr/bin/ip route add default via 10.7.0.1")?;
    // The same card, tagged and not.
    for to in ["10.5.0.1", "10.0.2.10"] {
        gate.inside("one", &format!("ping -c 2 -W 2 {to} >/dev/null"))?;
    }
    let tagged = lab.run("cat /sys/class/net/xenbr0.5/statistics/rx_packets")?;
    ensure!(tagged.trim().parse::<u32>().is_ok_and(|count| count >= 2), "{tagged} tagged packets");
    // The one address that the name has, and no other of the same machine.
    gate.inside(
        "one",
        &format!("tries=50; until timeout 20 iperf3 -c {SITE} -t 1 >/dev/null; do tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; usleep 100000; done"),
    )?;
    let (status, _) = lab.try_run("/usr/bin/ip netns exec one timeout 3 iperf3 -c 10.0.2.10 -t 1")?;
    ensure!(status != 0, "the rules let nothing pass there");
    let counters = gate.inside("one", "timeout 10 wget -q -O - http://10.7.0.1:9100/metrics")?;
    for line in [
        "gate_client_up{client=\"d0/",
        "gate_dropped_total{reason=\"forbidden\"}",
        "rule=\"accept tcp to site.example port 5201\"}",
    ] {
        ensure!(counters.contains(line), "no {line}:\n{counters}");
    }
    // Nobody outside sees them.
    let (status, _) = lab.try_run(&format!("timeout 2 wget -q -O - http://{GATE}:9100/metrics"))?;
    ensure!(status != 0, "the counters are for all");
    gate.detach("one", 1)?;
    lab.run("xl shutdown -w gate")?;
    Ok(String::new())
}
