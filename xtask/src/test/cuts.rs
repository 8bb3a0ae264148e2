//! What was synced on volumes is there: after power cuts, through a migration, and after the vault's own restart.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::disk::{from_vault, vault};
use super::vault::{command, show};
use xen_lab::Dom0;
use xen_lab::domain::{Domain, find, guest};

/// What is done for one Xen alone, for its time.
pub const AT_LENGTH: [(&str, Check); 2] = [
    ("volumes: power cuts, Linux's ext4 is whole and has what was synced", power_cuts),
    ("vault: its guest migrates under load, and it is started again", moved),
];

/// How often the power is cut; `SARAB_CUTS=1000` for more.
fn cuts() -> Result<u32> {
    let text = std::env::var("SARAB_CUTS").unwrap_or_else(|_| "12".into());
    text.parse().with_context(|| format!("SARAB_CUTS={text}: expected a number of power cuts"))
}

/// Cuts of one call to dom0, which says something after each: a lab that is silent is taken for stuck.
const BATCH: u32 = 10;

/// What both parts need: the probe's console, whose last line of a kind `said` waits for.
const BEGIN: &str = "said() {
       tries=2400; until grep -q \"$1\" $log; do
         tries=$((tries - 1)); [ $tries -gt 0 ] || { echo \"the probe does not say: $1\"; tail -n 5 $log; exit 1; }; usleep 25000
       done
     }
     disks='xvdf xvdg xvdh'";

/// Makes file systems, then files, of which each is synced. Each line of `list` is a file's: the mark after which it is there, its
/// disk, name and sum. Those of `removed`: the mark after which a file may be gone. Others write meanwhile what is never synced.
const FILL: &str = "marks=0; rm -f list removed
     mark() { marks=$((marks + 1)); echo mark >$tty; said \"powercut: mark $marks at\"; }
     for disk in $disks; do
       mkfs.ext4 -q -F /dev/$disk && mkdir -p /mnt/$disk && mount -t ext4 -o discard /dev/$disk /mnt/$disk || exit 1
       mkdir /mnt/$disk/folder
     done
     sync; mark
     number=0; while [ $number -lt $files ]; do
       number=$((number + 1))
       for disk in $disks; do
         file=/mnt/$disk/folder/$number
         dd if=/dev/zero of=/mnt/$disk/scratch bs=4096 seek=$((number % 7)) count=9 oflag=direct conv=notrunc 2>/dev/null &
         head -c $((1000 + number * number * 7919 % 90000)) /dev/urandom >$file.new
         sum=$(sha256sum <$file.new); mv $file.new $file; dd if=/dev/null of=$file conv=fsync,notrunc 2>/dev/null || exit 1; mark
         echo $marks $disk $number $sum >>list
         if [ $((number % 4)) = 0 ]; then
           mark; echo $marks $disk $((number - 2)) >>removed; rm /mnt/$disk/folder/$((number - 2))
         fi
         wait
       done
     done
     for disk in $disks; do umount /mnt/$disk || exit 1; done
     echo $marks marks";

/// Cuts the power, and looks at what is there: the journal is replayed, then nothing is left for e2fsck, and files that were
/// synced are whole.
const CUT: &str = "fail() { echo \"cut $seed ($(grep \"cut $seed at\" $log)): $disk: $*\"; dmesg | tail -n 5; exit 1; }
     seed=$first; while [ $seed -lt $end ]; do
       echo cut $seed >$tty; said \"powercut: cut $seed at .* marks\"
       before=$(sed -n \"s/.*powercut: cut $seed at .*: \\([0-9]*\\) marks.*/\\1/p\" $log)
       for disk in $disks; do
         mount -t ext4 /dev/$disk /mnt/$disk || fail cannot be mounted
         awk -v before=$before -v disk=$disk 'FNR == NR { if ($1 <= before) gone[$2 \"/\" $3] = 1; next }
           $2 == disk && $1 <= before && !gone[$2 \"/\" $3] { print $4 \"  \" $3 }' removed list >sums
         [ ! -s sums ] || (cd /mnt/$disk/folder && sha256sum -c ~/sums >~/found 2>&1) || fail $(grep -v OK ~/found)
         checked=$((checked + $(wc -l <sums)))
         umount /mnt/$disk || fail cannot be unmounted
         e2fsck -fn /dev/$disk >fsck 2>&1 || fail $(cat fsck)
       done
       echo $checked; seed=$((seed + 1))
     done";

fn power_cuts(f: &Fixture) -> Result<String> {
    let cuts = cuts()?;
    let files = if cuts > 100 { 20 } else { 8 };
    let probe = guest(&f.lab, f.guest("probe")?, "powercut")
        .memory(256)
        .command_line("test=powercut")
        .line("driver_domain=1")
        .create()?;
    probe.wait_for("powercut: ready", 60)?;
    let begin = format!(
        "cd; tty=$(xenstore-read /local/domain/{}/console/tty); log={}; files={files}; checked=0; touch removed\n{BEGIN}",
        probe.id, probe.log
    );
    let run = |job: &str| f.lab.run(&format!("{begin}\n{job}")).with_context(|| show(&probe));
    let disks = [("thin", "xvdf", 10), ("sums", "xvdg", 8), ("luks", "xvdh", 8)];
    for (target, disk, mebibytes) in disks {
        let spec = from_vault(target, "rw").replace("vdev=xvda", &format!("vdev={disk}"));
        run(&format!(
            "xl block-attach 0 '{}' || exit 1; tries=2000
             until [ -b /dev/{disk} ] && [ \"$(cat /sys/block/{disk}/size)\" = {} ]; do
               tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'no /dev/{disk}'; dmesg | tail -n 5; exit 1; }}; usleep 50000
             done",
            spec.replace("backend=vault", "backend=powercut"),
            mebibytes << 11
        ))?;
    }
    let marks = run(FILL)?;
    let mut checked = 0;
    let begun = Instant::now();
    for first in (0..cuts).step_by(BATCH as usize) {
        let end = cuts.min(first + BATCH);
        let found = run(&format!("first={first} end={end}\n{CUT}"))?;
        checked += found.lines().last().unwrap_or_default().parse::<u32>().with_context(|| found.clone())?;
    }
    let seconds = begun.elapsed().as_secs_f32();
    ensure!(checked > 0, "no cut came after a file that was synced:\n{}", show(&probe));
    run("for disk in $disks; do xl block-detach 0 $disk || exit 1; done; echo quit >$tty")?;
    let console = probe.wait_passed(20)?;
    ensure!(console.matches(" flushes, 0 failed").count() == disks.len(), "{console}");
    Ok(format!("{}; {cuts} cuts in {seconds:.0} s, {checked} synced files were whole", marks.trim()))
}

/// How often a disk's content was written and compared.
fn turns(guest: &Domain) -> Result<usize> {
    let console = guest.console()?;
    ensure!(!console.contains("FAIL") && !console.contains("were flushed"), "{console}");
    Ok(console.lines().filter(|line| line.contains("load: turn ") && !line.contains(" is there")).count())
}

/// The guest goes on.
fn wait_turns(guest: &Domain, vault: &Domain, more: usize) -> Result<()> {
    let (before, deadline) = (turns(guest)?, Instant::now() + Duration::from_secs(60));
    while turns(guest)? < before + more {
        ensure!(Instant::now() < deadline, "it stands still:\n{}\n{}", show(guest), show(vault));
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn moved(f: &Fixture) -> Result<String> {
    const DISKS: &str = "disk = [\"format=raw,vdev=xvda,access=rw,target=/tmp/pool1\"]";
    f.lab.run("rm -f /tmp/pool1; truncate -s 24M /tmp/pool1")?;
    let words = "pool=xvda format=yes commands=\"create mail 4M checksums if-missing\"";
    let first = vault(f, words, DISKS)?;
    let spec = from_vault("mail,handover=on", "rw");
    let guest = guest(&f.lab, f.guest("probe")?, "load")
        .memory(32)
        .command_line("test=load")
        .line(&format!("disk = [\"{spec}\"]"))
        .create()?;
    guest.wait_for("load: turn 2", 60)?;
    let old = guest.id;

    // Without ssh the "host" is the command that receives the domain. Its console has a file of the name that it has until then.
    let begun = Instant::now();
    let migrate = "timeout 100 xl migrate -s '' load 'xl migrate-receive' >/tmp/migrate.log 2>&1 || { cat /tmp/migrate.log; exit 1; }";
    f.lab.run(migrate).with_context(|| format!("{}\n{}", show(&guest), show(&first)))?;
    let took = begun.elapsed().as_secs_f32();
    turns(&guest)?;
    let mut guest = find(&f.lab, "load")?;
    guest.log = "/var/log/xen/console/guest-load--incoming.log".into();
    ensure!(guest.id != old, "it is still domain {old}");
    wait_turns(&guest, &first, 3)?;
    let console = first.wait_for(&format!("vault: xvda of d{old}"), 20)?;
    ensure!(console.contains(" 0 failed"), "{console}");
    let list = command(f, &first, "list")?;
    let holder = format!(", domain {}", guest.id);
    ensure!(list.ends_with(&holder) && list.matches("domain").count() == 1, "{list}, expected {holder}");

    // The guest stays, its disk goes with the vault, and comes again. No xl waits here for the vault's end, to clean up.
    f.lab.run(&format!("xl shutdown -w vault; ! xl list {} >/dev/null 2>&1 || xl destroy {0}", first.id))?;
    f.lab.try_run("xl block-detach load xvda")?;
    guest.wait_for(" turns were flushed: ", 60)?;
    let second = vault(f, words, DISKS)?;
    command(f, &second, "check")?;
    f.lab.run(&format!("xl block-attach load '{spec}'")).with_context(|| show(&second))?;
    let console = guest.wait_for(" is there", 60).with_context(|| show(&second))?;
    let there = console.lines().find_map(|line| line.split_once("load: turn ")?.1.strip_suffix(" is there"));
    let there = there.context("no turn")?.to_owned();
    guest.wait_for(&format!("load: turn {}", there.parse::<u32>()? + 2), 60)?;
    command(f, &second, "check")?;
    guest.send("quit")?;
    guest.wait_passed(30)?;
    f.lab.run(&format!("xl destroy {}; xl shutdown -w vault; rm /tmp/pool1", guest.id))?;
    Ok(format!("migrated in {took:.1} s; turn {there} outlived the vault"))
}
