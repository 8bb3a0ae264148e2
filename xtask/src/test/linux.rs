//! A Linux guest whose disks and network are served by guests of ours.

use anyhow::{Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::disk::{disk, from_vault, vault};
use xen_lab::Dom0;
use xen_lab::domain::{guest, linux};

/// What is done for one Xen alone, for its time.
pub const AT_LENGTH: [(&str, Check); 1] = [("a Linux guest: disks of vault's and a network of switch's", served)];

fn served(f: &Fixture) -> Result<String> {
    f.lab.run("dd if=/dev/zero of=/tmp/passed bs=1M count=16 2>/dev/null")?;
    let vault = vault(f, "ramdisk=16M pass=xvda", &disk("/tmp/passed", "rw"))?;
    let switch = guest(&f.lab, f.guest("switch")?, "switch").memory(32).line("driver_domain=1").create()?;
    switch.wait_for("switch: ready", 20)?;
    let vif = |last| format!("vif = [\"backend=switch,mac=00:16:3e:00:00:{last}\"]");
    let server =
        guest(&f.lab, f.guest("iperf")?, "iperf").memory(32).command_line("ip=10.9.0.1/24").line(&vif(91)).create()?;
    server.wait_for("iperf: ready", 20)?;

    let disks = format!(
        "disk = [\"{}\", \"{}\"]",
        from_vault("ram", "rw"),
        from_vault("xvda", "rw").replace("vdev=xvda", "vdev=xvdb")
    );
    let job = "set -e; echo uptime $(cat /proc/uptime)
         for disk in xvda xvdb; do
           mke2fs -F /dev/$disk >/dev/null; mkdir -p /mnt/$disk; mount -t ext4 /dev/$disk /mnt/$disk; cd /mnt/$disk
           for part in 1 2 3; do head -c 2000000 /dev/urandom >part$part; done; sha256sum part* >sums
           cd /; umount /mnt/$disk; mount -t ext4 /dev/$disk /mnt/$disk; cd /mnt/$disk
           sha256sum -c sums >/dev/null; cd /; umount /mnt/$disk
         done; echo uptime $(cat /proc/uptime)
         ifconfig eth0 10.9.0.2 netmask 255.255.255.0 up
         ping -c 3 -W 5 10.9.0.1 >/dev/null || { echo 'no answer to ping'; exit 1; }
         for words in '' -R '-P 4 --bidir' '-u -b 10M' '-u -b 10M -R'; do
           timeout 30 iperf3 -c 10.9.0.1 -t 1 $words >/tmp/iperf 2>&1 || { echo $words; cat /tmp/iperf; exit 1; }
         done; echo uptime $(cat /proc/uptime)";
    let linux = linux(&f.lab, "linux", job, &[])?.line(&disks).line(&vif(92)).create()?;
    let (_, reason, _) = linux.wait_end(600).or_else(|error| {
        // Which end waits for which.
        let state = f.lab.run("xl debug-keys e; xl list; xl vcpu-list; xl dmesg | tail -n 90")?;
        Err(error.context(state))
    })?;
    let console = linux.wait_for("linux: the job ended", 20)?;
    ensure!(
        console.contains("ended with status 0") && reason == "0",
        "reason {reason}:\n{console}\n{}\n{}",
        switch.console()?,
        server.console()?
    );
    let tests = server.wait_for("UDP sent, 1 streams: ", 20)?;
    ensure!(!tests.contains("a test has ended"), "{tests}");
    f.lab.run(&format!("xl destroy {}", linux.id))?;
    vault.wait_for("0 failed", 20)?;
    switch.wait_for(&format!("of d{} is gone; 0 frames of other addresses", linux.id), 20)?;
    f.lab.run("xl shutdown -w vault")?;
    // And what was written to the disk that was passed on is where dom0 has it.
    f.lab.run(
        "mkdir -p /mnt/passed && mount -o loop -t ext4 /tmp/passed /mnt/passed && (cd /mnt/passed && sha256sum -c sums) \
           && umount /mnt/passed && rm /tmp/passed",
    )?;
    let did = vault.console()?.lines().filter(|line| line.contains(" 0 failed")).count();
    ensure!(did == 2, "two disks were served without a failure:\n{}", vault.console()?);
    let uptime: Vec<_> = console.lines().filter_map(|line| line.split_once("uptime ")?.1.split(' ').next()).collect();
    Ok(format!("up for {} s", uptime.join(", ")))
}
