//! Archives beside what GNU tar makes of them, file by file and byte by byte.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use sarab_site::fuzzing::{self, Memory};
use sarab_site::{OpenError, ReadError, Site, SparseProblem, Warning};
use xen_blkif::BlockDevice;
use xen_blkif::ramdisk::RamDisk;
use xen_sim::Domain;

use support::{MEMORY, content, on, read, record, with_bytes};

/// What marks an archive's end.
const END: [u8; 1024] = [0; 1024];

/// Runs GNU tar in a folder, and returns its output.
fn tar(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("tar").arg("-C").arg(folder).args(arguments).output().expect("tar");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Unpacks an archive as far as GNU tar can, and returns what it says.
fn unpack(folder: &Path, bytes: &[u8]) -> String {
    let mut command = Command::new("tar");
    command.args(["-xf", "-", "-C"]).arg(folder).env("LC_ALL", "C").stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("tar");
    // It does not read on behind an end mark.
    let _ = child.stdin.take().expect("a pipe").write_all(bytes);
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr).into_owned()
}

/// A file's bytes and time under a path of an unpacked archive, where that never leads out of it.
fn unpacked(folder: &Path, path: &str) -> Option<(Vec<u8>, i64)> {
    let mut place = folder.to_owned();
    for part in Path::new(path) {
        place = place.join(part).canonicalize().ok().filter(|place| place.starts_with(folder))?;
    }
    place = Some(place).filter(|place| place.is_file())?;
    Some((fs::read(&place).unwrap(), place.metadata().unwrap().mtime()))
}

/// All paths in a folder, those through links as well.
fn paths(folder: &Path, path: &str, depth: u32, all: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(folder.join(path)) else { return };
    for name in entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
        let name = if path.is_empty() { name } else { format!("{path}/{name}") };
        if depth > 0 {
            paths(folder, &name, depth - 1, all);
        }
        all.insert(name);
    }
}

/// Compares what is served of an archive with what GNU tar unpacks, under its paths and some more. Returns the warnings.
fn same_as_tar(bytes: Vec<u8>, more: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let told = unpack(&root, &bytes);
    let mut all: BTreeSet<String> = more.iter().map(|path| (*path).to_owned()).collect();
    paths(&root, "", 8, &mut all);
    on(bytes, async move |disk| {
        let site = Site::new(disk, MEMORY).await.unwrap();
        let warnings: Vec<_> = site.warnings().0.iter().map(ToString::to_string).collect();
        for path in all {
            let expected = unpacked(&root, &path);
            let found = read(&site, &path).await.unwrap();
            let same = found.as_ref() == expected.as_ref().map(|(bytes, _)| bytes);
            let lens = (found.map(|bytes| bytes.len()), expected.as_ref().map(|(bytes, _)| bytes.len()));
            assert!(same, "{path}: {lens:?}: {warnings:?}, and tar: {told}");
            if let Some((_, time)) = expected {
                assert_eq!(site.open(&path).await.unwrap().unwrap().modified(), time, "{path}");
            }
        }
        warnings
    })
}

fn file(name: &str, bytes: &str) -> Vec<u8> {
    with_bytes(name.as_bytes(), b'0', bytes.as_bytes())
}

/// A header with a link, of this size.
fn link(name: &str, kind: u8, target: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o755);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn properties(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let records: String = records.iter().map(|(key, value)| record(key, value)).collect();
    with_bytes(b"properties", kind, records.as_bytes())
}

/// Each of these is unpacked by GNU tar, and the file behind it as well.
#[test]
fn archives_by_hand() {
    let symbolic = |name: &str, target: &str| link(name, b'2', target, 0);
    let hard = |name: &str, target: &str| link(name, b'1', target, 0);
    let folder = |name: &str| link(name, b'5', "", 0);
    let long = "c".repeat(70_000);
    let whole = [file("v2/page", "old"), symbolic("latest", "v2")].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        ([file("f", "old"), hard("h", "f"), file("f", "new")].concat(), ""),
        ([file("f", "old"), hard("h", "f"), hard("f", "h"), file("h", "new")].concat(), ""),
        ([file("f", "old"), hard("f", "f"), hard("h", "a/../f"), hard("i", "../f"), hard("j", "/f")].concat(), ""),
        ([file("a/x", "x"), symbolic("a/l", "x"), hard("h", "a/l"), file("x", "y"), hard("a/i", "h")].concat(), ""),
        ([file("a/x", "x"), symbolic("l", "a"), hard("h", "l/x")].concat(), ""),
        (link("d/", b'5', "", 600), ""),
        (link("d/", b'0', "", 0), ""),
        ([file("f", "f"), link("h", b'1', "f", 4), link("l", b'2', "f", 4)].concat(), ""),
        (with_bytes(b"d/", b'D', b"Yf\0"), ""),
        (with_bytes(b"label", b'V', b""), ""),
        ([properties(b'x', &[("comment", &long), ("path", "right-name")]), file("wrong-name", "pax")].concat(), ""),
        ([with_bytes(b"x", b'x', b"99 path=evil\nxxxxxxx"), file("f", "abc")].concat(), "malformed extended header"),
        (
            [
                with_bytes(b"x", b'x', format!("{}zz bad\n{}", record("path", "p"), record("path", "q")).as_bytes()),
                file("f", "abc"),
            ]
            .concat(),
            "malformed extended header",
        ),
        ([properties(b'x', &[("size", "-1"), ("path", "p")]), file("f", "abc")].concat(), "malformed extended header"),
        (with_bytes(b"f", b'Q', b"abc"), "unknown file type 'Q' of \"f\": served as a normal file"),
        (with_bytes(b"f", b'M', b"abc"), "\"f\" is continued from another volume"),
        ([file("f", "old"), link("f", b'6', "", 0)].concat(), "\"f\" is a device or a FIFO"),
        // Links to folders.
        ([whole.clone(), symbolic("v1", "./latest/../latest"), symbolic("p", "v1/page")].concat(), ""),
        (
            [file("a/b/c/f", "f"), symbolic("l", "a/b"), symbolic("m", "l/../b/c/"), symbolic("a/n", "../m/f")]
                .concat(),
            "",
        ),
        ([file("a/f", "f"), symbolic("l", "a/f/"), symbolic("m", "a/f/x"), symbolic("n", "a/f/..")].concat(), ""),
        // What is put through them, or in the place of folders.
        ([whole.clone(), file("latest/page", "new"), file("latest/sub/page", "more")].concat(), ""),
        ([whole.clone(), folder("latest/"), file("latest/page", "new")].concat(), ""),
        (
            [file("v2/page", "old"), symbolic("a/l", "../v2"), file("a/l/page", "new")].concat(),
            "\"a/l/page\" goes through",
        ),
        ([symbolic("l", "nowhere"), file("l/page", "new"), file("l", "x")].concat(), "\"l/page\" goes through"),
        ([file("a", "old"), folder("a/"), file("a/page", "new")].concat(), ""),
        ([file("a", "old"), file("a/page", "new")].concat(), "\"a/page\" goes through"),
        ([folder("a/"), file("a", "new")].concat(), ""),
        ([file("a/b", "old"), file("a", "new")].concat(), "\"a\" goes through"),
        ([file("a/b", "old"), symbolic("a", "c"), file("c/d", "d")].concat(), "\"a\" goes through"),
        ([hard("h", "later"), file("later", "x")].concat(), "hard link \"h\": \"later\" is not in the archive"),
        ([file("d/f", "x"), hard("h", "d")].concat(), "hard link \"h\": \"d\" is not in the archive"),
        // Properties.
        ([properties(b'x', &[("path", "one")]), properties(b'x', &[("mtime", "5")]), file("f", "abc")].concat(), ""),
        ([with_bytes(b"", b'L', b"long\0"), properties(b'x', &[("path", "pax")]), file("f", "abc")].concat(), ""),
        ([properties(b'x', &[("path", "pax")]), with_bytes(b"", b'L', b"long\0"), file("f", "abc")].concat(), ""),
        ([properties(b'X', &[("path", "sun")]), file("f", "abc")].concat(), ""),
        (
            [
                properties(b'g', &[("mtime", "7"), ("comment", "c")]),
                file("f", "abc"),
                properties(b'x', &[("mtime", "-9.5")]),
                file("g", "abc"),
                properties(b'g', &[("mtime", "8")]),
                file("h", "abc"),
            ]
            .concat(),
            "",
        ),
        ([properties(b'g', &[("path", "all"), ("size", "2")]), file("f", "abc")].concat(), ""),
        ([file("a/../f", "abc"), file("\u{fc}", "u")].concat(), "leads out of the archive"),
        (link("l", b'2', "", 0), "leads out of the archive"),
    ];
    for (bytes, warning) in cases {
        let bytes = [bytes, file("zz", "zz"), END.to_vec()].concat();
        let warnings = same_as_tar(bytes, &["zz", "f", "f/x", "latest/sub/page"]);
        assert_eq!(warnings.len(), usize::from(!warning.is_empty()), "{warning:?}: {warnings:?}");
        assert!(warnings.iter().all(|found| found.contains(warning)), "{warning:?}: {warnings:?}");
    }
}

/// `cat` does not join archives, and a lone block of zeroes ends one.
#[test]
fn what_is_behind_an_end_mark() {
    for zeroes in [512, 1024, 9 << 10] {
        let bytes = [file("a", "a"), vec![0; zeroes], file("b", "b"), END.to_vec()].concat();
        let warnings = same_as_tar(bytes, &["a", "b"]);
        assert_eq!(warnings, ["end mark at byte 1024, and headers behind it: not served; join archives with tar -A"]);
    }
}

/// A file with data at these places, and holes between them.
fn sparse_file(path: &Path, parts: &[(u64, usize)], size: u64) {
    let mut file = fs::File::create(path).unwrap();
    for (index, (at, len)) in parts.iter().enumerate() {
        file.seek(SeekFrom::Start(*at)).unwrap();
        file.write_all(&content(*len, index + 1)).unwrap();
    }
    file.set_len(size).unwrap();
}

const SPARSE: [&[&str]; 5] = [
    &["-S", "--format=gnu"],
    &["-S", "--format=oldgnu"],
    &["-S", "--format=posix", "--sparse-version=0.0"],
    &["-S", "--format=posix", "--sparse-version=0.1"],
    &["-S", "--format=posix", "--sparse-version=1.0"],
];

/// Whole, and in parts from everywhere; with few parts, with more than a header holds, and with none.
#[test]
fn sparse_files() {
    let folder = tempfile::tempdir().unwrap();
    let many: Vec<_> = (0..120).map(|index| (index * 40_000, 4096)).collect();
    sparse_file(&folder.path().join("many"), &many, 5_000_000);
    sparse_file(&folder.path().join("few"), &[(100_000, 5000)], 105_000);
    sparse_file(&folder.path().join("begin"), &[(0, 1000)], 700_000);
    sparse_file(&folder.path().join("none"), &[], 300_000);
    let long = format!("{}/sparse", "long".repeat(40));
    fs::create_dir(folder.path().join("long".repeat(40))).unwrap();
    sparse_file(&folder.path().join(&long), &many[..5], 500_000);
    fs::hard_link(folder.path().join("few"), folder.path().join("hard")).unwrap();
    fs::write(folder.path().join("zz"), "zz").unwrap();
    for options in SPARSE {
        let arguments = [options, &["-cf", "-", "many", "few", "begin", "none", "hard", &long, "zz"]].concat();
        let bytes = tar(folder.path(), &arguments);
        assert!(bytes.len() < 1_500_000, "it has holes: {}", bytes.len());
        assert_eq!(same_as_tar(bytes.clone(), &["zz"]), [""; 0], "{options:?}");
        let expected = fs::read(folder.path().join("many")).unwrap();
        on(bytes, async move |disk| {
            let site = Site::new(disk, MEMORY).await.unwrap();
            let mut file = site.open("many").await.unwrap().unwrap();
            for at in
                (0..5_000_000).step_by(99_991).chain((0..5_000_000).rev().step_by(333_337)).chain([39_999, 40_000])
            {
                let mut bytes = [1; 5000];
                let mut done = 0;
                while done < bytes.len().min(expected.len() - at) {
                    done += file.read((at + done) as u64, &mut bytes[done..]).await.unwrap();
                }
                assert!(bytes[..done] == expected[at..at + done], "{options:?} from {at}");
                file.pause();
            }
            assert_eq!(file.read(5_000_000, &mut [0]).await.unwrap(), 0);
        });
    }
}

/// A map that lies leaves its file out, and hides an older one of the same name. The next file is there.
#[test]
fn maps_that_lie() {
    let sparse = |records: &[(&str, &str)], bytes: &str| {
        [properties(b'x', &[records, &[("GNU.sparse.name", "s")]].concat()), file("other", bytes)].concat()
    };
    let one = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "100")];
    let map = |map: &str| format!("{map}{}data", "\0".repeat(512 - map.len()));
    let old = |parts: &[(u64, u64)], extended: bool, size: u64, real: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[0] = b's';
        header.set_entry_type(tar::EntryType::new(b'S'));
        header.set_size(size);
        for (index, (offset, len)) in parts.iter().enumerate() {
            let slot = &mut header.as_mut_bytes()[386 + 24 * index..][..24];
            slot.copy_from_slice(format!("{offset:011o}\0{len:011o}\0").as_bytes());
        }
        header.as_mut_bytes()[482] = extended.into();
        header.as_mut_bytes()[483..483 + real.len()].copy_from_slice(real);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(512 + size.next_multiple_of(512) as usize, b'x');
        bytes
    };
    let size = [("GNU.sparse.size", "100")];
    let cases: Vec<(Vec<u8>, SparseProblem)> = vec![
        (sparse(&[("GNU.sparse.map", "0,4")], "data"), SparseProblem::Malformed),
        (sparse(&[size[0], ("GNU.sparse.map", "0,4,,")], "data"), SparseProblem::Malformed),
        (sparse(&[size[0], ("GNU.sparse.map", "0")], "data"), SparseProblem::Malformed),
        (sparse(&[size[0], ("GNU.sparse.map", "0,5")], "data"), SparseProblem::Malformed),
        (sparse(&[size[0], ("GNU.sparse.map", "97,4")], "data"), SparseProblem::Malformed),
        (sparse(&[size[0], ("GNU.sparse.map", "10,2,11,2")], "data"), SparseProblem::Malformed),
        (sparse(&[size[0], ("GNU.sparse.map", "18446744073709551615,4")], "data"), SparseProblem::Malformed),
        (sparse(&[size[0], ("GNU.sparse.map", "99999999999999999999999,4")], "data"), SparseProblem::Malformed),
        (sparse(&[size[0], ("GNU.sparse.offset", "1")], "data"), SparseProblem::Malformed),
        (sparse(&[size[0], ("GNU.sparse.numbytes", "1")], "data"), SparseProblem::Malformed),
        (sparse(&[size[0], ("GNU.sparse.offset", "1"), ("GNU.sparse.offset", "1")], "data"), SparseProblem::Malformed),
        (sparse(&[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")], "data"), SparseProblem::Version),
        (sparse(&one, "data"), SparseProblem::Malformed),
        (sparse(&one, ""), SparseProblem::Malformed),
        (sparse(&one, &map("2\n0\n4\n")), SparseProblem::Malformed),
        (sparse(&one, &map("1\n0\n5\n")), SparseProblem::Malformed),
        (sparse(&one, &map("1\n0\n-4\n")), SparseProblem::Malformed),
        (sparse(&one, &map("99999999999999999999\n0\n4\n")), SparseProblem::Malformed),
        (old(&[(0, 4)], false, 4, b"\0"), SparseProblem::Malformed),
        (old(&[(0, 8)], false, 4, b"00000000144\0"), SparseProblem::Malformed),
        (old(&[(0, 4)], false, 4, b"9"), SparseProblem::Malformed),
        (old(&[(4, 4), (0, 4)], false, 1024, b"00000000144\0"), SparseProblem::Malformed),
        // Parts that begin in the same block, as nobody stores them.
        (old(&[(0, 4), (4, 4)], false, 8, b"00000000144\0"), SparseProblem::Malformed),
        (sparse(&[size[0], ("GNU.sparse.map", "0,0,".repeat(70_000).trim_end_matches(','))], ""), SparseProblem::Parts),
    ];
    for (case, (bytes, problem)) in cases.into_iter().enumerate() {
        let bytes = [file("s", "older"), bytes, file("zz", "zz"), END.to_vec()].concat();
        on(bytes, async move |disk| {
            let site = Site::new(disk, MEMORY).await.unwrap();
            assert_eq!(site.warnings().0, [Warning::Sparse { name: "s".into(), problem }], "{case}");
            assert!(site.open("s").await.unwrap().is_none());
            assert_eq!(read(&site, "zz").await.unwrap().unwrap(), b"zz");
        });
    }
    let good = [old(&[(0, 4), (50, 4)], false, 516, b"00000000066\0"), file("zz", "zz"), END.to_vec()].concat();
    assert_eq!(same_as_tar(good, &["s", "zz"]), [""; 0]);
    // Another map than that which was checked.
    let bytes = [sparse(&[size[0], ("GNU.sparse.map", "0,4,50,0")], "data"), END.to_vec()].concat();
    on(bytes.clone(), async move |disk: RamDisk<Domain>| {
        let site = Site::new(disk.clone(), MEMORY).await.unwrap();
        let mut file = site.open("s").await.unwrap().unwrap();
        let text = bytes.windows(3).position(|text| text == b"50,").unwrap();
        let mut changed = bytes[..1024].to_vec();
        changed[text] = b'x';
        disk.write_bytes(0, &changed).await.unwrap();
        assert!(matches!(file.read(60, &mut [0]).await, Err(ReadError::Changed)));
        assert!(site.open("s").await.unwrap().is_none());
    });
}

/// An archive that has to be worked out in memory, and does not fit there, is refused as a whole: parts of it could be other
/// bytes than those that unpacking would leave.
#[test]
fn what_there_is_no_memory_to_work_out() {
    let mut bytes = [file("v2/page", "old"), link("latest", b'2', "v2", 0), file("latest/page", "new")].concat();
    for index in 0..200 {
        bytes.extend(file(&format!("files/{index}"), "x"));
    }
    bytes.extend(END);
    on(bytes, async |disk| {
        let Err(OpenError::Memory { memory }) = Site::new(disk.clone(), 20 << 10).await else { panic!("too large") };
        assert_eq!(memory, 20 << 10);
        assert_eq!(read(&Site::new(disk, 60 << 10).await.unwrap(), "v2/page").await.unwrap().unwrap(), b"new");
    });
}

/// What has no place in a full index hides what had its name before.
#[test]
fn a_full_index_has_no_older_files() {
    let mut bytes: Vec<u8> = (0..1100).flat_map(|index| file(&format!("{index}"), "old")).collect();
    bytes.extend((0..1100).flat_map(|index| file(&format!("{index}"), "new")));
    bytes.extend(END);
    on(bytes, async |disk| {
        let site = Site::new(disk, 17 << 10).await.unwrap();
        assert!(
            matches!(site.warnings().0, [Warning::TooMany { indexed: 1024, left_out: 152, .. }]),
            "{:?}",
            site.warnings()
        );
        for index in 0..1100 {
            let found = read(&site, &index.to_string()).await.unwrap();
            assert_eq!(found, (index < 1024).then(|| b"new".to_vec()), "{index}");
        }
    });
}

/// Links that never end do not end a request either.
#[test]
fn links_in_circles() {
    let mut bytes = file("end", "end");
    for index in 0..50 {
        let target = if index == 0 { "end".into() } else { format!("l{}", index - 1) };
        bytes.extend(link(&format!("l{index}"), b'2', &target, 0));
    }
    bytes.extend(link("a", b'2', "b/x", 0));
    bytes.extend(link("b", b'2', "a/x", 0));
    bytes.extend(link("c", b'2', "./c/c", 0));
    bytes.extend(END);
    let disk = Memory::new(bytes.clone());
    fuzzing::end_of(async {
        let site = Site::new(&disk, MEMORY).await.unwrap();
        disk.reads();
        for name in ["a", "b/y", "c", "l49"] {
            assert!(site.open(name).await.unwrap().is_none(), "{name}");
            assert!(disk.reads() <= 41, "{name}");
        }
    });
    assert_eq!(same_as_tar(bytes, &["a", "b", "c", "a/x", "c/c"]), [""; 0]);
}

/// Something in a folder that is packed.
#[derive(Clone, Debug)]
enum Thing {
    File(usize),
    Sparse(Vec<u64>),
    SymbolicLink(String),
    HardLink(String),
}

fn names() -> impl Strategy<Value = String> {
    let part = prop_oneof![4 => "[abc]", 1 => "[a-z\u{e4}\u{4e2d}]{1,20}", 1 => "x{90,120}"];
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn things() -> impl Strategy<Value = Thing> {
    prop_oneof![
        4 => (0..3000_usize).prop_map(Thing::File),
        1 => prop::collection::btree_set(0..40_u64, 0..8).prop_map(|parts| Thing::Sparse(parts.into_iter().collect())),
        2 => prop_oneof![names(), names().prop_map(|name| format!("../{name}"))].prop_map(Thing::SymbolicLink),
        1 => names().prop_map(Thing::HardLink),
    ]
}

/// Makes it where that can be made.
fn make(root: &Path, name: &str, thing: &Thing) -> std::io::Result<()> {
    let path = root.join(name);
    // Nothing through links: they lead anywhere.
    let mut above = root.to_owned();
    for part in Path::new(name).parent().into_iter().flatten() {
        above.push(part);
        if above.is_symlink() {
            return Ok(());
        }
    }
    fs::create_dir_all(path.parent().unwrap())?;
    let _ = fs::remove_file(&path);
    match thing {
        Thing::File(len) => fs::write(&path, content(*len, name.len())),
        Thing::Sparse(parts) if !path.exists() => {
            let parts: Vec<_> = parts.iter().map(|part| (part * 8192, 4096)).collect();
            sparse_file(&path, &parts, 400_000);
            Ok(())
        }
        Thing::Sparse(_) => Ok(()),
        Thing::SymbolicLink(target) => symlink(target, &path),
        Thing::HardLink(target) => fs::hard_link(root.join(target), &path),
    }
}

/// Whether nothing takes the place of these names. GNU tar makes links that lead upwards at the very end, in the place of
/// empty files. A file that has taken such a file's place, and its inode's number, is replaced by the link.
fn stay<'a, I: Iterator<Item = &'a String>>(names: impl Iterator<Item = &'a String>, all: impl Fn() -> I) -> bool {
    let mut names = names;
    names.all(|name| all().filter(|other| *other == name || other.starts_with(&format!("{name}/"))).count() == 1)
}

/// A member of an archive by hand: its kind, its name and its link.
fn members() -> impl Strategy<Value = Vec<(u8, String, String)>> {
    let name = prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"));
    let target = prop_oneof![
        3 => name.clone(),
        1 => name.clone().prop_map(|name| format!("../{name}")),
        1 => name.clone().prop_map(|name| format!("a/../{name}")),
        1 => Just("..".to_owned()),
        1 => Just(".".to_owned()),
    ];
    let kind = prop_oneof![4 => Just(b'0'), 3 => Just(b'2'), 2 => Just(b'1'), 2 => Just(b'5')];
    prop::collection::vec((kind, name, target), 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// What tar packs of any folder, then adds to it, then joins with another archive.
    #[test]
    fn folders_that_tar_packs(
        format in prop::sample::select(vec!["gnu", "oldgnu", "posix", "ustar", "v7"]),
        first in prop::collection::vec((names(), things()), 1..10),
        second in prop::collection::vec((names(), things()), 1..5),
        third in prop::collection::vec((names(), things()), 1..5),
        version in prop::sample::select(vec!["0.0", "0.1", "1.0"]),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (root, other) = (folder.path().join("root"), folder.path().join("other"));
        let (archive, joined) = (folder.path().join("a.tar"), folder.path().join("b.tar"));
        let sparse = format!("--sparse-version={version}");
        let format = format!("--format={format}");
        let pack = |root: &Path, way: &str, archive: &Path| {
            let mut command = Command::new("tar");
            command.arg(&format).arg(way).arg(archive).arg("-C").arg(root).stderr(Stdio::null());
            if format == "--format=posix" {
                command.arg(&sparse);
            }
            if !matches!(&format[..], "--format=ustar" | "--format=v7") {
                command.arg("-S");
            }
            // What has too long a name for the format is left out.
            command.arg(".").status().unwrap();
        };
        let all = || [&first, &second, &third].into_iter().flatten();
        let upwards = all().filter(|(_, thing)| matches!(thing, Thing::SymbolicLink(target) if target.starts_with("..")));
        prop_assume!(stay(upwards.map(|(name, _)| name), || all().map(|(name, _)| name)));
        for (root, things, way, archive) in
            [(&root, &first, "-cf", &archive), (&root, &second, "-rf", &archive), (&other, &third, "-cf", &joined)]
        {
            fs::create_dir_all(root).unwrap();
            for (name, thing) in things {
                let _ = make(root, name, thing);
            }
            pack(root, way, archive);
        }
        let status = Command::new("tar").arg("-Af").arg(&archive).arg(&joined).status().unwrap();
        prop_assert!(status.success());
        same_as_tar(fs::read(&archive).unwrap(), &["a", "b", "c", "a/a", "a/b"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    /// Whatever is put through links, in the place of folders, or behind files: what GNU tar leaves is what is served.
    #[test]
    fn members_in_any_order(members in members()) {
        let upwards = members.iter().filter(|(kind, _, target)| *kind == b'2' && target.contains(".."));
        let links = || members.iter().filter(|(kind, ..)| matches!(kind, b'1' | b'2')).map(|(_, link, _)| link);
        let through = |name: &str| links().any(|link| name.starts_with(&format!("{link}/")));
        prop_assume!(upwards.clone().next().is_none() || !members.iter().any(|(_, name, _)| through(name)));
        prop_assume!(stay(upwards.map(|(_, name, _)| name), || members.iter().map(|(_, name, _)| name)));
        let mut bytes = Vec::new();
        for (index, (kind, name, target)) in members.iter().enumerate() {
            bytes.extend(match kind {
                b'0' => file(name, &format!("{index}")),
                b'5' => link(&format!("{name}/"), b'5', "", 0),
                kind => link(name, *kind, target, 0),
            });
        }
        bytes.extend(END);
        let letters = ["a", "b", "c"];
        let two: Vec<_> = letters.iter().flat_map(|first| letters.map(|second| format!("{first}/{second}"))).collect();
        let three: Vec<_> = two.iter().flat_map(|first| letters.map(|third| format!("{first}/{third}"))).collect();
        let all: Vec<&str> = letters.into_iter().chain(two.iter().chain(&three).map(String::as_str)).collect();
        same_as_tar(bytes, &all);
    }
}
