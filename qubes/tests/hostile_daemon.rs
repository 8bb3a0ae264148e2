//! Daemons of QubesDB that send anything.

mod support;

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use qubes::Database;
use qubes::db::Options;
use xen_hal::Clock;
use xen_sim::{Domain, check, keep_log, take_log};
use xen_vchan::Channel;

use support::daemon::{Daemon, raw, server};
use support::{Bench, bench, faults, read_exact, write_all};

/// Waits for the question, writes these bytes, and waits for the end of the channel or of its patience.
async fn misbehave(bench: &Bench, mut channel: Channel<Domain>, bytes: &[u8]) {
    let mut asked = [0; 72];
    assert!(read_exact(&mut channel, &mut asked).await);
    assert!(asked[0] == 2 && asked[1..65].iter().all(|byte| *byte == 0), "the first message asks for all");
    if !write_all(&mut channel, bytes).await {
        return;
    }
    let mut answers = [0; 512];
    let reading = pin!(async { while let Ok(1..) = channel.read(&mut answers).await {} });
    select(reading, pin!(bench.dom0.sleep(Duration::from_millis(20)))).await;
}

/// Each kind of message that cannot be, before and after a copy that is complete: the channel ends, and with an honest daemon
/// everything is as it should be.
#[test]
fn messages_that_cannot_be() {
    let copied = || [raw(11, "/a", b"1"), raw(11, "", b"")].concat();
    let mut no_nul = raw(1, "/a", b"x");
    no_nul[1..65].fill(b'a');
    let with_len = |len: u32| {
        let mut message = raw(1, "/a", b"");
        message[68..72].copy_from_slice(&len.to_le_bytes());
        message
    };
    let mut all: Vec<Vec<u8>> = [0, 2, 3, 5, 6, 10, 12, 13, 255].iter().map(|kind| raw(*kind, "/a", b"")).collect();
    all.extend([no_nul, with_len(3072), with_len(u32::MAX), raw(1, "/a b", b""), raw(1, "-", b"")]);
    let after: Vec<Vec<u8>> =
        all.iter().chain([&raw(11, "/b", b"")]).map(|bad| [copied(), bad.clone()].concat()).collect();
    all.extend(after);
    all.extend([raw(11, "/a", b"\0"), raw(11, "/a/", b"x"), raw(11, "a", b"x")]);
    check("bad messages", 4, |xen| {
        let bench = bench(xen);
        let (used, all) = (bench.clone(), all.clone());
        xen.run(async move {
            let (db, runner) = Database::new(used.qube.clone(), &used.qube_store, Options::default());
            let running = used.qube.spawn(runner);
            let mut server = server(&used);
            for bytes in &all {
                let mut channel = server.accept().await.unwrap();
                let mut asked = [0; 72];
                assert!(read_exact(&mut channel, &mut asked).await);
                assert!(write_all(&mut channel, bytes).await);
                // Ended by the client, not by its patience.
                let begin = used.dom0.now();
                let mut answers = [0; 512];
                while let Ok(1..) = channel.read(&mut answers).await {}
                assert!(used.dom0.now() - begin < Duration::from_secs(5), "{:?} is taken", &bytes[..16]);
            }
            honest(&used, server, &db).await;
            drop(db);
            running.await;
        });
        bench.check_no_leak();
    });
}

/// An honest daemon, at last.
async fn honest(bench: &Bench, mut server: xen_vchan::Server<Domain>, db: &Database) {
    let daemon = Rc::<Daemon>::default();
    daemon.write("/qubes-ip", b"10.137.0.5");
    let channel = server.accept().await.unwrap();
    let serving = pin!(daemon.serve(channel));
    let until = pin!(bench.until("all is as it should be", || db.list("").len() == 1 && db.is_connected()));
    match select(serving, until).await {
        Either::Left(_) => panic!("an honest daemon was left"),
        Either::Right(_) => assert_eq!(db.text("/qubes-ip").as_deref(), Some("10.137.0.5")),
    }
}

/// Bytes that have a grain of truth, cut at any place; daemons that close at any time, and those that come and go: few
/// connections, few lines.
#[test]
fn anything_and_the_end_at_any_byte() {
    keep_log();
    check("anything", 40, |xen| {
        xen.set_faults(faults());
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            take_log();
            let (db, runner) = Database::new(used.qube.clone(), &used.qube_store, Options::default());
            let running = used.qube.spawn(runner);
            let mut changes = db.watch("/a");
            let mut server = server(&used);
            let begin = used.dom0.now();
            for _ in 0..12 {
                let channel = server.accept().await.unwrap();
                let mut bytes = Vec::new();
                for _ in 0..1 + used.xen.random(20) {
                    let kind =
                        [1, 1, 4, 4, 7, 8, 9, 11, 11, 11, 11, used.xen.random(256) as u8][used.xen.random(12) as usize];
                    let path = ["/a", "/b/c", "/b/", "", "/", "/x/y/z"][used.xen.random(6) as usize];
                    let value: Vec<u8> = (0..used.xen.random(40)).map(|_| used.xen.random(256) as u8).collect();
                    bytes.extend(raw(kind, path, &value));
                }
                bytes.truncate(used.xen.random(bytes.len() as u64 + 1) as usize);
                misbehave(&used, channel, &bytes).await;
            }
            assert!(used.dom0.now() - begin > Duration::from_secs(30), "it connects without a pause");
            honest(&used, server, &db).await;
            let lines = take_log().iter().filter(|line| line.contains("QubesDB")).count();
            assert!(lines <= 16, "{lines} lines");
            drop(db);
            running.await;
            while changes.next().await.is_some() {}
        });
        bench.check_no_leak();
    });
}

/// Pushes without end: memory stays bounded, watches too, and other tasks run.
#[test]
fn a_flood_of_changes() {
    check("flood", 4, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let mut options = Options::default();
            options.max_bytes = 64 << 10;
            let (db, runner) = Database::new(used.qube.clone(), &used.qube_store, options);
            let running = used.qube.spawn(runner);
            let changes = db.watch("");
            let mut server = server(&used);
            let mut channel = server.accept().await.unwrap();
            let mut asked = [0; 72];
            assert!(read_exact(&mut channel, &mut asked).await);
            assert!(write_all(&mut channel, &raw(11, "", b"")).await);
            let (mut from, mut to) = channel.split();
            let reading = used.dom0.spawn(async move {
                let (mut bytes, mut answers) = ([0; 4096], 0);
                while let Ok(len @ 1..) = from.read(&mut bytes).await {
                    answers += len;
                }
                answers
            });
            let (ticks, qube) = (Rc::new(Cell::new(0_u32)), used.qube.clone());
            let counted = ticks.clone();
            let ticking = used.qube.spawn(async move {
                loop {
                    qube.sleep(Duration::from_micros(100)).await;
                    counted.set(counted.get() + 1);
                }
            });
            let begin = used.dom0.now();
            for number in 0..4000 {
                let path = format!("/flood/{number}");
                to.write_message(&raw(1, &path, &[b'x'; 300])).await.unwrap();
            }
            let took = used.dom0.now() - begin;
            drop(to);
            let due = (took.as_micros() / 100) as u32;
            assert!(ticks.get() * 4 > due, "{} of {due} ticks", ticks.get());
            let kept = db.list("");
            assert!(!kept.is_empty() && kept.len() <= (64 << 10) / 396, "{}", kept.len());
            assert!(db.is_incomplete("/flood/"));
            drop(ticking);
            drop((db, changes));
            running.await;
            assert_eq!(reading.await % 72, 0);
        });
        xen.check_budgets();
        bench.check_no_leak();
    });
}
