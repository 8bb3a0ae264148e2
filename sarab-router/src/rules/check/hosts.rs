//! Networks of clients, and the clients that have names.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sarab_net::IpCidr;

use super::Findings;
use crate::rules::config::Host;
use crate::rules::diagnostic::Span;
use crate::rules::error::ErrorKind;
use crate::rules::parse::cursor::At;
use crate::rules::parse::{Draft, is_similar};
use crate::rules::prefix;

/// What statements refer to.
pub(super) struct Known {
    pub(super) clients: Vec<IpCidr>,
    pub(super) hosts: Vec<Host>,
    /// Their places in `hosts`.
    by_name: BTreeMap<Box<str>, usize>,
}

impl Known {
    pub(super) fn new(draft: &Draft, findings: &mut Findings) -> Known {
        let clients = clients(&draft.clients, findings);
        let mut addresses: BTreeMap<IpAddr, usize> =
            draft.clients.iter().map(|at| (at.value.address().into(), at.span.line)).collect();
        let (mut macs, mut names) = (BTreeMap::new(), BTreeMap::new());
        let mut known = Known { clients, hosts: Vec::new(), by_name: BTreeMap::new() };
        for line in &draft.hosts {
            if let Some(first) = macs.insert(line.mac.value, line.mac.span.line) {
                findings.fault(line.mac.span, ErrorKind::DuplicateMac { line: first });
            }
            if let Some(first) = names.insert(line.name.value.clone(), line.name.span.line) {
                let name = line.name.value.clone();
                findings.fault(line.name.span, ErrorKind::DuplicateName { name, line: first });
            }
            for At { value: address, span } in &line.addresses {
                known.check_address(*address, *span, findings);
                if let Some(line) = addresses.insert(*address, span.line) {
                    findings.fault(*span, ErrorKind::DuplicateAddress { address: *address, line });
                }
            }
            known.by_name.insert(line.name.value.clone(), known.hosts.len());
            known.hosts.push(Host {
                mac: line.mac.value,
                name: line.name.value.clone(),
                addresses: line.addresses.iter().map(|at| at.value).collect(),
            });
        }
        known
    }

    pub(super) fn host(&self, name: &str) -> Option<&Host> {
        self.by_name.get(name).and_then(|index| self.hosts.get(*index))
    }

    /// That there is no such host.
    pub(super) fn unknown(&self, name: &str) -> ErrorKind {
        let similar = self.by_name.keys().find(|known| is_similar(name, known));
        ErrorKind::UnknownHost { name: name.into(), similar: similar.cloned() }
    }

    pub(super) fn is_gate(&self, address: IpAddr) -> bool {
        self.clients.iter().any(|clients| IpAddr::from(clients.address()) == address)
    }

    pub(super) fn is_client(&self, address: IpAddr) -> bool {
        self.clients.iter().any(|clients| prefix::contains(clients, address))
    }

    fn check_address(&self, address: IpAddr, span: Span, findings: &mut Findings) {
        let Some(clients) = self.clients.iter().find(|clients| prefix::contains(clients, address)) else {
            return findings.fault(span, ErrorKind::OutsideNetworks { address });
        };
        let len = clients.prefix_len();
        let (network, broadcast) = match prefix::network(address, len) {
            IpAddr::V4(network) => {
                (network.into(), Some(Ipv4Addr::from_bits(network.to_bits() | !prefix::mask_v4(len))))
            }
            network => (network, None),
        };
        if address == network || broadcast.is_some_and(|broadcast| address == broadcast) {
            let example = match network {
                IpAddr::V4(network) => Ipv4Addr::from_bits(network.to_bits() | 2).into(),
                IpAddr::V6(network) => Ipv6Addr::from_bits(network.to_bits() | 2).into(),
            };
            findings.fault(span, ErrorKind::NotAHost { address, example });
        }
    }
}

fn clients(lines: &[At<IpCidr>], findings: &mut Findings) -> Vec<IpCidr> {
    for (index, own) in lines.iter().enumerate() {
        if let Some(other) = lines[..index].iter().find(|other| prefix::overlap(&own.value, &other.value)) {
            let (network, line) = (prefix::of(&other.value), other.span.line);
            findings.fault(own.span, ErrorKind::NetworksOverlap { network, line });
        }
    }
    lines.iter().map(|at| at.value).collect()
}
