//! Certificates and keys, from PEM, and which one a client gets.

use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use pki_types::pem::{self, PemObject};
use pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::ConfigError;
use crate::provider::provider;

/// Certificates of one server, and in a chain.
const MAX_CERTIFICATES: usize = 64;

/// A server's certificates with their keys. A client gets the first one that is valid for the name that it asks for (SNI), wildcards
/// included, and whose key it can use; without a name, or for a name that no certificate has, it gets the first whose key it can
/// use.
///
/// # Examples
///
/// ```no_run
/// # fn f(pem: &[u8], chain: &[u8], key: &[u8]) -> Result<(), sarab_tls::ConfigError> {
/// use sarab_tls::Certificates;
///
/// // Certificates and key in one file, then in two.
/// let certificates = Certificates::new().with_pem(pem, pem)?.with_pem(chain, key)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Certificates {
    list: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    /// None so far.
    pub fn new() -> Certificates {
        Certificates::default()
    }

    /// Adds a certificate and its key. `chain` is PEM text: the server's certificate, then those between it and the root. `key` is
    /// PEM text with its private key, which may be the same text: ECDSA with P-256 or P-384, Ed25519, or RSA of 2048 to 8192
    /// bits, as PKCS#8, SEC1 or PKCS#1.
    ///
    /// # Errors
    ///
    /// Where there is no certificate or no key in the text, they cannot be read, or do not belong together.
    pub fn with_pem(self, chain: &[u8], key: &[u8]) -> Result<Certificates, ConfigError> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound => ConfigError::NoKey,
            error => ConfigError::Pem(error.to_string()),
        })?;
        self.with(chain, Some(key))
    }

    /// Adds all certificates and keys of one PEM text: each certificate with those between it and the root, and its key before or behind
    /// them.
    ///
    /// # Errors
    ///
    /// As [`with_pem`](Certificates::with_pem), for the first pair that cannot be used.
    pub fn with_bundle(mut self, text: &[u8]) -> Result<Certificates, ConfigError> {
        let (mut chain, mut key) = (Vec::new(), None);
        let mut key_was_last = false;
        for item in <(pem::SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let (kind, der) = item.map_err(|error| ConfigError::Pem(error.to_string()))?;
            let new_key = PrivateKeyDer::from_pem(kind, der.clone());
            if kind != pem::SectionKind::Certificate && new_key.is_none() {
                // Parameters of curves, requests: not of interest.
                continue;
            }
            let complete = key.is_some() && !chain.is_empty() && (new_key.is_some() || key_was_last);
            if complete {
                self = self.with(core::mem::take(&mut chain), key.take())?;
            } else if new_key.is_some() && key.is_some() {
                return Err(ConfigError::NoCertificate);
            }
            key_was_last = new_key.is_some();
            match new_key {
                Some(new) => key = Some(new),
                None => chain.push(CertificateDer::from(der)),
            }
        }
        self.with(chain, key)
    }

    fn with(
        mut self,
        chain: Vec<CertificateDer<'static>>,
        key: Option<PrivateKeyDer<'static>>,
    ) -> Result<Certificates, ConfigError> {
        if self.list.len() == MAX_CERTIFICATES {
            return Err(ConfigError::TooMany(MAX_CERTIFICATES));
        }
        if chain.is_empty() {
            return Err(ConfigError::NoCertificate);
        }
        let key = key.ok_or(ConfigError::NoKey)?;
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(ConfigError::Unusable)?;
        self.list.push(Arc::new(certified));
        Ok(self)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The names in each certificate, for a log: DNS names alone.
    pub fn names(&self) -> Vec<alloc::string::String> {
        let mut names = Vec::new();
        for certified in &self.list {
            if let Some(Ok(certificate)) = certified.cert.first().map(webpki::EndEntityCert::try_from) {
                names.extend(certificate.valid_dns_names().map(ToString::to_string));
            }
        }
        names
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificates").field(&self.list.len()).finish()
    }
}

/// The certificates of a PEM text, at least one.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text) {
        found.push(certificate.map_err(|error| ConfigError::Pem(error.to_string()))?);
    }
    match found.is_empty() {
        true => Err(ConfigError::NoCertificate),
        false => Ok(found),
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |certified: &&Arc<CertifiedKey>| certified.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = hello.server_name().and_then(|name| {
            let name = ServerName::try_from(name).ok()?;
            self.list.iter().filter(usable).find(|certified| {
                let certificate = certified.cert.first().map(webpki::EndEntityCert::try_from);
                matches!(certificate, Some(Ok(certificate)) if certificate.verify_is_valid_for_subject_name(&name).is_ok())
            })
        });
        named.or_else(|| self.list.iter().find(usable)).cloned()
    }
}

/// The provider, behind the pointer that rustls takes.
pub(crate) fn shared_provider() -> Arc<CryptoProvider> {
    Arc::new(provider())
}
