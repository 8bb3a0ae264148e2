//! A router's interfaces, and what is due.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::time::Duration;

use sarab_net::{Config, Link, News};

use super::{Output, Router};
use crate::InterfaceId;
use crate::interface::{Bounds, Client, ClientSettings, Interface, Role, Uplink, UplinkSettings};
use crate::policy::Policy;

/// Flows that are forgotten in one go.
const EXPIRE_AT_ONCE: usize = 256;

/// Interfaces.
impl<P: Policy> Router<P> {
    /// Adds an uplink, which is down.
    pub fn add_uplink(&mut self, settings: UplinkSettings) -> InterfaceId {
        let UplinkSettings { mac, config, mtu } = settings;
        let link = Link::new(mac, config, (self.random)());
        let role = Role::Uplink(Box::new(Uplink { link, known: sarab_net::Addresses::default() }));
        let id = InterfaceId(self.interfaces.insert(Interface::new(role, mtu)) as u16);
        self.refresh();
        id
    }

    /// Adds a client.
    pub fn add_client(&mut self, settings: ClientSettings) -> InterfaceId {
        let mtu = settings.mtu;
        let client = Client { settings, is_up: false, bounds: Bounds::new(&self.limits) };
        let id = InterfaceId(self.interfaces.insert(Interface::new(Role::Client(client), mtu)) as u16);
        self.refresh();
        id
    }

    /// Removes an interface, with its flows.
    pub fn remove(&mut self, interface: InterfaceId) {
        if interface == InterfaceId::LOCAL || self.interfaces.try_remove(interface.0.into()).is_none() {
            return;
        }
        self.flows.retain(|flow| !flow.interfaces.contains(&interface));
        self.refresh();
    }

    /// An uplink's link, to be looked at.
    pub fn link(&self, interface: InterfaceId) -> Option<&Link> {
        match &self.interfaces.get(interface.0.into())?.role {
            Role::Uplink(uplink) => Some(&uplink.link),
            _ => None,
        }
    }

    /// A client.
    pub fn client(&self, interface: InterfaceId) -> Option<&Client> {
        match &self.interfaces.get(interface.0.into())?.role {
            Role::Client(client) => Some(client),
            _ => None,
        }
    }

    /// All clients.
    pub fn clients(&self) -> impl Iterator<Item = (InterfaceId, &Client)> {
        self.interfaces.iter().filter_map(|(id, interface)| match &interface.role {
            Role::Client(client) => Some((InterfaceId(id as u16), client)),
            _ => None,
        })
    }

    /// Packets of an interface that were dropped.
    pub fn dropped(&self, interface: InterfaceId) -> u64 {
        self.interfaces.get(interface.0.into()).map_or(0, |interface| interface.dropped)
    }

    /// A client's addresses and gateways are others from now on. Flows of addresses that it has lost are forgotten.
    pub fn set_client(&mut self, interface: InterfaceId, settings: ClientSettings) {
        let Some(own) = self.interfaces.get_mut(interface.0.into()) else { return };
        own.mtu = settings.mtu;
        let Role::Client(client) = &mut own.role else { return };
        let before = core::mem::replace(&mut client.settings, settings);
        let lost: Vec<IpAddr> = before.addresses.into_iter().filter(|address| !client.has(*address)).collect();
        if !lost.is_empty() {
            self.flows.retain(|flow| {
                let inside = [flow.tuples[0].endpoints.source, flow.tuples[1].endpoints.source];
                !(0..2).any(|end| flow.interfaces[end] == interface && lost.contains(&inside[end]))
            });
        }
        self.refresh();
    }

    /// Whether a client is connected.
    pub fn set_client_up(&mut self, interface: InterfaceId, is_up: bool) {
        if let Some(Interface { role: Role::Client(client), .. }) = self.interfaces.get_mut(interface.0.into()) {
            client.is_up = is_up;
        }
    }

    /// The state of an uplink's device.
    pub fn set_uplink(&mut self, interface: InterfaceId, mac: sarab_net::Mac, is_up: bool, mtu: u16, now: Duration) {
        if let Some(own) = self.interfaces.get_mut(interface.0.into())
            && let Role::Uplink(uplink) = &mut own.role
        {
            own.mtu = mtu;
            uplink.link.device(mac, is_up, now);
        }
        self.refresh_uplink(interface);
    }

    /// Has an uplink come by its addresses in another way.
    pub fn configure_uplink(&mut self, interface: InterfaceId, config: Config, now: Duration) {
        if let Some(Interface { role: Role::Uplink(uplink), .. }) = self.interfaces.get_mut(interface.0.into()) {
            uplink.link.configure(config, now);
        }
        self.refresh_uplink(interface);
    }

    /// Has an uplink tell everybody of its addresses, as after a restore.
    pub fn announce(&mut self, interface: InterfaceId, now: Duration) {
        if let Some(Interface { role: Role::Uplink(uplink), .. }) = self.interfaces.get_mut(interface.0.into()) {
            uplink.link.announce(now);
        }
    }

    /// What an administrator is to know of an uplink.
    pub fn news(&mut self, interface: InterfaceId) -> Option<News> {
        match &mut self.interfaces.get_mut(interface.0.into())?.role {
            Role::Uplink(uplink) => uplink.link.news(),
            _ => None,
        }
    }

    /// An uplink's addresses may have changed.
    pub(super) fn refresh_uplink(&mut self, interface: InterfaceId) {
        let Some(Interface { role: Role::Uplink(uplink), .. }) = self.interfaces.get_mut(interface.0.into()) else {
            return;
        };
        if *uplink.link.addresses() == uplink.known {
            return;
        }
        let before = core::mem::replace(&mut uplink.known, uplink.link.addresses().clone());
        let lost: Vec<IpAddr> = before
            .iter()
            .map(|cidr| IpAddr::from(cidr.address()))
            .filter(|address| uplink.known.iter().all(|cidr| IpAddr::from(cidr.address()) != *address))
            .collect();
        if !lost.is_empty() {
            self.flows.retain(|flow| {
                let here = [flow.tuples[0].endpoints.destination, flow.tuples[1].endpoints.destination];
                !(0..2).any(|end| flow.interfaces[end] == interface && lost.contains(&here[end]))
            });
        }
        self.refresh();
    }

    /// Who has which address.
    pub(super) fn refresh(&mut self) {
        self.own.clear();
        self.clients.clear();
        let proxied: Vec<IpAddr> = self.nat.outers().collect();
        for (id, interface) in &mut self.interfaces {
            match &mut interface.role {
                Role::Local => {}
                Role::Uplink(uplink) => {
                    self.own.extend(uplink.link.addresses().iter().map(|cidr| IpAddr::from(cidr.address())));
                    self.own.extend(uplink.link.addresses().link_local.map(IpAddr::V6));
                    uplink.link.set_proxied(proxied.clone());
                }
                Role::Client(client) => {
                    // What one sees alone, others may see outside.
                    let v4 = client.gateway(false).filter(|_| client.settings.alias.is_none());
                    self.own.extend(v4.into_iter().chain(client.gateway(true)));
                    for address in &client.settings.addresses {
                        self.clients.entry(*address).or_default().push(InterfaceId(id as u16));
                    }
                }
            }
        }
    }

    /// Who has an address now: of several who is connected, and of these the latest.
    pub(super) fn owner(&self, address: IpAddr) -> Option<InterfaceId> {
        let all = self.clients.get(&address)?;
        let is_up = |id: &&InterfaceId| self.client(**id).is_some_and(|client| client.is_up);
        all.iter().rev().find(is_up).or(all.last()).copied()
    }
}

/// Time.
impl<P: Policy> Router<P> {
    /// Does what is due.
    pub fn poll(&mut self, now: Duration, output: &mut impl Output) {
        self.flows.expire(now, EXPIRE_AT_ONCE);
        self.fragments.expire(now);
        let uplinks: Vec<InterfaceId> = self.uplinks().collect();
        for id in uplinks {
            if let Some(Interface { role: Role::Uplink(uplink), .. }) = self.interfaces.get_mut(id.0.into()) {
                uplink.link.poll(now);
            }
            self.flush(id, output);
            self.refresh_uplink(id);
        }
    }

    /// When something is due.
    pub fn next(&self) -> Option<Duration> {
        let links = self.interfaces.iter().filter_map(|(_, interface)| match &interface.role {
            Role::Uplink(uplink) => uplink.link.next(),
            _ => None,
        });
        links.chain(self.flows.next()).chain(self.fragments.next()).min()
    }

    pub(super) fn uplinks(&self) -> impl Iterator<Item = InterfaceId> + '_ {
        self.interfaces
            .iter()
            .filter(|(_, interface)| matches!(interface.role, Role::Uplink(_)))
            .map(|(id, _)| InterfaceId(id as u16))
    }

    /// Sends a link's own frames.
    pub(super) fn flush(&mut self, id: InterfaceId, output: &mut impl Output) {
        if let Some(Interface { role: Role::Uplink(uplink), .. }) = self.interfaces.get_mut(id.0.into()) {
            while let Some(frame) = uplink.link.pop() {
                output.send(id, frame.into());
            }
        }
    }
}
