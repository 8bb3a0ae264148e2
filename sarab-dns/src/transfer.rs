//! A whole zone for a secondary server (RFC 5936).

use alloc::boxed::Box;
use alloc::rc::Rc;

use crate::message::{Full, Section, Writer};
use crate::name::Labels;
use crate::tsig::Signed;
use crate::zone::{Set, Zone, rtype};

/// Bytes of a message that are filled, as long as a record is not larger.
const FILLED: usize = 16 << 10;

/// A transfer that goes on: it keeps its version of the zone until it is over.
pub struct Transfer {
    pub(crate) zone: Rc<Zone>,
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) question: Box<[u8]>,
    pub(crate) signed: Option<Signed>,
    pub(crate) at: At,
    pub(crate) messages: u32,
}

/// What comes next.
#[derive(Clone, Copy)]
pub(crate) enum At {
    Begin,
    /// A set of a node, and a record of it.
    Node {
        node: u32,
        set: u16,
        record: u32,
    },
    /// The same of the chain of NSEC3.
    Chain {
        place: u32,
        record: u32,
    },
    Last,
    End,
}

impl core::fmt::Debug for Transfer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Transfer({:?}, {} messages)", self.zone, self.messages)
    }
}

impl Transfer {
    /// The zone.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Writes the next message into a buffer, which has to be of 65,535 bytes; how long it is, or `None` after the last.
    /// `now` is seconds since 1970.
    pub fn next(&mut self, now: u64, to: &mut [u8]) -> Option<usize> {
        if matches!(self.at, At::End) {
            return None;
        }
        let room = self.signed.as_ref().map_or(0, Signed::room);
        let all = to.len().min(usize::from(u16::MAX)) - room;
        let mut writer = Writer::new(to, all.min(FILLED));
        if self.messages == 0 {
            let labels = Labels::of(&self.question[..self.question.len() - 4]);
            writer.question(&self.question, &labels).ok()?;
        }
        self.messages += 1;
        let zone = self.zone.clone();
        while !matches!(self.at, At::End) {
            let mark = writer.mark();
            match self.put(&zone, &mut writer) {
                Ok(()) => {}
                Err(Full) => {
                    writer.back_to(mark);
                    if writer.counts()[0] > 0 {
                        break;
                    }
                    // It is larger than what is filled usually: alone then.
                    writer.raise_limit(all.saturating_sub(FILLED));
                    if self.put(&zone, &mut writer).is_err() {
                        self.at = At::End;
                        return None;
                    }
                }
            }
        }
        writer.fill_in(self.id, self.flags);
        if let Some(signed) = &mut self.signed {
            writer.raise_limit(room);
            signed.sign(&mut writer, now).ok()?;
        }
        Some(writer.finish(self.id, self.flags))
    }

    /// Writes a record, and goes on to the next.
    fn put(&mut self, zone: &Zone, writer: &mut Writer<'_>) -> Result<(), Full> {
        match self.at {
            At::Begin | At::Last => {
                put(zone, writer, &zone.apex, zone.soa, 0)?;
                self.at = if matches!(self.at, At::Begin) { At::Node { node: 0, set: 0, record: 0 } } else { At::End };
            }
            At::Node { node, set, record } => {
                let sets = zone.sets_of(node);
                self.at = match sets.get(usize::from(set)) {
                    None if node as usize + 1 < zone.nodes.len() => At::Node { node: node + 1, set: 0, record: 0 },
                    None => At::Chain { place: 0, record: 0 },
                    Some(own) if record >= own.all() => At::Node { node, set: set + 1, record: 0 },
                    Some(own) => {
                        // SOA itself is first and last, and its signatures between.
                        if own.rtype != rtype::SOA || record >= u32::from(own.count) {
                            put(zone, writer, zone.name_of(node), *own, record)?;
                        }
                        At::Node { node, set, record: record + 1 }
                    }
                };
            }
            At::Chain { place, record } => {
                let entry = zone.nsec3.as_ref().and_then(|nsec3| nsec3.chain.get(place as usize));
                self.at = match entry.map(|(_, set)| zone.sets[*set as usize]) {
                    None => At::Last,
                    Some(own) if record >= own.all() => At::Chain { place: place + 1, record: 0 },
                    Some(own) => {
                        put(zone, writer, &zone.hashed_name(place), own, record)?;
                        At::Chain { place, record: record + 1 }
                    }
                };
            }
            At::End => {}
        }
        Ok(())
    }
}

impl Set {
    fn all(&self) -> u32 {
        u32::from(self.count) + u32::from(self.signatures)
    }
}

/// A record of a set, or a signature after those.
fn put(zone: &Zone, writer: &mut Writer<'_>, owner: &[u8], set: Set, record: u32) -> Result<(), Full> {
    let rtype = if record < u32::from(set.count) { set.rtype } else { rtype::RRSIG };
    let data = zone.arena.get(zone.records[set.first as usize + record as usize]);
    writer.record(Section::Answer, owner, &mut None, rtype, set.ttl, data)
}
