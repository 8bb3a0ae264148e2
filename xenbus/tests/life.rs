//! Both ends of a device, made to meet and part in every order that a seed can think of.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use xen_hal::{
    Access, Clock, DomId, Errno, EventChannels, Grant, GrantRef, GrantTable, MapRequest, Mapping, Pages, Port,
    PortNumber,
};
use xen_ring::SharedMemory;
use xen_sim::{Domain, Faults, SimGrant, SimMapping, SimPort, Toolstack, Usage, Xen, check};
use xenbus::{Backend, Device, End, EndReason, Failure, Frontend, Keys, Signals, State, backend, frontend, serve};
use xenstore_client::{Error, Store};

/// What the ends have done, for a test to look at.
#[derive(Default)]
struct Log {
    /// Rounds of a bell and its answer.
    rounds: Cell<u32>,
    connected: Cell<u32>,
    served: Cell<u32>,
    failures: Cell<u32>,
    /// The frontend is to end by itself.
    stop: Cell<bool>,
    /// What the ends do goes wrong at this turn.
    fail: RefCell<Option<&'static str>>,
}

impl Log {
    fn step(&self, name: &'static str) -> Result<(), Failure> {
        match self.fail.borrow_mut().take_if(|fail| *fail == name) {
            None => Ok(()),
            Some(_) => {
                self.failures.set(self.failures.get() + 1);
                Err(Failure::new(Errno::EIO, format!("{name} fails on purpose")))
            }
        }
    }
}

fn count(cell: &Cell<u32>) {
    cell.set(cell.get() + 1);
}

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(Errno::EIO, error.to_string())
}

/// A frontend that rings and counts the answers.
struct Bell {
    domain: Domain,
    log: Rc<Log>,
}

impl Frontend for Bell {
    const PUBLISHED: State = State::Initialised;
    type Link = (SimGrant, SimPort);

    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
        self.log.step("offer")?;
        let page = self.domain.alloc_page().map_err(failure)?;
        let grant = self.domain.grant(page, device.other_domain(), Access::ReadWrite).map_err(failure)?;
        let port = self.domain.alloc_unbound(device.other_domain()).map_err(failure)?;
        Ok((grant, port))
    }

    async fn publish(&mut self, keys: &Keys<'_>, offer: &Self::Link) -> Result<(), Error> {
        keys.set("ring-ref", &offer.0.reference()).await?;
        keys.set("event-channel", &offer.1.number()).await
    }

    async fn accept(&mut self, device: &Device, _: &mut Self::Link) -> Result<(), Failure> {
        self.log.step("accept")?;
        let size: u32 = device.get_other("size").await?.ok_or_else(|| failure("no size"))?;
        assert_eq!(size, 7);
        Ok(())
    }

    async fn run(&mut self, _: &Device, offer: Self::Link, signals: &Signals) -> Result<(), Failure> {
        count(&self.log.connected);
        self.log.step("run of the frontend")?;
        loop {
            if self.log.stop.take() {
                return Ok(());
            }
            offer.1.notify();
            let pause = self.domain.sleep(Duration::from_millis(1));
            let event = select(offer.1.wait(), pause);
            match select(std::pin::pin!(signals.closing()), event).await {
                Either::Left(_) => return Ok(()),
                Either::Right((Either::Left(_), _)) => count(&self.log.rounds),
                Either::Right(_) => {}
            }
            let pause = self.domain.sleep(Duration::from_micros(300));
            if let Either::Left(_) = select(std::pin::pin!(signals.closing()), pause).await {
                return Ok(());
            }
        }
    }

    fn lost(&mut self) {}
}

/// A backend that answers each ring.
struct Echo {
    domain: Domain,
    log: Rc<Log>,
}

impl Backend for Echo {
    type Link = (SimMapping, SimPort);

    async fn prepare(&mut self, _: &Device) -> Result<(), Failure> {
        self.log.step("prepare")
    }

    async fn advertise(&mut self, keys: &Keys<'_>) -> Result<(), Error> {
        keys.set("feature-bell", &true).await
    }

    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
        self.log.step("connect")?;
        let reference: GrantRef = device.get_other("ring-ref").await?.ok_or_else(|| failure("no ring-ref"))?;
        let port: PortNumber = device.get_other("event-channel").await?.ok_or_else(|| failure("no event-channel"))?;
        let peer = device.other_domain();
        let mapping = self.domain.map(&[MapRequest { peer, reference, access: Access::ReadWrite }]).map_err(failure)?;
        let page = mapping.page(0).map_err(failure)?;
        // SAFETY: the page stays mapped while `mapping` lives, longer than this value does.
        unsafe { SharedMemory::new(page, 4096) }.store(0, 1);
        let port = self.domain.bind_interdomain(peer, port).map_err(failure)?;
        Ok((mapping, port))
    }

    async fn publish(&mut self, keys: &Keys<'_>, _: &Self::Link) -> Result<(), Error> {
        keys.set("size", &7_u32).await
    }

    async fn run(&mut self, _: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure> {
        count(&self.log.served);
        self.log.step("run of the backend")?;
        loop {
            match select(std::pin::pin!(signals.closing()), link.1.wait()).await {
                Either::Left(_) => return Ok(()),
                Either::Right(_) => link.1.notify(),
            }
        }
    }
}

fn start_frontends(domain: &Domain, log: &Rc<Log>) -> Store {
    let store = domain.store();
    let (used, log, own) = (store.clone(), log.clone(), domain.clone());
    domain
        .spawn(async move {
            let outcome = serve(&used, own.clone(), End::Frontend, "bell", |found| {
                let (store, log, domain) = (used.clone(), log.clone(), own.clone());
                async move {
                    let mut driver = Bell { domain: domain.clone(), log };
                    // One that has ended by itself begins again.
                    while frontend(&store, &domain, &found.path, &mut driver).await == Ok(EndReason::Stopped) {
                        domain.sleep(Duration::from_millis(3)).await;
                    }
                }
            })
            .await;
            drop(outcome);
        })
        .detach();
    store
}

fn start_backends(domain: &Domain, log: &Rc<Log>) -> Store {
    let store = domain.store();
    let (used, log, own) = (store.clone(), log.clone(), domain.clone());
    domain
        .spawn(async move {
            let outcome = serve(&used, own.clone(), End::Backend, "bell", |found| {
                assert!(found.frontend.is_some());
                let (store, log, domain) = (used.clone(), log.clone(), own.clone());
                async move {
                    let mut driver = Echo { domain: domain.clone(), log };
                    let ended = backend(&store, &domain, &found.path, &mut driver).await;
                    assert!(matches!(ended, Ok(EndReason::Removed) | Err(_)), "{ended:?}");
                }
            })
            .await;
            drop(outcome);
        })
        .detach();
    store
}

/// Waits until `done`, or fails with what is in the store.
async fn until(domain: &Domain, what: &str, done: impl Fn() -> bool) {
    let deadline = domain.now() + Duration::from_secs(60);
    while !done() {
        assert!(domain.now() < deadline, "not within a minute: {what}");
        domain.sleep(Duration::from_millis(1)).await;
    }
}

struct Bench {
    front: Domain,
    back: Domain,
    toolstack: Toolstack,
    dom0: Domain,
    log: Rc<Log>,
    before: (Usage, Usage),
}

fn bench(xen: &Xen) -> Bench {
    let log = Rc::<Log>::default();
    let toolstack = xen.toolstack();
    let (front, back) = (xen.domain(), xen.domain());
    start_frontends(&front, &log);
    start_backends(&back, &log);
    xen.settle();
    let dom0 = xen.dom0();
    let clock = dom0.clone();
    xen.run(async move { clock.sleep(Duration::from_secs(1)).await });
    let before = (front.in_use(), back.in_use());
    Bench { front, back, toolstack, dom0, log, before }
}

impl Bench {
    /// Lets everything come to rest, and checks that nothing is left of any device.
    fn check_no_leak(&self, xen: &Xen) {
        let clock = self.dom0.clone();
        xen.run(async move { clock.sleep(Duration::from_secs(20)).await });
        assert_eq!((self.front.in_use(), self.back.in_use()), self.before, "something has leaked");
        assert_eq!(xen.in_use().1, 0, "grants whose end was put off");
    }
}

#[test]
fn two_ends_find_each_other_and_part() {
    check("attach and detach", 200, |xen| {
        let bench = bench(xen);
        let (front, back) = (bench.front.id(), bench.back.id());
        let (toolstack, dom0, log) = (bench.toolstack.clone(), bench.dom0.clone(), bench.log.clone());
        xen.run(async move {
            for device in [51712, 51728, 51712] {
                let rounds = log.rounds.get();
                toolstack.attach("bell", front, back, device).await.unwrap();
                until(&dom0, "rounds", || log.rounds.get() > rounds + 3).await;
                let (at_front, at_back) = Toolstack::paths("bell", front, back, device);
                assert_eq!(toolstack.store().read(&format!("{at_front}/state")).await.unwrap(), b"4");
                assert_eq!(toolstack.store().read(&format!("{at_back}/state")).await.unwrap(), b"4");
                assert_eq!(toolstack.store().read(&format!("{at_back}/hotplug-status")).await.unwrap(), b"connected");
                assert!(toolstack.detach("bell", front, back, device).await.unwrap(), "closed in time");
            }
            assert_eq!((log.connected.get(), log.served.get()), (3, 3));
        });
        bench.check_no_leak(xen);
    });
}

#[test]
fn a_frontend_that_ends_by_itself_can_begin_again() {
    check("stop and go", 200, |xen| {
        let bench = bench(xen);
        let (front, back) = (bench.front.id(), bench.back.id());
        let (toolstack, dom0, log) = (bench.toolstack.clone(), bench.dom0.clone(), bench.log.clone());
        xen.run(async move {
            toolstack.attach("bell", front, back, 0).await.unwrap();
            for life in 1..4 {
                until(&dom0, "connected", || log.connected.get() == life && log.served.get() == life).await;
                log.stop.set(true);
            }
            until(&dom0, "connected", || log.connected.get() == 4).await;
            assert!(toolstack.detach("bell", front, back, 0).await.unwrap());
        });
        bench.check_no_leak(xen);
    });
}

#[test]
fn whatever_fails_is_told_and_closes_the_device_alone() {
    for fail in ["prepare", "offer", "connect", "accept", "run of the frontend", "run of the backend"] {
        check("failures", 40, move |xen| {
            let bench = bench(xen);
            let (front, back) = (bench.front.id(), bench.back.id());
            let (toolstack, dom0, log) = (bench.toolstack.clone(), bench.dom0.clone(), bench.log.clone());
            *log.fail.borrow_mut() = Some(fail);
            xen.run(async move {
                let store = toolstack.store();
                toolstack.attach("bell", front, back, 0).await.unwrap();
                until(&dom0, "failure", || log.failures.get() == 1).await;
                dom0.sleep(Duration::from_secs(12)).await;
                let path = match ["prepare", "connect", "run of the backend"].contains(&fail) {
                    true => format!("/local/domain/{}/error/backend/bell/{}/0/error", back.0, front.0),
                    false => format!("/local/domain/{}/error/device/bell/0/error", front.0),
                };
                assert_eq!(store.read_as::<String>(&path).await.unwrap(), format!("5 {fail} fails on purpose"));
                // Another device of the same driver works.
                toolstack.attach("bell", front, back, 1).await.unwrap();
                let rounds = log.rounds.get();
                until(&dom0, "rounds", || log.rounds.get() > rounds).await;
                for device in [0, 1] {
                    assert!(toolstack.detach("bell", front, back, device).await.unwrap());
                }
            });
            bench.check_no_leak(xen);
        });
    }
}

/// A backend domain that is destroyed, and another that the toolstack puts in its place.
#[test]
fn a_frontend_goes_over_to_another_backend() {
    check("another backend", 100, |xen| {
        let bench = bench(xen);
        let (front, back) = (bench.front.id(), bench.back.clone());
        let other = xen.domain();
        start_backends(&other, &bench.log);
        let (toolstack, dom0, log) = (bench.toolstack.clone(), bench.dom0.clone(), bench.log.clone());
        let (first, second) = (back.id(), other.id());
        xen.run(async move {
            toolstack.attach("bell", front, first, 0).await.unwrap();
            until(&dom0, "rounds", || log.rounds.get() > 2).await;
            back.destroy();
            let (at_front, at_back) = Toolstack::paths("bell", front, first, 0);
            // The toolstack removes what the domain had, and makes the device anew.
            toolstack.store().remove(&at_back).await.unwrap();
            toolstack.store().remove(&at_front).await.unwrap();
            dom0.sleep(Duration::from_millis(20)).await;
            toolstack.attach("bell", front, second, 0).await.unwrap();
            let rounds = log.rounds.get();
            until(&dom0, "rounds with the other backend", || log.rounds.get() > rounds + 2).await;
            assert!(toolstack.detach("bell", front, second, 0).await.unwrap());
            dom0.sleep(Duration::from_secs(10)).await;
        });
        assert_eq!(bench.front.in_use(), bench.before.0);
    });
}

/// Ten thousand runs of everything at once.
#[test]
fn no_order_of_events_leaks_or_hangs() {
    check("races", 10_000, |xen| {
        let bench = bench(xen);
        let rough = xen.random(3);
        if rough > 0 {
            xen.set_faults(Faults {
                eagain: 10,
                spurious_events: 5,
                reorder: 20,
                grants: if rough > 1 { 15 } else { 0 },
                maps: if rough > 1 { 15 } else { 0 },
                ports: if rough > 1 { 15 } else { 0 },
                reservation: 0,
                store_delay: Duration::from_micros(xen.random(3000)),
            });
        }
        let (front, back) = (bench.front.id(), bench.back.id());
        let (toolstack, dom0, log) = (bench.toolstack.clone(), bench.dom0.clone(), bench.log.clone());
        let machine = xen.clone();
        let doomed = bench.front.clone();
        let dies = xen.random(6) == 0;
        xen.run(async move {
            for _ in 0..1 + machine.random(3) {
                let device = machine.random(2) as u32;
                toolstack.attach("bell", front, back, device).await.unwrap();
                for _ in 0..machine.random(3) {
                    dom0.sleep(Duration::from_micros(machine.random(20_000))).await;
                    let fails = ["offer", "connect", "accept", "run of the frontend", "run of the backend", "prepare"];
                    match machine.random(4) {
                        0 => log.stop.set(true),
                        1 => *log.fail.borrow_mut() = Some(fails[machine.random(6) as usize]),
                        // The toolstack makes the device anew under a driver that has not looked.
                        2 => {
                            let (at_front, at_back) = Toolstack::paths("bell", front, back, device);
                            toolstack.store().remove(&at_front).await.unwrap();
                            toolstack.store().remove(&at_back).await.unwrap();
                            if machine.random(2) == 0 {
                                dom0.sleep(Duration::from_micros(machine.random(5000))).await;
                            }
                            toolstack.attach("bell", front, back, device).await.unwrap();
                        }
                        _ => {}
                    }
                }
                if dies && machine.random(2) == 0 {
                    doomed.destroy();
                }
                toolstack.detach("bell", front, back, device).await.unwrap();
            }
            for device in 0..2 {
                toolstack.detach("bell", front, back, device).await.unwrap();
            }
        });
        match bench.front.is_alive() {
            true => bench.check_no_leak(xen),
            false => {
                let clock = bench.dom0.clone();
                xen.run(async move { clock.sleep(Duration::from_secs(20)).await });
                assert_eq!(bench.back.in_use(), bench.before.1);
            }
        }
        // And it still works.
        if bench.front.is_alive() {
            xen.set_faults(Faults::default());
            let (toolstack, dom0, log) = (bench.toolstack.clone(), bench.dom0.clone(), bench.log.clone());
            log.fail.borrow_mut().take();
            log.stop.set(false);
            xen.run(async move {
                let rounds = log.rounds.get();
                toolstack.attach("bell", front, back, 5).await.unwrap();
                until(&dom0, "rounds at the end", || log.rounds.get() > rounds).await;
                assert!(toolstack.detach("bell", front, back, 5).await.unwrap());
            });
            bench.check_no_leak(xen);
        }
    });
}

/// The peer's domain and the id are of no use to who is not asked.
#[test]
fn devices_of_other_domains_are_not_seen() {
    check("others' devices", 20, |xen| {
        let bench = bench(xen);
        let other = xen.domain();
        let (other, back) = (other.id(), bench.back.id());
        let (toolstack, dom0, log) = (bench.toolstack.clone(), bench.dom0.clone(), bench.log.clone());
        xen.run(async move {
            assert_ne!(other, DomId::DOM0);
            toolstack.attach("bell", other, back, 0).await.unwrap();
            dom0.sleep(Duration::from_secs(1)).await;
            assert_eq!((log.connected.get(), log.served.get()), (0, 0));
            assert!(toolstack.detach("bell", other, back, 0).await.unwrap(), "a backend without a frontend closes");
        });
        bench.check_no_leak(xen);
    });
}

/// Whatever an earlier driver or a strange toolstack has left in the states, the ends begin anew.
#[test]
fn any_state_can_be_begun_from() {
    for left in ["0", "2", "3", "4", "5", "6", "7", "8", "77", "nonsense", ""] {
        check("left states", 5, move |xen| {
            let log = Rc::<Log>::default();
            let (front, back, dom0) = (xen.domain(), xen.domain(), xen.dom0());
            let toolstack = xen.toolstack();
            let counted = log.clone();
            xen.run(async move {
                toolstack.attach("bell", front.id(), back.id(), 0).await.unwrap();
                let (at_front, at_back) = Toolstack::paths("bell", front.id(), back.id(), 0);
                for path in [&at_front, &at_back] {
                    toolstack.store().set(&format!("{path}/state"), left).await.unwrap();
                }
                let mut bell = Bell { domain: front.clone(), log: counted.clone() };
                let mut echo = Echo { domain: back.clone(), log: counted.clone() };
                let (front_store, back_store) = (front.store(), back.store());
                let clock = front.clone();
                let first = front.spawn(async move { frontend(&front_store, clock, &at_front, &mut bell).await });
                let clock = back.clone();
                let second = back.spawn(async move { backend(&back_store, clock, &at_back, &mut echo).await });
                until(&dom0, "rounds", || counted.rounds.get() > 2).await;
                assert!(toolstack.detach("bell", front.id(), back.id(), 0).await.unwrap());
                assert_eq!((first.await, second.await), (Ok(EndReason::Removed), Ok(EndReason::Removed)));
            });
        });
    }
}
