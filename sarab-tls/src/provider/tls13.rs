//! TLS 1.3: suites, and the protection of records (RFC 8446 section 5.2).

use alloc::boxed::Box;
use core::marker::PhantomData;

use aes_gcm::{Aes128Gcm, Aes256Gcm};
use chacha20poly1305::ChaCha20Poly1305;
use rustls::crypto::CipherSuiteCommon;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter, Nonce,
    OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm, UnsupportedOperationError,
    make_tls13_aad,
};
use rustls::crypto::tls13::HkdfUsingHmac;
use rustls::{
    CipherSuite, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite, Tls13CipherSuite,
};

use super::aead::{Cipher, TAG, split_tag};
use super::hash;

/// Records with one key of AES-GCM (RFC 8446 section 5.5: 2^24.5). For ChaCha20 there is no limit that matters.
pub(super) const GCM_RECORDS: u64 = 1 << 24;

pub(super) static AES_128_GCM_SHA256: SupportedCipherSuite = SupportedCipherSuite::Tls13(&Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_AES_128_GCM_SHA256,
        hash_provider: &hash::SHA256,
        confidentiality_limit: GCM_RECORDS,
    },
    hkdf_provider: &HkdfUsingHmac(&hash::HMAC_SHA256),
    aead_alg: &Aead::<Aes128Gcm>(PhantomData),
    quic: None,
});

pub(super) static AES_256_GCM_SHA384: SupportedCipherSuite = SupportedCipherSuite::Tls13(&Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_AES_256_GCM_SHA384,
        hash_provider: &hash::SHA384,
        confidentiality_limit: GCM_RECORDS,
    },
    hkdf_provider: &HkdfUsingHmac(&hash::HMAC_SHA384),
    aead_alg: &Aead::<Aes256Gcm>(PhantomData),
    quic: None,
});

pub(super) static CHACHA20_POLY1305_SHA256: SupportedCipherSuite = SupportedCipherSuite::Tls13(&Tls13CipherSuite {
    common: CipherSuiteCommon {
        suite: CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        hash_provider: &hash::SHA256,
        confidentiality_limit: u64::MAX,
    },
    hkdf_provider: &HkdfUsingHmac(&hash::HMAC_SHA256),
    aead_alg: &Aead::<ChaCha20Poly1305>(PhantomData),
    quic: None,
});

struct Aead<C>(PhantomData<C>);

impl<C: Cipher> Tls13AeadAlgorithm for Aead<C> {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Records { cipher: C::new(&key), iv })
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Records { cipher: C::new(&key), iv })
    }

    fn key_len(&self) -> usize {
        C::KEY
    }

    fn extract_keys(&self, key: AeadKey, iv: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Ok(C::secrets(key, iv))
    }
}

struct Records<C> {
    cipher: C,
    iv: Iv,
}

impl<C: Cipher> MessageEncrypter for Records<C> {
    fn encrypt(&mut self, message: OutboundPlainMessage<'_>, sequence: u64) -> Result<OutboundOpaqueMessage, Error> {
        let len = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(len);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&message.typ.to_array());
        let (nonce, aad) = (Nonce::new(&self.iv, sequence).0, make_tls13_aad(len));
        let tag = self.cipher.seal(nonce, &aad, payload.as_mut()).ok_or(Error::EncryptError)?;
        payload.extend_from_slice(&tag);
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload))
    }

    fn encrypted_payload_len(&self, len: usize) -> usize {
        len + 1 + TAG
    }
}

impl<C: Cipher> MessageDecrypter for Records<C> {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        sequence: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let (nonce, aad) = (Nonce::new(&self.iv, sequence).0, make_tls13_aad(message.payload.len()));
        let (data, tag) = split_tag(&mut message.payload).ok_or(Error::DecryptError)?;
        let len = data.len();
        if !self.cipher.open(nonce, &aad, data, tag) {
            return Err(Error::DecryptError);
        }
        message.payload.truncate(len);
        message.into_tls13_unpadded_message()
    }
}
