//! TLS 1.2: suites with forward secrecy and authenticated encryption alone, and the protection of records (RFC 5288, RFC 7905).

use alloc::boxed::Box;
use core::marker::PhantomData;

use aes_gcm::{Aes128Gcm, Aes256Gcm};
use chacha20poly1305::ChaCha20Poly1305;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, KeyBlockShape, MessageDecrypter, MessageEncrypter, Nonce,
    OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls12AeadAlgorithm, UnsupportedOperationError,
    make_tls12_aad,
};
use rustls::crypto::hash::Hash;
use rustls::crypto::tls12::{Prf, PrfUsingHmac};
use rustls::crypto::{CipherSuiteCommon, KeyExchangeAlgorithm};
use rustls::{CipherSuite, ConnectionTrafficSecrets, Error, SignatureScheme, SupportedCipherSuite, Tls12CipherSuite};

use super::aead::{Cipher, TAG, split_tag};
use super::hash;
use super::tls13::GCM_RECORDS;

const ECDSA: &[SignatureScheme] =
    &[SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ECDSA_NISTP256_SHA256];
const RSA: &[SignatureScheme] = &[
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA512,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA256,
];

const SHA256: (&dyn Hash, &dyn Prf) = (&hash::SHA256, &PrfUsingHmac(&hash::HMAC_SHA256));
const SHA384: (&dyn Hash, &dyn Prf) = (&hash::SHA384, &PrfUsingHmac(&hash::HMAC_SHA384));

const AES_128: (&dyn Tls12AeadAlgorithm, u64) = (&Gcm::<Aes128Gcm>(PhantomData), GCM_RECORDS);
const AES_256: (&dyn Tls12AeadAlgorithm, u64) = (&Gcm::<Aes256Gcm>(PhantomData), GCM_RECORDS);
const CHACHA20: (&dyn Tls12AeadAlgorithm, u64) = (&ChaCha, u64::MAX);

macro_rules! suites {
    ($($name:ident = $suite:ident, $sign:ident, $aead:ident, $hash:ident;)*) => {$(
        pub(super) static $name: SupportedCipherSuite = SupportedCipherSuite::Tls12(&Tls12CipherSuite {
            common: CipherSuiteCommon {
                suite: CipherSuite::$suite,
                hash_provider: $hash.0,
                confidentiality_limit: $aead.1,
            },
            kx: KeyExchangeAlgorithm::ECDHE,
            sign: $sign,
            aead_alg: $aead.0,
            prf_provider: $hash.1,
        });
    )*};
}

suites! {
    ECDSA_AES_128_GCM_SHA256 = TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, ECDSA, AES_128, SHA256;
    ECDSA_AES_256_GCM_SHA384 = TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, ECDSA, AES_256, SHA384;
    ECDSA_CHACHA20_POLY1305_SHA256 = TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, ECDSA, CHACHA20, SHA256;
    RSA_AES_128_GCM_SHA256 = TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, RSA, AES_128, SHA256;
    RSA_AES_256_GCM_SHA384 = TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, RSA, AES_256, SHA384;
    RSA_CHACHA20_POLY1305_SHA256 = TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, RSA, CHACHA20, SHA256;
}

/// Longest plaintext of a record (RFC 5246 section 6.2.1).
const MAX_PLAINTEXT: usize = 1 << 14;
/// The part of AES-GCM's nonce that is the key's, and the part that each record carries (RFC 5288 section 3).
const SALT: usize = 4;
const EXPLICIT: usize = 8;

struct Gcm<C>(PhantomData<C>);

impl<C: Cipher> Tls12AeadAlgorithm for Gcm<C> {
    fn encrypter(&self, key: AeadKey, salt: &[u8], explicit: &[u8]) -> Box<dyn MessageEncrypter> {
        Box::new(GcmEncrypter { cipher: C::new(&key), iv: gcm_iv(salt, explicit) })
    }

    fn decrypter(&self, key: AeadKey, salt: &[u8]) -> Box<dyn MessageDecrypter> {
        let salt = salt.try_into().expect("rustls keeps to the length of the salt");
        Box::new(GcmDecrypter { cipher: C::new(&key), salt })
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        KeyBlockShape { enc_key_len: C::KEY, fixed_iv_len: SALT, explicit_nonce_len: EXPLICIT }
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        salt: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(C::secrets(key, gcm_iv(salt, explicit)))
    }
}

fn gcm_iv(salt: &[u8], explicit: &[u8]) -> Iv {
    let mut iv = [0; SALT + EXPLICIT];
    iv[..SALT].copy_from_slice(salt);
    iv[SALT..].copy_from_slice(explicit);
    Iv::new(iv)
}

struct GcmEncrypter<C> {
    cipher: C,
    iv: Iv,
}

impl<C: Cipher> MessageEncrypter for GcmEncrypter<C> {
    fn encrypt(&mut self, message: OutboundPlainMessage<'_>, sequence: u64) -> Result<OutboundOpaqueMessage, Error> {
        let mut payload = PrefixedPayload::with_capacity(self.encrypted_payload_len(message.payload.len()));
        let nonce = Nonce::new(&self.iv, sequence).0;
        let aad = make_tls12_aad(sequence, message.typ, message.version, message.payload.len());
        payload.extend_from_slice(&nonce[SALT..]);
        payload.extend_from_chunks(&message.payload);
        let tag = self.cipher.seal(nonce, &aad, &mut payload.as_mut()[EXPLICIT..]).ok_or(Error::EncryptError)?;
        payload.extend_from_slice(&tag);
        Ok(OutboundOpaqueMessage::new(message.typ, message.version, payload))
    }

    fn encrypted_payload_len(&self, len: usize) -> usize {
        EXPLICIT + len + TAG
    }
}

struct GcmDecrypter<C> {
    cipher: C,
    salt: [u8; SALT],
}

impl<C: Cipher> MessageDecrypter for GcmDecrypter<C> {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let (typ, version) = (message.typ, message.version);
        let (explicit, sealed) = message.payload.split_at_mut_checked(EXPLICIT).ok_or(Error::DecryptError)?;
        let (data, tag) = split_tag(sealed).ok_or(Error::DecryptError)?;
        let mut nonce = [0; SALT + EXPLICIT];
        nonce[..SALT].copy_from_slice(&self.salt);
        nonce[SALT..].copy_from_slice(explicit);
        let len = data.len();
        if !self.cipher.open(nonce, &make_tls12_aad(sequence, typ, version, len), data, tag) {
            return Err(Error::DecryptError);
        }
        if len > MAX_PLAINTEXT {
            return Err(Error::PeerSentOversizedRecord);
        }
        message.payload.copy_within(EXPLICIT..EXPLICIT + len, 0);
        message.payload.truncate(len);
        Ok(message.into_plain_message())
    }
}

struct ChaCha;

impl Tls12AeadAlgorithm for ChaCha {
    fn encrypter(&self, key: AeadKey, iv: &[u8], _explicit: &[u8]) -> Box<dyn MessageEncrypter> {
        Box::new(ChaChaRecords { cipher: Cipher::new(&key), iv: Iv::copy(iv) })
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        Box::new(ChaChaRecords { cipher: Cipher::new(&key), iv: Iv::copy(iv) })
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        KeyBlockShape { enc_key_len: ChaCha20Poly1305::KEY, fixed_iv_len: SALT + EXPLICIT, explicit_nonce_len: 0 }
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        _explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(ChaCha20Poly1305::secrets(key, Iv::copy(iv)))
    }
}

struct ChaChaRecords {
    cipher: ChaCha20Poly1305,
    iv: Iv,
}

impl MessageEncrypter for ChaChaRecords {
    fn encrypt(&mut self, message: OutboundPlainMessage<'_>, sequence: u64) -> Result<OutboundOpaqueMessage, Error> {
        let mut payload = PrefixedPayload::with_capacity(self.encrypted_payload_len(message.payload.len()));
        let nonce = Nonce::new(&self.iv, sequence).0;
        let aad = make_tls12_aad(sequence, message.typ, message.version, message.payload.len());
        payload.extend_from_chunks(&message.payload);
        let tag = self.cipher.seal(nonce, &aad, payload.as_mut()).ok_or(Error::EncryptError)?;
        payload.extend_from_slice(&tag);
        Ok(OutboundOpaqueMessage::new(message.typ, message.version, payload))
    }

    fn encrypted_payload_len(&self, len: usize) -> usize {
        len + TAG
    }
}

impl MessageDecrypter for ChaChaRecords {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let (typ, version) = (message.typ, message.version);
        let nonce = Nonce::new(&self.iv, sequence).0;
        let (data, tag) = split_tag(&mut message.payload).ok_or(Error::DecryptError)?;
        let len = data.len();
        if !self.cipher.open(nonce, &make_tls12_aad(sequence, typ, version, len), data, tag) {
            return Err(Error::DecryptError);
        }
        if len > MAX_PLAINTEXT {
            return Err(Error::PeerSentOversizedRecord);
        }
        message.payload.truncate(len);
        Ok(message.into_plain_message())
    }
}
