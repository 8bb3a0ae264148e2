//! Checks of shares (9pfs), against xen-9pfsd. QEMU's server is not among them: the one of Debian trixie (10.0) refuses the
//! device that libxl adds once it runs ("Device 'xen-backend' does not support hotplugging").

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use xen_lab::Dom0;
use xen_lab::domain::{guest, linux_p9};

/// What is done for one Xen alone, the newest: xen-9pfsd came with 4.19.
pub const AT_LENGTH: [(&str, Check); 4] = [
    ("9pfs: files of xen-9pfsd", files_of_daemon),
    ("9pfs: a folder of many answers", many),
    ("9pfs: eight readers", readers),
    ("9pfs: a read-only share", read_only),
];

/// Not seen to pass yet: only where `--only` names them.
pub const UNSEEN: [(&str, Check); 3] = [
    ("9pfs: 64 MiB both ways", large),
    ("9pfs: a server with few fids", few_fids),
    ("9pfs: a backend that is killed", killed),
];

const FOLDER: &str = "/tmp/share";
const SERVERS: [&str; 1] = ["xen_9pfsd"];

/// A folder with a file of dom0's, on a file system of its own where `mount` says how.
fn fresh(f: &Fixture) -> Result<()> {
    f.lab.run(&format!(
        "umount -l {FOLDER} 2>/dev/null; rm -rf {FOLDER}; mkdir -p {FOLDER} && echo 'hello from dom0' >{FOLDER}/from-dom0"
    ))?;
    Ok(())
}

fn line(server: &str, more: &str) -> String {
    format!("p9 = [ \"tag=share,path={FOLDER},security_model=none,type={server}{more}\" ]")
}

/// Runs the probe on the share; returns what it has printed.
fn probe(f: &Fixture, words: &str, line: &str) -> Result<String> {
    let domain = guest(&f.lab, f.guest("probe")?, "probe")
        .memory(64)
        .command_line(format!("test=share tag=share {words}"))
        .line(line)
        .create()?;
    let console = domain.wait_passed(120)?;
    f.lab.run(&format!("xl destroy {}", domain.id))?;
    Ok(console)
}

/// What the probe says after some words.
fn told<'a>(console: &'a str, begin: &str) -> Result<&'a str> {
    let line = console.lines().find_map(|line| line.split_once(begin));
    Ok(line.with_context(|| format!("the probe did not print {begin:?}:\n{console}"))?.1.trim())
}

/// What both servers have done is there in dom0, byte by byte.
const SEEN: &str = "cd /tmp/share && set -e
     [ \"$(cat from-guest 2>/dev/null || cat other)\" = 'hello from the guest' ]
     [ \"$(cat folder/deep/0/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17/18/19/bottom)\" = deep ]
     [ \"$(cat \"folder/deep/with space & \\\"quotes\\\"\")\" = a ]
     [ \"$(cat folder/deep/not-utf8-$(printf '\\377'))\" = c ]
     [ \"$(wc -c <sparse)\" = 100003 ] && [ \"$(tail -c 3 sparse)\" = end ]
     [ ! -e to-remove ] && ls folder/deep | wc -l";

fn files(f: &Fixture, server: &str, words: &str) -> Result<String> {
    fresh(f)?;
    let console = probe(f, words, &line(server, ""))?;
    let session = told(&console, "share: 9P")?.to_owned();
    f.lab.run(SEEN).with_context(|| console.clone())?;
    Ok(session)
}

fn files_of_daemon(f: &Fixture) -> Result<String> {
    let mut all = Vec::new();
    // The smallest rings, several, and the largest.
    for words in ["order=1", "rings=4", "order=9"] {
        all.push(files(f, "xen_9pfsd", words)?);
    }
    Ok(all.join("; "))
}

/// In the smallest messages, which hold about forty entries: xen-9pfsd loses one at the end of each answer.
fn many(f: &Fixture) -> Result<String> {
    fresh(f)?;
    probe(f, "share=many count=150 order=1", &line("xen_9pfsd", ""))?;
    f.lab.run(
        "cd /tmp/share/many && [ $(ls | wc -l) = 75 ] && for n in 1 77 149; do [ $(cat file-00$(printf %03d $n)) = $n ] || exit 1; done",
    )?;
    Ok(String::new())
}

/// What Linux reads and writes so many MiB in, as the probe does it: in pieces of 256 KiB, without a cache.
const LINUX: &str = "mount -t 9p -o trans=xen,version=VERSION,cache=none,msize=MSIZE share /mnt || exit 1
     cd /mnt; now() { cut -d' ' -f1 /proc/uptime; }
     a=$(now); dd if=large-in of=/dev/null bs=256k 2>/dev/null || exit 1
     b=$(now); dd if=/dev/zero of=large-linux bs=256k count=256 2>/dev/null || exit 1
     c=$(now); rm large-linux
     echo \"$a $b $c\" | awk '{ printf \"linux: read %d kB/s, write %d kB/s\\n\", 67108864 / ($2 - $1) / 1000, 67108864 / ($3 - $2) / 1000 }'";

fn large(f: &Fixture) -> Result<String> {
    let mut speeds = Vec::new();
    let (server, version) = ("xen_9pfsd", "9p2000.u");
    {
        fresh(f)?;
        f.lab.run(&format!(
            "openssl rand 1048576 >/tmp/part && for n in $(seq 64); do echo $n; cat /tmp/part; done | head -c 67108864 >{FOLDER}/large-in"
        ))?;
        // The rings that Linux has are two, of 512 pages each where the backend takes them.
        for words in ["", " rings=2 order=9"] {
            let console = probe(f, &format!("share=large{words}"), &line(server, ""))?;
            f.lab.run(&format!("cmp {FOLDER}/large-in {FOLDER}/large-out && rm {FOLDER}/large-out"))?;
            speeds.push(format!("{server}{words}: read {}", told(&console, "share: read ")?));
        }
        let job = LINUX.replace("VERSION", version).replace("MSIZE", "1048576");
        let linux = linux_p9(&f.lab, "linux", &job)?.line(&line(server, "")).create()?;
        let (_, _, console) = linux.wait_end(120)?;
        f.lab.run(&format!("xl destroy {}; rm {FOLDER}/large-in /tmp/part", linux.id))?;
        speeds.push(format!("Linux there: {}", told(&console, "linux: ")?));
    }
    Ok(speeds.join("; "))
}

fn readers(f: &Fixture) -> Result<String> {
    let mut times = Vec::new();
    for server in SERVERS {
        fresh(f)?;
        let console = probe(f, "share=readers rings=2", &line(server, ""))?;
        times.push(format!("{server}: {}", told(&console, "share: 8 readers took ")?));
    }
    Ok(times.join("; "))
}

/// dom0 has the folder mounted so that nobody can write.
fn read_only(f: &Fixture) -> Result<String> {
    for server in SERVERS {
        fresh(f)?;
        f.lab.run(&format!("mount --bind {FOLDER} {FOLDER} && mount -o remount,bind,ro {FOLDER}"))?;
        let outcome = probe(f, "share=read-only", &line(server, ""));
        // xen-9pfsd closes the folder a while after its guest has gone.
        f.lab.run(&format!("umount -l {FOLDER}")).with_context(|| format!("{outcome:?}"))?;
        outcome?;
    }
    Ok(String::new())
}

fn few_fids(f: &Fixture) -> Result<String> {
    let mut all = Vec::new();
    for more in ["", ",max-open-files=3"] {
        fresh(f)?;
        let console = probe(f, "share=few", &line("xen_9pfsd", more))?;
        all.push(told(&console, "share: ")?.to_owned());
        ensure!(console.contains("max-open-files="), "{console}");
    }
    Ok(String::new())
}

/// xen-9pfsd is killed while a file is open, and started again as its administrator would.
fn killed(f: &Fixture) -> Result<String> {
    fresh(f)?;
    let domain = guest(&f.lab, f.guest("probe")?, "probe")
        .memory(64)
        .command_line("test=share tag=share share=killed")
        .line(&line("xen_9pfsd", ""))
        .create()?;
    domain.wait_for("share: kill it now", 30)?;
    let daemon = format!("/usr/lib/xen-{}/bin/xen-9pfsd", f.suite.xen);
    let id = domain.id;
    f.lab.run(&format!(
        "pid=$(pidof xen-9pfsd) && kill -9 $pid && xenstore-rm /local/domain/0/libxl/xen-9pfs
         xenstore-write /local/domain/0/backend/xen_9pfs/{id}/0/state 6
         setsid {daemon} >/dev/null 2>&1 </dev/null &"
    ))?;
    let console = domain.wait_passed(60)?;
    ensure!(console.contains("share: its backend is gone"), "{console}");
    f.lab.run(&format!("xl destroy {id}"))?;
    Ok(String::new())
}
