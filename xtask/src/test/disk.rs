//! Checks of disks: blkfront against Linux's blkback, blkback against Linux's blkfront, and the two against each other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::net::put_load;
use xen_lab::Dom0;
use xen_lab::domain::{Domain, guest};

/// All checks by name.
pub const ALL: &[(&str, Check)] = &[
    ("disk: Linux's blkback, disks of awkward sizes", awkward),
    ("disk: Linux's blkback, fill and verify", fill),
    ("disk: save and restore under load", restore),
    ("disk: bad words and no disk", bad_words),
    ("disk: 40 at once, xvda to xvdan", forty),
    ("disk: it grows and shrinks while it is read", resize),
    ("disk: sectors of 4 KiB", large_sectors),
    ("disk: disks and interfaces that nobody uses are detached", unused),
    ("vault: Linux's blkfront makes file systems, in memory and on a disk passed on", linux_frontend),
    ("vault: both ends ours, memory and a disk passed on", ours),
    ("vault: its domain dies under load", death),
    ("kv: set, destroyed, started again, get", kv),
];

/// What is done with the Xen alone that has a device model in the lab.
pub const AT_LENGTH: [(&str, Check); 2] = [
    // An empty drive needs QEMU on Xen 4.17.
    ("disk: an empty CD-ROM drive, and a medium that comes", media),
    ("disk: QEMU's backend (qdisk), raw and qcow2", qdisk),
];

/// An xl file's line for a file of dom0's.
pub fn disk(path: &str, access: &str) -> String {
    format!("disk = [\"format=raw,vdev=xvda,access={access},target={path}\"]")
}

/// A disk of the vault's, as an xl file has it.
pub fn from_vault(target: &str, access: &str) -> String {
    format!("format=raw,vdev=xvda,access={access},backendtype=phy,backend=vault,target={target}")
}

/// Runs the disk program to its end; what it printed.
fn run(f: &Fixture, name: &str, words: &str, disk: &str) -> Result<String> {
    let domain = guest(&f.lab, f.guest("disk")?, name).command_line(words).line(disk).create()?;
    let (_, reason, console) = domain.wait_end(60)?;
    let console = if reason == "0" { domain.wait_for("\n", 20)? } else { console };
    f.lab.run(&format!("xl destroy {}", domain.id))?;
    ensure!(reason == "0", "{words}: reason {reason}:\n{console}");
    Ok(console)
}

/// What was answered with OK is there when the domain was destroyed.
fn kv(f: &Fixture) -> Result<String> {
    // No other check's, and always of one MAC address: dom0 remembers whose it was.
    const ADDRESS: &str = "10.0.2.178";
    const VIF: &str = "vif = [\"bridge=xenbr0,mac=00:16:3e:00:00:77\"]";
    let say = |text: &str| f.lab.run(&format!("printf '{text}QUIT\\n' | timeout 20 nc {ADDRESS} 6379"));
    f.lab.run("dd if=/dev/zero of=/tmp/kv.img bs=1 count=0 seek=8388608 2>/dev/null")?;
    for round in 0..3 {
        let line = format!("ip={ADDRESS}/24");
        let server = guest(&f.lab, f.guest("kv")?, "kv").command_line(&line).line(VIF).line(&disk("/tmp/kv.img", "rw"));
        let server = server.create()?;
        server.wait_for(&format!("kv: {round} keys, ready on port 6379"), 30)?;
        for before in 0..round {
            let found = say(&format!("GET key{before}\\n"))?;
            ensure!(found == format!("$6\r\nvalue{before}\r\n+OK\r\n"), "after {round} crashes: {found:?}");
        }
        let found = say(&format!("SET key{round} value{round}\\n"))?;
        ensure!(found == "+OK\r\n+OK\r\n", "{found:?}\n{}", server.console()?);
        f.lab.run(&format!("xl destroy {}", server.id))?;
    }
    // With something else on it the disk is left alone.
    f.lab.run("dd if=/dev/urandom of=/tmp/kv.img bs=4096 count=1 conv=notrunc 2>/dev/null")?;
    let refused = guest(&f.lab, f.guest("kv")?, "kv").line(VIF).line(&disk("/tmp/kv.img", "rw")).create()?;
    let (_, _, console) = refused.wait_end(60)?;
    f.lab.run(&format!("xl destroy {}; rm /tmp/kv.img", refused.id))?;
    ensure!(console.contains("error: the store: the disk holds something (byte "), "{console}");
    Ok("3 crashes".into())
}

fn hash_in_dom0(f: &Fixture, path: &str) -> Result<String> {
    let text = f.lab.run(&format!("sync; echo $(sha256sum <{path} | cut -d' ' -f1) $(wc -c <{path})"))?;
    Ok(format!("sha256 {}", text.trim()))
}

fn expect_hash(f: &Fixture, name: &str, disk: &str, path: &str) -> Result<()> {
    let expected = hash_in_dom0(f, path)?;
    let found = run(f, name, "mode=hash", disk)?;
    ensure!(found.contains(&expected), "dom0: {expected}\nthe guest:\n{found}");
    Ok(())
}

fn awkward(f: &Fixture) -> Result<String> {
    for (index, bytes) in [512, 3584, 1_050_112, 5_000_192].into_iter().enumerate() {
        f.lab.run(&format!("head -c {bytes} /dev/urandom >/tmp/awkward"))?;
        let ring = index + 1;
        let path = "/tmp/awkward";
        let found = run(f, &format!("hash{index}"), &format!("mode=hash ring={ring}"), &disk(path, "ro"))?;
        let expected = hash_in_dom0(f, path)?;
        ensure!(found.contains(&expected), "dom0: {expected}\nthe guest, a ring of 2^{ring} pages:\n{found}");
    }
    for (ring, slots) in [(0, 32), (4, 512)] {
        let info = run(f, "ring", &format!("mode=info ring={ring}"), &disk("/tmp/awkward", "ro"))?;
        ensure!(info.contains(&format!("\"ring_slots\":{slots}}}")), "a ring of 2^{ring} pages: {info}");
    }
    // More than 2 TiB, of which nothing is there: the end is where it belongs.
    f.lab.run("dd if=/dev/zero of=/tmp/huge bs=1 count=0 seek=3298534883328 2>/dev/null")?;
    let info = run(f, "huge", "mode=info", &disk("/tmp/huge", "rw"))?;
    f.lab.run("rm /tmp/huge /tmp/awkward")?;
    ensure!(info.contains("\"bytes\":3298534883328,\"sectors\":6442450944,"), "{info}");
    Ok(String::new())
}

fn fill(f: &Fixture) -> Result<String> {
    f.lab.run("head -c 6291968 /dev/zero >/tmp/fill")?;
    let line = disk("/tmp/fill", "rw");
    run(f, "fill", "mode=fill seed=7", &line)?;
    let verified = run(f, "verify", "mode=verify seed=7", &line)?;
    ensure!(verified.contains("verify: 12289 sectors with seed 7"), "{verified}");
    expect_hash(f, "filled", &line, "/tmp/fill")?;
    // What the pattern is to catch: another run's, and two sectors in each other's place.
    for (seed, damage) in [
        (8, "true"),
        (7, "dd if=/tmp/fill of=/tmp/a bs=512 skip=9 count=1; dd if=/tmp/a of=/tmp/fill bs=512 seek=5000 conv=notrunc"),
    ] {
        f.lab.run(&format!("({damage}) 2>/dev/null"))?;
        let domain = guest(&f.lab, f.guest("disk")?, "bad")
            .command_line(format!("mode=verify seed={seed}"))
            .line(&line)
            .create()?;
        let (_, reason, console) = domain.wait_end(30)?;
        let sector = if seed == 8 { 0 } else { 5000 };
        let expected = format!("of sector {sector} is 0x");
        ensure!(reason == "3" && console.contains(&expected), "reason {reason}, no {expected:?}:\n{console}");
        xen_lab::domain::destroy_all(&f.lab)?;
    }
    for (access, features) in [("ro", "\"read_only\":true"), ("rw", "\"flush\":true,\"discard\":true")] {
        let info = run(f, access, "mode=info", &disk("/tmp/fill", access))?;
        ensure!(info.contains("\"bytes\":6291968,") && info.contains(features), "{access}: {info}");
    }
    f.lab.run("rm /tmp/fill")?;
    Ok(String::new())
}

/// The bench ends with an error where one of its requests does. It goes on until it is asked to end: on a busy host a save
/// takes longer than any number of measurements.
fn restore(f: &Fixture) -> Result<String> {
    f.lab.run("head -c 8388608 /dev/zero >/tmp/saved")?;
    // 32 requests of 1 MiB at once.
    let domain = guest(&f.lab, f.guest("disk")?, "saved")
        .memory(64)
        .command_line("mode=bench write=yes again=yes ms=200")
        .line(&disk("/tmp/saved", "rw"))
        .create()?;
    domain.wait_for("\"op\":\"read\"", 20)?;
    f.lab.run(
        "for turn in 1 2; do
           timeout 60 xl save saved /tmp/saved.img >/tmp/save.log 2>&1 && xl restore -e /tmp/saved.img >>/tmp/save.log 2>&1 || \
             { cat /tmp/save.log; exit 1; }
         done; rm /tmp/saved.img",
    )?;
    let id = f.lab.run("xl domid saved")?.trim().parse()?;
    let restored = domain.with_id(id);
    let measurements = || anyhow::Ok(restored.console()?.matches("\"op\":").count());
    let (before, deadline) = (measurements()?, Instant::now() + Duration::from_secs(60));
    while measurements()? < before + 2 {
        ensure!(Instant::now() < deadline, "it stands still after {before} measurements:\n{}", restored.console()?);
        std::thread::sleep(Duration::from_millis(100));
    }
    f.lab.run("xl shutdown saved")?;
    let (_, reason, console) = restored.wait_end(90)?;
    ensure!(reason == "0", "reason {reason}:\n{console}");
    Ok(format!("{} measurements", measurements()?))
}

fn bad_words(f: &Fixture) -> Result<String> {
    for (words, disk, expected) in [
        ("mode=info", "", "error: the domain has no disk; its xl file lists them (disk = [...])"),
        ("disk=xvdb", "", "error: disk xvdb: not found; the xl file lists the disks"),
        ("disk=floppy", "", "error: disk `floppy`: expected xvda, sda (to sdp), hda (to hdd) or d0p0"),
        ("mode=format", "", "error: command line: `mode=format`: expected info, hash, fill, verify, bench or watch"),
    ] {
        let domain = guest(&f.lab, f.guest("disk")?, "bad").command_line(words).line(disk).create()?;
        let (_, reason, console) = domain.wait_end(20)?;
        ensure!(console.contains(expected) && reason == "3", "reason {reason}:\n{console}");
        xen_lab::domain::destroy_all(&f.lab)?;
    }
    let vault = guest(&f.lab, f.guest("vault")?, "vault").line("driver_domain=1").create()?;
    let (_, reason, console) = vault.wait_end(20)?;
    ensure!(console.contains("nothing to serve: give ramdisk=SIZE") && reason == "3", "reason {reason}:\n{console}");
    Ok(String::new())
}

fn forty(f: &Fixture) -> Result<String> {
    f.lab.run("mkdir /tmp/forty && for i in $(seq 40); do head -c $((i * 512)) /dev/urandom >/tmp/forty/$i; done")?;
    let disks: Vec<_> =
        (1..=40).map(|i| format!("'format=raw,vdev=d{}p0,access=ro,target=/tmp/forty/{i}'", i - 1)).collect();
    let domain = guest(&f.lab, f.guest("disk")?, "forty")
        .memory(32)
        .command_line("mode=hash disk=all")
        .line(&format!("disk = [{}]", disks.join(", ")))
        .create()?;
    let (_, reason, console) = domain.wait_end(120)?;
    let expected =
        f.lab.run("for i in $(seq 40); do sha256sum </tmp/forty/$i | cut -d' ' -f1; done; rm -r /tmp/forty")?;
    let found: Vec<_> = console.lines().filter_map(|line| line.split_once("sha256 ")?.1.split(' ').next()).collect();
    let expected: Vec<_> = expected.split_whitespace().collect();
    ensure!(reason == "0" && found == expected, "reason {reason}:\n{expected:?}\n{console}");
    // The last one by its name.
    f.lab.run("head -c 5120 /dev/urandom >/tmp/last")?;
    let line = disk("/tmp/last", "ro").replace("xvda", "xvdan");
    let info = run(f, "last", "mode=info disk=xvdan", &line)?;
    f.lab.run("rm /tmp/last")?;
    ensure!(info.contains("{\"disk\":\"xvdan\",\"bytes\":5120,"), "{info}");
    Ok(format!("{} disks", found.len()))
}

/// blkback looks at the size of what it serves when it has requests.
fn resize(f: &Fixture) -> Result<String> {
    f.lab.run("head -c 2097152 /dev/urandom >/tmp/size")?;
    let domain =
        guest(&f.lab, f.guest("disk")?, "size").command_line("mode=watch").line(&disk("/tmp/size", "rw")).create()?;
    domain.wait_for("disk xvda: 4096 sectors", 20)?;
    let node = format!("$(xenstore-read /local/domain/0/backend/vbd/{}/51712/node)", domain.id);
    for sectors in [12288_u64, 1024, 1025, 8192] {
        f.lab.run(&format!("truncate -s {} /tmp/size && losetup -c {node}", sectors * 512))?;
        domain.wait_for(&format!("disk xvda: {sectors} sectors"), 20)?;
    }
    f.lab.run("xl shutdown -w size; rm /tmp/size")?;
    let (_, reason, console) = domain.wait_end(20)?;
    ensure!(reason == "0", "reason {reason}:\n{console}");
    Ok(String::new())
}

fn large_sectors(f: &Fixture) -> Result<String> {
    put_load(f)?;
    f.lab.run("head -c 4194304 /dev/urandom >/tmp/large")?;
    // For each guest: blkback's end takes the device's file away.
    let attached = || {
        let node = f.lab.run("node=$(losetup -f) && /tmp/linux-load loop $node /tmp/large 4096 && echo $node")?;
        anyhow::Ok(node.trim().to_owned())
    };
    let node = attached()?;
    let info = run(f, "info", "mode=info", &disk(&node, "rw"))?;
    ensure!(info.contains("\"bytes\":4194304,\"sectors\":8192,\"sector_size\":4096,"), "{info}");
    f.lab.try_run(&format!("losetup -d {node}"))?;
    let node = attached()?;
    // Only read: this kernel's blkback fails at a flush of a loop device with such sectors, though dom0's own passes.
    expect_hash(f, "hash", &disk(&node, "rw"), "/tmp/large")?;
    f.lab.try_run(&format!("losetup -d {node}"))?;
    f.lab.run("rm /tmp/large")?;
    Ok(String::new())
}

/// `xl cd-insert` is for HVM guests alone: a medium comes with another drive.
fn media(f: &Fixture) -> Result<String> {
    f.lab.run("head -c 4096 /dev/urandom >/tmp/medium")?;
    let both = "disk = [',raw,hda,cdrom', 'format=raw,vdev=xvda,access=ro,target=/tmp/medium']";
    let info = run(f, "second", "mode=info", both)?;
    ensure!(info.contains("{\"disk\":\"xvda\",\"bytes\":4096,"), "{info}");

    let empty = guest(&f.lab, f.guest("disk")?, "empty").line("disk = [',raw,hda,cdrom']").create()?;
    let console = empty.wait_for("disk hda: waiting for a medium for 5 s (domain 0, state ", 30)?;
    let (status, told) = f.lab.try_run("xl cd-insert empty hda /tmp/medium 2>&1")?;
    ensure!(status != 0 && told.contains("requires an HVM domain"), "xl cd-insert: {status} {told}");
    f.lab.run("xl block-attach empty format=raw,vdev=xvdb,access=ro,devtype=cdrom,target=/tmp/medium")?;
    let (_, reason, console) = empty.wait_end(40).with_context(|| console)?;
    let found = console.contains("{\"disk\":\"xvdb\",\"bytes\":4096,") && console.contains("\"cdrom\":true");
    ensure!(found && reason == "0", "reason {reason}:\n{console}");
    f.lab.run("rm /tmp/medium")?;
    // Frames of the log stand before it in the same line.
    let line = console.lines().find_map(|line| line.split_once("disk hda: ")).context("no line")?;
    Ok(line.1.to_owned())
}

/// `xl` waits ten seconds for an answer, and fails without one.
fn unused(f: &Fixture) -> Result<String> {
    f.lab.run("head -c 65536 /dev/zero >/tmp/unused")?;
    let hello = guest(&f.lab, f.guest("hello")?, "unused")
        .line("disk = ['format=raw,vdev=xvda,target=/tmp/unused']")
        .line(super::net::VIF)
        .create()?;
    hello.wait_for("Hello, world", 20)?;
    let start = Instant::now();
    f.lab.run(
        "xl block-attach unused format=raw,vdev=xvdaa,target=/tmp/unused || exit 1
         for disk in xvda xvdaa; do timeout 8 xl block-detach unused $disk || { echo $disk stays; exit 1; }; done
         timeout 8 xl network-detach unused 0 || { echo 'the interface stays'; exit 1; }
         xl block-attach unused format=raw,vdev=xvda,target=/tmp/unused && timeout 8 xl block-detach unused xvda",
    )?;
    let took = start.elapsed();
    let left = f.lab.run(&format!("xenstore-ls /local/domain/0/backend/vbd/{} 2>/dev/null; rm /tmp/unused", hello.id));
    ensure!(left.unwrap_or_default().trim().is_empty(), "a backend stays");
    Ok(format!("{:.1} s for four", took.as_secs_f32()))
}

/// An image of QEMU's format without content (docs/interop/qcow2.rst in QEMU): header, reference counts and the table of
/// tables, each in a cluster of its own.
fn qcow2(bytes: u64) -> Vec<u8> {
    const CLUSTER: usize = 1 << 16;
    let mut image = vec![0; 4 * CLUSTER];
    let header: [&[u8]; 12] = [
        b"QFI\xfb",
        &2_u32.to_be_bytes(),
        // No other image below it.
        &[0; 12],
        &16_u32.to_be_bytes(),
        &bytes.to_be_bytes(),
        &[0; 4],
        // Entries of the table of tables, one for 512 MiB, and where it is.
        &1_u32.to_be_bytes(),
        &(3 * CLUSTER as u64).to_be_bytes(),
        // Where reference counts are.
        &(CLUSTER as u64).to_be_bytes(),
        &1_u32.to_be_bytes(),
        &[0; 4],
        &[0; 8],
    ];
    let header = header.concat();
    image[..header.len()].copy_from_slice(&header);
    image[CLUSTER..CLUSTER + 8].copy_from_slice(&(2 * CLUSTER as u64).to_be_bytes());
    for cluster in 0..4 {
        image[2 * CLUSTER + 2 * cluster + 1] = 1;
    }
    image
}

/// libxl starts QEMU for a disk that Linux's backend cannot serve.
fn qdisk(f: &Fixture) -> Result<String> {
    let qemu = f.lab.device_model()?;
    f.lab.run(&format!(
        "mkdir -p /usr/libexec /tmp/device-model/keymaps && touch /tmp/device-model/keymaps/en-us
         printf '#!/bin/sh\nexec {qemu} -L /tmp/device-model \"$@\"\n' >/usr/libexec/xen-qemu-system-i386
         chmod +x /usr/libexec/xen-qemu-system-i386
         head -c 4194304 /dev/zero >/tmp/image.raw"
    ))?;
    f.lab.put("/tmp/image.qcow2", Box::new(std::io::Cursor::new(qcow2(4 << 20))))?;
    for format in ["raw", "qcow2"] {
        let line =
            format!("disk = ['format={format},vdev=xvda,access=rw,backendtype=qdisk,target=/tmp/image.{format}']");
        let run = |name: &str, words: &str| {
            // QEMU locks an image until it has ended, which is after its domain.
            f.lab.run(
                "tries=100; while ps | grep -q '[l]ibexec/xen-qemu'; do tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; usleep 100000; done",
            )?;
            run(f, name, words, &line)
                .with_context(|| f.lab.run(&format!("cat /var/log/xen/qemu-dm-{name}.log")).unwrap_or_default())
        };
        // With access=ro this QEMU does not begin: "Block node is read-only".
        run("fill", "mode=fill seed=8")?;
        run("verify", "mode=verify seed=8")?;
        let info = run("info", "mode=info")?;
        ensure!(info.contains("\"bytes\":4194304,"), "{format}: {info}");
    }
    // An empty drive of QEMU's, whose backend does not begin.
    let both = "disk = ['format=empty,vdev=hda,devtype=cdrom,backendtype=qdisk', \
                'format=raw,vdev=xvda,access=rw,target=/tmp/image.raw']";
    let info = run(f, "empty", "mode=info", both)?;
    ensure!(info.contains("{\"disk\":\"xvda\","), "{info}");
    f.lab.run("rm /usr/libexec/xen-qemu-system-i386 /tmp/image.*")?;
    Ok(String::new())
}

/// A vault that is ready.
pub fn vault<'a>(f: &'a Fixture<'_>, words: &str, disk: &str) -> Result<Domain<'a>> {
    let vault = guest(&f.lab, f.guest("vault")?, "vault")
        .memory(48)
        .command_line(words)
        .line("driver_domain=1")
        .line(disk)
        .create()?;
    vault.wait_for("vault: ready", 20)?;
    Ok(vault)
}

/// dom0's Linux is the guest here, with a queue for each of the two virtual processors that it has booted with. Its disk
/// is the vault's memory, and then one that the vault passes on.
fn linux_frontend(f: &Fixture) -> Result<String> {
    f.lab.run("dd if=/dev/zero of=/tmp/passed bs=1M count=16 2>/dev/null")?;
    let vault = vault(f, "ramdisk=16M pass=xvda", &disk("/tmp/passed", "rw"))?;
    let detach = "xl block-detach 0 xvdf || exit 1; tries=200
         while [ -b /dev/xvdf ]; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || { echo '/dev/xvdf stays'; exit 1; }; usleep 50000
         done";
    let discard = "blkdiscard /dev/xvdf || exit 1
         [ \"$(tr -d '\\0' </dev/xvdf | wc -c)\" = 0 ] || { echo 'discarded, and still there'; exit 1; }";
    for (target, last) in [("ram", discard), ("xvda", "")] {
        let spec = from_vault(target, "rw").replace("vdev=xvda", "vdev=xvdf");
        let attach = format!(
            "xl block-attach 0 '{spec}' || exit 1; tries=200
             until [ -b /dev/xvdf ] && [ \"$(cat /sys/block/xvdf/size)\" = 32768 ]; do
               tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'no /dev/xvdf'; dmesg | tail -n 5; exit 1; }}; usleep 50000
             done
             queues=$(ls /sys/block/xvdf/mq | wc -l); [ $queues = 2 ] || {{ echo \"$queues queues\"; exit 1; }}"
        );
        f.lab.run(&format!(
            "{attach}
             mke2fs -F /dev/xvdf >/dev/null && mkdir -p /mnt/vault && mount -t ext4 /dev/xvdf /mnt/vault || exit 1
             head -c 9000000 /dev/urandom >/tmp/data && cp /tmp/data /mnt/vault/data && sync && umount /mnt/vault || exit 1
             {detach}
             {attach}
             mount -t ext4 /dev/xvdf /mnt/vault && cmp /tmp/data /mnt/vault/data && umount /mnt/vault || exit 1
             {last}
             {detach}"
        ))?;
    }
    let console = vault.wait_for("vault: xvdf of d0", 20)?;
    let did: Vec<_> = console.lines().filter(|line| line.contains("xvdf of d0")).collect();
    ensure!(did.len() == 4 && did.iter().all(|line| line.contains(" 0 failed; ")), "{console}");
    f.lab.run("xl shutdown -w vault")?;
    // What was passed on is where dom0 has it.
    f.lab.run(
        "mount -o loop -t ext4 /tmp/passed /mnt/vault && cmp /tmp/data /mnt/vault/data && umount /mnt/vault && \
           rm /tmp/passed /tmp/data",
    )?;
    // Frames of the log stand before it in the same line.
    Ok(did[0].split("vault: ").last().unwrap_or_default().to_owned())
}

fn ours(f: &Fixture) -> Result<String> {
    f.lab.run("head -c 3000320 /dev/urandom >/tmp/passed")?;
    let vault = vault(f, "ramdisk=8M pass=xvda", &disk("/tmp/passed", "rw"))?;
    let line = |target, access| format!("disk = [\"{}\"]", from_vault(target, access));
    expect_hash(f, "passed", &line("xvda", "ro"), "/tmp/passed")?;
    run(f, "fill", "mode=fill seed=3", &line("xvda", "rw"))?;
    expect_hash(f, "filled", &line("xvda", "ro"), "/tmp/passed")?;
    run(f, "ram", "mode=fill seed=4", &line("ram", "rw"))?;
    run(f, "ram", "mode=verify seed=4", &line("ram", "ro"))?;
    // Many at once, of which one has no such disk.
    let one =
        guest(&f.lab, f.guest("disk")?, "one").command_line("mode=verify seed=4").line(&line("ram", "ro")).create()?;
    let two =
        guest(&f.lab, f.guest("disk")?, "two").command_line("mode=verify seed=3").line(&line("xvda", "ro")).create()?;
    let spec = from_vault("tape", "ro").replace("xvda", "xvdb");
    let (status, _) = f.lab.try_run(&format!("xl block-attach one '{spec}'"))?;
    ensure!(status != 0, "xl accepted a disk that does not exist");
    for domain in [&one, &two] {
        domain.wait_for("verify: ", 60)?;
    }
    ensure!(vault.state()?.1 == "-", "the vault has ended:\n{}", vault.console()?);
    f.lab.run("xl shutdown -w vault; rm /tmp/passed")?;
    Ok(String::new())
}

/// A reader gets the data or an error, and never waits for ever.
fn death(f: &Fixture) -> Result<String> {
    let vault = vault(f, "ramdisk=8M", "")?;
    let line = format!("disk = [\"{}\"]", from_vault("ram", "rw"));
    run(f, "fill", "mode=fill seed=5", &line)?;
    let reader = guest(&f.lab, f.guest("disk")?, "reader").command_line("mode=bench ms=60000").line(&line).create()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while f.lab.run(&format!("xenstore-read /local/domain/{}/device/vbd/51712/state", reader.id))?.trim() != "4" {
        ensure!(Instant::now() < deadline, "the reader does not connect:\n{}", reader.console()?);
    }
    f.lab.run(&format!("xl destroy {}", vault.id))?;
    // The toolstack takes the device away, as an administrator would.
    f.lab.try_run("xl block-detach reader xvda")?;
    let (_, reason, console) = reader.wait_end(60)?;
    ensure!(reason == "3" && console.contains("disk xvda: the device"), "reason {reason}:\n{console}");
    let error = console.lines().find_map(|line| line.split_once("error: ")).context("no error")?;
    Ok(error.1.trim().to_owned())
}
