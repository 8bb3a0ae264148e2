//! Archives and file systems that others have made, on simulated disks.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use proptest::prelude::*;
use sarab_site::fuzzing::{self, Memory};
use sarab_site::{Format, OpenError, ReadError, Site, Warning};
use xen_blkif::faulty::{DeviceRequest, Faulty};
use xen_blkif::{BlockDevice, Error};
use xen_sim::Xen;

use support::{MEMORY, content, on, raw, read, record, with_bytes};

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
        let site = Site::new(disk, MEMORY).await.unwrap();
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
            let site = Site::new(disk, MEMORY).await.unwrap();
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
        let site = Site::new(disk, MEMORY).await.unwrap();
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
        let site = Site::new(disk, MEMORY).await.unwrap();
        assert!(read(&site, "first").await.unwrap().is_some());
        assert_eq!(site.warnings().0, [Warning::NoHeader { at: 3584 }]);
    });
    let whole = bytes.len() - 1024;
    on(bytes[..whole].to_vec(), async |disk| {
        let site = Site::new(disk, MEMORY).await.unwrap();
        assert!(read(&site, "second").await.unwrap().unwrap() == content(30_000, 2));
        assert!(matches!(site.warnings().0, [Warning::NoEnd { .. }]), "{:?}", site.warnings());
    });
}

#[test]
fn what_is_no_site() {
    on(vec![0; 512], async |disk| assert!(matches!(Site::new(disk, MEMORY).await, Err(OpenError::Empty))));
    on(vec![], async |disk| assert!(matches!(Site::new(disk, MEMORY).await, Err(OpenError::Empty))));
    on(content(5000, 1), async |disk| assert!(matches!(Site::new(disk, MEMORY).await, Err(OpenError::Unknown))));
    on(content(512, 1), async |disk| assert!(matches!(Site::new(disk, MEMORY).await, Err(OpenError::Unknown))));
    let mut ext4 = vec![0; 100_000];
    ext4[1080..1082].copy_from_slice(&[0x53, 0xef]);
    on(ext4, async |disk| {
        let Err(OpenError::Ext4(why)) = Site::new(disk, MEMORY).await else { panic!("it is none") };
        assert_eq!(why.to_string(), "superblock: s_blocks_per_group is 0");
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
            DeviceRequest::Read(sector, count) if (sector..sector + count).contains(&100) => {
                Err(Error::Failed { operation: "read", sector: 100 })
            }
            _ => Ok(()),
        });
        let site = Site::new(failing, MEMORY).await.unwrap();
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
                if let DeviceRequest::Read(_, count) = ask {
                    asked.borrow_mut().push(count);
                }
                Ok(())
            });
            let site = Site::new(counted, MEMORY).await.unwrap().with_pieces_of(pieces);
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
            let site = Site::new(disk, MEMORY).await.unwrap();
            assert_eq!(site.format(), Format::Ext4);
            for (name, bytes) in &files {
                assert!(
                    read(&site, name).await.unwrap_or_else(|error| panic!("{name}: {error}")).unwrap() == *bytes,
                    "{name}"
                );
            }
            assert!(read(&site, "many/link").await.unwrap().unwrap() == b"<p>");
            let sparse = read(&site, "sparse").await.unwrap().unwrap();
            assert!(sparse.len() == 1 << 20 && sparse.starts_with(b"begin\0"));
            assert!(sparse[5..].iter().all(|byte| *byte == 0));
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

/// A header of a file of no bytes.
fn header(name: &str) -> [u8; 512] {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_cksum();
    *header.as_bytes()
}

/// A device with so many files of no bytes.
fn many_files(count: u64) -> Memory {
    Memory::made(count + 2, move |sector, to| {
        for (index, to) in to.chunks_exact_mut(512).enumerate() {
            let number = sector + index as u64;
            to.copy_from_slice(&if number < count {
                header(&format!("files/of/no/bytes/{number:07}"))
            } else {
                [0; 512]
            });
        }
    })
}

/// However many files an archive has, the index takes no more than it may; and it says what has no place in it.
#[test]
fn an_archive_of_more_files_than_there_is_memory_for() {
    fuzzing::end_of(async {
        let disk = many_files(300_000);
        // It counts what this thread allocates.
        let xen = Xen::new(1);
        let before = xen.allocation();
        let site = Site::new(&disk, 1 << 20).await.unwrap();
        let (held, peak) = (xen.allocation() - before, xen.peak_allocation() - before);
        assert!(held < (1 << 20) + 1000 && peak < (1 << 20) + (40 << 10), "{held} bytes, at most {peak}");
        let (warnings, count) = site.warnings();
        let [Warning::TooMany { indexed, left_out, memory }] = warnings else { panic!("{warnings:?}") };
        assert!(*indexed > 60_000 && indexed + left_out == 300_000 && *memory == 1 << 20 && count == 1);
        let told = warnings[0].to_string();
        assert!(
            told.starts_with(&format!("{left_out} files left out")) && told.ends_with("give the domain more memory"),
            "{told}"
        );
        assert!(site.open("files/of/no/bytes/0000000").await.unwrap().is_some());
        assert!(site.open(&format!("files/of/no/bytes/{:07}", indexed - 1)).await.unwrap().is_some());
        assert!(site.open(&format!("files/of/no/bytes/{indexed:07}")).await.unwrap().is_none());
    });
}

#[test]
fn a_hundred_thousand_files_take_little_memory() {
    fuzzing::end_of(async {
        let disk = many_files(100_000);
        // It counts what this thread allocates.
        let xen = Xen::new(1);
        let before = xen.allocation();
        let site = Site::new(&disk, usize::MAX).await.unwrap();
        let (held, peak) = (xen.allocation() - before, xen.peak_allocation() - before);
        assert!(held < 1_650_000 && peak < held + (40 << 10), "{held} bytes, at most {peak}");
        assert_eq!((site.format(), site.warnings().1), (Format::Tar { files: 100_000 }, 0));
        disk.reads();
        for number in (0..100_000).step_by(9973) {
            assert!(site.open(&format!("files/of/no/bytes/{number:07}")).await.unwrap().is_some());
        }
        assert_eq!(disk.reads(), 11, "one for each");
        assert!(site.open("files/of/no/bytes/0100000").await.unwrap().is_none());
        assert_eq!(disk.reads(), 0, "what is not there is not looked for on the disk");
    });
}

/// Lengths of names and of properties, and their number, have an end; what is behind them is found all the same.
#[test]
fn what_describes_a_file() {
    let file = |name: &str| with_bytes(name.as_bytes(), b'0', name.as_bytes());
    let long = "l/".repeat(2000) + "x";
    let too_long = "t".repeat(5000);
    let attribute = record("SCHILY.xattr.user.large", &"a".repeat(300_000));
    let left_out = |name: &str| matches!(name, "a" | "b" | "c" | "d" | "e" | "f");
    type Case = (Vec<u8>, Option<&'static str>, Option<String>);
    let cases: Vec<Case> = vec![
        ([with_bytes(b"", b'L', long.as_bytes()), file("a")].concat(), None, Some(long.clone())),
        ([with_bytes(b"", b'L', too_long.as_bytes()), file("a")].concat(), Some("too long"), None),
        ([with_bytes(b"", b'x', record("path", &too_long).as_bytes()), file("a")].concat(), Some("too long"), None),
        ([with_bytes(b"", b'x', record("path", "p").as_bytes()), file("a")].concat(), None, Some("p".into())),
        // More than is of interest, before what is.
        (
            [with_bytes(b"", b'x', (attribute + &record("path", "q")).as_bytes()), file("b")].concat(),
            None,
            Some("q".into()),
        ),
        // The length of a record is none.
        (
            [with_bytes(b"", b'x', b"99999999999999999999 path=r\n"), file("s")].concat(),
            Some("malformed"),
            Some("s".into()),
        ),
        ([with_bytes(b"", b'x', b"+9 path=r\n"), file("s")].concat(), Some("malformed"), Some("s".into())),
        ([with_bytes(b"", b'x', b"3 path=r\n"), file("s")].concat(), Some("malformed"), Some("s".into())),
        ([with_bytes(b"", b'x', b"1000 path=r\n"), file("s")].concat(), Some("malformed"), Some("s".into())),
        ([with_bytes(b"", b'x', b"path=r\n"), file("s")].concat(), Some("malformed"), Some("s".into())),
        (
            [with_bytes(b"", b'x', record("size", "-1").as_bytes()), file("s")].concat(),
            Some("malformed"),
            Some("s".into()),
        ),
        ([with_bytes(b"", b'g', &[b'g'; 100_000]), file("s")].concat(), Some("malformed"), Some("s".into())),
        // A link to itself, to each other, and a long row of them.
        ([with_bytes(b"u", b'2', b"")].concat(), Some("leads out"), None),
    ];
    for (bytes, warning, found) in cases {
        let bytes = [file("first"), bytes, file("last"), vec![0; 1024]].concat();
        on(bytes, async move |disk| {
            let site = Site::new(disk, MEMORY).await.unwrap();
            let told: Vec<_> = site.warnings().0.iter().map(ToString::to_string).collect();
            assert_eq!(told.len(), usize::from(warning.is_some()), "{told:?}");
            assert!(warning.is_none_or(|warning| told[0].contains(warning)), "{told:?}");
            for name in ["first", "last"].into_iter().chain(found.as_deref()) {
                assert!(site.open(name).await.unwrap().is_some(), "{name}: {told:?}");
            }
            for name in ["a", "b", "r"] {
                assert!(site.open(name).await.unwrap().is_none() || !left_out(name), "{name}: {told:?}");
            }
        });
    }
    // What cannot be read on from ends the archive, and what cannot be read leaves out what it describes, with a word.
    for (bytes, warning) in [
        (with_bytes(b"", b'x', record("size", "18446744073709551615").as_bytes()), "no tar header at byte"),
        (with_bytes(b"", b'x', record("size", "9223372036854775807").as_bytes()), "ends at byte"),
        (raw(b"", b'x', 2 << 20), "ends at byte"),
        (with_bytes(b"", b'x', &vec![b'x'; 2 << 20]), "is too large"),
        ((0..20).flat_map(|_| with_bytes(b"", b'x', record("comment", "x").as_bytes())).collect(), "one of too many"),
    ] {
        let bytes = [file("first"), bytes, file("last"), vec![0; 1024]].concat();
        on(bytes, async move |disk| {
            let site = Site::new(disk, MEMORY).await.unwrap();
            let (warnings, count) = site.warnings();
            assert!(count == 1 && warnings[0].to_string().contains(warning), "{warnings:?}");
            assert!(site.open("first").await.unwrap().is_some() && site.open("last").await.unwrap().is_none());
        });
    }
}

/// Links that lead to links come to an end, and what leads nowhere is nothing.
#[test]
fn links_that_lead_to_links() {
    let bytes = archive(|builder| {
        add(builder, "end", b"end");
        for index in 0..20 {
            let target = if index == 0 { "end".into() } else { format!("link/{}", index - 1) };
            add_link(builder, tar::EntryType::Link, &format!("link/{index}"), &target);
        }
        add_link(builder, tar::EntryType::Symlink, "one", "two");
        add_link(builder, tar::EntryType::Symlink, "two", "one");
        add_link(builder, tar::EntryType::Symlink, "self", "./self");
        add_link(builder, tar::EntryType::Link, "hard", "hard");
    });
    on(bytes, async |disk| {
        let site = Site::new(disk, MEMORY).await.unwrap();
        for index in 0..20 {
            let found = read(&site, &format!("link/{index}")).await.unwrap();
            assert_eq!(found, Some(b"end".to_vec()), "{index}");
        }
        for name in ["one", "two", "self", "hard"] {
            assert!(read(&site, name).await.unwrap().is_none(), "{name}");
        }
    });
}

/// A name is compared on the disk: what has changed there since is not served under another's name.
#[test]
fn an_archive_that_is_changed_under_it() {
    let bytes = archive(|builder| {
        add(builder, "one", b"one");
        add(builder, "two", b"two");
    });
    on(bytes, async |disk| {
        let site = Site::new(disk.clone(), MEMORY).await.unwrap();
        let other = archive(|builder| add(builder, "other", b"other"));
        disk.write_bytes(0, &other[..1024]).await.unwrap();
        assert!(read(&site, "one").await.unwrap().is_none());
        assert_eq!(read(&site, "two").await.unwrap().unwrap(), b"two");
        disk.write_bytes(2, &[0; 512]).await.unwrap();
        assert!(read(&site, "two").await.unwrap().is_none());
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// As the fuzz target does it.
    #[test]
    fn damaged_archives(memory in any::<u8>(), flips in prop::collection::vec((0..12_000_usize, any::<u8>()), 0..12)) {
        let mut bytes = archive(|builder| {
            builder.append_pax_extensions([("path", &b"pax"[..]), ("mtime", b"5"), ("size", b"1000")]).unwrap();
            add(builder, "x", &content(1000, 1));
            add(builder, &"y".repeat(150), &content(3000, 2));
            add_link(builder, tar::EntryType::Symlink, "link", "pax");
        });
        for (at, value) in flips {
            let len = bytes.len();
            bytes[at % len] = value;
        }
        bytes.insert(0, memory);
        fuzzing::tar(&bytes);
    }

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
            if let Ok(site) = Site::new(disk, MEMORY).await {
                for name in ["name", "l", "x"] {
                    let _ = read(&site, name).await;
                }
            }
        });
    }
}
