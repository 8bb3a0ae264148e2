//! A client that knows itself by another address than everybody else: what it sends and gets is translated on its own link,
//! before and after all else, so that flows, rules and other clients see the one address only.

use core::net::{IpAddr, Ipv4Addr};

use xen_netif::back::{Checksum, Packet};

use crate::packet::View;
use crate::related::{self, Quoted};
use crate::rewrite::{self, Endpoints};
use crate::router::Drop;

/// An address that a client has in its own eyes alone: Qubes OS hides a qube's address from it so. Several clients may have
/// the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// What the client believes to be its address.
    pub visible: Ipv4Addr,
    /// Its address for everybody else, which is one of [`ClientSettings::addresses`](crate::ClientSettings::addresses).
    pub actual: Ipv4Addr,
}

impl Alias {
    /// Gives what the client has sent the address that others know.
    pub(crate) fn arrive(&self, packet: &mut Packet, view: View) -> Result<View, Drop> {
        let (visible, actual) = (IpAddr::V4(self.visible), IpAddr::V4(self.actual));
        if view.source != visible {
            return Ok(view);
        }
        let endpoints = Endpoints { source: actual, ..endpoints(&view) };
        let inner = |quoted: Endpoints| Endpoints {
            destination: if quoted.destination == visible { actual } else { quoted.destination },
            ..quoted
        };
        change(packet, &view, endpoints, inner)?;
        Ok(View::parse(&packet.bytes)?)
    }

    /// Gives what is for the client the address that it knows.
    pub(crate) fn leave(&self, packet: &mut Packet) -> Result<(), Drop> {
        let (visible, actual) = (IpAddr::V4(self.visible), IpAddr::V4(self.actual));
        let view = View::parse(&packet.bytes)?;
        if view.destination != actual {
            return Ok(());
        }
        let endpoints = Endpoints { destination: visible, ..endpoints(&view) };
        let inner = |quoted: Endpoints| Endpoints {
            source: if quoted.source == actual { visible } else { quoted.source },
            ..quoted
        };
        change(packet, &view, endpoints, inner)
    }
}

fn endpoints(view: &View) -> Endpoints {
    let [source_port, destination_port] = view.ports();
    Endpoints { source: view.source, destination: view.destination, source_port, destination_port }
}

/// Gives a packet other addresses, and what a message of ICMP quotes as well.
fn change(
    packet: &mut Packet,
    view: &View,
    to: Endpoints,
    inner: impl FnOnce(Endpoints) -> Endpoints,
) -> Result<(), Drop> {
    if !view.is_icmp_error() || view.fragment.is_some() {
        rewrite::translate(&mut packet.bytes, view, packet.checksum, &to);
        return Ok(());
    }
    if packet.checksum != Checksum::Valid && !related::is_intact(&packet.bytes, view) {
        return Err(Drop::Checksum);
    }
    let quoted = Quoted::parse(&packet.bytes, view).ok_or(Drop::Malformed)?;
    related::change(&mut packet.bytes, view, &quoted, &inner(quoted.tuple.endpoints), (to.source, to.destination));
    packet.checksum = Checksum::Valid;
    Ok(())
}
