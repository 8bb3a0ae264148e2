//! dom0 and a qube.

#![allow(dead_code, reason = "each test is a crate of its own, and uses a part")]

pub mod daemon;
pub mod dom0;

use std::rc::Rc;
use std::time::Duration;

use xen_hal::Clock;
use xen_sim::{Domain, Faults, Usage, Xen};
use xen_vchan::Channel;
use xenstore_client::Store;

pub struct Bench {
    pub xen: Xen,
    pub dom0: Domain,
    pub qube: Domain,
    pub dom0_store: Store,
    pub qube_store: Store,
    before: (Usage, Usage),
}

pub fn bench(xen: &Xen) -> Rc<Bench> {
    let (dom0, qube) = (xen.dom0(), xen.domain());
    let (dom0_store, qube_store) = (dom0.store(), qube.store());
    xen.settle();
    let before = (dom0.in_use(), qube.in_use());
    Rc::new(Bench { xen: xen.clone(), dom0, qube, dom0_store, qube_store, before })
}

pub fn faults() -> Faults {
    let store_delay = Duration::from_micros(300);
    Faults { eagain: 20, spurious_events: 10, reorder: 10, store_delay, ..Faults::default() }
}

impl Bench {
    pub async fn pause(&self, millis: u64) {
        self.dom0.sleep(Duration::from_millis(millis)).await;
    }

    /// Waits until something is so, which it is within some minutes.
    pub async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        for _ in 0..60_000 {
            if is_so() {
                return;
            }
            self.pause(5).await;
        }
        panic!("not within five minutes: {what}");
    }

    /// Lets everything come to rest, and checks that nothing is left of any channel.
    pub fn check_no_leak(self: &Rc<Bench>) {
        let bench = self.clone();
        self.xen.run(async move { bench.pause(10_000).await });
        for (domain, before) in [(&self.dom0, self.before.0), (&self.qube, self.before.1)] {
            assert_eq!(domain.in_use(), before, "something of {} has leaked", domain.id());
            assert_eq!(domain.mapped_pages(), 0);
        }
    }
}

/// Reads exactly so many bytes; `false` where the channel ends before.
pub async fn read_exact(channel: &mut Channel<Domain>, to: &mut [u8]) -> bool {
    let mut filled = 0;
    while filled < to.len() {
        match channel.read(&mut to[filled..]).await {
            Ok(0) | Err(_) => return false,
            Ok(len) => filled += len,
        }
    }
    true
}

pub async fn write_all(channel: &mut Channel<Domain>, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match channel.write(bytes).await {
            Ok(len) => bytes = &bytes[len..],
            Err(_) => return false,
        }
    }
    true
}
