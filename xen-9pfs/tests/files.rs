//! Files by asynchronous calls, against a strict server in memory that speaks either dialect.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use embedded_io_async::{Read, Seek, SeekFrom, Write};
use futures_util::future::join_all;
use xen_9pfs::front::{Changes, Dialect, Dir, Error, FileKind, OpenOptions, Options, Share};
use xen_9pfs::protocol::Time;
use xen_hal::Errno;
use xen_sim::{Xen, check};

use support::files::Node;
use support::{Files, Served, bench};

/// Runs `user` on a share of `files`; afterwards no fid but the root's may be in use.
fn with_files(xen: &Xen, files: Files, rings: u8, user: impl AsyncFn(&Share) + 'static) -> Files {
    let bench = bench(xen);
    let (used, files) = (bench.clone(), Rc::new(RefCell::new(files)));
    let shown = files.clone();
    let files = xen.run(async move {
        used.attach().await;
        let serving = used.serve(async move |served: &Served| served.serve_files(&files).await);
        let (share, ended) = used.connect_with(Options::default().with_max_rings(rings));
        user(&share).await;
        used.pause(50).await;
        assert_eq!(shown.borrow().fids(), 1, "fids besides the root's are left");
        drop(share);
        ended.await;
        assert_eq!(shown.borrow().fids(), 0, "the root's is given back");
        used.detach().await;
        drop(serving);
        shown.replace(Files::new(Dialect::Linux))
    });
    bench.check_no_leak(xen);
    files
}

fn both(test: impl Fn(&Xen, Dialect) + Sync) {
    check("files", 30, |xen| {
        test(xen, if xen.seed() % 2 == 0 { Dialect::Linux } else { Dialect::Unix });
    });
}

async fn names(dir: &Dir, path: &str) -> Result<Vec<String>, Error> {
    let mut entries = dir.read_dir(path).await?;
    let mut names = Vec::new();
    while let Some(entry) = entries.next().await? {
        names.push(entry.name().unwrap().to_owned());
    }
    names.sort();
    Ok(names)
}

#[test]
fn files_are_made_read_written_and_removed() {
    both(|xen, dialect| {
        let mut files = Files::new(dialect);
        files.short = (xen.random(2) == 0).then_some(1000);
        files.put("etc/motd", Node::File(b"welcome".to_vec()));
        let files = with_files(xen, files, 1 + xen.random(3) as u8, async |share| {
            let root = share.root();
            assert_eq!(root.read("/etc//motd", 100).await.unwrap(), b"welcome");
            assert_eq!(root.read("etc/motd", 6).await, Err(Error::TooLarge { limit: 6 }));
            assert_eq!(root.read("etc/motd", 7).await.unwrap(), b"welcome");
            assert_eq!(root.read("etc/nothing", 7).await, Err(Error::NotFound));
            assert_eq!(root.exists("etc/motd/further").await, Err(Error::NotADirectory));
            root.create_dir("a").await.unwrap();
            root.create_dir("a/b").await.unwrap();
            let bytes: Vec<u8> = (0..100_000_u32).map(|number| (number / 7) as u8).collect();
            root.write("a/b/c", &bytes).await.unwrap();
            assert_eq!(root.read("a/b/c", 1 << 20).await.unwrap(), bytes);
            let metadata = root.metadata("a/b/c").await.unwrap();
            assert_eq!((metadata.kind, metadata.size, metadata.mode), (FileKind::File, 100_000, 0o644));
            let new = OpenOptions::new().write().create_new(0o600);
            let there = root.open_with("a/b/c", &new).await.err();
            assert_eq!(there, Some(Error::Refused(Errno::EEXIST)));
            drop(root.open_with("a/b/d", &new).await.unwrap());
            assert_eq!(names(&root, "a/b").await.unwrap(), ["c", "d"]);
            let b = root.dir("a/b").await.unwrap();
            assert_eq!(names(&b, "").await.unwrap(), ["c", "d"]);
            assert_eq!(root.dir("a/b/c").await.err(), Some(Error::NotADirectory));
            b.remove_file("d").await.unwrap();
            assert!(b.remove_file("d").await.unwrap_err().is_not_found());
            assert!(root.remove_dir("a/b").await.is_err());
            b.remove_file("c").await.unwrap();
            root.remove_dir("a/b").await.unwrap();
            assert_eq!(names(&root, "a").await.unwrap(), Vec::<String>::new());
            for path in ["..", "a/../etc", "a\0b"] {
                assert_eq!(root.exists(path).await, Err(Error::InvalidPath));
            }
            for path in ["", "/", "."] {
                assert_eq!(root.create_dir(path).await, Err(Error::InvalidPath));
                assert!(root.exists(path).await.unwrap());
            }
        });
        assert_eq!(files.get("a"), Some(&Node::Dir(BTreeMap::new())));
    });
}

#[test]
fn what_linux_has_in_9p2000_l() {
    check("linux", 20, |xen| {
        let mut files = Files::new(Dialect::Linux);
        files.put("dir/file", Node::File(b"0123456789".to_vec()));
        let files = with_files(xen, files, 1, async |share| {
            let root = share.root();
            root.symbolic_link("../any/where", "link").await.unwrap();
            assert_eq!(root.read_link("link").await.unwrap(), b"../any/where");
            assert_eq!(root.read_link("dir/file").await, Err(Error::Refused(Errno::EINVAL)));
            assert_eq!(root.exists("link/file").await, Err(Error::SymbolicLink));
            root.hard_link("dir/file", "second").await.unwrap();
            assert_eq!(root.metadata("second").await.unwrap().links, 2);
            root.rename("second", "dir/third").await.unwrap();
            let at = Time { seconds: 5, nanoseconds: 6 };
            root.change("dir/third", &Changes::new().size(3).mode(0o600).modified(at)).await.unwrap();
            let metadata = root.metadata("dir/file").await.unwrap();
            assert_eq!((metadata.size, metadata.mode, metadata.modified), (3, 0o600, at));
            assert_eq!(root.space().await.unwrap().available, 40 * 512);
            let file = root.open_with("dir/file", &OpenOptions::new().write()).await.unwrap();
            file.sync().await.unwrap();
            file.close().await.unwrap();
        });
        assert_eq!(files.get("dir/third"), Some(&Node::File(b"012".to_vec())));
    });
}

/// What the daemon of Xen cannot do has an error of its own, and what it does otherwise is done so.
#[test]
fn xen_9pfsd_and_what_it_cannot() {
    check("daemon", 20, |xen| {
        let mut files = Files::new(Dialect::Unix);
        (files.is_daemon, files.max_fids) = (true, 5);
        files.put("dir/file", Node::File(b"0123456789".to_vec()));
        let files = with_files(xen, files, 1 + xen.random(3) as u8, async |share| {
            let root = share.root();
            assert_eq!(root.rename("dir/file", "dir/other").await, Err(Error::Unsupported));
            assert_eq!(root.rename("dir/file", "other").await, Err(Error::Unsupported));
            assert_eq!(root.symbolic_link("a", "b").await, Err(Error::Unsupported));
            assert_eq!(root.hard_link("dir/file", "b").await, Err(Error::Unsupported));
            assert_eq!(root.change("dir/file", &Changes::new().size(1)).await, Err(Error::Unsupported));
            assert_eq!(root.space().await, Err(Error::Unsupported));
            root.write("x", b"y").await.unwrap();
            root.write("z", b"y").await.unwrap();
            root.remove_file("x").await.unwrap();
            root.remove_file("z").await.unwrap();
            assert_eq!(root.remove_dir("dir").await, Err(Error::Unsupported));
            // Twelve at once, where there is room for four.
            let looked = join_all((0..12).map(|_| root.metadata("dir/file"))).await;
            assert!(looked.iter().all(Result::is_ok), "{looked:?}");
            let written = join_all((0..9).map(|number| root.write(format!("w{number}"), [7; 70_000]))).await;
            assert!(written.iter().all(Result::is_ok), "{written:?}");
            let mut open = Vec::new();
            let refused = loop {
                match root.open("dir/file").await {
                    Ok(file) => open.push(file),
                    Err(error) => break error,
                }
            };
            assert_eq!((open.len(), refused), (4, Error::Refused(Errno::EMFILE)));
            open.pop();
            root.open("dir/file").await.unwrap();
        });
        assert!(files.get("x").is_none() && files.most_fids == 5);
    });
}

/// A directory of many entries is read whole from servers that lose some at the ends of their answers, as from others.
#[test]
fn a_directory_that_takes_several_answers() {
    check("directories", 30, |xen| {
        let dialect = if xen.random(3) == 0 { Dialect::Linux } else { Dialect::Unix };
        let mut files = Files::new(dialect);
        files.is_daemon = dialect == Dialect::Unix && xen.random(2) == 0;
        files.max_msize = [4096, 5000, 8192, 32 << 10][xen.random(4) as usize];
        let count = xen.random(600);
        let mut all: Vec<String> = Vec::new();
        for number in 0..count {
            let name = format!("{number}-{}", "x".repeat(xen.random(200) as usize));
            files.put(&format!("dir/{name}"), Node::File(Vec::new()));
            all.push(name);
        }
        all.sort();
        with_files(xen, files, 1, async move |share| {
            assert_eq!(names(&share.root(), "dir").await.unwrap(), all);
        });
    });
}

#[test]
fn a_file_by_the_traits_of_embedded_io() {
    both(|xen, dialect| {
        let files = with_files(xen, Files::new(dialect), 1, async |share| {
            let file = share.root().create("file").await.unwrap();
            let mut cursor = file.cursor();
            cursor.write_all(b"one two three").await.unwrap();
            cursor.flush().await.unwrap();
            assert_eq!(cursor.seek(SeekFrom::Start(4)).await.unwrap(), 4);
            let mut word = [0; 3];
            cursor.read_exact(&mut word).await.unwrap();
            assert_eq!(&word, b"two");
            assert_eq!(cursor.seek(SeekFrom::End(-5)).await.unwrap(), 8);
            assert_eq!(cursor.seek(SeekFrom::Current(-100)).await, Err(Error::Refused(Errno::EINVAL)));
            assert_eq!((cursor.read(&mut [0; 10]).await, cursor.position()), (Ok(5), 13));
        });
        assert_eq!(files.get("file"), Some(&Node::File(b"one two three".to_vec())));
    });
}

/// A random history, against a map that does the same.
#[test]
fn a_share_behaves_like_a_map() {
    both(|xen, dialect| {
        let mut files = Files::new(dialect);
        files.short = (xen.random(3) == 0).then(|| 1 + xen.random(5000) as usize);
        files.max_msize = [4096, 9000, u32::MAX][xen.random(3) as usize];
        let machine = xen.clone();
        with_files(xen, files, 1 + xen.random(4) as u8, async move |share| {
            let root = share.root();
            let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            for _ in 0..60 {
                let name = format!("f{}", machine.random(5));
                let bytes: Vec<u8> = (0..machine.random(20_000)).map(|_| machine.random(256) as u8).collect();
                match machine.random(5) {
                    0 => {
                        root.write(&name, &bytes).await.unwrap();
                        model.insert(name, bytes);
                    }
                    1 => {
                        let at = machine.random(30_000);
                        let options = OpenOptions::new().read().write().create(0o644);
                        let file = root.open_with(&name, &options).await.unwrap();
                        file.write_all_at(at, &bytes).await.unwrap();
                        let known = model.entry(name).or_default();
                        let end = at as usize + bytes.len();
                        if !bytes.is_empty() && known.len() < end {
                            known.resize(end, 0);
                        }
                        if !bytes.is_empty() {
                            known[at as usize..end].copy_from_slice(&bytes);
                        }
                    }
                    2 => match model.remove(&name) {
                        Some(_) => root.remove_file(&name).await.unwrap(),
                        None => assert!(root.remove_file(&name).await.unwrap_err().is_not_found()),
                    },
                    3 => {
                        let found = root.read(&name, 1 << 20).await;
                        assert_eq!(found.ok().as_ref(), model.get(&name));
                    }
                    _ => {
                        let all: Vec<_> = model.keys().cloned().collect();
                        assert_eq!(names(&root, "").await.unwrap(), all);
                    }
                }
            }
        });
    });
}
