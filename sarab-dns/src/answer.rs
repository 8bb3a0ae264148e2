//! What a zone says to a question (RFC 1034, section 4.3.2; RFC 4592; RFC 4035, section 3.1; RFC 5155, section 7.2).

use alloc::rc::Rc;

use domain::base::iana::Rcode;

use crate::catalog::Catalog;
use crate::message::{Full, Section, Writer, wire_len};
use crate::name::{self, Labels, MAX_NAME};
use crate::zone::{NONE, Set, Zone, rtype};

/// Names that an answer leads through, by CNAME and DNAME records.
const MAX_CHAIN: usize = 12;
/// Sets of records in the authority section, at the most: three proofs for each name.
const MAX_AUTHORITY: usize = 3 * MAX_CHAIN + 4;

/// A name in lower case.
#[derive(Clone, Debug)]
pub(crate) struct Lower {
    len: u8,
    bytes: [u8; MAX_NAME],
}

impl Lower {
    /// Of a name of up to 255 bytes.
    pub fn new(name: &[u8]) -> Lower {
        let mut lower = Lower { len: 0, bytes: [0; MAX_NAME] };
        lower.set(name);
        lower
    }

    fn set(&mut self, name: &[u8]) {
        let len = name.len().min(MAX_NAME);
        self.len = len as u8;
        self.bytes[..len].copy_from_slice(&name[..len]);
        self.bytes[..len].make_ascii_lowercase();
    }

    pub fn get(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A set of records for the authority section.
struct Item<'z> {
    zone: &'z Zone,
    owner: Owner,
    set: Set,
    ttl: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Node(u32),
    /// The place in the chain of NSEC3.
    Hash(u32),
}

/// An answer in the making.
pub(crate) struct Answer<'z, 'w, 'b> {
    catalog: &'z Catalog,
    writer: &'w mut Writer<'b>,
    dnssec: bool,
    authority: heapless::Vec<Item<'z>, MAX_AUTHORITY>,
    /// Names with DNAME records that are in the answer.
    redirected: heapless::Vec<(&'z Zone, u32), MAX_CHAIN>,
    /// A name with servers whose addresses are added.
    referral: Option<(&'z Zone, u32)>,
    pub outcome: Outcome,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub rcode: Rcode,
    pub authoritative: bool,
    pub truncated: bool,
    pub kind: Kind,
}

/// The kind of an answer, which is counted, and by which clients are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Positive,
    NoData,
    NoName,
    Referral,
    Wildcard,
    Refused,
    Error,
}

/// Where a chain goes on.
enum Next {
    End,
    /// With the name that was put in the place of the one before.
    Follow,
}

impl<'z, 'w, 'b> Answer<'z, 'w, 'b> {
    pub fn new(catalog: &'z Catalog, writer: &'w mut Writer<'b>, dnssec: bool) -> Self {
        let outcome = Outcome { rcode: Rcode::NOERROR, authoritative: false, truncated: false, kind: Kind::Positive };
        Answer {
            catalog,
            writer,
            dnssec,
            authority: heapless::Vec::new(),
            redirected: heapless::Vec::new(),
            referral: None,
            outcome,
        }
    }

    /// Answers a question about a name of this zone.
    pub fn resolve(&mut self, zone: &'z Rc<Zone>, name: &Lower, labels: &Labels, qtype: u16) {
        // The referral's bit depends on the first name alone (RFC 1034, section 6.2.7).
        self.outcome.authoritative = true;
        let outcome = self.chain(zone, name, labels, qtype).and_then(|()| self.write_authority());
        let outcome = outcome.and_then(|()| self.write_glue());
        if outcome.is_err() {
            self.outcome.truncated = true;
        }
    }

    fn chain(&mut self, zone: &'z Rc<Zone>, name: &Lower, labels: &Labels, qtype: u16) -> Result<(), Full> {
        let mut current = name.clone();
        match self.look_up(zone, &mut current, labels, qtype, true)? {
            Next::End => return Ok(()),
            Next::Follow => {}
        }
        // Those that it has led through, by hash and length.
        let mut seen = heapless::Vec::<(u32, u8), MAX_CHAIN>::new();
        let _ = seen.push((labels.hash(0), name.len));
        for _ in 1..MAX_CHAIN {
            let labels = Labels::of(current.get());
            let key = (labels.hash(0), current.len);
            if seen.contains(&key) || seen.push(key).is_err() {
                return Ok(());
            }
            // Others follow what leads out of what is served here.
            let Some(zone) = self.catalog.zone_of(current.get(), &labels, 0) else { return Ok(()) };
            match self.look_up(zone, &mut current, &labels, qtype, false)? {
                Next::End => return Ok(()),
                Next::Follow => {}
            }
        }
        Ok(())
    }

    fn look_up(
        &mut self,
        zone: &'z Zone,
        name: &mut Lower,
        labels: &Labels,
        qtype: u16,
        first: bool,
    ) -> Result<Next, Full> {
        let (node, index) = zone.closest(name.get(), labels);
        let is_exact = index == 0;
        let above = zone.nodes[node as usize].above;
        let is_dname = |node: u32| zone.set(node, rtype::DNAME).filter(|set| set.count > 0);
        if above != NONE {
            // At a delegation, the parent alone has DS, and what proves that there is none.
            let is_own = is_exact && above == node;
            let is_cut = zone.set(above, rtype::NS).is_some() && above != 0;
            if is_cut && is_own && qtype == rtype::DS {
                return self.found(zone, node, node, name, labels, index, qtype);
            }
            if !is_cut && let Some(set) = is_dname(above) {
                return self.redirect(zone, above, set, name, qtype);
            }
            return self.refer(zone, above, first);
        }
        if is_exact {
            return self.found(zone, node, node, name, labels, index, qtype);
        }
        if let Some(set) = is_dname(node) {
            return self.redirect(zone, node, set, name, qtype);
        }
        match zone.nodes[node as usize].wildcard {
            NONE => {
                self.outcome.rcode = Rcode::NXDOMAIN;
                self.outcome.kind = Kind::NoName;
                self.deny(zone);
                if self.dnssec {
                    self.prove_no_name(zone, node, name.get(), labels, index, true);
                    self.prove_no_wildcard(zone, node);
                }
                Ok(Next::End)
            }
            wildcard => self.found(zone, wildcard, node, name, labels, index, qtype),
        }
    }

    /// There is a name: this one, or a wildcard that is below `encloser`.
    #[expect(clippy::too_many_arguments, reason = "what a look-up has found")]
    fn found(
        &mut self,
        zone: &'z Zone,
        node: u32,
        encloser: u32,
        name: &mut Lower,
        labels: &Labels,
        index: usize,
        qtype: u16,
    ) -> Result<Next, Full> {
        let is_wildcard = node != encloser;
        let mut any = false;
        let alias = zone.set(node, rtype::CNAME).filter(|set| set.count > 0);
        match qtype {
            rtype::ANY => {
                // One of them is enough (RFC 8482, section 4.1).
                if let Some(set) = zone.sets_of(node).iter().find(|set| set.count > 0) {
                    any = true;
                    self.write(Section::Answer, zone, name.get(), *set, set.ttl)?;
                }
            }
            rtype::RRSIG => {
                for set in zone.sets_of(node).iter().filter(|set| set.signatures > 0) {
                    any = true;
                    self.writer.records(
                        Section::Answer,
                        name.get(),
                        rtype::RRSIG,
                        set.ttl,
                        zone.signatures_of(*set),
                    )?;
                }
            }
            _ => {
                if let Some(set) = zone.set(node, qtype).filter(|set| set.count > 0) {
                    any = true;
                    self.write(Section::Answer, zone, name.get(), set, set.ttl)?;
                }
            }
        }
        if any {
            // The servers' addresses go with their names (RFC 8109, section 3.1, relies on it).
            if qtype == rtype::NS && node == 0 {
                self.referral = Some((zone, 0));
            }
            if is_wildcard {
                self.outcome.kind = Kind::Wildcard;
                if self.dnssec {
                    self.prove_no_name(zone, encloser, name.get(), labels, index, false);
                }
            }
            return Ok(Next::End);
        }
        if let Some(set) = alias.filter(|_| qtype != rtype::ANY) {
            self.write(Section::Answer, zone, name.get(), set, set.ttl)?;
            if is_wildcard {
                self.outcome.kind = Kind::Wildcard;
                if self.dnssec {
                    self.prove_no_name(zone, encloser, name.get(), labels, index, false);
                }
            }
            let target = zone.records_of(set).next().unwrap_or(&[0]);
            name.set(target);
            return Ok(Next::Follow);
        }
        self.outcome.kind = Kind::NoData;
        self.deny(zone);
        if self.dnssec {
            if is_wildcard {
                self.prove_no_name(zone, encloser, name.get(), labels, index, true);
            }
            self.prove_no_type(zone, node);
        }
        Ok(Next::End)
    }

    /// A name below one with DNAME (RFC 6672, section 3).
    fn redirect(&mut self, zone: &'z Zone, node: u32, set: Set, name: &mut Lower, qtype: u16) -> Result<Next, Full> {
        let owner = zone.name_of(node);
        let is_new = !self.redirected.iter().any(|(other, at)| core::ptr::eq(*other, zone) && *at == node);
        if is_new {
            let _ = self.redirected.push((zone, node));
            self.write(Section::Answer, zone, owner, set, set.ttl)?;
        }
        let target = zone.records_of(set).next().unwrap_or(&[0]);
        let kept = name.get().len() - owner.len();
        if kept + target.len() > MAX_NAME {
            self.outcome.rcode = Rcode::YXDOMAIN;
            self.outcome.kind = Kind::Error;
            return Ok(Next::End);
        }
        let mut bytes = [0; MAX_NAME];
        bytes[..kept].copy_from_slice(&name.get()[..kept]);
        bytes[kept..kept + target.len()].copy_from_slice(target);
        let synthesised = &bytes[..kept + target.len()];
        self.writer.records(Section::Answer, name.get(), rtype::CNAME, set.ttl, core::iter::once(synthesised))?;
        if matches!(qtype, rtype::CNAME | rtype::ANY) {
            return Ok(Next::End);
        }
        name.set(synthesised);
        Ok(Next::Follow)
    }

    /// What is below a delegation is others'.
    fn refer(&mut self, zone: &'z Zone, cut: u32, first: bool) -> Result<Next, Full> {
        if first {
            self.outcome.authoritative = false;
            self.outcome.kind = Kind::Referral;
        }
        self.referral = Some((zone, cut));
        if let Some(set) = zone.set(cut, rtype::NS) {
            self.add(zone, Owner::Node(cut), set, set.ttl);
        }
        if self.dnssec && zone.is_signed() {
            match zone.set(cut, rtype::DS).filter(|set| set.count > 0) {
                Some(set) => self.add(zone, Owner::Node(cut), set, set.ttl),
                None => self.prove_no_type(zone, cut),
            }
        }
        Ok(Next::End)
    }

    /// Says with the zone's SOA that there is nothing, and for how long that may be remembered (RFC 2308, section 3).
    fn deny(&mut self, zone: &'z Zone) {
        self.add(zone, Owner::Node(0), zone.soa, zone.negative_ttl);
    }

    fn add(&mut self, zone: &'z Zone, owner: Owner, set: Set, ttl: u32) {
        let is_it =
            |item: &Item<'_>| core::ptr::eq(item.zone, zone) && item.owner == owner && item.set.rtype == set.rtype;
        if !self.authority.iter().any(is_it) {
            // It is as large as the longest chain needs.
            let _ = self.authority.push(Item { zone, owner, set, ttl });
        }
    }

    fn add_nsec(&mut self, zone: &'z Zone, node: u32) {
        if let Some(set) = zone.set(node, rtype::NSEC) {
            self.add(zone, Owner::Node(node), set, set.ttl);
        }
    }

    fn add_nsec3(&mut self, zone: &'z Zone, place: Option<usize>) {
        let entry = zone.nsec3.as_ref().and_then(|nsec3| Some((place?, nsec3.chain.get(place?)?)));
        if let Some((place, (_, set))) = entry {
            let set = zone.sets[*set as usize];
            self.add(zone, Owner::Hash(place as u32), set, set.ttl);
        }
    }

    /// The NSEC record that covers a name.
    fn add_cover(&mut self, zone: &'z Zone, name: &[u8]) {
        let before = zone.nsec.partition_point(|node| name::compare(zone.name_of(*node), name).is_le());
        if let Some(node) = before.checked_sub(1).and_then(|at| zone.nsec.get(at)) {
            self.add_nsec(zone, *node);
        }
    }

    /// A name has no records of a type.
    fn prove_no_type(&mut self, zone: &'z Zone, node: u32) {
        if zone.nsec3.is_some() {
            match zone.nodes[node as usize].nsec3 {
                // It is in a span with opt-out (RFC 5155, sections 7.2.4 and 7.2.7).
                NONE => {
                    let name = Lower::new(zone.name_of(node));
                    let labels = Labels::of(name.get());
                    self.prove_no_name(zone, node, name.get(), &labels, 0, true);
                }
                place => self.add_nsec3(zone, Some(place as usize)),
            }
        } else if zone.set(node, rtype::NSEC).is_some() {
            self.add_nsec(zone, node);
        } else {
            // A name with nothing but others below it.
            self.add_cover(zone, zone.name_of(node));
        }
    }

    /// There is no such name: the nearest above, which there is, is `encloser`, from the label `index` on. With hashes it is to
    /// be proven that this is the nearest, unless a wildcard's signature says so.
    fn prove_no_name(
        &mut self,
        zone: &'z Zone,
        encloser: u32,
        name: &[u8],
        labels: &Labels,
        index: usize,
        nearest: bool,
    ) {
        let Some(nsec3) = &zone.nsec3 else { return self.add_cover(zone, name) };
        let (mut encloser, mut index) = (encloser, index);
        while zone.nodes[encloser as usize].nsec3 == NONE && encloser != 0 {
            encloser = zone.nodes[encloser as usize].parent;
            index += 1;
        }
        if nearest {
            self.add_nsec3(zone, Some(zone.nodes[encloser as usize].nsec3 as usize));
        }
        if let Some(index) = index.checked_sub(1) {
            let next = nsec3.hash(&name[labels.start(index, name)..]);
            self.add_nsec3(zone, nsec3.covering(&next));
        }
    }

    /// There is no wildcard below this name.
    fn prove_no_wildcard(&mut self, zone: &'z Zone, encloser: u32) {
        let mut encloser = encloser;
        if zone.nsec3.is_some() {
            while zone.nodes[encloser as usize].nsec3 == NONE && encloser != 0 {
                encloser = zone.nodes[encloser as usize].parent;
            }
        }
        let above = zone.name_of(encloser);
        let mut wildcard = [0; MAX_NAME + 2];
        wildcard[..2].copy_from_slice(b"\x01*");
        wildcard[2..2 + above.len()].copy_from_slice(above);
        let wildcard = &wildcard[..2 + above.len()];
        match &zone.nsec3 {
            Some(nsec3) => self.add_nsec3(zone, nsec3.covering(&nsec3.hash(wildcard))),
            None => self.add_cover(zone, wildcard),
        }
    }

    fn write(&mut self, section: Section, zone: &Zone, owner: &[u8], set: Set, ttl: u32) -> Result<(), Full> {
        self.writer.records(section, owner, set.rtype, ttl, zone.records_of(set))?;
        if self.dnssec {
            self.writer.records(section, owner, rtype::RRSIG, ttl, zone.signatures_of(set))?;
        }
        Ok(())
    }

    fn write_authority(&mut self) -> Result<(), Full> {
        for Item { zone, owner, set, ttl } in core::mem::take(&mut self.authority) {
            match owner {
                Owner::Node(node) => self.write(Section::Authority, zone, zone.name_of(node), set, ttl)?,
                Owner::Hash(place) => {
                    let owner = zone.hashed_name(place);
                    self.write(Section::Authority, zone, &owner, set, ttl)?;
                }
            }
        }
        Ok(())
    }

    /// Addresses of servers. Those below a delegation are needed, others are not (RFC 9471).
    fn write_glue(&mut self) -> Result<(), Full> {
        let Some((zone, cut)) = self.referral else { return Ok(()) };
        let Some(servers) = zone.set(cut, rtype::NS) else { return Ok(()) };
        for needed in [true, false] {
            for server in zone.records_of(servers) {
                let server = Lower::new(&server[..wire_len(server)]);
                let server = server.get();
                let is_needed = cut != 0 && name::is_within(server, zone.name_of(cut));
                if is_needed != needed || !name::is_within(server, &zone.apex) {
                    continue;
                }
                let Some(node) = zone.find_name(server) else { continue };
                for rtype in [rtype::A, rtype::AAAA] {
                    let Some(set) = zone.set(node, rtype).filter(|set| set.count > 0) else { continue };
                    let mark = self.writer.mark();
                    if let Err(full) = self.write(Section::Additional, zone, server, set, set.ttl) {
                        if needed {
                            return Err(full);
                        }
                        self.writer.back_to(mark);
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}

impl Zone {
    /// The name of an NSEC3 record.
    pub(crate) fn hashed_name(&self, place: u32) -> heapless::Vec<u8, { MAX_NAME + 33 }> {
        let mut name = heapless::Vec::new();
        if let Some((hash, _)) = self.nsec3.as_ref().and_then(|nsec3| nsec3.chain.get(place as usize)) {
            // Such a name was in the zone's file, and is no longer than others.
            let _ = name.extend_from_slice(&crate::nsec3::label(hash));
            let _ = name.extend_from_slice(&self.apex);
        }
        name
    }
}
