//! [`slaac`](super::slaac) beside a stack: the device that it listens and sends on, and what gives the stack what it finds.

use alloc::rc::Rc;
use core::cell::RefCell;
use core::fmt;
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use embassy_net::{Config, ConfigV4, ConfigV6, Runner, Stack, StackResources, StaticConfigV6};
use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState, RxToken, TxToken};
use embassy_time::{Instant, Timer};
use futures_util::future::select;

use super::guard::Guarded;
use super::slaac::Slaac;

/// The shortest time between two configurations of the stack: each has it forget its neighbours.
const MIN_CHANGE_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two lines on the console.
const MIN_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A stack on a device that is configured as `asked`, what runs it, and what configures it as routers say.
#[doc(hidden)]
pub fn new_stack<'d, D: Driver, const SOCKETS: usize>(
    device: D,
    asked: &Config,
    resources: &'d mut StackResources<SOCKETS>,
    seed: u64,
) -> (Stack<'d>, Runner<'d, Guarded<SlaacDriver<D>>>, Autoconfiguration<'d>) {
    let mut config = asked.clone();
    let mut shared = None;
    if let (ConfigV6::Slaac, HardwareAddress::Ethernet(mac)) = (&asked.ipv6, device.hardware_address()) {
        config.ipv6 = ConfigV6::None;
        let slaac = Slaac::new(mac, seed);
        shared = Some(Rc::new(RefCell::new(Shared { slaac, stack: Waker::noop().clone(), task: None })));
    }
    let cuts = xen_netif::cuts_segments(&device.capabilities());
    let device = Guarded(SlaacDriver { device, shared: shared.clone() });
    let (stack, runner) = embassy_net::new(device, config, resources, seed);
    stack.set_tcp_segmentation(cuts);
    // The one name server that the stack asks is that of the command line, where there is one.
    let takes_servers = !matches!(&asked.ipv4, ConfigV4::Static(config) if !config.dns_servers.is_empty());
    (stack, runner, Autoconfiguration { stack, shared, takes_servers })
}

struct Shared {
    slaac: Slaac,
    /// Has the stack look at its device.
    stack: Waker,
    /// Has [`Autoconfiguration::run`] look at what has changed.
    task: Option<Waker>,
}

impl Shared {
    fn changed(&mut self) {
        self.task.take().into_iter().for_each(Waker::wake);
    }
}

fn now() -> Duration {
    Duration::from_micros(Instant::now().as_micros())
}

/// A device that router advertisements are read from, and solicitations are sent on.
pub struct SlaacDriver<D> {
    device: D,
    shared: Option<Rc<RefCell<Shared>>>,
}

impl<D: Driver> SlaacDriver<D> {
    fn solicit(&mut self, cx: &mut Context<'_>) {
        let Some(shared) = &self.shared else { return };
        let mut shared = shared.borrow_mut();
        shared.stack.clone_from(cx.waker());
        let Some(at) = shared.slaac.solicit_at() else { return };
        let now = now();
        if at > now {
            return;
        }
        // Where there is no room, the device has the stack come again.
        if let Some(room) = self.device.transmit(cx) {
            let frame = shared.slaac.solicit(now);
            room.consume(frame.len(), |bytes| bytes.copy_from_slice(&frame));
            shared.changed();
        }
    }
}

/// A frame of a [`SlaacDriver`] device.
pub struct SlaacRxToken<'a, T> {
    frame: T,
    shared: Option<&'a RefCell<Shared>>,
}

impl<T: RxToken> RxToken for SlaacRxToken<'_, T> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, read: F) -> R {
        self.frame.consume(|frame| {
            if let Some(shared) = self.shared {
                let mut shared = shared.borrow_mut();
                if shared.slaac.process(frame, now) {
                    shared.changed();
                }
            }
            read(frame)
        })
    }
}

impl<D: Driver> Driver for SlaacDriver<D> {
    type RxToken<'a>
        = SlaacRxToken<'a, D::RxToken<'a>>
    where
        Self: 'a;
    type TxToken<'a>
        = D::TxToken<'a>
    where
        Self: 'a;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        self.solicit(cx);
        let shared = self.shared.as_deref();
        self.device.receive(cx).map(|(frame, answer)| (SlaacRxToken { frame, shared }, answer))
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<Self::TxToken<'_>> {
        self.device.transmit(cx)
    }

    fn link_state(&mut self, cx: &mut Context<'_>) -> LinkState {
        let state = self.device.link_state(cx);
        if let Some(shared) = &self.shared {
            let mut shared = shared.borrow_mut();
            if shared.slaac.link(state == LinkState::Up, now()) {
                shared.changed();
            }
        }
        state
    }

    fn capabilities(&self) -> Capabilities {
        self.device.capabilities()
    }

    fn hardware_address(&self) -> HardwareAddress {
        self.device.hardware_address()
    }
}

/// What gives a stack the addresses that routers advertise.
pub struct Autoconfiguration<'d> {
    stack: Stack<'d>,
    shared: Option<Rc<RefCell<Shared>>>,
    takes_servers: bool,
}

impl Autoconfiguration<'_> {
    /// Ends at once where the command line asks for none, and otherwise never.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the stack keeps the address that it has.
    pub async fn run(self, say: impl Fn(fmt::Arguments<'_>)) {
        let Some(shared) = &self.shared else { return };
        let mut given = None;
        let mut said: Option<StaticConfigV6> = None;
        let (mut give_at, mut say_at) = (Duration::ZERO, Duration::ZERO);
        loop {
            let now = now();
            let mut wake_at = None;
            if give_at > now {
                sooner(&mut wake_at, give_at);
            } else if let Some(config) = self.news(&given, now) {
                self.stack.set_config_v6(config.clone().map_or(ConfigV6::None, ConfigV6::Static));
                // It tells its new groups.
                shared.borrow().stack.wake_by_ref();
                given = config;
                give_at = now + MIN_CHANGE_INTERVAL;
                sooner(&mut wake_at, give_at);
            }
            let shown =
                |config: &Option<StaticConfigV6>| config.as_ref().map(|config| (config.address, config.gateway));
            if shown(&said) != shown(&given) {
                if say_at <= now {
                    say(format_args!("network: {}", Shown(given.as_ref())));
                    said.clone_from(&given);
                    say_at = now + MIN_LOG_INTERVAL;
                } else {
                    sooner(&mut wake_at, say_at);
                }
            }
            {
                let shared = shared.borrow();
                shared.slaac.next_change(now).into_iter().for_each(|at| sooner(&mut wake_at, at));
                match shared.slaac.solicit_at() {
                    // The stack's new configuration is to be reported.
                    Some(at) if at <= now => shared.stack.wake_by_ref(),
                    Some(at) => sooner(&mut wake_at, at),
                    None => {}
                }
            }
            wait(shared, wake_at).await;
        }
    }

    /// What the stack is to be given, where that is not what it was given last.
    fn news(&self, given: &Option<StaticConfigV6>, now: Duration) -> Option<Option<StaticConfigV6>> {
        let mut config = self.shared.as_ref()?.borrow_mut().slaac.configuration(now);
        if let Some(config) = config.as_mut().filter(|_| !self.takes_servers) {
            config.dns_servers.clear();
        }
        (config != *given).then_some(config)
    }
}

fn sooner(wake_at: &mut Option<Duration>, at: Duration) {
    *wake_at = Some(wake_at.map_or(at, |other| other.min(at)));
}

/// Until something has changed, or the time has come.
async fn wait(shared: &RefCell<Shared>, until: Option<Duration>) {
    let mut is_first = true;
    let changed = pin!(poll_fn(|cx| {
        let mut shared = shared.borrow_mut();
        if is_first || shared.task.is_some() {
            is_first = false;
            shared.task = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }));
    match until {
        Some(until) => {
            let until = Instant::from_micros(until.as_micros().try_into().unwrap_or(u64::MAX));
            select(changed, Timer::at(until)).await;
        }
        None => changed.await,
    }
}

struct Shown<'a>(Option<&'a StaticConfigV6>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(config) = self.0 else { return f.write_str("the IPv6 address has expired") };
        write!(f, "IPv6 address {}", config.address)?;
        config.gateway.map_or(Ok(()), |gateway| write!(f, ", gateway {gateway}"))
    }
}
