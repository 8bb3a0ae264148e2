//! The domains: `vault` with a pool in dom0's files, `switch`, `web`, `kv` on a volume of the vault's, and a Linux guest on
//! another one.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cargo_xen::Guest;
use fastrand::Rng;
use xen_lab::domain::{Domain, find, guest, linux};
use xen_lab::{Dom0, Lab};

use crate::apps::app;

pub const WEB: &str = "10.0.2.171";
pub const KV: &str = "10.0.2.172";
const SITE: &str = "/tmp/soak.tar";
/// The site's files.
const FILES: usize = 40;
/// The volumes, in MiB.
const LINUX: u32 = 12;
pub const SCRATCH: u32 = 8;

/// Writes files of their own sums for ever, and compares those of the turn before.
const JOB: &str = "mkdir -p /mnt; mount -t ext4 /dev/xvda /mnt || exit 1; turn=0
     if [ -f /mnt/sums ]; then (cd /mnt && sha256sum -c sums >/dev/null) || { echo 'linux: bytes differ'; exit 1; }; fi
     while :; do
       for part in 1 2 3; do dd if=/dev/urandom of=/mnt/new$part bs=4096 count=$((20 * part)) 2>/dev/null || exit 1; done
       (cd /mnt && sync && for part in 1 2 3; do mv new$part part$part; done && sha256sum part1 part2 part3 >sums.new && sync &&
         mv sums.new sums && sync && echo 3 >/proc/sys/vm/drop_caches && sha256sum -c sums >/dev/null) || { echo 'linux: bytes differ'; exit 1; }
       turn=$((turn + 1)); echo \"linux: turn $turn\"; sleep 1
     done";

pub struct World<'a> {
    pub lab: &'a Lab,
    pub random: Rng,
    apps: BTreeMap<&'static str, Guest>,
    /// The files of the site by their names, and their sums.
    pub site: Vec<(String, String)>,
    /// What `kv` has answered with OK.
    pub keys: BTreeMap<u32, u64>,
    /// The sum of what is on the vault's volume for dom0.
    pub scratch: Option<String>,
    /// Bytes.
    pub compared: u64,
}

impl<'a> World<'a> {
    pub fn start(lab: &'a Lab, seed: u64) -> Result<World<'a>> {
        let apps = ["vault", "switch", "web", "kv"].into_iter().map(|name| Ok((name, app(name)?)));
        let mut world = World {
            lab,
            random: Rng::with_seed(seed),
            apps: apps.collect::<Result<_>>()?,
            site: Vec::new(),
            keys: BTreeMap::new(),
            scratch: None,
            compared: 0,
        };
        world.make_site()?;
        lab.run("rm -f /tmp/pool1 /tmp/pool2; truncate -s 32M /tmp/pool1 /tmp/pool2")?;
        world.start_switch()?;
        world.start_vault()?;
        world.start_kv()?;
        world.start_web()?;
        lab.run(&format!("{}\nmkfs.ext4 -q -F /dev/xvdf || exit 1\n{}", attach("linux", LINUX), DETACH))?;
        world.start_linux()?;
        Ok(world)
    }

    fn make_site(&mut self) -> Result<()> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut names = Vec::new();
        for index in 0..FILES {
            let len = self.random.usize(0..200_000);
            let bytes: Vec<u8> = (0..len).map(|_| self.random.u8(..)).collect();
            let name = format!("file{index}");
            let mut header = tar::Header::new_gnu();
            header.set_size(len as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, &name, &*bytes)?;
            names.push(name);
        }
        self.lab.put(SITE, Box::new(Cursor::new(builder.into_inner()?)))?;
        let sums = self.lab.run(&format!(
            "rm -rf /tmp/soak; mkdir /tmp/soak && tar -xf {SITE} -C /tmp/soak && cd /tmp/soak && sha256sum {}; rm -rf /tmp/soak",
            names.join(" ")
        ))?;
        let pairs = sums.lines().filter_map(|line| line.split_once("  "));
        self.site = pairs.map(|(sum, name)| (name.to_owned(), sum.to_owned())).collect();
        ensure!(self.site.len() == FILES, "{sums}");
        Ok(())
    }

    fn app(&self, name: &str) -> &Guest {
        &self.apps[name]
    }

    pub fn find(&self, name: &str) -> Result<Domain<'a>> {
        find(self.lab, name)
    }

    pub fn start_switch(&self) -> Result<()> {
        let switch = guest(self.lab, self.app("switch"), "switch").memory(16).line("driver_domain=1").create()?;
        switch.wait_for("switch: ready", 60).map(drop)
    }

    pub fn start_vault(&self) -> Result<()> {
        let create = format!(
            "create kv 4M if-missing; create linux {LINUX}M if-missing; create scratch {SCRATCH}M checksums if-missing"
        );
        let vault = guest(self.lab, self.app("vault"), "vault")
            .memory(48)
            .command_line(format!("pool=xvda,xvdb format=yes commands=\"{create}\""))
            .line("driver_domain=1")
            .line(
                "disk = [\"format=raw,vdev=xvda,access=rw,target=/tmp/pool1\", \
                 \"format=raw,vdev=xvdb,access=rw,target=/tmp/pool2\"]",
            )
            .create()?;
        vault.wait_for("vault: ready", 60).map(drop)
    }

    pub fn start_kv(&self) -> Result<()> {
        let kv = guest(self.lab, self.app("kv"), "kv")
            .command_line(format!("ip={KV}/24"))
            .line("vif = [\"bridge=xenbr0,mac=00:16:3e:00:01:72\"]")
            .line(&format!("disk = [\"{}\"]", of_vault("kv", "xvda")))
            .create()?;
        kv.wait_for("ready on port 6379", 60).map(drop)
    }

    pub fn start_web(&self) -> Result<()> {
        let web = guest(self.lab, self.app("web"), "web")
            .memory(24)
            .command_line(format!("ip={WEB}/24"))
            .line("vif = [\"bridge=xenbr0,mac=00:16:3e:00:01:71\"]")
            .line(&format!("disk = [\"{}\"]", site_disk()))
            .create()?;
        web.wait_for("web: ready", 60).map(drop)
    }

    pub fn start_linux(&self) -> Result<()> {
        let line = format!("disk = [\"{}\"]", of_vault("linux", "xvda"));
        let guest = linux(self.lab, "linux", JOB, &[])?.memory(160).line(&line).create()?;
        guest.wait_for("linux: turn 2", 180).map(drop)
    }

    /// The Linux guest goes on, and has found no byte that differs.
    pub fn linux_turns(&self) -> Result<()> {
        let linux = self.find("linux")?;
        let turns = || -> Result<usize> {
            let console = linux.console()?;
            ensure!(!console.contains("differ") && !console.contains("the job ended"), "{console}");
            Ok(console.matches("linux: turn").count())
        };
        let (before, deadline) = (turns()?, Instant::now() + Duration::from_secs(120));
        while turns()? <= before {
            ensure!(Instant::now() < deadline, "the Linux guest stands still:\n{}", linux.console()?);
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// KiB that are free in one of ours.
    pub fn free(&self, name: &str) -> Result<u64> {
        let domain = self.find(name)?;
        let count = || -> Result<usize> { Ok(domain.console()?.matches("sysrq: memory").count()) };
        let before = count()?;
        self.lab.run(&format!("xl sysrq {name} m"))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while count()? == before {
            ensure!(Instant::now() < deadline, "{name} shows no memory:\n{}", domain.console()?);
            std::thread::sleep(Duration::from_millis(50));
        }
        let console = domain.console()?;
        let line = console.rsplit("sysrq: memory").next().unwrap_or_default();
        let free =
            line.split_once(" KiB, ").and_then(|(_, rest)| rest.split_once(" KiB free")).context("no free memory")?.0;
        free.trim().parse().with_context(|| line.to_owned())
    }

    /// The last lines of all domains.
    pub fn consoles(&self) -> String {
        let tails = ["vault", "switch", "kv", "web", "linux"].map(|name| {
            let text = self.lab.try_run(&format!(
                "for log in /var/log/xen/console/guest-{name}*.log; do echo \"$log\"; tail -n 15 $log; done"
            ));
            text.map_or_else(|error| format!("{error:#}"), |(_, text)| text)
        });
        let list =
            self.lab.try_run("xl list; dmesg | tail -n 10").map_or_else(|error| format!("{error:#}"), |(_, text)| text);
        format!("{}\n{list}", tails.join("\n"))
    }
}

pub fn site_disk() -> String {
    format!("format=raw,vdev=xvda,access=ro,target={SITE}")
}

/// A volume of the vault's as somebody's disk.
pub fn of_vault(volume: &str, vdev: &str) -> String {
    format!("format=raw,vdev={vdev},access=rw,backendtype=phy,backend=vault,target={volume}")
}

/// Has dom0 attach a volume, as `/dev/xvdf`.
pub fn attach(volume: &str, mebibytes: u32) -> String {
    format!(
        "xl block-attach 0 '{}' || exit 1; tries=2000
         until [ -b /dev/xvdf ] && [ \"$(cat /sys/block/xvdf/size)\" = {} ]; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'no /dev/xvdf'; dmesg | tail -n 5; exit 1; }}; usleep 20000
         done",
        of_vault(volume, "xvdf"),
        mebibytes << 11
    )
}

pub const DETACH: &str = "xl block-detach 0 xvdf || exit 1; tries=2000
     while [ -b /dev/xvdf ]; do
       tries=$((tries - 1)); [ $tries -gt 0 ] || { echo '/dev/xvdf stays'; exit 1; }; usleep 20000
     done";
