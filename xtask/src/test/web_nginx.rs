//! The same requests to `web` and to nginx, with the same files: where the answers differ, the list says why.

use std::fmt::Write;
use std::io::Cursor;

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::net::put_load;
use conformance::{Answer, CASES, Nginx, PROBE};
use xen_lab::Dom0;
use xen_lab::domain::{destroy_all, guest, linux};

#[path = "../../../apps/web/host/tests/conformance/mod.rs"]
mod conformance;

/// What is done for one Xen alone, for its time.
pub const AT_LENGTH: [(&str, Check); 1] = [("web: what HTTP/1.1 asks for, beside nginx", beside_nginx)];

const VIF: &str = "vif = [\"bridge=xenbr0,mac=00:16:3e:00:00:91\"]";
const ADDRESS: &str = "10.0.2.91";
const SITE: &str = "/tmp/conformance.tar";

/// nginx as Debian builds it, with what `web` does without being told: compressed files, redirects that name no host, and
/// `If-Modified-Since` as RFC 9110 has it.
const NGINX: &str = "
    ifconfig eth0 @ADDRESS@ netmask 255.255.255.0 up
    mkdir -p /etc /run /www /var/log/nginx /var/lib/nginx
    echo root:x:0:0:root:/root:/bin/sh >/etc/passwd; echo root:x:0: >/etc/group
    tar -xf /site.tar -C /www
    echo 'user root; daemon off; worker_processes 1; error_log stderr crit; pid /run/nginx.pid;
      events { worker_connections 768; }
      http { access_log off; gzip_static on; absolute_redirect off; if_modified_since before; client_max_body_size 64k;
        client_header_buffer_size 4k; large_client_header_buffers 1 4k;
        types { text/html html; text/plain txt; text/css css; }
        server { listen 80; root /www; } }' >/conf
    echo nginx: begins; nginx -c /conf";

fn beside_nginx(f: &Fixture) -> Result<String> {
    put_load(f)?;
    let site = site()?;
    f.lab.put(SITE, Box::new(Cursor::new(site.clone())))?;
    let web = guest(&f.lab, f.guest("web")?, "conformance")
        .command_line(format!("ip={ADDRESS}/24"))
        .line(VIF)
        .line(&format!("disk = ['format=raw,vdev=xvda,access=ro,target={SITE}']"))
        .create()?;
    web.wait_for("web: ready", 30)?;
    let ours = run(f).with_context(|| web.console().unwrap_or_default())?;
    destroy_all(&f.lab)?;
    let nginx = NGINX.replace("@ADDRESS@", ADDRESS);
    let linux = linux(&f.lab, "nginx", &nginx, &[("site.tar", &site)])?.line(VIF).create()?;
    linux.wait_for("nginx: begins", 300)?;
    f.lab
        .run(&format!(
            "tries=100; until wget -q -O /dev/null http://{ADDRESS}/probe.txt 2>/dev/null; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'nginx does not answer'; exit 1; }}; usleep 100000
         done"
        ))
        .with_context(|| linux.console().unwrap_or_default())?;
    let theirs = run(f).with_context(|| linux.console().unwrap_or_default())?;
    destroy_all(&f.lab)?;
    let (mut problems, mut same) = (String::new(), 0);
    for (((text, expected, nginx), ours), theirs) in CASES.iter().zip(&ours).zip(&theirs) {
        let (our, their) = (statuses(ours), statuses(theirs));
        let is_as_listed = our == *expected
            && match nginx {
                Nginx::Same => ours == theirs,
                Nginx::Statuses(listed, _) => our != their && their == *listed,
                Nginx::Fields(_) => our == their && ours != theirs,
            };
        same += usize::from(matches!(nginx, Nginx::Same));
        if !is_as_listed {
            let why = match nginx {
                Nginx::Same => "no difference is listed",
                Nginx::Statuses(_, why) | Nginx::Fields(why) => why,
            };
            let _ = writeln!(problems, "{text:?}, listed as {expected:?}, nginx: {nginx:?}: {why}");
            let _ = writeln!(problems, "  web:   {}\n  nginx: {}", show(ours), show(theirs));
        }
    }
    ensure!(problems.is_empty(), "{problems}");
    Ok(format!("{} requests, {same} answered as nginx does", CASES.len()))
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

fn show(answers: &[Answer]) -> String {
    let show = |answer: &Answer| {
        let fields: Vec<_> = answer.fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!(
            "{} {} {:?}",
            answer.status,
            fields.join(" "),
            String::from_utf8_lossy(&answer.content[..answer.content.len().min(20)])
        )
    };
    answers.iter().map(show).collect::<Vec<_>>().join("; ")
}

/// The answers to all of the list.
fn run(f: &Fixture) -> Result<Vec<Vec<Answer>>> {
    let asked = format!("HEAD /digits.txt HTTP/1.1\r\nHost: a\r\n\r\n{PROBE}");
    let tag = String::from_utf8(ask(f, &[vec![asked.into_bytes()]])?.remove(0))?;
    let tag = tag.lines().find_map(|line| line.strip_prefix("ETag: ")).context("no entity tag")?.to_owned();
    let requests: Vec<_> = CASES.iter().map(|(text, ..)| conformance::parts(text, &tag)).collect();
    let answers = ask(f, &requests)?;
    ensure!(answers.len() == CASES.len(), "{} answers to {} requests", answers.len(), CASES.len());
    Ok(CASES
        .iter()
        .zip(answers)
        .map(|((text, ..), bytes)| conformance::answers(&bytes, &(text.to_string() + PROBE)))
        .collect())
}

/// What comes of each of these.
fn ask(f: &Fixture, requests: &[Vec<Vec<u8>>]) -> Result<Vec<Vec<u8>>> {
    let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines: Vec<_> = requests.iter().map(|parts| parts.iter().map(hex).collect::<Vec<_>>().join(" ")).collect();
    f.lab.put("/tmp/requests", Box::new(Cursor::new((lines.join("\n") + "\n").into_bytes())))?;
    let text = f.lab.run(&format!("/tmp/linux-load raw {ADDRESS}:80 /tmp/requests 2>&1"))?;
    let byte = |line: &str, at: usize| u8::from_str_radix(line.get(at..at + 2)?, 16).ok();
    let bytes = |line: &str| (0..line.len()).step_by(2).map(|at| byte(line, at)).collect::<Option<Vec<u8>>>();
    text.lines().map(|line| bytes(line.trim()).with_context(|| line.to_owned())).collect()
}

fn site() -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in conformance::files() {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(conformance::MODIFIED);
        builder.append_data(&mut header, name, &*bytes)?;
    }
    Ok(builder.into_inner()?)
}
