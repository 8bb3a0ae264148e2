//! A volume that is not open: its header, and what is done with its keys.

use rand_core::TryCryptoRng;
use subtle::ConstantTimeEq;
use xen_blkif::{BlockDevice, Buffer};
use xen_hal::Pages;

use crate::area::{self, Key, no_key};
use crate::copies::{self, Repair};
use crate::encrypted::Encrypted;
use crate::error::Error;
use crate::hash::Hash;
use crate::header::{Header, SIZES};
use crate::kdf;
use crate::metadata::{ALIGNMENT, AREA_SIZE, Digest, Keyslot, KeyslotInfo, Metadata, Segment};
use crate::options::{Argon2Cost, FormatOptions, Kdf, Limits, MIN_ARGON2_MEMORY_KIB, OpenOptions};

/// Bytes of a salt, as cryptsetup has them.
const SALT: usize = 32;
/// Iterations for the volume key's digest: a key of 512 random bits cannot be guessed, however quick one guess is.
const DIGEST_ITERATIONS: u32 = 1000;
/// Bytes that are zeroed at once where a volume is made.
const STEP: usize = 64 << 10;

/// A LUKS2 volume.
///
/// It is the only one that may change the header: what another program changes meanwhile is overwritten.
#[derive(Debug)]
pub struct Volume<D> {
    device: D,
    header: Header,
    metadata: Metadata,
    limits: Limits,
    repair: Option<Repair>,
}

/// What a volume is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// Where the data begins, in bytes.
    pub data_offset: u64,
    /// Bytes that are encrypted as a unit.
    pub sector_size: u32,
    /// How many keyslots are in use.
    pub keyslots: usize,
}

impl<D: BlockDevice> Volume<D> {
    /// Reads the header of a device. Where one of its two copies is damaged or old, the other is written in its place, unless the
    /// device is read-only; [`repair`](Volume::repair) reports it, for the caller to print.
    ///
    /// # Errors
    ///
    /// [`Error::NotLuks`], [`Error::Damaged`], [`Error::Unsupported`], [`Error::Metadata`], and what the device says.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; a repair that was begun is begun again the next time.
    pub async fn load(device: D, limits: Limits) -> Result<Volume<D>, Error> {
        let found = copies::find(&device).await?;
        let metadata = Metadata::parse(&found.json, &found.header)?;
        let mut repair = found.repair;
        if let Some(repair) = &mut repair
            && !device.geometry().read_only
        {
            // One good copy is enough to go on with.
            repair.written = copies::write(&device, &found.header, &found.json, repair.place).await.is_ok();
        }
        Ok(Volume { device, header: found.header, metadata, limits, repair })
    }

    /// Whether one of the two headers is good. Nothing is written.
    ///
    /// # Errors
    ///
    /// What the device says.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn is_there(device: &D) -> Result<bool, xen_blkif::Error> {
        match copies::find(device).await {
            Ok(_) | Err(Error::Unsupported(_)) => Ok(true),
            Err(Error::Device(error)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Makes a volume, which the key opens. All before the data is overwritten; the data is not.
    ///
    /// # Errors
    ///
    /// [`Error::Option`], [`Error::TooSmall`], [`Error::EmptyKey`], [`Error::OutOfMemory`], [`Error::Random`], and what the device
    /// says.
    ///
    /// # Cancellation
    ///
    /// The volume may be made in part, and is then no volume.
    pub async fn format(
        device: D,
        key: &[u8],
        options: &FormatOptions,
        random: &mut impl TryCryptoRng,
    ) -> Result<Volume<D>, Error> {
        let geometry = device.geometry();
        geometry.check_writable()?;
        options.kdf.check()?;
        let sector_size = options.sector_size.unwrap_or(geometry.physical_sector_size.clamp(512, 4096));
        if ![512, 1024, 2048, 4096].contains(&sector_size) {
            return Err(Error::Option { name: "sector_size", allowed: "512, 1024, 2048 or 4096" });
        }
        let size = SIZES[0];
        let offset = options.data_offset;
        if !(2 * size + AREA_SIZE..=128 << 20).contains(&offset) || !offset.is_multiple_of(ALIGNMENT) {
            return Err(Error::Option { name: "data_offset", allowed: "290816 to 134217728, a multiple of 4096" });
        }
        let needed = offset + u64::from(sector_size);
        if geometry.bytes() < u128::from(needed) {
            return Err(Error::TooSmall { bytes: geometry.bytes() as u64, needed });
        }
        let volume_key = random_key(random)?;
        let mut salt = [0; SALT];
        random.try_fill_bytes(&mut salt).map_err(|_| Error::Random)?;
        let mut digest = [0; 32];
        kdf::pbkdf2(Hash::Sha256, &volume_key[..], &salt, DIGEST_ITERATIONS, &mut digest).await;
        let digest =
            Digest { hash: Hash::Sha256, iterations: DIGEST_ITERATIONS, salt: salt.to_vec(), digest: digest.to_vec() };
        let segment = Segment { offset, size: None, iv_tweak: 0, sector_size };
        let header =
            Header { size, sequence: 0, label: options.label, salt: [0; 64], uuid: uuid(random)?, subsystem: [0; 48] };
        let metadata = Metadata::new(size, segment, &digest)?;
        erase(&device, offset).await?;
        let mut volume = Volume { device, header, metadata, limits: options.limits, repair: None };
        volume.add(&volume_key, key, options.kdf, random).await?;
        Ok(volume)
    }

    /// Opens the volume. Its data is read and written in pages of `pages`, which no peer sees: what the device itself
    /// handles, and its backend may see, is encrypted.
    ///
    /// # Errors
    ///
    /// [`Error::NoKey`]; [`Error::TooCostly`] and [`Error::OutOfMemory`] where a keyslot could not be tried and no other is
    /// opened by the key; [`Error::TooSmall`], and what the device says.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn open<P: Pages>(&self, key: &[u8], pages: P, options: OpenOptions) -> Result<Encrypted<D, P>, Error>
    where
        D: Clone,
    {
        let (_, volume_key) = self.unlock(key).await?;
        Encrypted::new(self.device.clone(), pages, &self.metadata.segment, &volume_key, options)
    }

    /// Adds a key to a free keyslot, whose number is returned; `existing` opens the volume.
    ///
    /// # Errors
    ///
    /// As [`open`](Volume::open); [`Error::NoFreeKeyslot`], [`Error::EmptyKey`], [`Error::Option`], [`Error::Random`].
    ///
    /// # Cancellation
    ///
    /// The key is added or not.
    pub async fn add_key(
        &mut self,
        existing: &[u8],
        new: &[u8],
        kdf: Kdf,
        random: &mut impl TryCryptoRng,
    ) -> Result<u8, Error> {
        let (_, volume_key) = self.unlock(existing).await?;
        self.add(&volume_key, new, kdf, random).await
    }

    /// Adds a key, then removes the old one; returns the new one's keyslot.
    ///
    /// # Errors
    ///
    /// As [`add_key`](Volume::add_key).
    ///
    /// # Cancellation
    ///
    /// The old key, the new one or both open the volume.
    pub async fn change_key(
        &mut self,
        old: &[u8],
        new: &[u8],
        kdf: Kdf,
        random: &mut impl TryCryptoRng,
    ) -> Result<u8, Error> {
        let (number, volume_key) = self.unlock(old).await?;
        let added = self.add(&volume_key, new, kdf, random).await?;
        self.remove_keyslot(number, random).await?;
        Ok(added)
    }

    /// Removes a key; returns its keyslot's number.
    ///
    /// # Errors
    ///
    /// [`Error::NoKey`] where there is none such, [`Error::LastKeyslot`], and as [`open`](Volume::open).
    ///
    /// # Cancellation
    ///
    /// The key is removed or not; in between the keyslot is there, and nothing opens it.
    pub async fn remove_key(&mut self, key: &[u8], random: &mut impl TryCryptoRng) -> Result<u8, Error> {
        let (number, _) = self.unlock(key).await?;
        self.remove_keyslot(number, random).await?;
        Ok(number)
    }

    /// Removes a keyslot by its number, without its key.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchKeyslot`], [`Error::LastKeyslot`], [`Error::Random`], and what the device says.
    ///
    /// # Cancellation
    ///
    /// As [`remove_key`](Volume::remove_key).
    pub async fn remove_keyslot(&mut self, number: u8, random: &mut impl TryCryptoRng) -> Result<(), Error> {
        let slot = self.metadata.keyslots.get(&number).ok_or(Error::NoSuchKeyslot(number))?;
        if self.metadata.keyslots.len() == 1 {
            return Err(Error::LastKeyslot);
        }
        let metadata = self.metadata.remove(number)?;
        // First of all the key is gone; a header without it would be no help while its material is there.
        area::wipe(&self.device, slot, random).await?;
        copies::flush(&self.device).await?;
        self.store(metadata, random).await
    }

    /// What was wrong with a copy of the header when it was loaded.
    pub fn repair(&self) -> Option<&Repair> {
        self.repair.as_ref()
    }

    /// What the volume is like.
    pub fn info(&self) -> Info {
        let Segment { offset, sector_size, .. } = self.metadata.segment;
        Info { data_offset: offset, sector_size, keyslots: self.metadata.keyslots.len() }
    }

    /// The UUID.
    pub fn uuid(&self) -> &str {
        text(&self.header.uuid)
    }

    /// The label, or nothing.
    pub fn label(&self) -> &str {
        text(&self.header.label)
    }

    /// The keyslots in use.
    pub fn keyslots(&self) -> impl Iterator<Item = KeyslotInfo> {
        let info =
            |(number, slot): (&u8, &Keyslot)| KeyslotInfo { number: *number, kdf: slot.kdf, priority: slot.priority };
        self.metadata.keyslots.iter().map(info)
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Tries the keyslots, those that are preferred first; which one it was, and the volume key.
    async fn unlock(&self, passphrase: &[u8]) -> Result<(u8, Key), Error> {
        if passphrase.is_empty() {
            return Err(Error::EmptyKey);
        }
        let digest = &self.metadata.digest;
        kdf::check(&Kdf::Pbkdf2 { hash: digest.hash, iterations: digest.iterations }, None, &self.limits)?;
        // What kept a keyslot from being tried: it may be the one.
        let mut skipped = None;
        for priority in [2, 1] {
            for (number, slot) in self.metadata.keyslots.iter().filter(|(_, slot)| slot.priority == priority) {
                let attempt = match kdf::check(&slot.kdf, Some(*number), &self.limits) {
                    Ok(()) => area::read(&self.device, slot, passphrase).await,
                    Err(error) => Err(error),
                };
                match attempt {
                    Ok(key) if self.is_volume_key(&key).await => return Ok((*number, key)),
                    Ok(_) => {}
                    Err(error @ (Error::TooCostly { .. } | Error::OutOfMemory { .. })) => skipped = Some(error),
                    Err(error) => return Err(error),
                }
            }
        }
        Err(skipped.unwrap_or(Error::NoKey))
    }

    async fn is_volume_key(&self, key: &Key) -> bool {
        let Digest { hash, iterations, salt, digest } = &self.metadata.digest;
        let mut own = [0; 64];
        let own = &mut own[..hash.len()];
        // Of a wrong passphrase's key it says nothing; of the right one's it is in the header.
        kdf::pbkdf2(*hash, &key[..], salt, *iterations, own).await;
        own.ct_eq(digest).into()
    }

    async fn add(
        &mut self,
        volume_key: &Key,
        passphrase: &[u8],
        mut kdf: Kdf,
        random: &mut impl TryCryptoRng,
    ) -> Result<u8, Error> {
        if passphrase.is_empty() {
            return Err(Error::EmptyKey);
        }
        kdf.check()?;
        let (number, offset) = self.metadata.free()?;
        let mut salt = [0; SALT];
        random.try_fill_bytes(&mut salt).map_err(|_| Error::Random)?;
        let slot = loop {
            let (salt, af_hash) = (salt.to_vec(), Hash::Sha256);
            let slot = Keyslot { kdf, salt, af_hash, offset, size: AREA_SIZE, priority: 1 };
            match area::write(&self.device, &slot, passphrase, volume_key, random).await {
                Ok(()) => break slot,
                Err(error @ Error::OutOfMemory { .. }) => kdf = smaller(kdf).ok_or(error)?,
                Err(error) => return Err(error),
            }
        };
        copies::flush(&self.device).await?;
        self.store(self.metadata.insert(number, &slot)?, random).await?;
        Ok(number)
    }

    async fn store(&mut self, metadata: Metadata, random: &mut impl TryCryptoRng) -> Result<(), Error> {
        let mut header = self.header.clone();
        header.sequence = header.sequence.wrapping_add(1);
        random.try_fill_bytes(&mut header.salt).map_err(|_| Error::Random)?;
        copies::write_both(&self.device, &header, &metadata.to_json()?).await?;
        (self.header, self.metadata) = (header, metadata);
        Ok(())
    }
}

/// The same work with half of the memory.
fn smaller(kdf: Kdf) -> Option<Kdf> {
    let halve = |cost: Argon2Cost| {
        let memory_kib = cost.memory_kib / 2;
        let passes = cost.passes.saturating_mul(2);
        (memory_kib >= MIN_ARGON2_MEMORY_KIB).then_some(Argon2Cost { memory_kib, passes, ..cost })
    };
    match kdf {
        Kdf::Argon2id(cost) => halve(cost).map(Kdf::Argon2id),
        Kdf::Argon2i(cost) => halve(cost).map(Kdf::Argon2i),
        Kdf::Pbkdf2 { .. } => None,
    }
}

fn random_key(random: &mut impl TryCryptoRng) -> Result<Key, Error> {
    let mut key = no_key();
    random.try_fill_bytes(&mut key[..]).map_err(|_| Error::Random)?;
    Ok(key)
}

/// Overwrites what was there, so that nothing of another volume is taken for this one's.
async fn erase(device: &impl BlockDevice, end: u64) -> Result<(), Error> {
    for offset in (0..end).step_by(STEP) {
        let buffer = device.buffer((end - offset).min(STEP as u64) as usize)?;
        for start in (0..xen_blkif::Buffer::len(&buffer)).step_by(4096) {
            buffer.write(start, &[0; 4096]);
        }
        device.write(offset / 512, buffer).await.1?;
    }
    Ok(())
}

/// A random one (RFC 9562, version 4).
fn uuid(random: &mut impl TryCryptoRng) -> Result<[u8; 40], Error> {
    let mut bytes = [0; 16];
    random.try_fill_bytes(&mut bytes).map_err(|_| Error::Random)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut uuid = [0; 40];
    let mut at = 0;
    for (index, byte) in bytes.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            uuid[at] = b'-';
            at += 1;
        }
        for digit in [byte >> 4, byte & 15] {
            uuid[at] = b"0123456789abcdef"[usize::from(digit)];
            at += 1;
        }
    }
    Ok(uuid)
}

/// The text before the first zero, if it is one.
fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    core::str::from_utf8(&bytes[..end]).unwrap_or_default()
}
