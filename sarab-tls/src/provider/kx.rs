//! Key exchange: X25519, P-256 and P-384.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use p256::elliptic_curve::sec1::ToSec1Point;
use rustls::crypto::{ActiveKeyExchange, GetRandomFailed, SharedSecret, SupportedKxGroup};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::{Error, NamedGroup, PeerMisbehaved};
use zeroize::Zeroizing;

use super::random::random;

pub(super) static X25519: &dyn SupportedKxGroup = &Group(NamedGroup::X25519, start_x25519);
pub(super) static SECP256R1: &dyn SupportedKxGroup = &Group(NamedGroup::secp256r1, start_p256);
pub(super) static SECP384R1: &dyn SupportedKxGroup = &Group(NamedGroup::secp384r1, start_p384);

/// A group, and how a secret of it is made.
struct Group(NamedGroup, fn() -> Result<Box<dyn ActiveKeyExchange>, Error>);

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl SupportedKxGroup for Group {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        (self.1)()
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        self.0
    }
}

/// A secret, the public key to it, and how it is combined with the other end's public key.
struct Exchange<S> {
    group: NamedGroup,
    secret: S,
    public: Vec<u8>,
    combine: fn(&S, &[u8]) -> Option<SharedSecret>,
}

impl<S: Send + Sync> ActiveKeyExchange for Exchange<S> {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        (self.combine)(&self.secret, peer).ok_or(Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        self.group
    }
}

fn start_x25519() -> Result<Box<dyn ActiveKeyExchange>, Error> {
    let bytes = Zeroizing::new(random::<32>().map_err(|_| GetRandomFailed)?);
    let secret = x25519_dalek::StaticSecret::from(*bytes);
    let public = x25519_dalek::PublicKey::from(&secret).as_bytes().to_vec();
    Ok(Box::new(Exchange {
        group: NamedGroup::X25519,
        secret,
        public,
        combine: |secret, peer| {
            let peer: [u8; 32] = peer.try_into().ok()?;
            let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(peer));
            // All zeros where the other end has sent a point of small order (RFC 8446 section 7.4.2).
            shared.was_contributory().then(|| SharedSecret::from(&shared.as_bytes()[..]))
        },
    }))
}

/// How often bytes are drawn that are no number below the order of the curve: each time that is as good as impossible.
const DRAWS: usize = 16;

/// The first byte of a point that is not compressed, the only form in TLS 1.3 (RFC 8446 section 4.2.8.2).
const UNCOMPRESSED: u8 = 4;

macro_rules! nist {
    ($start:ident, $curve:ident, $group:ident, $bytes:literal) => {
        fn $start() -> Result<Box<dyn ActiveKeyExchange>, Error> {
            for _ in 0..DRAWS {
                let bytes = Zeroizing::new(random::<$bytes>().map_err(|_| GetRandomFailed)?);
                if let Ok(secret) = $curve::SecretKey::from_slice(&*bytes) {
                    let public = secret.public_key().to_sec1_point(false).as_bytes().to_vec();
                    return Ok(Box::new(Exchange {
                        group: NamedGroup::$group,
                        secret,
                        public,
                        combine: |secret, peer| {
                            if peer.first() != Some(&UNCOMPRESSED) {
                                return None;
                            }
                            let peer = $curve::PublicKey::from_sec1_bytes(peer).ok()?;
                            let shared = $curve::ecdh::diffie_hellman(secret.to_nonzero_scalar(), peer.as_affine());
                            Some(SharedSecret::from(&shared.raw_secret_bytes()[..]))
                        },
                    }));
                }
            }
            Err(GetRandomFailed.into())
        }
    };
}

nist!(start_p256, p256, secp256r1, 32);
nist!(start_p384, p384, secp384r1, 48);
