//! Private keys: ECDSA with P-256 and P-384, Ed25519, RSA.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::pkcs8::{DecodePrivateKey, EncodePublicKey};
use pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs1v15::Pkcs1v15Sign;
use rsa::pss::Pss;
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use sha2::{Digest, Sha256, Sha384, Sha512};

use super::random::Random;

/// A key, by what its file says it is.
pub(super) fn load(der: &PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, Error> {
    let key = match der {
        PrivateKeyDer::Pkcs1(der) => rsa::PrivateKey::from_pkcs1_der(der.secret_pkcs1_der()).ok().and_then(of_rsa),
        PrivateKeyDer::Sec1(der) => {
            let der = der.secret_sec1_der();
            let p256 = p256::SecretKey::from_sec1_der(der).ok().map(|key| of_p256(key.into()));
            p256.or_else(|| p384::SecretKey::from_sec1_der(der).ok().map(|key| of_p384(key.into()))).flatten()
        }
        PrivateKeyDer::Pkcs8(der) => {
            let der = der.secret_pkcs8_der();
            p256::ecdsa::SigningKey::from_pkcs8_der(der)
                .ok()
                .map(of_p256)
                .or_else(|| p384::ecdsa::SigningKey::from_pkcs8_der(der).ok().map(of_p384))
                .or_else(|| ed25519_dalek::SigningKey::from_pkcs8_der(der).ok().map(of_ed25519))
                .or_else(|| rsa::PrivateKey::from_pkcs8_der(der).ok().map(of_rsa))
                .flatten()
        }
        _ => None,
    };
    key.ok_or_else(|| Error::General(UNREADABLE.to_string()))
}

const UNREADABLE: &str = "the private key is none of ECDSA P-256, ECDSA P-384, Ed25519 and RSA with 2048 to 8192 bits, as PKCS#8, SEC1 or PKCS#1";

fn of_p256(key: p256::ecdsa::SigningKey) -> Option<Arc<dyn SigningKey>> {
    let public = key.verifying_key().to_public_key_der().ok()?.into_vec();
    let sign = |key: &p256::ecdsa::SigningKey, _, message: &[u8]| {
        let signature: p256::ecdsa::Signature = key.sign_prehash(&Sha256::digest(message)).ok()?;
        Some(signature.to_der().as_bytes().to_vec())
    };
    let schemes = &[SignatureScheme::ECDSA_NISTP256_SHA256];
    Some(Arc::new(Key(Arc::new(Parts { key, public, algorithm: SignatureAlgorithm::ECDSA, schemes, sign }))))
}

fn of_p384(key: p384::ecdsa::SigningKey) -> Option<Arc<dyn SigningKey>> {
    let public = key.verifying_key().to_public_key_der().ok()?.into_vec();
    let sign = |key: &p384::ecdsa::SigningKey, _, message: &[u8]| {
        let signature: p384::ecdsa::Signature = key.sign_prehash(&Sha384::digest(message)).ok()?;
        Some(signature.to_der().as_bytes().to_vec())
    };
    let schemes = &[SignatureScheme::ECDSA_NISTP384_SHA384];
    Some(Arc::new(Key(Arc::new(Parts { key, public, algorithm: SignatureAlgorithm::ECDSA, schemes, sign }))))
}

fn of_ed25519(key: ed25519_dalek::SigningKey) -> Option<Arc<dyn SigningKey>> {
    use ed25519_dalek::Signer;
    let public = key.verifying_key().to_public_key_der().ok()?.into_vec();
    let sign = |key: &ed25519_dalek::SigningKey, _, message: &[u8]| Some(key.sign(message).to_bytes().to_vec());
    let schemes = &[SignatureScheme::ED25519];
    Some(Arc::new(Key(Arc::new(Parts { key, public, algorithm: SignatureAlgorithm::ED25519, schemes, sign }))))
}

/// The preferred one first. TLS 1.3 uses PSS alone; TLS 1.2 may use either.
static RSA_SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

fn of_rsa(key: rsa::PrivateKey) -> Option<Arc<dyn SigningKey>> {
    use rsa::traits::PublicKeyParts;
    if !(2048..=8192).contains(&key.n().bit_width_vartime()) {
        return None;
    }
    let public = key.to_public_key().to_public_key_der().ok()?.into_vec();
    // Blinded, so that the time that it takes says nothing about the key.
    let sign = |key: &rsa::PrivateKey, scheme, message: &[u8]| match scheme {
        SignatureScheme::RSA_PSS_SHA256 => {
            key.sign_with_rng(&mut Random, Pss::<Sha256>::new(), &Sha256::digest(message)).ok()
        }
        SignatureScheme::RSA_PSS_SHA384 => {
            key.sign_with_rng(&mut Random, Pss::<Sha384>::new(), &Sha384::digest(message)).ok()
        }
        SignatureScheme::RSA_PSS_SHA512 => {
            key.sign_with_rng(&mut Random, Pss::<Sha512>::new(), &Sha512::digest(message)).ok()
        }
        SignatureScheme::RSA_PKCS1_SHA256 => {
            key.sign_with_rng(&mut Random, Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(message)).ok()
        }
        SignatureScheme::RSA_PKCS1_SHA384 => {
            key.sign_with_rng(&mut Random, Pkcs1v15Sign::new::<Sha384>(), &Sha384::digest(message)).ok()
        }
        SignatureScheme::RSA_PKCS1_SHA512 => {
            key.sign_with_rng(&mut Random, Pkcs1v15Sign::new::<Sha512>(), &Sha512::digest(message)).ok()
        }
        _ => None,
    };
    Some(Arc::new(Key(Arc::new(Parts {
        key,
        public,
        algorithm: SignatureAlgorithm::RSA,
        schemes: &RSA_SCHEMES,
        sign,
    }))))
}

struct Parts<K> {
    key: K,
    /// SubjectPublicKeyInfo, by which a key is compared with a certificate.
    public: Vec<u8>,
    algorithm: SignatureAlgorithm,
    schemes: &'static [SignatureScheme],
    sign: fn(&K, SignatureScheme, &[u8]) -> Option<Vec<u8>>,
}

struct Key<K>(Arc<Parts<K>>);

impl<K> fmt::Debug for Key<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.0.algorithm).finish()
    }
}

impl<K: Send + Sync + 'static> SigningKey for Key<K> {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self.0.schemes.iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(WithScheme(self.0.clone(), scheme)))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(&self.0.public[..]))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm
    }
}

struct WithScheme<K>(Arc<Parts<K>>, SignatureScheme);

impl<K> fmt::Debug for WithScheme<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WithScheme").field(&self.1).finish()
    }
}

impl<K: Send + Sync> Signer for WithScheme<K> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        (self.0.sign)(&self.0.key, self.1, message).ok_or_else(|| Error::General("signing failed".to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.1
    }
}
