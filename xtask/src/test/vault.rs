//! A pool of the vault's in dom0's files, and Linux in front of its volumes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::disk::{from_vault, vault};
use xen_lab::Dom0;
use xen_lab::domain::{Domain, linux, linux_cryptsetup};

pub const ALL: &[(&str, Check)] =
    &[("vault: volumes for Linux, with snapshots, grown, full, and one writer each", volumes)];

/// What is done for one Xen alone, for its time.
pub const AT_LENGTH: [(&str, Check); 2] = [
    ("vault: an encrypted volume, and cryptsetup", encrypted),
    ("vault: destroyed under load, all that was synced is there", destroyed),
];

/// Two files as the vault's disks.
const DISKS: &str = "disk = [\"format=raw,vdev=xvda,access=rw,target=/tmp/pool1\", \
                     \"format=raw,vdev=xvdb,access=rw,target=/tmp/pool2\"]";

fn make_disks(f: &Fixture, mebibytes: u32) -> Result<()> {
    f.lab.run(&format!("rm -f /tmp/pool1 /tmp/pool2; truncate -s {mebibytes}M /tmp/pool1 /tmp/pool2"))?;
    Ok(())
}

/// Has the vault do something, as dom0's administrator does.
pub fn command(f: &Fixture, vault: &Domain, line: &str) -> Result<String> {
    let home = format!("/local/domain/{}/data/vault", vault.id);
    let answer = f.lab.run(&format!(
        "xenstore-rm {home}/status/check 2>/dev/null; xenstore-write {home}/command/check '{line}' || exit 1; tries=2000
         until answer=$(xenstore-read {home}/status/check 2>/dev/null); do
           tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'no answer'; exit 1; }}; usleep 50000
         done; echo \"$answer\""
    ))?;
    let answer = answer.trim();
    answer.strip_prefix("ok: ").map(str::to_owned).with_context(|| format!("{line}: {answer}\n{}", show(vault)))
}

/// What a domain has printed.
pub fn show(vault: &Domain) -> String {
    vault.console().unwrap_or_default()
}

/// Attaches a target to dom0 as `/dev/xvdf`.
fn attach(target: &str, mebibytes: u32) -> String {
    attach_as(target, "rw", mebibytes)
}

fn attach_as(target: &str, access: &str, mebibytes: u32) -> String {
    let spec = from_vault(target, access).replace("vdev=xvda", "vdev=xvdf");
    format!(
        "xl block-attach 0 '{spec}' || exit 1; tries=2000
         until [ -b /dev/xvdf ] && [ \"$(cat /sys/block/xvdf/size)\" = {sectors} ]; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'no /dev/xvdf'; dmesg | tail -n 5; exit 1; }}; usleep 50000
         done; mkdir -p /mnt/vault",
        sectors = mebibytes << 11
    )
}

const DETACH: &str = "xl block-detach 0 xvdf || exit 1; tries=2000
     while [ -b /dev/xvdf ]; do
       tries=$((tries - 1)); [ $tries -gt 0 ] || { echo '/dev/xvdf stays'; exit 1; }; usleep 50000
     done";

/// Has dom0 do something with a target that it has for the time.
fn with(f: &Fixture, vault: &Domain, target: &str, mebibytes: u32, job: &str) -> Result<String> {
    let attach = attach(target, mebibytes);
    f.lab.run(&format!("{attach}\n{job}\n{DETACH}")).with_context(|| format!("{target}\n{}", show(vault)))
}

/// Checks that dom0 does not get a target, and is told why.
fn refused(f: &Fixture, vault: &Domain, target: &str, why: &str) -> Result<()> {
    let spec = from_vault(target, "rw").replace("vdev=xvda", "vdev=xvdg");
    let (status, said) = f.lab.try_run(&format!("xl block-attach 0 '{spec}'"))?;
    ensure!(status != 0, "xl attached {target}: {said}");
    let node = format!("/local/domain/{}/error/backend/vbd/0/51808/error", vault.id);
    let (_, told) = f.lab.try_run(&format!("xenstore-read {node} && xenstore-rm {node}"))?;
    ensure!(told.contains(why), "{told}\n{said}\n{}", show(vault));
    // libxl keeps a device that it could not attach.
    f.lab.run("xl block-detach 0 xvdg")?;
    Ok(())
}

/// Ends the vault; the lab keeps domains that have ended.
fn stop(f: &Fixture) -> Result<()> {
    f.lab.run("xl shutdown -w vault && xl destroy vault")?;
    Ok(())
}

/// A new file system with some files of their own content.
const FILL: &str = "mkfs.ext4 -q -F /dev/xvdf && mount -t ext4 /dev/xvdf /mnt/vault || exit 1
     (cd /mnt/vault && for part in 1 2 3; do head -c 1500000 /dev/urandom >part$part; done; sha256sum part* >sums) || exit 1
     umount /mnt/vault || exit 1";
/// All of them are there, and the file system is whole.
const VERIFY: &str = "e2fsck -fn /dev/xvdf >/tmp/fsck 2>&1 || { cat /tmp/fsck; exit 1; }
     mount -t ext4 /dev/xvdf /mnt/vault && (cd /mnt/vault && sha256sum -c sums >/dev/null) || exit 1
     umount /mnt/vault || exit 1";

fn volumes(f: &Fixture) -> Result<String> {
    make_disks(f, 24)?;
    let words = "pool=xvda,xvdb format=yes commands=\"create mail 16M; create db 12M thick checksums; create big 64M\"";
    let vault = vault(f, words, DISKS)?;
    for (volume, size) in [("mail", 16), ("db", 12)] {
        with(f, &vault, volume, size, &format!("{FILL}\n{VERIFY}"))?;
    }

    // What was there stays in the snapshot.
    command(f, &vault, "snapshot mail monday ro")?;
    let change = "mount -t ext4 /dev/xvdf /mnt/vault && head -c 700000 /dev/urandom >/mnt/vault/part2 || exit 1
         umount /mnt/vault || exit 1";
    with(f, &vault, "mail", 16, change)?;
    let attach = attach_as("monday", "ro", 16);
    f.lab.run(&format!(
        "{attach}
         mount -t ext4 -o ro,noload /dev/xvdf /mnt/vault && (cd /mnt/vault && sha256sum -c sums >/dev/null) || exit 1
         umount /mnt/vault || exit 1
         {DETACH}"
    ))?;
    // Writes of a guest that is thrown away are, too.
    with(f, &vault, "mail,snapshot=on", 16, FILL)?;
    let still = "mount -t ext4 /dev/xvdf /mnt/vault && (cd /mnt/vault && sha256sum -c sums 2>/dev/null) | grep -c OK
         umount /mnt/vault || exit 1";
    let intact = with(f, &vault, "mail", 16, still)?;
    ensure!(intact.lines().any(|line| line == "2"), "{intact}");

    // One writer each; and it grows while Linux has it mounted.
    let first = self::attach("mail", 16);
    f.lab.run(&format!("{first}\nmount -t ext4 /dev/xvdf /mnt/vault"))?;
    refused(
        f,
        &vault,
        "mail",
        "mail: cannot open it: error 16, it is in use by domain 0; it has to be detached there first, as it is not opened a \
         second time",
    )?;
    command(f, &vault, "grow mail 18M")?;
    f.lab.run(&format!(
        "tries=2000; until [ \"$(cat /sys/block/xvdf/size)\" = {} ]; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || {{ cat /sys/block/xvdf/size; exit 1; }}; usleep 50000
         done
         umount /mnt/vault || exit 1
         {DETACH}",
        18 << 11
    ))?;

    // A pool that is full fails the writer alone.
    let full = "dd if=/dev/zero of=/dev/xvdf bs=1M oflag=direct 2>/tmp/dd && { echo 'no end'; exit 1; }
         grep -q 'No space\\|Input/output' /tmp/dd || { cat /tmp/dd; exit 1; }";
    with(f, &vault, "big", 64, full)?;
    with(f, &vault, "db", 12, VERIFY)?;
    command(f, &vault, "delete big")?;
    command(f, &vault, "delete monday")?;
    vault.send("scrub")?;
    vault.wait_for("vault: scrub: ", 60)?;
    vault.wait_for(" 0 bad blocks; ", 60)?;
    let list = command(f, &vault, "list")?;
    command(f, &vault, "check")?;
    stop(f)?;

    // The next one finds all of it.
    let vault = self::vault(f, "pool=xvda,xvdb", DISKS)?;
    with(f, &vault, "db", 12, VERIFY)?;
    stop(f)?;
    f.lab.run("rm /tmp/pool1 /tmp/pool2")?;
    Ok(list.replace('\n', "; "))
}

fn encrypted(f: &Fixture) -> Result<String> {
    make_disks(f, 24)?;
    let vault = vault(f, "pool=xvda,xvdb format=yes commands=\"create safe 20M\"", DISKS)?;
    command(f, &vault, "encrypt safe \"correct horse\"")?;
    let before = with(f, &vault, "safe", 19, &format!("{FILL}\n{VERIFY}\nsha256sum </dev/xvdf"))?;
    vault.wait_for("vault: safe: locked", 20)?;
    refused(f, &vault, "safe", "safe: it is encrypted and locked; `unlock safe KEY` opens it")?;
    let wrong = command(f, &vault, "unlock safe wrong").err().context("a wrong key opens it")?.to_string();
    ensure!(wrong.contains("No key available with this passphrase."), "{wrong}");

    // Linux's own tool opens what the vault has made, changes it, and adds a key, which opens it here.
    let job = "set -e; printf 'correct horse' >/key; cryptsetup open --key-file /key /dev/xvda safe
         echo found $(sha256sum </dev/mapper/safe)
         head -c 300000 /dev/urandom >/tail; dd if=/tail of=/dev/mapper/safe bs=4096 seek=4000 conv=fsync 2>/dev/null
         echo left $(sha256sum </dev/mapper/safe)
         printf 'another key' >/new
         cryptsetup luksAddKey --key-file /key --pbkdf-memory 8192 --pbkdf-force-iterations 4 /dev/xvda /new
         cryptsetup close safe";
    let line = format!("disk = [\"{}\"]", from_vault("safe,raw=on", "rw"));
    let guest = linux_cryptsetup(&f.lab, "cryptsetup", job)?.line(&line).create()?;
    let console = guest.wait_for("the job ended", 300)?;
    ensure!(console.contains("ended with status 0"), "{console}\n{}", show(&vault));
    f.lab.run(&format!("xl destroy {}", guest.id))?;
    vault.wait_for(&format!("of d{}", guest.id), 20)?;
    let sum = |word: &str| {
        let line = console.lines().find_map(|line| line.split_once(word)).context("no sum")?;
        anyhow::Ok(line.1.split_whitespace().next().unwrap_or_default().to_owned())
    };
    let (found, left) = (sum("found ")?, sum("left ")?);
    ensure!(before.contains(&found), "dom0: {before}\nLinux: {found}");
    command(f, &vault, "unlock safe \"another key\" keep")?;
    let after = with(f, &vault, "safe", 19, "sha256sum </dev/xvdf")?;
    ensure!(after.contains(&left), "Linux: {left}\ndom0: {after}");
    command(f, &vault, "lock safe")?;
    stop(f)?;
    // What a person would find who takes the disks.
    let (status, _) = f.lab.try_run("grep -q part1 /tmp/pool1 /tmp/pool2")?;
    ensure!(status != 0, "a file's name is on the disks as it is");
    f.lab.run("rm /tmp/pool1 /tmp/pool2")?;
    Ok(String::new())
}

/// A Linux guest writes and syncs, and says what it has synced. Then its storage domain ends between two instructions.
fn destroyed(f: &Fixture) -> Result<String> {
    const ROUNDS: usize = 3;
    make_disks(f, 32)?;
    let words = "pool=xvda,xvdb format=yes commands=\"create mail 24M if-missing; create db 16M checksums if-missing\"";
    let mut synced = Vec::new();
    for round in 0..ROUNDS {
        let vault = vault(f, words, DISKS)?;
        if round == 0 {
            for (volume, size) in [("mail", 24), ("db", 16)] {
                with(f, &vault, volume, size, "mkfs.ext4 -q -F /dev/xvdf || exit 1")?;
            }
        }
        let disks = format!(
            "disk = [\"{}\", \"{}\"]",
            from_vault("mail", "rw"),
            from_vault("db", "rw").replace("vdev=xvda", "vdev=xvdb")
        );
        let job = format!(
            "set -e; for disk in xvda xvdb; do mkdir -p /mnt/$disk; mount -t ext4 /dev/$disk /mnt/$disk; done; number=0
             while :; do number=$((number + 1)); for disk in xvda xvdb; do
               head -c 100000 /dev/urandom >/mnt/$disk/{round}-$((number % 20)); sync
               echo synced $disk {round}-$((number % 20)) $(sha256sum </mnt/$disk/{round}-$((number % 20)))
             done; done"
        );
        let linux = linux(&f.lab, "linux", &job, &[])?.line(&disks).create()?;
        let deadline = Instant::now() + Duration::from_secs(300);
        while linux.console()?.matches("synced ").count() < 12 + 10 * round {
            ensure!(Instant::now() < deadline, "{}\n{}", linux.console()?, show(&vault));
            std::thread::sleep(Duration::from_millis(50));
        }
        f.lab.run(&format!("xl destroy {}; xl destroy {}", vault.id, linux.id))?;
        let console = linux.console()?;
        let vault = self::vault(f, words, DISKS)?;
        command(f, &vault, "check")?;
        for (disk, volume, size) in [("xvda", "mail", 24), ("xvdb", "db", 16)] {
            let lines: Vec<_> = console.lines().filter(|line| line.starts_with(&format!("synced {disk} "))).collect();
            // Files are written again: what counts is the last that was synced, of those that are not being written.
            let last = &lines[lines.len().saturating_sub(12)..];
            let mut verify = String::from(
                "e2fsck -fy /dev/xvdf >/tmp/fsck 2>&1; [ $? -le 1 ] || { cat /tmp/fsck; exit 1; }
                 mount -t ext4 /dev/xvdf /mnt/vault || exit 1\n",
            );
            for line in last {
                let words: Vec<_> = line.split(' ').collect();
                let [_, _, file, sum, ..] = words[..] else { continue };
                verify.push_str(&format!(
                    "[ \"$(sha256sum </mnt/vault/{file})\" = '{sum}  -' ] || {{ echo {file} differs; exit 1; }}\n"
                ));
            }
            verify.push_str("umount /mnt/vault || exit 1");
            with(f, &vault, volume, size, &verify).with_context(|| console.clone())?;
        }
        synced.push(console.matches("synced ").count().to_string());
        stop(f)?;
    }
    f.lab.run("rm /tmp/pool1 /tmp/pool2")?;
    Ok(format!("{} files were synced", synced.join(", ")))
}
