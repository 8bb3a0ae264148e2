//! Peers that write what they like to their nodes of the store, as fast as they can.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use xen_blkif::back::{self as blkback, Attachment};
use xen_blkif::front;
use xen_blkif::ramdisk::RamDisk;
use xen_hal::{Access, Clock, EventChannels, Grant, GrantTable, Pages, Port};
use xen_netif::{back as netback, front as netfront};
use xen_sim::{Domain, SimGrant, SimPort, Toolstack, Xen, check, keep_log, take_log};
use xenbus::EndReason;
use xenstore_client::{Error, Store};

const DISK: u32 = 51712;

/// A guest without a driver, and the backend's driver that it is a guest of.
struct Bench {
    guest: Domain,
    back: Domain,
    toolstack: Toolstack,
    store: Store,
    /// The frontend's directory and the backend's.
    front_path: String,
    back_path: String,
    class: &'static str,
    device: u32,
}

impl Bench {
    /// With the device there, and the backend waiting for its frontend.
    async fn attach(xen: Xen, class: &'static str) -> Bench {
        let (guest, back) = (xen.domain(), xen.domain());
        let toolstack = xen.toolstack();
        let (store, domain) = (back.store(), back.clone());
        back.spawn(async move {
            let own = domain.clone();
            match class {
                "vbd" => {
                    let open = async |_: &Attachment| Ok(RamDisk::new(domain.clone(), 64).unwrap());
                    let limits = blkback::Limits::default();
                    drop(blkback::serve(&store, own, limits, open, |_, _| {}).await);
                }
                _ => {
                    let limits = netback::Limits::default();
                    drop(netback::serve(&store, own, limits, |_| Ok(())).await);
                }
            }
        })
        .detach();
        let device = if class == "vbd" { DISK } else { 0 };
        let nodes = [("params", "disk"), ("mode", "w"), ("mac", "00:16:3e:01:02:03")];
        toolstack.attach_with(class, guest.id(), back.id(), device, &nodes).await.unwrap();
        let (front_path, back_path) = Toolstack::paths(class, guest.id(), back.id(), device);
        let store = guest.store();
        let bench = Bench { guest, back, toolstack, store, front_path, back_path, class, device };
        bench.until_backend("2").await;
        bench
    }

    async fn set(&self, key: &str, value: &str) {
        self.store.set(&format!("{}/{key}", self.front_path), value).await.unwrap();
    }

    /// What the backend's state is.
    async fn backend(&self) -> Option<String> {
        self.store.get(&format!("{}/state", self.back_path)).await.unwrap()
    }

    /// Waits until the backend is in one of these states, and says in which.
    async fn until_backend(&self, states: &str) -> String {
        let path = format!("{}/state", self.back_path);
        let reached = self.store.wait_for(&path, |value| {
            let value = std::str::from_utf8(value?).ok()?;
            states.contains(value).then(|| value.to_owned())
        });
        let deadline = self.guest.sleep(Duration::from_secs(20));
        match select(std::pin::pin!(reached), deadline).await {
            Either::Left((state, _)) => state.unwrap(),
            Either::Right(_) => {
                panic!("the backend is not in one of the states {states} but {:?}", self.backend().await)
            }
        }
    }

    /// Publishes rings, and says that they are.
    async fn publish(&self) -> Result<Rings, Error> {
        let grant = || {
            let page = self.guest.alloc_page().unwrap();
            self.guest.grant(page, self.back.id(), Access::ReadWrite).unwrap()
        };
        let grants = vec![grant(), grant()];
        let port = self.guest.alloc_unbound(self.back.id()).unwrap();
        let references: Vec<String> = grants.iter().map(|grant: &SimGrant| grant.reference().0.to_string()).collect();
        let number = port.number().0.to_string();
        let keys = match self.class {
            "vbd" => vec![("ring-ref", &*references[0]), ("event-channel", &number), ("state", "3")],
            _ => vec![
                ("tx-ring-ref", &*references[0]),
                ("rx-ring-ref", &*references[1]),
                ("event-channel", &number),
                ("request-rx-copy", "1"),
                ("state", "4"),
            ],
        };
        self.store
            .transaction(async |tree| -> Result<(), Error> {
                for (key, value) in &keys {
                    tree.set(&format!("{}/{key}", self.front_path), *value).await?;
                }
                Ok(())
            })
            .await?;
        Ok(Rings { _grants: grants, _port: port })
    }

    /// What the backend has written to the device's error node.
    async fn error(&self) -> Option<String> {
        let home = format!("/local/domain/{}", self.back.id().0);
        let path = self.back_path.strip_prefix(&home).unwrap();
        self.toolstack.store().get(&format!("{home}/error{path}/error")).await.unwrap()
    }

    /// The toolstack takes the device away, in a second.
    async fn detach(&self) {
        let before = self.guest.now();
        let detached = self.toolstack.detach(self.class, self.guest.id(), self.back.id(), self.device).await;
        assert_eq!((detached, self.guest.now() - before < Duration::from_secs(1)), (Ok(true), true));
    }
}

struct Rings {
    _grants: Vec<SimGrant>,
    _port: SimPort,
}

/// Linux reads features by `xenbus_read_unsigned`, with 0 for what is no number.
#[test]
fn a_feature_that_is_no_number_is_not_asked_for() {
    for (class, keys) in [
        ("vbd", &["feature-persistent", "multi-queue-num-queues"][..]),
        (
            "vif",
            &[
                "feature-sg",
                "feature-gso-tcpv4",
                "feature-no-csum-offload",
                "feature-rx-notify",
                "multi-queue-num-queues",
            ],
        ),
    ] {
        for value in ["banana", "-1", "", "1.5", "99999999999", "\x1b]0;x\x07\u{202e}", "9".repeat(1900).leak()] {
            check("features", 1, |xen| {
                keep_log();
                let machine = xen.clone();
                xen.run(async move {
                    let bench = Bench::attach(machine, class).await;
                    for key in keys {
                        bench.set(key, value).await;
                    }
                    let _rings = bench.publish().await.unwrap();
                    bench.until_backend("4").await;
                    assert_eq!(bench.error().await, None);
                    let log = take_log();
                    for key in keys {
                        let told: Vec<_> = log.iter().filter(|line| line.contains(key)).collect();
                        assert_eq!(told.len(), 1, "one line names {key}: {log:?}");
                        assert!(told[0].contains("is not a number") && told[0].len() < 400, "{told:?}");
                        let shown = value.chars().take(10).flat_map(char::escape_debug).collect::<String>();
                        assert!(told[0].contains(&shown), "{told:?} has no {shown}");
                    }
                    assert!(log.iter().all(|line| !line.chars().any(char::is_control)), "{log:?}");
                    bench.set("state", "6").await;
                    bench.detach().await;
                });
            });
        }
    }
}

/// What a device cannot do without fails it, and says which key and what it holds, in a way that fits a line.
#[test]
fn a_required_key_that_is_no_number_fails_the_device() {
    for (class, key) in
        [("vbd", "ring-ref"), ("vbd", "event-channel"), ("vif", "tx-ring-ref"), ("vif", "event-channel")]
    {
        for value in ["banana", "", "\x1b[2J\x1b[31mroot@dom0:~# \r\n", "\x1b".repeat(1900).leak()] {
            check("required keys", 1, |xen| {
                keep_log();
                let machine = xen.clone();
                xen.run(async move {
                    let bench = Bench::attach(machine, class).await;
                    let rings = bench.publish().await.unwrap();
                    bench.until_backend("4").await;
                    bench.set("state", "6").await;
                    bench.until_backend("6").await;
                    bench.set("state", "1").await;
                    bench.until_backend("2").await;
                    bench.set(key, value).await;
                    bench.set("state", if class == "vbd" { "3" } else { "4" }).await;
                    bench.until_backend("56").await;
                    let error = bench.error().await.expect("the device's error node says why");
                    let path = format!("{}/{key}: expected a", bench.front_path);
                    assert!(error.contains(&path) && error.len() < 600, "{error}");
                    let log = take_log();
                    assert!(log.iter().any(|line| line.contains(&path)), "{log:?}");
                    for line in log.iter().chain([&error]) {
                        assert!(line.len() < 700 && !line.chars().any(char::is_control), "{line:?}");
                    }
                    drop(rings);
                    bench.set("state", "6").await;
                    bench.detach().await;
                });
            });
        }
    }
}

/// A text that goes into the failure as it is: as long as a node's value can be, it once did not fit the error node, and
/// the store's refusal ended the driver.
#[test]
fn a_text_of_a_peer_is_cut_and_escaped() {
    for value in ["\x1b[2J\n".repeat(300), "x".repeat(1900), "\u{202e}".repeat(600)] {
        check("protocol", 1, move |xen| {
            keep_log();
            let (machine, value) = (xen.clone(), value.clone());
            xen.run(async move {
                let bench = Bench::attach(machine, "vbd").await;
                bench.set("protocol", &value).await;
                let _rings = bench.publish().await.unwrap();
                bench.until_backend("56").await;
                let error = bench.error().await.expect("the device's error node says why");
                for line in take_log().iter().chain([&error]) {
                    assert!(line.len() < 700 && !line.chars().any(char::is_control), "{line:?}");
                    assert!(!line.contains('\u{202e}'), "{line:?}");
                }
                bench.set("state", "6").await;
                bench.detach().await;
            });
        });
    }
}

/// Keys that change while they are read are read again, and not without end.
#[test]
fn keys_that_never_stop_changing_fail_the_device() {
    check("torn keys", 30, |xen| {
        let machine = xen.clone();
        xen.run(async move {
            let bench = Rc::new(Bench::attach(machine.clone(), "vbd").await);
            let stop = Rc::new(Cell::new(false));
            let _rings = bench.publish().await.unwrap();
            // As many writers as it takes to be faster than the reader.
            let writers: Vec<_> = (0..16)
                .map(|writer| {
                    let (bench, stop) = (bench.clone(), stop.clone());
                    bench.guest.clone().spawn(async move {
                        while !stop.get() {
                            bench.set("protocol", if writer % 2 == 0 { "x86_64-abi" } else { "x86_32-abi" }).await;
                        }
                    })
                })
                .collect();
            let before = machine.server().borrow().requests(bench.back.id());
            let reached = bench.until_backend("456").await;
            let requests = machine.server().borrow().requests(bench.back.id()) - before;
            assert!(requests < 200, "{requests} requests of the backend's");
            if reached != "4" {
                let error = bench.error().await.unwrap();
                assert!(error.contains("the frontend has changed"), "{error}");
            }
            stop.set(true);
            for writer in writers {
                writer.await;
            }
            bench.set("state", "6").await;
            bench.detach().await;
        });
    });
}

/// A frontend that connects and closes without end: with all the other end's steps, or with no regard for it.
async fn cycle(bench: &Bench, polite: bool, seed: u64, until: Duration) {
    let up = if bench.class == "vbd" { "3" } else { "4" };
    let _rings = bench.publish().await.unwrap();
    let mut turn = seed;
    while bench.guest.now() < until {
        for state in ["1", up, "4", "5", "6"] {
            bench.set("state", state).await;
            turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bench.guest.sleep(Duration::from_micros((turn >> 33) % 400)).await;
            if polite {
                let wanted = match state {
                    "1" => "2",
                    "5" | "6" => "6",
                    _ => "4",
                };
                let path = format!("{}/state", bench.back_path);
                let reached = bench.store.wait_for(&path, |value| (value? == wanted.as_bytes()).then_some(()));
                let deadline = bench.guest.sleep_until(until);
                drop(select(std::pin::pin!(reached), deadline).await);
            }
        }
    }
}

/// However fast a frontend comes and goes, what that costs the backend in requests to the store and in lines of its log is
/// bounded, and the toolstack is heard at any time.
#[test]
fn a_frontend_that_comes_and_goes_without_end_has_to_wait() {
    for (class, polite) in [("vbd", true), ("vbd", false), ("vif", true), ("vif", false)] {
        check("cycles", 4, |xen| {
            keep_log();
            let (machine, seed) = (xen.clone(), xen.seed());
            xen.run(async move {
                let bench = Bench::attach(machine.clone(), class).await;
                let before = machine.server().borrow().requests(bench.back.id());
                cycle(&bench, polite, seed, bench.guest.now() + Duration::from_secs(20)).await;
                let requests = machine.server().borrow().requests(bench.back.id()) - before;
                let log = take_log();
                // The line that says so is there, with the count of what it stands for.
                let pauses =
                    log.iter().filter(|line| line.contains("times in a row") || line.contains("th time in a row"));
                assert!((1..8).contains(&pauses.count()), "{log:#?}");
                assert!(requests < 2500 && log.len() < 150, "{requests} requests, {} lines", log.len());
                // The steps of the first connections alone.
                let steps = log.iter().filter(|line| line.ends_with(": InitWait (2)")).count();
                assert!(steps <= 8, "{log:#?}");
                // In the middle of the next pause.
                bench.set("state", "1").await;
                bench.guest.sleep(Duration::from_millis(500)).await;
                assert_eq!(bench.backend().await.as_deref(), Some("6"));
                bench.detach().await;
            });
        });
    }
}

/// What guests really do: a loader before the kernel, a kernel that boots another, a driver that is loaded anew.
#[test]
fn a_frontend_that_comes_back_a_few_times_is_served_at_once() {
    check("reconnects", 5, |xen| {
        keep_log();
        let machine = xen.clone();
        xen.run(async move {
            let bench = Bench::attach(machine, "vbd").await;
            for row in 0..3 {
                for turn in 0..6 {
                    let rings = bench.publish().await.unwrap();
                    bench.until_backend("4").await;
                    if turn == 5 {
                        // In use for as long as makes the row forgotten.
                        bench.guest.sleep(Duration::from_secs(61)).await;
                    }
                    bench.set("state", "5").await;
                    bench.until_backend("6").await;
                    drop(rings);
                    bench.set("state", "6").await;
                    let before = bench.guest.now();
                    bench.set("state", "1").await;
                    bench.until_backend("2").await;
                    let took = bench.guest.now() - before;
                    assert!(took < Duration::from_millis(20), "connection {turn} of row {row} waits for {took:?}");
                }
            }
            assert!(!take_log().iter().any(|line| line.contains("in a row")));
            bench.detach().await;
        });
    });
}

/// XSA-349: the events of what a guest writes to its own nodes, of which each is of another, long name.
#[test]
fn xsa_349_events_of_nodes_without_end_take_neither_memory_nor_requests() {
    check("noise", 3, |xen| {
        let machine = xen.clone();
        xen.run(async move {
            let bench = Bench::attach(machine.clone(), "vif").await;
            let _rings = bench.publish().await.unwrap();
            bench.until_backend("4").await;
            let before = machine.server().borrow().requests(bench.back.id());
            let begun = bench.guest.now();
            for node in 0..300 {
                bench.set(&format!("state/{node}/{}", "x".repeat(1500)), "").await;
                bench.set("state", "4").await;
            }
            let took = bench.guest.now() - begun;
            let requests = machine.server().borrow().requests(bench.back.id()) - before;
            // A look costs three requests; there are 32 at once, and then one in 100 ms. One more is the connection's own.
            let looks = 32 + took.as_millis() as u64 / 100 + 2;
            assert!(requests <= 3 * looks, "{requests} requests in {took:?}");
            assert_eq!(bench.backend().await.as_deref(), Some("4"));
            bench.set("state", "6").await;
            bench.until_backend("6").await;
            bench.detach().await;
        });
    });
}

/// The other way round: a backend that a frontend has to put up with.
#[test]
fn a_backend_that_comes_and_goes_without_end_has_to_wait() {
    for states in
        [&["2", "4", "5", "6"][..], &["2", "6"], &["1", "2", "4", "6"], &["2", "4", "2", "4"], &["4", "8", "7"]]
    {
        check("backend cycles", 3, |xen| {
            keep_log();
            let (machine, mut turn) = (xen.clone(), xen.seed());
            xen.run(async move {
                let (guest, back) = (machine.domain(), machine.domain());
                let toolstack = machine.toolstack();
                let nodes = [("sectors", "64"), ("sector-size", "512"), ("info", "0")];
                toolstack.attach_with("vbd", guest.id(), back.id(), DISK, &nodes).await.unwrap();
                let (_, path) = Toolstack::paths("vbd", guest.id(), back.id(), DISK);
                let (front_store, store) = (guest.store(), back.store());
                let domain = guest.clone();
                let (disk, runner) = front::connect(
                    &front_store,
                    domain.clone(),
                    &format!("device/vbd/{DISK}"),
                    front::Options::default(),
                );
                let driver = guest.spawn(runner);
                let end = back.now() + Duration::from_secs(20);
                while back.now() < end {
                    for state in states {
                        store.set(&format!("{path}/state"), *state).await.unwrap();
                        turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        back.sleep(Duration::from_micros((turn >> 33) % 2000)).await;
                    }
                }
                let requests = machine.server().borrow().requests(guest.id());
                let log = take_log();
                assert!(requests < 3500 && log.len() < 150, "{requests} requests, {} lines", log.len());
                // The toolstack, which takes the device away by force, is heard at once.
                toolstack.store().remove(&format!("/local/domain/{}/device/vbd/{DISK}", guest.id().0)).await.unwrap();
                let before = guest.now();
                assert_eq!(driver.await, Ok(EndReason::Removed));
                assert!(guest.now() - before < Duration::from_secs(1));
                drop(disk);
            });
        });
    }
}

/// How many lines have this in them.
fn count(log: &[String], text: &str) -> usize {
    log.iter().filter(|line| line.contains(text)).count()
}

/// A few at once, and then one each minute.
fn allowed(time: Duration) -> usize {
    9 + time.as_secs() as usize / 60
}

/// A frontend that stays connected for as long as makes its row forgotten, and then comes and goes as often as it is served
/// at once: in an hour that is some hundred connections, without a pause.
#[test]
fn connections_of_a_frontend_without_end_do_not_fill_the_log() {
    for class in ["vbd", "vif"] {
        check("rows of connections", 1, |xen| {
            keep_log();
            let machine = xen.clone();
            xen.run(async move {
                let bench = Bench::attach(machine, class).await;
                let begun = bench.guest.now();
                for turn in 0..120 {
                    let rings = bench.publish().await.unwrap();
                    bench.until_backend("4").await;
                    if turn % 6 == 5 {
                        bench.guest.sleep(Duration::from_secs(61)).await;
                    }
                    bench.set("state", "5").await;
                    bench.until_backend("6").await;
                    drop(rings);
                    bench.set("state", "6").await;
                    bench.set("state", "1").await;
                    bench.until_backend("2").await;
                }
                let (log, most) = (take_log(), allowed(bench.guest.now() - begun));
                assert!(most < 35 && count(&log, "in a row") == 0, "{log:#?}");
                assert!((2..=most).contains(&count(&log, ": connected with")), "{log:#?}");
                assert!((2..=most).contains(&count(&log, ": Connected (4)")), "{log:#?}");
                assert!((1..=most).contains(&count(&log, " lines suppressed")), "{log:#?}");
                assert!(log.len() < 6 * most, "{} lines: {log:#?}", log.len());
                bench.detach().await;
            });
        });
    }
}

/// A frontend that fails its device in other words each time, and does not close it.
#[test]
fn failures_without_end_do_not_fill_the_log() {
    check("failures", 1, |xen| {
        keep_log();
        let machine = xen.clone();
        xen.run(async move {
            let bench = Bench::attach(machine, "vbd").await;
            let (begun, path) = (bench.guest.now(), format!("{}/state", bench.back_path));
            for turn in 0..120 {
                bench.set("ring-ref", &format!("banana{turn}")).await;
                bench.set("state", "3").await;
                bench.until_backend("6").await;
                // Where the toolstack looks for it, it is in any case.
                let error = bench.error().await.expect("the device's error node says why");
                assert!(error.contains(&format!("banana{turn}")), "{error}");
                bench.set("state", "6").await;
                bench.set("state", "1").await;
                bench.store.wait_for(&path, |value| (value? == b"2").then_some(())).await.unwrap();
            }
            let (log, most) = (take_log(), allowed(bench.guest.now() - begun));
            assert!(most < 90, "{most}");
            for text in ["banana", "timeout closing device", "in a row"] {
                assert!((1..=most).contains(&count(&log, text)), "{text}: {log:#?}");
            }
            bench.detach().await;
        });
    });
}

/// A backend that comes and goes, and whose features are nonsense.
#[test]
fn connections_of_a_backend_without_end_do_not_fill_the_log() {
    check("backends", 1, |xen| {
        keep_log();
        let machine = xen.clone();
        xen.run(async move {
            let (guest, back) = (machine.domain(), machine.domain());
            let toolstack = machine.toolstack();
            let nodes = [("mac", "00:16:3e:01:02:03"), ("feature-rx-copy", "1"), ("feature-sg", "banana")];
            toolstack.attach_with("vif", guest.id(), back.id(), 0, &nodes).await.unwrap();
            let (front_path, path) = Toolstack::paths("vif", guest.id(), back.id(), 0);
            toolstack.store().set(&format!("{front_path}/mac"), "00:16:3e:01:02:03").await.unwrap();
            let (front_store, store) = (guest.store(), back.store());
            let options = netfront::Options::default();
            let (interface, runner) = netfront::connect(&front_store, guest.clone(), "device/vif/0", options);
            let driver = guest.spawn(runner);
            let state = format!("{front_path}/state");
            let begun = back.now();
            for turn in 0..120 {
                store.set(&format!("{path}/state"), "2").await.unwrap();
                store.wait_for(&state, |value| (value? == b"4").then_some(())).await.unwrap();
                store.set(&format!("{path}/state"), "4").await.unwrap();
                back.sleep(Duration::from_millis(if turn % 6 == 5 { 61_000 } else { 10 })).await;
                store.set(&format!("{path}/state"), "5").await.unwrap();
                store.wait_for(&state, |value| (value? == b"6").then_some(())).await.unwrap();
            }
            let (log, most) = (take_log(), allowed(back.now() - begun));
            assert!(most < 35, "{most}");
            assert_eq!(count(&log, "is not a number"), 1, "{log:#?}");
            assert!((2..=most).contains(&count(&log, ": up, served by")), "{log:#?}");
            assert!((2..=most).contains(&count(&log, ": Closed (6)")), "{log:#?}");
            assert!(log.len() < 6 * most, "{} lines: {log:#?}", log.len());
            drop(interface);
            toolstack.store().remove(&front_path).await.unwrap();
            assert_eq!(driver.await, Ok(EndReason::Removed));
        });
    });
}
