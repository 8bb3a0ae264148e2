//! Archives and file systems that others have made, on simulated disks.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use proptest::prelude::*;
use sarab_site::{Format, OpenError, ReadError, Site, Warning};
use xen_blkif::faulty::{Ask, Faulty};
use xen_blkif::ramdisk::RamDisk;
use xen_blkif::{BlockDevice, Error};
use xen_sim::{Domain, Xen};

/// A disk with these bytes.
async fn disk(domain: &Domain, bytes: &[u8]) -> RamDisk<Domain> {
    let disk = RamDisk::new(domain.clone(), bytes.len().div_ceil(512) as u64).unwrap();
    let mut padded = bytes.to_vec();
    padded.resize(padded.len().next_multiple_of(512), 0);
    disk.write_bytes(0, &padded).await.unwrap();
    disk
}

/// Runs a test on a disk with these bytes.
fn on<T: 'static>(bytes: Vec<u8>, test: impl AsyncFnOnce(RamDisk<Domain>) -> T + 'static) -> T {
    let xen = Xen::new(1);
    let domain = xen.domain();
    let result = xen.run(async move { test(disk(&domain, &bytes).await).await });
    xen.end();
    result
}

async fn read<D: BlockDevice>(site: &Site<D>, path: &str) -> Result<Option<Vec<u8>>, ReadError> {
    let Some(mut file) = site.open(path).await? else { return Ok(None) };
    let mut bytes = vec![0; file.size() as usize];
    let mut at = 0;
    while at < bytes.len() {
        // Also parts that end in the middle of blocks.
        let end = bytes.len().min(at + 10_007);
        let len = file.read(at as u64, &mut bytes[at..end]).await?;
        assert!(len > 0);
        at += len;
    }
    assert_eq!(file.read(at as u64, &mut [0]).await?, 0);
    Ok(Some(bytes))
}

fn content(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed) as u8).collect()
}

fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    build(&mut builder);
    builder.into_inner().unwrap()
}

fn add(builder: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    builder.append_data(&mut header, name, bytes).unwrap();
}

fn add_link(builder: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, target: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    builder.append_link(&mut header, name, target).unwrap();
}

#[test]
fn files_of_an_archive() {
    let long = format!("{}/file.txt", "folder".repeat(30));
    let bytes = archive(|builder| {
        add(builder, "./index.html", b"<p>old");
        add(builder, "a/large", &content(70_000, 1));
        add(builder, "empty", b"");
        add(builder, &long, b"long");
        add_link(builder, tar::EntryType::Symlink, "a/link", "../index.html");
        add_link(builder, tar::EntryType::Link, "hard", "a/large");
        add_link(builder, tar::EntryType::Symlink, "out", "../../etc/passwd");
        add_link(builder, tar::EntryType::Symlink, "round", "round");
        builder.append_pax_extensions([("path", &b"p\xc3\xa4x"[..]), ("mtime", b"12.5")]).unwrap();
        add(builder, "other", b"pax");
        add(builder, "index.html", b"<p>new");
    });
    on(bytes, async move |disk| {
        let site = Site::new(disk).await.unwrap();
        assert_eq!(site.format(), Format::Tar { files: 8 });
        for (path, expected) in [
            ("index.html", b"<p>new".to_vec()),
            ("/a/../index.html", vec![]),
            ("a//large", content(70_000, 1)),
            ("hard", content(70_000, 1)),
            ("empty", vec![]),
            (&long, b"long".to_vec()),
            ("a/link", b"<p>new".to_vec()),
            ("päx", b"pax".to_vec()),
        ] {
            let found = read(&site, path).await.unwrap();
            assert_eq!(found.is_none(), path.contains(".."), "{path}");
            assert!(found.is_none_or(|found| found == expected), "{path}");
        }
        for path in ["a", "other", "nothing", "", "out", "round", "a/large/x"] {
            assert!(read(&site, path).await.unwrap().is_none(), "{path}");
        }
        assert_eq!(site.open("index.html").await.unwrap().unwrap().modified(), 1_700_000_000);
        assert_eq!(site.open("päx").await.unwrap().unwrap().modified(), 12);
        let (warnings, count) = site.warnings();
        assert!(matches!(warnings, [Warning::Name { name, .. }] if name == "out") && count == 1, "{warnings:?}");
    });
}

#[test]
fn what_tar_writes_in_each_of_its_forms() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("sub/deep")).unwrap();
    for index in 0..50_usize {
        std::fs::write(folder.path().join(format!("sub/deep/{index}")), content(index * 100, index)).unwrap();
    }
    for format in ["v7", "ustar", "gnu", "pax"] {
        let mut command = Command::new("tar");
        command.arg(format!("--format={format}")).args(["-cf", "-", "-C"]).arg(folder.path()).arg(".");
        let output = command.output().expect("tar");
        assert!(output.status.success());
        on(output.stdout, async move |disk| {
            let site = Site::new(disk).await.unwrap();
            assert_eq!(site.format(), Format::Tar { files: 50 });
            for index in 0..50_usize {
                let found = read(&site, &format!("sub/deep/{index}")).await.unwrap();
                assert!(found.unwrap() == content(index * 100, index), "{format} {index}");
            }
            assert_eq!(site.warnings().1, 0);
        });
    }
}

#[test]
fn what_is_not_whole_is_told_and_the_rest_served() {
    let bytes = archive(|builder| {
        add(builder, "first", &content(3000, 1));
        add(builder, "second", &content(30_000, 2));
    });
    // In the middle of the second file, and before the end mark.
    let short = bytes[..20_000 / 512 * 512].to_vec();
    on(short, async |disk| {
        let site = Site::new(disk).await.unwrap();
        assert!(read(&site, "first").await.unwrap().unwrap() == content(3000, 1));
        assert!(read(&site, "second").await.unwrap().is_none());
        let text = site.warnings().0[0].to_string();
        assert_eq!(
            text,
            "\"second\" ends at byte 34096, and the disk at 19968: left out; was the archive copied whole?"
        );
    });
    let mut broken = bytes.clone();
    broken[512 + 3072 + 100] ^= 1;
    on(broken, async |disk| {
        let site = Site::new(disk).await.unwrap();
        assert!(read(&site, "first").await.unwrap().is_some());
        assert_eq!(site.warnings().0, [Warning::NoHeader { at: 3584 }]);
    });
    let whole = bytes.len() - 1024;
    on(bytes[..whole].to_vec(), async |disk| {
        let site = Site::new(disk).await.unwrap();
        assert!(read(&site, "second").await.unwrap().unwrap() == content(30_000, 2));
        assert!(matches!(site.warnings().0, [Warning::NoEnd { .. }]), "{:?}", site.warnings());
    });
}

#[test]
fn what_is_no_site() {
    on(vec![0; 512], async |disk| assert!(matches!(Site::new(disk).await, Err(OpenError::Empty))));
    on(vec![], async |disk| assert!(matches!(Site::new(disk).await, Err(OpenError::Empty))));
    on(content(5000, 1), async |disk| assert!(matches!(Site::new(disk).await, Err(OpenError::Unknown))));
    on(content(512, 1), async |disk| assert!(matches!(Site::new(disk).await, Err(OpenError::Unknown))));
    let mut ext4 = vec![0; 100_000];
    ext4[1080..1082].copy_from_slice(&[0x53, 0xef]);
    on(ext4, async |disk| {
        let Err(OpenError::Ext4(why)) = Site::new(disk).await else { panic!("it is none") };
        assert!(!why.is_empty());
    });
}

#[test]
fn a_disk_that_fails() {
    let bytes = archive(|builder| {
        add(builder, "good", &content(9000, 1));
        add(builder, "bad", &content(90_000, 2));
        add(builder, "also good", &content(9000, 3));
    });
    on(bytes, async |disk| {
        let failing = Faulty::new(disk, async |ask| match ask {
            Ask::Read(sector, count) if (sector..sector + count).contains(&100) => {
                Err(Error::Failed { operation: "read", sector: 100 })
            }
            _ => Ok(()),
        });
        let site = Site::new(failing).await.unwrap();
        assert!(read(&site, "good").await.unwrap().unwrap() == content(9000, 1));
        assert!(matches!(read(&site, "bad").await, Err(ReadError::Disk(Error::Failed { .. }))));
        assert!(read(&site, "also good").await.unwrap().unwrap() == content(9000, 3));
    });
}

/// Larger pieces are fewer requests, and a small file is one small request.
#[test]
fn files_are_read_in_pieces_up_to_their_end() {
    let bytes = archive(|builder| {
        add(builder, "small", &content(1000, 1));
        add(builder, "large", &content(300_000, 2));
        add(builder, "behind", &content(100_000, 3));
    });
    on(bytes, async |disk| {
        let asked = Rc::new(RefCell::new(Vec::new()));
        for (pieces, sectors, requests) in [(1, 8, 74), (10_000, 16, 37), (16 << 10, 32, 19), (64 << 10, 128, 5)] {
            let counted = Faulty::new(disk.clone(), async |ask| {
                if let Ask::Read(_, count) = ask {
                    asked.borrow_mut().push(count);
                }
                Ok(())
            });
            let site = Site::new(counted).await.unwrap().with_pieces_of(pieces);
            asked.borrow_mut().clear();
            assert!(read(&site, "small").await.unwrap().unwrap() == content(1000, 1));
            assert_eq!(asked.take(), [8], "{pieces}");
            assert!(read(&site, "large").await.unwrap().unwrap() == content(300_000, 2));
            let asked = asked.take();
            assert!(asked.iter().all(|count| *count <= sectors), "{pieces}: {asked:?}");
            assert!((requests..=requests + 1).contains(&asked.len()), "{pieces}: {asked:?}");
        }
    });
}

/// A file system as mke2fs makes it, with a folder's files.
fn file_system(folder: &Path, options: &[&str], size: &str) -> Option<Vec<u8>> {
    let image = tempfile::NamedTempFile::new().unwrap();
    let mke2fs = ["/sbin/mke2fs", "/usr/sbin/mke2fs"].into_iter().find(|path| Path::new(path).exists())?;
    let mut command = Command::new(mke2fs);
    command.args(["-q", "-F", "-d"]).arg(folder).args(options).arg(image.path()).arg(size);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(std::fs::read(image.path()).unwrap())
}

#[test]
fn files_of_a_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = BTreeMap::new();
    for index in 0..300_usize {
        files.insert(format!("many/{index}"), content(index * 5, index));
    }
    files.insert("large".into(), content(900_000, 7));
    files.insert("index.html".into(), b"<p>".to_vec());
    std::fs::create_dir(folder.path().join("many")).unwrap();
    for (name, bytes) in &files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    std::os::unix::fs::symlink("../index.html", folder.path().join("many/link")).unwrap();
    let mut sparse = std::fs::File::create(folder.path().join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    sparse.write_all(b"begin").unwrap();
    for options in [&["-t", "ext4"][..], &["-t", "ext4", "-b", "1024"], &["-t", "ext2"]] {
        let Some(bytes) = file_system(folder.path(), options, "3M") else {
            eprintln!("left out: there is no mke2fs here (package e2fsprogs)");
            return;
        };
        let files = files.clone();
        on(bytes, async move |disk| {
            let site = Site::new(disk).await.unwrap();
            assert_eq!(site.format(), Format::Ext4);
            for (name, bytes) in &files {
                assert!(
                    read(&site, name).await.unwrap_or_else(|error| panic!("{name}: {error}")).unwrap() == *bytes,
                    "{name}"
                );
            }
            assert!(read(&site, "many/link").await.unwrap().unwrap() == b"<p>");
            // ext4-view 1.0.0 takes an ext2 file's missing indirect block for damage.
            if !options.contains(&"ext2") {
                let sparse = read(&site, "sparse").await.unwrap().unwrap();
                assert!(sparse.len() == 1 << 20 && sparse.starts_with(b"begin\0"));
                assert!(sparse[5..].iter().all(|byte| *byte == 0));
            }
            for name in ["many", "nothing", "large/x", "..", "many/../index.html"] {
                assert!(read(&site, name).await.unwrap().is_none(), "{name}");
            }
            // A part from the middle, and one before it.
            let mut file = site.open("large").await.unwrap().unwrap();
            for at in [700_000_u64, 5, 699_999] {
                let mut found = [0; 100];
                assert_eq!(file.read(at, &mut found).await.unwrap(), 100);
                assert!(found[..] == files["large"][at as usize..][..100]);
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the disk holds, something is said of it.
    #[test]
    fn any_bytes(seed in any::<u64>(), flips in prop::collection::vec((0..12_000_usize, any::<u8>()), 0..12)) {
        let mut bytes = archive(|builder| {
            builder.append_pax_extensions([("path", &b"name"[..])]).unwrap();
            add(builder, "x", &content(1000, seed as usize));
            add(builder, &"y".repeat(150), &content(3000, 2));
            add_link(builder, tar::EntryType::Symlink, "l", "x");
        });
        for (at, value) in flips {
            let len = bytes.len();
            bytes[at % len] = value;
            // With a checksum that is right, so that it is looked at.
            let block = at % len / 512 * 512;
            let header = &mut bytes[block..block + 512];
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        on(bytes, async |disk| {
            if let Ok(site) = Site::new(disk).await {
                for name in ["name", "l", "x"] {
                    let _ = read(&site, name).await;
                }
            }
        });
    }
}
