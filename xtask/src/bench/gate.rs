//! `gate` and Debian's kernel with nftables in turn, as a router between a namespace of dom0's and dom0 itself.
//!
//! ```text
//! client ── 10.7.0.1 router 10.0.2.60 ── xenbr0, dom0's own 10.0.2.10
//!    └───────────── direct ──────────────────┘       Not through the router: what a round trip takes without it.
//! ```
//!
//! Each router has one network device to dom0's bridge, and one to the client. What the client holds of that is the frontend
//! where the router is ours, since `gate` serves its clients itself, and netback's interface where it is Linux. Both translate
//! all that leaves, track it, and have the same rules.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use cargo_xen::Guest;
use serde_json::Value;

use super::net;
use super::table::{Pair, Row, head, rounds, show, show_busy, spread};
use super::work::Work;
use crate::apps::{app, linux_load};
use xen_lab::Dom0;
use xen_lab::Lab;
use xen_lab::domain::{Domain, destroy_all, guest, linux_router};

const SERVER: &str = "10.0.2.10";
/// Always the same for both: dom0 remembers them.
const UPLINK_MAC: &str = "00:16:3e:00:00:60";
const CLIENT_MAC: &str = "00:16:3e:00:00:61";
/// What `linux-load` serves on.
const PORT: u16 = 5250;

/// Seconds that each may take until it passes a packet on: a Linux guest needs most of them on a busy host.
const START: [u32; 2] = [20, 90];

/// What is allowed, of what the client sends; everything else is dropped.
const GATE_RULES: &str = "clients 10.7.0.1/24; policy drop; drop to 192.0.2.0/24; accept tcp to any port 80,443; \
                          accept icmp; accept udp to any port 53,123; accept tcp to any port 5201-5300; \
                          accept udp to any port 5201-5300";
const NFT_RULES: &str = "
    table ip router {
      chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        ct state invalid drop
        iifname != eth1 drop
        ip daddr 192.0.2.0/24 drop
        tcp dport { 80, 443 } accept
        meta l4proto icmp accept
        udp dport { 53, 123 } accept
        tcp dport 5201-5300 accept
        udp dport 5201-5300 accept
      }
      chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname eth0 masquerade
      }
    }";

/// The namespace, and a way from it that is not through a router. Who asks for a neighbour that is not there yet, as at a
/// router's start, asks again soon.
const SETUP: &str = "set -e; ip=/usr/bin/ip
    $ip netns add client; $ip -n client link set lo up
    echo 20 >/proc/sys/net/ipv4/neigh/default/retrans_time_ms
    $ip link add direct type veth peer name direct netns client
    $ip addr add 10.8.7.1/24 dev direct; $ip link set direct up
    $ip -n client addr add 10.8.7.2/24 dev direct; $ip -n client link set direct up
    chmod +x /tmp/linux-load /etc/xen/scripts/vif-client
    setsid iperf3 -s </dev/null >/dev/null 2>&1 &
    setsid /tmp/linux-load serve @PORT@ </dev/null >/dev/null 2>&1 &";

/// Gives an interface to the client, whoever made it.
const TO_CLIENT: &str = "to_client() {
      /usr/bin/ip link set $1 netns client name eth0
      printf 'addr add 10.7.0.5/24 dev eth0\\nlink set eth0 up\\nroute add default via 10.7.0.1\\n' |
        /usr/bin/ip -n client -batch -
    }";

/// The hotplug script of the Linux router's interface to the client.
const SCRIPT: &str = "#!/bin/sh
    export PATH=/bin:/sbin:/usr/bin:/usr/sbin
    @TO_CLIENT@
    case $1 in
    online | add) to_client $vif && xenstore-write $XENBUS_PATH/hotplug-status connected ;;
    esac";

/// A part, the words for iperf3.
const TCP: [(&str, &str); 4] = [
    ("TCP client to dom0, 1 stream", ""),
    ("TCP client to dom0, 8 streams", "-P 8"),
    ("TCP dom0 to client, 1 stream", "-R"),
    ("TCP dom0 to client, 8 streams", "-P 8 -R"),
];
const UDP: [(&str, &str); 2] = [("UDP 64 bytes client to dom0", "up"), ("UDP 64 bytes dom0 to client", "down")];
const CONNECTIONS: &str = "new TCP connections";
const PING: &str = "round trip, added";
const BOOT: &str = "unpaused to first packet";
const MEMORY: &str = "memory that is enough";

/// Units that add up while a router is busy: of these it is told how many a second of its processor gives.
const WORK: [(&str, &str); 7] = [
    (TCP[0].0, " Mbit/s"),
    (TCP[1].0, " Mbit/s"),
    (TCP[2].0, " Mbit/s"),
    (TCP[3].0, " Mbit/s"),
    (UDP[0].0, "/s"),
    (UDP[1].0, "/s"),
    (CONNECTIONS, "/s"),
];

/// MiB that are tried.
const MEMORIES: [&[u64]; 2] =
    [&[4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32], &[40, 48, 56, 64, 72, 80, 88, 96, 112, 128, 160, 192]];

pub(super) fn lab(lab: &Lab, count: u32) -> Result<()> {
    let image = app("gate")?;
    lab.put("/tmp/linux-load", Box::new(File::open(linux_load()?)?))?;
    let script = SCRIPT.replace("@TO_CLIENT@", TO_CLIENT);
    lab.put("/etc/xen/scripts/vif-client", Box::new(Cursor::new(script.trim_start().to_owned())))?;
    lab.run(&SETUP.replace("@PORT@", &PORT.to_string()))?;
    let mut bench = Bench { lab, image: &image, rows: BTreeMap::new(), costs: BTreeMap::new(), failures: Vec::new() };
    let outcome = rounds(count, || [Kind::Gate, Kind::Linux].into_iter().try_for_each(|kind| bench.round(kind)));
    bench.smallest();
    bench.print();
    outcome?;
    ensure!(bench.failures.is_empty(), "{}", bench.failures.join("\n"));
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gate,
    Linux,
}

/// What was measured, and what could not be: the rest is done all the same.
struct Bench<'a> {
    lab: &'a Lab,
    image: &'a Guest,
    rows: BTreeMap<&'static str, Row>,
    /// What each row has cost the gate in the last round.
    costs: BTreeMap<&'static str, String>,
    failures: Vec<String>,
}

impl<'a> Bench<'a> {
    fn round(&mut self, kind: Kind) -> Result<()> {
        let started = self.start(kind, [64, 192][kind as usize]);
        let (router, boot) = started.or_else(|error| self.stop(kind).and(Err(error)))?;
        self.keep(kind, BOOT, Ok((boot, [0.0; 2])));
        for (name, words) in TCP {
            self.costly(&router, kind, name, |bench| bench.tcp(words));
        }
        for (name, way) in UDP {
            self.costly(&router, kind, name, |bench| bench.udp(&router, way));
        }
        let connections = format!("/tmp/linux-load connections {SERVER}:{PORT} 2000");
        self.costly(&router, kind, CONNECTIONS, |bench| number(&bench.client(&connections)?));
        let added = (|| Ok((self.ping(SERVER)? - self.ping("10.8.7.1")?, [0.0; 2])))();
        self.keep(kind, PING, added);
        let state = router.state().map(|(_, reason)| reason);
        if state.as_deref().ok() != Some("-") {
            let console = router.console().unwrap_or_default();
            self.failures.push(format!("{kind:?} ended: {state:?}\n{console}"));
        }
        self.stop(kind)
    }

    fn keep(&mut self, kind: Kind, name: &'static str, value: Result<(f64, [f64; 2])>) {
        let row = self.rows.entry(name).or_default();
        match value {
            Ok((value, busy)) => {
                row.values[kind as usize].push(value);
                row.busy[kind as usize].push(busy);
            }
            Err(error) => self.failures.push(format!("{kind:?}, {name}: {error:#}")),
        }
    }

    /// A router that passes packets on, and the milliseconds that it took to the first of them.
    fn start(&self, kind: Kind, memory: u64) -> Result<(Domain<'a>, f64)> {
        let uplink = format!("bridge=xenbr0,mac={UPLINK_MAC}");
        let builder = match kind {
            Kind::Gate => guest(self.lab, self.image, "gate")
                .line("driver_domain=1")
                .command_line(format!("ip=10.0.2.60/24 gw={SERVER} rules=\"{GATE_RULES}\""))
                .line(&format!("vif = [\"{uplink}\"]"))
                .before(attach),
            Kind::Linux => linux_router(self.lab, "router", &job())?
                .line(&format!("vif = [\"{uplink}\", \"script=vif-client,mac={CLIENT_MAC}\"]")),
        };
        let first = format!("/tmp/linux-load first {SERVER}:{PORT} {} xl unpause", START[kind as usize]);
        let router = builder.memory(memory).paused().create()?;
        let told = self.client(&format!("{first} {}", router.id)).with_context(|| self.told(&router))?;
        Ok((router, number(&told)?))
    }

    fn told(&self, router: &Domain<'_>) -> String {
        let attached = self.lab.run("cat /tmp/attach.log 2>/dev/null; /usr/bin/ip -n client addr").unwrap_or_default();
        format!("{}\n{attached}", router.console().unwrap_or_default())
    }

    fn stop(&self, kind: Kind) -> Result<()> {
        if kind == Kind::Gate {
            self.lab.run(&format!("xl network-detach 0 {CLIENT_MAC}; rm -f /tmp/attach.log"))?;
        }
        destroy_all(self.lab)?;
        // A namespace that loses its interface may have it for a moment longer.
        self.lab.run(
            "tries=100; while /usr/bin/ip -n client link show eth0 >/dev/null 2>&1; do
               tries=$((tries - 1)); [ $tries -gt 0 ] || { echo 'the client keeps its interface'; exit 1; }; usleep 50000
             done",
        )?;
        Ok(())
    }

    fn client(&self, command: &str) -> Result<String> {
        self.lab.run(&format!("/usr/bin/ip netns exec client {command}"))
    }

    /// Keeps what `measure` says, how busy processors were meanwhile, and what it has cost the gate.
    fn costly(
        &mut self,
        router: &Domain<'_>,
        kind: Kind,
        name: &'static str,
        measure: impl FnOnce(&Self) -> Result<f64>,
    ) {
        let read = || (kind == Kind::Gate).then(|| Work::read(router)).transpose();
        let outcome = (|| {
            let before = read()?;
            let value = self.busy(router, || measure(self))?;
            Ok((value, before.zip(read()?)))
        })();
        let value = outcome.map(|(value, work)| {
            self.costs.extend(work.map(|(before, after)| (name, after.since(&before))));
            value
        });
        self.keep(kind, name, value);
    }

    /// What `measure` says, and how busy the router's processor was meanwhile, and dom0's.
    fn busy(&self, router: &Domain<'_>, measure: impl FnOnce() -> Result<f64>) -> Result<(f64, [f64; 2])> {
        let (used, start) = (net::used(self.lab, router)?, Instant::now());
        let value = measure()?;
        Ok((value, net::busy(self.lab, router, used, start)?))
    }

    /// What arrived, in Mbit/s.
    fn tcp(&self, words: &str) -> Result<f64> {
        let text = self.client(&format!("timeout 30 iperf3 -J -c {SERVER} -t 2 {words}"))?;
        let report: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
        ensure!(report["error"].is_null(), "{}", report["error"]);
        Ok(report["end"]["sum_received"]["bits_per_second"].as_f64().context("no speed")? / 1e6)
    }

    /// What came out of the router, in packets a second.
    fn udp(&self, router: &Domain<'_>, way: &str) -> Result<f64> {
        let counter = match way {
            "up" => format!("/proc/1/net/dev vif{}.0", router.id),
            _ => "/proc/self/net/dev eth0".to_owned(),
        };
        number(&self.client(&format!("/tmp/linux-load flood {SERVER}:{PORT} 2000 {way} {counter}"))?)
    }

    /// The median of many, in microseconds.
    fn ping(&self, address: &str) -> Result<f64> {
        let text = self.client(&format!("ping -A -c 300 {address} | sed -n 's/.*time=\\([0-9.]*\\) ms/\\1/p'"))?;
        let times: Vec<f64> = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
        ensure!(times.len() > 250, "only {} of 300 pings of {address} were answered", times.len());
        Ok(spread(times).context("no pings")?.0 * 1000.0)
    }

    /// The least memory of those tried that each boots with and passes eight streams on.
    fn smallest(&mut self) {
        for (kind, sizes) in [Kind::Gate, Kind::Linux].into_iter().zip(MEMORIES) {
            // One that does not work at all needs no more memory.
            if self.rows.get(BOOT).is_none_or(|row| row.values[kind as usize].is_empty()) {
                continue;
            }
            let (mut low, mut high) = (0, sizes.len());
            while low < high {
                let middle = (low + high) / 2;
                eprint!("\r  {kind:?} with {} MiB   ", sizes[middle]);
                let works = self.start(kind, sizes[middle]).and_then(|_| self.tcp(TCP[1].1));
                if let Err(error) = self.stop(kind) {
                    return self.failures.push(format!("{kind:?}, {MEMORY}: {error:#}"));
                }
                if works.is_ok() { high = middle } else { low = middle + 1 }
            }
            eprintln!();
            let enough = sizes.get(low).copied().with_context(|| format!("more than {} MiB", sizes[low - 1]));
            self.keep(kind, MEMORY, enough.map(|size| (size as f64, [0.0; 2])));
        }
    }

    fn print(&self) {
        let none = Row::default();
        let row = |name| self.rows.get(name).unwrap_or(&none);
        head("A router with translation", "Linux's");
        for (name, unit) in WORK.into_iter().chain([(PING, " us"), (BOOT, " ms"), (MEMORY, " MiB")]) {
            show(name, unit, &row(name).values);
        }
        println!(
            "  How much of the time a processor was in use, the router's and dom0's: what bounds a row is at 1.00"
        );
        for (name, _) in WORK {
            show_busy(name, &row(name).busy);
        }
        println!("  For each second that the router's processor was in use, whoever bounded it");
        for (name, unit) in WORK {
            show(name, unit.trim_end_matches("/s"), &per_second(row(name)));
        }
        println!("  What ours has spent in the last round");
        for (name, _) in WORK {
            println!("  {name:<34} {}", self.costs.get(name).map_or("-", String::as_str));
        }
    }
}

/// A row's values by how busy the router's processor was.
fn per_second(row: &Row) -> Pair {
    let of = |column: usize| row.values[column].iter().zip(&row.busy[column]).map(|(value, busy)| value / busy[0]);
    [0, 1].map(|column| of(column).collect())
}

/// Has dom0 be a client of the gate's, which does not run yet: the toolstack waits for it.
fn attach(gate: &Domain<'_>) -> Result<()> {
    gate.lab()
        .run(&format!(
            "{TO_CLIENT}
             (xl network-attach 0 backend={} mac={CLIENT_MAC} ip=10.7.0.5 >/tmp/attach.log 2>&1
              tries=400
              until card=$(grep -l {CLIENT_MAC} /sys/class/net/*/address 2>/dev/null); do
                tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'no card' >>/tmp/attach.log; exit 1; }}; usleep 10000
              done
              card=${{card%/address}}; to_client ${{card##*/}} >>/tmp/attach.log 2>&1) </dev/null >/dev/null 2>&1 &
             tries=200
             until xenstore-exists /local/domain/{}/backend/vif/0; do
               tries=$((tries - 1)); [ $tries -gt 0 ] || {{ cat /tmp/attach.log; exit 1; }}; usleep 20000
             done",
            gate.name, gate.id
        ))
        .map(drop)
}

/// What the Linux router does.
fn job() -> String {
    format!(
        "set -e
         ifconfig eth0 10.0.2.60 netmask 255.255.255.0 up; ifconfig eth1 10.7.0.1 netmask 255.255.255.0 up
         route add default gw {SERVER}
         cat >/rules <<'END'\n{NFT_RULES}\nEND
         nft -f /rules
         echo 1 >/proc/sys/net/ipv4/ip_forward
         echo router: ready
         while :; do sleep 1000; done"
    )
}

/// The number that a line begins with.
fn number(told: &str) -> Result<f64> {
    match told.split_whitespace().next().map(str::parse) {
        Some(Ok(number)) => Ok(number),
        _ => bail!("no number in {told:?}"),
    }
}
