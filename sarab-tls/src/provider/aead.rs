//! Ciphers that authenticate, by what they have in common.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use chacha20poly1305::ChaCha20Poly1305;
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::{AeadKey, Iv};

/// Bytes of a tag, for all of them.
pub(super) const TAG: usize = 16;

/// A cipher with nonces of 12 and tags of 16 bytes.
pub(super) trait Cipher: Sized + Send + Sync + 'static {
    /// Bytes of its key.
    const KEY: usize;

    /// `key` has so many bytes: rustls asks for them.
    fn new(key: &AeadKey) -> Self;

    /// Encrypts in place; the tag, or nothing where there is too much data.
    fn seal(&self, nonce: [u8; 12], aad: &[u8], data: &mut [u8]) -> Option<[u8; TAG]>;

    /// Decrypts in place, or returns false and leaves data that is of no use.
    fn open(&self, nonce: [u8; 12], aad: &[u8], data: &mut [u8], tag: [u8; TAG]) -> bool;

    /// The keys as rustls passes them to others.
    fn secrets(key: AeadKey, iv: Iv) -> ConnectionTrafficSecrets;
}

macro_rules! cipher {
    ($type:ty, $key:literal, $secrets:ident) => {
        impl Cipher for $type {
            const KEY: usize = $key;

            fn new(key: &AeadKey) -> Self {
                <$type as KeyInit>::new_from_slice(key.as_ref()).expect("rustls keeps to the length of keys")
            }

            fn seal(&self, nonce: [u8; 12], aad: &[u8], data: &mut [u8]) -> Option<[u8; TAG]> {
                self.encrypt_inout_detached(&nonce.into(), aad, data.into()).ok().map(Into::into)
            }

            fn open(&self, nonce: [u8; 12], aad: &[u8], data: &mut [u8], tag: [u8; TAG]) -> bool {
                self.decrypt_inout_detached(&nonce.into(), aad, data.into(), &tag.into()).is_ok()
            }

            fn secrets(key: AeadKey, iv: Iv) -> ConnectionTrafficSecrets {
                ConnectionTrafficSecrets::$secrets { key, iv }
            }
        }
    };
}

cipher!(Aes128Gcm, 16, Aes128Gcm);
cipher!(Aes256Gcm, 32, Aes256Gcm);
cipher!(ChaCha20Poly1305, 32, Chacha20Poly1305);

/// Splits the tag off, where there is one.
pub(super) fn split_tag(data: &mut [u8]) -> Option<(&mut [u8], [u8; TAG])> {
    let (data, tag) = data.split_at_mut_checked(data.len().checked_sub(TAG)?)?;
    Some((data, (*tag).try_into().ok()?))
}
