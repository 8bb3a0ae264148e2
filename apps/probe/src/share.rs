//! A share (9pfs), against what dom0 says of the same files.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use futures_util::future::join_all;
use sarab::hal::Clock;
use sarab::shares::{Changes, Dialect, Dir, Error, FileKind, OpenOptions, Options, Share, Time};
use sarab::{App, println};

use crate::checks::Checks;
use crate::text;

/// Bytes that are written and read at once.
const PART: usize = 256 << 10;

/// Opens the share `tag=` with `rings=`, `order=` and `dialect=`, and does what `share=` says.
pub async fn run(app: App, checks: &mut Checks) -> Result<(), String> {
    let args = app.args();
    let tag: &str = args.require("tag").map_err(text)?;
    let mut options = Options::default()
        .with_max_rings(args.get_or("rings", 1).map_err(text)?)
        .with_max_ring_order(args.get_or("order", 4).map_err(text)?);
    if args.get::<&str>("dialect").map_err(text)? == Some("u") {
        options = options.with_dialect(Dialect::Unix);
    }
    println!("share: the domain has {:?}", app.shares().await.map_err(text)?);
    let share = app.share_with(tag, options).await.map_err(text)?;
    let session = share.ready().await.map_err(text)?;
    println!("share: {} in messages of {} bytes", session.dialect, session.msize);
    let root = share.root();
    match args.get_or("share", "files").map_err(text)? {
        "many" => many(&root, args.get_or("count", 1000).map_err(text)?, checks).await,
        "large" => large(app, &root, args.get_or("mib", 64).map_err(text)?, checks).await,
        "readers" => readers(app, &root, checks).await,
        "read-only" => read_only(&root, checks).await,
        "few" => few_fids(&root, checks).await,
        "killed" => killed(app, &share, checks).await,
        _ => files(&root, session.dialect == Dialect::Linux, checks).await,
    }
    .map_err(text)?;
    let statistics = share.statistics();
    println!("share: {} requests, {} refused, {} events", statistics.requests, statistics.failures, statistics.events);
    Ok(())
}

/// Numbers that go on from any of them.
fn pattern(seed: u64, bytes: &mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

async fn names(root: &Dir, path: &str) -> Result<Vec<String>, Error> {
    let mut entries = root.read_dir(path).await?;
    let mut names = Vec::new();
    while let Some(entry) = entries.next().await? {
        names.push(String::from_utf8_lossy(&entry.name).into_owned());
    }
    names.sort();
    Ok(names)
}

/// Each kind of request; dom0 has made `from-dom0` with a known text, and looks at the rest afterwards.
async fn files(root: &Dir, is_linux: bool, checks: &mut Checks) -> Result<(), Error> {
    checks.equal(root.read("from-dom0", 100).await?, b"hello from dom0\n".to_vec(), "what dom0 has written");
    checks.check(
        matches!(root.read("from-dom0", 10).await, Err(Error::TooLarge { limit: 10 })),
        "a file that is too large",
    );
    root.write("from-guest", b"hello from the guest\n").await?;
    let metadata = root.metadata("from-guest").await?;
    checks.equal((metadata.kind, metadata.size), (FileKind::File, 21), "the metadata of a file");
    checks.check(metadata.modified.seconds > 1_600_000_000, format_args!("changed at {:?}", metadata.modified));
    root.create_dir("folder").await?;
    root.create_dir("folder/deep").await?;
    checks.equal(root.metadata("folder/deep").await?.kind, FileKind::Dir, "a folder");
    // Longer than one walk may be.
    let mut path = String::from("folder/deep");
    for level in 0..20 {
        path.push_str(&format!("/{level}"));
        root.create_dir(&path).await?;
    }
    root.write(format!("{path}/bottom"), b"deep\n").await?;
    checks.equal(root.read(format!("{path}/bottom"), 10).await?, b"deep\n".to_vec(), "a file 22 folders down");
    let folder = root.dir("folder").await?;
    folder.write("deep/with space & \"quotes\"", b"a").await?;
    folder.write("deep/\u{645}\u{644}\u{641}", b"b").await?;
    folder.write([&b"deep/"[..], b"not-utf8-\xff"].concat(), b"c").await?;
    folder.write(format!("deep/{}", "n".repeat(255)), b"d").await?;
    let found = names(&folder, "deep").await?;
    checks.equal(found.len(), 5, format_args!("entries: {found:?}"));
    checks.check(matches!(root.exists("folder/missing/other").await, Ok(false)), "what is not there");
    checks.check(matches!(root.open("from-guest/x").await, Err(error) if error.is_not_found() || matches!(error, Error::NotADirectory | Error::Refused(_))), "a file is no folder");
    checks.equal(root.open("../etc/passwd").await.err(), Some(Error::InvalidPath), "the way up");
    checks.equal(root.open("a\0b").await.err(), Some(Error::InvalidPath), "a byte 0");
    checks.check(root.write("n".repeat(256), b"").await.is_err(), "a name of 256 bytes");
    // Gaps, appends, cuts.
    let file = root.open_with("sparse", &OpenOptions::new().read().write().create_new(0o600)).await?;
    let again = root.open_with("sparse", &OpenOptions::new().write().create_new(0o600)).await;
    checks.check(
        again.is_err_and(|error| error.kind() == sarab::shares::ErrorKind::AlreadyExists),
        "a file that must be new",
    );
    file.write_all_at(100_000, b"end").await?;
    let mut bytes = [1; 8];
    checks.equal(file.read_at(99_995, &mut bytes).await?, 8, "a read over a hole");
    checks.equal(bytes, *b"\0\0\0\0\0end", "the bytes of a hole");
    checks.equal(file.read_at(200_000, &mut bytes).await?, 0, "a read after the end");
    drop(file);
    root.write("to-remove", b"x").await?;
    root.remove_file("to-remove").await?;
    checks.check(!root.exists("to-remove").await?, "a removed file is gone");
    checks.check(root.remove_file("to-remove").await.is_err_and(|error| error.is_not_found()), "removed twice");
    if is_linux {
        linux(root, checks).await?;
    } else {
        let renamed = root.rename("from-guest", "other").await;
        println!("share: renaming: {renamed:?}; links: {:?}", root.symbolic_link("a", "b").await);
    }
    Ok(())
}

/// What 9P2000.L alone has.
async fn linux(root: &Dir, checks: &mut Checks) -> Result<(), Error> {
    root.create_dir("linux").await?;
    root.write("linux/a", b"0123456789").await?;
    root.rename("linux/a", "linux/b").await?;
    root.rename("linux/b", "folder/moved").await?;
    checks.check(!root.exists("linux/a").await? && root.exists("folder/moved").await?, "a file that was renamed");
    let at = Time { seconds: 1_700_000_000, nanoseconds: 0 };
    root.change("folder/moved", &Changes::new().size(4).mode(0o640).modified(at).accessed(at)).await?;
    let metadata = root.metadata("folder/moved").await?;
    checks.equal((metadata.size, metadata.mode, metadata.modified), (4, 0o640, at), "changed attributes");
    checks.equal(root.read("folder/moved", 100).await?, b"0123".to_vec(), "a file that was cut");
    root.symbolic_link("../from-dom0", "linux/link").await?;
    checks.equal(root.read_link("linux/link").await?, b"../from-dom0".to_vec(), "what a link names");
    checks.equal(root.metadata("linux/link").await?.kind, FileKind::SymbolicLink, "a link");
    checks.check(root.open("linux/link").await.is_err(), "a link is not followed");
    root.hard_link("from-guest", "linux/second-name").await?;
    checks.equal(root.metadata("from-guest").await?.links, 2, "names of a file");
    checks.check(root.remove_dir("linux").await.is_err(), "a folder that is not empty");
    checks.check(root.remove_file("linux").await.is_err(), "a folder is no file");
    root.create_dir("linux/empty").await?;
    root.remove_dir("linux/empty").await?;
    let file = root.open_with("linux/synced", &OpenOptions::new().write().create(0o644)).await?;
    file.write_all_at(0, b"to the disk").await?;
    file.sync().await?;
    file.change(&Changes::new().size(2)).await?;
    checks.equal(file.metadata().await?.size, 2, "an open file that was cut");
    file.close().await?;
    let space = root.space().await?;
    checks.check(space.total > 0 && space.available <= space.total, format_args!("{space:?}"));
    let mut kinds = Vec::new();
    let mut entries = root.read_dir("linux").await?;
    while let Some(entry) = entries.next().await? {
        kinds.push((entry.name().map(String::from), entry.kind));
    }
    kinds.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("link", FileKind::SymbolicLink), ("second-name", FileKind::File), ("synced", FileKind::File)];
    checks.equal(kinds, expected.map(|(name, kind)| (Some(name.into()), kind)).to_vec(), "the kinds of entries");
    Ok(())
}

/// Makes files, sees them all in their folder, and removes every other one.
async fn many(root: &Dir, count: usize, checks: &mut Checks) -> Result<(), Error> {
    root.create_dir("many").await?;
    let many = root.dir("many").await?;
    // Four at a time: xen-9pfsd has few fids.
    for first in (0..count).step_by(4) {
        let writes = (first..count.min(first + 4)).map(|number| {
            let many = &many;
            Box::pin(async move { many.write(format!("file-{number:05}"), format!("{number}\n")).await })
        });
        for outcome in join_all(writes).await {
            outcome?;
        }
    }
    let all: BTreeSet<String> = (0..count).map(|number| format!("file-{number:05}")).collect();
    let found = names(root, "many").await?;
    let distinct: BTreeSet<String> = found.iter().cloned().collect();
    checks.equal(found.len(), distinct.len(), "entries that are told twice");
    let missing: Vec<_> = all.difference(&distinct).take(5).collect();
    checks.check(distinct == all, format_args!("{} entries of {count}; missing {missing:?}", distinct.len()));
    for number in (0..count).step_by(100) {
        let bytes = many.read(format!("file-{number:05}"), 100).await?;
        checks.check(bytes == format!("{number}\n").as_bytes(), format_args!("file {number}"));
    }
    for number in (0..count).step_by(2) {
        many.remove_file(format!("file-{number:05}")).await?;
    }
    checks.equal(names(root, "many").await?.len(), count / 2, "entries after half of them were removed");
    Ok(())
}

/// Reads what dom0 has made as `large-in`, and writes the same as `large-out`; says how fast.
async fn large(app: App, root: &Dir, mib: usize, checks: &mut Checks) -> Result<(), Error> {
    let total = mib << 20;
    let mut buffer = vec![0; PART];
    let (input, output) = (root.open("large-in").await?, root.create("large-out").await?);
    checks.equal(input.metadata().await?.size, total as u64, "the size");
    let begin = app.clock().now();
    let mut at = 0;
    loop {
        match input.read_at(at, &mut buffer).await? {
            0 => break,
            read => at += read as u64,
        }
    }
    let read = (app.clock().now() - begin).as_micros().max(1) as usize;
    checks.equal(at, total as u64, "bytes read");
    let begin = app.clock().now();
    for at in (0..total).step_by(PART) {
        output.write_all_at(at as u64, &buffer).await?;
    }
    let write = (app.clock().now() - begin).as_micros().max(1) as usize;
    for at in (0..total).step_by(PART) {
        let len = input.read_full_at(at as u64, &mut buffer).await?;
        output.write_all_at(at as u64, &buffer[..len]).await?;
    }
    println!("share: read {} kB/s, write {} kB/s", total * 1000 / read, total * 1000 / write);
    output.close().await
}

/// Eight read the same file from places of their own, and one makes files meanwhile.
async fn readers(app: App, root: &Dir, checks: &mut Checks) -> Result<(), Error> {
    const LEN: usize = 1 << 20;
    let mut bytes = vec![0; LEN];
    pattern(7, &mut bytes);
    root.write("read-by-eight", &bytes).await?;
    let file = root.open("read-by-eight").await?;
    let begin = app.clock().now();
    let readers = (0..8_usize).map(|reader| {
        let (file, bytes) = (&file, &bytes);
        Box::pin(async move {
            let mut buffer = vec![0; 100_000];
            let mut right = true;
            for step in 0..20 {
                let at = (reader * 131_072 + step * 70_001) % LEN;
                let len = file.read_full_at(at as u64, &mut buffer).await?;
                right &= buffer[..len] == bytes[at..(at + 100_000).min(LEN)];
            }
            Ok::<bool, Error>(right)
        })
    });
    for (reader, outcome) in join_all(readers).await.into_iter().enumerate() {
        checks.check(outcome?, format_args!("what reader {reader} read"));
    }
    println!("share: 8 readers took {} ms", (app.clock().now() - begin).as_millis());
    Ok(())
}

/// All that would change a share that dom0 does not let it change.
async fn read_only(root: &Dir, checks: &mut Checks) -> Result<(), Error> {
    use sarab::shares::ErrorKind::PermissionDenied;
    checks.equal(root.read("from-dom0", 100).await?, b"hello from dom0\n".to_vec(), "a file is read");
    let refused = |outcome: Result<(), Error>| outcome.is_err_and(|error| error.kind() == PermissionDenied);
    checks.check(refused(root.write("new", b"x").await), "a new file");
    checks
        .check(refused(root.open_with("from-dom0", &OpenOptions::new().write()).await.map(drop)), "writing to a file");
    checks.check(refused(root.create_dir("folder").await), "a new folder");
    checks.check(root.remove_file("from-dom0").await.is_err(), "removing a file");
    checks.check(root.exists("from-dom0").await?, "it is still there");
    Ok(())
}

/// As many at once as there are fids, and more.
async fn few_fids(root: &Dir, checks: &mut Checks) -> Result<(), Error> {
    let looked = join_all((0..12).map(|_| Box::pin(root.metadata("from-dom0")))).await;
    checks.equal(looked.iter().filter(|outcome| outcome.is_ok()).count(), 12, format_args!("12 at once: {looked:?}"));
    let mut open = Vec::new();
    let refused = loop {
        match root.open("from-dom0").await {
            Ok(file) => open.push(file),
            Err(error) => break error,
        }
        if open.len() == 100 {
            return Ok(());
        }
    };
    println!("share: {} files open, then: {refused}", open.len());
    checks.check(matches!(refused, Error::Refused(sarab::hal::Errno::EMFILE)), "more than the server takes");
    open.pop();
    checks.check(root.open("from-dom0").await.is_ok(), "another one once there is room");
    Ok(())
}

/// The backend is killed and comes again: open files are gone, the share is not.
async fn killed(app: App, share: &Share, checks: &mut Checks) -> Result<(), Error> {
    let root = share.root();
    let file = root.open("from-dom0").await?;
    let first = share.ready().await?.number;
    println!("share: kill it now");
    let mut failed = false;
    while share.session().is_some_and(|session| session.number == first) {
        failed |= file.metadata().await.is_err();
        app.clock().sleep(core::time::Duration::from_millis(100)).await;
    }
    println!("share: its backend is gone");
    share.ready().await?;
    checks.equal(
        file.metadata().await.err(),
        Some(Error::Stale),
        format_args!("a file of the session before ({failed})"),
    );
    checks.equal(root.read("from-dom0", 100).await?, b"hello from dom0\n".to_vec(), "a file is read again");
    Ok(())
}
