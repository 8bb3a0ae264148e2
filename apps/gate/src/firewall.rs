//! Rules as the router asks them.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::IpAddr;

use sarab_router::packet::{ICMP, ICMPV6};
use sarab_router::rules::{self, ClientIdentity, Config, Counters, NameTable, Query, RuleId, Zone};
use sarab_router::{InterfaceId, Map, Nat, NewFlow, Policy, Publish, Side, Verdict};

pub const DNS: u16 = 53;

/// Who a client is.
#[derive(Clone, Debug)]
pub struct Identity {
    pub addresses: Vec<IpAddr>,
    pub mac: [u8; 6],
    pub domain: u16,
}

#[derive(Default)]
pub struct State {
    pub config: Rc<Config>,
    pub names: NameTable,
    pub counters: Counters,
    pub clients: BTreeMap<InterfaceId, Identity>,
    /// Where Qubes OS says what may pass, and nothing else does.
    #[cfg(feature = "qubes")]
    pub qubes: Option<crate::qubes::Table>,
}

/// The rules, and what they are about. Clones are the same.
#[derive(Clone, Default)]
pub struct Firewall(pub Rc<RefCell<State>>);

fn zone(side: Side) -> Zone {
    match side {
        Side::Inside => Zone::Inside,
        Side::Outside => Zone::Outside,
        Side::Gate => Zone::Gate,
    }
}

impl Policy for Firewall {
    fn judge(&self, flow: &NewFlow) -> Verdict {
        let state = self.0.borrow();
        let State { config, names, clients, .. } = &*state;
        #[cfg(feature = "qubes")]
        if let Some(table) = &state.qubes {
            return table.judge(flow, names);
        }
        let identity = |id: InterfaceId| {
            clients.get(&id).map(|client| ClientIdentity {
                addresses: &client.addresses,
                mac: client.mac,
                domain: Some(client.domain),
            })
        };
        let (sender, receiver) = (identity(flow.from.1), identity(flow.to.1));
        let query = Query {
            from: zone(flow.from.0),
            to: zone(flow.to.0),
            sender: sender.as_ref(),
            receiver: receiver.as_ref(),
            protocol: flow.protocol,
            source: flow.source,
            destination: flow.destination,
            source_port: flow.source_port,
            destination_port: flow.destination_port,
            icmp: flow.icmp,
        };
        let outcome = config.rules.evaluate(&query, names);
        let rule = outcome.rule.map(RuleId::number);
        match outcome.verdict {
            Some(rules::Verdict::Accept) => Verdict::Accept(rule),
            Some(rules::Verdict::Drop) => Verdict::Drop(rule),
            Some(rules::Verdict::Reject) => Verdict::Reject(rule),
            None if self_service(flow) => Verdict::Accept(None),
            None => Verdict::Drop(None),
        }
    }

    fn count(&self, rule: u32, bytes: usize) {
        self.0.borrow_mut().counters.add_flow(RuleId::new(rule), bytes);
    }
}

/// What no rule is about: names and pings for clients, what is published for all, and the gate's own questions.
fn self_service(flow: &NewFlow) -> bool {
    match (flow.from.0, flow.to.0) {
        (Side::Gate, _) => true,
        (Side::Inside, Side::Gate) => {
            matches!(flow.protocol, ICMP | ICMPV6)
                || (matches!(flow.protocol, 6 | 17) && flow.destination_port == Some(DNS))
        }
        _ => flow.is_published,
    }
}

/// The translations that a configuration asks for.
pub fn nat(config: &Config) -> Nat {
    let mut publish = Vec::new();
    for published in &config.publish {
        let targets = published.v4.map(IpAddr::V4).into_iter().chain(published.v6.map(IpAddr::V6));
        for to in targets.filter(|to| published.on.is_none_or(|on| on.is_ipv4() == to.is_ipv4())) {
            publish.push(Publish {
                protocol: published.transport.number(),
                outer: published.on,
                ports: published.ports.first..=published.ports.last,
                to,
                to_port: published.to_ports.first,
            });
        }
    }
    Nat {
        masquerade_v4: config.masquerade.v4,
        masquerade_v6: config.masquerade.v6,
        redirect: Vec::new(),
        publish,
        map: config.maps.iter().map(|map| Map { outer: map.outside, inner: map.inside }).collect(),
    }
}
