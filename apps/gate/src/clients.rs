//! Clients: their addresses, and what they ask of a router.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::pin::pin;
use core::time::Duration;

use futures_util::future::{Either, select};
use sarab::network::back::Port;
use sarab::network::{Addresses, IpCidr};
use sarab::platform::yield_now;
use sarab::println;
use sarab_router::rules::Config;
use sarab_router::services::advertise::{self, Prefix, Schedule, advertisement, solicits_router};
use sarab_router::services::dhcp::{self, Offer, Response};
use sarab_router::services::neighbor::{self, Answer};
use sarab_router::services::pool::{self, Pool};
use sarab_router::services::{GATE_MAC, asks_about};
use sarab_router::{ClientSettings, InterfaceId};

use crate::firewall::Identity;
use crate::gate::Gate;
use crate::provider::Provider;
use crate::wires::{Link, Wire};

/// Addresses of IPv6 that a client may take of a network by itself (RFC 8981 has it change them).
const MAX_LEARNT: usize = 8;
const LEARN_INTERVAL: Duration = Duration::from_secs(10);
/// Packets until others have their turn.
const AT_ONCE: usize = 32;
/// What a client's link takes.
const MTU: u16 = 1500;

/// A client as the gate knows it.
pub struct Client {
    pub name: String,
    pub port: Rc<Port>,
    pub settings: ClientSettings,
    /// Of IPv6, as it has asked for them.
    learnt: Vec<Ipv6Addr>,
    /// When it may take another one in place of its oldest: all flows are looked at then.
    may_learn: Duration,
    pub schedule: Schedule,
    prefix_v4: u8,
}

/// All of them.
pub struct Clients {
    pub all: BTreeMap<InterfaceId, Client>,
    pool: Pool,
    seed: u64,
    /// What uplinks had when it was printed.
    printed: BTreeMap<InterfaceId, Addresses>,
}

impl Clients {
    pub fn new(seed: u64) -> Clients {
        Clients { all: BTreeMap::new(), pool: Pool::new(seed), seed, printed: BTreeMap::new() }
    }

    pub fn name_of(&self, interface: InterfaceId) -> String {
        self.all.get(&interface).map_or_else(|| "a client that is gone".to_string(), |client| client.name.clone())
    }

    /// Takes note of an uplink's addresses, and prints them where they are others than before. Whether they are.
    pub fn uplink_has(&mut self, id: InterfaceId, name: &str, addresses: &Addresses) -> bool {
        let before = self.printed.insert(id, addresses.clone()).unwrap_or_default();
        if before == *addresses {
            return false;
        }
        let line = |of: &Addresses| (of.ipv4, of.ipv6, of.gateway_v4(), of.gateway_v6());
        if line(&before) != line(addresses) {
            println!("gate: {name}: {addresses}");
        }
        true
    }

    /// The networks of clients are others from now on.
    pub fn configure(&mut self, config: &Config) {
        self.pool = Pool::new(self.seed);
        for cidr in &config.clients {
            self.pool.reserve(cidr.address().into());
            match cidr {
                IpCidr::Ipv4(cidr) => self.pool.set_v4(*cidr),
                IpCidr::Ipv6(cidr) => self.pool.set_v6(*cidr),
            }
        }
        // Whoever is meant says in its xl file that it has one of these.
        let published = config.publish.iter();
        let published =
            published.flat_map(|publish| publish.v4.map(IpAddr::V4).into_iter().chain(publish.v6.map(IpAddr::V6)));
        let named = published.chain(config.maps.iter().map(|map| map.inside));
        for address in named.filter(|address| !config.hosts.iter().any(|host| host.addresses.contains(address))) {
            self.pool.reserve(address);
        }
        for host in &config.hosts {
            let fixed = pool::Addresses { v4: host.v4(), v6: host.v6() };
            if let Err(error) = self.pool.fix(host.mac, fixed) {
                println!("gate: host {}: {error}", host.name);
            }
        }
        // Who is there keeps its address, where the networks still have it and nobody else is to.
        for client in self.all.values().filter(|client| client.port.attachment().addresses.is_empty()) {
            let is_kept = |address: &IpAddr| config.clients.iter().any(|cidr| cidr.contains_addr(&(*address).into()));
            let mut kept = client.settings.addresses.iter().filter(|address| is_kept(address));
            let v4 = kept.clone().find_map(v4_of);
            let v6 = kept.find_map(v6_of);
            let is_host = config.hosts.iter().any(|host| host.mac == client.settings.mac && !host.addresses.is_empty());
            if !is_host {
                // One that it may not keep is another's now: it is given a new one.
                let _ = self.pool.fix(client.settings.mac, pool::Addresses { v4, v6 });
            }
        }
    }

    /// What a client has: what its xl file says, or what the pool gives it.
    fn settings(&mut self, port: &Port, config: &Config, provider: Option<&Provider>) -> (ClientSettings, u8) {
        let attachment = port.attachment();
        let mut addresses = attachment.addresses.clone();
        if let Some(provider) = provider {
            return (provided(attachment.mac, &addresses, provider), 32);
        }
        let mut prefix_v4 = 32;
        if addresses.is_empty() {
            match self.pool.assign(attachment.mac) {
                Ok(found) => {
                    addresses.extend(found.v4.map(IpAddr::V4).into_iter().chain(found.v6.map(IpAddr::V6)));
                }
                Err(error) => println!("gate: {} of {}: {error}", attachment.device, attachment.domain),
            }
        }
        let gateway = |v6: bool| {
            let own = config.clients.iter().filter(|cidr| IpAddr::from(cidr.address()).is_ipv6() == v6);
            let holds = |cidr: &&IpCidr| addresses.iter().any(|address| cidr.contains_addr(&(*address).into()));
            own.clone().find(holds).or(own.clone().next()).copied()
        };
        let (mut gateway_v4, mut gateway_v6) = (None, None);
        if let Some(IpCidr::Ipv4(cidr)) = gateway(false) {
            gateway_v4 = Some(cidr.address());
            if addresses.iter().any(|address| IpCidr::Ipv4(cidr).contains_addr(&(*address).into())) {
                prefix_v4 = cidr.prefix_len();
            }
        }
        if let Some(IpCidr::Ipv6(cidr)) = gateway(true) {
            gateway_v6 = Some(cidr.address());
        }
        let settings = ClientSettings {
            mac: attachment.mac,
            gate_mac: GATE_MAC,
            addresses,
            gateway_v4,
            gateway_v6,
            mtu: MTU,
            alias: None,
        };
        (settings, prefix_v4)
    }
}

/// What a client has that has all of it of its host.
fn provided(mac: [u8; 6], addresses: &[IpAddr], provider: &Provider) -> ClientSettings {
    let mut addresses = Provider::first_of_each(addresses);
    let mapped = provider.mapped(&addresses);
    // It would be known by its address of the other family.
    if mapped.is_some() {
        addresses.retain(IpAddr::is_ipv4);
    }
    let (gateway_v4, gateway_v6) = (mapped.map(|(_, gateway)| gateway).or(provider.gateway_v4), provider.gateway_v6);
    let alias = mapped.map(|(alias, _)| alias);
    ClientSettings { mac, gate_mac: GATE_MAC, addresses, gateway_v4, gateway_v6, mtu: MTU, alias }
}

/// A client's port, from its coming to its going.
pub async fn serve(gate: Rc<Gate>, port: Rc<Port>) {
    let id = gate.open(&port);
    let mut is_up = false;
    'port: loop {
        for _ in 0..AT_ONCE {
            let event = {
                let packet = pin!(port.receive());
                let changed = pin!(port.changed(is_up));
                match select(packet, changed).await {
                    Either::Left((packet, _)) => Either::Left(packet),
                    Either::Right((changed, _)) => Either::Right(changed),
                }
            };
            match event {
                Either::Left(Some(packet)) => {
                    gate.receive(id, packet);
                    gate.settle().await;
                }
                Either::Right(Some(now)) => {
                    is_up = now;
                    gate.client_is(id, now);
                }
                Either::Left(None) | Either::Right(None) => break 'port,
            }
        }
        gate.relieved().await;
        yield_now().await;
    }
    gate.close(id);
}

impl Gate {
    fn open(&self, port: &Rc<Port>) -> InterfaceId {
        let config = self.config.borrow().clone();
        let attachment = port.attachment();
        let provider = self.provider.borrow().clone();
        let (settings, prefix_v4) = self.clients.borrow_mut().settings(port, &config, provider.as_deref());
        let name = name_of(port, &config);
        for address in settings.addresses.iter().filter(|address| self.router.borrow().has_client(**address)) {
            println!("gate: {name}: {address} is another client's too; of both, the one that is connected has it");
        }
        let id = self.add_client(settings.clone(), Wire::Client(Rc::new(Link::new(port.clone()))));
        let texts: Vec<String> = settings.addresses.iter().map(ToString::to_string).collect();
        println!(
            "gate: client {name} ({} of {}): {}",
            attachment.device,
            attachment.domain,
            if texts.is_empty() { "no address".into() } else { texts.join(" ") }
        );
        let schedule = Schedule::new(self.now(), u64::from(id.number()));
        let client = Client {
            name,
            port: port.clone(),
            settings,
            learnt: Vec::new(),
            may_learn: Duration::ZERO,
            schedule,
            prefix_v4,
        };
        self.clients.borrow_mut().all.insert(id, client);
        self.identify(id);
        id
    }

    fn close(&self, id: InterfaceId) {
        self.remove(id);
        let client = {
            let mut clients = self.clients.borrow_mut();
            let client = clients.all.remove(&id);
            if let Some(client) = &client {
                match self.config.borrow().hosts.iter().any(|host| host.mac == client.settings.mac) {
                    true => clients.pool.release(client.settings.mac),
                    // What it has kept through a change of the networks is others' now.
                    false => clients.pool.unfix(client.settings.mac),
                }
            }
            client
        };
        self.firewall.0.borrow_mut().clients.remove(&id);
        if let Some(client) = client {
            let _ = self.dns.names(|names| {
                names.remove(&client.name);
                Ok(())
            });
            let attachment = client.port.attachment();
            println!("gate: client {} ({} of {}) is gone", client.name, attachment.device, attachment.domain);
        }
    }

    fn client_is(&self, id: InterfaceId, is_up: bool) {
        self.router.borrow_mut().set_client_up(id, is_up);
        if is_up && let Some(client) = self.clients.borrow_mut().all.get_mut(&id) {
            client.schedule.restart(self.now());
        }
        self.kick();
    }

    /// Has rules, names and the router know a client's addresses.
    fn identify(&self, id: InterfaceId) {
        let clients = self.clients.borrow();
        let Some(client) = clients.all.get(&id) else { return };
        let identity = Identity {
            addresses: client.settings.addresses.clone(),
            mac: client.settings.mac,
            domain: client.port.attachment().domain.0,
        };
        self.firewall.0.borrow_mut().clients.insert(id, identity);
        // One without a name of its own is called by its number, which is no name for others.
        let _ = self.dns.names(|names| names.insert(&client.name, &client.settings.addresses));
        self.router.borrow_mut().set_client(id, client.settings.clone());
    }

    /// The configuration is another one: clients may have other gateways, and those that need it other addresses.
    pub fn configure_clients(&self) {
        let config = self.config.borrow().clone();
        let provider = self.provider.borrow().clone();
        let ids: Vec<InterfaceId> = {
            let mut clients = self.clients.borrow_mut();
            clients.configure(&config);
            let ids: Vec<InterfaceId> = clients.all.keys().copied().collect();
            for id in &ids {
                let Some(port) = clients.all.get(id).map(|client| client.port.clone()) else { continue };
                let (settings, prefix_v4) = clients.settings(&port, &config, provider.as_deref());
                let Some(client) = clients.all.get_mut(id) else { continue };
                let name = name_of(&port, &config);
                if name != client.name {
                    let before = core::mem::replace(&mut client.name, name);
                    let _ = self.dns.names(|names| {
                        names.remove(&before);
                        Ok(())
                    });
                }
                (client.settings, client.prefix_v4) = (settings, prefix_v4);
                client.learnt.clear();
                client.schedule.restart(self.now());
            }
            ids
        };
        ids.into_iter().for_each(|id| self.identify(id));
    }

    /// What a client asks of a router.
    pub fn control(&self, from: InterfaceId, frame: &[u8]) {
        self.learn(from, frame);
        let mut replies = Vec::new();
        let mut spoofed = false;
        {
            let config = self.config.borrow().clone();
            let mut clients = self.clients.borrow_mut();
            let Some(client) = clients.all.get_mut(&from) else { return };
            let alias = client.settings.alias.map(|alias| alias.visible);
            let v4 = client.settings.addresses.iter().filter_map(v4_of).map(|address| alias.unwrap_or(address));
            let v4: Vec<Ipv4Addr> = v4.collect();
            let v6: Vec<Ipv6Addr> = client.settings.addresses.iter().filter_map(v6_of).collect();
            let known = neighbor::Client { mac: client.settings.mac, v4: &v4, v6: &v6 };
            let mut answer = |answer: Answer| match answer {
                Answer::Reply(frame) => replies.push(frame),
                Answer::Spoofed(_) => spoofed = true,
                Answer::Nothing => {}
            };
            answer(neighbor::arp(frame, GATE_MAC, &known));
            answer(neighbor::neighbor(frame, GATE_MAC, &known));
            match solicits_router(frame, GATE_MAC, &known) {
                Ok(true) => client.schedule.solicit(self.now()),
                Ok(false) => {}
                Err(_) => spoofed = true,
            }
            let provider = self.provider.borrow().clone();
            if let Some(offer) = offer(client, &config, provider.as_deref(), self.mtu.get())
                && let Response::Reply(frame) = dhcp::respond(frame, &offer)
            {
                replies.push(frame);
            }
        }
        if spoofed {
            self.router.borrow_mut().count_spoofed(from);
        }
        replies.into_iter().for_each(|frame| self.send(from, frame));
        self.kick();
    }

    /// Takes note of an address of IPv6 that a client makes itself: whoever asks for it first has it (RFC 6620).
    fn learn(&self, from: InterfaceId, frame: &[u8]) {
        let config = self.config.borrow().clone();
        let Some(address) = asks_about(frame) else { return };
        let is_inside =
            config.clients.iter().any(|cidr| cidr.prefix_len() <= 64 && cidr.contains_addr(&address.into()));
        let is_taken = {
            let router = self.router.borrow();
            router.is_own(address.into()) || router.has_client(address.into())
        };
        if !is_inside || is_taken {
            return;
        }
        {
            let mut clients = self.clients.borrow_mut();
            let Some(client) = clients.all.get_mut(&from) else { return };
            // What the toolstack has given is all that it has.
            if !client.port.attachment().addresses.is_empty() {
                return;
            }
            if client.learnt.len() >= MAX_LEARNT {
                let now = self.now();
                if now < client.may_learn {
                    return;
                }
                client.may_learn = now + LEARN_INTERVAL;
                let oldest = client.learnt.remove(0);
                client.settings.addresses.retain(|own| *own != IpAddr::V6(oldest));
            }
            client.learnt.push(address);
            client.settings.addresses.push(address.into());
        }
        self.identify(from);
    }

    /// Sends the router advertisements that are due.
    pub fn advertise(&self, now: Duration) {
        // Their host tells them.
        if self.provider.borrow().is_some() {
            return;
        }
        let config = self.config.borrow().clone();
        let mut frames = Vec::new();
        for (id, client) in &mut self.clients.borrow_mut().all {
            if client.port.is_up()
                && client.schedule.poll(now)
                && let Some(advertised) = advertised(client, &config, self.mtu.get())
            {
                frames.push((*id, advertisement(&advertised, None)));
            }
        }
        frames.into_iter().for_each(|(id, frame)| self.send(id, frame));
    }

    /// Clients are told that there is no router any more.
    pub fn cease(&self) {
        if self.provider.borrow().is_some() {
            return;
        }
        let config = self.config.borrow().clone();
        let mut frames = Vec::new();
        for (id, client) in &self.clients.borrow().all {
            if let Some(advertised) = advertised(client, &config, self.mtu.get()) {
                frames.push((*id, advertisement(&advertised.ceasing(), None)));
            }
        }
        frames.into_iter().for_each(|(id, frame)| self.send(id, frame));
    }
}

/// What a client is called: by its host's name, or by its domain's number and its interface's.
fn name_of(port: &Port, config: &Config) -> String {
    let attachment = port.attachment();
    match config.hosts.iter().find(|host| host.mac == attachment.mac) {
        Some(host) => host.name.to_string(),
        None => format!("{}/{}", attachment.domain, attachment.device),
    }
}

fn v4_of(address: &IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(address) = address { Some(*address) } else { None }
}

fn v6_of(address: &IpAddr) -> Option<Ipv6Addr> {
    if let IpAddr::V6(address) = address { Some(*address) } else { None }
}

/// What a client is told by DHCP.
fn offer(client: &Client, config: &Config, provider: Option<&Provider>, mtu: u16) -> Option<Offer> {
    let alias = client.settings.alias.map(|alias| alias.visible);
    let address = alias.or_else(|| client.settings.addresses.iter().find_map(v4_of))?;
    let router = client.settings.gateway_v4?;
    let mut offer = Offer::new(client.settings.mac, address, client.prefix_v4, router);
    match provider {
        Some(provider) => offer.name_servers.extend(provider.name_servers.iter().filter_map(v4_of)),
        None => offer.name_servers.push(router),
    }
    offer.mtu = Some(mtu);
    offer.domain = config.search.as_deref().map(Into::into);
    offer.host_name =
        config.hosts.iter().find(|host| host.mac == client.settings.mac).map(|host| host.name.to_string());
    Some(offer)
}

/// What a client is told by router advertisements.
fn advertised(client: &Client, config: &Config, mtu: u16) -> Option<advertise::Config> {
    let gateway = client.settings.gateway_v6?;
    let mut advertised = advertise::Config::default();
    advertised.mtu = Some(mtu.into());
    advertised.name_servers.push(gateway);
    advertised.search.extend(config.search.as_deref().map(Into::into));
    let has_fixed = !client.port.attachment().addresses.is_empty();
    for cidr in &config.clients {
        if let IpCidr::Ipv6(cidr) = cidr
            && cidr.prefix_len() == 64
            && !has_fixed
        {
            advertised.prefixes.push(Prefix::autonomous(*cidr));
        }
    }
    Some(advertised)
}
