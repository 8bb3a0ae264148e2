//! The zones that are served.

use alloc::rc::Rc;
use alloc::vec::Vec;

use hashbrown::HashTable;

use crate::name::{self, Labels};
use crate::zone::{Zone, spread};

/// Zones by their names.
#[derive(Default, Clone)]
pub struct Catalog {
    table: HashTable<Rc<Zone>>,
}

impl Catalog {
    /// No zones.
    pub fn new() -> Catalog {
        Catalog::default()
    }

    /// Serves a zone, in the place of an older version.
    pub fn insert(&mut self, zone: Rc<Zone>) -> Option<Rc<Zone>> {
        let old = self.remove(&zone.apex);
        self.table.insert_unique(spread(zone.hash), zone, |zone| spread(zone.hash));
        old
    }

    /// Does not serve it any more.
    pub fn remove(&mut self, apex: &[u8]) -> Option<Rc<Zone>> {
        let hash = spread(name::hash(apex));
        let entry = self.table.find_entry(hash, |zone| *zone.apex == *apex).ok()?;
        Some(entry.remove().0)
    }

    /// The zone of this name, in wire format and lower case.
    pub fn get(&self, apex: &[u8]) -> Option<&Rc<Zone>> {
        self.table.find(spread(name::hash(apex)), |zone| *zone.apex == *apex)
    }

    /// All zones, in the order of their names.
    pub fn zones(&self) -> Vec<&Rc<Zone>> {
        let mut zones: Vec<_> = self.table.iter().collect();
        zones.sort_by(|one, other| name::compare(&one.apex, &other.apex));
        zones
    }

    /// The zone with the longest name that this one is in; from the label `first` on.
    pub(crate) fn zone_of(&self, name: &[u8], labels: &Labels, first: usize) -> Option<&Rc<Zone>> {
        (first..=labels.count()).find_map(|index| {
            let above = &name[labels.start(index, name)..];
            self.table.find(spread(labels.hash(index)), |zone| *zone.apex == *above)
        })
    }
}
