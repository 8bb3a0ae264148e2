//! `web` with 16 MiB: 200,000 requests, and 1,000,000 segments of one byte. Its free memory is to be as it was.

use std::fs::File;
use std::io::Cursor;

use anyhow::{Context, Result};

use crate::apps::{app, linux_load};
use crate::test::web::ONE_BY_ONE;
use xen_lab::Dom0;
use xen_lab::Lab;
use xen_lab::domain::{destroy_all, guest};

const ADDRESS: &str = "10.0.2.90";
const SITE: &str = "/tmp/soak-site.tar";
/// So few that each of them has sent a request byte by byte before the server's timeout ends.
const CLIENTS: u32 = 16;
/// What may be less at the end: the heap is not of one piece any more.
const ALLOWED: u32 = 96 << 10;

pub(super) fn lab(lab: &Lab) -> Result<()> {
    let image = app("web")?;
    lab.put("/tmp/linux-load", Box::new(File::open(linux_load()?)?))?;
    lab.put(SITE, Box::new(Cursor::new(site()?)))?;
    lab.run("chmod +x /tmp/linux-load")?;
    let web = guest(lab, &image, "soak")
        .memory(16)
        .command_line(format!("ip={ADDRESS}/24"))
        .line("vif = [\"bridge=xenbr0,mac=00:16:3e:00:00:90\"]")
        .line(&format!("disk = [\"format=raw,vdev=xvda,access=ro,target={SITE}\"]"))
        .create()?;
    web.wait_for("web: ready", 30)?;
    let load = format!("{ONE_BY_ONE} /tmp/linux-load soak {ADDRESS}:80 200000 1000000 {CLIENTS} {ALLOWED} 2>&1");
    let text = lab.run(&load).with_context(|| web.console().unwrap_or_default())?;
    println!("  {}", text.lines().last().unwrap_or_default());
    destroy_all(lab)
}

fn site() -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    let files: [(&str, &[u8]); 4] = [
        ("index.html", b"<!doctype html>\n<title>Sarab</title>\n"),
        ("docs/index.html", b"<!doctype html>\n<title>Docs</title>\n"),
        ("style.css", b"body { color: black }\n"),
        ("style.css.gz", b"not really compressed"),
    ];
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes)?;
    }
    Ok(builder.into_inner()?)
}
