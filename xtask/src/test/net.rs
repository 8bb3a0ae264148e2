//! Networks.

use std::fs::File;
use std::io::Cursor;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::web;
use crate::apps::linux_load;
use xen_lab::Dom0;
use xen_lab::domain::{Domain, guest};

pub const ALL: &[(&str, Check)] = &[
    ("web: addresses by DHCP and by hand, ping and pages", addresses),
    ("web: its interface is taken away and given back under load", hotplug),
    ("iperf: dom0's iperf3 by TCP and UDP, both ways, 1 and 8 streams", iperf),
    ("web: frames of 9,000 and 65,517 bytes, with a backend that is not to be trusted", jumbo),
    ("switch: dom0's Linux and a guest of ours behind it", switch),
    ("web: bad words on the command line", bad_words),
    ("web: an MTU in the store that is none", bad_mtu),
    ("web: a backend that never connects is named", no_hotplug),
];

/// What is done for one Xen alone, for its time.
pub const AT_LENGTH: [(&str, Check); 2] = [
    ("web: 10,000 fetches by 32 at once, and by 200", many),
    ("web: QEMU's netback, which offers nothing but copying", minimal_backend),
];

pub const VIF: &str = "vif = [\"bridge=xenbr0\"]";

/// A web server that has told its address, and that address.
pub fn start<'a>(f: &'a Fixture<'_>, name: &str, words: &str) -> Result<(Domain<'a>, String)> {
    start_with(f, name, words, VIF)
}

/// The same, on another interface than the usual.
pub fn start_with<'a>(f: &'a Fixture<'_>, name: &str, words: &str, vif: &str) -> Result<(Domain<'a>, String)> {
    let site = web::put_site(f)?;
    let web = guest(&f.lab, f.guest("web")?, name).memory(16).command_line(words).line(vif).line(&site).create()?;
    let console = web.wait_for("web: ready", 30)?;
    let line = console.lines().find_map(|line| line.split_once("network: ")).context("no address in the log")?.1;
    let told = f.lab.run(&format!("xenstore-read /local/domain/{}/data/ip", web.id))?;
    ensure!(told.trim() == line.trim(), "the store says {told:?}, the console {line:?}");
    let address = line.split('/').next().unwrap_or_default().to_owned();
    Ok((web, address))
}

fn addresses(f: &Fixture) -> Result<String> {
    let (web, address) = start(f, "dhcp", "")?;
    f.lab.run(&format!(
        "ping -c 3 -W 2 {address} >/dev/null || {{ echo 'no answer to ping'; exit 1; }}
         ping -c 2 -W 2 -s 1400 {address} >/dev/null || {{ echo 'no answer to a large ping'; exit 1; }}
         wget -q -O /tmp/page http://{address}/ && wget -q -O /tmp/got http://{address}/bytes || exit 1
         ! wget -q -O /dev/null http://{address}/nothing"
    ))?;
    let page = f.lab.run("cat /tmp/page")?;
    ensure!(page.contains("<title>Sarab</title>") && page.trim_end().ends_with("</html>"), "{page}");
    check_bytes(f)?;
    f.lab.run("xl shutdown -w dhcp")?;
    let (_, reason, console) = web.wait_end(20)?;
    ensure!(reason == "0", "reason {reason}:\n{console}");
    let (_web, address) = start(f, "static", "ip=10.0.2.77/24 gw=10.0.2.2 ip6=fd00::77/64 port=8080")?;
    ensure!(address == "10.0.2.77", "{address}");
    f.lab.run(
        "ip -6 addr add fd00::10/64 dev xenbr0 
         wget -q -O /tmp/got http://10.0.2.77:8080/bytes || exit 1
         # Until it is known that nobody else has the address, dom0 may use one that the guest has no route to.
         tries=50
         until timeout 3 wget -q -O /tmp/got6 'http://[fd00::77]:8080/bytes' 2>/tmp/why; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || { echo 'nothing over IPv6'; cat /tmp/why; ip -6 addr; ip -6 route; ip -6 neigh; exit 1; }; usleep 100000
         done
         cmp /tmp/got /tmp/got6",
    )?;
    check_bytes(f)?;
    Ok(String::new())
}

/// As many as fill several packets, each telling where it is.
pub fn bytes() -> Vec<u8> {
    (0..100_000).map(|at| (at % 251) as u8).collect()
}

pub fn check_bytes(f: &Fixture) -> Result<()> {
    let length = f.lab.run("wc -c </tmp/got")?;
    ensure!(length.trim() == "100000", "{length} bytes");
    f.lab.put("/tmp/bytes", Box::new(Cursor::new(bytes())))?;
    f.lab.run("cmp /tmp/got /tmp/bytes").map(drop)
}

/// Puts the load generator into dom0, as /tmp/linux-load.
pub fn put_load(f: &Fixture) -> Result<()> {
    f.lab.put("/tmp/linux-load", Box::new(File::open(linux_load()?)?))?;
    f.lab.run("chmod +x /tmp/linux-load").map(drop)
}

fn many(f: &Fixture) -> Result<String> {
    let (web, address) = start(f, "many", "")?;
    put_load(f)?;
    let fetch = |path: &str, clients: u32, count: u32, each: u32| {
        let told = f.lab.run(&format!("/tmp/linux-load http {address}:80 {path} {clients} {count} {each}"));
        told.with_context(|| web.console().unwrap_or_default())
    };
    // The last are nearly as many as are served at once: where all places are taken, who is slow has to make room.
    let told = [
        fetch("/", 32, 9_000, 100)?,
        fetch("/", 32, 500, 1)?,
        fetch("/bytes", 32, 500, 10)?,
        fetch("/bytes", 200, 500, 100)?,
    ];
    let metrics = f.lab.run(&format!("wget -q -O - http://{address}/metrics"))?;
    f.lab.run("xl shutdown -w many")?;
    let (_, reason, console) = web.wait_end(20)?;
    ensure!(reason == "0", "reason {reason}:\n{console}");
    let free = web::least_free(&metrics)? / 1024;
    Ok(format!("{}; {free} KiB minimum free", told.map(|line| line.trim().to_owned()).join("; ")))
}

fn hotplug(f: &Fixture) -> Result<String> {
    let vif = "vif = [\"bridge=xenbr0,mac=00:16:3e:00:00:78\"]";
    let (web, address) = start_with(f, "plug", "ip=10.0.2.78/24", vif)?;
    f.lab.run(&format!(
        "(while [ ! -f /tmp/enough ]; do wget -q -O /dev/null http://{address}/bytes; done) &
         xl network-detach plug 0 || exit 1
         xl network-attach plug bridge=xenbr0 mac=00:16:3e:00:00:78 || exit 1
         tries=100
         until wget -q -O /tmp/got http://{address}/bytes; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'nothing comes any more'; touch /tmp/enough; exit 1; }}; usleep 100000
         done; touch /tmp/enough; wait; rm /tmp/enough"
    ))?;
    check_bytes(f)?;
    drop(web);
    Ok(String::new())
}

/// On a bridge of its own, whose frames are larger than Ethernet's: those that networks of cards have, and the largest
/// that Linux's netback takes (65,535 bytes with a header of 18).
fn jumbo(f: &Fixture) -> Result<String> {
    let told = [9_000, 65_517].map(|mtu| frames_of(f, mtu));
    Ok(told.into_iter().collect::<Result<Vec<_>>>()?.join("; "))
}

fn frames_of(f: &Fixture, mtu: u32) -> Result<String> {
    f.lab.run(&format!(
        "brctl addbr jumbo 2>/dev/null || ip link add jumbo type bridge || exit 1
         ip link set jumbo mtu {mtu} up && ip addr add 10.8.0.1/24 dev jumbo"
    ))?;
    let vif = format!("vif = [\"bridge=jumbo,mtu={mtu},untrusted,mac=00:16:3e:00:00:79\"]");
    let (web, address) = start_with(f, "jumbo", "ip=10.8.0.2/24", &vif)?;
    let trusted = f.lab.run(&format!("xenstore-read /local/domain/{}/device/vif/0/trusted", web.id))?;
    ensure!(trusted.trim() == "0", "trusted = {trusted}");
    let counters = || -> Result<[u64; 2]> {
        let path = format!("/sys/class/net/vif{}.0/statistics", web.id);
        let text = f.lab.run(&format!("cat {path}/rx_packets {path}/rx_bytes"))?;
        let mut numbers = text.split_whitespace().map(str::parse);
        Ok([numbers.next().context("packets")??, numbers.next().context("bytes")??])
    };
    let before = counters()?;
    // With the headers of IPv4 and of ICMP as large as a frame may be.
    let size = mtu - 28;
    f.lab.run(&format!(
        "ping -c 5 -W 2 -s {size} {address} >/tmp/ping || {{ echo 'no answer to a large ping'; cat /tmp/ping; exit 1; }}"
    ))?;
    let after = counters()?;
    let (packets, bytes) = (after[0] - before[0], after[1] - before[1]);
    // Each answer in one frame, and not in seven fragments; beside them some that tell neighbours of the guest.
    ensure!(packets <= 20 && bytes >= 5 * u64::from(size), "{packets} frames with {bytes} bytes");
    f.lab.run(&format!("wget -q -O /tmp/got http://{address}/bytes"))?;
    check_bytes(f)?;
    f.lab.run("xl destroy jumbo; ip link del jumbo")?;
    Ok(format!("MTU {mtu}: {bytes} bytes in {packets} frames"))
}

/// No toolstack makes QEMU's backend: QEMU does, for the domain on its command line, and puts it on a tap of dom0's.
fn minimal_backend(f: &Fixture) -> Result<String> {
    let qemu = f.lab.device_model()?;
    let site = web::put_site(f)?;
    let serve = |web: &Domain| {
        let id = web.id;
        let words = "-M xenpv -nodefaults -display none -monitor none -serial none -parallel none -xen-attach";
        let net = "-netdev tap,id=net,ifname=minimal0,script=no,downscript=no -device xen-net-device,netdev=net,idx=0,mac=00:16:3e:00:00:7a";
        let run = format!(
            "mkdir -p /dev/net; [ -c /dev/net/tun ] || mknod /dev/net/tun c 10 200
             setsid {qemu} -xen-domid {id} {words} {net} </dev/null >/tmp/qemu.log 2>&1 & echo $! >/tmp/qemu.pid
             tries=300
             until xenstore-exists /local/domain/{id}/device/vif/0/state; do
               tries=$((tries - 1)); [ $tries -gt 0 ] && kill -0 $(cat /tmp/qemu.pid) || {{ cat /tmp/qemu.log; exit 1; }}; usleep 100000
             done
             ifconfig minimal0 10.8.1.1 netmask 255.255.255.0 up"
        );
        web.lab().run(&run).map(drop)
    };
    let web =
        guest(&f.lab, f.guest("web")?, "minimal").memory(16).command_line("ip=10.8.1.2/24").line(&site).before(serve);
    let web = web.create()?;
    web.wait_for("web: ready", 30)?;
    let offered = f.lab.run(&format!("xenstore-ls /local/domain/0/backend/qnic/{}/0", web.id))?;
    ensure!(
        offered.contains("feature-rx-copy = \"1\"") && !offered.contains("feature-sg"),
        "this backend is another one:\n{offered}"
    );
    f.lab.run(
        "ping -c 3 -W 2 10.8.1.2 >/dev/null || { echo 'no answer to ping'; exit 1; }
         ping -c 2 -W 2 -s 1400 10.8.1.2 >/dev/null || { echo 'no answer to a large ping'; exit 1; }
         wget -q -O /tmp/got http://10.8.1.2/bytes",
    )?;
    check_bytes(f)?;
    f.lab.run("xl shutdown -w minimal")?;
    let (_, reason, console) = web.wait_end(20)?;
    f.lab.run("kill $(cat /tmp/qemu.pid); rm /tmp/qemu.pid /tmp/qemu.log")?;
    ensure!(reason == "0", "reason {reason}:\n{console}");
    Ok(String::new())
}

fn bad_words(f: &Fixture) -> Result<String> {
    for (words, vif, expected) in [
        (
            "ip=10.0.0.300/24",
            VIF,
            "error: command line: `ip=10.0.0.300/24`: expected dhcp, none, or a host's address with its prefix",
        ),
        ("ip=10.0.0.3/33", VIF, "error: command line: `ip=10.0.0.3/33`: expected dhcp, none, or"),
        ("ip6=fd00::1", VIF, "error: command line: `ip6=fd00::1`: expected auto, none, or"),
        ("ip=10.0.0.3/24 gw=here", VIF, "error: command line: `gw=here`: expected a host's IPv4 address"),
        ("ip=10.0.0.3/24 gw=0.0.0.0", VIF, "error: command line: `gw=0.0.0.0`: expected a host's IPv4 address"),
        ("", "", "error: the domain has no network interface; its xl file lists them (vif = [...])"),
    ] {
        let domain = guest(&f.lab, f.guest("web")?, "bad").memory(16).command_line(words).line(vif).create()?;
        let (_, reason, console) = domain.wait_end(20)?;
        ensure!(console.contains(expected) && reason == "3", "reason {reason}, no {expected:?}:\n{console}");
        xen_lab::domain::destroy_all(&f.lab)?;
    }
    Ok(String::new())
}

/// What the log says of an MTU that it does not use.
fn unusable_mtu(value: &str) -> String {
    format!("device/vif/0/mtu is {value:?}, not a number from 68 to 65535: using 1500")
}

/// It costs a warning, and not the interface.
fn bad_mtu(f: &Fixture) -> Result<String> {
    let mut told = Vec::new();
    for value in ["banana", "100000"] {
        let site = web::put_site(f)?;
        let write = |web: &Domain| {
            let path = format!("/local/domain/{}/device/vif/0/mtu", web.id);
            web.lab().run(&format!("xenstore-write {path} {value}")).map(drop)
        };
        let web =
            guest(&f.lab, f.guest("web")?, "badmtu").memory(16).command_line("ip=10.0.2.82/24").line(VIF).line(&site);
        let web = web.before(write).create()?;
        wait_log(f, &web, "web: ready", 30)?;
        let log = wait_log(f, &web, &unusable_mtu(value), 1)?;
        told.push(line(&log, &unusable_mtu(value)));
        f.lab.run("wget -q -O /tmp/got http://10.0.2.82/bytes").with_context(|| log.clone())?;
        check_bytes(f)?;
        xen_lab::domain::destroy_all(&f.lab)?;
    }
    Ok(told.join("; "))
}

/// What the console says of a backend that is waited for.
const WAITS_FOR_BACKEND: &str = "waiting for its backend for";

/// A hotplug script that does not say that it is done: Linux's backend stays in InitWait for ever.
fn no_hotplug(f: &Fixture) -> Result<String> {
    const SCRIPT: &str = "/etc/xen/scripts/vif-silent";
    f.lab.run(&format!("printf '#!/bin/sh\nexit 0\n' >{SCRIPT} && chmod +x {SCRIPT}"))?;
    let vif = "vif = [\"bridge=xenbr0,script=vif-silent\"]";
    let web = guest(&f.lab, f.guest("web")?, "silent").memory(16).command_line("ip=10.0.2.83/24").line(vif).create()?;
    let log = wait_log(f, &web, WAITS_FOR_BACKEND, 30);
    let state = f.lab.run(&format!("xenstore-read /local/domain/0/backend/vif/{}/0/state", web.id))?;
    f.lab.run(&format!("rm {SCRIPT}"))?;
    ensure!(state.trim() == "2", "the backend's state is {state}, and not InitWait");
    let line = line(&log?, WAITS_FOR_BACKEND);
    ensure!(line.contains("/vif/"), "it does not name the backend: {line}");
    Ok(line)
}

/// What `web` has printed and logged.
pub fn log(f: &Fixture, web: &Domain<'_>) -> String {
    let decoded = || cargo_xen::logs::decoded(&f.guest("web")?.debug, web.console()?.as_bytes());
    decoded().unwrap_or_else(|error| format!("{error:#}"))
}

/// Waits until `web` has printed or logged something, and returns all of it.
fn wait_log(f: &Fixture, web: &Domain<'_>, text: &str, seconds: u64) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        let log = log(f, web);
        if log.contains(text) {
            return Ok(log);
        }
        ensure!(Instant::now() < deadline, "no {text:?} within {seconds} s:\n{log}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The first line with a text.
fn line(log: &str, text: &str) -> String {
    log.lines().find(|line| line.contains(text)).unwrap_or_default().trim().to_owned()
}

/// dom0's iperf3 is the client.
fn iperf(f: &Fixture) -> Result<String> {
    let server =
        guest(&f.lab, f.guest("iperf")?, "iperf").memory(32).command_line("ip=10.0.2.79/24").line(VIF).create()?;
    server.wait_for("iperf: ready", 20)?;
    for words in ["", "-R", "-P 8", "-P 8 -R", "--bidir", "-u -b 20M --bidir", "-u -b 20M", "-u -b 20M -R"] {
        f.lab
            .run(&format!(
                "timeout 30 iperf3 -c 10.0.2.79 -t 1 {words} >/tmp/iperf 2>&1 || {{ cat /tmp/iperf; exit 1; }}"
            ))
            .with_context(|| format!("iperf3 {words}\n{}", server.console().unwrap_or_default()))?;
    }
    let console = server.wait_for("UDP sent, 1 streams: ", 20)?;
    let speeds = speeds(&console);
    ensure!(speeds.len() == 8 && !console.contains("a test has ended"), "{console}");
    put_load(f)?;
    f.lab.run("/tmp/linux-load drain 10.0.2.79:5201 3000000").with_context(|| server.console().unwrap_or_default())?;
    f.lab.run("xl sysrq iperf r")?;
    server.wait_for("sysrq: device/vif/0: tx 256 slots, produced ", 20)?;
    Ok(speeds.join(", "))
}

/// What the server says of each test.
pub fn speeds(console: &str) -> Vec<String> {
    console
        .lines()
        .filter_map(|line| line.split_once("iperf: ")?.1.split_once(';').map(|(summary, _)| summary))
        .map(|summary| summary.split(", ").last().unwrap_or_default().to_owned())
        .collect()
}

/// dom0's Linux is a guest here.
fn switch(f: &Fixture) -> Result<String> {
    let switch = guest(&f.lab, f.guest("switch")?, "switch").memory(32).line("driver_domain=1").create()?;
    switch.wait_for("switch: ready", 20)?;
    let vif = "vif = [\"backend=switch,mac=00:16:3e:00:00:91\"]";
    let ours =
        guest(&f.lab, f.guest("iperf")?, "iperf").memory(32).command_line("ip=10.9.0.1/24").line(vif).create()?;
    ours.wait_for("iperf: ready", 20)?;
    f.lab
        .run(
            "xl network-attach 0 backend=switch mac=00:16:3e:00:00:92 || exit 1; tries=200
         until card=$(grep -l 00:16:3e:00:00:92 /sys/class/net/*/address); do
           tries=$((tries - 1)); [ $tries -gt 0 ] || { echo 'no card'; ip link; exit 1; }; usleep 50000
         done
         card=$(basename ${card%/address}); ifconfig $card 10.9.0.2 netmask 255.255.255.0 up
         ping -c 3 -W 2 10.9.0.1 >/dev/null || { echo 'no answer to ping'; exit 1; }
         for words in '' -R '-u -b 10M' '-u -b 10M -R'; do
           timeout 30 iperf3 -c 10.9.0.1 -t 1 $words >/tmp/iperf 2>&1 || { cat /tmp/iperf; exit 1; }
         done
         xl network-detach 0 00:16:3e:00:00:92",
        )
        .with_context(|| format!("{}\n{}", switch.console().unwrap_or_default(), ours.console().unwrap_or_default()))?;
    // The rings of its guest's that is still there; dom0's is gone.
    f.lab.run("xl sysrq switch r")?;
    let shown = switch.wait_for("sysrq: interface 0 of d", 20)?;
    ensure!(shown.contains(": tx 256 slots, produced "), "{shown}");
    let speeds = speeds(&ours.wait_for("UDP sent, 1 streams: ", 20)?);
    ensure!(speeds.len() == 4, "{speeds:?}");
    let gone = switch.wait_for("of d0 is gone; 0 frames of other addresses", 20)?;
    ensure!(switch.state()?.1 == "-", "{gone}");
    f.lab.run("xl shutdown -w switch")?;
    Ok(speeds.join(", "))
}
