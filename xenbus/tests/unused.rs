//! Devices that no driver has taken, and the toolstack that takes them away again.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use xen_hal::Clock;
use xen_sim::{Domain, Faults, Toolstack, Xen, check};
use xenbus::{Device, Failure, Frontend, Keys, Signals, State, close_unused, frontend};
use xenstore_client::{Error, Store};

const SEEDS: u64 = 20;
/// Half of what `xl` waits.
const LIMIT: Duration = Duration::from_secs(5);

/// A guest of which only the runtime answers, and a backend like Linux's, which the tests play in dom0's name.
#[derive(Clone)]
struct Bench {
    guest: Domain,
    back: Domain,
    toolstack: Toolstack,
    own: Store,
}

impl Bench {
    fn new(xen: &Xen) -> Bench {
        let (guest, back, toolstack) = (xen.domain(), xen.domain(), xen.toolstack());
        let own = guest.store();
        Bench { guest, back, toolstack, own }
    }

    fn answer(&self) {
        let own = self.own.clone();
        self.guest.spawn(async move { drop(close_unused(&own).await) }).detach();
    }

    fn store(&self) -> &Store {
        self.toolstack.store()
    }

    fn paths(&self, class: &str, device: u32) -> (String, String) {
        Toolstack::paths(class, self.guest.id(), self.back.id(), device)
    }

    async fn attach(&self, class: &str, device: u32) {
        self.toolstack.attach(class, self.guest.id(), self.back.id(), device).await.unwrap();
        self.set_backend(class, device, State::InitWait).await;
    }

    async fn set_backend(&self, class: &str, device: u32, state: State) {
        self.store().set(&format!("{}/state", self.paths(class, device).1), &state).await.unwrap();
    }

    async fn state(&self, class: &str, device: u32) -> Option<State> {
        self.store().get(&format!("{}/state", self.paths(class, device).0)).await.unwrap()
    }

    /// What libxl and blkback do: the backend waits for the frontend, and the toolstack for the backend. Whether it is done
    /// before the limit.
    async fn detach(&self, class: &str, device: u32) -> bool {
        let (front, back) = self.paths(class, device);
        self.set_backend(class, device, State::Closing).await;
        let end = self.guest.now() + LIMIT;
        while self.state(class, device).await != Some(State::Closed) {
            if self.guest.now() > end {
                return false;
            }
            self.guest.sleep(Duration::from_millis(10)).await;
        }
        for path in [front, back] {
            self.store().remove(&path).await.unwrap();
        }
        true
    }
}

#[test]
fn devices_of_all_classes_are_detached() {
    check("unused", SEEDS, |xen| {
        xen.set_faults(Faults { eagain: 10, ..Faults::default() });
        let bench = Bench::new(xen);
        xen.run(async move {
            // Those that there are before the guest looks, and those that come.
            bench.attach("vbd", 51712).await;
            bench.answer();
            bench.guest.sleep(Duration::from_secs(1)).await;
            for class in ["vif", "9pfs", "console", "vkbd", "vfb", "another"] {
                bench.attach(class, 0).await;
            }
            assert!(bench.detach("vbd", 51712).await);
            for class in ["vif", "9pfs", "console", "vkbd", "vfb", "another"] {
                assert!(bench.detach(class, 0).await, "{class}");
            }
            // Again, and many.
            for device in 0..100 {
                bench.attach("vbd", device).await;
            }
            for device in 0..100 {
                assert!(bench.detach("vbd", device).await, "{device}");
            }
            assert_eq!(bench.own.watches(), 1, "none for a device");
        });
    });
}

#[test]
fn without_an_answer_the_toolstack_waits_in_vain() {
    check("no answer", 3, |xen| {
        let bench = Bench::new(xen);
        xen.run(async move {
            bench.attach("vbd", 51712).await;
            assert!(!bench.detach("vbd", 51712).await);
        });
    });
}

/// A driver without rings.
struct Plain(Rc<Cell<bool>>);

impl Frontend for Plain {
    const PUBLISHED: State = State::Initialised;
    type Link = ();

    async fn connect(&mut self, _: &Device) -> Result<(), Failure> {
        Ok(())
    }

    async fn publish(&mut self, _: &Keys<'_>, _: &()) -> Result<(), Error> {
        Ok(())
    }

    async fn accept(&mut self, _: &Device, _: &mut ()) -> Result<(), Failure> {
        Ok(())
    }

    async fn run(&mut self, _: &Device, _: (), signals: &Signals) -> Result<(), Failure> {
        self.0.set(true);
        signals.closing().await;
        self.0.set(false);
        Ok(())
    }

    fn lost(&mut self) {}
}

/// Whatever the order in which the backend closes and the driver begins, the driver has the device once its backend is back.
#[test]
fn a_device_that_was_closed_can_be_taken() {
    check("taken later", 60, |xen| {
        let bench = Bench::new(xen);
        let (up, pause) = (Rc::new(Cell::new(false)), xen.random(4));
        xen.run(async move {
            bench.answer();
            bench.attach("vbd", 51712).await;
            bench.guest.sleep(Duration::from_millis(pause % 3)).await;
            bench.set_backend("vbd", 51712, State::Closing).await;
            bench.guest.sleep(Duration::from_millis(pause / 2)).await;
            let (own, clock, mut driver) = (bench.own.clone(), bench.guest.clone(), Plain(up.clone()));
            let driver = async move { drop(frontend(&own, clock, "device/vbd/51712", &mut driver).await) };
            bench.guest.spawn(driver).detach();
            bench.guest.sleep(Duration::from_secs(2)).await;
            assert!(!up.get());
            // The backend, which has closed, begins again as blkback does.
            bench.set_backend("vbd", 51712, State::Closed).await;
            let end = bench.guest.now() + Duration::from_secs(60);
            while !up.get() && bench.guest.now() < end {
                match bench.state("vbd", 51712).await {
                    Some(State::Initialising) => bench.set_backend("vbd", 51712, State::InitWait).await,
                    Some(State::Initialised) => bench.set_backend("vbd", 51712, State::Connected).await,
                    _ => {}
                }
                bench.guest.sleep(Duration::from_millis(50)).await;
            }
            assert!(up.get(), "{:?}", bench.state("vbd", 51712).await);
        });
    });
}

/// A device in use is its driver's, which has something to finish.
#[test]
fn a_device_in_use_is_left_to_its_driver() {
    check("in use", SEEDS, |xen| {
        let bench = Bench::new(xen);
        xen.run(async move {
            bench.answer();
            bench.attach("vbd", 51712).await;
            let path = format!("{}/state", bench.paths("vbd", 51712).0);
            for state in [State::Initialised, State::Connected, State::Closing] {
                bench.own.set(&path, &state).await.unwrap();
                bench.set_backend("vbd", 51712, State::Closing).await;
                bench.guest.sleep(Duration::from_secs(3)).await;
                assert_eq!(bench.state("vbd", 51712).await, Some(state));
            }
        });
    });
}

/// Another domain has a directory like that of a backend, for a device that is not its own.
#[test]
fn a_backend_closes_its_own_devices_alone() {
    check("hostile", SEEDS, |xen| {
        let bench = Bench::new(xen);
        let hostile = xen.domain();
        xen.run(async move {
            bench.answer();
            bench.attach("vbd", 51712).await;
            // Of the same name, and shown to the guest.
            let (_, back) = Toolstack::paths("vbd", bench.guest.id(), hostile.id(), 51712);
            let show = [
                xenstore_client::Permission::new(hostile.id(), xenstore_client::Access::None),
                xenstore_client::Permission::new(bench.guest.id(), xenstore_client::Access::Read),
            ];
            bench.store().mkdir(&back).await.unwrap();
            bench.store().set_permissions(&back, &show).await.unwrap();
            let store = hostile.store();
            for number in 0..300 {
                for state in [State::Closing, State::Closed] {
                    store.set(&format!("{back}/state"), &state).await.unwrap();
                }
                store.set(&format!("{back}/{number}/state"), &State::Closing).await.unwrap();
            }
            store.set(&format!("{back}/state"), &State::Closing).await.unwrap();
            bench.guest.sleep(Duration::from_secs(1)).await;
            assert_eq!(bench.state("vbd", 51712).await, Some(State::Initialising));
            assert!(bench.detach("vbd", 51712).await);
        });
    });
}
