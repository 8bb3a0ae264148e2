//! `mode=check`: every operation that a guest may ask for, against the store that is there.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;

use futures_util::future::join_all;
use sarab::hal::{DomId, Errno};
use sarab::println;
use sarab::store::wire::PathError;
use sarab::store::{Access, Error, ErrorKind, Path, Permission, Store};

/// Where the checks work: below a directory that is this domain's own.
const BASE: &str = "data/check";

#[derive(Default)]
struct Tally {
    passed: Cell<u32>,
    failed: Cell<u32>,
}

impl Tally {
    fn check(&self, good: bool, what: &str) {
        match good {
            true => self.passed.set(self.passed.get() + 1),
            false => {
                self.failed.set(self.failed.get() + 1);
                println!("failed: {what}");
            }
        }
    }

    fn equal<T: PartialEq + core::fmt::Debug>(&self, found: T, expected: T, what: &str) {
        let good = found == expected;
        if !good {
            println!("expected {expected:?}, found {found:?}");
        }
        self.check(good, what);
    }

    fn refused<T>(&self, outcome: Result<T, Error>, errnos: &[Errno], what: &str) {
        match outcome {
            Ok(_) => self.check(false, what),
            Err(error) => {
                let good = error.errno().is_some_and(|errno| errnos.contains(&errno));
                if !good {
                    println!("{error}");
                }
                self.check(good, what);
            }
        }
    }
}

/// Runs all checks and returns how many failed.
pub async fn run(store: &Store) -> u32 {
    let tally = Tally::default();
    if let Err(error) = all(store, &tally).await {
        println!("{error}");
        tally.check(false, "the checks came to their end");
    }
    println!("check: {} passed, {} failed", tally.passed.get(), tally.failed.get());
    tally.failed.get()
}

async fn all(store: &Store, tally: &Tally) -> Result<(), Error> {
    store.remove(BASE).await?;
    store.mkdir(BASE).await?;
    nodes(store, tally).await?;
    values(store, tally).await?;
    limits(store, tally).await?;
    permissions(store, tally).await?;
    transactions(store, tally).await?;
    watches(store, tally).await?;
    directories(store, tally).await?;
    domains(store, tally).await?;
    store.remove(BASE).await?;
    tally.check(!store.exists(BASE).await?, "all is removed");
    tally.equal(store.unexpected(), 0, "every answer had its question");
    Ok(())
}

fn at(name: &str) -> String {
    format!("{BASE}/{name}")
}

async fn nodes(store: &Store, tally: &Tally) -> Result<(), Error> {
    store.write(&at("a"), b"one").await?;
    tally.equal(store.read(&at("a")).await?, b"one".to_vec(), "a value is what was written");
    store.write(&at("a"), b"").await?;
    tally.equal(store.read(&at("a")).await?, Vec::new(), "an empty value");
    store.write(&at("a"), b"\0\xff\n").await?;
    tally.equal(store.read(&at("a")).await?, b"\0\xff\n".to_vec(), "a value of any bytes");
    store.write(&at("deep/er/still"), b"x").await?;
    tally.equal(store.list(&at("deep")).await?, Vec::from([String::from("er")]), "nodes above are made");
    store.mkdir(&at("dir")).await?;
    tally.check(store.exists(&at("dir")).await?, "a directory");
    store.write(&at("dir"), b"kept").await?;
    store.mkdir(&at("dir")).await?;
    tally.equal(store.read(&at("dir")).await?, b"kept".to_vec(), "mkdir of what is there changes nothing");
    tally.equal(store.list(&at("dir")).await?, Vec::new(), "an empty directory has no names");
    store.remove(&at("deep")).await?;
    tally.check(!store.exists(&at("deep/er/still")).await?, "remove takes what is below too");
    tally.refused(store.read(&at("none")).await, &[Errno::ENOENT], "a node that is not there");
    tally.refused(store.list(&at("none")).await, &[Errno::ENOENT], "a directory that is not there");
    tally.refused(store.remove(&at("none/none")).await, &[Errno::ENOENT], "remove below what is not there");

    // Many at once: each its own answer.
    let names: Vec<String> = (0..100).map(|index| at(&format!("many/{index}"))).collect();
    let written = join_all(names.iter().map(|name| store.write(name, name.as_bytes()))).await;
    tally.check(written.iter().all(Result::is_ok), "a hundred writes at once");
    let read = join_all(names.iter().map(|name| store.read(name))).await;
    let good = names.iter().zip(&read).all(|(name, value)| value.as_deref() == Ok(name.as_bytes()));
    tally.check(good, "a hundred reads at once");
    store.remove(&at("many")).await
}

async fn values(store: &Store, tally: &Tally) -> Result<(), Error> {
    store.set(&at("number"), &1_234_567_890_123_u64).await?;
    tally.equal(store.read_as::<u64>(&at("number")).await?, 1_234_567_890_123, "a number");
    tally.check(
        matches!(store.read_as::<u16>(&at("number")).await, Err(Error { kind: ErrorKind::Value { .. }, .. })),
        "a number that is too large for its type",
    );
    store.set(&at("flag"), &true).await?;
    tally.equal(store.read_as::<bool>(&at("flag")).await?, true, "a boolean");
    store.set(&at("path"), "/local/domain/0").await?;
    let path = store.read_as::<Path>(&at("path")).await?;
    tally.equal(path.as_str(), "/local/domain/0", "a path");
    tally.equal(store.get::<u32>(&at("none")).await?, None, "a value that is not there");
    Ok(())
}

async fn limits(store: &Store, tally: &Tally) -> Result<(), Error> {
    let long = "x".repeat(2049);
    let kind = |outcome: Result<(), Error>| outcome.err().map(|error| error.kind);
    tally.equal(
        kind(store.mkdir(&long).await),
        Some(ErrorKind::Request(PathError::TooLong { len: 2049, max: 2048 }.into())),
        "a path that is too long",
    );
    tally.equal(
        kind(store.mkdir("data/a b").await),
        Some(ErrorKind::Request(PathError::Character { character: ' ', at: 6 }.into())),
        "a path with a space",
    );
    tally.check(
        matches!(kind(store.write(&at("large"), &[0; 4096]).await), Some(ErrorKind::Request(_))),
        "a value that is too large for a packet",
    );
    // xenstored's quota is 2,048 bytes a node.
    tally.refused(
        store.write(&at("large"), &[b'x'; 3000]).await,
        &[Errno::ENOSPC, Errno::E2BIG],
        "a value that is too large for the quota",
    );
    let large = [b'x'; 1500];
    store.write(&at("large"), &large).await?;
    tally.equal(store.read(&at("large")).await?, large.to_vec(), "a large value, through a ring of 1,024 bytes");
    Ok(())
}

async fn permissions(store: &Store, tally: &Tally) -> Result<(), Error> {
    let before = store.permissions(BASE).await?;
    let Some(owner) = before.first().map(|entry| entry.domain) else {
        tally.check(false, "a node has an owner");
        return Ok(());
    };
    let wanted = [Permission::new(owner, Access::None), Permission::new(DomId::DOM0, Access::Read)];
    store.set_permissions(&at("a"), &wanted).await?;
    tally.equal(store.permissions(&at("a")).await?, wanted.to_vec(), "permissions are what was set");
    tally.refused(store.write("/tool/sarab-check", b"").await, &[Errno::EACCES], "no write to others' nodes");
    tally.refused(
        store.set_permissions("/local", &wanted).await,
        &[Errno::EACCES, Errno::EPERM],
        "no change of others' permissions",
    );
    Ok(())
}

async fn transactions(store: &Store, tally: &Tally) -> Result<(), Error> {
    let count = at("count");
    store.set(&count, &0_u32).await?;
    let add = async |_: u32| {
        store
            .transaction(async |t| -> Result<(), Error> {
                let value: u32 = t.read_as(&count).await?;
                t.set(&count, &(value + 1)).await
            })
            .await
    };
    let outcomes = join_all((0..20).map(add)).await;
    tally.check(outcomes.iter().all(Result::is_ok), "twenty transactions at once");
    tally.equal(store.read_as::<u32>(&count).await?, 20, "none of them is lost");

    let failed = store
        .transaction(async |t| -> Result<(), Error> {
            t.write(&at("aborted"), b"").await?;
            tally.check(t.exists(&at("aborted")).await?, "a transaction sees its own changes");
            tally.check(!store.exists(&at("aborted")).await?, "others do not see them");
            t.read(&at("none")).await.map(drop)
        })
        .await;
    tally.refused(failed, &[Errno::ENOENT], "a transaction's own error");
    tally.check(!store.exists(&at("aborted")).await?, "what failed has changed nothing");

    // The first try meets a change from outside.
    let tries = Cell::new(0);
    store
        .transaction(async |t| -> Result<(), Error> {
            tries.set(tries.get() + 1);
            let value: u32 = t.read_as(&count).await?;
            if tries.get() == 1 {
                store.set(&count, &100_u32).await?;
            }
            t.set(&count, &(value + 1)).await
        })
        .await?;
    tally.check(tries.get() > 1, "a conflict is tried again");
    tally.equal(store.read_as::<u32>(&count).await?, 101, "and sees what has changed");
    Ok(())
}

async fn watches(store: &Store, tally: &Tally) -> Result<(), Error> {
    let path = at("watched");
    let mut watch = store.watch(&path).await?;
    let first = watch.next().await;
    tally.equal(first.map(|event| event.path), Some(path.as_str().into()), "a watch begins with an event");
    store.write(&at("watched/below"), b"1").await?;
    let event = watch.next().await;
    tally.equal(event.map(|event| event.path), Some(at("watched/below").into()), "a change below");
    store.remove(&path).await?;
    tally.check(watch.next().await.is_some(), "a removal");
    tally.equal(store.watches() >= 1, true, "the watch is there");
    let watches = store.watches();
    drop(watch);
    tally.equal(store.watches(), watches - 1, "a watch ends when it is dropped");

    let absolute = format!("{}/{path}", store.domain_path(me(store).await?).await?);
    let mut watch = store.watch(&absolute).await?;
    let first = watch.next().await;
    tally.equal(first.map(|event| event.path), Some(absolute.as_str().into()), "absolute paths stay absolute");
    drop(watch);

    let mut exact = store.watch_depth(&path, 0).await?;
    tally.check(exact.next().await.is_some(), "a watch with a depth, where that is offered");
    drop(exact);

    store.write(&path, b"go").await?;
    let found = store.wait_for(&path, |value| (value == Some(b"go")).then_some(true)).await?;
    tally.check(found, "wait_for");
    match store.watch("@releaseDomain").await {
        // Some servers take the watch, and tell an unprivileged domain nothing but that first event.
        Ok(special) => drop(special),
        refused => tally.refused(refused, &[Errno::EACCES], "special watches are for the privileged"),
    }
    Ok(())
}

async fn directories(store: &Store, tally: &Tally) -> Result<(), Error> {
    // More names of this length are more than xenstored lets a guest's node hold.
    let name = |index: u32| format!("an-entry-with-a-rather-long-name-{index}");
    let paths: Vec<String> = (10..50).map(|index| at(&format!("long/{}", name(index)))).collect();
    let made = join_all(paths.iter().map(|path| store.mkdir(path))).await;
    tally.check(made.iter().all(Result::is_ok), "forty nodes");
    let sorted = |names: Vec<String>| {
        let mut names = names;
        names.sort_unstable();
        names
    };
    let expected: Vec<String> = (10..50).map(name).collect();
    tally.check(sorted(store.list_short(&at("long")).await?) == expected, "a directory, in one packet");
    match store.list_parts(&at("long")).await {
        Ok(names) => tally.check(sorted(names) == expected, "a directory, in parts"),
        // oxenstored knows no parts.
        refused => tally.refused(refused, &[Errno::ENOSYS], "a directory, in parts"),
    }
    tally.check(sorted(store.list(&at("long")).await?) == expected, "a directory, in whatever way");
    store.remove(&at("long")).await
}

async fn me(store: &Store) -> Result<DomId, Error> {
    store.read_as("domid").await
}

async fn domains(store: &Store, tally: &Tally) -> Result<(), Error> {
    let me = me(store).await?;
    tally.equal(store.domain_path(me).await?, format!("/local/domain/{}", me.0), "this domain's directory");
    let denied = [Errno::EACCES, Errno::ENOSYS, Errno::EINVAL, Errno::EPERM];
    tally.refused(store.is_introduced(me).await, &denied, "is-domain-introduced is for the privileged");
    tally.refused(store.introduce(me, 1, 1).await, &denied, "introduce is for the privileged");
    tally.refused(store.release(me).await, &denied, "release is for the privileged");
    tally.refused(store.resume(me).await, &denied, "resume is for the privileged");
    tally.refused(store.set_target(me, DomId::DOM0).await, &denied, "set-target is for the privileged");
    match store.control(&["help"]).await {
        // oxenstored answers everybody.
        Ok(_) => tally.check(true, "control"),
        refused => tally.refused(refused, &denied, "control is for the privileged"),
    }
    tally.refused(store.quotas().await, &denied, "quotas are for the privileged");
    // Newer servers answer a guest about itself.
    match store.server_features(None).await {
        Ok(features) => tally.check(features.0 < 1 << 16, "server features"),
        refused => tally.refused(refused, &denied, "server features"),
    }
    // The control task's watches go too, and with them `xl shutdown`: this is the last of the checks.
    match store.reset_watches().await {
        Ok(()) => tally.check(true, "reset-watches"),
        refused => tally.refused(refused, &denied, "reset-watches"),
    }
    Ok(())
}
