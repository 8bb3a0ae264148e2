//! What a boot needs, in the cache: downloaded and built once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::apt::{self, Apt};
use crate::paths::cache;
use crate::qemu::Qemu;
use crate::{Suite, initramfs, suite};

/// Bump when what [`prepare`] makes from the packages changes.
const IMAGE_REVISION: &str = "20";

/// Hypervisor, kernel, dom0's base file system and the Linux guest's, and the device model, of one suite.
pub(crate) struct Images {
    pub xen: PathBuf,
    pub kernel: PathBuf,
    pub base: PathBuf,
    pub guest: PathBuf,
    pub device_model: PathBuf,
}

pub(crate) fn home(suite: Suite) -> Result<PathBuf> {
    Ok(cache()?.join("lab").join(suite.codename))
}

/// Whether the suite's images are there, so that a boot needs no network.
pub fn is_prepared(suite: Suite) -> Result<bool> {
    let stamp = home(suite)?.join("images/revision");
    Ok(fs::read_to_string(stamp).is_ok_and(|found| found == IMAGE_REVISION))
}

/// Downloads and builds what a boot of `suite` needs; at once where it is there already.
pub fn prepare(suite: Suite) -> Result<Qemu> {
    let (home, lock) = locked_home(suite)?;
    if !is_prepared(suite)? {
        build_images(suite, &home, &home.join("images"))?;
    }
    drop(lock);
    Qemu::find()
}

/// The suite's folder in the cache, and what keeps others from downloading into it.
pub(crate) fn locked_home(suite: Suite) -> Result<(PathBuf, File)> {
    let home = home(suite)?;
    fs::create_dir_all(&home)
        .with_context(|| format!("cannot create {} for downloads (SARAB_CACHE names another place)", home.display()))?;
    let lock = File::create(home.join("lock")).with_context(|| format!("cannot write to {}", home.display()))?;
    lock.lock().context("cannot lock the lab's cache")?;
    Ok((home, lock))
}

/// The folder with Xen's public headers (`xen/io/ring.h` and others), downloaded where it is not there yet. The tests
/// compare with what they say.
pub fn headers() -> Result<PathBuf> {
    let (home, _lock) = locked_home(suite::DEFAULT)?;
    let folder = home.join("headers");
    if !folder.exists() {
        let files =
            Apt::new(suite::DEFAULT.codename, home.clone())?.download("Xen's headers", &["libxen-dev".to_owned()])?;
        let is_it =
            |file: &&PathBuf| file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"libxen-dev_"));
        let own: Vec<_> = files.iter().filter(is_it).cloned().collect();
        let partial = Partial::new(home.join("headers.tmp"))?;
        apt::unpack("Xen's headers", &own, partial.path())?;
        fs::rename(partial.path(), &folder).context("cannot keep the headers")?;
    }
    Ok(folder.join("usr/include"))
}

/// A Linux guest that few want: Debian's kernel, and a file system for it. It is downloaded and built where it is wanted, so
/// that nobody else's grows. The kernel is one with its modules, whichever the other images have.
pub(crate) struct Special {
    /// Of the folder in the cache, and of the archive.
    name: &'static str,
    /// For people.
    what: &'static str,
    /// Bump when what is made from the packages changes.
    revision: &'static str,
    /// What it has besides kernel and busybox.
    package: &'static str,
    write: fn(&Path, &Path) -> Result<()>,
}

/// What makes a router of Linux.
pub(crate) const ROUTER: Special = Special {
    name: "router",
    what: "the Linux router",
    revision: "2",
    package: "nftables",
    write: initramfs::write_router,
};

/// What encrypts disks.
pub(crate) const CRYPTSETUP: Special = Special {
    name: "cryptsetup",
    what: "the Linux guest with cryptsetup",
    revision: "1",
    package: "cryptsetup-bin",
    write: initramfs::write_cryptsetup,
};

/// What serves zones.
pub(crate) const NSD: Special = Special {
    name: "nsd",
    what: "the Linux guest with NSD",
    revision: "1",
    package: "nsd",
    write: initramfs::write_nsd,
};

/// What mounts 9p, over virtio in dom0 and over Xen in a guest.
pub(crate) const P9: Special = Special {
    name: "p9",
    what: "the Linux guest with 9p",
    revision: "1",
    package: "busybox-static",
    write: initramfs::write_p9,
};

/// Kernel and archive of a special Linux guest.
pub(crate) fn special(suite: Suite, special: &Special) -> Result<(PathBuf, PathBuf)> {
    let Special { name, what, revision, package, write } = special;
    let (home, _lock) = locked_home(suite)?;
    let folder = home.join(name);
    let archive = format!("{name}.cpio.gz");
    let is_there = fs::read_to_string(folder.join("revision")).is_ok_and(|found| found == *revision);
    if !is_there {
        let packages = ["linux-image-amd64", "busybox-static", package].map(str::to_owned);
        let files = Apt::new(suite.codename, home.clone())?.download(what, &packages)?;
        let root = Partial::new(home.join(format!("{name}-root.tmp")))?;
        let partial = Partial::new(home.join(format!("{name}.tmp")))?;
        apt::unpack(what, &files, root.path())?;
        fs::copy(kernel(root.path())?, partial.path().join("vmlinuz"))?;
        write(root.path(), &partial.path().join(&archive))?;
        fs::write(partial.path().join("revision"), revision)?;
        let _ = fs::remove_dir_all(&folder);
        fs::rename(partial.path(), &folder).with_context(|| format!("cannot keep {what}"))?;
    }
    Ok((folder.join("vmlinuz"), folder.join(archive)))
}

/// The kernel among unpacked packages.
fn kernel(root: &Path) -> Result<PathBuf> {
    fs::read_dir(root.join("boot"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
        .context("the kernel package holds no vmlinuz")
}

pub(crate) fn images(suite: Suite) -> Result<Images> {
    let dir = home(suite)?.join("images");
    Ok(Images {
        xen: dir.join("xen"),
        kernel: dir.join("vmlinuz"),
        base: dir.join("base.cpio.gz"),
        guest: dir.join("guest.cpio.gz"),
        device_model: dir.join("device-model.cpio.gz"),
    })
}

fn build_images(suite: Suite, home: &Path, dir: &Path) -> Result<()> {
    let files = Apt::new(suite.codename, home.to_owned())?.download(&suite.to_string(), &suite.packages())?;
    // Both folders are named .tmp until they are whole: an interrupted run leaves nothing that looks finished.
    let root = Partial::new(home.join("root.tmp"))?;
    let partial = Partial::new(home.join("images.tmp"))?;
    let (root, partial) = (root.path(), partial.path());
    apt::unpack(&suite.to_string(), &files, root)?;
    initramfs::gunzip(&root.join(format!("boot/xen-{}-amd64.gz", suite.xen)), &partial.join("xen"))?;
    fs::copy(kernel(root)?, partial.join("vmlinuz"))?;
    initramfs::write_base(suite, root, &partial.join("base.cpio.gz"))?;
    initramfs::write_guest(root, &partial.join("guest.cpio.gz"))?;
    if suite.has_device_model() {
        initramfs::write_device_model(suite, root, &partial.join("device-model.cpio.gz"))?;
    }
    fs::write(partial.join("revision"), IMAGE_REVISION)?;
    let _ = fs::remove_dir_all(dir);
    fs::rename(partial, dir).context("cannot keep the lab's images")
}

/// A folder that goes away unless it is renamed to what it is to be.
pub(crate) struct Partial(PathBuf);

impl Partial {
    pub fn new(path: PathBuf) -> Result<Partial> {
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Partial(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
