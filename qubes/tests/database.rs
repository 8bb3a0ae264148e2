//! QubesDB against a daemon that is as strict as the original.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use futures_util::{FutureExt, StreamExt};
use qubes::Database;
use qubes::db::{Change, Error, Options};
use xen_hal::Clock;
use xen_sim::{Domain, check, keep_log, take_log};

use support::daemon::{Daemon, server};
use support::{Bench, bench, faults};

/// A database whose runner is spawned, and stops when the task is dropped or the last handle is.
fn database(bench: &Bench, options: Options) -> (Database, impl Future<Output = ()>) {
    let (database, runner) = Database::new(bench.qube.clone(), &bench.qube_store, options);
    (database, bench.qube.spawn(runner))
}

/// The daemon, one connection after the other.
fn start(bench: &Rc<Bench>, daemon: &Rc<Daemon>) -> impl Future<Output = ()> {
    let (mut server, daemon) = (server(bench), daemon.clone());
    bench.dom0.spawn(async move {
        loop {
            let channel = server.accept().await.unwrap();
            daemon.serve(channel).await;
        }
    })
}

fn entries(database: &Database) -> Vec<(String, Vec<u8>)> {
    database.list("").into_iter().map(|(path, value)| (path, value.to_vec())).collect()
}

#[test]
fn a_first_copy_and_what_follows() {
    check("copy", 30, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let daemon = Rc::<Daemon>::default();
            daemon.write("/qubes-ip", b"10.137.0.5");
            daemon.write("/name", b"\xff");
            daemon.write("/qubes-firewall/10.137.0.7", b"");
            daemon.write("/qubes-firewall/10.137.0.7/policy", b"drop");
            daemon.write("/qubes-firewall/10.137.0.77/policy", b"drop");
            let (db, running) = database(&used, Options::default());
            assert!(!db.is_connected() && db.get("/qubes-ip").is_none());
            let mut changes = db.watch("/qubes-firewall/");
            let serving = start(&used, &daemon);
            db.ready().await.unwrap();
            assert!(db.is_connected());
            assert_eq!(entries(&db), daemon.copy());
            assert_eq!((db.text("/qubes-ip").as_deref(), db.text("/name")), (Some("10.137.0.5"), None));
            assert_eq!(db.children("/qubes-firewall"), ["10.137.0.7", "10.137.0.77"]);
            assert_eq!(db.children("/qubes-firewall/10.137.0.7/"), ["policy"]);
            assert_eq!(db.children(""), ["name", "qubes-firewall", "qubes-ip"]);
            assert_eq!(db.list("/qubes-firewall/10.137.0.7/").len(), 1);
            let taken: Vec<Change> = (&mut changes).take(4).collect().await;
            let written = |path: &str| Change::Written(path.into());
            assert_eq!(taken[0], written("/qubes-firewall/10.137.0.7"));
            assert_eq!(taken[3], Change::Resynced);

            // How dom0 sets rules: removed, written, and then a marker, which has the value that it had.
            daemon.remove("/qubes-firewall/10.137.0.7/");
            daemon.write("/qubes-firewall/10.137.0.7/policy", b"accept");
            daemon.write("/qubes-ip", b"10.137.0.6");
            daemon.write("/qubes-firewall/10.137.0.7", b"");
            let taken: Vec<Change> = (&mut changes).take(3).collect().await;
            let policy = "/qubes-firewall/10.137.0.7/policy";
            assert_eq!(taken, [Change::Removed(policy.into()), written(policy), written("/qubes-firewall/10.137.0.7")]);
            assert!(changes.next().now_or_never().is_none(), "of other paths nothing is told");
            used.until("all is answered", || daemon.is_idle()).await;
            assert_eq!(entries(&db), daemon.copy());
            assert_eq!(daemon.connections.get(), 1);

            // The runner ends with the last handle.
            let other = db.clone();
            drop(db);
            other.ready().await.unwrap();
            drop(other);
            running.await;
            assert_eq!(changes.next().await, None);
            drop(serving);
        });
        bench.check_no_leak();
    });
}

/// Whatever both ends change, and whenever the channel, the daemon or its domain's end of the store ends: in the end there is
/// dom0's copy, and who follows the changes has it too.
#[test]
fn any_sequence_of_changes_and_connections() {
    check("sequences", 60, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let daemon = Rc::<Daemon>::default();
            let (db, running) = database(&used, options(|options| options.max_changes = 4));
            let mut serving = Some(Box::pin(start(&used, &daemon)));
            let followed = Rc::new(RefCell::new(BTreeMap::new()));
            let following = used.qube.spawn(follow(used.qube.clone(), db.clone(), followed.clone()));
            let path = || format!("/{}/{}", used.xen.random(3), used.xen.random(4));
            let mut requests = Vec::new();
            for step in 0..60 {
                match used.xen.random(8) {
                    0..3 => daemon.write(&path(), format!("dom0's {step}").as_bytes()),
                    3 => daemon.remove(&format!("/{}/", used.xen.random(3))),
                    4 => {
                        let (db, path) = (db.clone(), path());
                        requests.push(used.qube.spawn(async move { db.write(&path, b"ours").await }));
                    }
                    5 => {
                        let (db, path) = (db.clone(), path());
                        requests.push(used.qube.spawn(async move { db.remove(&path).await }));
                    }
                    6 if used.xen.random(3) == 0 => {
                        drop(serving.take());
                        serving = Some(Box::pin(start(&used, &daemon)));
                    }
                    _ => used.dom0.sleep(Duration::from_micros(used.xen.random(3000))).await,
                }
            }
            // All end; whether they have done anything is dom0's to decide.
            for outcome in join_all(requests).await {
                match outcome {
                    Ok(()) | Err(Error::NotFound { .. } | Error::Unanswered { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            used.until("the copy is dom0's", || db.is_connected() && daemon.is_idle() && entries(&db) == daemon.copy())
                .await;
            used.until("who follows has it", || *followed.borrow() == *daemon.entries.borrow()).await;
            drop(db);
            drop(following);
            running.await;
            drop(serving);
        });
        bench.check_no_leak();
    });
}

fn options(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::default();
    change(&mut options);
    options
}

/// Keeps a copy by the changes alone.
async fn follow(domain: Domain, db: Database, copy: Rc<RefCell<BTreeMap<String, Vec<u8>>>>) {
    let mut changes = db.watch("");
    drop(std::mem::take(&mut *copy.borrow_mut()));
    while let Some(change) = changes.next().await {
        match change {
            Change::Written(path) => {
                if let Some(value) = db.get(&path) {
                    copy.borrow_mut().insert(path, value.to_vec());
                }
            }
            Change::Removed(path) => drop(copy.borrow_mut().remove(&path)),
            Change::Resynced => *copy.borrow_mut() = entries(&db).into_iter().collect(),
        }
        // Too slow for the queue now and then.
        domain.sleep(Duration::from_micros(200)).await;
    }
}

#[test]
fn requests_have_typed_outcomes() {
    check("requests", 20, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let daemon = Rc::<Daemon>::default();
            daemon.write("/dns/10.137.0.5/a.org", b"1");
            let (db, running) = database(&used, Options::default());
            let running = Box::pin(running);
            assert_eq!(db.write("a", b"").await, Err(Error::BadPath { path: "a".into() }));
            assert_eq!(db.write("/a/", b"").await, Err(Error::BadPath { path: "/a/".into() }));
            let long = format!("/{}", "a".repeat(63));
            assert_eq!(db.write(&long, b"").await, Err(Error::BadPath { path: long.clone() }));
            assert_eq!(db.write("/a", b"\0").await, Err(Error::BadValue { path: "/a".into(), len: 1 }));
            assert_eq!(db.write("/a", &[1; 3072]).await, Err(Error::BadValue { path: "/a".into(), len: 3072 }));
            assert_eq!(db.remove("/a//").await, Err(Error::BadPath { path: "/a//".into() }));

            // Without a daemon they wait, but not in any number.
            let mut waiting: Vec<_> = (0..64).map(|_| Box::pin(db.write("/a", &[b'x'; 3071]))).collect();
            for request in &mut waiting {
                assert!(request.now_or_never().is_none());
            }
            assert_eq!(db.write("/a", b"").await, Err(Error::Busy));
            let serving = start(&used, &daemon);
            assert!(join_all(waiting).await.iter().all(Result::is_ok));
            assert_eq!(db.get("/a").unwrap().len(), 3071);

            assert_eq!(db.remove("/dns/10.137.0.5/").await, Ok(()));
            assert!(daemon.copy().iter().all(|(path, _)| path == "/a"));
            assert_eq!(db.remove("/none").await, Err(Error::NotFound { path: "/none".into() }));
            daemon.refuses.borrow_mut().push("/refused".into());
            assert_eq!(db.write("/refused", b"").await, Err(Error::Refused { path: "/refused".into() }));
            assert!(db.get("/refused").is_none());
            assert_eq!(daemon.connections.get(), 1);

            daemon.closes.set(1);
            assert_eq!(db.write("/b", b"1").await, Ok(()), "once more on the next connection");
            assert_eq!(daemon.connections.get(), 2);
            daemon.closes.set(2);
            assert_eq!(db.write("/b", b"2").await, Err(Error::Unanswered { path: "/b".into() }));
            used.until("it is connected again", || db.is_connected()).await;
            assert_eq!(db.text("/b").as_deref(), Some("1"));

            drop(running);
            used.until("it is not connected", || !db.is_connected()).await;
            assert_eq!(db.write("/b", b"3").await, Err(Error::Stopped));
            assert_eq!(db.text("/b").as_deref(), Some("1"), "the copy stays");
            assert_eq!(db.watch("").next().await, None);
            drop(serving);
        });
        bench.check_no_leak();
    });
}

#[test]
fn what_has_no_room_is_named_once() {
    keep_log();
    check("room", 5, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            take_log();
            let daemon = Rc::<Daemon>::default();
            for number in 0..20 {
                daemon.write(&format!("/rule/{number:04}"), b"x");
            }
            let (db, running) = database(&used, options(|options| options.max_entries = 18));
            let serving = start(&used, &daemon);
            db.ready().await.unwrap();
            assert_eq!(db.list("").len(), 18);
            assert!(db.is_incomplete("/rule/") && !db.is_incomplete("/rule/0010"));
            daemon.write("/more", b"");
            used.until("all is answered", || daemon.is_idle()).await;
            let warnings =
                take_log().iter().filter(|line| line.contains("no room for /rule/0001 and perhaps others")).count();
            assert_eq!(warnings, 1);
            drop(db);
            running.await;
            drop(serving);
        });
    });
}

/// A copy that never ends is given up, and a request that is never answered; both come to an end with another daemon.
#[test]
fn a_silent_daemon_is_left() {
    check("silence", 10, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let (db, running) = database(&used, Options::default());
            let mut server = server(&used);
            let silent = server.accept().await.unwrap();
            let start_of_silence = used.dom0.now();
            let daemon = Rc::<Daemon>::default();
            let next = server.accept().await.unwrap();
            assert!(used.dom0.now() - start_of_silence > Duration::from_secs(59));
            drop(silent);
            let (served, used_daemon) = (daemon.clone(), used.dom0.clone());
            let serving = used_daemon.spawn(async move { served.serve(next).await });
            db.ready().await.unwrap();
            // It copies, and answers nothing after that.
            drop(serving);
            used.until("it is not connected", || !db.is_connected()).await;
            let written = db.clone();
            let writing = used.qube.spawn(async move { written.write("/a", b"1").await });
            let answering = pin!(async {
                let mut channel = server.accept().await.unwrap();
                let mut asked = [0; 72];
                assert!(support::read_exact(&mut channel, &mut asked).await && asked[0] == 2);
                channel.write_message(&support::daemon::raw(11, "", b"")).await.unwrap();
                let begin = used.dom0.now();
                let next = server.accept().await.unwrap();
                assert!(used.dom0.now() - begin > Duration::from_secs(59));
                daemon.serve(next).await;
            });
            match select(writing, answering).await {
                Either::Left((outcome, _)) => assert_eq!(outcome, Ok(())),
                Either::Right(_) => panic!("the daemon has ended first"),
            }
            drop(db);
            running.await;
        });
        bench.check_no_leak();
    });
}
