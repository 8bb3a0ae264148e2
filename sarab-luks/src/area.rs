//! A keyslot's area on the device: the volume key, split and encrypted with the key that a passphrase gives.

use alloc::boxed::Box;

use rand_core::TryCryptoRng;
use xen_blkif::{BlockDevice, Buffer};
use xenbus::yield_now;
use zeroize::Zeroizing;

use crate::af::{self, STRIPES};
use crate::error::Error;
use crate::kdf::{derive, zeroed};
use crate::metadata::{AREA_SIZE, Keyslot};
use crate::stack::wiped;
use crate::xts::{Direction, KEY_SIZE, MIN_SECTOR, Xts};

/// A volume key.
pub(crate) type Key = Box<Zeroizing<[u8; KEY_SIZE]>>;

pub(crate) fn no_key() -> Key {
    Box::new(Zeroizing::new([0; KEY_SIZE]))
}

const MATERIAL: usize = KEY_SIZE * STRIPES;
/// Bytes that are copied, overwritten or made at random before other tasks have their turn.
const STEP: usize = 16 << 10;

/// The key that is in the area if the passphrase is this keyslot's, and anything else otherwise.
///
/// # Cancellation
///
/// May be dropped at any time.
pub(crate) async fn read(device: &impl BlockDevice, slot: &Keyslot, passphrase: &[u8]) -> Result<Key, Error> {
    let buffer = device.buffer(AREA_SIZE as usize)?;
    let (buffer, outcome) = device.read(slot.offset / 512, buffer).await;
    outcome?;
    let mut derived = no_key();
    derive(&slot.kdf, passphrase, &slot.salt, &mut derived[..]).await?;
    let mut material = zeroed(MATERIAL)?;
    buffer.read(0, &mut material);
    wiped(|| Xts::new(&derived).apply(Direction::Decrypt, 0, MIN_SECTOR, &mut material));
    yield_now().await;
    let mut key = no_key();
    wiped(|| af::merge(&material, slot.af_hash, &mut key[..]));
    Ok(key)
}

/// Puts the key into the area.
///
/// # Cancellation
///
/// The area may be written in part.
pub(crate) async fn write(
    device: &impl BlockDevice,
    slot: &Keyslot,
    passphrase: &[u8],
    key: &Key,
    random: &mut impl TryCryptoRng,
) -> Result<(), Error> {
    let mut derived = no_key();
    derive(&slot.kdf, passphrase, &slot.salt, &mut derived[..]).await?;
    let mut material = zeroed(AREA_SIZE as usize)?;
    for step in material.chunks_mut(STEP) {
        random.try_fill_bytes(step).map_err(|_| Error::Random)?;
        yield_now().await;
    }
    wiped(|| af::split(&key[..], slot.af_hash, &mut material[..MATERIAL]));
    yield_now().await;
    wiped(|| Xts::new(&derived).apply(Direction::Encrypt, 0, MIN_SECTOR, &mut material[..MATERIAL]));
    put(device, slot.offset, &material).await
}

/// Overwrites the area with random bytes, so that nothing is left of the key.
///
/// # Cancellation
///
/// The area may be overwritten in part, which is enough: none of its key is to be had from the rest.
pub(crate) async fn wipe(
    device: &impl BlockDevice,
    slot: &Keyslot,
    random: &mut impl TryCryptoRng,
) -> Result<(), Error> {
    let mut bytes = zeroed(STEP)?;
    for offset in (0..slot.size).step_by(STEP) {
        let part = &mut bytes[..(slot.size - offset).min(STEP as u64) as usize];
        random.try_fill_bytes(part).map_err(|_| Error::Random)?;
        put(device, slot.offset + offset, part).await?;
    }
    Ok(())
}

/// Writes bytes at an offset in bytes.
async fn put(device: &impl BlockDevice, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    let buffer = device.buffer(bytes.len())?;
    buffer.write(0, bytes);
    device.write(offset / 512, buffer).await.1?;
    Ok(())
}
