//! Checks of encrypted volumes against Linux: cryptsetup and dm-crypt.

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::disk::disk;
use xen_lab::Dom0;
use xen_lab::domain::{guest, linux_cryptsetup};

/// What is done for one Xen alone, for its time.
pub const AT_LENGTH: [(&str, Check); 1] = [("luks: Linux's volumes opened here, and ours by Linux", both_ways)];

/// Begins a job: no udev is there to wait for, and `lines N` writes the lines that the probe compares.
const BEGIN: &str = "export DM_DISABLE_UDEV=1; set -e; cd /tmp; printf 'a passphrase' >key; printf linux >other
     lines() { awk -v n=$1 'BEGIN { for (i = n; i < n + 65536; i++) printf \"%015d\\n\", i }'; }
     open() { cryptsetup open --key-file $1 /dev/xvda volume; }
     part() { dd if=/dev/mapper/volume bs=1M skip=$1 count=1 2>/dev/null; }";

fn on_linux(f: &Fixture, job: &str, path: &str) -> Result<String> {
    let domain = linux_cryptsetup(&f.lab, "linux", &format!("{BEGIN}\n{job}"))?.line(&disk(path, "rw")).create()?;
    let (_, reason, _) = domain.wait_end(300)?;
    let console = domain.wait_for("linux: the job ended", 20)?;
    f.lab.run(&format!("xl destroy {}", domain.id))?;
    ensure!(console.contains("ended with status 0") && reason == "0", "{job}: reason {reason}:\n{console}");
    Ok(console)
}

fn on_probe(f: &Fixture, words: &str, path: &str, line: &str) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "probe")
        .memory(128)
        .command_line(words)
        .line(&disk(path, "rw"))
        .line(line)
        .create()?;
    let (_, reason, console) = domain.wait_end(300)?;
    f.lab.run(&format!("xl destroy {}", domain.id))?;
    ensure!(reason == "0" && console.contains(" 0 failed"), "{words}: reason {reason}:\n{console}");
    Ok(console)
}

/// The kB/s that the probe has measured, and whether it had the processor's instructions for AES.
fn speed(console: &str) -> Result<(bool, u64)> {
    let line = console.lines().find_map(|line| line.split_once("luks: AES-NI ")).context("no measurement")?.1;
    let (aes, speed) = line.split_once(": ").context("no measurement")?;
    Ok((aes == "true", speed.split(' ').next().unwrap_or_default().parse()?))
}

fn both_ways(f: &Fixture) -> Result<String> {
    let path = "/tmp/luks";
    let fresh = format!("rm -f {path}; dd if=/dev/zero of={path} bs=1M count=0 seek=20 2>/dev/null");
    f.lab.run(&fresh)?;
    let mut told = Vec::new();
    on_linux(
        f,
        "cryptsetup luksFormat -q --type luks2 --pbkdf-memory 32768 --pbkdf-force-iterations 4 --key-file other /dev/xvda
         cryptsetup luksAddKey -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file other /dev/xvda key
         open key; lines 0 >/dev/mapper/volume; sync; cryptsetup close volume",
        path,
    )?;
    // With the processor's AES, and without: each reads what Linux has written, and Linux what the last has.
    let mut speeds = Vec::new();
    for line in ["", "cpuid = \"host,aesni=0\""] {
        speeds.push(speed(&on_probe(f, "test=luks key=linux", path, line)?)?);
    }
    on_linux(
        f,
        "open key; part 0 >found; lines 0 | cmp - found; part 1 >found; lines 1000000 | cmp - found
         cryptsetup close volume",
        path,
    )?;
    let [(aes, with), (hidden, without)] = speeds[..] else { unreachable!("two were measured") };
    ensure!(!hidden, "the xl file's cpuid= does not hide AES-NI");
    if aes {
        ensure!(with > without, "AES-NI is not used: {with} kB/s with it, {without} kB/s without");
    }
    told.push(format!("{with} kB/s with AES-NI ({aes}), {without} kB/s without"));

    // One of ours, of which the first header is damaged in between.
    f.lab.run(&fresh)?;
    let console = on_probe(f, "test=luks-format key=linux", path, "")?;
    let slot = console.lines().find_map(|line| line.split_once("luks: keyslot 0: ")).context("no keyslot")?.1;
    told.push(slot.trim().to_owned());
    f.lab.run(&format!("printf x | dd of={path} bs=1 seek=5000 conv=notrunc 2>/dev/null"))?;
    let console = on_probe(f, "test=luks key=linux", path, "")?;
    let repaired = "luks: LUKS2 primary header has a wrong checksum; restored from the secondary header";
    ensure!(console.contains(repaired), "no {repaired:?}:\n{console}");
    on_linux(
        f,
        "cryptsetup luksDump /dev/xvda | grep -q 'Label: *.*ours'
         printf first >first; cryptsetup open --test-passphrase --key-file first /dev/xvda
         open other; part 0 >found; lines 0 | cmp - found; part 1 >found; lines 1000000 | cmp - found
         cryptsetup close volume; cryptsetup luksRemoveKey -q /dev/xvda first
         ! cryptsetup open --test-passphrase --key-file first /dev/xvda",
        path,
    )?;
    let console = on_probe(f, "test=luks key=linux", path, "")?;
    ensure!(!console.contains("restored"), "{console}");
    f.lab.run(&format!("rm {path}"))?;
    Ok(told.join("; "))
}
