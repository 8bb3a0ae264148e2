//! `web` with TLS, and OpenSSL's client in dom0.

use std::io::Cursor;

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::net::VIF;
use super::web::put_site;
use xen_lab::Dom0;
use xen_lab::domain::guest;

/// What is done for one Xen alone.
pub const AT_LENGTH: [(&str, Check); 1] = [("web: HTTPS for OpenSSL, with certificates that are replaced", https)];

/// The certificates of sarab-tls' tests.
macro_rules! pem {
    ($name:literal) => {
        concat!(
            include_str!(concat!("../../../sarab-tls/tests/data/", $name, ".pem")),
            include_str!(concat!("../../../sarab-tls/tests/data/", $name, ".key"))
        )
    };
}
const ROOT: &str = include_str!("../../../sarab-tls/tests/data/root.pem");

/// A disk with certificates and keys.
fn put_certificates(f: &Fixture, path: &str, pem: &str) -> Result<()> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(pem.len() as u64);
    header.set_mode(0o600);
    builder.append_data(&mut header, "tls.pem", pem.as_bytes())?;
    f.lab.put(path, Box::new(Cursor::new(builder.into_inner()?)))?;
    Ok(())
}

fn https(f: &Fixture) -> Result<String> {
    let site = put_site(f)?;
    put_certificates(f, "/tmp/tls.tar", &[pem!("p256"), pem!("rsa")].concat())?;
    put_certificates(f, "/tmp/other.tar", pem!("p384"))?;
    f.lab.put("/tmp/root.pem", Box::new(Cursor::new(ROOT)))?;
    let disks = site.replace("']", "','format=raw,vdev=xvdb,access=ro,target=/tmp/tls.tar']");
    let web = guest(&f.lab, f.guest("web-tls")?, "https")
        .command_line("https=443 cert=xvdb redirect=on hsts=600 connections=32")
        .memory(32)
        .line(VIF)
        .line(&disks)
        .create()?;
    web.wait_for("web: HTTPS on port 443 for one.test, *.wild.test, four.test", 30)?;
    let console = web.wait_for("web: ready", 30)?;
    let line = console.lines().find_map(|line| line.split_once("network: ")).context("no address in the log")?.1;
    let address = line.split('/').next().unwrap_or_default().to_owned();
    // What is sent, by what is asked for.
    let client = |name: &str, arguments: &str| {
        format!(
            "timeout 200 openssl s_client -quiet -connect {address}:443 -CAfile /tmp/root.pem -verify_return_error \
             -servername {name} -verify_hostname {name} {arguments}"
        )
    };
    let request = |path: &str, end: &str| format!("GET {path} HTTP/1.1\\r\\nHost: one.test\\r\\n{end}\\r\\n");
    let close = "Connection: close\\r\\n";
    let fetch = |path: &str, name: &str, arguments: &str| {
        format!("printf '{}' | {} 2>/tmp/errors", request(path, close), client(name, arguments))
    };
    // Versions, suites, and both certificates.
    for (name, arguments) in [
        ("one.test", "-tls1_3"),
        ("any.wild.test", "-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256 -groups P-256"),
        ("four.test", "-tls1_3 -ciphersuites TLS_AES_256_GCM_SHA384"),
        ("one.test", "-tls1_2"),
        ("four.test", "-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256"),
    ] {
        let found = f.lab.run(&fetch("/style.css", name, arguments)).with_context(|| format!("{name} {arguments}"))?;
        ensure!(found.contains("HTTP/1.1 200") && found.contains("body { color: black }"), "{arguments}: {found}");
        ensure!(found.contains("Strict-Transport-Security: max-age=600"), "{found}");
    }
    for (name, arguments) in [
        ("one.test", "-tls1_1 -cipher ALL:@SECLEVEL=0"),
        ("one.test", "-tls1_2 -cipher AES128-SHA"),
        // A name that is in none of the certificates.
        ("two.test", "-tls1_3"),
    ] {
        let (code, output) = f.lab.try_run(&fetch("/", name, arguments))?;
        ensure!(code != 0 && !output.contains("HTTP/1.1"), "{name} {arguments} is not refused: {output}");
    }
    // Without TLS there is but the way to it.
    let plain = f.lab.run(&format!(
        "printf 'GET /docs/?a=b HTTP/1.1\\r\\nHost: one.test:80\\r\\nConnection: close\\r\\n\\r\\n' | timeout 20 nc {address} 80"
    ))?;
    ensure!(plain.contains("HTTP/1.1 308") && plain.contains("Location: https://one.test/docs/?a=b"), "{plain}");
    // 32 at once, the whole content of each.
    let times = f.lab.run(&format!(
        "cd /tmp; tar -xf site.tar bytes; start=$(date +%s)
         for i in $(seq 32); do ({fetch} | tail -c 100000 | cmp - bytes && echo same >same.$i) & done; wait
         cat same.* | grep -c same; rm same.* bytes; echo $(( $(date +%s) - start )) s",
        fetch = fetch("/bytes", "one.test", "-tls1_3")
    ))?;
    ensure!(times.starts_with("32\n"), "{times}\n{}", web.console()?);
    // A connection of before goes on while the certificates are replaced; the next one gets the other.
    f.lab.run(&format!(
        "rm -f /tmp/go /tmp/kept
         (printf '{first}'; tries=150; while [ ! -f /tmp/go ] && [ $tries -gt 0 ]; do usleep 100000; tries=$((tries-1)); done
          printf '{second}') | {client} >/tmp/kept 2>/tmp/errors &
         tries=100; while ! grep -q black /tmp/kept; do
           tries=$((tries-1)); [ $tries -gt 0 ] || exit 1; usleep 100000
         done
         xl block-detach https xvdb && xl block-attach https format=raw,vdev=xvdb,access=ro,target=/tmp/other.tar",
        first = request("/style.css", ""),
        second = request("/docs/", close),
        client = client("one.test", "-tls1_3"),
    ))?;
    web.wait_for("web: HTTPS on port 443 with other certificates, for two.test", 20)?;
    let found = f.lab.run(&fetch("/style.css", "two.test", "-tls1_3"))?;
    ensure!(found.contains("body { color: black }"), "{found}");
    let (code, output) = f.lab.try_run(&fetch("/style.css", "one.test", "-tls1_3"))?;
    ensure!(code != 0 && !output.contains("HTTP/1.1"), "the certificate of before is still used: {output}");
    let kept = f.lab.run("touch /tmp/go; wait; tries=100
         while ! grep -q Docs /tmp/kept; do tries=$((tries-1)); [ $tries -gt 0 ] || break; usleep 100000; done; cat /tmp/kept")?;
    ensure!(kept.contains("<title>Docs</title>"), "{kept}\n{}", web.console()?);
    f.lab.run("xl shutdown -w https; rm -f /tmp/kept /tmp/go /tmp/other.tar /tmp/tls.tar /tmp/root.pem")?;
    let (_, reason, console) = web.wait_end(20)?;
    let line = console.lines().find(|line| line.starts_with("web: asked to")).unwrap_or_default().to_owned();
    ensure!(reason == "0" && line.contains("all connections ended"), "reason {reason}:\n{console}");
    Ok(format!("32 times 100 kB in {}; {line}", times.lines().last().unwrap_or_default()))
}
