//! A wide-area network between a guest and a host: delay, loss, reordering, and a bottleneck. Our guest and a Linux guest in
//! turn, and dom0's iperf3 is the client.
//!
//! ```text
//! guest ── wan0 ── wan1 ── far     The disciplines are between the two bridges, and between wan1 and far.
//! near ──────┘
//! ```
//!
//! The interface of the guest itself has none: while netback's frames wait in a queue, the guest's pages do, and a Linux guest
//! has few. No link passes large segments: where a discipline takes a frame, it is one that a network could carry,
//! whoever has cut it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::table::{Pair, counts, head, median, ratios, rounds, show};
use crate::apps::app;
use xen_lab::Dom0;
use xen_lab::Lab;
use xen_lab::domain::{Domain, destroy_all, guest, linux};

const VIF: &str = "vif = [\"bridge=wan0,mac=00:16:3e:00:06:02\"]";
const GUEST: &str = "10.6.0.2";
const NEAR: &str = "10.6.0.3";
/// Of each measurement: as long as slow start takes many times over.
const SECONDS: u32 = 6;
/// How long a server may take for what is still on its way at the end.
const END: Duration = Duration::from_secs(60);

/// What each network is called, and what its ways do.
const NETWORKS: [(&str, Way); 5] = [
    ("50 ms", Way::Delay("delay 25ms")),
    ("50 ms, 0.1 % lost", Way::Delay("delay 25ms loss 0.1%")),
    ("50 ms, 1 % lost", Way::Delay("delay 25ms loss 1%")),
    ("20 ms, 20 Mbit/s", Way::Bottleneck),
    // Those go at once.
    ("20 ms, 5 % reordered", Way::Delay("delay 10ms reorder 5%")),
];

enum Way {
    /// These words for netem, in both directions.
    Delay(&'static str),
    /// A rate and a short queue in both directions, and a delay on the way from the far end.
    Bottleneck,
}

/// The guest sends, or receives: the client's words.
const DIRECTIONS: [(&str, &str); 2] = [("sends", "-R"), ("receives", "")];

/// What is set on every Linux host. What it remembers of the way to another host would be of the network before. And
/// HyStart takes the emulator's jitter, of milliseconds, for a queue that fills: Linux would begin with ten packets, and add one
/// for each round trip.
const LINUX: &str = "echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save; echo 0 >/sys/module/tcp_cubic/parameters/hystart";

/// The networks of one boot. An emulator that has stood still delivers more frames at once than Linux's backlog holds.
const SETUP: &str = "set -e; ip=/usr/bin/ip
    echo 100000 >/proc/sys/net/core/netdev_max_backlog
    for host in near far; do $ip netns add $host; done
    for bridge in wan0 wan1; do $ip link add $bridge type bridge; $ip link set $bridge up; done
    $ip link add out type veth peer name back; $ip link set out master wan0; $ip link set back master wan1
    $ip link add far type veth peer name eth0 netns far; $ip link set far master wan1
    $ip link add near type veth peer name eth0 netns near; $ip link set near master wan0
    for link in out back far near; do $ip link set $link gso_max_segs 1 up; done
    for host in near:10.6.0.3 far:10.6.0.1; do
      in=\"$ip netns exec ${host%:*}\"
      $in $ip addr add ${host#*:}/24 dev eth0; $in $ip link set eth0 gso_max_segs 1 up; $in $ip link set lo up
      $in sh -c \"@LINUX@\"
    done
    setsid $ip netns exec near iperf3 -s </dev/null >/dev/null 2>&1 &";

impl Way {
    /// Has the links do this and nothing else. Frames to the far end pass `far`, those from there `eth0` and then `back`.
    fn script(&self) -> String {
        let mut script = String::from(
            "tc() { /usr/bin/tc qdisc \"$@\"; }; at_far() { /usr/bin/ip netns exec far /usr/bin/tc qdisc \"$@\"; }
             for link in far back; do tc del dev $link root 2>/dev/null; done; at_far del dev eth0 root 2>/dev/null
             set -e\n",
        );
        script += &match self {
            Way::Delay(words) => {
                format!("for link in far back; do tc add dev $link root netem {words} limit 20000; done")
            }
            Way::Bottleneck => "for link in far back; do
                  tc add dev $link root handle 1: tbf rate 20mbit burst 16000 limit 1000000
                  tc add dev $link parent 1:1 handle 2: pfifo limit 50
                done
                at_far add dev eth0 root netem delay 20ms limit 20000"
                .into(),
        };
        script
    }
}

type Rows = BTreeMap<(&'static str, &'static str), Pair>;

#[derive(Default)]
struct Measured {
    /// Mbit/s by network and direction.
    alone: Rows,
    /// The same beside a flow of dom0's, and that one's.
    shares: BTreeMap<&'static str, [Pair; 2]>,
}

pub(super) fn lab(lab: &Lab, count: u32) -> Result<()> {
    let image = app("iperf")?;
    lab.run(&SETUP.replace("@LINUX@", LINUX))?;
    let mut measured = Measured::default();
    let outcome = rounds(count, || {
        let words = format!("ip={GUEST}/24");
        let ours = guest(lab, &image, "ours").memory(64).command_line(words).line(VIF).create()?;
        ours.wait_for("iperf: ready", 30)?;
        measure(&ours, "iperf: ", 0, &mut measured).with_context(|| ours.console().unwrap_or_default())?;
        destroy_all(lab)?;
        let job = format!(
            "{LINUX}
             ifconfig eth0 {GUEST} netmask 255.255.255.0 up; iperf3 -s --forceflush"
        );
        let theirs = linux(lab, "linux", &job, &[])?.line(VIF).create()?;
        theirs.wait_for("Server listening", 60)?;
        measure(&theirs, "Server listening", 1, &mut measured).with_context(|| theirs.console().unwrap_or_default())?;
        destroy_all(lab)
    });
    head("TCP (20 Mbit/s: a queue of 50)", "Linux's");
    let none = Pair::default();
    for (network, _) in NETWORKS {
        for (direction, _) in DIRECTIONS {
            let row = measured.alone.get(&(network, direction)).unwrap_or(&none);
            show(&format!("{network}, {direction}"), " Mbit/s", row);
        }
    }
    println!("  The same bottleneck with a flow of dom0's: the guest's Mbit/s and that one's, and their ratio");
    for (direction, _) in DIRECTIONS {
        if let Some(shares) = measured.shares.get(direction) {
            show_shares(direction, shares);
        }
    }
    outcome
}

/// The server says `ready` once before each test: on a way that loses much, it may know of the end long after the client.
fn measure(guest: &Domain<'_>, ready: &str, column: usize, measured: &mut Measured) -> Result<()> {
    let lab = guest.lab();
    let mut tests = 0;
    let mut test = |command: &str| -> Result<String> {
        let deadline = Instant::now() + END;
        while guest.console()?.matches(ready).count() <= tests {
            ensure!(Instant::now() < deadline, "the server has not ended test {tests} within {} s", END.as_secs());
            std::thread::sleep(Duration::from_millis(100));
        }
        tests += 1;
        lab.run(command)
    };
    for (network, way) in NETWORKS {
        lab.run(&way.script())?;
        for (direction, words) in DIRECTIONS {
            let client = |host| {
                let seconds = SECONDS + 30;
                format!("/usr/bin/ip netns exec far timeout {seconds} iperf3 -J -c {host} -t {SECONDS} {words}")
            };
            let alone = speed(&test(&client(GUEST))?).with_context(|| format!("{network}, {direction}"))?;
            measured.alone.entry((network, direction)).or_default()[column].push(alone);
            if matches!(way, Way::Bottleneck) {
                let both = format!("{} >/tmp/near.json 2>&1 & {}; wait", client(NEAR), client(GUEST));
                let ours = test(&both)?;
                let beside = || Ok::<_, anyhow::Error>([speed(&ours)?, speed(&lab.run("cat /tmp/near.json")?)?]);
                let both = beside().with_context(|| format!("{network}, {direction}, beside a flow of dom0's"))?;
                let shares = measured.shares.entry(direction).or_default();
                shares[column].iter_mut().zip(both).for_each(|(values, speed)| values.push(speed));
            }
        }
    }
    Ok(())
}

/// What arrived, in Mbit/s, as iperf3's client says it.
fn speed(report: &str) -> Result<f64> {
    let value: Value = serde_json::from_str(report).with_context(|| report.to_owned())?;
    ensure!(value["error"].is_null(), "{}", value["error"]);
    Ok(value["end"]["sum_received"]["bits_per_second"].as_f64().context("no speed")? / 1e6)
}

fn show_shares(direction: &str, shares: &[Pair; 2]) {
    for (who, pair) in ["ours", "Linux's"].iter().zip(shares) {
        let both = pair.each_ref().map(|values| median(values, |value| format!("{value:.1}"))).join(" : ");
        let [ratio, between] = ratios(&pair[0], &pair[1]);
        println!("  {:<34} {both:>25} {ratio:>7} {between:>13} {:>6}", format!("{who} {direction}"), counts(pair));
    }
}
