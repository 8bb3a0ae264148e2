//! What HVM guests need in dom0: the device model's firmware and option ROMs, and GRUB for their disks.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt::{self, Apt};
use crate::images::{Partial, locked_home};
use crate::{Dom0, Lab, Suite, initramfs};

/// Bump when what [`prepare`] makes changes.
const REVISION: &str = "2";
/// Where the device model is in dom0 ([`Lab::device_model`]).
const FOLDER: &str = "/tmp/device-model";
/// The modules that GRUB starts with: it finds its configuration by them, and what that uses.
const MODULES: [&str; 6] = ["biosdisk", "echo", "ext2", "multiboot2", "normal", "serial"];
const SECTOR: usize = 512;

/// The folder with `multiboot_dma.bin`, which QEMU has the firmware run for `kernel=`, and GRUB's `boot.img` and `core.img`.
fn prepare(suite: Suite) -> Result<PathBuf> {
    let (home, _lock) = locked_home(suite)?;
    let folder = home.join("hvm");
    if fs::read_to_string(folder.join("revision")).is_ok_and(|found| found == REVISION) {
        return Ok(folder);
    }
    let what = "GRUB and QEMU's option ROMs";
    let packages = ["qemu-system-data", "grub-pc-bin", "grub-common"].map(str::to_owned);
    let files = Apt::new(suite.codename, home.clone())?.download(what, &packages)?;
    let root = Partial::new(home.join("hvm-root.tmp"))?;
    let partial = Partial::new(home.join("hvm.tmp"))?;
    let (root, to) = (root.path(), partial.path());
    apt::unpack(what, &files, root)?;
    fs::copy(root.join("usr/share/qemu/multiboot_dma.bin"), to.join("multiboot_dma.bin"))?;
    let grub = root.join("usr/lib/grub/i386-pc");
    fs::copy(grub.join("boot.img"), to.join("boot.img"))?;
    make_core(root, &grub, &to.join("core.img"))?;
    fs::write(to.join("revision"), REVISION)?;
    let _ = fs::remove_dir_all(&folder);
    fs::rename(to, &folder).with_context(|| format!("cannot keep {what}"))?;
    Ok(folder)
}

/// GRUB's own image, which reads `/boot/grub/grub.cfg` of a file system that is all of the first disk.
fn make_core(root: &Path, grub: &Path, output: &Path) -> Result<()> {
    let linker = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
    let made = Command::new(initramfs::find(root, &[linker])?)
        .arg("--library-path")
        .arg(root.join("usr/lib/x86_64-linux-gnu"))
        .arg(initramfs::find(root, &["usr/bin/grub-mkimage"])?)
        .args(["-O", "i386-pc", "-p", "(hd0)/boot/grub", "-d"])
        .args([grub, Path::new("-o"), output])
        .args(MODULES)
        .output()
        .context("cannot start grub-mkimage")?;
    ensure!(made.status.success(), "grub-mkimage: {}", String::from_utf8_lossy(&made.stderr).trim());
    Ok(())
}

/// GRUB for a disk that is a file system of so many sectors: the boot sector, and what comes behind the file system.
///
/// The boot sector knows the number of the core's first sector, at 0x5c (GRUB's `GRUB_BOOT_MACHINE_KERNEL_SECTOR`). That
/// has the list of the rest at its end, of which the last entry is the first (`struct grub_pc_bios_boot_blocklist`).
fn place(mut boot: Vec<u8>, mut core: Vec<u8>, sectors: u64) -> Result<(Vec<u8>, Vec<u8>)> {
    ensure!(boot.len() == SECTOR && core.len() > SECTOR, "GRUB's images have {} and {} bytes", boot.len(), core.len());
    boot[0x5c..0x64].copy_from_slice(&sectors.to_le_bytes());
    core[SECTOR - 12..SECTOR - 4].copy_from_slice(&(sectors + 1).to_le_bytes());
    core.resize(core.len().next_multiple_of(SECTOR), 0);
    Ok((boot, core))
}

impl Lab {
    /// Readies dom0 for HVM guests, and returns the lines of their xl files.
    ///
    /// # Errors
    ///
    /// Where the suite has no device model ([`Suite::has_device_model`]), or packages cannot be downloaded.
    pub fn hvm(&self) -> Result<Vec<String>> {
        let qemu = self.device_model()?;
        let wrapper = format!("{FOLDER}/hvm");
        if self.try_run(&format!("test -x {wrapper}"))?.0 != 0 {
            let roms = prepare(self.suite())?;
            let name = "multiboot_dma.bin";
            self.put(&format!("{FOLDER}/{name}"), Box::new(File::open(roms.join(name))?))?;
            // QEMU wants them, and makes no use of them here: a keymap, and the network card's own boot program.
            self.run(&format!(
                "mkdir -p {FOLDER}/keymaps /dev/net && touch {FOLDER}/keymaps/en-us && echo >{FOLDER}/efi-rtl8139.rom || exit 1
                 [ -c /dev/net/tun ] || mknod /dev/net/tun c 10 200
                 printf '#!/bin/sh\\nexec {qemu} -L {FOLDER} \"$@\"\\n' >{wrapper} && chmod +x {wrapper}"
            ))?;
        }
        let firmware = format!("{FOLDER}/usr/lib/xen-{}/boot/hvmloader", self.suite().xen);
        Ok(vec![
            "type = \"hvm\"".to_owned(),
            format!("device_model_override = \"{wrapper}\""),
            format!("firmware_override = \"{firmware}\""),
            format!("bios_path_override = \"{FOLDER}/usr/share/seabios/bios-256k.bin\""),
            "vga = \"none\"".to_owned(),
            "vnc = 0".to_owned(),
        ])
    }

    /// Puts GRUB on a disk image in dom0 that is a file system and nothing else, of a multiple of 512 bytes. It reads
    /// `/boot/grub/grub.cfg`, and knows `multiboot2`, `echo` and the serial port.
    ///
    /// # Errors
    ///
    /// Where packages cannot be downloaded, or dom0 cannot write the image.
    pub fn put_grub(&self, image: &str) -> Result<()> {
        let folder = prepare(self.suite())?;
        let bytes: u64 = self.run(&format!("wc -c <{image}"))?.trim().parse().context("the image's size")?;
        ensure!(bytes.is_multiple_of(SECTOR as u64), "{image} has {bytes} bytes");
        let (boot, core) =
            place(fs::read(folder.join("boot.img"))?, fs::read(folder.join("core.img"))?, bytes / SECTOR as u64)?;
        self.put("/tmp/boot.img", Box::new(Cursor::new(boot)))?;
        self.put("/tmp/core.img", Box::new(Cursor::new(core)))?;
        self.run(&format!(
            "dd if=/tmp/boot.img of={image} conv=notrunc 2>/dev/null && cat /tmp/core.img >>{image} && rm /tmp/boot.img /tmp/core.img"
        ))
        .map(drop)
    }
}
