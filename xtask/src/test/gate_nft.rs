//! What `gate` makes of packets, beside Debian's kernel with nftables: the same rules in both languages, the same packets, and
//! what comes out on either side.
//!
//! ```text
//! client (10.7.0.5, fd00:7::5) ── router ── 10.6.0.60, fd00:6::60 ── everybody else, behind 10.6.0.1 and fd00:6::1
//! ```
//!
//! Neither end has a network stack: `linux-load lan judge` is all hosts, and prints each packet that it gets.

use std::collections::BTreeMap;
use std::io::Cursor;

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::net::put_load;
use xen_lab::domain::{Domain, destroy_all, guest, linux_router};
use xen_lab::{Dom0, Lab};

mod cases;

use cases::{ALLOWED, CASES};

/// What is done for one Xen alone, for its time.
pub const AT_LENGTH: [(&str, Check); 1] = [("gate: forty packets, judged as nftables does", judged)];

const CLIENT_MAC: &str = "00:16:3e:00:00:61";
const UPLINK: &str = "script=vif-netns,mac=00:16:3e:00:00:60,mtu=1400";
/// What shows that a router is done with a packet, by what the rules let through.
const FENCES: &str = "'udp 10.7.0.5:9 198.51.100.7:9' 'udp [fd00:7::5]:9 [2001:db8::7]:9'";

const GATE_RULES: &str = "
    clients 10.7.0.1/24
    clients fd00:7::1/64
    host 00:16:3e:00:00:61 web 10.7.0.5 fd00:7::5
    publish tcp 8080 to web port 80
    publish udp 5000-5010 to web port 6000-6010
    policy drop
    drop to 198.51.100.9
    accept tcp to any port 80,8000-8010
    accept tcp to 198.51.100.10
    drop tcp to 198.51.100.0/24 port 8011-8020
    reject tcp to any port 23
    reject udp to any port 53
    accept udp to any port 9,5000
    accept udp to 203.0.113.0/24 port 1
    accept udp from inside port 700 to any port 2000
    accept icmp type echo-request
    accept protocol 50
";

const NFT_RULES: &str = "
    table inet router {
      chain dstnat {
        type nat hook prerouting priority dstnat;
        ip daddr 10.6.0.60 tcp dport 8080 dnat ip to 10.7.0.5:80
        ip6 daddr fd00:6::60 tcp dport 8080 dnat ip6 to [fd00:7::5]:80
        @PORTS@
      }
      chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        icmpv6 type { 133, 134, 135, 136 } accept
        iifname eth1 accept
      }
      chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ct state invalid drop
        iifname eth0 ct status dnat accept
        iifname != eth1 drop
        ip daddr 198.51.100.9 drop
        tcp dport { 80, 8000-8010 } accept
        ip daddr 198.51.100.10 meta l4proto tcp accept
        ip daddr 198.51.100.0/24 tcp dport 8011-8020 drop
        tcp dport 23 reject with tcp reset
        udp dport 53 reject with icmpx admin-prohibited
        udp dport { 9, 5000 } accept
        ip daddr 203.0.113.0/24 udp dport 1 accept
        udp sport 700 udp dport 2000 accept
        icmp type echo-request accept
        icmpv6 type echo-request accept
        meta l4proto 50 accept
      }
      chain srcnat {
        type nat hook postrouting priority srcnat;
        oifname eth0 masquerade
      }
    }";

/// Linux with the limits of what it tells off, so that every packet is judged alone; and with the check of sources that
/// routers are to have (RFC 3704), which the gate always has.
const LINUX: &str = "set -e; cd /proc/sys/net
    echo 0 >ipv4/icmp_ratelimit; echo 0 >ipv6/icmp/ratelimit; echo 100000 >ipv4/icmp_msgs_per_sec
    for way in all default eth0 eth1; do echo 1 >ipv4/conf/$way/rp_filter; echo 0 >ipv6/conf/$way/accept_dad; done
    ifconfig eth0 10.6.0.60 netmask 255.255.255.0 mtu 1400 up; ifconfig eth1 10.7.0.1 netmask 255.255.255.0 up
    ip -6 addr add fd00:6::60/64 dev eth0; ip -6 addr add fd00:7::1/64 dev eth1
    route add default gw 10.6.0.1; ip -6 route add default via fd00:6::1
    cat >/rules <<'END'\n@RULES@\nEND
    nft -f /rules
    echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding
    echo router: ready
    while :; do sleep 1000; done";

/// Puts an interface into the namespace of its side: the first one is outside.
const SCRIPT: &str = "#!/bin/sh
    export PATH=/bin:/sbin:/usr/bin:/usr/sbin
    case $1 in
    online | add)
      case $vif in *.0) side=outside ;; *) side=inside ;; esac
      /usr/bin/ip link set $vif netns $side name eth0 && /usr/bin/ip -n $side link set eth0 up || exit 1
      # As vif-bridge does.
      if mtu=$(xenstore-read $XENBUS_PATH/mtu 2>/dev/null); then
        /usr/bin/ip -n $side link set eth0 mtu $mtu; xenstore-write $(xenstore-read $XENBUS_PATH/frontend)/mtu $mtu
      fi
      xenstore-write $XENBUS_PATH/hotplug-status connected ;;
    esac";

/// Two namespaces that have no addresses of their own. Dropping it removes them.
struct Sides<'a>(&'a Lab);

impl<'a> Sides<'a> {
    fn new(f: &'a Fixture<'_>) -> Result<Self> {
        put_load(f)?;
        f.lab.put("/etc/xen/scripts/vif-netns", Box::new(Cursor::new(SCRIPT)))?;
        f.lab.run(
            "set -e; chmod +x /etc/xen/scripts/vif-netns
             for side in inside outside; do
               /usr/bin/ip netns add $side
               /usr/bin/ip netns exec $side sh -c 'echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6'
             done",
        )?;
        Ok(Sides(&f.lab))
    }
}

impl Drop for Sides<'_> {
    fn drop(&mut self) {
        let _ = self.0.run(&format!(
            "xl network-detach 0 {CLIENT_MAC} 2>/dev/null; /usr/bin/ip netns delete inside; /usr/bin/ip netns delete outside
             rm -f /etc/xen/scripts/vif-netns /tmp/judge"
        ));
    }
}

fn judged(f: &Fixture) -> Result<String> {
    let sides = Sides::new(f)?;
    let ours = gate(f)?;
    let found = judge(&f.lab, CLIENT_MAC).with_context(|| ours.console().unwrap_or_default())?;
    f.lab.run(&format!("xl network-detach 0 {CLIENT_MAC}"))?;
    ensure!(ours.state()?.1 == "-", "the gate ended:\n{}", ours.console()?);
    destroy_all(&f.lab)?;
    let theirs = linux(f)?;
    let expected = judge(&f.lab, "02:00:00:00:00:05").with_context(|| theirs.console().unwrap_or_default())?;
    destroy_all(&f.lab)?;
    drop(sides);
    let differences = compare(&found, &expected)?;
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(format!("{} differ, as they are to", ALLOWED.len()))
}

fn gate<'a>(f: &'a Fixture<'_>) -> Result<Domain<'a>> {
    let rules = GATE_RULES.trim().lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let gate = guest(&f.lab, f.guest("gate")?, "gate")
        .memory(32)
        .line("driver_domain=1")
        .command_line("ip=10.6.0.60/24 gw=10.6.0.1 ip6=fd00:6::60/64 gw6=fd00:6::1 rules=\"clients 10.7.0.1/24\"")
        .line(&format!("vif = [\"{UPLINK}\"]"))
        .create()?;
    gate.wait_for("gate: ready", 30)?;
    // They are too long for a command line.
    f.lab.run(&format!("xenstore-write /local/domain/{}/data/gate/rules '{rules}'", gate.id))?;
    gate.wait_for(" rules of store", 30)?;
    f.lab
        .run(&format!(
            "xl network-attach 0 backend=gate mac={CLIENT_MAC} || exit 1; tries=200
             until card=$(grep -l {CLIENT_MAC} /sys/class/net/*/address); do
               tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'no card'; exit 1; }}; usleep 50000
             done 2>/dev/null
             card=${{card%/address}}
             /usr/bin/ip link set ${{card##*/}} netns inside name eth0 && /usr/bin/ip -n inside link set eth0 up"
        ))
        .with_context(|| gate.console().unwrap_or_default())?;
    Ok(gate)
}

fn linux<'a>(f: &'a Fixture<'_>) -> Result<Domain<'a>> {
    // nftables has no ports that are moved by a number.
    let ports =
        (0..=10).map(|at| format!("ip daddr 10.6.0.60 udp dport {} dnat ip to 10.7.0.5:{}\n", 5000 + at, 6000 + at));
    let job = LINUX.replace("@RULES@", &NFT_RULES.replace("@PORTS@", &ports.collect::<String>()));
    let vifs = format!("vif = [\"{UPLINK}\", \"script=vif-netns,mac=00:16:3e:00:00:63\"]");
    let router = linux_router(&f.lab, "router", &job)?.line(&vifs).create()?;
    router.wait_for("router: ready", 120)?;
    Ok(router)
}

/// What comes out, by case: a line for each packet that was sent, and one for each that arrived.
type Outcomes = BTreeMap<String, Vec<String>>;

fn judge(lab: &Lab, mac: &str) -> Result<Outcomes> {
    let cases: String = CASES.iter().map(|(name, packets)| format!("# {name}\n{}\n", packets.trim())).collect();
    lab.put("/tmp/judge", Box::new(Cursor::new(cases)))?;
    let told = lab.run(&format!(
        "/tmp/linux-load lan judge inside eth0 {mac} 10.7.0.5,fd00:7::5 10.7.0.1 \
           outside eth0 02:00:00:00:00:01 10.6.0.1,fd00:6::1 10.6.0.60 {FENCES} </tmp/judge 2>&1"
    ))?;
    let mut outcomes = Outcomes::new();
    let mut name = String::new();
    for line in told.lines() {
        match line.strip_prefix("# ") {
            Some(next) => name = next.to_owned(),
            None => outcomes.entry(name.clone()).or_default().push(line.to_owned()),
        }
    }
    ensure!(outcomes.len() == CASES.len(), "{} cases of {}:\n{told}", outcomes.len(), CASES.len());
    Ok(outcomes)
}

/// What differs though it is not to, and what does not though it is to.
fn compare(ours: &Outcomes, theirs: &Outcomes) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for (name, _) in CASES {
        let both = [ours, theirs].map(|outcomes| outcomes.get(name).map(|lines| lines.join("\n")).unwrap_or_default());
        let allowed = ALLOWED.iter().find(|allowed| allowed.case == name);
        let [ours, theirs] = &both;
        match allowed {
            None if ours != theirs => differences.push(format!("{name}\nours:\n{ours}\nLinux's:\n{theirs}\n")),
            Some(allowed) if ours == theirs => {
                differences.push(format!("{name}: no difference any more, though {}", allowed.why));
            }
            Some(allowed) => {
                // Ours is known, too: another one is no better.
                let found: Vec<_> = ours.lines().filter_map(|line| line.strip_prefix("  ")).collect();
                if found != allowed.ours {
                    differences.push(format!("{name}: {}\nours:\n{ours}\nLinux's:\n{theirs}\n", allowed.why));
                }
            }
            None => {}
        }
    }
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_forty_cases_each_of_its_own_name() {
        let names: std::collections::BTreeSet<_> = CASES.iter().map(|(name, _)| name).collect();
        assert_eq!((names.len(), CASES.len()), (40, 40));
        assert!(ALLOWED.iter().all(|allowed| names.contains(&allowed.case)));
    }

    #[test]
    fn a_difference_is_found_in_either_direction() {
        let all = |text: &str| -> Outcomes {
            CASES.iter().map(|(name, _)| (name.to_string(), vec![format!("  {text}")])).collect()
        };
        let none: usize = compare(&all("out"), &all("out")).unwrap().len();
        assert_eq!(none, ALLOWED.len());
        assert_eq!(compare(&all("out"), &all("in")).unwrap().len(), CASES.len());
    }
}
