//! HVM guests: the same images, started by QEMU and by GRUB, beside emulated devices.

use std::fs::File;

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use super::{net, web};
use xen_lab::Dom0;
use xen_lab::domain::{Builder, Domain, from_disk, guest};

/// For the one Xen whose device model the lab has.
pub const AT_LENGTH: [(&str, Check); 3] = [
    ("hvm: kernel= starts hello", kernel),
    ("hvm: a panic is on the serial port", serial),
    ("hvm: web is saved and restored", restore),
];

/// Only where `--only` asks for it.
pub const BY_NAME: [(&str, Check); 1] = [("hvm: PCI functions, and what is unplugged", pci)];

fn with_lines<'a>(builder: Builder<'a>, lines: &[String]) -> Builder<'a> {
    lines.iter().fold(builder, |builder, line| builder.line(line))
}

/// What is said of a guest that fails: its own console is often empty then.
fn explain(f: &Fixture, name: &str) -> String {
    let command = format!("tail -n 5 /var/log/xen/qemu-dm-{name}.log; xl dmesg | grep '^(d' | tail -n 12");
    f.lab.run(&command).unwrap_or_default()
}

fn wait(f: &Fixture, domain: &Domain<'_>, text: &str) -> Result<String> {
    domain.wait_for(text, 60).with_context(|| explain(f, &domain.name))
}

fn kernel(f: &Fixture) -> Result<String> {
    let hello = guest(&f.lab, f.guest("hello")?, "hvm").command_line("exit=never name=hvm");
    let hello = with_lines(hello, &f.lab.hvm()?).create()?;
    let banner = wait(f, &hello, "us since start")?;
    let said = ["Hello, hvm\n", &format!("domain        d{}\n", hello.id), "command line  exit=never name=hvm\n"];
    for text in said {
        ensure!(banner.contains(text), "no {text:?} in:\n{banner}");
    }
    let memory = banner.lines().find(|line| line.contains("memory")).unwrap_or_default().trim().to_owned();
    f.lab.run("xl shutdown -w hvm")?;
    let (_, reason, console) = hello.wait_end(30)?;
    ensure!(reason == "0", "reason {reason}:\n{console}");
    Ok(memory)
}

fn pci(f: &Fixture) -> Result<String> {
    let list = |name: &str, further: &[&str]| {
        // One for each: QEMU locks an image until it has ended, which is after its domain.
        f.lab.run(&format!("head -c 1048576 /dev/zero >/tmp/{name}.disk"))?;
        let probe = with_lines(guest(&f.lab, f.guest("probe")?, name).command_line("test=pci"), &f.lab.hvm()?)
            .line(&format!("disk = ['format=raw,vdev=hda,access=rw,target=/tmp/{name}.disk']"))
            .line("vif = ['bridge=xenbr0']");
        let probe = further.iter().fold(probe, |probe, line| probe.line(line)).create()?;
        probe.wait_passed(60).with_context(|| explain(f, name))
    };
    let card = "10ec:8139 class 020000";
    let with = list("plain", &["xen_platform_pci = 0"])?;
    ensure!(with.contains("started by Multiboot\n") && with.contains(card), "{with}");
    let without = list("unplugged", &[])?;
    let platform = without.lines().skip_while(|line| !line.contains("5853:0001 class ff8000, interrupt "));
    let bars: Vec<_> = platform.skip(1).take_while(|line| line.starts_with("  BAR")).collect();
    ensure!(
        bars.len() == 2 && bars[1].ends_with("size 0x1000000"),
        "the platform device has other addresses:\n{without}"
    );
    ensure!(!without.contains(card), "the network card is still there:\n{without}");
    let count = without.lines().filter(|line| line.starts_with("0000:")).count();
    Ok(format!("{count} functions, without the network card"))
}

fn serial(f: &Fixture) -> Result<String> {
    let probe = with_lines(guest(&f.lab, f.guest("probe")?, "serial").command_line("test=panic"), &f.lab.hvm()?);
    let probe = probe.line("serial = 'file:/tmp/hvm.serial'").create()?;
    let (_, reason, _) = probe.wait_end(60).with_context(|| explain(f, "serial"))?;
    let text = f.lab.run("cat /tmp/hvm.serial")?;
    ensure!(
        reason == "3" && text.contains("a panic on purpose\r\n") && text.contains("    #0 0x"),
        "reason {reason}:\n{text}"
    );
    Ok(String::new())
}

/// Fetches what `web` serves, and compares it.
fn fetch(f: &Fixture, web: &Domain<'_>, address: &str) -> Result<()> {
    let got = f.lab.run(&format!(
        "tries=50; until ping -c 1 -W 1 {address} >/dev/null; do tries=$((tries - 1)); [ $tries -gt 0 ] || break; done
         wget -q -O /tmp/got http://{address}/bytes"
    ));
    got.with_context(|| web.console().unwrap_or_default())?;
    net::check_bytes(f)
}

/// Disks and networks are served by Linux's drivers, not by the emulated devices.
fn connected(f: &Fixture, web: &Domain<'_>, disk: u32) -> Result<()> {
    for path in [format!("vbd/{}/{disk}", web.id), format!("vif/{}/0", web.id)] {
        let state = f.lab.run(&format!("xenstore-read /local/domain/0/backend/{path}/state"))?;
        ensure!(state.trim() == "4", "{path} is in state {}", state.trim());
    }
    Ok(())
}

fn restore(f: &Fixture) -> Result<String> {
    let site = web::put_site(f)?.replace("vdev=xvda,access=ro", "vdev=hda,access=rw");
    let web = with_lines(guest(&f.lab, f.guest("web")?, "hvmsaved").command_line("ip=10.0.2.84/24"), &f.lab.hvm()?);
    let web = web.line(&site).line(net::VIF).create()?;
    wait(f, &web, "web: ready")?;
    connected(f, &web, 768)?;
    fetch(f, &web, "10.0.2.84")?;
    let save = "timeout 100 xl save hvmsaved /tmp/saved.img >/tmp/save.log 2>&1 && xl restore -e /tmp/saved.img >>/tmp/save.log 2>&1";
    f.lab
        .run(&format!("{save} || {{ cat /tmp/save.log; exit 1; }}; rm /tmp/saved.img"))
        .with_context(|| explain(f, "hvmsaved"))?;
    let web = web.with_id(f.lab.run("xl domid hvmsaved")?.trim().parse()?);
    fetch(f, &web, "10.0.2.84")?;
    connected(f, &web, 768)?;
    f.lab.run("xl shutdown -w hvmsaved")?;
    let (_, reason, console) = web.wait_end(30)?;
    ensure!(reason == "0", "reason {reason}:\n{console}");
    Ok(String::new())
}

/// One disk is everything: GRUB, the image and the site, in an ext4 file system. GRUB reads it as an emulated disk, and the
/// guest by its own driver, after the emulated one is gone.
#[allow(dead_code, reason = "GRUB had not read the image after 280 s on a busy host; not seen to pass yet")]
fn grub(f: &Fixture) -> Result<String> {
    web::put_site(f)?;
    f.lab.run("rm -rf /tmp/grub && mkdir -p /tmp/grub/boot/grub && tar -xf /tmp/site.tar -C /tmp/grub")?;
    let image = &f.guest("web")?.image;
    f.lab.put("/tmp/grub/boot/web", Box::new(File::open(image).with_context(|| image.display().to_string())?))?;
    f.lab.run(
        "printf 'serial\\nterminal_output serial\\necho reading web\\nmultiboot2 /boot/web ip=10.0.2.85/24\\necho starting\\nboot\\n' \
           >/tmp/grub/boot/grub/grub.cfg
         mkfs.ext4 -q -d /tmp/grub /tmp/grub.disk 48M 2>&1 && rm -rf /tmp/grub",
    )?;
    f.lab.put_grub("/tmp/grub.disk")?;
    let web = with_lines(from_disk(&f.lab, "hvmgrub"), &f.lab.hvm()?)
        .line("boot = 'c'")
        .line("serial = 'file:/tmp/grub.serial'")
        .line("disk = ['format=raw,vdev=hda,access=rw,target=/tmp/grub.disk']")
        .line(net::VIF)
        .create()?;
    // SeaBIOS reads the image's sectors from an emulated IDE disk, word by word.
    let said = || f.lab.run("cat /tmp/grub.serial").unwrap_or_default();
    web.wait_for("web: ready", 280).with_context(|| format!("{}\nGRUB: {}", explain(f, "hvmgrub"), said()))?;
    connected(f, &web, 768)?;
    fetch(f, &web, "10.0.2.85")?;
    // The daemon that `xl create` leaves behind starts it again; here the check is it.
    f.lab.run("xl reboot hvmgrub")?;
    let (_, reason, console) = web.wait_end(30)?;
    ensure!(reason == "1" && console.contains("ext4"), "reason {reason}:\n{console}");
    f.lab.run("xl destroy hvmgrub; rm /tmp/grub.disk /tmp/grub.serial")?;
    Ok(String::new())
}
