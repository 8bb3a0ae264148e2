//! The metadata in the JSON area (LUKS2 On-Disk Format Specification, 3): keyslots, the data's place, and the digest by
//! which a key is known to be the right one.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde_json::{Value, json};

use crate::af::STRIPES;
use crate::error::{Error, Feature, Name};
use crate::hash::Hash;
use crate::header::{HEADER_SIZE, Header};
use crate::json::{Object, encode};
use crate::options::{Argon2Cost, Kdf};
use crate::xts::KEY_SIZE;

/// The most bytes of JSON that are read. cryptsetup's metadata has 12 KiB of room, of which some 2 are used.
pub(crate) const MAX_JSON: usize = 64 << 10;
/// The most keyslots that a header has.
pub(crate) const MAX_KEYSLOTS: u8 = 32;
/// The most bytes of all keyslots' areas.
const MAX_KEYSLOTS_SIZE: u64 = 128 << 20;
/// Areas begin at multiples of this, and are as long.
pub(crate) const ALIGNMENT: u64 = 4096;
/// Bytes of a keyslot's area that is made here, as cryptsetup makes it.
pub(crate) const AREA_SIZE: u64 = ((KEY_SIZE * STRIPES) as u64).next_multiple_of(ALIGNMENT);

const CIPHER: &str = "aes-xts-plain64";

/// The metadata, as much of it as is used; the rest stays in `raw`.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    raw: Value,
    header_size: u64,
    keyslots_size: u64,
    pub keyslots: BTreeMap<u8, Keyslot>,
    pub segment: Segment,
    pub digest: Digest,
    /// The digest's name in `raw`.
    digest_name: String,
}

/// Where a key's material is, and what it is encrypted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keyslot {
    pub kdf: Kdf,
    pub salt: Vec<u8>,
    pub af_hash: Hash,
    /// Bytes from the device's begin.
    pub offset: u64,
    pub size: u64,
    pub priority: u8,
}

/// What a keyslot is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyslotInfo {
    /// Its number.
    pub number: u8,
    /// How its key is derived.
    pub kdf: Kdf,
    /// 0 for one that is not tried, 1 for a usual one, 2 for one that is tried first.
    pub priority: u8,
}

/// Where the data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Bytes from the device's begin.
    pub offset: u64,
    /// Bytes, or `None` for all to the device's end.
    pub size: Option<u64>,
    pub iv_tweak: u64,
    pub sector_size: u32,
}

/// The volume key's digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    pub hash: Hash,
    pub iterations: u32,
    pub salt: Vec<u8>,
    pub digest: Vec<u8>,
}

impl Metadata {
    /// Metadata of a new volume, without a keyslot.
    pub(crate) fn new(header_size: u64, segment: Segment, digest: &Digest) -> Result<Metadata, Error> {
        let keyslots_size = segment.offset - 2 * header_size;
        let raw = json!({
            "keyslots": {},
            "tokens": {},
            "segments": {"0": {
                "type": "crypt",
                "offset": segment.offset.to_string(),
                "size": "dynamic",
                "iv_tweak": "0",
                "encryption": CIPHER,
                "sector_size": segment.sector_size,
            }},
            "digests": {"0": {
                "type": "pbkdf2",
                "keyslots": [],
                "segments": ["0"],
                "hash": digest.hash.name(),
                "iterations": digest.iterations,
                "salt": encode(&digest.salt),
                "digest": encode(&digest.digest),
            }},
            "config": {
                "json_size": (header_size - HEADER_SIZE as u64).to_string(),
                "keyslots_size": keyslots_size.to_string(),
            },
        });
        Metadata::read(raw, header_size)
    }

    pub(crate) fn parse(json: &[u8], header: &Header) -> Result<Metadata, Error> {
        let problem = "not valid JSON";
        let raw = serde_json::from_slice(json).map_err(|_| Error::Metadata { object: "the JSON area", problem })?;
        Metadata::read(raw, header.size)
    }

    fn read(raw: Value, header_size: u64) -> Result<Metadata, Error> {
        let root = Object::root(&raw)?;
        let keyslots_size = config(root.part("config")?, header_size)?;
        if !root.part("tokens")?.is_empty() {
            return Err(Feature::Tokens.into());
        }
        let segment = segment(root.part("segments")?)?;
        let areas_end = 2 * header_size + keyslots_size;
        if segment.offset == 0 {
            return Err(Feature::DetachedHeader.into());
        }
        if segment.offset < areas_end {
            return Err(root.part("segments")?.wrong("the data overlaps the keyslots' areas"));
        }
        let keyslots = keyslots(root.part("keyslots")?, 2 * header_size..areas_end)?;
        let (digest_name, digest) = digest(root.part("digests")?, &keyslots)?;
        Ok(Metadata { header_size, keyslots_size, keyslots, segment, digest, digest_name, raw })
    }

    pub(crate) fn to_json(&self) -> Result<Vec<u8>, Error> {
        let room = self.header_size as usize - HEADER_SIZE;
        // `Value` has no key that is no string, and nothing else that could fail.
        let json = serde_json::to_vec(&self.raw).unwrap_or_default();
        // The area ends with a zero.
        if json.len() >= room.min(MAX_JSON) { Err(Error::NoFreeKeyslot) } else { Ok(json) }
    }

    /// A number and an area for a new keyslot.
    pub(crate) fn free(&self) -> Result<(u8, u64), Error> {
        let number = (0..MAX_KEYSLOTS).find(|number| !self.keyslots.contains_key(number));
        let mut offset = 2 * self.header_size;
        let mut used: Vec<_> = self.keyslots.values().map(|slot| (slot.offset, slot.offset + slot.size)).collect();
        used.sort_unstable();
        for (begin, end) in used {
            if offset + AREA_SIZE <= begin {
                break;
            }
            offset = end;
        }
        let fits = offset + AREA_SIZE <= 2 * self.header_size + self.keyslots_size;
        number.filter(|_| fits).map(|number| (number, offset)).ok_or(Error::NoFreeKeyslot)
    }

    pub(crate) fn insert(&self, number: u8, slot: &Keyslot) -> Result<Metadata, Error> {
        let mut raw = self.raw.clone();
        raw["keyslots"][number.to_string()] = json!({
            "type": "luks2",
            "key_size": KEY_SIZE,
            "af": {"type": "luks1", "stripes": STRIPES, "hash": slot.af_hash.name()},
            "area": {
                "type": "raw",
                "offset": slot.offset.to_string(),
                "size": slot.size.to_string(),
                "encryption": CIPHER,
                "key_size": KEY_SIZE,
            },
            "kdf": write_kdf(&slot.kdf, &slot.salt),
        });
        if let Some(list) = raw["digests"][&self.digest_name]["keyslots"].as_array_mut() {
            list.push(number.to_string().into());
        }
        Metadata::read(raw, self.header_size)
    }

    pub(crate) fn remove(&self, number: u8) -> Result<Metadata, Error> {
        let mut raw = self.raw.clone();
        let name = number.to_string();
        if let Some(slots) = raw["keyslots"].as_object_mut() {
            slots.remove(&name);
        }
        if let Some(list) = raw["digests"][&self.digest_name]["keyslots"].as_array_mut() {
            list.retain(|slot| slot.as_str() != Some(&name));
        }
        Metadata::read(raw, self.header_size)
    }
}

/// The bytes of the keyslots' areas.
fn config(config: Object<'_>, header_size: u64) -> Result<u64, Error> {
    if let Some(value) = config.get("requirements") {
        let wrong = "invalid requirements";
        let empty = value.as_object().is_some_and(|requirements| requirements.is_empty());
        if !empty {
            let mandatory = config.object("requirements", wrong)?.strings("mandatory", wrong)?;
            if let Some(first) = mandatory.first() {
                return Err(Feature::Requirement(Name::new(first.as_bytes())).into());
            }
        }
    }
    if config.u64("json_size", "no json_size")? != header_size - HEADER_SIZE as u64 {
        return Err(config.wrong("json_size is not the header's"));
    }
    let keyslots_size = config.u64("keyslots_size", "no keyslots_size")?;
    if keyslots_size > MAX_KEYSLOTS_SIZE || !keyslots_size.is_multiple_of(ALIGNMENT) {
        return Err(config.wrong("invalid keyslots_size"));
    }
    Ok(keyslots_size)
}

fn cipher(name: &str) -> Result<(), Feature> {
    if name == CIPHER { Ok(()) } else { Err(Feature::Cipher(Name::new(name.as_bytes()))) }
}

fn key_size(bytes: u32) -> Result<(), Feature> {
    if bytes as usize == KEY_SIZE { Ok(()) } else { Err(Feature::KeySize { bits: u64::from(bytes) * 8 }) }
}

fn segment(segments: Object<'_>) -> Result<Segment, Error> {
    let mut all = segments.objects();
    let (Some(first), None) = (all.next(), all.next()) else { return Err(Feature::Segments.into()) };
    let (name, segment) = first?;
    if name != "0" || segment.str("type", "a segment without a type")? != "crypt" || segment.get("flags").is_some() {
        return Err(Feature::Segments.into());
    }
    if segment.get("integrity").is_some() {
        return Err(Feature::Integrity.into());
    }
    cipher(segment.str("encryption", "no encryption")?)?;
    let sector_size = segment.u32("sector_size", "no sector_size")?;
    if ![512, 1024, 2048, 4096].contains(&sector_size) {
        return Err(segment.wrong("sector_size is not 512, 1024, 2048 or 4096"));
    }
    let offset = segment.u64("offset", "no offset")?;
    let size = match segment.str("size", "no size")? {
        "dynamic" => None,
        _ => Some(segment.u64("size", "invalid size")?),
    };
    if !offset.is_multiple_of(512) || size.is_some_and(|size| size == 0 || !size.is_multiple_of(sector_size.into())) {
        return Err(segment.wrong("offset or size are not of whole sectors"));
    }
    Ok(Segment { offset, size, iv_tweak: segment.u64("iv_tweak", "no iv_tweak")?, sector_size })
}

fn keyslots(list: Object<'_>, room: core::ops::Range<u64>) -> Result<BTreeMap<u8, Keyslot>, Error> {
    let mut all = BTreeMap::new();
    for entry in list.objects() {
        let (name, slot) = entry?;
        let number = name.parse().ok().filter(|number: &u8| *number < MAX_KEYSLOTS && number.to_string() == name);
        let number = number.ok_or(list.wrong("a number that is not 0 to 31"))?;
        all.insert(number, keyslot(slot, &room)?);
    }
    let mut areas: Vec<_> = all.values().map(|slot| slot.offset..slot.offset + slot.size).collect();
    areas.sort_unstable_by_key(|area| area.start);
    match areas.windows(2).all(|pair| pair[0].end <= pair[1].start) {
        true => Ok(all),
        false => Err(list.wrong("areas overlap")),
    }
}

fn keyslot(slot: Object<'_>, room: &core::ops::Range<u64>) -> Result<Keyslot, Error> {
    let kind = slot.str("type", "no type")?;
    if kind != "luks2" {
        return Err(Feature::Keyslot(Name::new(kind.as_bytes())).into());
    }
    key_size(slot.u32("key_size", "no key_size")?)?;
    let af = slot.object("af", "no af")?;
    if af.str("type", "no af type")? != "luks1" || af.u32("stripes", "no stripes")? as usize != STRIPES {
        return Err(af.wrong("another anti-forensic splitter than luks1 with 4000 stripes"));
    }
    let area = slot.object("area", "no area")?;
    let kind = area.str("type", "no area type")?;
    if kind != "raw" {
        return Err(Feature::Area(Name::new(kind.as_bytes())).into());
    }
    cipher(area.str("encryption", "no area encryption")?)?;
    key_size(area.u32("key_size", "no area key_size")?)?;
    let (offset, size) = (area.u64("offset", "no area offset")?, area.u64("size", "no area size")?);
    let inside = offset >= room.start && offset.checked_add(size).is_some_and(|end| end <= room.end);
    if !inside || size < AREA_SIZE || !offset.is_multiple_of(ALIGNMENT) || !size.is_multiple_of(ALIGNMENT) {
        return Err(area.wrong("an area is not inside of the keyslots' area, too small or not aligned"));
    }
    let (kdf, salt) = read_kdf(slot.object("kdf", "no kdf")?)?;
    let priority = match slot.get("priority") {
        None => 1,
        Some(_) => slot.u32("priority", "invalid priority")?.min(2) as u8,
    };
    Ok(Keyslot { kdf, salt, af_hash: Hash::parse(af.str("hash", "no af hash")?)?, offset, size, priority })
}

fn read_kdf(kdf: Object<'_>) -> Result<(Kdf, Vec<u8>), Error> {
    let salt = kdf.bytes("salt", "invalid kdf salt")?;
    let cost = || {
        let (memory_kib, passes) = (kdf.u32("memory", "no kdf memory")?, kdf.u32("time", "no kdf time")?);
        let cost = Argon2Cost { memory_kib, passes, lanes: kdf.u32("cpus", "no kdf cpus")? };
        let valid = (1..=256).contains(&cost.lanes) && passes > 0 && memory_kib >= 8 * cost.lanes;
        if valid && salt.len() >= argon2::MIN_SALT_LEN { Ok(cost) } else { Err(kdf.wrong("invalid costs of Argon2")) }
    };
    let read = match kdf.str("type", "no kdf type")? {
        "argon2id" => Kdf::Argon2id(cost()?),
        "argon2i" => Kdf::Argon2i(cost()?),
        "pbkdf2" => {
            let iterations = kdf.u32("iterations", "no kdf iterations")?;
            if iterations == 0 {
                return Err(kdf.wrong("invalid kdf iterations"));
            }
            Kdf::Pbkdf2 { hash: Hash::parse(kdf.str("hash", "no kdf hash")?)?, iterations }
        }
        other => return Err(Feature::Kdf(Name::new(other.as_bytes())).into()),
    };
    Ok((read, salt))
}

fn write_kdf(kdf: &Kdf, salt: &[u8]) -> Value {
    let argon2 = |name: &str, cost: &Argon2Cost| {
        json!({
            "type": name,
            "time": cost.passes,
            "memory": cost.memory_kib,
            "cpus": cost.lanes,
            "salt": encode(salt),
        })
    };
    match kdf {
        Kdf::Argon2id(cost) => argon2("argon2id", cost),
        Kdf::Argon2i(cost) => argon2("argon2i", cost),
        Kdf::Pbkdf2 { hash, iterations } => {
            json!({"type": "pbkdf2", "hash": hash.name(), "iterations": iterations, "salt": encode(salt)})
        }
    }
}

/// The one digest, which has to be that of all keyslots and of the data.
fn digest(digests: Object<'_>, keyslots: &BTreeMap<u8, Keyslot>) -> Result<(String, Digest), Error> {
    let mut all = digests.objects();
    let (Some(first), None) = (all.next(), all.next()) else { return Err(Feature::Unbound.into()) };
    let (name, digest) = first?;
    let kind = digest.str("type", "no type")?;
    if kind != "pbkdf2" {
        return Err(Feature::Digest(Name::new(kind.as_bytes())).into());
    }
    let bound = digest.strings("keyslots", "no keyslots")?;
    if keyslots.keys().any(|number| !bound.contains(&number.to_string().as_str()))
        || digest.strings("segments", "no segments")? != ["0"]
    {
        return Err(Feature::Unbound.into());
    }
    if bound.len() != keyslots.len() {
        return Err(digest.wrong("it names a keyslot that there is not"));
    }
    let hash = Hash::parse(digest.str("hash", "no hash")?)?;
    let iterations = digest.u32("iterations", "no iterations")?;
    let (salt, bytes) = (digest.bytes("salt", "invalid salt")?, digest.bytes("digest", "invalid digest")?);
    if iterations == 0 || bytes.len() != hash.len() {
        return Err(digest.wrong("invalid iterations, or a digest that is not as long as its hash"));
    }
    Ok((name.to_string(), Digest { hash, iterations, salt, digest: bytes }))
}
