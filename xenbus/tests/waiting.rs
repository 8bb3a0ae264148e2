//! A frontend whose backend does not come, or that cannot connect itself, says so.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use xen_hal::{Access, Clock, Errno, GrantTable, Pages};
use xen_sim::{Domain, Faults, SimGrant, SimPort, Toolstack, Xen, check, keep_log, take_log};
use xenbus::{Device, Failure, Frontend, Keys, Phase, Signals, State, Status, frontend};
use xenstore_client::{Error, Store};

/// A frontend of one page and one port.
struct Plain {
    domain: Domain,
    status: Rc<Status<(), ()>>,
    tries: Rc<Cell<u32>>,
}

impl Frontend for Plain {
    const PUBLISHED: State = State::Connected;
    type Link = (SimGrant, SimPort);

    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
        self.tries.set(self.tries.get() + 1);
        let short = |error: &dyn std::fmt::Display| Failure::new(Errno::ENOSPC, format_args!("the ring: {error}"));
        let page = self.domain.alloc_page().map_err(|error| short(&error))?;
        let grant = self.domain.grant(page, device.other_domain(), Access::ReadWrite);
        let grant = grant.map_err(|refused| short(&refused.error))?;
        Ok((grant, device.alloc_port(&self.domain)?))
    }

    async fn publish(&mut self, keys: &Keys<'_>, link: &Self::Link) -> Result<(), Error> {
        keys.set("event-channel", &xen_hal::Port::number(&link.1)).await
    }

    async fn accept(&mut self, _: &Device, _: &mut Self::Link) -> Result<(), Failure> {
        Ok(())
    }

    async fn run(&mut self, _: &Device, _: Self::Link, signals: &Signals) -> Result<(), Failure> {
        self.status.set_phase(Phase::Up);
        signals.closing().await;
        self.status.set_phase(Phase::Waiting);
        Ok(())
    }

    fn lost(&mut self) {
        self.status.set_phase(Phase::Gone);
    }
}

/// A guest with a frontend, whose backend is the test.
struct Bench {
    guest: Domain,
    back: Domain,
    store: Store,
    back_path: String,
    status: Rc<Status<(), ()>>,
    tries: Rc<Cell<u32>>,
    began: Duration,
}

impl Bench {
    async fn new(xen: &Xen) -> Bench {
        keep_log();
        let (guest, back, toolstack) = (xen.domain(), xen.domain(), xen.toolstack());
        toolstack.attach("vif", guest.id(), back.id(), 0).await.unwrap();
        let (_, back_path) = Toolstack::paths("vif", guest.id(), back.id(), 0);
        let (status, tries) = (Rc::new(Status::new(())), Rc::<Cell<u32>>::default());
        let mut driver = Plain { domain: guest.clone(), status: status.clone(), tries: tries.clone() };
        let (own, clock) = (guest.store(), guest.clone());
        guest.spawn(async move { drop(frontend(&own, clock, "device/vif/0", &mut driver).await) }).detach();
        let store = toolstack.store().clone();
        Bench { began: guest.now(), guest, back, store, back_path, status, tries }
    }

    async fn set(&self, key: &str, value: &str) {
        self.store.set(&format!("{}/{key}", self.back_path), value).await.unwrap();
    }

    /// Lets the frontend be until so many seconds after it has begun, and returns what it has logged, but for its states.
    async fn lines_until(&self, seconds: u64) -> Vec<String> {
        self.guest.sleep_until(self.began + Duration::from_secs(seconds)).await;
        let own = |line: &String| line.starts_with("device/vif/0: ");
        let mut lines: Vec<_> = take_log().into_iter().filter(own).collect();
        let is_state = |line: &str| State::ALL.iter().any(|state| line == format!("device/vif/0: {state}"));
        lines.retain(|line| !is_state(line));
        lines
    }
}

fn bench_check(name: &str, test: impl AsyncFn(&Bench) + Copy + Sync + 'static) {
    check(name, 4, move |xen| {
        xen.set_faults(Faults { store_delay: Duration::from_micros(300), ..Faults::default() });
        let machine = xen.clone();
        xen.run(async move {
            let bench = Bench::new(&machine).await;
            test(&bench).await;
        });
    });
}

#[test]
fn a_backend_that_never_begins_is_told_of_three_times() {
    bench_check("never begins", async |bench| {
        let line = |seconds| {
            format!(
                "device/vif/0: waiting for its backend for {seconds} s (domain {}, state 1, Initialising): its driver \
                 has not begun (is it loaded in that domain?)",
                bench.back.id().0
            )
        };
        assert_eq!(bench.lines_until(4).await, [""; 0]);
        assert_eq!(bench.lines_until(6).await, [line(5)]);
        assert_eq!(bench.lines_until(59).await, [""; 0]);
        assert_eq!(bench.lines_until(599).await, [line(60)]);
        assert_eq!(bench.lines_until(3_000).await, [line(600)]);
        assert_eq!(bench.status.phase(), Phase::Waiting);
    });
}

#[test]
fn a_backend_that_does_not_connect_is_told_of_with_its_hotplug_status() {
    bench_check("does not connect", async |bench| {
        bench.set("state", "2").await;
        let line = |seconds, rest| {
            let domain = bench.back.id().0;
            format!(
                "device/vif/0: waiting for its backend for {seconds} s (domain {domain}, state 2, InitWait): {rest}"
            )
        };
        let no_status = "its hotplug script has not finished (there is no hotplug-status)";
        assert_eq!(bench.lines_until(10).await, [line(5, no_status)]);
        bench.set("hotplug-status", "error\u{1b}[2J").await;
        assert_eq!(bench.lines_until(70).await, [line(60, "its hotplug-status is \"error\\u{1b}[2J\"")]);
        bench.set("hotplug-status", "connected").await;
        let finished = "its hotplug script has finished, and it does not connect";
        assert_eq!(bench.lines_until(700).await, [line(600, finished)]);
        bench.guest.sleep(Duration::from_millis(500)).await;
        bench.set("state", "4").await;
        assert_eq!(bench.lines_until(702).await, ["device/vif/0: its backend is connected, after 700 s"]);
        assert_eq!(bench.status.phase(), Phase::Up);
        // Another wait is another matter.
        bench.set("state", "6").await;
        assert_eq!(bench.lines_until(704).await, [""; 0]);
        let ended = "(domain 2, state 6, Closed): it has ended (that domain's log may say why)";
        bench.set("online", "0").await;
        bench.set("state", "6").await;
        let lines = bench.lines_until(760).await;
        assert!(lines.iter().any(|line| line.ends_with(ended)), "{lines:?}");
    });
}

#[test]
fn a_backend_without_a_directory_is_told_of() {
    bench_check("no directory", async |bench| {
        bench.store.remove(&bench.back_path).await.unwrap();
        let (domain, path) = (bench.back.id().0, &bench.back_path);
        let expected = format!("device/vif/0: waiting for its backend for 5 s (domain {domain}): {path} is missing");
        assert_eq!(bench.lines_until(20).await, [expected]);
    });
}

#[test]
fn a_backend_that_comes_soon_is_not_told_of() {
    bench_check("comes soon", async |bench| {
        bench.guest.sleep(Duration::from_secs(4)).await;
        bench.set("state", "2").await;
        bench.guest.sleep(Duration::from_millis(500)).await;
        bench.set("state", "4").await;
        assert_eq!(bench.lines_until(100).await, [""; 0]);
        assert_eq!(bench.status.phase(), Phase::Up);
    });
}

/// Events keep nobody from the line, and a backend that comes and goes does not fill the log.
#[test]
fn a_busy_backend_neither_hides_nor_multiplies_the_lines() {
    bench_check("busy", async |bench| {
        for _ in 0..200 {
            bench.set("state", "1").await;
            bench.guest.sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(bench.lines_until(11).await.len(), 1);
        let mut lines = 0;
        for round in 0..500 {
            for state in ["2", "4", "1"] {
                bench.set("state", state).await;
                bench.guest.sleep(Duration::from_secs(1)).await;
            }
            lines += bench.lines_until(20 + 10 * round).await.len();
        }
        let minutes = (bench.guest.now() - bench.began).as_secs() as usize / 60;
        // Those of both limits: of waits, and of connections.
        assert!(lines <= 2 * (8 + minutes) + minutes, "{lines} lines in {minutes} minutes");
    });
}

#[test]
fn a_frontend_that_lacks_grants_says_so_once_and_tries_ever_less_often() {
    check("no grants", 4, |xen| {
        xen.set_faults(Faults { grants: 100, ..Faults::default() });
        let machine = xen.clone();
        xen.run(async move {
            let bench = Bench::new(&machine).await;
            bench.set("state", "2").await;
            let expected = "device/vif/0: cannot connect: the ring: the grant table is full (ENOSPC); trying again in \
                            5 s, then less often";
            assert_eq!(bench.lines_until(3_000).await, [expected]);
            // After 5, 15, 35, 75 s, and then once a minute.
            let tries = bench.tries.get();
            assert!((52..=54).contains(&tries), "{tries} tries");
            let error = format!("/local/domain/{}/error/device/vif/0/error", bench.guest.id().0);
            assert_eq!(bench.store.read_as::<String>(&error).await.unwrap(), "28 the ring: the grant table is full");
            assert_eq!(bench.status.phase(), Phase::Waiting, "there may be grants again");
            // A backend that pokes does not have it try sooner.
            for _ in 0..100 {
                bench.set("state", "2").await;
                bench.guest.sleep(Duration::from_millis(100)).await;
            }
            assert!(bench.tries.get() <= tries + 1);
            machine.set_faults(Faults::default());
            let state = format!("/local/domain/{}/device/vif/0/state", bench.guest.id().0);
            while bench.tries.get() == tries || bench.store.read(&state).await.unwrap() == b"1" {
                bench.guest.sleep(Duration::from_millis(100)).await;
            }
            bench.set("state", "4").await;
            let lines = bench.lines_until(3_100).await;
            assert!(lines.len() == 1 && lines[0].starts_with("device/vif/0: has what it needs after 30"), "{lines:?}");
            assert_eq!(bench.status.phase(), Phase::Up);
        });
    });
}
