//! `web` with a site on its disk: what it serves, and what it does where something is wrong.

use std::io::Cursor;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::net::{VIF, put_load, start};
use xen_lab::Dom0;
use xen_lab::domain::{Domain, destroy_all, guest};

pub const ALL: &[(&str, Check)] = &[
    ("web: 1,000 files by tar and by ext4, whole and in parts, with garbage in between", files),
    ("web: a tar of 1 GiB to 64 clients from 16 MiB", large),
    ("web: xl shutdown under load", shutdown),
    ("web: a disk that is taken away while it serves, and comes back", no_disk_any_more),
];

/// What is done for one Xen alone, for its time.
pub const AT_LENGTH: [(&str, Check); 4] = [
    ("web: many requests and segments of one byte leave the memory as it was", soak),
    ("web: entity tags, compressed files, folders and pages of its own", answers),
    ("web: requests that are none, and clients that hold on", hostile),
    ("web: no site, and what is wrong with it", wrong),
];

/// Has Linux send each write as a segment of its own, though another one waits to leave the machine.
pub const ONE_BY_ONE: &str = "echo 0 >/proc/sys/net/ipv4/tcp_autocorking;";

const SITE: &str = "/tmp/site.tar";

fn disk(path: &str) -> String {
    format!("disk = ['format=raw,vdev=xvda,access=ro,target={path}']")
}

fn page(title: &str) -> Vec<u8> {
    format!("<!doctype html>\n<title>{title}</title>\n</html>\n").into_bytes()
}

/// The site that the checks use, as a tar archive.
fn site() -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, name, bytes)
    };
    add("index.html", &page("Sarab"))?;
    add("bytes", &super::net::bytes())?;
    add("docs/index.html", &page("Docs"))?;
    add("style.css", b"body { color: black }\n")?;
    add("style.css.gz", b"not really compressed")?;
    add("Grüße und mehr.txt", "Grüße\n".as_bytes())?;
    for index in 0..990_usize {
        // From nothing to several of what is read at once.
        let len = [index, index * 37 % 9000, index * 7919 % 50_000][index % 3];
        let content: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251 + index) as u8).collect();
        add(&format!("files/{}/{index}.bin", index % 10), &content)?;
    }
    add(&format!("{}/deep.txt", "a-long-name/".repeat(15).trim_end_matches('/')), b"deep\n")?;
    Ok(builder.into_inner()?)
}

/// Puts the site into dom0, and returns the line of the xl file that makes it a disk.
pub fn put_site(f: &Fixture) -> Result<String> {
    if f.lab.try_run(&format!("test -f {SITE}"))?.0 != 0 {
        f.lab.put(SITE, Box::new(Cursor::new(site()?)))?;
    }
    Ok(disk(SITE))
}

fn files(f: &Fixture) -> Result<String> {
    put_site(f)?;
    put_load(f)?;
    f.lab.run(&format!(
        "rm -rf /tmp/site && mkdir /tmp/site && tar -xf {SITE} -C /tmp/site || exit 1
         mkfs.ext4 -q -d /tmp/site /tmp/site.ext4 40M 2>&1"
    ))?;
    let mut told = Vec::new();
    for (name, image, expected) in [
        ("tar", SITE, "web: a tar archive with 997 files on a disk of "),
        ("ext4", "/tmp/site.ext4", "web: an ext4 file system on a disk of 40960 KiB"),
    ] {
        let (web, address) = serve(f, name, image, 32)?;
        ensure!(web.console()?.contains(expected), "{}", web.console()?);
        let clients = if name == "tar" { 32 } else { 8 };
        let line = f.lab.run(&format!("/tmp/linux-load site {address}:80 /tmp/site {clients} 2>&1"));
        told.push(format!("{name}: {}", line.with_context(|| web.console().unwrap_or_default())?.trim()));
        destroy_all(&f.lab)?;
    }
    f.lab.run("rm -rf /tmp/site /tmp/site.ext4")?;
    Ok(told.join("; "))
}

/// A server of an image, and its address.
fn serve<'a>(f: &'a Fixture<'_>, name: &str, image: &str, memory: u64) -> Result<(Domain<'a>, String)> {
    let web = guest(&f.lab, f.guest("web")?, name).memory(memory).line(VIF).line(&disk(image)).create()?;
    let console = web.wait_for("web: ready", 30)?;
    let line = console.lines().find_map(|line| line.split_once("network: ")).context("no address in the log")?.1;
    let address = line.split('/').next().unwrap_or_default().to_owned();
    Ok((web, address))
}

/// What the server says to a request of these lines, by dom0's `nc`.
fn ask(f: &Fixture, address: &str, lines: &str) -> Result<String> {
    raw(f, address, &format!("{lines}\\r\\nHost: {address}\\r\\nConnection: close\\r\\n\\r\\n"))
}

/// What it says to these bytes, until it ends the connection.
fn raw(f: &Fixture, address: &str, bytes: &str) -> Result<String> {
    f.lab.run(&format!("printf '{bytes}' | timeout 20 nc {address} 80"))
}

fn answers(f: &Fixture) -> Result<String> {
    let (web, address) = start(f, "answers", "")?;
    let whole = ask(f, &address, "GET /style.css HTTP/1.1")?;
    let tag = whole.lines().find_map(|line| line.strip_prefix("ETag: ")).context("no entity tag")?.trim().to_owned();
    for (lines, expected) in [
        ("GET /style.css HTTP/1.1".to_owned(), vec!["HTTP/1.1 200", "text/css", "body { color: black }"]),
        (format!("GET /style.css HTTP/1.1\\r\\nIf-None-Match: \"x\", {tag}"), vec!["HTTP/1.1 304", &tag]),
        (format!("GET /style.css HTTP/1.1\\r\\nIf-Range: {tag}\\r\\nRange: bytes=-4"), vec!["HTTP/1.1 206", "k }\n"]),
        ("GET /style.css HTTP/1.1\\r\\nIf-Range: \"x\"\\r\\nRange: bytes=0-3".into(), vec!["HTTP/1.1 200"]),
        (
            "GET /style.css HTTP/1.1\\r\\nAccept-Encoding: gzip".into(),
            vec![
                "HTTP/1.1 200",
                "text/css",
                "Content-Encoding: gzip",
                "Vary: Accept-Encoding",
                "not really compressed",
            ],
        ),
        ("GET /docs HTTP/1.1".into(), vec!["HTTP/1.1 301", "Location: /docs/"]),
        ("GET //docs HTTP/1.1".into(), vec!["HTTP/1.1 301", "Location: /docs/"]),
        ("GET /docs/ HTTP/1.1".into(), vec!["HTTP/1.1 200", "<title>Docs</title>"]),
        ("GET /Gr%%C3%%BC%%C3%%9Fe%%20und%%20mehr.txt HTTP/1.1".into(), vec!["HTTP/1.1 200", "text/plain", "Grüße"]),
        ("GET /none HTTP/1.1".into(), vec!["HTTP/1.1 404", "<title>Not found</title>"]),
        ("POST / HTTP/1.1\\r\\nContent-Length: 0".into(), vec!["HTTP/1.1 405", "Allow: GET, HEAD"]),
        ("GET /metrics HTTP/1.1".into(), vec!["web_requests_total{status=\"4xx\"} 2", "memory_bytes{kind=\"free\"} "]),
    ] {
        let found = ask(f, &address, &lines)?;
        for expected in expected {
            ensure!(found.contains(expected), "no {expected:?} in the answer to {lines}:\n{found}");
        }
    }
    // Who says nothing, and who does not come to an end, is not waited for.
    f.lab.run(&format!(
        "(sleep 20 | timeout 18 nc {address} 80; echo $? >/tmp/silent) &
         ((printf 'GET / HTTP/1.1\\r\\nHost: a\\r\\nX: '; sleep 20) | timeout 18 nc {address} 80 >/dev/null; echo $? >/tmp/slow) &
         wait; cat /tmp/silent /tmp/slow | grep -v '^0$' && {{ echo 'still connected'; exit 1; }}; true"
    ))?;
    let head = ask(f, &address, "HEAD /bytes HTTP/1.1")?;
    ensure!(head.contains("Content-Length: 100000") && head.trim_end().ends_with("close"), "{head}");
    drop(web);
    Ok(String::new())
}

/// A short form of `cargo xen bench --only soak`.
fn soak(f: &Fixture) -> Result<String> {
    let (web, address) = start(f, "soak", "")?;
    put_load(f)?;
    // One leaked waker for each segment would be 160 KiB.
    let text = f.lab.run(&format!("{ONE_BY_ONE} /tmp/linux-load soak {address}:80 3000 10000 8 98304 2>&1"));
    let text = text.with_context(|| web.console().unwrap_or_default())?;
    Ok(text.lines().last().unwrap_or_default().to_owned())
}

/// What is no request is refused, and ends the connection; and who only holds one lets others in.
fn hostile(f: &Fixture) -> Result<String> {
    let (web, address) = start(f, "hostile", "connections=8")?;
    let second = "GET /metrics HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n";
    for (request, status) in [
        ("POST / HTTP/1.1\\r\\nHost: a\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n", "400"),
        ("GET / HTTP/1.1\\r\\n\\r\\n", "400"),
        ("GET / HTTP/1.1\\r\\nHost : a\\r\\n\\r\\n", "400"),
        ("POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 9\\r\\nExpect: 100-continue\\r\\n\\r\\n", "405"),
        ("PRI * HTTP/2.0\\r\\n\\r\\n", "505"),
    ] {
        let found = raw(f, &address, &format!("{request}{second}"))?;
        let answers = found.matches("HTTP/1.1 ").count() - found.matches("only HTTP/1.1 ").count();
        ensure!(found.starts_with(&format!("HTTP/1.1 {status}")) && answers == 1, "{request}: {found}");
    }
    // More than there are places, and none of them asks for anything.
    f.lab.run(&format!(
        "for i in 1 2 3 4 5 6 7 8; do (sleep 9 | timeout 9 nc {address} 80 >/dev/null &) ; done; sleep 2"
    ))?;
    let found = ask(f, &address, "GET / HTTP/1.1")?;
    ensure!(found.starts_with("HTTP/1.1 200"), "{found}\n{}", web.console()?);
    Ok(String::new())
}

/// A header and nothing else: the file's bytes are a hole in dom0's memory.
fn large(f: &Fixture) -> Result<String> {
    put_load(f)?;
    const SIZE: u64 = 1 << 30;
    let mut header = tar::Header::new_gnu();
    header.set_path("large.bin")?;
    header.set_size(SIZE);
    header.set_mode(0o644);
    header.set_cksum();
    f.lab.put("/tmp/large.tar", Box::new(Cursor::new(header.as_bytes().to_vec())))?;
    f.lab.run(&format!("dd if=/dev/zero of=/tmp/large.tar bs=1 count=0 seek={} 2>/dev/null", 512 + SIZE + 1024))?;
    let (web, address) = serve(f, "large", "/tmp/large.tar", 16)?;
    let load = |count: u32| {
        let line = f.lab.run(&format!("/tmp/linux-load parts {address}:80 /large.bin 64 {count} 100000 {SIZE} 2>&1"));
        line.with_context(|| web.console().unwrap_or_default())
    };
    let least = || least_free(&ask(f, &address, "GET /metrics HTTP/1.1")?);
    // Buffers grow to what they are used for, and then no more.
    load(4)?;
    let mut before = least()?;
    let mut told;
    let mut rounds = 1;
    loop {
        told = load(4)?;
        rounds += 1;
        let now = least()?;
        if now + (32 << 10) >= before {
            before = now;
            break;
        }
        ensure!(rounds < 10, "{before} bytes were the minimum free, and now {now}, after {rounds} rounds");
        before = now;
    }
    f.lab.run("rm /tmp/large.tar")?;
    Ok(format!("{}, {rounds} times; {} KiB minimum free", told.trim(), before / 1024))
}

fn shutdown(f: &Fixture) -> Result<String> {
    put_load(f)?;
    let (web, address) = start(f, "busy", "")?;
    f.lab.run(&format!(
        "/tmp/linux-load http {address}:80 /bytes 32 100000 100000 >/dev/null 2>&1 &
         load=$!; sleep 1; xl shutdown -w busy; wait $load; true"
    ))?;
    let (_, reason, console) = web.wait_end(20)?;
    let line = console.lines().find(|line| line.starts_with("web: asked to")).unwrap_or_default().to_owned();
    ensure!(reason == "0" && line.contains("all connections ended"), "reason {reason}:\n{console}");
    Ok(line)
}

fn no_disk_any_more(f: &Fixture) -> Result<String> {
    f.lab.run("mkdir -p /tmp/big && dd if=/dev/zero of=/tmp/big/big.bin bs=1M count=8 2>/dev/null && cd /tmp/big && tar -cf /tmp/big.tar big.bin && rm -rf /tmp/big")?;
    let (web, address) = serve(f, "unplug", "/tmp/big.tar", 16)?;
    // A client that stops reading in the middle, and goes on when the disk is gone.
    let got = f.lab.run(&format!(
        "printf 'GET /big.bin HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n' >/tmp/request
         (cat /tmp/request; sleep 8) | timeout 30 nc {address} 80 | (sleep 3; wc -c) >/tmp/count &
         sleep 1; xl block-detach unplug xvda >/dev/null 2>&1; wait; cat /tmp/count"
    ))?;
    let count: u64 = got.lines().last().unwrap_or_default().trim().parse().with_context(|| got.clone())?;
    ensure!((1..8 << 20).contains(&count), "{count} bytes came");
    let console = web.wait_for("web: \"/big.bin\": cut at byte ", 20)?;
    let found = ask(f, &address, "GET /big.bin HTTP/1.1")?;
    ensure!(found.contains("HTTP/1.1 500") && found.contains("<title>The disk fails</title>"), "{found}");
    // What needs no disk goes on.
    ensure!(ask(f, &address, "GET /metrics HTTP/1.1")?.contains("web_answers_cut_total 1"), "{console}");
    // It comes back: the same, and then another one.
    put_site(f)?;
    for (target, path, title) in
        [("/tmp/big.tar", "/", "<title>Not found</title>"), (SITE, "/", "<title>Sarab</title>")]
    {
        let before = web.console()?.matches("web: a tar archive with").count();
        f.lab.run(&format!("xl block-attach unplug format=raw,vdev=xvda,access=ro,target={target}"))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while web.console()?.matches("web: a tar archive with").count() == before {
            ensure!(Instant::now() < deadline, "{target} is not found:\n{}", web.console()?);
            std::thread::sleep(Duration::from_millis(100));
        }
        let found = ask(f, &address, &format!("GET {path} HTTP/1.1"))?;
        ensure!(found.contains(title), "{target}: {found}");
        f.lab.run("xl block-detach unplug xvda")?;
    }
    f.lab.run("rm /tmp/big.tar")?;
    Ok(console.lines().find(|line| line.contains("cut at byte")).unwrap_or_default().to_owned())
}

fn wrong(f: &Fixture) -> Result<String> {
    let whole = site()?;
    f.lab.put("/tmp/short.tar", Box::new(Cursor::new(whole[..60_000 / 512 * 512].to_vec())))?;
    f.lab.run(
        "dd if=/dev/zero of=/tmp/empty bs=1024 count=4 2>/dev/null
         dd if=/bin/busybox of=/tmp/unknown bs=1024 count=40 2>/dev/null
         (dd if=/dev/zero bs=1080 count=1; printf '\\123\\357'; dd if=/dev/zero bs=1024 count=8) >/tmp/broken.ext4 2>/dev/null",
    )?;
    let mut checked = 0;
    for (image, expected, first, status) in [
        ("", "web: no site: the domain has no disk; its xl file gives it one", "There is no site", "200"),
        ("/tmp/empty", "web: no site: the first disk: it is empty", "There is no site", "200"),
        ("/tmp/unknown", "web: no site: the first disk: unknown format: expected a tar archive", "no site", "200"),
        ("/tmp/broken.ext4", "web: no site: the first disk: cannot read the ext4 file system", "no site", "200"),
        ("/tmp/short.tar", "ends at byte ", "<title>Sarab</title>", "200"),
    ] {
        let line = if image.is_empty() { String::new() } else { disk(image) };
        let web =
            guest(&f.lab, f.guest("web")?, "wrong").memory(16).command_line("ip=10.0.2.80/24").line(VIF).line(&line);
        let web = web.create()?;
        let console = web.wait_for("web: ready", 30)?;
        ensure!(console.contains(expected), "{image}: no {expected:?} in:\n{console}");
        f.lab.run("ip neigh flush dev xenbr0 2>/dev/null; arp -d 10.0.2.80 2>/dev/null; true")?;
        let found = ask(f, "10.0.2.80", "GET / HTTP/1.1")?;
        ensure!(found.starts_with(&format!("HTTP/1.1 {status}")) && found.contains(first), "{image}: {found}");
        destroy_all(&f.lab)?;
        checked += 1;
    }
    // Without a DHCP server: it says so, and goes on asking.
    f.lab.run("ip link add nowhere type bridge && ip link set nowhere up")?;
    let lonely = guest(&f.lab, f.guest("web")?, "lonely").memory(16).line("vif = [\"bridge=nowhere\"]").create()?;
    lonely.wait_for("network: no address after 10 s; is there a DHCP server?", 40)?;
    destroy_all(&f.lab)?;
    f.lab.run("ip link del nowhere; rm -f /tmp/empty /tmp/unknown /tmp/broken.ext4 /tmp/short.tar")?;
    Ok(format!("{checked} kinds"))
}

/// The bytes that were free when fewest were.
pub fn least_free(metrics: &str) -> Result<u64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix("memory_bytes{kind=\"least_free\"} "));
    Ok(line.with_context(|| metrics.to_owned())?.trim().parse()?)
}
