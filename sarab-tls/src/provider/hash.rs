//! Hashes and HMAC.

use alloc::boxed::Box;
use core::marker::PhantomData;

use hmac::digest::Digest;
use hmac::{Hmac, KeyInit, Mac};
use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};
use rustls::crypto::hmac::{Hmac as RustlsHmac, Key, Tag};
use sha2::{Sha256, Sha384};

pub(super) static SHA256: Of<Sha256> = Of(HashAlgorithm::SHA256, PhantomData);
pub(super) static SHA384: Of<Sha384> = Of(HashAlgorithm::SHA384, PhantomData);
pub(super) static HMAC_SHA256: OfHmac<Hmac<Sha256>> = OfHmac(32, PhantomData);
pub(super) static HMAC_SHA384: OfHmac<Hmac<Sha384>> = OfHmac(48, PhantomData);

/// A hash.
pub(super) struct Of<D>(HashAlgorithm, PhantomData<D>);

impl<D: Digest + Clone + Send + Sync + 'static> Hash for Of<D> {
    fn start(&self) -> Box<dyn Context> {
        Box::new(Started(D::new()))
    }

    fn hash(&self, data: &[u8]) -> Output {
        Output::new(&D::digest(data))
    }

    fn output_len(&self) -> usize {
        <D as Digest>::output_size()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0
    }
}

struct Started<D>(D);

impl<D: Digest + Clone + Send + Sync + 'static> Context for Started<D> {
    fn fork_finish(&self) -> Output {
        Output::new(&self.0.clone().finalize())
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Started(self.0.clone()))
    }

    fn finish(self: Box<Self>) -> Output {
        Output::new(&self.0.finalize())
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }
}

/// HMAC with a hash of so many bytes.
pub(super) struct OfHmac<M>(usize, PhantomData<M>);

impl<M: Mac + KeyInit + Clone + Send + Sync + 'static> RustlsHmac for OfHmac<M> {
    fn with_key(&self, key: &[u8]) -> Box<dyn Key> {
        Box::new(Keyed(<M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length")))
    }

    fn hash_output_len(&self) -> usize {
        self.0
    }
}

struct Keyed<M>(M);

impl<M: Mac + Clone + Send + Sync> Key for Keyed<M> {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> Tag {
        let mut mac = self.0.clone();
        mac.update(first);
        middle.iter().for_each(|part| mac.update(part));
        mac.update(last);
        Tag::new(&mac.finalize().into_bytes())
    }

    fn tag_len(&self) -> usize {
        M::output_size()
    }
}
