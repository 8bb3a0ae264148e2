//! File systems as mke2fs and e2fsck make them, with many features, damaged ones, and ones that were not unmounted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use sarab_site::BlockDevice;
use sarab_site::fuzzing::{self, Memory};
use sarab_site::{Damage, Format, OpenError, ReadError, Site};

const MEMORY: usize = 1 << 20;

/// Runs a test on a disk with these bytes.
fn on<T>(bytes: Vec<u8>, test: impl AsyncFnOnce(&Memory) -> T) -> T {
    let disk = Memory::new(bytes);
    fuzzing::end_of(test(&disk))
}

async fn read<D: BlockDevice>(site: &Site<D>, path: &str) -> Result<Option<Vec<u8>>, ReadError> {
    let Some(mut file) = site.open(path).await? else { return Ok(None) };
    let mut bytes = vec![0; file.size() as usize];
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + 10_007);
        let len = file.read(at as u64, &mut bytes[at..end]).await?;
        assert!(len > 0);
        at += len;
        if at % 3 == 0 {
            file.pause();
        }
    }
    Ok(Some(bytes))
}

fn content(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed) as u8).collect()
}

/// One of e2fsprogs' programs, which may not be there.
fn program(name: &str) -> Option<PathBuf> {
    let found =
        ["/sbin", "/usr/sbin"].into_iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    if found.is_none() {
        eprintln!("left out: there is no {name} here (package e2fsprogs)");
    }
    found
}

/// Runs one of them; `done` are the statuses with which it has done its work.
fn run(program: &Path, args: &[&str], file: &Path, last: &str, done: &[i32]) -> String {
    let mut command = Command::new(program);
    command.args(args).arg(file).args(Some(last).filter(|last| !last.is_empty()));
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.code().is_some_and(|code| done.contains(&code)), "{command:?}: {text}");
    text
}

/// Files of every kind, and what they hold by the paths that lead to them.
fn fill(folder: &Path, many: usize) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut put = |name: &str, bytes: Vec<u8>| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &bytes).unwrap();
        files.insert(name.to_owned(), bytes);
    };
    for len in [0, 1, 59, 60, 61, 100, 150, 1023, 1024, 1025, 4096, 4097, 20_000] {
        put(&format!("by-length/{len}"), content(len, len));
    }
    put("file", b"a file".to_vec());
    put("dir/file", b"another".to_vec());
    put("dir/sub/deep", content(5000, 3));
    put("large", content(900_000, 7));
    put(&"n".repeat(255), b"long name".to_vec());
    for index in 0..many {
        // Most with long names, so that there are many blocks of them.
        let end = if index < 300 { String::new() } else { "-".repeat(90) };
        put(&format!("many/{index}{end}"), format!("{index}").into_bytes());
    }
    for name in [
        "many/\u{fc}ber",
        "many/\u{7d75}\u{6587}\u{5b57}",
        "many/\u{ff}\u{100}\u{17f}-a-name-of-more-than-thirty-two-bytes",
    ] {
        put(name, name.as_bytes().to_vec());
    }
    // Islands in a sea of holes: many extents.
    let mut islands = fs::File::create(folder.join("fragments")).unwrap();
    // mke2fs forgets holes at the end, where it could have put the file into the inode.
    let mut bytes = vec![0; 419 * 12_288 + 1000];
    for island in 0..420_usize {
        let at = island * 12_288;
        let own = content(1000, island);
        islands.seek(SeekFrom::Start(at as u64)).unwrap();
        islands.write_all(&own).unwrap();
        bytes[at..at + 1000].copy_from_slice(&own);
    }
    files.insert("fragments".into(), bytes);
    let sparse = fs::File::create(folder.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    files.insert("sparse".into(), vec![0; 3 << 20]);
    let mut link = |name: &str, target: &str, leads_to: &str| {
        std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
        if let Some(bytes) = files.get(leads_to).cloned() {
            files.insert(name.to_owned(), bytes);
        }
    };
    link("link", "file", "file");
    link("dir/up", "../file", "file");
    link("absolute", "/dir/sub/deep", "dir/sub/deep");
    link("above", "../../../file", "file");
    link("folder", "dir/sub", "");
    link("long-link", &format!("{}dir/sub/deep", "./".repeat(30)), "dir/sub/deep");
    link("longer-link", &format!("{}dir/sub/deep", "dir/../".repeat(100)), "dir/sub/deep");
    link("loop", "loop2", "");
    link("loop2", "loop", "");
    link("nowhere", "nothing", "");
    files.insert("folder/deep".into(), files["dir/sub/deep"].clone());
    files.insert("folder/../file".into(), b"".to_vec());
    files.remove("folder/../file");
    files
}

const MISSING: [&str; 14] = [
    "nothing",
    "dir",
    "dir/",
    "file/x",
    "loop",
    "nowhere",
    "folder",
    "many/nothing",
    "many/-1",
    "dir/sub/deep/",
    "link/x",
    "..",
    "",
    "lost+found/x",
];

/// A file for an image, in memory where there is such a place: these programs wait for the disk.
fn image_file() -> tempfile::NamedTempFile {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::NamedTempFile::new_in(memory) } else { tempfile::NamedTempFile::new() }.unwrap()
}

/// Everything is found, and nothing else.
fn check(image: &Path, files: &BTreeMap<String, Vec<u8>>, what: &str, is_indexed: bool) {
    on(fs::read(image).unwrap(), async |disk| {
        let site = Site::new(disk, MEMORY).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(site.format(), Format::Ext4);
        for (name, bytes) in files {
            disk.reads();
            let found = read(&site, name).await.unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
            assert!(found.unwrap_or_else(|| panic!("{what}: no {name}")) == *bytes, "{what}: {name}");
        }
        for name in MISSING.into_iter().chain([&*"x".repeat(256), &*format!("{}/x", "dir/".repeat(1500))]) {
            let name = name.trim_end_matches('/');
            if name == "dir/sub/deep" {
                continue;
            }
            assert!(read(&site, name).await.unwrap().is_none(), "{what}: {name}");
        }
        // What is not there is not searched for everywhere, where there is an index.
        let site = Site::new(disk, MEMORY).await.unwrap();
        disk.reads();
        assert!(site.open("many/nothing").await.unwrap().is_none());
        let reads = disk.reads();
        assert!(!is_indexed || reads < 12, "{what}: {reads} reads");
        let modified = site.open("file").await.unwrap().unwrap().modified();
        assert_eq!(modified, 1_700_000_000, "{what}");
        // Parts, in any order.
        for name in ["large", "fragments", "sparse"] {
            let mut file = site.open(name).await.unwrap().unwrap();
            for at in [700_000, 5, 699_999, 12_288, 411 * 12_288 % files[name].len(), 12_287] {
                let mut found = [0xff; 100];
                let len = file.read(at as u64, &mut found).await.unwrap();
                assert!(len > 0 && found[..len] == files[name][at..at + len], "{what}: {name} from {at}");
            }
        }
    });
}

/// Features as they were in many years, each also with the indexes that e2fsck makes.
const FEATURES: [&[&str]; 27] = [
    &["-t", "ext4"],
    &["-t", "ext4", "-b", "1024"],
    &["-t", "ext4", "-b", "2048"],
    &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"],
    &["-t", "ext4", "-O", "^64bit"],
    &["-t", "ext4", "-O", "^64bit,^metadata_csum,uninit_bg"],
    &["-t", "ext4", "-b", "1024", "-O", "^extents,^64bit"],
    &["-t", "ext4", "-O", "inline_data"],
    &["-t", "ext4", "-b", "1024", "-I", "512", "-O", "inline_data"],
    &["-t", "ext4", "-I", "128", "-O", "^metadata_csum"],
    &["-t", "ext4", "-I", "1024"],
    &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode"],
    &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,^sparse_super,^64bit,^metadata_csum"],
    &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,sparse_super2"],
    &["-t", "ext4", "-b", "1024", "-g", "1024", "-O", "^flex_bg"],
    &["-t", "ext4", "-O", "large_dir,ea_inode,metadata_csum_seed,project,quota,verity,mmp,fast_commit"],
    &["-t", "ext4", "-O", "encrypt,stable_inodes"],
    &["-t", "ext4", "-O", "casefold"],
    &["-t", "ext4", "-b", "1024", "hash_alg=tea"],
    &["-t", "ext4", "-b", "1024", "hash_alg=legacy"],
    &["-t", "ext4", "-O", "orphan_file"],
    &["-t", "ext3"],
    &["-t", "ext3", "-b", "1024", "-I", "128"],
    &["-t", "ext2"],
    &["-t", "ext2", "-b", "1024"],
    &["-t", "ext2", "-b", "1024", "-O", "^filetype,^sparse_super,^large_file,^resize_inode"],
    &["-t", "ext2", "-r", "0", "-I", "128"],
];

#[test]
fn file_systems_of_all_kinds() {
    each_of(&FEATURES, 1500, "24M");
}

#[test]
fn file_systems_of_large_blocks_and_clusters() {
    let kinds: [&[&str]; 5] = [
        &["-t", "ext4", "-b", "65536"],
        &["-t", "ext4", "-b", "65536", "-O", "^metadata_csum,inline_data"],
        &["-t", "ext4", "-O", "bigalloc", "-C", "16384"],
        &["-t", "ext4", "-O", "bigalloc,meta_bg,^resize_inode", "-C", "16384"],
        &["-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "65536"],
    ];
    each_of(&kinds, 150, "48M");
}

fn each_of(kinds: &[&[&str]], many: usize, size: &str) {
    let [Some(mke2fs), Some(e2fsck), Some(debugfs), Some(tune2fs)] =
        ["mke2fs", "e2fsck", "debugfs", "tune2fs"].map(program)
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let files = fill(folder.path(), many);
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let file = fs::File::options().write(true).open(folder.path().join("file")).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(time)).unwrap();
    let image = image_file();
    for (index, features) in kinds.iter().enumerate() {
        fs::write(image.path(), []).unwrap();
        let (hash, features): (Vec<&str>, Vec<&str>) =
            features.iter().partition(|option| option.starts_with("hash_alg"));
        let mut args = vec!["-q", "-F", "-N", "4000", "-d", folder.path().to_str().unwrap()];
        args.extend(&features);
        run(&mke2fs, &args, image.path(), size, &[0]);
        if let [hash] = hash[..] {
            run(&tune2fs, &["-E", hash], image.path(), "", &[0]);
        }
        check(image.path(), &files, &format!("{features:?}"), false);
        // Half of them with names that are hashed as unsigned bytes.
        if index % 2 == 1 {
            run(&debugfs, &["-w", "-R", "ssv flags 2"], image.path(), "", &[0]);
        }
        run(&e2fsck, &["-fyD"], image.path(), "", &[0, 1]);
        let is_indexed =
            !["casefold", "^dir_index"].iter().any(|not| features.contains(not)) && !features.contains(&"ext2");
        check(image.path(), &files, &format!("{features:?}, with indexes"), is_indexed);
    }
}

/// Names of one hash, which may go on from one block of a folder to the next.
#[test]
fn names_of_the_same_hash() {
    let [Some(mke2fs), Some(e2fsck)] = ["mke2fs", "e2fsck"].map(program) else { return };
    let mut by_hash: std::collections::HashMap<u32, usize> = std::collections::HashMap::new();
    let mut names = Vec::new();
    const SEED: [u32; 4] = [1, 2, 3, 4];
    for index in 0..1_500_000_usize {
        let name = format!("{index:x}");
        if let Some(other) = by_hash.insert(fuzzing::half_md4(name.as_bytes(), SEED), index) {
            names.extend([format!("{other:x}"), name]);
        }
    }
    assert!(names.len() > 500);
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("many")).unwrap();
    for name in &names {
        fs::write(folder.path().join("many").join(name), name).unwrap();
    }
    let image = image_file();
    let seed = "hash_seed=01000000-0200-0000-0300-000004000000";
    let folder = folder.path().to_str().unwrap();
    let args = ["-q", "-F", "-t", "ext4", "-b", "1024", "-N", "4000", "-E", seed, "-d", folder];
    run(&mke2fs, &args, image.path(), "16M", &[0]);
    run(&e2fsck, &["-fyD"], image.path(), "", &[0, 1]);
    on(fs::read(image.path()).unwrap(), async |disk| {
        let site = Site::new(disk, MEMORY).await.unwrap();
        for name in &names {
            let found = read(&site, &format!("many/{name}")).await.unwrap();
            assert_eq!(found.as_deref(), Some(name.as_bytes()), "{name}");
        }
    });
}

/// What debugfs says of an image.
fn debugfs(image: &Path, commands: &str) -> String {
    let script = tempfile::NamedTempFile::new().unwrap();
    fs::write(script.path(), commands).unwrap();
    let program = program("debugfs").unwrap();
    run(&program, &["-w", "-f", script.path().to_str().unwrap()], image, "", &[0])
}

/// Where a file's first block is.
fn first_block(image: &Path, file: &str) -> u64 {
    let told = debugfs(image, &format!("bmap {file} 0\n"));
    told.lines().find_map(|line| line.trim().parse().ok()).unwrap_or_else(|| panic!("{told}"))
}

async fn texts(disk: &Memory, paths: &[&str]) -> Vec<Option<String>> {
    let site = Site::new(disk, MEMORY).await.unwrap();
    let mut texts = Vec::new();
    for path in paths {
        let found = read(&site, path).await.unwrap();
        texts.push(found.map(|bytes| String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned()));
    }
    texts
}

/// A file system that was not unmounted is what e2fsck would make of it.
#[test]
fn what_is_in_the_journal() {
    let [Some(mke2fs), Some(e2fsck), Some(_)] = ["mke2fs", "e2fsck", "debugfs"].map(program) else { return };
    const PATHS: [&str; 7] = ["file", "new", "dir/new", "dir/sub/new", "moved/file", "rewritten", "escaped"];
    for features in [
        &["-t", "ext4", "-b", "1024"][..],
        &["-t", "ext4", "-b", "4096"],
        &["-t", "ext4", "-b", "1024", "-O", "^64bit"],
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"],
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit"],
        &["-t", "ext3", "-b", "1024"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("dir/sub")).unwrap();
        for name in ["file", "rewritten", "escaped"] {
            fs::write(folder.path().join(name), format!("{name:\n<1000}")).unwrap();
        }
        let image = image_file();
        let args = [&["-q", "-F", "-J", "size=4", "-d", folder.path().to_str().unwrap()], features].concat();
        run(&mke2fs, &args, image.path(), "12M", &[0]);
        let block_size = if features.contains(&"4096") { 4096 } else { 1024 };
        let [rewritten, escaped] = ["/rewritten", "/escaped"].map(|file| first_block(image.path(), file));
        // What becomes of it, on a copy.
        let copy = image_file();
        fs::copy(image.path(), copy.path()).unwrap();
        let text = folder.path().join("file");
        let text = text.display();
        debugfs(
            copy.path(),
            &format!(
                "rm /file\nwrite {text} new\ncd dir\nwrite {text} new\ncd sub\nwrite {text} new\ncd /\nmkdir moved\ncd moved\nwrite {text} file\n"
            ),
        );
        let (before, after) = (fs::read(image.path()).unwrap(), fs::read(copy.path()).unwrap());
        // The superblock has counts that nobody reads here, and e2fsck sets them.
        let changed: Vec<_> = (1024 / block_size as u64 + 1..before.len() as u64 / block_size as u64)
            .filter(|block| {
                let range = *block as usize * block_size..(*block as usize + 1) * block_size;
                before[range.clone()] != after[range]
            })
            .collect();
        let blocks = |list: &[u64]| list.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            path.display().to_string()
        };
        let all: Vec<_> =
            changed.iter().flat_map(|block| &after[*block as usize * block_size..][..block_size]).copied().collect();
        let mut escape = vec![b' '; block_size];
        escape[..8].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98, b'!', b'!', b'!', b'!']);
        let text_block = |text: &str| format!("{text:\n<block_size$}").into_bytes();
        let (one, two, three) =
            (file("1", &text_block("one")), file("2", &text_block("two")), file("3", &text_block("three")));
        let without = ["^metadata_csum", "ext3"];
        let open = match features.iter().any(|own| without.iter().any(|without| own.starts_with(without))) {
            true => "jo",
            false => "jo -c -v 3",
        };
        let steps = [
            format!("jw -b {} {}\n", blocks(&changed), file("all", &all)),
            format!("jw -b {escaped} {}\n", file("escape", &escape)),
            // Written, freed, and written again.
            format!("jw -b {rewritten} {one}\n"),
            format!("jw -r {rewritten}\n"),
            format!("jw -b {rewritten} {two}\n"),
            // Of what was never finished nothing is to be seen.
            format!("jw -b {rewritten} -c {three}\n"),
        ];
        let expected = |rewritten: &str| {
            let some = |text: &str| Some(text.to_owned());
            let escape = String::from_utf8_lossy(&escape[..1000]).trim_end().to_owned();
            vec![None, some("file"), some("file"), some("file"), some("file"), some(rewritten), Some(escape)]
        };
        for (count, text) in [(0, ""), (2, "rewritten"), (3, "one"), (4, "rewritten"), (5, "two"), (6, "two")] {
            let written = image_file();
            fs::copy(image.path(), written.path()).unwrap();
            if count > 0 {
                let told = debugfs(written.path(), &format!("{open}\n{}jc\n", steps[..count].concat()));
                assert!(!told.contains("rror"), "{told}");
            }
            let found = on(fs::read(written.path()).unwrap(), async |disk| texts(disk, &PATHS).await);
            if count == 0 {
                assert!(found[0].is_some() && found[1].is_none());
                continue;
            }
            assert_eq!(found, expected(text), "{features:?}, {count} transactions");
            run(&e2fsck, &["-fy"], written.path(), "", &[0, 1]);
            let again = on(fs::read(written.path()).unwrap(), async |disk| texts(disk, &PATHS).await);
            assert_eq!(again, found, "{features:?}, {count} transactions, as e2fsck makes it");
        }
    }
}

/// The parts of the images in `tests/images`.
const IMAGES: [&[u8]; 12] = [
    include_bytes!("images/blocks-of-4k"),
    include_bytes!("images/encrypted"),
    include_bytes!("images/first-revision"),
    include_bytes!("images/groups"),
    include_bytes!("images/inline"),
    include_bytes!("images/journal"),
    include_bytes!("images/journal-with-checksums"),
    include_bytes!("images/legacy-hash"),
    include_bytes!("images/maps"),
    include_bytes!("images/plain"),
    include_bytes!("images/small-inodes"),
    include_bytes!("images/wide"),
];
/// Two of them whose metadata has checksums.
const WITH_CHECKSUMS: [&[u8]; 2] = [include_bytes!("images/wide"), include_bytes!("images/journal-with-checksums")];

/// What is in each of them.
fn in_images() -> Vec<(&'static str, Vec<u8>)> {
    let mut islands = vec![0; 29 * 8192 + 9];
    for island in 0..30 {
        islands[island * 8192..][..9].fill(island as u8 + 1);
    }
    vec![
        ("file", content(40, 40)),
        ("dir/file", content(100, 100)),
        ("dir/sub/deep", content(1500, 1500)),
        ("link", content(40, 40)),
        ("long-link", content(1500, 1500)),
        ("up", content(40, 40)),
        ("absolute", content(100, 100)),
        ("many/17", content(40, 40)),
        ("many/\u{fc}ber", b"x".to_vec()),
        ("fragments", islands),
        ("sparse", vec![0; 1 << 20]),
    ]
}

#[test]
fn the_images_are_as_they_should_be() {
    for image in IMAGES {
        on(fuzzing::image(image), async |disk| {
            let site = Site::new(disk, MEMORY).await.unwrap();
            for (path, bytes) in in_images() {
                assert!(read(&site, path).await.unwrap().unwrap() == bytes, "{path}");
            }
            let large = read(&site, "large").await.unwrap().unwrap();
            assert!(large == content(3000, 3000) || large.starts_with(b"jjjj"));
            assert!(site.open("loop").await.unwrap().is_none() && site.open("many/99").await.unwrap().is_none());
        });
    }
}

/// A byte that was changed in what has a checksum is noticed: nothing else is served than what was there.
#[test]
fn damage_is_noticed() {
    for (image, step) in WITH_CHECKSUMS.into_iter().zip([11, 23]) {
        let whole = fuzzing::image(image);
        let positions = whole.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).step_by(step);
        let mut noticed = 0;
        for at in positions {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            noticed += on(bytes, async |disk| {
                let site = match Site::new(disk, MEMORY).await {
                    Ok(site) => site,
                    Err(OpenError::Ext4(_) | OpenError::Unknown | OpenError::Empty) => return 1,
                    Err(error) => panic!("{error}"),
                };
                // Nor has what a long link leads to.
                let unchecked = ["long-link", "sparse"];
                for (path, expected) in in_images().into_iter().filter(|(path, _)| !unchecked.contains(path)) {
                    match read(&site, path).await {
                        Err(ReadError::Ext4(_)) => return 1,
                        Err(error) => panic!("byte {at}, {path}: {error}"),
                        // A file's own bytes have no checksum.
                        Ok(Some(found)) if found.len() == expected.len() => {
                            let others = found.iter().zip(&expected).filter(|(one, other)| one != other).count();
                            assert!(others <= 1, "byte {at}, {path}: {others} bytes are not as they were");
                        }
                        Ok(found) => panic!("byte {at}, {path}: {:?}", found.map(|found| found.len())),
                    }
                }
                0
            });
        }
        assert!(noticed > 40, "{noticed}");
    }
}

/// Where an inode is in an image of blocks of 1 KiB and one group.
fn inode(image: &[u8], number: usize) -> usize {
    let (size, table) = (u16::from_le_bytes([image[1024 + 88], image[1024 + 89]]), &image[2048 + 8..][..4]);
    u32::from_le_bytes(table.try_into().unwrap()) as usize * 1024 + (number - 1) * usize::from(size.max(128))
}

/// What a file system says when it is opened, and when a file is looked for.
fn complaint(bytes: Vec<u8>, path: &str) -> (Option<Damage>, u32) {
    on(bytes, async |disk| {
        let site = match Site::new(disk, MEMORY).await {
            Ok(site) => site,
            Err(OpenError::Ext4(damage)) => return (Some(damage), disk.reads()),
            Err(error) => panic!("{error}"),
        };
        disk.reads();
        match read(&site, path).await {
            Err(ReadError::Ext4(damage)) => (Some(damage), disk.reads()),
            Err(error) => panic!("{error}"),
            Ok(_) => (None, disk.reads()),
        }
    })
}

/// Numbers that would take all memory, or all time, are not believed.
#[test]
fn what_somebody_has_made_to_be_endless() {
    let plain = fuzzing::image(include_bytes!("images/plain"));
    let wrong = |field, value| (Some(Damage::Superblock { field, value }), 2);
    for (at, bytes, expected) in [
        (0x18, &[31_u8, 0, 0, 0][..], wrong("s_log_block_size", 31)),
        (0x04, &[255; 4], wrong("s_blocks_count", u64::from(u32::MAX))),
        (0x20, &[0; 4], wrong("s_blocks_per_group", 0)),
        (0x28, &[255; 4], wrong("s_inodes_per_group", u64::from(u32::MAX))),
        (0x28, &[0; 4], wrong("s_inodes_per_group", 0)),
        (0x58, &[200, 0], wrong("s_inode_size", 200)),
        (0xfe, &[255, 255], wrong("s_desc_size", 65_535)),
        (0x14, &[255; 4], wrong("s_first_data_block", u64::from(u32::MAX))),
        (0x61, &[255], (Some(Damage::Features(0x1800)), 2)),
    ] {
        let mut image = plain.clone();
        image[1024 + at..][..bytes.len()].copy_from_slice(bytes);
        assert_eq!(complaint(image, "file"), expected, "byte {at:#x}");
    }
    // A folder whose blocks are told by a table of tables that is itself the only one, and a block of entries as well.
    let mut image = fuzzing::image(include_bytes!("images/maps"));
    for at in (128 * 1024..129 * 1024).step_by(4) {
        image[at..at + 4].copy_from_slice(&128_u32.to_le_bytes());
    }
    let root = inode(&image, 2);
    image[root + 4..root + 8].fill(0xff);
    image[root + 0x21] &= !0x10;
    for at in 12..15 {
        image[root + 0x28 + at * 4..][..4].copy_from_slice(&128_u32.to_le_bytes());
    }
    let (damage, reads) = complaint(image, "nothing");
    assert!(damage == Some(Damage::TooMuch) && reads < 100, "{damage:?} after {reads} reads");
    // A link that is as long as memory.
    let mut image = plain.clone();
    let link =
        (11..120).map(|number| inode(&image, number)).find(|at| image[at + 1] & 0xf0 == 0xa0 && image[at + 4] > 60);
    let link = link.unwrap();
    image[link + 4..link + 8].fill(0xff);
    let (damage, _) = complaint(image, "long-link");
    assert!(matches!(damage, Some(Damage::InodeContent(_))), "{damage:?}");
    // A file of 16 TiB in a device of a few KiB is zeroes behind its end.
    let mut image = plain.clone();
    let file = (11..120).map(|number| inode(&image, number)).find(|at| image[at + 4..at + 8] == [40, 0, 0, 0]).unwrap();
    image[file + 4..file + 8].fill(0xff);
    image[file + 0x6c..][..4].copy_from_slice(&[0xff, 3, 0, 0]);
    on(image, async |disk| {
        let site = Site::new(disk, MEMORY).await.unwrap();
        let mut file = site.open("file").await.unwrap().unwrap();
        assert_eq!(file.size(), (4 << 40) - 1);
        let mut bytes = [1; 100];
        assert_eq!(file.read(3 << 40, &mut bytes).await.unwrap(), 100);
        assert!(bytes == [0; 100] && disk.reads() < 20);
    });
}

/// Parts of the images, with some bytes changed, and some parts elsewhere.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>());
    (0..IMAGES.len(), prop::collection::vec(change, 1..20)).prop_map(|(image, changes)| {
        let mut parts = IMAGES[image].to_vec();
        for (at, value) in changes {
            let at = at.index(parts.len());
            parts[at] = value;
        }
        parts
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn damaged_file_systems(parts in damaged()) {
        fuzzing::ext4(&parts);
    }
}

/// Small images, of which the fuzz target and the tests of damage begin: `sarab-site/tests/images`. Made anew by
/// `cargo test -p sarab-site --test ext4 images -- --ignored`.
#[test]
#[ignore = "writes into the source tree"]
fn images() {
    let [Some(mke2fs), Some(e2fsck), Some(tune2fs)] = ["mke2fs", "e2fsck", "tune2fs"].map(program) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("dir/sub")).unwrap();
    fs::create_dir(path("many")).unwrap();
    for (name, len) in [("file", 40), ("large", 3000), ("dir/file", 100), ("dir/sub/deep", 1500)] {
        fs::write(path(name), content(len, len)).unwrap();
    }
    // Many names of one file, which take no inodes.
    for index in 0..60 {
        fs::hard_link(path("file"), path(&format!("many/{index}"))).unwrap();
    }
    fs::write(path("many/\u{fc}ber"), b"x").unwrap();
    fs::File::create(path("sparse")).unwrap().set_len(1 << 20).unwrap();
    let mut islands = fs::File::create(path("fragments")).unwrap();
    for island in 0..30 {
        islands.seek(SeekFrom::Start(island * 8192)).unwrap();
        islands.write_all(&[island as u8 + 1; 9]).unwrap();
    }
    for (name, target) in [
        ("link", "file"),
        ("long-link", &*format!("{}dir/sub/deep", "./".repeat(30))),
        ("loop", "loop"),
        ("up", "dir/../../file"),
        ("absolute", "/dir/file"),
    ] {
        std::os::unix::fs::symlink(target, path(name)).unwrap();
    }
    let common = ["-q", "-F", "-b", "1024", "-N", "128", "-m", "0", "-d", folder.path().to_str().unwrap()];
    for (name, features, size) in [
        ("plain", &["-t", "ext4", "-O", "^has_journal,^metadata_csum,^resize_inode"][..], "256K"),
        ("wide", &["-t", "ext4", "-O", "^has_journal,^resize_inode,metadata_csum_seed"], "256K"),
        ("inline", &["-t", "ext4", "-O", "^has_journal,^metadata_csum,^resize_inode,inline_data"], "256K"),
        (
            "small-inodes",
            &["-t", "ext4", "-I", "128", "-O", "^has_journal,^metadata_csum,^resize_inode,^64bit"],
            "256K",
        ),
        ("maps", &["-t", "ext2", "-O", "^resize_inode"], "256K"),
        ("first-revision", &["-t", "ext2", "-r", "0", "-I", "128"], "256K"),
        ("groups", &["-t", "ext4", "-g", "256", "-O", "^has_journal,^metadata_csum,^resize_inode,meta_bg"], "768K"),
        ("legacy-hash", &["-t", "ext4", "-O", "^has_journal,^metadata_csum,^resize_inode"], "256K"),
        ("encrypted", &["-t", "ext4", "-O", "^has_journal,^metadata_csum,^resize_inode,encrypt,casefold"], "256K"),
        ("blocks-of-4k", &["-t", "ext4", "-b", "4096", "-O", "^has_journal,^metadata_csum,^resize_inode"], "768K"),
        ("journal", &["-t", "ext4", "-J", "size=1", "-O", "^metadata_csum,^resize_inode"], "1536K"),
        ("journal-with-checksums", &["-t", "ext4", "-J", "size=1", "-O", "^resize_inode"], "1536K"),
    ] {
        let image = image_file();
        let uuid =
            ["-U", "00112233-4455-6677-8899-aabbccddeeff", "-E", "hash_seed=01234567-89ab-cdef-0123-456789abcdef"];
        run(&mke2fs, &[&common[..], &uuid, features].concat(), image.path(), size, &[0]);
        if name == "legacy-hash" {
            run(&tune2fs, &["-E", "hash_alg=legacy"], image.path(), "", &[0]);
        }
        run(&e2fsck, &["-fyD"], image.path(), "", &[0, 1]);
        if name.starts_with("journal") {
            let block = first_block(image.path(), "/large");
            let text = path("file").display().to_string();
            fs::write(path("file"), [b'j'; 1024]).unwrap();
            let open = if name == "journal" { "jo" } else { "jo -c -v 3" };
            debugfs(
                image.path(),
                &format!("{open}\njw -b {block},{} {text}\njw -r {block}\njw -b {block} {text}\njc\n", block + 1),
            );
            fs::write(path("file"), content(40, 40)).unwrap();
        }
        let parts = fuzzing::parts(&fs::read(image.path()).unwrap());
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(name), parts).unwrap();
    }
}
