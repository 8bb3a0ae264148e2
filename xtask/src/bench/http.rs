//! `web` and a Linux guest's nginx in turn, on the same bridge of Linux's backend. Ours reads each file from its disk,
//! nginx has it in memory.

use std::fs::File;
use std::io::Cursor;
use std::time::Instant;

use anyhow::{Context, Result};

use super::net;
use super::table::{Row, head, rounds, show, show_busy};
use crate::apps::{app, linux_load};
use xen_lab::Dom0;
use xen_lab::Lab;
use xen_lab::domain::{Domain, destroy_all, guest, linux};

const VIF: &str = "vif = [\"bridge=xenbr0,mac=00:16:3e:00:00:90\"]";
const ADDRESS: &str = "10.0.2.90";
const SITE: &str = "/tmp/bench-site.tar";

/// What is fetched, how often, and how many clients do it, each over a connection that stays.
const LOADS: [(&str, &str, u32, u32); 3] = [
    ("1,000 bytes, 32 connections", "/small", 32, 4000),
    ("1,000 bytes, 1 connection", "/small", 1, 500),
    ("1 MiB, 32 connections", "/large", 32, 400),
];

/// nginx as Debian sets it up, but for the log and for one worker, which is what one processor can use.
const NGINX: &str = "
    ifconfig eth0 @ADDRESS@ netmask 255.255.255.0 up
    mkdir -p /etc /run /www /var/log/nginx /var/lib/nginx
    echo root:x:0:0:root:/root:/bin/sh >/etc/passwd; echo root:x:0: >/etc/group
    head -c 1000 /dev/zero >/www/small; head -c 1048576 /dev/zero >/www/large
    echo 'user root; daemon off; worker_processes 1; error_log stderr; pid /run/nginx.pid;
      events { worker_connections 768; }
      http { sendfile on; tcp_nopush on; access_log off; keepalive_requests 1000000; server { listen 80; root /www; } }' >/conf
    echo nginx: begins; nginx -c /conf";

pub(super) fn lab(lab: &Lab, count: u32) -> Result<()> {
    let image = app("web")?;
    lab.put("/tmp/linux-load", Box::new(File::open(linux_load()?)?))?;
    lab.put(SITE, Box::new(Cursor::new(site()?)))?;
    lab.run("chmod +x /tmp/linux-load")?;
    let mut rows = LOADS.map(|_| Row::default());
    let outcome = rounds(count, || {
        let ours = guest(lab, &image, "ours")
            .memory(64)
            .command_line(format!("ip={ADDRESS}/24"))
            .line(VIF)
            .line(&format!("disk = [\"format=raw,vdev=xvda,access=ro,target={SITE}\"]"))
            .create()?;
        ours.wait_for("web: ready", 30)?;
        measure(lab, &ours, 0, &mut rows).with_context(|| ours.console().unwrap_or_default())?;
        destroy_all(lab)?;
        let theirs = linux(lab, "linux", &NGINX.replace("@ADDRESS@", ADDRESS), &[])?.line(VIF).create()?;
        theirs.wait_for("nginx: begins", 60)?;
        lab.run(&format!(
            "tries=100; until wget -q -O /dev/null http://{ADDRESS}/small 2>/dev/null; do
               tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'nginx does not answer'; exit 1; }}; usleep 100000
             done"
        ))
        .with_context(|| theirs.console().unwrap_or_default())?;
        measure(lab, &theirs, 1, &mut rows).with_context(|| theirs.console().unwrap_or_default())?;
        destroy_all(lab)
    });
    head("HTTP, fetches in a second", "nginx");
    for ((name, ..), row) in LOADS.iter().zip(&rows) {
        show(name, "/s", &row.values);
    }
    println!("  How much of the time a processor was in use, the guest's and dom0's");
    for ((name, ..), row) in LOADS.iter().zip(&rows) {
        show_busy(name, &row.busy);
    }
    outcome
}

fn site() -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, len) in [("small", 1000), ("large", 1 << 20)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(len);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &vec![0; len as usize][..])?;
    }
    Ok(builder.into_inner()?)
}

fn measure(lab: &Lab, guest: &Domain<'_>, column: usize, rows: &mut [Row]) -> Result<()> {
    for ((_, path, clients, count), row) in LOADS.iter().zip(rows) {
        let (used, start) = (net::used(lab, guest)?, Instant::now());
        let told = lab.run(&format!("/tmp/linux-load http {ADDRESS}:80 {path} {clients} {count} 1000000"))?;
        let busy = net::busy(lab, guest, used, start)?;
        let speed = told.trim().rsplit(": ").next().and_then(|text| text.split(' ').next());
        row.values[column].push(speed.and_then(|text| text.parse().ok()).with_context(|| told.clone())?);
        row.busy[column].push(busy);
    }
    Ok(())
}
