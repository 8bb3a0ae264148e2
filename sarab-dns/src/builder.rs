//! A zone in the making: records come in any order, and are put into theirs.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use domain::base::iana::Rtype;
use hashbrown::HashTable;

use crate::arena::{Arena, At};
use crate::error::{LoadError, Problem};
use crate::name::{self, Text};
use crate::nsec3::{self, Hash, MAX_ITERATIONS, Nsec3};
use crate::zone::{NONE, Node, Set, Zone, rtype, spread};

/// What a name takes at the most while it is loaded, beside its bytes: in this list and its sorted copy, and in the table.
const NAME: usize = 2 * size_of::<Name>() + size_of::<Node>() + 24;
/// A record.
const RECORD: usize = 3 * size_of::<Entry>() + size_of::<Set>() + size_of::<At>();
/// Warnings that are kept.
const MAX_WARNINGS: usize = 20;
/// Small steps between two pauses.
const STEPS: usize = 512;

/// File and line.
type Place = (u8, u32);

#[derive(Clone, Copy)]
struct Name {
    at: At,
    parent: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    /// The name's number.
    node: u32,
    /// Of a signature, what it signs.
    rtype: u16,
    signs: bool,
    file: u8,
    line: u32,
    ttl: u32,
    data: At,
}

pub(crate) struct Builder {
    apex: Box<[u8]>,
    arena: Arena,
    names: Vec<Name>,
    table: HashTable<u32>,
    entries: Vec<Entry>,
    /// NSEC3 records, and their signatures: their names are none that there are (RFC 5155, section 7.2.8).
    hashed: Vec<(Hash, Entry)>,
    memory: usize,
    soa: Option<Place>,
}

/// Counts small steps, and has others take their turn now and then.
struct Turn<P> {
    pause: P,
    steps: usize,
}

impl<P: AsyncFnMut()> Turn<P> {
    async fn step(&mut self) {
        self.steps += 1;
        if self.steps >= STEPS {
            self.steps = 0;
            (self.pause)().await;
        }
    }
}

impl Builder {
    pub fn new(apex: &[u8], memory: usize) -> Builder {
        Builder {
            apex: apex.into(),
            arena: Arena::default(),
            names: Vec::new(),
            table: HashTable::new(),
            entries: Vec::new(),
            hashed: Vec::new(),
            memory,
            soa: None,
        }
    }

    pub fn apex(&self) -> &[u8] {
        &self.apex
    }

    /// Adds a record whose owner is in lower case and within the zone.
    pub fn add(&mut self, owner: &[u8], rtype: Rtype, ttl: u32, data: &[u8], place: Place) -> Result<(), Problem> {
        let mut entry = Entry {
            node: 0,
            rtype: rtype.to_int(),
            signs: rtype == Rtype::RRSIG,
            file: place.0,
            line: place.1,
            ttl,
            data: self.arena.push(data).ok_or(Problem::Memory(self.memory))?,
        };
        if entry.signs {
            // The type covered (RFC 4034, section 3.1.1).
            entry.rtype = u16::from_be_bytes([data[0], data[1]]);
        }
        if rtype == Rtype::SOA {
            if owner != &*self.apex {
                return Err(Problem::Soa(owner.into()));
            }
            if self.soa.replace(place).is_some() {
                return Err(Problem::Several(rtype, owner.into()));
            }
        }
        if entry.rtype == rtype::NSEC3 {
            let hash = owner.get(1..1 + usize::from(owner[0])).and_then(nsec3::from_label);
            match hash.filter(|_| name::parent(owner) == Some(&self.apex)) {
                Some(hash) => self.hashed.push((hash, entry)),
                None => return Err(Problem::Data(rtype, "its owner is no hash below the zone's name")),
            }
        } else {
            entry.node = self.intern(owner)?;
            self.entries.push(entry);
        }
        let need = self.arena.bytes() + self.names.len() * NAME + (self.entries.len() + 2 * self.hashed.len()) * RECORD;
        if need > self.memory { Err(Problem::Memory(self.memory)) } else { Ok(()) }
    }

    /// The number of a name, which it gets where it is new, with those above it.
    fn intern(&mut self, owner: &[u8]) -> Result<u32, Problem> {
        let labels = name::Labels::of(owner);
        let apex = labels.count() - name::count(&self.apex);
        let (arena, names) = (&self.arena, &self.names);
        let find = |index: usize| {
            let is_it = |node: &u32| arena.get(names[*node as usize].at) == &owner[labels.start(index, owner)..];
            self.table.find(spread(labels.hash(index)), is_it).copied()
        };
        let known = (0..=apex).find_map(|index| Some((index, find(index)?)));
        let (missing, mut above) = match known {
            Some((index, node)) => (index, node),
            None => (apex + 1, NONE),
        };
        for index in (0..missing).rev() {
            let name = &owner[labels.start(index, owner)..];
            let at = self.arena.push(name).ok_or(Problem::Memory(self.memory))?;
            let number = self.names.len() as u32;
            self.names.push(Name { at, parent: above });
            let names = &self.names;
            let arena = &self.arena;
            let rehash = |node: &u32| spread(name::hash(arena.get(names[*node as usize].at)));
            self.table.insert_unique(spread(labels.hash(index)), number, rehash);
            above = number;
        }
        Ok(above)
    }

    pub async fn finish(
        mut self,
        files: &[Rc<str>],
        pause: impl AsyncFnMut(),
    ) -> Result<(Zone, Vec<String>), LoadError> {
        let at =
            |place: Place, problem| LoadError { file: (*files[usize::from(place.0)]).into(), line: place.1, problem };
        if self.soa.is_none() {
            return Err(at((0, 0), Problem::Missing(Rtype::SOA)));
        }
        let mut turn = Turn { pause, steps: 0 };
        let order = self.sort_names(&mut turn).await;
        let mut numbers = vec![0u32; order.len()];
        order.iter().enumerate().for_each(|(number, name)| numbers[*name as usize] = number as u32);
        let mut nodes = Vec::with_capacity(order.len());
        for name in &order {
            let Name { at, parent } = self.names[*name as usize];
            let parent = if parent == NONE { NONE } else { numbers[parent as usize] };
            nodes.push(Node { name: at, first: 0, sets: 0, parent, above: NONE, wildcard: NONE, nsec3: NONE });
        }
        drop(order);
        self.names = Vec::new();
        // The table's numbers are others now.
        for node in self.table.iter_mut() {
            *node = numbers[*node as usize];
        }
        let mut entries = core::mem::take(&mut self.entries);
        entries.iter_mut().for_each(|entry| entry.node = numbers[entry.node as usize]);
        drop(numbers);
        let entries = by_node(entries, nodes.len(), &mut turn).await;

        let (soa_place, hashed) = (self.soa.unwrap_or_default(), core::mem::take(&mut self.hashed));
        let mut made =
            Made { nodes, sets: Vec::new(), records: Vec::new(), arena: self.arena, warnings: Vec::new(), more: 0 };
        made.fill(&entries, &mut turn).await.map_err(|(place, problem)| at(place, problem))?;
        drop(entries);
        let find = |sets: &[Set], rtype: u16| {
            let own = &sets[..usize::from(made.nodes[0].sets)];
            own.iter().find(|set| set.rtype == rtype).copied()
        };
        let soa = find(&made.sets, rtype::SOA).ok_or_else(|| at(soa_place, Problem::Missing(Rtype::SOA)))?;
        if find(&made.sets, rtype::NS).is_none() {
            return Err(at(soa_place, Problem::Missing(Rtype::NS)));
        }
        let parameters = find(&made.sets, rtype::NSEC3PARAM);
        made.structure(&mut turn).await;
        let nsec3 = match parameters {
            Some(set) => made.chain(set, hashed, &mut turn).await.map_err(|(place, problem)| at(place, problem))?,
            None => None,
        };
        let mut nsec = Vec::new();
        for (number, node) in made.nodes.iter().enumerate() {
            let sets = &made.sets[node.first as usize..node.first as usize + usize::from(node.sets)];
            if sets.iter().any(|set| set.rtype == rtype::NSEC) {
                nsec.push(number as u32);
            }
        }
        made.arena.shrink();
        made.sets.shrink_to_fit();
        made.records.shrink_to_fit();
        nsec.shrink_to_fit();
        if made.more > 0 {
            made.warnings.push(format!("and {} more", made.more));
        }
        let data = made.arena.get(made.records[soa.first as usize]);
        let field =
            |from_end: usize| data[data.len() - from_end..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let zone = Zone {
            hash: name::hash(&self.apex),
            negative_ttl: field(4).min(soa.ttl),
            serial: field(20),
            apex: self.apex,
            table: self.table,
            nodes: made.nodes,
            sets: made.sets,
            records: made.records,
            arena: made.arena,
            nsec,
            nsec3,
            soa,
        };
        Ok((zone, made.warnings))
    }

    /// The names' numbers in the order of the names: runs of twice as many are merged each time.
    async fn sort_names(&self, turn: &mut Turn<impl AsyncFnMut()>) -> Vec<u32> {
        let name = |number: u32| self.arena.get(self.names[number as usize].at);
        let mut sorted: Vec<u32> = (0..self.names.len() as u32).collect();
        let mut merged = Vec::with_capacity(sorted.len());
        let mut run = 1;
        while run < sorted.len() {
            merged.clear();
            for pair in sorted.chunks(2 * run) {
                let (mut left, mut right) = pair.split_at(run.min(pair.len()));
                while let ([first, rest @ ..], [other, others @ ..]) = (left, right) {
                    if name::compare(name(*first), name(*other)).is_le() {
                        merged.push(*first);
                        left = rest;
                    } else {
                        merged.push(*other);
                        right = others;
                    }
                    turn.step().await;
                }
                merged.extend_from_slice(left);
                merged.extend_from_slice(right);
            }
            core::mem::swap(&mut sorted, &mut merged);
            run *= 2;
        }
        sorted
    }
}

/// Entries in the order of their names, as they came otherwise.
async fn by_node(entries: Vec<Entry>, nodes: usize, turn: &mut Turn<impl AsyncFnMut()>) -> Vec<Entry> {
    let Some(any) = entries.first().copied() else { return entries };
    let mut next = vec![0u32; nodes + 1];
    for entry in &entries {
        next[entry.node as usize + 1] += 1;
    }
    for node in 0..nodes {
        next[node + 1] += next[node];
    }
    let mut sorted = vec![any; entries.len()];
    for entry in entries {
        let place = &mut next[entry.node as usize];
        sorted[*place as usize] = entry;
        *place += 1;
        turn.step().await;
    }
    sorted
}

struct Made {
    nodes: Vec<Node>,
    sets: Vec<Set>,
    records: Vec<At>,
    arena: Arena,
    warnings: Vec<String>,
    more: usize,
}

impl Made {
    fn warn(&mut self, text: impl FnOnce(&Made) -> String) {
        if self.warnings.len() < MAX_WARNINGS {
            let text = text(self);
            self.warnings.push(text);
        } else {
            self.more += 1;
        }
    }

    fn name(&self, node: u32) -> &[u8] {
        self.arena.get(self.nodes[node as usize].name)
    }

    /// Makes sets of the records, which are in the order of their names.
    async fn fill(&mut self, entries: &[Entry], turn: &mut Turn<impl AsyncFnMut()>) -> Result<(), (Place, Problem)> {
        let mut own = Vec::new();
        for group in entries.chunk_by(|one, other| one.node == other.node) {
            own.clear();
            own.extend_from_slice(group);
            let arena = &self.arena;
            // Equal ones come together, the earlier first.
            own.sort_by(|one, other| {
                let key = |entry: &Entry| (entry.rtype, entry.signs);
                key(one).cmp(&key(other)).then_with(|| arena.get(one.data).cmp(arena.get(other.data)))
            });
            own.dedup_by(|one, other| {
                (one.rtype, one.signs) == (other.rtype, other.signs) && arena.get(one.data) == arena.get(other.data)
            });
            let node = group[0].node;
            self.nodes[node as usize].first = self.sets.len() as u32;
            for set in own.chunk_by(|one, other| one.rtype == other.rtype) {
                self.add_set(node, set)?;
            }
            self.nodes[node as usize].sets = (self.sets.len() - self.nodes[node as usize].first as usize) as u16;
            self.check_aliases(node, &own)?;
            turn.step().await;
        }
        Ok(())
    }

    /// Records of a type and their signatures.
    fn add_set(&mut self, node: u32, entries: &[Entry]) -> Result<(), (Place, Problem)> {
        let (place, rtype) = ((entries[0].file, entries[0].line), entries[0].rtype);
        let count = entries.iter().filter(|entry| !entry.signs).count();
        let many = |_| (place, Problem::Text(format!("more than 65535 {} records of a name", Rtype::from_int(rtype))));
        let ttls = || entries.iter().filter(|entry| !entry.signs || count == 0).map(|entry| entry.ttl);
        let ttl = ttls().min().unwrap_or_default();
        if ttls().any(|other| other != ttl) {
            self.warn(|made| {
                format!(
                    "{} {}: records have different TTLs; the least counts (RFC 2181, section 5.2)",
                    Text(made.name(node)),
                    Rtype::from_int(rtype)
                )
            });
        }
        self.sets.push(Set {
            rtype,
            count: u16::try_from(count).map_err(many)?,
            signatures: u16::try_from(entries.len() - count).map_err(many)?,
            ttl,
            first: self.records.len() as u32,
        });
        self.records.extend(entries.iter().map(|entry| entry.data));
        Ok(())
    }

    fn check_aliases(&self, node: u32, entries: &[Entry]) -> Result<(), (Place, Problem)> {
        for alias in [Rtype::CNAME, Rtype::DNAME] {
            let mut own = entries.iter().filter(|entry| !entry.signs && entry.rtype == alias.to_int());
            let Some(first) = own.next() else { continue };
            let place = (first.file, first.line);
            if own.next().is_some() {
                return Err((place, Problem::Several(alias, self.name(node).into())));
            }
            // What DNSSEC has beside it (RFC 4034, section 2.5).
            let may_be = |entry: &Entry| {
                entry.signs || matches!(entry.rtype, rtype::CNAME | rtype::NSEC) || entry.rtype == Rtype::KEY.to_int()
            };
            if alias == Rtype::CNAME && !entries.iter().all(may_be) {
                return Err((place, Problem::Cname(self.name(node).into())));
            }
        }
        Ok(())
    }

    fn has(&self, node: u32, rtype: u16) -> bool {
        let node = &self.nodes[node as usize];
        let sets = &self.sets[node.first as usize..node.first as usize + usize::from(node.sets)];
        sets.iter().any(|set| set.rtype == rtype && set.count > 0)
    }

    /// What names are to one another. Those above come first.
    async fn structure(&mut self, turn: &mut Turn<impl AsyncFnMut()>) {
        for number in 1..self.nodes.len() as u32 {
            let parent = self.nodes[number as usize].parent;
            let inherited = self.nodes[parent as usize].above;
            let above = if inherited != NONE {
                inherited
            } else if self.has(parent, rtype::DNAME) {
                self.warn(|made| {
                    let (below, above) = (Text(made.name(number)), Text(made.name(parent)));
                    format!("{below} is not served: {above} has a DNAME record (RFC 6672, section 2.4)")
                });
                parent
            } else if self.has(number, rtype::NS) {
                number
            } else {
                NONE
            };
            self.nodes[number as usize].above = above;
            if self.name(number).starts_with(b"\x01*") {
                self.nodes[parent as usize].wildcard = number;
            }
            turn.step().await;
        }
    }

    /// The chain of NSEC3 records by the zone's parameters.
    async fn chain(
        &mut self,
        set: Set,
        mut hashed: Vec<(Hash, Entry)>,
        turn: &mut Turn<impl AsyncFnMut()>,
    ) -> Result<Option<Nsec3>, (Place, Problem)> {
        let data = self.arena.get(self.records[set.first as usize]);
        let Some((1, iterations, salt)) = nsec3::parameters(data) else { return Ok(None) };
        let salt: Box<[u8]> = salt.into();
        let arena = &self.arena;
        hashed.retain(|(_, entry)| {
            entry.signs || nsec3::parameters(arena.get(entry.data)) == Some((1, iterations, &salt))
        });
        let Some((_, first)) = hashed.first().copied() else { return Ok(None) };
        if iterations > MAX_ITERATIONS {
            return Err(((first.file, first.line), Problem::Iterations(iterations)));
        }
        hashed.sort_by_key(|(hash, entry)| (*hash, entry.signs));
        let mut chain = Vec::with_capacity(hashed.len() / 2 + 1);
        let mut own = Vec::new();
        for group in hashed.chunk_by(|one, other| one.0 == other.0) {
            own.clear();
            own.extend(group.iter().map(|(_, entry)| *entry));
            // Signatures of a chain of other parameters.
            if own.iter().any(|entry| !entry.signs) {
                chain.push((group[0].0, self.sets.len() as u32));
                self.add_set(0, &own)?;
            }
            turn.step().await;
        }
        chain.shrink_to_fit();
        let nsec3 = Nsec3 { iterations, salt, chain };
        for number in 0..self.nodes.len() as u32 {
            let hash = nsec3.hash(self.name(number));
            if let Some(at) = nsec3.matching(&hash) {
                self.nodes[number as usize].nsec3 = at as u32;
            }
            for _ in 0..=iterations {
                turn.step().await;
            }
        }
        Ok(Some(nsec3))
    }
}
