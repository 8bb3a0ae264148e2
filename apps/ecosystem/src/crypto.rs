//! Random numbers, hashes, ciphers and keys.

use crate::Trial;

fn bytes<const LEN: usize>() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    getrandom::fill(&mut bytes).expect("the lab's processor has a source");
    bytes
}

pub const ALL: &[Trial] = &[
    ("getrandom", || bytes::<32>() != bytes::<32>()),
    ("rand", || {
        use rand::{Rng, SeedableRng};
        let mut random = rand::rngs::ChaCha20Rng::from_seed(bytes());
        random.next_u64() != random.next_u64()
    }),
    ("sha2", || {
        use sha2::Digest;
        hex::encode(sha2::Sha256::digest(b"abc")).starts_with("ba7816bf8f01cfea")
    }),
    ("blake3", || blake3::hash(b"abc").to_hex().starts_with("6437b3ac38465133")),
    ("hmac", || {
        use hmac::Mac;
        let Ok(mut mac) = hmac::Hmac::<sha2::Sha256>::new_from_slice(b"key") else { return false };
        mac.update(b"The quick brown fox jumps over the lazy dog");
        hex::encode(mac.finalize().into_bytes()).starts_with("f7bc83f430538424")
    }),
    ("hkdf", || hkdf::Hkdf::<sha2::Sha256>::new(None, b"secret").expand(b"for", &mut [0; 64]).is_ok()),
    ("aes-gcm", || {
        use aes_gcm::aead::Aead;
        use aes_gcm::{Aes256Gcm, KeyInit};
        let (cipher, nonce) = (Aes256Gcm::new(&bytes::<32>().into()), bytes::<12>().into());
        let Ok(sealed) = cipher.encrypt(&nonce, &b"text"[..]) else { return false };
        cipher.decrypt(&nonce, &*sealed).is_ok_and(|text| text == b"text")
    }),
    ("chacha20poly1305", || {
        use chacha20poly1305::aead::Aead;
        use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
        let (cipher, nonce) = (ChaCha20Poly1305::new(&bytes::<32>().into()), bytes::<12>().into());
        let Ok(sealed) = cipher.encrypt(&nonce, &b"text"[..]) else { return false };
        cipher.decrypt(&nonce, &*sealed).is_ok_and(|text| text == b"text")
    }),
    ("ed25519-dalek", || {
        use ed25519_dalek::{Signer, SigningKey};
        let key = SigningKey::from_bytes(&bytes());
        key.verify(b"text", &key.sign(b"text")).is_ok() && key.verify(b"other", &key.sign(b"text")).is_err()
    }),
    ("p256", || {
        use p256::ecdsa::signature::{Signer, Verifier};
        use p256::ecdsa::{Signature, SigningKey};
        let Ok(key) = SigningKey::from_slice(&[7; 32]) else { return false };
        let signature: Signature = key.sign(b"text");
        key.verifying_key().verify(b"text", &signature).is_ok()
    }),
    ("x25519-dalek", || {
        let [one, other] = [bytes(), bytes()];
        let public = |secret: [u8; 32]| x25519_dalek::x25519(secret, x25519_dalek::X25519_BASEPOINT_BYTES);
        x25519_dalek::x25519(one, public(other)) == x25519_dalek::x25519(other, public(one))
    }),
];
