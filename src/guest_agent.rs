//! What toolstacks show of a guest, as agents in guests write it to the store: what runs in it, its addresses, its memory.
//!
//! Keys: docs/misc/xenstore-paths.pandoc ("Domain Controlled Paths"), and those that XAPI reads, the toolstack of XCP-ng and
//! XenServer (xen-api, ocaml/xapi/xapi_guest_agent.ml). It looks at them when `data/updated` is written: that is the last
//! of each round. What the domain does on request (`control/feature-*`) is [`control`](crate::control)'s to say.

#[cfg(feature = "net")]
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::Cell;
#[cfg(feature = "net")]
use core::cell::RefCell;
use core::future::poll_fn;
#[cfg(feature = "net")]
use core::net::IpAddr;
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use xen_hal::Clock;
use xen_ring::WaitQueue;
use xenstore_client::{Error, Store};

use crate::machine::{Own, Resumed, println};

/// What does not change. The version is that of this library: it holds the drivers.
const FIXED: [(&str, &str); 12] = [
    ("attr/PVAddons/Installed", "1"),
    ("attr/PVAddons/MajorVersion", env!("CARGO_PKG_VERSION_MAJOR")),
    ("attr/PVAddons/MinorVersion", env!("CARGO_PKG_VERSION_MINOR")),
    ("attr/PVAddons/MicroVersion", env!("CARGO_PKG_VERSION_PATCH")),
    ("attr/PVAddons/BuildVersion", "0"),
    ("data/os_name", concat!("Sarab ", env!("CARGO_PKG_VERSION"))),
    ("data/os_distro", "sarab"),
    ("data/os_majorver", env!("CARGO_PKG_VERSION_MAJOR")),
    ("data/os_minorver", env!("CARGO_PKG_VERSION_MINOR")),
    ("data/os_uname", env!("CARGO_PKG_VERSION")),
    // Drivers take devices that come later, and let go of them.
    ("feature/hotplug/vbd", "1"),
    ("feature/hotplug/vif", "1"),
];

/// How often memory is told: as often as other agents do.
const MEMORY: Duration = Duration::from_secs(60);
/// The least time between rounds: who can change addresses (a DHCP server, a router) costs the store no more than that.
const APART: Duration = Duration::from_secs(1);
/// How many addresses of an interface are told, of each family.
#[cfg(feature = "net")]
const MAX_ADDRESSES: usize = 10;
/// Below it is a directory for each interface that has addresses.
const VIFS: &str = "attr/vif";

/// An interface's number, and its addresses with the lengths of their prefixes.
#[cfg(feature = "net")]
type Interface = (u32, Vec<(IpAddr, u8)>);

/// What the agent is to say.
#[derive(Default)]
pub(crate) struct GuestAgent {
    /// Of each interface that has any.
    #[cfg(feature = "net")]
    addresses: RefCell<Vec<Interface>>,
    changed: Cell<bool>,
    waiting: WaitQueue,
}

#[cfg(feature = "net")]
impl GuestAgent {
    pub(crate) fn set_addresses(&self, interface: u32, addresses: Vec<(IpAddr, u8)>) {
        let mut known = self.addresses.borrow_mut();
        match known.iter().position(|(number, _)| *number == interface) {
            Some(at) if known[at].1 == addresses => return,
            Some(at) => drop(known.swap_remove(at)),
            None if addresses.is_empty() => return,
            None => {}
        }
        if !addresses.is_empty() {
            known.push((interface, addresses));
        }
        self.changed.set(true);
        self.waiting.wake_all();
    }
}

/// A node and its value, or that it is to go with all below it.
type Change = (String, Option<String>);

/// What was told since the domain has this store.
#[derive(Default)]
struct Told {
    is_begun: bool,
    memory: Option<Duration>,
    #[cfg(feature = "net")]
    addresses: Vec<Interface>,
}

impl Told {
    /// All that is to be written now, in its order, the last of it what has the toolstack look.
    fn changes(&mut self, own: Own, now: Duration) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut write = |path: &str, value: &str| changes.push((path.to_string(), Some(value.to_string())));
        if !self.is_begun {
            FIXED.iter().for_each(|(path, value)| write(path, value));
        }
        if self.memory.is_none_or(|then| now >= then + MEMORY) {
            let memory = own.memory();
            write("data/meminfo_total", &(memory.total / 1024).to_string());
            write("data/meminfo_free", &(memory.free / 1024).to_string());
            self.memory = Some(now);
        }
        if !self.is_begun {
            // Of a start before this one: a toolstack may keep the directory when it starts a guest again.
            changes.insert(0, (VIFS.to_string(), None));
            self.is_begun = true;
        }
        #[cfg(feature = "net")]
        self.addresses_to(own.domain().agent.addresses.borrow().clone(), &mut changes);
        changes.push(("data/updated".to_string(), Some(own.clock().wall().as_secs().to_string())));
        changes
    }

    /// The changes that lead to these addresses.
    #[cfg(feature = "net")]
    fn addresses_to(&mut self, now: Vec<Interface>, changes: &mut Vec<Change>) {
        for (interface, _) in self.addresses.iter().filter(|known| !now.contains(known)) {
            changes.push((format!("{VIFS}/{interface}"), None));
        }
        for (interface, addresses) in now.iter().filter(|new| !self.addresses.contains(new)) {
            let mut counts = [0; 2];
            for (address, prefix) in addresses {
                let (family, count) = match address {
                    IpAddr::V4(_) => ("ipv4", &mut counts[0]),
                    IpAddr::V6(_) => ("ipv6", &mut counts[1]),
                };
                if *count < MAX_ADDRESSES {
                    let path = format!("{VIFS}/{interface}/{family}/{count}");
                    let below = format!("{path}/prefix");
                    changes.push((path, Some(address.to_string())));
                    changes.push((below, Some(prefix.to_string())));
                    *count += 1;
                }
            }
        }
        self.addresses = now;
    }
}

/// Why a round begins.
enum Event {
    Due,
    Resumed(Resumed),
}

/// Writes what there is to say, and again what changes, until the store fails.
pub(crate) async fn run(store: Store, own: Own) {
    let mut is_refused = false;
    let mut told = Told::default();
    let mut resumes = own.domain().requests.resumes();
    loop {
        let now = own.clock().now();
        own.domain().agent.changed.set(false);
        for (path, value) in told.changes(own, now) {
            let outcome = match value {
                Some(value) => store.write(&path, value.as_bytes()).await,
                None => store.remove(&path).await,
            };
            match outcome {
                // What ends it is the store's end, which the task of `control` prints.
                Err(error) if error.is_broken() => return,
                Err(error) => is_refused = is_refused || print(&error),
                Ok(()) => {}
            }
        }
        // After a round and not before one: a change is told at once.
        own.clock().sleep(APART).await;
        let event = next(own, resumes, told.memory.unwrap_or(now) + MEMORY).await;
        if let Event::Resumed(resumed) = event {
            let (before, count) = (resumes, own.domain().requests.resumes());
            resumes = count;
            // Of two times, the first may have been another.
            if resumed == Resumed::Restored || count != before.wrapping_add(1) {
                told = Told::default();
                // Its devices come first, which have much to ask of the store now.
                own.clock().sleep(APART).await;
            }
        }
    }
}

/// Prints a refusal, once: toolstacks differ in what a domain may write, and have quotas for it. Says whether it was one.
fn print(error: &Error) -> bool {
    // Where the domain has got another store meanwhile, there is no number, and all is written again.
    let is_refusal = error.errno().is_some() && !error.is_not_found();
    if is_refusal {
        println!("guest agent: {error}; the toolstack does not see this or what else it refuses");
    }
    is_refusal
}

/// Waits for a reason for another round, or for this time.
async fn next(own: Own, resumes: u32, late: Duration) -> Event {
    let (domain, clock) = (own.domain(), own.clock());
    let mut changed = pin!(domain.agent.waiting.wait_until(|| domain.agent.changed.get().then_some(())));
    let mut resumed = pin!(domain.requests.resumed_after(resumes));
    poll_fn(|cx| {
        if let Poll::Ready(resumed) = resumed.as_mut().poll(cx) {
            return Poll::Ready(Event::Resumed(resumed));
        }
        match changed.as_mut().poll(cx).is_ready() || clock.poll_until(late, cx).is_ready() {
            true => Poll::Ready(Event::Due),
            false => Poll::Pending,
        }
    })
    .await
}

#[cfg(all(test, feature = "net"))]
mod tests {
    use super::*;

    fn changes(told: &mut Told, now: &[Interface]) -> Vec<(String, String)> {
        let mut changes = Vec::new();
        told.addresses_to(now.to_vec(), &mut changes);
        changes.into_iter().map(|(path, value)| (path, value.unwrap_or("(removed)".into()))).collect()
    }

    #[test]
    fn addresses_are_numbered_by_family_from_0_and_are_at_most_10() {
        let v4 = |last: u8| (IpAddr::from([10, 0, 0, last]), 24);
        let v6 = |last: u16| (IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]), 64);
        let mut told = Told::default();
        let one = (3, Vec::from([v6(1), v4(1), v6(2)]));
        let expected = [
            ("attr/vif/3/ipv6/0", "fd00::1"),
            ("attr/vif/3/ipv6/0/prefix", "64"),
            ("attr/vif/3/ipv4/0", "10.0.0.1"),
            ("attr/vif/3/ipv4/0/prefix", "24"),
            ("attr/vif/3/ipv6/1", "fd00::2"),
            ("attr/vif/3/ipv6/1/prefix", "64"),
        ];
        let own =
            |texts: &[(&str, &str)]| texts.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>();
        assert_eq!(changes(&mut told, core::slice::from_ref(&one)), own(&expected));
        assert_eq!(changes(&mut told, core::slice::from_ref(&one)), own(&[]));
        let other = (1, Vec::from([v4(9)]));
        let expected =
            [("attr/vif/3", "(removed)"), ("attr/vif/1/ipv4/0", "10.0.0.9"), ("attr/vif/1/ipv4/0/prefix", "24")];
        assert_eq!(changes(&mut told, &[other]), own(&expected));
        let many = (1, (0..100).map(v4).collect::<Vec<_>>());
        assert_eq!(changes(&mut told, &[many]).len(), 1 + 2 * MAX_ADDRESSES);
        assert_eq!(changes(&mut told, &[]), own(&[("attr/vif/1", "(removed)")]));
    }
}
