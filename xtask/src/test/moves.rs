//! Guests that are moved, saved, paused and renamed while they work.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::net::{log, start_with};
use xen_lab::Dom0;
use xen_lab::domain::{Domain, guest};

pub const ALL: &[(&str, Check)] = &[("moves: paused in a download", paused)];

/// Only where `--only` asks for them.
pub const BY_NAME: [(&str, Check); 4] = [
    ("moves: downloads from a disk are whole through xl migrate", migrations),
    ("moves: a save that has no room is cancelled", cancelled),
    ("moves: restored where the clock is another, with an emulated TSC", other_clock),
    ("moves: renamed, suspended, resumed", renamed),
];

/// Moves to the same host. `-e`: nobody waits there for the domain's end.
const MIGRATE: &str = "timeout 240 xl migrate -s '' NAME 'xl migrate-receive -e' >/tmp/migrate.log 2>&1 || \
                       { cat /tmp/migrate.log; exit 1; }";

/// A web server whose disk holds one file, that dom0 downloads again and again and compares. `/tmp/moves.count` has how
/// many were whole; what was not is in `/tmp/moves.bad`.
struct Downloads<'a> {
    web: Domain<'a>,
    mac: &'static str,
}

impl<'a> Downloads<'a> {
    fn start(f: &'a Fixture<'_>, name: &str, address: &str, mac: &'static str) -> Result<Downloads<'a>> {
        f.lab.run(
            "mkdir -p /tmp/moves && cd /tmp/moves && rm -f ../moves.bad ../moves.end && \
               { [ -f whole ] || head -c 1500000 /dev/urandom >whole; } && tar -cf ../moves.tar whole && echo 0 >../moves.count",
        )?;
        let web = guest(&f.lab, f.guest("web")?, name)
            .memory(16)
            .command_line(format!("ip={address}/24"))
            .line(&format!("vif = [\"bridge=xenbr0,mac={mac}\"]"))
            .line("disk = ['format=raw,vdev=xvda,access=ro,target=/tmp/moves.tar']")
            .create()?;
        web.wait_for("web: ready", 60)?;
        f.lab.run(&format!(
            "(count=0; while [ ! -f /tmp/moves.end ]; do
                if wget -q -O /tmp/moves.got http://{address}/whole 2>/tmp/moves.why && cmp /tmp/moves.got /tmp/moves/whole; then
                  count=$((count + 1)); echo $count >/tmp/moves.count
                else cat /tmp/moves.why >>/tmp/moves.bad; echo bad >>/tmp/moves.bad; usleep 200000; fi
              done; touch /tmp/moves.ended) </dev/null >>/tmp/moves.bad 2>&1 &"
        ))?;
        Ok(Downloads { web, mac })
    }

    fn count(&self) -> Result<u32> {
        let text = self.web.lab().run("cat /tmp/moves.count")?;
        // While it is written it is empty.
        Ok(text.trim().parse().unwrap_or(0))
    }

    /// Waits until so many more were whole, the first of which may have begun before.
    fn go_on(&self, f: &Fixture, more: u32, what: &str) -> Result<Duration> {
        let start = Instant::now();
        let before = self.count()?;
        while self.count()? < before + more {
            ensure!(
                start.elapsed() < Duration::from_secs(180),
                "{what}: no download ends any more:\n{}\n{}",
                f.lab.run("cat /tmp/moves.bad; xenstore-ls /local/domain/0/backend | grep state")?,
                log(f, &self.web)
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(start.elapsed())
    }

    /// The same after a move, which gives the domain another number and its console another file.
    fn moved(self, f: &Fixture) -> Result<Downloads<'a>> {
        let id = f.lab.run(&format!("xl domid {}", self.web.name))?.trim().parse()?;
        let mut web = self.web.with_id(id);
        web.log = format!("/var/log/xen/console/guest-{}--incoming.log", web.name);
        Ok(Downloads { web, mac: self.mac })
    }

    /// Whether dom0's bridge knows the guest's MAC at the interface that it has now, and no other.
    fn is_announced(&self, f: &Fixture) -> Result<bool> {
        let mac = self.mac.replace(':', "");
        let answer = f.lab.run(&format!(
            "port=$(printf %02x $(cat /sys/class/net/vif{}.0/brport/port_no))
             hexdump -v -e '16/1 \"%02x\" \"\\n\"' /sys/class/net/xenbr0/brforward | grep -c ^{mac}$port || true",
            self.web.id
        ))?;
        Ok(answer.trim() == "1")
    }

    fn end(self, f: &Fixture) -> Result<u32> {
        let count = self.count()?;
        f.lab.run(&format!(
            "rm -f /tmp/moves.ended; touch /tmp/moves.end; tries=1200
             until [ -f /tmp/moves.ended ]; do tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; usleep 100000; done
             xl shutdown -w {}; [ ! -s /tmp/moves.bad ] || {{ cat /tmp/moves.bad; exit 1; }}",
            self.web.name
        ))?;
        Ok(count)
    }
}

/// What a guest's log says of the time from its first line after a restore to the last of its devices that is there again.
fn stalls(log: &str) -> Vec<f64> {
    let mut times = Vec::new();
    let mut begun: Option<(f64, f64, u32)> = None;
    for line in log.lines() {
        let at = || line.strip_prefix('[')?.split(']').next()?.trim().parse::<f64>().ok();
        let (Some(at), true) = (at(), line.contains("device/")) else { continue };
        let (first, _, up) = begun.unwrap_or((at, at, 0));
        let up = up + u32::from(line.contains("requests at once") || line.contains(": up, served by"));
        begun = Some((first, at, up));
        if up == 2 {
            times.push(at - first);
            begun = None;
        }
    }
    times
}

fn migrations(f: &Fixture) -> Result<String> {
    let moves = std::env::var("SARAB_MOVES").ok().map(|text| text.parse().context("SARAB_MOVES")).transpose()?;
    let moves = moves.unwrap_or(1);
    let mut downloads = Downloads::start(f, "mover", "10.0.2.215", "00:16:3e:00:00:d7")?;
    downloads.go_on(f, 1, "before the first move")?;
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    for turn in 1..=moves {
        f.lab
            .run(&MIGRATE.replace("NAME", "mover"))
            .with_context(|| format!("move {turn}: {}", log(f, &downloads.web)))?;
        downloads = downloads.moved(f)?;
        // The one that was on its way, and another that has begun here.
        slowest = slowest.max(downloads.go_on(f, 2, &format!("move {turn}"))?);
        ensure!(downloads.is_announced(f)?, "move {turn}: the bridge does not know where the guest is");
    }
    let times = stalls(&log(f, &downloads.web));
    let worst = times.iter().copied().fold(0.0, f64::max);
    let count = downloads.end(f)?;

    // One that nobody talks to says by itself where it is.
    let quiet = start_with(f, "quiet", "ip=10.0.2.216/24", "vif = [\"bridge=xenbr0,mac=00:16:3e:00:00:d8\"]")?.0;
    f.lab.run(&MIGRATE.replace("NAME", "quiet"))?;
    let quiet = Downloads { web: quiet, mac: "00:16:3e:00:00:d8" }.moved(f)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while !quiet.is_announced(f)? {
        ensure!(Instant::now() < deadline, "it does not announce itself:\n{}", log(f, &quiet.web));
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(format!(
        "{moves} moves in {:.0} s, {count} downloads; devices back within {worst:.1} s of the guest's first line, two \
         downloads within {:.1} s",
        start.elapsed().as_secs_f32(),
        slowest.as_secs_f32()
    ))
}

/// `SARAB_PAUSE=60` for a minute.
fn paused(f: &Fixture) -> Result<String> {
    let seconds = std::env::var("SARAB_PAUSE").ok().map(|text| text.parse().context("SARAB_PAUSE")).transpose()?;
    let seconds: u32 = seconds.unwrap_or(3);
    let downloads = Downloads::start(f, "pauser", "10.0.2.217", "00:16:3e:00:00:d9")?;
    downloads.go_on(f, 1, "before the pause")?;
    f.lab.run(&format!("xl pause pauser && sleep {seconds} && xl unpause pauser"))?;
    let took = downloads.go_on(f, 2, "after the pause")?;
    let count = downloads.end(f)?;
    Ok(format!("{seconds} s; {count} downloads, two more {:.1} s after it", took.as_secs_f32()))
}

/// A file system that is too small for the image: the toolstack gives up, and the guest goes on as it was.
fn cancelled(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "full").command_line("test=suspend").create()?;
    domain.wait_for("suspend: ready", 30)?;
    f.lab.run("mkdir -p /tmp/full && mount -t tmpfs -o size=256k tmpfs /tmp/full")?;
    let saved = f.lab.try_run("timeout 120 xl save full /tmp/full/image 2>&1");
    let (status, said) = saved.and_then(|saved| f.lab.run("umount /tmp/full").map(|_| saved))?;
    ensure!(status != 0 && said.contains("No space left"), "xl save: status {status}: {said}");
    domain.wait_for("suspend: Cancelled\nsuspend: goes on", 60)?;
    // It can be saved afterwards, and ends when it is asked to.
    f.lab.run(
        "timeout 120 xl save full /tmp/full.img >/tmp/full.log 2>&1 && xl restore -e /tmp/full.img >>/tmp/full.log 2>&1 || \
           { cat /tmp/full.log; exit 1; }
         rm /tmp/full.img",
    )?;
    let domain = domain.with_id(f.lab.run("xl domid full")?.trim().parse()?);
    domain.wait_for("suspend: Restored\nsuspend: goes on", 60)?;
    domain.send("quit")?;
    domain.wait_passed(30)?;
    Ok(String::new())
}

/// Saved, and restored on a host that is an hour ahead; the TSC is the hypervisor's.
fn other_clock(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "hour")
        .command_line("test=clock")
        .line("tsc_mode = \"always_emulate\"")
        .create()?;
    domain.wait_for("clock: ready", 30)?;
    let read = |domain: &Domain<'_>, word: &str| -> Result<(f64, f64, f64, f64)> {
        let now = || -> Result<f64> { Ok(f.lab.run("date +%s")?.trim().parse()?) };
        let before = now()?;
        domain.send(word)?;
        let console = domain.wait_for(&format!("clock: {word} "), 30)?;
        let after = now()?;
        // The line may still be on its way when its first words show.
        let console = if console.ends_with('\n') { console } else { domain.wait_for("us\n", 30)? };
        let line = console.lines().find(|line| line.starts_with(&format!("clock: {word} "))).context("clock")?;
        let words: Vec<_> = line.split_whitespace().collect();
        let (Some(wall), Some(up)) = (words.get(2), words.get(5)) else { anyhow::bail!("unexpected: {line}") };
        Ok((before, wall.parse::<f64>()? / 1e6, after, up.parse::<f64>()? / 1e6))
    };
    let agrees = |(before, wall, after, _): (f64, f64, f64, f64)| before - 2.0 <= wall && wall <= after + 2.0;
    let first = read(&domain, "first")?;
    ensure!(agrees(first), "at the start: {first:?}");
    let ahead = "timeout 120 xl save hour /tmp/hour.img >/tmp/hour.log 2>&1 || { cat /tmp/hour.log; exit 1; }
         date -s @$(($(date +%s) + 3600)) >/dev/null
         xl restore -e /tmp/hour.img >/tmp/hour.log 2>&1 || { cat /tmp/hour.log; exit 1; }
         rm /tmp/hour.img; xl domid hour";
    let outcome = f.lab.run(ahead).and_then(|id| {
        let domain = domain.with_id(id.trim().parse()?);
        let then = read(&domain, "then")?;
        domain.send("quit")?;
        Ok(then)
    });
    f.lab.run("date -s @$(($(date +%s) - 3600)) >/dev/null")?;
    let then = outcome?;
    ensure!(agrees(then), "an hour ahead: {then:?}");
    // Its own time went on as if nothing had been.
    let up = then.3 - first.3;
    ensure!((0.0..600.0).contains(&up), "{up} s passed in the guest");
    Ok(format!("wall clock {:.0} s on, {up:.1} s of its own", then.1 - first.1))
}

fn renamed(f: &Fixture) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "old").command_line("test=suspend").create()?;
    domain.wait_for("suspend: ready", 30)?;
    f.lab.run("xl rename old new && [ $(xl domid new) ]")?;
    // Xen 4.17's xl has no such command.
    let can_suspend = f.lab.try_run("xl help | grep -q '^ suspend '")?.0 == 0;
    if can_suspend {
        f.lab.run("timeout 60 xl suspend new && xl resume new")?;
        domain.wait_for("suspend: Cancelled\nsuspend: goes on", 30)?;
    }
    domain.send("quit")?;
    domain.wait_passed(30)?;
    Ok(if can_suspend { String::new() } else { "this xl has no `suspend`".into() })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_log_says_how_long_devices_were_away() {
        let log = "[144.500] INFO  device/vbd/51712: Initialised (3)  (device.rs:245)\n\
                   [145.000] INFO  device/vbd/51712: xvda, 9 sectors from d0, 64 requests at once  (driver.rs:80)\n\
                   web: text\n[146.000] INFO  device/vif/0: up, served by d0, MTU 1500  (driver.rs:126)\n\
                   [200.000] INFO  device/vif/0: Connected (4)  (device.rs:245)\n\
                   [200.250] INFO  device/vif/0: up, served by d0, MTU 1500  (driver.rs:126)\n\
                   [200.500] INFO  device/vbd/51712: xvda, 9 sectors from d0, 64 requests at once  (driver.rs:80)\n";
        assert_eq!(super::stalls(log), [1.5, 0.5]);
    }
}
