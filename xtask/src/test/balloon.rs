//! Memory that comes and goes while a domain runs: `xl mem-set`, and `maxmem=` above `memory=`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::net::{VIF, put_load};
use super::web::put_site;
use xen_lab::Dom0;
use xen_lab::domain::{Domain, guest};

pub const ALL: &[(&str, Check)] = &[
    ("balloon: a domain of 32 MiB grows to 256 and uses them", grows),
    ("balloon: web gives memory back under load, and gets it again", under_load),
    ("balloon: a target below what is in use", floor),
    ("balloon: 50 targets at random, memory in use meanwhile", random),
    ("balloon: saved small, restored, and large again", restored),
    ("balloon: memory= alone, and a target beyond the maximum", alone),
];

/// MiB of the domain, as `xl list` shows it.
fn listed(domain: &Domain<'_>) -> Result<u64> {
    let text = domain.lab().run(&format!("xl list {}", domain.name))?;
    let line = text.lines().last().unwrap_or_default();
    line.split_whitespace().nth(2).and_then(|word| word.parse().ok()).with_context(|| text.clone())
}

/// Waits until `xl list` shows about so many MiB: those of a few pages that the toolstack adds may round it up.
fn wait_listed(domain: &Domain<'_>, mib: u64, seconds: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        let now = listed(domain)?;
        if now == mib {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "xl list shows {now} MiB, not {mib}:\n{}", domain.console()?);
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn mem_set(domain: &Domain<'_>, mib: u64) -> Result<()> {
    domain.lab().run(&format!("xl mem-set {} {mib}m", domain.name)).map(drop)
}

/// A domain that does what it is told on its console.
fn probe<'a>(f: &'a Fixture<'_>, name: &str, memory: u64, maximum: u64) -> Result<Domain<'a>> {
    let domain = guest(&f.lab, f.guest("probe")?, name).memory(memory).command_line("test=balloon");
    let domain = domain.line(&format!("maxmem = {maximum}")).create()?;
    domain.wait_for("balloon: ready", 30)?;
    Ok(domain)
}

/// What the domain answers to a line: KiB that it has, that are free, its target and its maximum.
fn tell(domain: &Domain<'_>, line: &str) -> Result<[u64; 4]> {
    let start = format!("balloon: {line}: ");
    let lines =
        |console: &str| console.lines().filter(|line| line.starts_with(&start) && line.ends_with("pieces")).count();
    let before = lines(&domain.console()?);
    domain.send(line)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let console = domain.console()?;
        if lines(&console) > before {
            ensure!(!console.contains("FAIL"), "{console}");
            let found = console.lines().rev().find(|line| line.starts_with(&start)).unwrap_or_default();
            let numbers: Vec<u64> = found[start.len()..].split(' ').filter_map(|word| word.parse().ok()).collect();
            return numbers.get(..4).and_then(|numbers| numbers.try_into().ok()).with_context(|| found.to_owned());
        }
        ensure!(Instant::now() < deadline, "no answer to {line:?}:\n{console}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until the domain itself says that it has so many KiB.
fn wait_told(domain: &Domain<'_>, holds: impl Fn([u64; 4]) -> bool) -> Result<[u64; 4]> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let told = tell(domain, "info")?;
        if holds(told) {
            return Ok(told);
        }
        ensure!(Instant::now() < deadline, "{told:?}:\n{}", domain.console()?);
    }
}

fn finish(domain: &Domain<'_>) -> Result<()> {
    tell(domain, "check")?;
    domain.send("quit")?;
    domain.wait_passed(20).map(drop)
}

/// Populate on demand: the domain believes in all of it, and has an eighth.
fn grows(f: &Fixture) -> Result<String> {
    let domain = probe(f, "grows", 32, 256)?;
    let small = wait_told(&domain, |[total, ..]| total == 32 << 10)?;
    ensure!(small[2..] == [32 << 10, 256 << 10], "{small:?}");
    wait_listed(&domain, 32, 10)?;
    // All that it has: a page that is not there would end it.
    tell(&domain, &format!("take {}", small[1] - 2048))?;
    tell(&domain, "check")?;
    let start = Instant::now();
    mem_set(&domain, 256)?;
    wait_told(&domain, |[total, ..]| total == 256 << 10)?;
    let took = start.elapsed();
    tell(&domain, &format!("take {}", 200 << 10))?;
    wait_listed(&domain, 256, 10)?;
    finish(&domain)?;
    Ok(format!("{small:?} KiB at first; {:.1} s from 32 to 256 MiB", took.as_secs_f32()))
}

fn under_load(f: &Fixture) -> Result<String> {
    put_load(f)?;
    let site = put_site(f)?;
    let web = guest(&f.lab, f.guest("web")?, "shrinks").memory(256).line(VIF).line(&site).create()?;
    let console = web.wait_for("web: ready", 30)?;
    let line = console.lines().find_map(|line| line.split_once("network: ")).context("no address in the log")?.1;
    let address = line.split('/').next().unwrap_or_default().to_owned();
    f.lab.run(&format!(
        "rm -f /tmp/enough /tmp/balloon.log
         (until [ -f /tmp/enough ]; do /tmp/linux-load http {address}:80 /bytes 16 100 10 || break; done; echo ended $?) \
         >/tmp/balloon.log 2>&1 &"
    ))?;
    let rounds = || -> Result<(usize, String)> {
        let told = f.lab.run("cat /tmp/balloon.log")?;
        Ok((told.matches("100 fetches of").count(), told))
    };
    let mut times = Vec::new();
    for mib in [64, 256, 64, 256] {
        let start = Instant::now();
        mem_set(&web, mib)?;
        wait_listed(&web, mib, 60)?;
        times.push(format!("{mib} MiB after {:.1} s", start.elapsed().as_secs_f32()));
        // A round that began with this much.
        let (before, _) = rounds()?;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (now, told) = rounds()?;
            ensure!(!told.contains("ended "), "{times:?}: {told}\n{}", web.console()?);
            if now > before + 1 {
                break;
            }
            ensure!(Instant::now() < deadline, "{times:?}: no answers: {told}\n{}", web.console()?);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    f.lab.run("touch /tmp/enough; while ! grep -q ended /tmp/balloon.log; do usleep 100000; done; rm /tmp/enough")?;
    let (count, told) = rounds()?;
    ensure!(told.contains("ended 0"), "{told}\n{}", web.console()?);
    let least = super::web::least_free(&f.lab.run(&format!("wget -q -O - http://{address}/metrics"))?)? / 1024;
    Ok(format!("{}; {count} rounds of 100 fetches; {least} KiB minimum free", times.join(", ")))
}

fn floor(f: &Fixture) -> Result<String> {
    let domain = probe(f, "floor", 128, 128)?;
    tell(&domain, "take 60000")?;
    mem_set(&domain, 16)?;
    let line = domain.wait_for("the application needs the rest", 30)?;
    let line = line.lines().find(|line| line.contains("target 16384 KiB: ")).context("no line")?.to_owned();
    let [total, free, target, _] = wait_told(&domain, |[total, ..]| total < 90 << 10)?;
    ensure!(total - free > 60_000 && target == 16 << 10, "{total} {free} {target}");
    // What is freed follows, without another word from the toolstack; and the line is not repeated.
    tell(&domain, "free 60000")?;
    wait_told(&domain, |[now, ..]| now + (20 << 10) < total)?;
    let again = domain.console()?.matches("the application needs the rest").count();
    ensure!(again == 1, "it is told {again} times:\n{}", domain.console()?);
    mem_set(&domain, 128)?;
    wait_listed(&domain, 128, 30)?;
    tell(&domain, "take 100000")?;
    finish(&domain)?;
    Ok(line)
}

fn random(f: &Fixture) -> Result<String> {
    let domain = probe(f, "random", 64, 192)?;
    let start = Instant::now();
    let mut state = 20_u64;
    for round in 0..50 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mib = 24 + (state >> 33) % 169;
        mem_set(&domain, mib)?;
        // Some targets are overtaken by the next.
        if round % 10 == 9 {
            tell(&domain, "take 2000")?;
            tell(&domain, "free 1500")?;
            let told = wait_told(&domain, |[total, ..]| total == mib << 10)?;
            ensure!(told[2] == mib << 10, "{told:?}");
            tell(&domain, "check")?;
        }
    }
    let took = start.elapsed();
    mem_set(&domain, 100)?;
    wait_listed(&domain, 100, 30)?;
    finish(&domain)?;
    Ok(format!("{:.1} s", took.as_secs_f32()))
}

fn restored(f: &Fixture) -> Result<String> {
    let domain = probe(f, "shrunk", 192, 192)?;
    tell(&domain, "take 20000")?;
    mem_set(&domain, 48)?;
    wait_listed(&domain, 48, 30)?;
    f.lab.run(
        "timeout 100 xl save shrunk /tmp/saved.img >/tmp/save.log 2>&1 && xl restore -e /tmp/saved.img >>/tmp/save.log 2>&1 || \
         { cat /tmp/save.log; exit 1; }",
    )?;
    let size = f.lab.run("wc -c </tmp/saved.img; rm /tmp/saved.img")?;
    let id = f.lab.run("xl domid shrunk")?.trim().parse()?;
    let domain = domain.with_id(id);
    tell(&domain, "check")?;
    wait_listed(&domain, 48, 30)?;
    mem_set(&domain, 192)?;
    wait_told(&domain, |[total, ..]| total == 192 << 10)?;
    tell(&domain, "take 150000")?;
    mem_set(&domain, 190)?;
    wait_listed(&domain, 190, 30)?;
    finish(&domain)?;
    Ok(format!("{} KiB were saved", size.trim().parse::<u64>()? / 1024))
}

fn alone(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "alone").memory(32).command_line("test=balloon").create()?;
    domain.wait_for("balloon: ready", 30)?;
    let told = tell(&domain, "info")?;
    ensure!([told[0], told[2], told[3]] == [32 << 10; 3], "{told:?}");
    // xl itself refuses; a program that writes the store does not. The domain has what its memory map has.
    let base = format!("/local/domain/{}", domain.id);
    f.lab.run(&format!("xenstore-write {base}/memory/target 10000000"))?;
    let told = tell(&domain, "info")?;
    ensure!(told[0] == 32 << 10, "{told:?}");
    mem_set(&domain, 24)?;
    wait_listed(&domain, 24, 30)?;
    finish(&domain)?;
    let console = domain.console()?;
    ensure!(!console.contains("no more"), "{console}");
    Ok(String::new())
}
