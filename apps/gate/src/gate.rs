//! The router, and all that is around it.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, Ref, RefCell};
use core::net::IpAddr;
use core::pin::pin;
use core::time::Duration;

use futures_util::future::select;
use sarab::hal::Clock;
use sarab::network::Stack;
use sarab::network::back::Packet;
use sarab::ring::WaitQueue;
use sarab::time::Timer;
use sarab::{App, println};
use sarab_router::rules::Config;
use sarab_router::services::dns::Forwarder;
use sarab_router::{ClientSettings, Drop, DropRecord, InterfaceId, Router, UplinkSettings};

use crate::clients::Clients;
use crate::firewall::Firewall;
use crate::generation::Generation;
use crate::local;
use crate::provider::Provider;
use crate::wires::{Wire, Wires};

/// Ethernet's.
const MTU: u16 = 1500;
/// The longest pause between two looks at what is due.
const TICK: Duration = Duration::from_secs(1);
/// Lines about dropped packets: one for each reason in so long.
const DROP_LINES: Duration = Duration::from_secs(1);

/// The number of an uplink's interface: its name is `vif/0`, or on a VLAN `vif/0.100`.
fn interface(uplink: &str) -> Option<u32> {
    uplink.strip_prefix("vif/")?.split('.').next()?.parse().ok()
}

pub struct Gate {
    pub app: App,
    pub router: RefCell<Router<Firewall>>,
    wires: RefCell<Wires>,
    pub config: RefCell<Rc<Config>>,
    /// Of a host that says itself what clients have.
    pub provider: RefCell<Option<Rc<Provider>>>,
    pub firewall: Firewall,
    pub clients: RefCell<Clients>,
    pub dns: Forwarder<'static>,
    /// Its own stack, and whom that asks for names.
    stack: Stack,
    name_servers: RefCell<Vec<IpAddr>>,
    /// Uplinks by their names.
    pub uplinks: RefCell<BTreeMap<InterfaceId, String>>,
    /// The most that all uplinks take: clients are told.
    pub mtu: Cell<u16>,
    uplink_mtus: RefCell<BTreeMap<InterfaceId, u16>>,
    /// Something is due sooner than it was.
    sooner: Cell<bool>,
    tick: WaitQueue,
    last_lines: RefCell<BTreeMap<u8, (Duration, u64)>>,
    /// Other rules are in use, or others are asked for the names in them.
    pub reloaded: Generation,
    /// Names in rules stand for others than before.
    pub resolved: Generation,
    /// Time from the start to the first packet that was passed on.
    pub first_packet: Cell<Option<Duration>>,
}

impl Gate {
    pub fn new(
        app: App,
        router: Router<Firewall>,
        firewall: Firewall,
        queues: Rc<local::Queues>,
        (stack, dns): (Stack, Forwarder<'static>),
        clients: Clients,
    ) -> Gate {
        Gate {
            app,
            router: RefCell::new(router),
            wires: RefCell::new(Wires::new(queues)),
            config: RefCell::default(),
            provider: RefCell::default(),
            firewall,
            clients: RefCell::new(clients),
            dns,
            stack,
            name_servers: RefCell::default(),
            uplinks: RefCell::default(),
            mtu: Cell::new(MTU),
            uplink_mtus: RefCell::default(),
            sooner: Cell::new(false),
            tick: WaitQueue::default(),
            last_lines: RefCell::default(),
            reloaded: Generation::default(),
            resolved: Generation::default(),
            first_packet: Cell::new(None),
        }
    }

    pub fn wires(&self) -> Ref<'_, Wires> {
        self.wires.borrow()
    }

    pub fn now(&self) -> Duration {
        self.app.clock().now()
    }

    /// Routes a frame.
    pub fn receive(&self, from: InterfaceId, packet: Packet) {
        let now = self.now();
        let mut router = self.router.borrow_mut();
        let mut wires = self.wires.borrow_mut();
        wires.now = now;
        router.receive(from, packet, now, &mut *wires);
        if self.first_packet.get().is_none() && router.statistics().forwarded > 0 {
            self.first_packet.set(Some(now));
        }
        if wires.control.is_empty() {
            return;
        }
        let control = core::mem::take(&mut wires.control);
        drop((router, wires));
        for (from, frame) in control {
            self.control(from, &frame);
        }
    }

    /// Sends a frame of the gate's own to a client.
    pub fn send(&self, to: InterfaceId, frame: Vec<u8>) {
        use sarab_router::Output;
        self.wires.borrow_mut().send(to, frame.into());
    }

    /// Waits for clients that have no room, for a moment.
    pub async fn settle(&self) {
        loop {
            let next = self.wires.borrow_mut().full.pop_front();
            let Some((link, packet)) = next else { return };
            link.send_later(self.app.clock(), packet).await;
        }
    }

    /// Waits while an uplink has more to send than it can.
    pub async fn relieved(&self) {
        let congested = self.wires.borrow().congested();
        if let Some(device) = congested {
            device.relieved().await;
        }
    }

    /// Something may be due sooner than it was.
    pub fn check_timers(&self) {
        if self.router.borrow().next().is_some_and(|next| next <= self.now()) {
            self.kick();
        }
    }

    /// Tells everybody outside of the gate's addresses: the networks may be others than before.
    #[cfg_attr(not(feature = "qubes"), expect(dead_code))]
    pub fn announce(&self) {
        let now = self.now();
        for id in self.uplinks.borrow().keys() {
            self.router.borrow_mut().announce(*id, now);
        }
        self.kick();
    }

    pub fn kick(&self) {
        self.sooner.set(true);
        self.tick.wake_all();
    }

    /// Does what is due, when it is.
    pub async fn run(self: Rc<Self>) {
        loop {
            let now = self.now();
            let next = {
                let mut router = self.router.borrow_mut();
                router.poll(now, &mut *self.wires.borrow_mut());
                router.next()
            };
            self.say_news();
            self.advertise(now);
            self.log_drops(now);
            let pause = next.map_or(TICK, |next| next.saturating_sub(now)).clamp(Duration::from_millis(1), TICK);
            let due = pin!(self.tick.wait_until(|| self.sooner.replace(false).then_some(())));
            select(due, pin!(Timer::after_micros(pause.as_micros() as u64))).await;
            sarab::platform::yield_now().await;
        }
    }

    fn say_news(&self) {
        let mut changed = false;
        for (id, name) in &*self.uplinks.borrow() {
            while let Some(news) = self.router.borrow_mut().news(*id) {
                println!("gate: {name}: {news}");
            }
            let addresses = self.router.borrow().link(*id).map(|link| link.addresses().clone()).unwrap_or_default();
            changed |= self.clients.borrow_mut().uplink_has(*id, name, &addresses);
        }
        if changed {
            self.set_servers();
            self.report_addresses();
        }
    }

    /// Has the toolstack see the addresses of each interface: those of its networks, on VLANs too.
    fn report_addresses(&self) {
        let (router, uplinks) = (self.router.borrow(), self.uplinks.borrow());
        let mut interfaces = BTreeMap::<u32, Vec<(IpAddr, u8)>>::new();
        for (id, name) in &*uplinks {
            let (Some(number), Some(link)) = (interface(name), router.link(*id)) else { continue };
            let addresses = link.addresses().iter().map(|cidr| (cidr.address().into(), cidr.prefix_len()));
            interfaces.entry(number).or_default().extend(addresses);
        }
        for (number, addresses) in interfaces {
            self.app.report_addresses(number, addresses);
        }
    }

    /// Whom names are asked of: those that the uplinks know, the first's first.
    pub fn set_servers(&self) {
        let router = self.router.borrow();
        let uplinks = self.uplinks.borrow();
        let links = uplinks.keys().filter_map(|id| router.link(*id));
        let servers: Vec<_> = links.flat_map(|link| link.addresses().name_servers.iter().copied()).collect();
        self.dns.set_servers(&servers);
        if *self.name_servers.borrow() != servers {
            local::set_name_servers(self.stack, &servers);
            self.name_servers.replace(servers);
            self.firewall.0.borrow_mut().names.retry(self.now());
            self.reloaded.advance();
        }
    }

    fn log_drops(&self, now: Duration) {
        let records: Vec<DropRecord> = self.router.borrow_mut().take_records().collect();
        if !self.config.borrow().log_drops {
            return;
        }
        let totals = self.router.borrow().statistics().dropped;
        let mut lines = self.last_lines.borrow_mut();
        for record in records {
            let (last, told) = lines.entry(record.reason as u8).or_default();
            let total = totals[record.reason as usize];
            if now < *last + DROP_LINES || total == *told {
                continue;
            }
            let more = total.saturating_sub(*told + 1);
            (*last, *told) = (now, total);
            self.say_drop(&record, more);
        }
    }

    fn say_drop(&self, record: &DropRecord, more: u64) {
        let from = self.name_of(record.from);
        let reason = record.reason.name();
        match record.tuple {
            Some(tuple) => {
                let ends = tuple.endpoints;
                println!(
                    "gate: dropped ({reason}) from {from}: protocol {} {}:{} to {}:{}, and {more} more",
                    tuple.protocol, ends.source, ends.source_port, ends.destination, ends.destination_port
                );
            }
            None => println!("gate: dropped ({reason}) from {from}, and {more} more"),
        }
    }

    /// What an interface is called.
    pub fn name_of(&self, interface: InterfaceId) -> String {
        if interface == InterfaceId::LOCAL {
            return "gate".into();
        }
        if let Some(name) = self.uplinks.borrow().get(&interface) {
            return name.clone();
        }
        self.clients.borrow().name_of(interface)
    }

    /// Packets that were dropped, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let dropped = self.router.borrow().statistics().dropped;
        Drop::ALL.into_iter().map(move |reason| (reason.name(), dropped[reason as usize]))
    }
}

/// Interfaces.
impl Gate {
    pub fn add_uplink(&self, settings: UplinkSettings, name: String, wire: Wire) -> InterfaceId {
        let id = self.router.borrow_mut().add_uplink(settings);
        self.wires.borrow_mut().set(id, wire);
        self.uplinks.borrow_mut().insert(id, name);
        id
    }

    /// Has an uplink come by its addresses in another way, if it does not already.
    pub fn configure_uplink(&self, id: InterfaceId, config: sarab::network::Config) {
        let is_same = self.router.borrow().link(id).is_none_or(|link| *link.config() == config);
        if !is_same {
            let now = self.now();
            self.router.borrow_mut().configure_uplink(id, config, now);
        }
    }

    pub fn set_uplink(&self, id: InterfaceId, mac: [u8; 6], is_up: bool, mtu: u16) {
        self.router.borrow_mut().set_uplink(id, mac, is_up, mtu, self.now());
        if is_up {
            self.uplink_mtus.borrow_mut().insert(id, mtu);
        }
        self.settle_mtu();
        self.kick();
    }

    pub fn add_client(&self, settings: ClientSettings, wire: Wire) -> InterfaceId {
        let id = self.router.borrow_mut().add_client(settings);
        self.wires.borrow_mut().set(id, wire);
        id
    }

    pub fn remove(&self, id: InterfaceId) {
        self.router.borrow_mut().remove(id);
        self.wires.borrow_mut().set(id, Wire::None);
        let uplink = self.uplinks.borrow_mut().remove(&id);
        if let Some(name) = uplink {
            if let Some(number) = interface(&name) {
                self.app.report_addresses(number, []);
            }
            self.report_addresses();
            self.uplink_mtus.borrow_mut().remove(&id);
            self.settle_mtu();
            self.set_servers();
        }
    }

    /// Clients are told of the least that uplinks take, though what is between them may be larger.
    fn settle_mtu(&self) {
        let least = self.uplink_mtus.borrow().values().copied().min().unwrap_or(MTU).min(MTU);
        if self.mtu.replace(least) != least {
            let now = self.now();
            self.clients.borrow_mut().all.values_mut().for_each(|client| client.schedule.restart(now));
        }
    }
}
