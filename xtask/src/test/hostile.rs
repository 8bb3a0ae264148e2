//! A guest of ours that does at full speed what it may not, on a disk of vault's and an interface of switch's, beside an
//! ordinary guest of the same domain: that one keeps its throughput, and the domain its memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::disk::{from_vault, vault};
use super::net::speeds;
use xen_lab::Dom0;
use xen_lab::domain::{Domain, guest};

/// What is done for one Xen alone, for its time.
pub const AT_LENGTH: [(&str, Check); 2] = [
    ("vault: a hostile guest beside an ordinary one", disk_of_vault),
    ("switch: a hostile guest beside an ordinary one", interface_of_switch),
];

/// Of what it is without an attack, an ordinary guest's throughput is at least so much.
const MIN_SHARE: f64 = 2.0 / 3.0;
/// By how much the free memory of a driver domain may differ between the halves of an attack: what is bounded is in use
/// after the first one.
const MAX_GROWTH: u64 = 256;
/// Lines that a hostile guest may have its backend print in a second.
const MAX_LINES: usize = 10;
/// What the hostile guest may use of the processor, in percent: the lab has one for all domains, and how Xen divides it is
/// not what is looked at here. Without an attack it burns as much.
const CAP: u32 = 20;

/// How long the attack takes; `SARAB_HOSTILE_SECONDS=60` makes it a minute.
fn seconds() -> Result<u64> {
    let text = std::env::var("SARAB_HOSTILE_SECONDS").unwrap_or_else(|_| "20".into());
    text.parse().with_context(|| format!("SARAB_HOSTILE_SECONDS={text}: expected a number of seconds"))
}

/// A guest that attacks or burns what it may of the processor, with this device.
fn start<'a>(f: &'a Fixture<'_>, how: &str, seconds: u64, device: &str) -> Result<Domain<'a>> {
    let hostile = guest(&f.lab, f.guest("probe")?, how)
        .memory(32)
        .command_line(format!("test=hostile how={how} seconds={seconds}"))
        .line(device)
        .line(&format!("cap={CAP}"))
        .create()?;
    hostile.wait_for(&format!("hostile: {how}, "), 20)?;
    Ok(hostile)
}

/// Free memory of a domain, in KiB, as its key `m` shows it.
fn free_memory(f: &Fixture, domain: &Domain) -> Result<u64> {
    const SHOWN: &str = "sysrq: memory ";
    let before = domain.console()?.matches(SHOWN).count();
    f.lab.run(&format!("xl sysrq {} m", domain.name))?;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let console = domain.console()?;
        let shown: Vec<_> = console.lines().filter_map(|line| line.split_once(SHOWN)).collect();
        if shown.len() > before
            && let Some((_, line)) = shown.last()
            && let Some((_, rest)) = line.split_once(" KiB, ")
        {
            let free = rest.split_once(" KiB free").with_context(|| format!("no free memory in {line:?}"))?.0;
            return free.parse().with_context(|| free.to_owned());
        }
        ensure!(std::time::Instant::now() < deadline, "{} shows no memory:\n{console}", domain.name);
    }
}

/// Compares what `measure` finds beside a guest that burns its share of the processor with what it finds twice beside one
/// that attacks.
fn compare(f: &Fixture, back: &Domain, device: &str, measure: impl Fn(Duration) -> Result<Vec<f64>>) -> Result<String> {
    let half = Duration::from_secs(seconds()?) / 2;
    // Longer than anything takes: it is ended when all has been measured.
    let long = 3600;
    let burning = start(f, "burn", long, device)?;
    let before = measure(half)?;
    f.lab.run(&format!("xl destroy {}", burning.id))?;
    let lines = |domain: &Domain| Ok::<_, anyhow::Error>(domain.console()?.lines().count());
    let lines_before = lines(back)?;
    let start_of_attack = std::time::Instant::now();
    let attacking = start(f, "attack", long, device)?;
    let mut during = Vec::new();
    let mut free = Vec::new();
    for _ in 0..2 {
        during.push(measure(half)?);
        free.push(free_memory(f, back)?);
    }
    let took = start_of_attack.elapsed();
    let printed = lines(back)? - lines_before;
    let console = || format!("{}\n{}", back.console().unwrap_or_default(), attacking.console().unwrap_or_default());
    ensure!(attacking.state()?.1 == "-", "the attack has ended too soon:\n{}", console());
    ensure!(back.state()?.1 == "-", "{} has ended:\n{}", back.name, console());
    let mut shares: Vec<f64> = Vec::new();
    for values in &during {
        ensure!(values.len() == before.len(), "{} of {} measurements", values.len(), before.len());
        shares.extend(values.iter().zip(&before).map(|(now, then)| now / then));
    }
    shares.sort_by(f64::total_cmp);
    let share = shares[shares.len() / 2];
    let told = format!(
        "{:.0} % of the throughput (worst of {}: {:.0} %), {} and {} KiB free, {printed} lines in {:.0} s",
        share * 100.0,
        shares.len(),
        shares[0] * 100.0,
        free[0],
        free[1],
        took.as_secs_f32()
    );
    ensure!(share >= MIN_SHARE, "{told}; before {before:?}, during {during:?}\n{}", console());
    ensure!(free[1] + MAX_GROWTH >= free[0], "{told}\n{}", console());
    ensure!(printed <= MAX_LINES * took.as_secs() as usize, "{told}\n{}", console());
    f.lab.run(&format!("xl destroy {}", attacking.id))?;
    Ok(told)
}

fn disk_of_vault(f: &Fixture) -> Result<String> {
    let words = "ramdisk=24M pool=ram format=yes commands=\"create bad 8M; create good 8M\"";
    let vault = vault(f, words, "")?;
    let line = |target| format!("disk = [\"{}\"]", from_vault(target, "rw"));
    // What was never written is read without the disk.
    let fill = guest(&f.lab, f.guest("disk")?, "fill").command_line("mode=fill").line(&line("good")).create()?;
    fill.wait_end(60)?;
    f.lab.run(&format!("xl destroy {}", fill.id))?;
    let measure = |time: Duration| -> Result<Vec<f64>> {
        // Sequential and random reads of three sizes, one and many at once.
        let ms = time.as_millis() / 12;
        let words = format!("mode=bench ms={ms}");
        let ordinary =
            guest(&f.lab, f.guest("disk")?, "ordinary").memory(64).command_line(words).line(&line("good")).create()?;
        let (_, reason, _) = ordinary.wait_end(time.as_secs() * 3 + 60)?;
        let console = ordinary.console()?;
        f.lab.run(&format!("xl destroy {}", ordinary.id))?;
        ensure!(reason == "0", "reason {reason}:\n{console}\n{}", vault.console()?);
        let iops = |line: &str| line.split_once("\"iops\":")?.1.split(',').next()?.parse().ok();
        let found: Vec<f64> = console.lines().filter_map(iops).collect();
        ensure!(found.len() == 12 && found.iter().all(|iops| *iops > 0.0), "{console}");
        Ok(found)
    };
    compare(f, &vault, &line("bad"), measure)
}

/// dom0's Linux is the ordinary guest, and a server of ours.
fn interface_of_switch(f: &Fixture) -> Result<String> {
    let switch = guest(&f.lab, f.guest("switch")?, "switch").memory(32).line("driver_domain=1").create()?;
    switch.wait_for("switch: ready", 20)?;
    let vif = |last: u32| format!("vif = [\"backend=switch,mac=00:16:3e:00:00:{last}\"]");
    let server =
        guest(&f.lab, f.guest("iperf")?, "iperf").memory(32).command_line("ip=10.9.0.1/24").line(&vif(91)).create()?;
    server.wait_for("iperf: ready", 20)?;
    f.lab.run(
        "xl network-attach 0 backend=switch mac=00:16:3e:00:00:92 || exit 1; tries=200
         until card=$(grep -l 00:16:3e:00:00:92 /sys/class/net/*/address); do
           tries=$((tries - 1)); [ $tries -gt 0 ] || { echo 'no card'; ip link; exit 1; }; usleep 50000
         done
         card=$(basename ${card%/address}); ifconfig $card 10.9.0.2 netmask 255.255.255.0 up
         ping -c 3 -W 2 10.9.0.1 >/dev/null || { echo 'no answer to ping'; exit 1; }",
    )?;
    let measure = |time: Duration| -> Result<Vec<f64>> {
        let before = speeds(&server.console()?).len();
        let each = (time.as_secs() / 2).max(1);
        for words in ["", "-R"] {
            let limit = each * 2 + 30;
            f.lab
                .run(&format!(
                    "timeout {limit} iperf3 -c 10.9.0.1 -t {each} {words} >/tmp/iperf 2>&1 || {{ cat /tmp/iperf; exit 1; }}"
                ))
                .with_context(|| format!("{}\n{}", switch.console().unwrap_or_default(), server.console().unwrap_or_default()))?;
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let console = server.console()?;
            let all = speeds(&console);
            if all.len() >= before + 2 {
                let number = |text: &String| text.split(' ').next().and_then(|number| number.parse().ok());
                return all[before..].iter().map(|text| number(text).with_context(|| text.clone())).collect();
            }
            ensure!(std::time::Instant::now() < deadline, "the server reports {} tests:\n{console}", all.len());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let told = compare(f, &switch, &vif(93), measure)?;
    f.lab.run("xl network-detach 0 00:16:3e:00:00:92")?;
    Ok(told)
}
