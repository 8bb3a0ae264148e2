//! The vault's disks beside those of dom0's blkback, both in memory (brd is dom0's), with the same Linux guests in front; and
//! how much many guests of ours get of one vault.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cargo_xen::Guest;
use serde_json::Value;

use super::disk::{self, Rows, lines, load};
use super::table::{self, Pair, median, rounds, spread};
use crate::apps::{app, linux_load};
use xen_lab::domain::{Domain, destroy_all, guest, linux};
use xen_lab::{Dom0, Lab};

/// In linux-load's words. Each is measured for [`SLICE`] on one disk, then on the next.
const LOADS: [&str; 6] =
    ["randread:4096:1", "randread:4096:32", "read:65536:32", "write:65536:32", "read:1048576:32", "write:1048576:32"];
const SLICE: Duration = Duration::from_millis(2000);
/// For how long several guests are measured at once: their beginnings and ends are not the same.
const LONG_SLICE: Duration = Duration::from_millis(2000);
/// How long a guest may take to begin, or to end a load.
const PATIENCE: u64 = 120;

/// Does a line's load, and says that it has: `NUMBER DEVICE MILLISECONDS LOAD`.
const JOB: &str = "echo waiting; while read number device ms load; do
     /linux-load disk $device $ms $load; echo \"done $number: $?\"; done";

/// Linux guests at once, and how large the volumes are that they have, as brd's disks are, in MiB.
const LINUX: usize = 4;
const VOLUME: usize = 16;
const LINUX_MEMORY: u64 = 192;
/// How many guests of ours there are at once, and what each does.
const OURS: [usize; 3] = [1, 4, 16];
const OUR_LOADS: [&str; 2] = ["randread:4K:32", "read:64K:32"];

pub(super) fn lab(lab: &Lab, count: u32) -> Result<()> {
    let (vault, disk, program) = (app("vault")?, app("disk")?, fs::read(linux_load()?)?);
    let bench = Bench { lab, vault, disk, program };
    bench.vaults()?;
    bench.dom0_disks()?;
    bench.one(count)?;
    bench.several(count)?;
    bench.many(count)?;
    destroy_all(lab)
}

struct Bench<'a> {
    lab: &'a Lab,
    vault: Guest,
    disk: Guest,
    program: Vec<u8>,
}

/// A disk of a guest's: what its xl file says.
fn from(vault: &str, target: &str, vdev: char) -> String {
    format!("\"format=raw,vdev=xvd{vdev},access=rw,backendtype=phy,backend={vault},target={target}\"")
}

fn from_dom0(path: &str, vdev: char) -> String {
    format!("\"format=raw,vdev=xvd{vdev},access=rw,target={path}\"")
}

fn disks(list: &[String]) -> String {
    format!("disk = [{}]", list.join(", "))
}

impl<'a> Bench<'a> {
    /// One vault with a disk in memory, one that encrypts it, and one with a pool in memory: all of them filled, for what was
    /// never written needs no work.
    fn vaults(&self) -> Result<()> {
        let volumes = (0..LINUX).map(|index| format!("create linux{index} {VOLUME}M"));
        let small = (0..OURS[2]).map(|index| format!("create ours{index} 1M"));
        let create: Vec<_> = volumes.chain(small).collect();
        let pool = LINUX * VOLUME + OURS[2] + 24;
        let encrypt = "encrypt ram secret; lock ram; unlock ram secret keep";
        for (name, memory, words) in [
            ("vault-ram", 40, format!("ramdisk={VOLUME}M")),
            ("vault-luks", 46, format!("ramdisk={VOLUME}M commands=\"{encrypt}\"")),
            (
                "vault-pool",
                pool as u64 + 48,
                format!("ramdisk={pool}M pool=ram format=yes commands=\"{}\"", create.join("; ")),
            ),
        ] {
            let vault = guest(self.lab, &self.vault, name).memory(memory).command_line(words).line("driver_domain=1");
            let console = vault.create()?.wait_for("vault: ready", PATIENCE)?;
            ensure!(!console.contains("vault: error"), "{name}: {console}");
        }
        let mut all = vec![("vault-ram", "ram".to_owned()), ("vault-luks", "ram".to_owned())];
        all.extend((0..LINUX).map(|index| ("vault-pool", format!("linux{index}"))));
        all.extend((0..OURS[2]).map(|index| ("vault-pool", format!("ours{index}"))));
        let list: Vec<_> = all.iter().zip('a'..).map(|((vault, target), vdev)| from(vault, target, vdev)).collect();
        let fill =
            guest(self.lab, &self.disk, "fill").memory(32).command_line("mode=fill disk=all").line(&disks(&list));
        self.to_end(&fill.create()?)
    }

    fn to_end(&self, domain: &Domain<'_>) -> Result<()> {
        let (_, reason, console) = domain.wait_end(PATIENCE)?;
        ensure!(reason == "0", "{} ended with reason {reason}:\n{console}", domain.name);
        self.lab.run(&format!("xl destroy {}", domain.id)).map(drop)
    }

    /// Disks of dom0's memory, and one that dom0 encrypts as the vault does: the same cipher, sectors and place of the data.
    fn dom0_disks(&self) -> Result<()> {
        let cryptsetup = self.lab.cryptsetup()?;
        self.lab.run(&format!(
            "for index in $(seq 0 {LINUX}); do dd if=/dev/zero of=/dev/ram$index bs=1M count={VOLUME} 2>/dev/null; done
             mkdir -p /run/cryptsetup && printf secret >/tmp/luks-key || exit 1
             {cryptsetup} luksFormat -q --type luks2 --cipher aes-xts-plain64 --key-size 512 --sector-size 512 --offset 2048 \
             --luks2-keyslots-size 512k --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /tmp/luks-key \
             /dev/ram{LINUX} || exit 1
             {cryptsetup} open --key-file /tmp/luks-key /dev/ram{LINUX} bench || exit 1
             dd if=/dev/zero of=/dev/mapper/bench bs=1M 2>/dev/null; grep -A 3 '^name.*: xts(aes)' /proc/crypto | grep driver"
        ))?;
        Ok(())
    }

    /// A Linux guest that waits for loads.
    fn linux(&self, name: &str, list: &[String]) -> Result<Domain<'a>> {
        let guest = linux(self.lab, name, JOB, &[("linux-load", &self.program)])?;
        let domain = guest.memory(LINUX_MEMORY).line(&disks(list)).create()?;
        domain.wait_for("waiting", PATIENCE)?;
        Ok(domain)
    }

    /// One guest with all the disks, on which each load is measured in turn.
    fn one(&self, count: u32) -> Result<()> {
        let list = [
            from("vault-ram", "ram", 'a'),
            from("vault-pool", "linux0", 'b'),
            from_dom0("/dev/ram0", 'c'),
            from("vault-luks", "ram", 'd'),
            from_dom0("/dev/mapper/bench", 'e'),
        ];
        let linux = [self.linux("linux", &list)?];
        let mut asked = 0;
        let [mut memory, mut volume, mut encrypted] = [Rows::new(), Rows::new(), Rows::new()];
        let outcome = rounds(count, || {
            for words in LOADS {
                let mut measure = |disk| {
                    asked += 1;
                    let value = ask(self.lab, &linux, asked, disk, SLICE, words)?.pop().context("no line")?;
                    Ok::<_, anyhow::Error>((load(&value), value))
                };
                let (load, on_memory) = measure("xvda")?;
                memory.entry(load.clone()).or_default()[0].push(on_memory);
                let on_blkback = measure("xvdc")?.1;
                memory.entry(load.clone()).or_default()[1].push(on_blkback.clone());
                volume.entry(load.clone()).or_default()[0].push(measure("xvdb")?.1);
                volume.entry(load.clone()).or_default()[1].push(on_blkback);
                encrypted.entry(load.clone()).or_default()[0].push(measure("xvdd")?.1);
                encrypted.entry(load).or_default()[1].push(measure("xvde")?.1);
            }
            Ok(())
        });
        disk::show("vault's memory, blkback on brd", &memory);
        disk::show("vault's thin volume, blkback on brd", &volume);
        disk::show("vault's LUKS2, dom0's dm-crypt", &encrypted);
        outcome?;
        self.end(&linux)
    }

    /// Destroys guests, and prints what the vaults have done for them.
    fn end(&self, guests: &[Domain<'_>]) -> Result<()> {
        for guest in guests {
            self.lab.run(&format!("xl destroy {}", guest.id))?;
        }
        // A vault hears of it afterwards.
        sleep(Duration::from_secs(2));
        let of_them = |line: &&str| guests.iter().any(|guest| line.contains(&format!(" of d{}: ", guest.id)));
        for vault in ["vault-ram", "vault-luks", "vault-pool"] {
            let console = self.lab.run(&format!("cat /var/log/xen/console/guest-{vault}.log"))?;
            // Log lines, which are no text, may stand before one.
            let told =
                console.lines().filter(of_them).filter_map(|line| line.find("vault: ").map(|at| line[at..].trim()));
            told.for_each(|line| println!("  {vault}: {line}"));
        }
        Ok(())
    }

    /// Several Linux guests at once, each with a volume of the vault's and a disk of dom0's memory.
    fn several(&self, count: u32) -> Result<()> {
        let free: u64 = self.lab.run("xl info free_memory")?.trim().parse().context("xl info free_memory")?;
        let number = LINUX.min((free / (LINUX_MEMORY + 8)) as usize);
        if number < LINUX {
            println!("  {number} Linux guests at once: there is no memory for {LINUX}, {free} MiB are free");
        }
        let guests = (0..number)
            .map(|index| {
                let list =
                    [from("vault-pool", &format!("linux{index}"), 'a'), from_dom0(&format!("/dev/ram{index}"), 'b')];
                self.linux(&format!("linux{index}"), &list)
            })
            .collect::<Result<Vec<_>>>()?;
        let mut rows: Vec<(&str, Pair<Vec<f64>>)> = LOADS.map(|words| (words, Pair::default())).into();
        let mut asked = 0;
        let outcome = rounds(count, || {
            for (words, row) in &mut rows {
                for (disk, column) in ["xvda", "xvdb"].into_iter().zip(row) {
                    asked += 1;
                    column.push(ask(self.lab, &guests, asked, disk, LONG_SLICE, words)?.iter().map(rate).collect());
                }
            }
            Ok(())
        });
        table::head(&format!("{number} Linux guests: sum"), "blkback");
        for (words, row) in &rows {
            let sums = row.each_ref().map(|rounds| rounds.iter().map(|rates| rates.iter().sum()).collect());
            table::show(words, "/s", &sums);
            println!("  {:<34} {:>12} {:>12}", "  least and greatest / mean", fairness(&row[0]), fairness(&row[1]));
        }
        outcome?;
        self.end(&guests)
    }

    /// So many guests of ours at once, each with a small volume of the same vault's.
    fn many(&self, count: u32) -> Result<()> {
        for words in OUR_LOADS {
            let mut rows: Vec<(usize, Vec<Vec<f64>>)> = Vec::new();
            let outcome = OURS.into_iter().try_for_each(|number| {
                rows.push((number, self.at_once(number, words, count)?));
                anyhow::Ok(())
            });
            println!(
                "  {:<34} {:>12} {:>12} {:>14}",
                format!("guests of ours, {words}"),
                "total",
                "of one's",
                "least..most"
            );
            let totals = |rounds: &[Vec<f64>]| rounds.iter().map(|rates| rates.iter().sum()).collect::<Vec<f64>>();
            let single = rows.first().map(|(_, rates)| totals(rates)).unwrap_or_default();
            for (number, rates) in &rows {
                let total = totals(rates);
                let [ratio, _] = table::ratios(&total, &single);
                let total = median(&total, |value| format!("{value:.0}/s"));
                println!("  {number:<34} {total:>12} {ratio:>12} {:>14}", fairness(rates));
            }
            outcome?;
        }
        Ok(())
    }

    /// What each of so many guests gets in times in which all of them work.
    fn at_once(&self, number: usize, words: &str, count: u32) -> Result<Vec<Vec<f64>>> {
        let guests = (0..number)
            .map(|index| {
                let line = format!("mode=bench again=yes ms=500 loads={words}");
                let disks = disks(&[from("vault-pool", &format!("ours{index}"), 'a')]);
                guest(self.lab, &self.disk, &format!("ours{index}")).command_line(line).line(&disks).paused().create()
            })
            .collect::<Result<Vec<_>>>()?;
        let ids = guests.iter().map(|guest| guest.id.to_string()).collect::<Vec<_>>().join(" ");
        self.lab.run(&format!("for id in {ids}; do xl unpause $id || exit 1; done"))?;
        let rates_of = |guest: &Domain<'_>| -> Result<Vec<f64>> {
            let console = whole_lines(guest)?;
            lines(&console).map(|line| parsed(line).map(|line| rate(&line))).collect()
        };
        let printed = || guests.iter().map(rates_of).collect::<Result<Vec<_>>>();
        let deadline = Instant::now() + Duration::from_secs(PATIENCE);
        let mut before = loop {
            sleep(Duration::from_secs(1));
            let before = printed()?;
            if before.iter().all(|rates| rates.len() >= 2) {
                break before;
            }
            ensure!(Instant::now() < deadline, "a guest of {number} does not begin: {}", guests[0].console()?);
        };
        let mut rounds = Vec::new();
        for _ in 0..count {
            sleep(2 * LONG_SLICE);
            let after = printed()?;
            // The line that was being measured when they were counted began before all did.
            let own =
                before.iter().zip(&after).map(|(before, after)| after.get(before.len() + 1..).unwrap_or_default());
            let mean = |rates: &[f64]| {
                ensure!(!rates.is_empty(), "a guest of {number} does not go on");
                Ok(rates.iter().sum::<f64>() / rates.len() as f64)
            };
            rounds.push(own.map(mean).collect::<Result<_>>()?);
            before = after;
        }
        self.lab.run(&format!("for id in {ids}; do xl destroy $id || exit 1; done"))?;
        Ok(rounds)
    }
}

/// Has guests do a load at the same time: each one's line.
fn ask(lab: &Lab, guests: &[Domain<'_>], number: u32, disk: &str, time: Duration, words: &str) -> Result<Vec<Value>> {
    let ids = guests.iter().map(|guest| guest.id.to_string()).collect::<Vec<_>>().join(" ");
    lab.run(&format!(
        "ttys=; for id in {ids}; do
           until t=$(xenstore-read /local/domain/$id/console/tty 2>/dev/null) && [ -n \"$t\" ]; do usleep 50000; done
           ttys=\"$ttys $t\"
         done
         for t in $ttys; do echo '{number} /dev/{disk} {} {words}' >$t; done",
        time.as_millis()
    ))?;
    // Looking at consoles takes dom0's time.
    sleep(time + Duration::from_millis(300));
    let line = |guest: &Domain<'_>| {
        let console = guest.wait_for(&format!("done {number}: "), PATIENCE)?;
        let before = console.split(&format!("done {number}: ")).next().unwrap_or_default();
        let own = before.rsplit("done ").next().unwrap_or_default();
        let line = lines(own).last().with_context(|| format!("{}: {words} on {disk}: {own}", guest.name))?;
        parsed(line)
    };
    guests.iter().map(line).collect()
}

fn parsed(line: &str) -> Result<Value> {
    serde_json::from_str(line).with_context(|| line.to_owned())
}

/// What a guest has printed, without a line that has no end yet.
fn whole_lines(guest: &Domain<'_>) -> Result<String> {
    let mut console = guest.console()?;
    console.truncate(console.rfind('\n').map_or(0, |end| end + 1));
    Ok(console)
}

fn rate(line: &Value) -> f64 {
    line["iops"].as_f64().unwrap_or_default()
}

/// What the one that gets least has of the mean, and the one that gets most; of all rounds the worst.
fn fairness(rounds: &[Vec<f64>]) -> String {
    let of_mean = |rates: &Vec<f64>| {
        let mean = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
        spread(rates.clone()).map(|(_, least, greatest)| [least / mean, greatest / mean])
    };
    let rounds: Vec<_> = rounds.iter().filter_map(of_mean).collect();
    let least = rounds.iter().map(|[least, _]| *least).reduce(f64::min);
    let greatest = rounds.iter().map(|[_, greatest]| *greatest).reduce(f64::max);
    least.zip(greatest).map_or("-".into(), |(least, greatest)| format!("{least:.2}..{greatest:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_that_of_the_worst_round() {
        assert_eq!(fairness(&[vec![1.0, 1.0], vec![3.0, 1.0]]), "0.50..1.50");
        assert_eq!(fairness(&[vec![4.0]]), "1.00..1.00");
        assert_eq!(fairness(&[]), "-");
    }
}
