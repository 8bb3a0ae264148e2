//! The algorithms that rustls uses: RustCrypto's, which are Rust alone and link into a guest.

mod aead;
mod hash;
mod kx;
pub(crate) mod random;
mod sign;
mod tls12;
mod tls13;
mod verify;

use alloc::sync::Arc;
use alloc::vec;

use pki_types::PrivateKeyDer;
use rustls::crypto::{CryptoProvider, KeyProvider};
use rustls::sign::SigningKey;
use rustls::{Error, SupportedCipherSuite};

pub use random::random;

/// The cipher suites in our order, which is what clients offer; servers go by the client's order, since a client without
/// instructions for AES prefers ChaCha20.
static SUITES: [SupportedCipherSuite; 9] = [
    tls13::AES_128_GCM_SHA256,
    tls13::AES_256_GCM_SHA384,
    tls13::CHACHA20_POLY1305_SHA256,
    tls12::ECDSA_AES_128_GCM_SHA256,
    tls12::ECDSA_AES_256_GCM_SHA384,
    tls12::ECDSA_CHACHA20_POLY1305_SHA256,
    tls12::RSA_AES_128_GCM_SHA256,
    tls12::RSA_AES_256_GCM_SHA384,
    tls12::RSA_CHACHA20_POLY1305_SHA256,
];

/// A provider of cryptography for rustls, for those who use rustls themselves.
///
/// Its random numbers are the crate `getrandom`'s: in a guest those of `platform-xen`.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: SUITES.to_vec(),
        kx_groups: vec![kx::X25519, kx::SECP256R1, kx::SECP384R1],
        signature_verification_algorithms: verify::ALGORITHMS,
        secure_random: &random::Random,
        key_provider: &Keys,
    }
}

#[derive(Debug)]
struct Keys;

impl KeyProvider for Keys {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        sign::load(&key)
    }
}
