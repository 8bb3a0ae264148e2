//! Networks.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::domain::{Domain, guest};
use crate::dom0::Dom0;

pub const ALL: &[(&str, Check)] = &[
    ("web: addresses by DHCP and by hand, ping and pages", web),
    ("web: 10,000 fetches by 32 at once", many),
    ("web: its interface is taken away and given back under load", hotplug),
    ("web: bad words on the command line", bad_words),
];

const VIF: &str = "vif = [\"bridge=xenbr0\"]";

/// A web server that has told its address, and that address.
fn start<'a>(f: &'a Fixture, name: &str, words: &str) -> Result<(Domain<'a>, String)> {
    let web = guest(&f.lab, &f.web, name).memory(16).command_line(words).line(VIF).create()?;
    let console = web.wait_for("web: ready", 30)?;
    let line = console.lines().find_map(|line| line.split_once("network: ")).context("it tells no address")?.1;
    let told = f.lab.run(&format!("xenstore-read /local/domain/{}/data/ip", web.id))?;
    ensure!(told.trim() == line.trim(), "the store says {told:?}, the console {line:?}");
    let address = line.split('/').next().unwrap_or_default().to_owned();
    Ok((web, address))
}

/// What dom0 is to get from `/bytes`.
const MAKE_BYTES: &str = "[ -f /tmp/bytes ] || awk 'BEGIN { for (i = 0; i < 100000; i++) printf \"%02x\", i % 251 }' | \
     sed 's/../\\\\x&/g' | xargs -n 4000 printf >/tmp/bytes";

fn web(f: &Fixture) -> Result<String> {
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
        "ip -6 addr add fd00::10/64 dev xenbr0 2>/dev/null
         wget -q -O /tmp/got http://10.0.2.77:8080/bytes || exit 1
         wget -q -O /tmp/got6 'http://[fd00::77]:8080/bytes' || { echo 'nothing over IPv6'; exit 1; }
         cmp /tmp/got /tmp/got6",
    )?;
    check_bytes(f)?;
    Ok(String::new())
}

fn check_bytes(f: &Fixture) -> Result<()> {
    let length = f.lab.run("wc -c </tmp/got")?;
    ensure!(length.trim() == "100000", "{length} bytes");
    f.lab.run(&format!("{MAKE_BYTES}; cmp /tmp/got /tmp/bytes")).map(drop)
}

fn many(f: &Fixture) -> Result<String> {
    let (web, address) = start(f, "many", "")?;
    let start = Instant::now();
    f.lab.run(&format!(
        "{MAKE_BYTES}; wget -q -O /tmp/page http://{address}/ || exit 1
         fetch() {{ n=0; while [ $n -lt $1 ]; do
           wget -q -O - http://{address}/ | cmp -s - /tmp/page || {{ echo \"fetch $n of $2 differs\"; return 1; }}; n=$((n+1))
         done; }}
         for client in $(seq 32); do fetch 313 $client & pids=\"$pids $!\"; done
         bad=0; for pid in $pids; do wait $pid || bad=1; done; exit $bad"
    ))?;
    let took = start.elapsed();
    f.lab.run("xl shutdown -w many")?;
    web.wait_end(20)?;
    Ok(format!("{:.0} fetches a second", 32.0 * 313.0 / took.as_secs_f64()))
}

fn hotplug(f: &Fixture) -> Result<String> {
    let (web, address) = start(f, "plug", "ip=10.0.2.78/24")?;
    f.lab.run(&format!(
        "{MAKE_BYTES}
         (while [ ! -f /tmp/enough ]; do wget -q -T 2 -O /dev/null http://{address}/bytes; done) &
         xl network-detach plug 0 || exit 1
         xl network-attach plug bridge=xenbr0 || exit 1
         tries=100
         until wget -q -T 2 -O /tmp/got http://{address}/bytes; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'nothing comes any more'; touch /tmp/enough; exit 1; }}; usleep 100000
         done; touch /tmp/enough; wait; rm /tmp/enough"
    ))?;
    check_bytes(f)?;
    drop(web);
    Ok(String::new())
}

fn bad_words(f: &Fixture) -> Result<String> {
    for (words, vif, expected) in [
        (
            "ip=10.0.0.300/24",
            VIF,
            "error: command line: `ip=10.0.0.300/24`: expected dhcp, or an address with its prefix",
        ),
        ("ip=10.0.0.3/33", VIF, "error: command line: `ip=10.0.0.3/33`: expected dhcp, or"),
        ("ip6=fd00::1", VIF, "error: command line: `ip6=fd00::1`: expected auto, or"),
        ("ip=10.0.0.3/24 gw=here", VIF, "error: command line: `gw=here`: expected an IPv4 address"),
        ("", "", "error: the domain has no network interface; its xl file lists them (vif = [...])"),
    ] {
        let domain = guest(&f.lab, &f.web, "bad").memory(16).command_line(words).line(vif).create()?;
        let (_, reason, console) = domain.wait_end(20)?;
        ensure!(console.contains(expected) && reason == "3", "reason {reason}, no {expected:?}:\n{console}");
        super::domain::destroy_all(&f.lab)?;
    }
    Ok(String::new())
}
