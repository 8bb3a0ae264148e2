//! dom0's root file system: busybox, the Xen toolstack, the libraries and kernel modules that they need. And that of the
//! Linux guest, with which ours are compared.
//!
//! Two archives, which the kernel unpacks one over the other: a base that is built once for a suite, and a small
//! overlay with the lab's own scripts, written anew at each boot.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{BufWriter, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use cpio::newc::{Builder, trailer};
use flate2::Compression;
use flate2::write::GzEncoder;
use object::{Object, ObjectSection};

use crate::suite::Suite;

/// Programs of the toolstack, from `usr/lib/xen-VERSION/bin`.
const XEN_PROGRAMS: [&str; 10] = [
    "xl",
    "xenstored",
    "oxenstored",
    "xenconsoled",
    "xenconsole",
    "xen-init-dom0",
    "libxl-save-helper",
    "lsevtchn",
    "xenstore-control",
    // With it comes libxenvchan.
    "vchan-socket-proxy",
];

/// Programs from elsewhere, by their name in `usr/bin`, `usr/sbin` or `sbin`.
const PROGRAMS: [&str; 13] = [
    "xenstore-read",
    "xenstore-write",
    "xenstore-rm",
    "xenstore-ls",
    "xenstore-list",
    "xenstore-watch",
    "xenstore-exists",
    "xenstore-chmod",
    "dropbear",
    "iperf3",
    "openssl",
    // Not by its own name, which is one of busybox's.
    "mkfs.ext4",
    "e2fsck",
];

/// iproute2's programs, of which each release has some elsewhere. They are put in `/usr/bin`, and are called by that path:
/// busybox's shell takes its own ones of these names, whatever `$PATH` says.
const NETWORK_PROGRAMS: [&str; 2] = ["ip", "tc"];

/// Kernel modules in dom0, in the order in which they are loaded; what they depend on is added.
const MODULES: [&str; 21] = [
    "xen-blkback",
    // After this one dom0 goes on with one processor.
    "xen-blkfront",
    "xen-evtchn",
    "xen-privcmd",
    "xenfs",
    "xen-gntdev",
    "xen-gntalloc",
    "loop",
    "brd",
    "bridge",
    "8021q",
    "xen-netback",
    "xen-netfront",
    "e1000",
    "nvme",
    "tun",
    "veth",
    "sch_netem",
    "sch_tbf",
    // ext4 asks for it by the name of what it does, which no list of dependencies tells.
    "crc32c_generic",
    "ext4",
];

/// Kernel modules in the Linux guest that stands beside ours.
const GUEST_MODULES: [&str; 4] = ["xen-blkfront", "xen-netfront", "crc32c_generic", "ext4"];

/// Kernel modules in the Linux router: connections, translation, and what its rules name. `inet` is a family of its own, which
/// loads these by aliases.
const ROUTER_MODULES: [&str; 14] = [
    "xen-netfront",
    // libcrc32c asks for it by the name of what it does.
    "crc32c_generic",
    "nf_tables",
    "nf_conntrack",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "nf_nat",
    "nft_chain_nat",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_reject_inet",
    "nft_limit",
];

/// Kernel modules in the Linux guest with cryptsetup. The kernel asks for ciphers by the names of what they do.
const CRYPTSETUP_MODULES: [&str; 6] =
    ["xen-blkfront", "xts", "aesni-intel", "algif_skcipher", "algif_hash", "dm-crypt"];

/// Kernel modules in the Linux guest with NSD.
const NSD_MODULES: [&str; 2] = ["xen-blkfront", "xen-netfront"];

/// Kernel modules of what mounts 9p: the client, and how it reaches a server from dom0 and from a guest.
const P9_MODULES: [&str; 5] = ["9p", "virtio_pci", "9pnet_virtio", "9pnet_xen", "xen-netfront"];

/// A cpio archive (newc, gzip) in the making.
struct Archive {
    out: GzEncoder<BufWriter<File>>,
    dirs: BTreeSet<PathBuf>,
    inode: u32,
}

impl Archive {
    fn create(path: &Path) -> Result<Archive> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Archive { out: GzEncoder::new(BufWriter::new(file), Compression::fast()), dirs: BTreeSet::new(), inode: 1 })
    }

    fn entry(&mut self, path: &Path, mode: u32, data: &[u8]) -> Result<()> {
        self.inode += 1;
        let name = path.to_str().context("path is not UTF-8")?;
        let builder = Builder::new(name).mode(mode).ino(self.inode).nlink(1);
        let mut writer = builder.write(&mut self.out, u32::try_from(data.len())?);
        writer.write_all(data)?;
        writer.finish()?;
        Ok(())
    }

    fn parents(&mut self, path: &Path) -> Result<()> {
        let parents: Vec<_> =
            path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).map(Path::to_owned).collect();
        for dir in parents.into_iter().rev() {
            self.dir(&dir)?;
        }
        Ok(())
    }

    fn dir(&mut self, path: &Path) -> Result<()> {
        if self.dirs.insert(path.to_owned()) {
            self.parents(path)?;
            self.entry(path, 0o040755, b"")?;
        }
        Ok(())
    }

    fn file(&mut self, path: impl AsRef<Path>, mode: u32, data: &[u8]) -> Result<()> {
        self.parents(path.as_ref())?;
        self.entry(path.as_ref(), 0o100000 | mode, data)
    }

    /// Kernel modules and what they depend on, named in the order in which they can be loaded.
    fn modules(&mut self, root: &Path, names: &[&str]) -> Result<()> {
        for (index, (name, data)) in modules(root, names)?.into_iter().enumerate() {
            self.file(format!("lib/modules/{index:02}-{name}.ko"), 0o644, &data)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        trailer(&mut self.out)?;
        self.out.finish()?.flush()?;
        Ok(())
    }
}

/// Writes the base archive from the unpacked packages in `root`; returns the kernel's path in it.
pub fn write_base(suite: Suite, root: &Path, output: &Path) -> Result<()> {
    let mut archive = Archive::create(output)?;
    for dir in
        ["proc", "sys", "dev", "run", "tmp", "root", "bin", "sbin", "var/log/xen/console", "var/lib/xen", "etc/xen"]
    {
        archive.dir(Path::new(dir))?;
    }
    archive.file("etc/xen/xl.conf", 0o644, b"")?;

    archive.file("bin/busybox", 0o755, &fs::read(find(root, &["bin/busybox", "usr/bin/busybox"])?)?)?;
    let mut programs: Vec<PathBuf> = Vec::new();
    let xen_bin = format!("usr/lib/xen-{}/bin", suite.xen);
    for name in XEN_PROGRAMS {
        programs.push(find(root, &[&format!("{xen_bin}/{name}")])?);
    }
    // Xen has it since 4.19.
    programs.extend(Some(root.join(&xen_bin).join("xen-9pfsd")).filter(|program| program.exists()));
    for name in PROGRAMS {
        programs.push(find(root, &[&format!("usr/bin/{name}"), &format!("usr/sbin/{name}"), &format!("sbin/{name}")])?);
    }
    for program in &programs {
        archive.file(program.strip_prefix(root)?, 0o755, &fs::read(program)?)?;
    }
    for name in NETWORK_PROGRAMS {
        let file = find(root, &["usr/bin", "usr/sbin", "bin", "sbin"].map(|folder| format!("{folder}/{name}")))?;
        archive.file(format!("usr/bin/{name}"), 0o755, &fs::read(&file)?)?;
        programs.push(file);
    }
    // oxenstored finds the hypervisor's page by its configuration, and newer ones load a part of themselves.
    archive.file("etc/xen/oxenstored.conf", 0o644, &fs::read(root.join("etc/xen/oxenstored.conf"))?)?;
    let plugin = format!("usr/lib/xen-{}/ocaml/xsd_glue/xenctrl_plugin/domain_getinfo_v1.cmxs", suite.xen);
    if root.join(&plugin).exists() {
        archive.file(&plugin, 0o755, &fs::read(root.join(&plugin))?)?;
        programs.push(root.join(&plugin));
    }
    for (library, data) in libraries(root, &programs)? {
        archive.file(library, 0o755, &data)?;
    }
    archive.modules(root, &MODULES)?;
    archive.finish()
}

/// Writes the archive of the Linux guest, to which its task is to be added as `job`.
pub fn write_guest(root: &Path, output: &Path) -> Result<()> {
    let mut archive = Archive::create(output)?;
    for dir in ["proc", "sys", "dev", "tmp", "root", "mnt", "bin", "sbin"] {
        archive.dir(Path::new(dir))?;
    }
    archive.file("init", 0o755, include_bytes!("../scripts/guest-init.sh"))?;
    archive.file("bin/busybox", 0o755, &fs::read(find(root, &["bin/busybox", "usr/bin/busybox"])?)?)?;
    let programs = ["usr/bin/iperf3", "usr/bin/openssl", "usr/sbin/nginx"].map(|name| root.join(name));
    for program in &programs {
        let data = fs::read(program).with_context(|| program.display().to_string())?;
        archive.file(program.strip_prefix(root)?, 0o755, &data)?;
    }
    for (library, data) in libraries(root, &programs)? {
        archive.file(library, 0o755, &data)?;
    }
    archive.modules(root, &GUEST_MODULES)?;
    archive.finish()
}

/// Writes the archive of the Linux router, which has `nft` and no servers: small, for its memory is compared.
pub fn write_router(root: &Path, output: &Path) -> Result<()> {
    write_special(root, output, "nft", &ROUTER_MODULES)
}

/// Writes the archive of the Linux guest with cryptsetup.
pub fn write_cryptsetup(root: &Path, output: &Path) -> Result<()> {
    write_special(root, output, "cryptsetup", &CRYPTSETUP_MODULES)
}

/// Writes the file system of the Linux guest with NSD.
pub fn write_nsd(root: &Path, output: &Path) -> Result<()> {
    write_special(root, output, "nsd", &NSD_MODULES)
}

/// Writes the archive of the Linux guest with 9p, which is busybox.
pub fn write_p9(root: &Path, output: &Path) -> Result<()> {
    special_archive(root, output, &P9_MODULES)?.finish()
}

/// An archive with busybox and one program more.
fn write_special(root: &Path, output: &Path, program: &str, modules: &[&str]) -> Result<()> {
    let mut archive = special_archive(root, output, modules)?;
    let file = find(root, &[format!("usr/sbin/{program}"), format!("sbin/{program}")])?;
    archive.file(format!("usr/sbin/{program}"), 0o755, &fs::read(&file)?)?;
    for (library, data) in libraries(root, &[file])? {
        archive.file(library, 0o755, &data)?;
    }
    archive.finish()
}

/// An archive with busybox, kernel modules, and no other program yet.
fn special_archive(root: &Path, output: &Path, modules: &[&str]) -> Result<Archive> {
    let mut archive = Archive::create(output)?;
    for dir in ["proc", "sys", "dev", "run", "tmp", "root", "mnt", "bin", "sbin"] {
        archive.dir(Path::new(dir))?;
    }
    archive.file("init", 0o755, include_bytes!("../scripts/guest-init.sh"))?;
    archive.file("bin/busybox", 0o755, &fs::read(find(root, &["bin/busybox", "usr/bin/busybox"])?)?)?;
    archive.modules(root, modules)?;
    Ok(archive)
}

/// The device model, by its path in the archive that [`write_device_model`] makes.
pub(crate) const DEVICE_MODEL: &str = "usr/libexec/xen-qemu-system-i386";

/// Writes the archive of the device model (Xen's QEMU) and its libraries, and of what HVM guests start with. It is not in
/// dom0's base, which every boot unpacks.
pub fn write_device_model(suite: Suite, root: &Path, output: &Path) -> Result<()> {
    let mut archive = Archive::create(output)?;
    for firmware in [&format!("usr/lib/xen-{}/boot/hvmloader", suite.xen), "usr/share/seabios/bios-256k.bin"] {
        archive.file(firmware, 0o644, &fs::read(find(root, &[firmware])?)?)?;
    }
    let program = find(root, &[DEVICE_MODEL])?;
    archive.file(DEVICE_MODEL, 0o755, &fs::read(&program)?)?;
    for (library, data) in libraries(root, &[program])? {
        archive.file(library, 0o755, &data)?;
    }
    archive.finish()
}

/// Writes the overlay: the lab's scripts with the values of this boot.
pub fn write_overlay(suite: Suite, values: &[(&str, &str)], output: &Path) -> Result<()> {
    let mut archive = Archive::create(output)?;
    let xen_bin = format!("/usr/lib/xen-{}/bin", suite.xen);
    let scripts = [
        ("init", include_str!("../scripts/init.sh")),
        ("bin/lab-agent", include_str!("../scripts/agent.sh")),
        ("etc/xen/scripts/block", include_str!("../scripts/block.sh")),
        ("etc/xen/scripts/vif-bridge", include_str!("../scripts/vif-bridge.sh")),
    ];
    for (path, text) in scripts {
        let mut text = text.replace("@XEN_BIN@", &xen_bin);
        for (key, value) in values {
            text = text.replace(&format!("@{key}@"), value);
        }
        ensure!(!text.contains("@XEN_BIN@"), "{path}: a placeholder was left");
        archive.file(path, 0o755, text.as_bytes())?;
    }
    archive.finish()
}

pub(crate) fn find<S: AsRef<str>>(root: &Path, candidates: &[S]) -> Result<PathBuf> {
    let names = || candidates.iter().map(AsRef::as_ref);
    match names().map(|name| root.join(name)).find(|path| path.exists()) {
        Some(path) => Ok(path),
        None => bail!("the downloaded packages do not hold {}", names().collect::<Vec<_>>().join(" or ")),
    }
}

/// The shared libraries that `programs` need, and the dynamic linker, by their path in the archive.
fn libraries(root: &Path, programs: &[PathBuf]) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let dirs = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
    let mut found = BTreeMap::new();
    let mut queue: VecDeque<Vec<u8>> = VecDeque::new();
    for program in programs {
        queue.push_back(fs::read(program)?);
    }
    let linker =
        find(root, &["lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"])?;
    found.insert(PathBuf::from("lib64/ld-linux-x86-64.so.2"), fs::read(linker)?);
    // iperf3 loads it when a thread ends, without naming it.
    let mut extra = vec!["libgcc_s.so.1".to_owned()];
    while let Some(elf) = queue.pop_front() {
        for name in needed(&elf)?.into_iter().chain(extra.drain(..)) {
            if name.starts_with("ld-linux") {
                continue;
            }
            let path = Path::new("usr/lib/x86_64-linux-gnu").join(&name);
            if found.contains_key(&path) {
                continue;
            }
            let candidates: Vec<_> = dirs.iter().map(|dir| format!("{dir}/{name}")).collect();
            let file = find(root, &candidates)?;
            let data = fs::read(&file).with_context(|| file.display().to_string())?;
            queue.push_back(data.clone());
            found.insert(path, data);
        }
    }
    Ok(found)
}

/// The `DT_NEEDED` names of an ELF file.
fn needed(elf: &[u8]) -> Result<Vec<String>> {
    use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
    let file = ElfFile64::<object::Endianness>::parse(elf)?;
    let endian = file.endian();
    let sections = file.elf_section_table();
    let mut names = Vec::new();
    for segment in file.elf_header().program_headers(endian, elf)? {
        let Some(entries) = segment.dynamic(endian, elf)? else { continue };
        let (strings, _) = sections
            .dynamic(endian, elf)?
            .map(|(_, index)| Ok::<_, object::Error>((sections.strings(endian, elf, index)?, index)))
            .transpose()?
            .context("a dynamic segment without a string table")?;
        for entry in entries.iter().filter(|entry| entry.tag(endian) == object::elf::DT_NEEDED) {
            names.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
        }
    }
    Ok(names)
}

/// The modules of these names and what they depend on, in an order that they can be loaded in.
fn modules(root: &Path, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    for base in ["lib/modules", "usr/lib/modules"] {
        collect_modules(&root.join(base), &mut files)?;
    }
    let mut loaded = Vec::new();
    let mut done = BTreeSet::new();
    for name in names {
        add_module(&name.replace('-', "_"), &files, &mut done, &mut loaded)?;
    }
    Ok(loaded)
}

fn add_module(
    name: &str,
    files: &BTreeMap<String, Option<PathBuf>>,
    done: &mut BTreeSet<String>,
    loaded: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    if !done.insert(name.to_owned()) {
        return Ok(());
    }
    let path = files.get(name).with_context(|| format!("the kernel package holds no module {name}"))?;
    let Some(path) = path else { return Ok(()) };
    let mut data = fs::read(path)?;
    if path.extension().is_some_and(|ext| ext == "xz") {
        let mut plain = Vec::new();
        lzma_rs::xz_decompress(&mut Cursor::new(&data), &mut plain)
            .map_err(|error| anyhow::anyhow!("{}: {error:?}", path.display()))?;
        data = plain;
    }
    for dependency in module_dependencies(&data)? {
        add_module(&dependency, files, done, loaded)?;
    }
    loaded.push((name.to_owned(), data));
    Ok(())
}

fn module_dependencies(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let info = file.section_by_name(".modinfo").context("a kernel module without .modinfo")?.data()?;
    let depends = info.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(depends.unwrap_or_default()).replace('-', "_");
    Ok(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// Files of modules by name; none of those that are in the kernel itself.
fn collect_modules(dir: &Path, files: &mut BTreeMap<String, Option<PathBuf>>) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() && !path.is_symlink() {
            collect_modules(&path, files)?;
        } else if name == "modules.builtin" {
            for line in fs::read_to_string(&path)?.lines() {
                let file = line.rsplit_once('/').map_or(line, |(_, file)| file);
                let stem = file.split_once(".ko").map_or(file, |(stem, _)| stem);
                files.entry(stem.replace('-', "_")).or_insert(None);
            }
        } else if let Some((stem, _)) = name.split_once(".ko") {
            files.insert(stem.replace('-', "_"), Some(path));
        }
    }
    Ok(())
}

/// Unpacks the hypervisor: QEMU's multiboot loader wants it plain.
pub fn gunzip(input: &Path, output: &Path) -> Result<()> {
    let mut data = Vec::new();
    flate2::read::GzDecoder::new(File::open(input)?).read_to_end(&mut data)?;
    fs::write(output, data)?;
    Ok(())
}
