//! A stack on a link, and what configures it.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::net::IpAddr;
use core::pin::pin;
use core::task::Waker;
use core::time::Duration;

use embassy_net::{ConfigV4, ConfigV6, Runner, Stack, StackResources, StaticConfigV4, StaticConfigV6};
use embassy_net_driver::HardwareAddress;
use embassy_time::{Instant, Timer};
use futures_util::future::select;
use xen_ring::WaitQueue;

use crate::config::{Addresses, Config, Ipv4};
use crate::dhcp::Loss;
use crate::driver::{EthernetDevice, LinkDriver, StackWaker, now};
use crate::link::{Counters, Link, News};

/// The shortest time between two configurations of the stack: the network may say something else at any moment.
const MIN_CHANGE_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two lines of a kind on the console.
const MIN_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How long an address may take before the console reports it.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Shared {
    pub(crate) link: RefCell<Link>,
    stack: StackWaker,
    /// Of the device.
    pub(crate) connections: Cell<u64>,
    /// Has the task look at what has changed.
    task: WaitQueue,
    /// When the task looks by itself.
    armed: Cell<Duration>,
    /// What the stack has.
    given: RefCell<Addresses>,
    /// What the task was looking at when it looked last, which may have to wait.
    seen: RefCell<Addresses>,
    seen_news: Cell<bool>,
    /// Of MAC, carrier and `given`: one more with each change.
    version: Cell<u64>,
    changed: WaitQueue,
    carrier: Cell<bool>,
}

impl Shared {
    /// The stack has looked at its device.
    pub(crate) fn polled(&self, waker: &Waker) {
        self.stack.register(waker);
        let link = self.link.borrow();
        let is_sooner = link.next().is_some_and(|next| next < self.armed.get());
        // What the task has seen it has not forgotten: where both are one task, it would be woken without end.
        let is_news = link.has_news() && !self.seen_news.get();
        if is_sooner || is_news || *link.addresses() != *self.seen.borrow() || link.is_up() != self.carrier.get() {
            self.armed.set(Duration::ZERO);
            self.task.wake_all();
        }
    }

    fn change(&self) {
        self.version.set(self.version.get() + 1);
        self.changed.wake_all();
    }
}

/// A stack for so many sockets on a device, what runs it, the task that configures it, and a handle to see and change its
/// addresses. Both futures, [`Runner::run`] and [`Configurator::run`], have to run for the stack to work.
///
/// # Panics
///
/// Where the device is no Ethernet device.
pub fn new<'d, D: EthernetDevice, const SOCKETS: usize>(
    device: D,
    config: Config,
    resources: &'d mut StackResources<SOCKETS>,
    seed: u64,
) -> (Stack<'d>, Runner<'d, LinkDriver<D>>, Configurator<'d>, Interface) {
    let HardwareAddress::Ethernet(mac) = device.hardware_address() else { panic!("not an Ethernet device") };
    let shared = Rc::new(Shared {
        link: RefCell::new(Link::new(mac, config, seed)),
        stack: StackWaker::default(),
        connections: Cell::new(device.connections()),
        task: WaitQueue::default(),
        armed: Cell::new(Duration::MAX),
        given: RefCell::default(),
        seen: RefCell::default(),
        seen_news: Cell::new(false),
        version: Cell::new(0),
        changed: WaitQueue::default(),
        carrier: Cell::new(false),
    });
    let cuts_segments = device.cuts_segments();
    let driver = LinkDriver { device, shared: shared.clone() };
    let (stack, runner) = embassy_net::new(driver, embassy_net::Config::default(), resources, seed);
    stack.set_tcp_segmentation(cuts_segments);
    (stack, runner, Configurator { stack, shared: shared.clone() }, Interface { shared, seen: Cell::new(0) })
}

/// What gives a stack its addresses.
pub struct Configurator<'d> {
    stack: Stack<'d>,
    shared: Rc<Shared>,
}

/// What was said on the console, and what may be said again when.
struct Lines {
    said: Addresses,
    /// Lines without a pause: the first address of each family.
    free: u8,
    may_say: Duration,
    may_tell: Duration,
    /// Where no address comes.
    complain_at: Option<Duration>,
}

impl Configurator<'_> {
    /// Never ends. Lines for the administrator go to `say`.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the stack keeps the address that it has.
    pub async fn run(self, say: impl Fn(fmt::Arguments<'_>)) {
        let shared = &*self.shared;
        let mut lines = Lines {
            said: Addresses::default(),
            free: 2,
            may_say: Duration::ZERO,
            may_tell: Duration::ZERO,
            complain_at: Some(now() + TIMEOUT),
        };
        let mut may_change = Duration::ZERO;
        loop {
            let now = now();
            let mut wake_at = Duration::MAX;
            let is_news = *shared.link.borrow().addresses() != *shared.given.borrow();
            if is_news && may_change > now {
                wake_at = may_change;
            } else if is_news {
                may_change = now + MIN_CHANGE_INTERVAL;
                let addresses = shared.link.borrow().addresses().clone();
                self.give(&addresses);
                shared.given.replace(addresses);
                shared.change();
            }
            let is_up = shared.link.borrow().is_up();
            if shared.carrier.replace(is_up) != is_up {
                shared.change();
            }
            if let Some(at) = lines.say(shared, now, &say) {
                wake_at = wake_at.min(at);
            }
            shared.seen.borrow_mut().clone_from(shared.link.borrow().addresses());
            shared.seen_news.set(shared.link.borrow().has_news());
            let next = shared.link.borrow().next().unwrap_or(Duration::MAX);
            if next <= now {
                shared.stack.wake();
            }
            // What is due already is the stack's to do, which comes back here.
            let next = if next <= now { Duration::MAX } else { next };
            shared.armed.set(next);
            let woken = pin!(shared.task.wait_until(|| (shared.armed.get() != next).then_some(())));
            let until = wake_at.min(next);
            if until == Duration::MAX {
                woken.await;
            } else {
                // Rounded up: where it were early, this would come here again and again until it is time.
                let micros = until.as_nanos().div_ceil(1000);
                let until = Instant::from_micros(micros.try_into().unwrap_or(u64::MAX));
                select(woken, Timer::at(until)).await;
            }
        }
    }

    fn give(&self, addresses: &Addresses) {
        let v4 = addresses.ipv4.map(|address| {
            let mut config =
                StaticConfigV4 { address, gateway: addresses.gateway_v4(), dns_servers: Default::default() };
            let servers = addresses.name_servers.iter().filter_map(|server| match server {
                IpAddr::V4(server) => Some(*server),
                IpAddr::V6(_) => None,
            });
            config.dns_servers.extend(servers.take(config.dns_servers.capacity()));
            config
        });
        let v6 = addresses.ipv6.map(|address| {
            let mut config =
                StaticConfigV6 { address, gateway: addresses.gateway_v6(), dns_servers: Default::default() };
            let servers = addresses.name_servers.iter().filter_map(|server| match server {
                IpAddr::V6(server) => Some(*server),
                IpAddr::V4(_) => None,
            });
            config.dns_servers.extend(servers.take(config.dns_servers.capacity()));
            config
        });
        self.stack.set_link_local_v6(addresses.link_local);
        self.stack.set_config_v4(v4.map_or(ConfigV4::None, ConfigV4::Static));
        self.stack.set_config_v6(v6.map_or(ConfigV6::None, ConfigV6::Static));
        // It tells its new groups.
        self.shared.stack.wake();
    }
}

impl Lines {
    /// Says what is to be said now; when there is more.
    fn say(&mut self, shared: &Shared, now: Duration, say: &impl Fn(fmt::Arguments<'_>)) -> Option<Duration> {
        let mut later: Option<Duration> = None;
        let mut wait = |at: Duration| later = Some(later.map_or(at, |other| other.min(at)));
        while shared.link.borrow().has_news() {
            if self.may_tell > now {
                wait(self.may_tell);
                break;
            }
            let news = shared.link.borrow_mut().news();
            if let Some(news) = news {
                say(format_args!("{news}"));
                self.may_tell = now + MIN_LOG_INTERVAL;
            }
        }
        let given = shared.given.borrow();
        let shown =
            |addresses: &Addresses| (addresses.ipv4, addresses.ipv6, addresses.gateway_v4(), addresses.gateway_v6());
        if shown(&given) != shown(&self.said) {
            if self.may_say <= now {
                say(format_args!("{given}"));
                self.said = given.clone();
                self.free = self.free.saturating_sub(1);
                if self.free == 0 {
                    self.may_say = now + MIN_LOG_INTERVAL;
                }
            } else {
                wait(self.may_say);
            }
        }
        match self.complain_at {
            Some(_) if given.is_configured() => self.complain_at = None,
            Some(at) if at <= now => {
                self.complain_at = None;
                let link = shared.link.borrow();
                if link.config().ipv4 == Ipv4::Dhcp {
                    say(format_args!("no address after {} s; is there a DHCP server?", TIMEOUT.as_secs()));
                } else if link.config().asks_for_any() {
                    say(format_args!("no address after {} s; is there a router?", TIMEOUT.as_secs()));
                }
            }
            Some(at) => wait(at),
            None => {}
        }
        later
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            News::Taken(address, mac) => write!(f, "{address} is in use by {}", Shown(mac)),
            News::Contested(address, mac) => {
                write!(f, "{} claims {address}, which is this host's", Shown(mac))
            }
            News::Lost(address, Loss::Expired) => write!(f, "the lease of {address} has expired"),
            News::Lost(address, Loss::Refused(server)) => {
                write!(f, "DHCP server {server} refuses {address}: asking for another address")
            }
            News::Unusable(offer) => write!(f, "DHCP offer rejected: {offer}"),
        }
    }
}

struct Shown([u8; 6]);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An interface's addresses, to be seen and changed. Clones are of the same one.
#[derive(Clone)]
pub struct Interface {
    shared: Rc<Shared>,
    /// The version that [`changed`](Interface::changed) returned for last.
    seen: Cell<u64>,
}

impl Interface {
    /// What the stack has now.
    pub fn addresses(&self) -> Addresses {
        self.shared.given.borrow().clone()
    }

    /// Its MAC.
    pub fn mac(&self) -> [u8; 6] {
        self.shared.link.borrow().mac()
    }

    /// Whether there is a link.
    pub fn has_carrier(&self) -> bool {
        self.shared.carrier.get()
    }

    /// What addresses were asked for.
    pub fn config(&self) -> Config {
        self.shared.link.borrow().config().clone()
    }

    /// Has it other addresses from now on.
    pub fn configure(&self, config: Config) {
        self.shared.link.borrow_mut().configure(config, now());
        self.shared.stack.wake();
        self.shared.armed.set(Duration::ZERO);
        self.shared.task.wake_all();
    }

    /// Asks for, then tells, its addresses again, and forgets its neighbours: the link may be another one. A link that was
    /// down does that by itself.
    pub fn announce(&self) {
        self.shared.link.borrow_mut().announce(now());
        self.shared.stack.wake();
    }

    /// What has been counted.
    pub fn counters(&self) -> Counters {
        self.shared.link.borrow().counters()
    }

    /// How many neighbours are known.
    pub fn neighbors(&self) -> usize {
        self.shared.link.borrow().neighbors()
    }

    /// Waits until there is another MAC, carrier, address, route or name server than when it returned last. Each clone counts
    /// for itself, from where it was made.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the next call still returns for what has changed.
    pub async fn changed(&self) {
        let version = || Some(self.shared.version.get()).filter(|version| *version != self.seen.get());
        let version = self.shared.changed.wait_until(version).await;
        self.seen.set(version);
    }

    /// Waits until there is an address beyond the link-local one.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn configured(&self) -> Addresses {
        let configured = || Some(self.shared.given.borrow().clone()).filter(Addresses::is_configured);
        self.shared.changed.wait_until(configured).await
    }
}

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interface").field("mac", &self.mac()).field("addresses", &self.addresses()).finish()
    }
}
