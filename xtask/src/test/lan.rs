//! A network of many hosts: namespaces of dom0's on a bridge of their own, each with a MAC address.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Fixture;
use super::checks::Check;
use super::net::{log, put_load, start_with};
use xen_lab::domain::Domain;
use xen_lab::{Dom0, Lab};

pub const ALL: &[(&str, Check)] = &[
    ("lan: sixteen hosts fetch pages, and none is forgotten", sixteen),
    ("lan: a host is answered beside 1,000 others, and beside noise", crowd),
    ("lan: a host that announces another MAC address is found there", moved),
    ("lan: a guest's address is probed and announced", claimed),
];

pub const VIF: &str = "vif = [\"bridge=lan,mac=00:16:3e:00:07:02\"]";
const MAC: &str = "00:16:3e:00:07:02";
const GUEST: &str = "10.7.0.2";

/// The bridge `lan` with what is on it. Dropping it ends what runs in its namespaces, and removes all.
pub struct Lan<'a> {
    lab: &'a Lab,
}

impl<'a> Lan<'a> {
    pub fn new(f: &'a Fixture<'_>) -> Result<Self> {
        put_load(f)?;
        let lan = Lan { lab: &f.lab };
        lan.lab.run("/usr/bin/ip link add lan type bridge && ip link set lan up")?;
        Ok(lan)
    }

    /// Adds hosts, by their names and addresses with prefixes: as many as there are pairs, in few calls.
    pub fn hosts<H: AsRef<str>>(&self, hosts: &[(H, H)]) -> Result<()> {
        let mut script = String::from("set -e; (\n");
        for (name, _) in hosts {
            let name = name.as_ref();
            script += &format!(
                "echo netns add {name}; echo link add {name} type veth peer name eth0 netns {name}
                 echo link set {name} master lan up\n"
            );
        }
        script += ") | /usr/bin/ip -batch -\n";
        for (name, address) in hosts {
            let (name, address) = (name.as_ref(), address.as_ref());
            script += &format!(
                "printf 'addr add {address} dev eth0\\nlink set eth0 up\\nlink set lo up\\n' | /usr/bin/ip -n {name} -batch -\n"
            );
        }
        self.lab.run(&script).map(drop)
    }

    pub fn host(&self, name: &str, address: &str) -> Result<()> {
        self.hosts(&[(name, address)])
    }

    /// What a host's shell prints. The script has no single quotes.
    pub fn run(&self, host: &str, script: &str) -> Result<String> {
        let run = self.lab.run(&on(host, script));
        run.with_context(|| format!("on the host {host}"))
    }

    /// One of the counters of a host's network stack.
    fn counter(&self, host: &str, group: &str, name: &str) -> Result<u64> {
        let text = self.run(host, &format!("grep \"^{group}: \" /proc/net/netstat"))?;
        let (names, values) = text.split_once('\n').context("no counters")?;
        let found = names.split(' ').zip(values.split(' ')).find(|(known, _)| *known == name);
        Ok(found.with_context(|| format!("no {name} in {text}"))?.1.trim().parse()?)
    }

    /// Starts a program of a host, which prints into the file `/tmp/lan-NAME` of dom0, and waits for its `first` words.
    pub fn start(&self, host: &str, name: &str, program: &str, first: &str) -> Result<()> {
        self.lab.run(&format!(
            "setsid {} </dev/null >/tmp/lan-{name} 2>&1 & echo $! >/tmp/lan-{name}.pid",
            on(host, &format!("exec {program}"))
        ))?;
        self.wait_printed(name, first, 20).map(drop)
    }

    pub fn stop(&self, name: &str) -> Result<()> {
        self.lab
            .run(&format!(
                "pid=$(cat /tmp/lan-{name}.pid); kill $pid; while grep -q . /proc/$pid/cmdline; do usleep 20000; done 2>/dev/null"
            ))
            .map(drop)
    }

    /// What a program has printed that was started.
    pub fn printed(&self, name: &str) -> Result<String> {
        self.lab.run(&format!("cat /tmp/lan-{name}"))
    }

    /// Waits until a program has printed something.
    pub fn wait_printed(&self, name: &str, text: &str, seconds: u64) -> Result<String> {
        self.wait_until(seconds, &format!("{text:?} of {name}"), || {
            let printed = self.printed(name)?;
            Ok(if printed.contains(text) { Ok(printed) } else { Err(printed) })
        })
    }

    /// Asks again and again, until there is an answer, or so many seconds are over: then what was there instead is the error.
    pub fn wait_until<T>(
        &self,
        seconds: u64,
        what: &str,
        mut ask: impl FnMut() -> Result<Result<T, String>>,
    ) -> Result<T> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            match ask()? {
                Ok(answer) => return Ok(answer),
                Err(instead) if Instant::now() > deadline => bail!("no {what} within {seconds} s:\n{instead}"),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Prints ARP frames into `/tmp/lan-arp` from now on.
    fn listen(&self) -> Result<()> {
        self.host("watch", "10.7.255.1/16")?;
        self.start("watch", "arp", "/tmp/linux-load lan listen eth0", "listening")
    }

    /// What the guest has sent of a kind: the addresses that it was about.
    fn heard(&self, kind: &str) -> Result<Vec<String>> {
        let lines = self.printed("arp")?;
        let own = format!("{kind} {MAC} ");
        Ok(lines.lines().filter_map(|line| line.strip_prefix(&own)).map(str::to_owned).collect())
    }
}

impl Drop for Lan<'_> {
    fn drop(&mut self) {
        // The domains on it end with the check.
        let _ = self.lab.run(
            "for host in $(/usr/bin/ip netns list | cut -d ' ' -f 1); do kill $(/usr/bin/ip netns pids $host); done 2>/dev/null
             for port in /sys/class/net/lan/brif/*; do
               case $port in */vif*|*'*') ;; *) ip link del $(basename $port) ;; esac
             done
             /usr/bin/ip -all netns delete; ip link del lan; rm -f /tmp/lan-*; true",
        );
    }
}

/// A command that runs a script on a host.
fn on(host: &str, script: &str) -> String {
    format!("/usr/bin/ip netns exec {host} sh -c '{script}'")
}

fn web<'a>(f: &'a Fixture<'_>, name: &str) -> Result<Domain<'a>> {
    Ok(start_with(f, name, &format!("ip={GUEST}/16"), VIF)?.0)
}

/// Hosts that talk at once are all known at once. Where one has been forgotten, the answer to its SYN is lost while it is
/// looked for again, and Linux repeats the SYN after a second.
fn sixteen(f: &Fixture) -> Result<String> {
    const HOSTS: usize = 16;
    const FETCHES: usize = 20;
    /// An emulator that stands still for a second costs one for some hosts.
    const MAX_REPEATED: u64 = 4;
    let lan = Lan::new(f)?;
    let hosts: Vec<_> = (1..=HOSTS).map(|n| (format!("host{n}"), format!("10.7.1.{n}/16"))).collect();
    lan.hosts(&hosts)?;
    lan.listen()?;
    let web = web(f, "sixteen")?;
    let fetch = format!("/tmp/linux-load http {GUEST}:80 / 1 {FETCHES} 1");
    let mut script = String::new();
    for (name, _) in &hosts {
        script += &format!("{} 2>&1 &\n", on(name, &fetch));
    }
    let told = f.lab.run(&(script + "wait")).with_context(|| log(f, &web))?;
    let slowest: Vec<u64> =
        told.lines().filter_map(|line| line.strip_suffix(" ms at most")?.rsplit(' ').next()?.parse().ok()).collect();
    ensure!(slowest.len() == HOSTS, "{told}");
    let repeated = hosts.iter().map(|(name, _)| lan.counter(name, "TcpExt", "TCPSynRetrans"));
    let repeated = repeated.collect::<Result<Vec<_>>>()?;
    let (repeated, slowest) = (repeated.iter().sum::<u64>(), slowest.iter().max().unwrap_or(&0));
    let asked = lan.heard("request")?.len();
    let summary =
        format!("{repeated} SYNs repeated, {slowest} ms for a page at most, {asked} ARP requests of the guest's");
    ensure!(repeated <= MAX_REPEATED, "{summary}");
    Ok(summary)
}

fn crowd(f: &Fixture) -> Result<String> {
    let lan = Lan::new(f)?;
    lan.hosts(&[("peer", "10.7.0.11/16"), ("crowd", "10.7.0.12/16")])?;
    let web = web(f, "crowd")?;
    lan.run("peer", &format!("ping -c 1 -W 5 {GUEST}"))?;
    let mut told = Vec::new();
    for (name, count, what) in [("all", 1000, "all"), ("noise", 60, "noise")] {
        let crowd = format!("/tmp/linux-load lan crowd eth0 {GUEST} 10.7.16.0 {count} 9 {what}");
        lan.start("crowd", name, &crowd, "begins")?;
        // While they talk.
        let ping = lan.run("peer", &format!("ping -c 20 -i 0.25 -W 2 {GUEST}"));
        let ping = ping.with_context(|| format!("beside {count} hosts: {}", lan.printed(name).unwrap_or_default()))?;
        ensure!(ping.contains(" 20 packets received"), "beside {count} hosts ({what}):\n{ping}\n{}", log(f, &web));
        let line = lan.wait_printed(name, " hosts: ", 60)?;
        told.push(line.lines().last().unwrap_or_default().to_owned());
    }
    Ok(told.join("; "))
}

/// In both forms (RFC 5227, section 3): the next packet goes there, and not only once the old address is given up.
fn moved(f: &Fixture) -> Result<String> {
    let lan = Lan::new(f)?;
    lan.host("peer", "10.7.0.11/16")?;
    let web = web(f, "moved")?;
    let ping = format!("ping -c 5 -i 0.2 -W 1 {GUEST}");
    lan.run("peer", &ping)?;
    for (last, form) in [("a1", "request"), ("a2", "reply")] {
        // It has the guest's address already: it would tell its own while it asked for that.
        let told = lan.run(
            "peer",
            &format!(
                "ip link set eth0 address 02:00:00:00:00:{last} || exit 1
                 /usr/bin/ip neigh replace {GUEST} lladdr {MAC} nud permanent dev eth0 || exit 1
                 /tmp/linux-load lan announce eth0 10.7.0.11 {form} || exit 1
                 {ping}"
            ),
        );
        told.with_context(|| format!("after an announcement as a {form}:\n{}", log(f, &web)))?;
    }
    Ok(String::new())
}

/// As RFC 5227 has it: when the interface comes up, and whenever that happens again.
fn claimed(f: &Fixture) -> Result<String> {
    let lan = Lan::new(f)?;
    lan.host("peer", "10.7.0.11/16")?;
    lan.listen()?;
    let web = web(f, "claimed")?;
    let mut told = Vec::new();
    let mut before = [0, 0];
    let mut failures = Vec::new();
    let mut expect = |when: &str| -> Result<()> {
        let count = || -> Result<[usize; 2]> { Ok([lan.heard("probe")?.len(), lan.heard("announcement")?.len()]) };
        let heard = lan.wait_until(10, "probe and announcement", || {
            let now = count()?;
            let new = [now[0] - before[0], now[1] - before[1]];
            Ok(if new.iter().all(|count| *count > 0) { Ok(new) } else { Err(format!("{new:?}")) })
        });
        match heard {
            Ok([probes, announcements]) => told.push(format!("{when}: {probes} probes, {announcements} announcements")),
            Err(error) => failures.push(format!("{when}: {error:#}")),
        }
        before = count()?;
        Ok(())
    };
    expect("at its start")?;
    f.lab.run(
        "timeout 60 xl save claimed /tmp/saved.img >/tmp/save.log 2>&1 && xl restore -e /tmp/saved.img >>/tmp/save.log 2>&1 || \
           { cat /tmp/save.log; exit 1; }; rm /tmp/saved.img",
    )?;
    expect("after a restore")?;
    f.lab.run(&format!("xl network-detach claimed 0 && xl network-attach claimed bridge=lan mac={MAC}"))?;
    expect("on another interface")?;
    drop(web);
    // Whoever wants the address learns whose it is.
    match lan.run("peer", &format!("/tmp/linux-load lan probe eth0 {GUEST}")) {
        Ok(owner) if owner.trim() == MAC => told.push("a probe is answered".into()),
        Ok(owner) => failures.push(format!("a probe was answered by {owner}")),
        Err(error) => failures.push(format!("{error:#}")),
    }
    ensure!(failures.is_empty(), "{}\n{}", failures.join("\n"), told.join("; "));
    Ok(told.join("; "))
}
