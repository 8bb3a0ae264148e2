//! Signatures of certificates and of handshakes.

use core::fmt;

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};
use rsa::pkcs1::DecodeRsaPublicKey;
use rsa::pkcs1v15::Pkcs1v15Sign;
use rsa::pss::Pss;
use rustls::SignatureScheme;
use rustls::crypto::WebPkiSupportedAlgorithms;
use sha2::{Digest, Sha256, Sha384, Sha512};

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

const P256_SHA256: Algorithm = &Of(alg_id::ECDSA_P256, alg_id::ECDSA_SHA256, p256::<Sha256>);
const P256_SHA384: Algorithm = &Of(alg_id::ECDSA_P256, alg_id::ECDSA_SHA384, p256::<Sha384>);
const P256_SHA512: Algorithm = &Of(alg_id::ECDSA_P256, alg_id::ECDSA_SHA512, p256::<Sha512>);
const P384_SHA256: Algorithm = &Of(alg_id::ECDSA_P384, alg_id::ECDSA_SHA256, p384::<Sha256>);
const P384_SHA384: Algorithm = &Of(alg_id::ECDSA_P384, alg_id::ECDSA_SHA384, p384::<Sha384>);
const P384_SHA512: Algorithm = &Of(alg_id::ECDSA_P384, alg_id::ECDSA_SHA512, p384::<Sha512>);
const ED25519: Algorithm = &Of(alg_id::ED25519, alg_id::ED25519, ed25519);
const PKCS1_SHA256: Algorithm = &Of(alg_id::RSA_ENCRYPTION, alg_id::RSA_PKCS1_SHA256, pkcs1_sha256);
const PKCS1_SHA384: Algorithm = &Of(alg_id::RSA_ENCRYPTION, alg_id::RSA_PKCS1_SHA384, pkcs1_sha384);
const PKCS1_SHA512: Algorithm = &Of(alg_id::RSA_ENCRYPTION, alg_id::RSA_PKCS1_SHA512, pkcs1_sha512);
const PSS_SHA256: Algorithm = &Of(alg_id::RSA_ENCRYPTION, alg_id::RSA_PSS_SHA256, pss_sha256);
const PSS_SHA384: Algorithm = &Of(alg_id::RSA_ENCRYPTION, alg_id::RSA_PSS_SHA384, pss_sha384);
const PSS_SHA512: Algorithm = &Of(alg_id::RSA_ENCRYPTION, alg_id::RSA_PSS_SHA512, pss_sha512);

/// For certificates all, and for handshakes what each scheme of TLS means: in TLS 1.2 it leaves the curve open, and in 1.3 the
/// first of those counts.
pub(super) static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[
        P256_SHA256,
        P256_SHA384,
        P256_SHA512,
        P384_SHA256,
        P384_SHA384,
        P384_SHA512,
        ED25519,
        PKCS1_SHA256,
        PKCS1_SHA384,
        PKCS1_SHA512,
        PSS_SHA256,
        PSS_SHA384,
        PSS_SHA512,
    ],
    mapping: &[
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[P384_SHA384, P256_SHA384]),
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[P256_SHA256, P384_SHA256]),
        (SignatureScheme::ED25519, &[ED25519]),
        (SignatureScheme::RSA_PSS_SHA512, &[PSS_SHA512]),
        (SignatureScheme::RSA_PSS_SHA384, &[PSS_SHA384]),
        (SignatureScheme::RSA_PSS_SHA256, &[PSS_SHA256]),
        (SignatureScheme::RSA_PKCS1_SHA512, &[PKCS1_SHA512]),
        (SignatureScheme::RSA_PKCS1_SHA384, &[PKCS1_SHA384]),
        (SignatureScheme::RSA_PKCS1_SHA256, &[PKCS1_SHA256]),
    ],
};

/// Key, message, signature.
type Verify = fn(&[u8], &[u8], &[u8]) -> Option<()>;

/// A key's kind, a signature's, and how one is verified.
struct Of(AlgorithmIdentifier, AlgorithmIdentifier, Verify);

impl fmt::Debug for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Of").field(&self.0).field(&self.1).finish()
    }
}

impl SignatureVerificationAlgorithm for Of {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        (self.2)(key, message, signature).ok_or(InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.1
    }
}

fn p256<D: Digest>(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let signature = p256::ecdsa::Signature::from_der(signature).ok()?;
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
    key.verify_prehash(&D::digest(message), &signature).ok()
}

fn p384<D: Digest>(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let signature = p384::ecdsa::Signature::from_der(signature).ok()?;
    let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
    // ECDSA with a hash that is shorter than the order (FIPS 186-5 section 6.4.2) takes it as it is; the library wants
    // half the order's length at least, which SHA-256 has.
    key.verify_prehash(&D::digest(message), &signature).ok()
}

fn ed25519(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let signature = ed25519_dalek::Signature::from_slice(signature).ok()?;
    ed25519_dalek::VerifyingKey::from_bytes(key.try_into().ok()?).ok()?.verify_strict(message, &signature).ok()
}

/// Moduli that are accepted, in bits: fewer are broken, and more cost too much.
const RSA_BITS: core::ops::RangeInclusive<u32> = 2048..=8192;

fn rsa(key: &[u8]) -> Option<rsa::PublicKey> {
    use rsa::traits::PublicKeyParts;
    let key = rsa::PublicKey::from_pkcs1_der(key).ok()?;
    RSA_BITS.contains(&key.n().bit_width_vartime()).then_some(key)
}

macro_rules! rsa_with {
    ($pkcs1:ident, $pss:ident, $hash:ty) => {
        fn $pkcs1(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
            rsa(key)?.verify(Pkcs1v15Sign::new::<$hash>(), &<$hash>::digest(message), signature).ok()
        }

        fn $pss(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
            rsa(key)?.verify(Pss::<$hash>::new(), &<$hash>::digest(message), signature).ok()
        }
    };
}

rsa_with!(pkcs1_sha256, pss_sha256, Sha256);
rsa_with!(pkcs1_sha384, pss_sha384, Sha384);
rsa_with!(pkcs1_sha512, pss_sha512, Sha512);
