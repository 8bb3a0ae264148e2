//! Signatures of messages with a shared key (RFC 8945).

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::fmt;

use domain::base::iana::{Rcode, TsigRcode};
use domain::base::message::Message;
use domain::base::name::{FlattenInto, Name, ParsedName};
use domain::base::record::ParsedRecord;
use domain::dep::octseq::Parser;
use domain::rdata::Tsig;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;

use crate::message::{Full, Section, Writer};
use crate::zone::rtype;

/// Seconds that clocks may be apart.
const FUDGE: u16 = 300;
/// The longest MAC.
const MAX_MAC: usize = 64;

/// How messages are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// HMAC with SHA-1.
    HmacSha1,
    /// HMAC with SHA-256.
    HmacSha256,
    /// HMAC with SHA-384.
    HmacSha384,
    /// HMAC with SHA-512.
    HmacSha512,
}

const NAMES: [(Algorithm, &str, &[u8]); 4] = [
    (Algorithm::HmacSha1, "hmac-sha1", b"\x09hmac-sha1\0"),
    (Algorithm::HmacSha256, "hmac-sha256", b"\x0bhmac-sha256\0"),
    (Algorithm::HmacSha384, "hmac-sha384", b"\x0bhmac-sha384\0"),
    (Algorithm::HmacSha512, "hmac-sha512", b"\x0bhmac-sha512\0"),
];

impl Algorithm {
    pub(crate) fn from_name(name: &str) -> Option<Algorithm> {
        NAMES.iter().find(|(_, known, _)| *known == name).map(|(algorithm, ..)| *algorithm)
    }

    fn wire(self) -> &'static [u8] {
        NAMES.iter().find(|(known, ..)| *known == self).map_or(b"\0", |(_, _, wire)| wire)
    }
}

/// A shared key.
#[derive(Clone)]
pub struct Key {
    /// In wire format and lower case.
    pub(crate) name: Box<[u8]>,
    pub(crate) algorithm: Algorithm,
    pub(crate) secret: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} {:?})", crate::name::Text(&self.name), self.algorithm)
    }
}

type Bytes = heapless::Vec<u8, MAX_MAC>;

impl Key {
    fn mac(&self, parts: &[&[u8]]) -> Bytes {
        fn run<M: Mac + KeyInit>(secret: &[u8], parts: &[&[u8]]) -> Bytes {
            let mut mac = <M as KeyInit>::new_from_slice(secret).expect("a key of HMAC has any length");
            parts.iter().for_each(|part| mac.update(part));
            let mut bytes = Bytes::new();
            // None is longer.
            let _ = bytes.extend_from_slice(&mac.finalize().into_bytes());
            bytes
        }
        match self.algorithm {
            Algorithm::HmacSha1 => run::<Hmac<Sha1>>(&self.secret, parts),
            Algorithm::HmacSha256 => run::<Hmac<Sha256>>(&self.secret, parts),
            Algorithm::HmacSha384 => run::<Hmac<Sha384>>(&self.secret, parts),
            Algorithm::HmacSha512 => run::<Hmac<Sha512>>(&self.secret, parts),
        }
    }
}

/// A message that was signed by somebody who has the key; and what answers to it are signed with.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    pub key: Rc<Key>,
    /// Of the message before.
    mac: Bytes,
    original_id: u16,
    is_first: bool,
}

/// A signature that is none, with what its sender is told.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub rcode: Rcode,
    error: TsigRcode,
    name: Name<Vec<u8>>,
    algorithm: Name<Vec<u8>>,
    time: [u8; 6],
    original_id: u16,
    /// Of a signature that is right, but of another time.
    signed: Option<Signed>,
}

/// Checks the signature that begins at `at`.
pub(crate) fn verify(bytes: &[u8], at: usize, keys: &[Rc<Key>], now: u64) -> Result<Signed, Option<Box<Rejected>>> {
    let message = Message::from_slice(bytes).map_err(|_| None)?;
    let mut parser = Parser::from_ref(bytes);
    parser.advance(at).map_err(|_| None)?;
    let record = ParsedRecord::parse(&mut parser).map_err(|_| None)?;
    let name: ParsedName<_> = record.owner();
    let name: Name<Vec<u8>> = name.try_flatten_into().map_err(|_| None)?;
    let tsig = record.to_record::<Tsig<_, ParsedName<_>>>().map_err(|_| None)?.ok_or(None)?;
    let tsig: &Tsig<&[u8], ParsedName<&[u8]>> = tsig.data();
    let algorithm: Name<Vec<u8>> = tsig.algorithm().try_flatten_into().map_err(|_| None)?;
    let time = tsig.time_signed().into_octets();
    let reject = |error, signed| {
        let rejected = Rejected {
            rcode: Rcode::NOTAUTH,
            error,
            name: name.clone(),
            algorithm: algorithm.clone(),
            time,
            original_id: tsig.original_id(),
            signed,
        };
        Err(Some(Box::new(rejected)))
    };
    let lower = |name: &Name<Vec<u8>>| name.as_slice().to_ascii_lowercase();
    let (own, kind) = (lower(&name), lower(&algorithm));
    let Some(key) = keys.iter().find(|key| *key.name == *own && key.algorithm.wire() == &*kind) else {
        return reject(TsigRcode::BADKEY, None);
    };
    let mut header = [0; 12];
    header.copy_from_slice(&bytes[..12]);
    header[..2].copy_from_slice(&tsig.original_id().to_be_bytes());
    header[10..12].copy_from_slice(&message.header_counts().arcount().saturating_sub(1).to_be_bytes());
    let variables = variables(key, &time, tsig.fudge(), tsig.error().to_int(), tsig.other());
    let mac = key.mac(&[&header, &bytes[12..at], &variables]);
    // MACs that were cut are not taken (RFC 8945, section 5.2.2.1, allows that).
    if !bool::from(mac.as_slice().ct_eq(tsig.mac_slice())) {
        return reject(TsigRcode::BADSIG, None);
    }
    let signed = Signed { key: key.clone(), mac, original_id: tsig.original_id(), is_first: true };
    let then = time.iter().fold(0u64, |time, byte| time << 8 | u64::from(*byte));
    if then.abs_diff(now) > u64::from(tsig.fudge()) {
        return reject(TsigRcode::BADTIME, Some(signed));
    }
    Ok(signed)
}

/// What is signed of the signature itself (section 4.3.3).
fn variables(key: &Key, time: &[u8; 6], fudge: u16, error: u16, other: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + key.name.len());
    bytes.extend_from_slice(&key.name);
    bytes.extend_from_slice(&[0, 255, 0, 0, 0, 0]);
    bytes.extend_from_slice(key.algorithm.wire());
    bytes.extend_from_slice(time);
    bytes.extend_from_slice(&fudge.to_be_bytes());
    bytes.extend_from_slice(&error.to_be_bytes());
    bytes.extend_from_slice(&(other.len() as u16).to_be_bytes());
    bytes.extend_from_slice(other);
    bytes
}

/// Seconds since 1970 as the record has them.
fn time_of(now: u64) -> [u8; 6] {
    let mut time = [0; 6];
    time.copy_from_slice(&now.to_be_bytes()[2..]);
    time
}

struct Fields<'a> {
    name: &'a [u8],
    algorithm: &'a [u8],
    time: [u8; 6],
    mac: &'a [u8],
    original_id: u16,
    error: u16,
    other: &'a [u8],
}

fn append(writer: &mut Writer<'_>, fields: &Fields<'_>) -> Result<(), Full> {
    let mut record = Vec::with_capacity(128 + fields.name.len());
    record.extend_from_slice(fields.name);
    record.extend_from_slice(&rtype::TSIG.to_be_bytes());
    record.extend_from_slice(&[0, 255, 0, 0, 0, 0]);
    let len = fields.algorithm.len() + 6 + 2 + 2 + fields.mac.len() + 6 + fields.other.len();
    record.extend_from_slice(&(len as u16).to_be_bytes());
    record.extend_from_slice(fields.algorithm);
    record.extend_from_slice(&fields.time);
    record.extend_from_slice(&FUDGE.to_be_bytes());
    record.extend_from_slice(&(fields.mac.len() as u16).to_be_bytes());
    record.extend_from_slice(fields.mac);
    record.extend_from_slice(&fields.original_id.to_be_bytes());
    record.extend_from_slice(&fields.error.to_be_bytes());
    record.extend_from_slice(&(fields.other.len() as u16).to_be_bytes());
    record.extend_from_slice(fields.other);
    writer.raw(Section::Additional, &record)
}

impl Signed {
    /// Bytes that a signature takes.
    pub fn room(&self) -> usize {
        self.key.name.len() + self.key.algorithm.wire().len() + MAX_MAC + 10 + 16 + 6
    }

    /// Signs an answer whose header is filled in, or the next message of a transfer (section 5.3.1).
    pub fn sign(&mut self, writer: &mut Writer<'_>, now: u64) -> Result<(), Full> {
        self.sign_with(writer, time_of(now), 0, &[])
    }

    fn sign_with(&mut self, writer: &mut Writer<'_>, time: [u8; 6], error: u16, other: &[u8]) -> Result<(), Full> {
        let before = (self.mac.len() as u16).to_be_bytes();
        let timers = [&time[..], &FUDGE.to_be_bytes()].concat();
        let variables = match self.is_first {
            true => variables(&self.key, &time, FUDGE, error, other),
            false => timers,
        };
        let mac = self.key.mac(&[&before, &self.mac, writer.bytes(), &variables]);
        self.mac = mac;
        self.is_first = false;
        let algorithm = self.key.algorithm.wire();
        let (name, mac, original_id) = (&*self.key.name, &*self.mac, self.original_id);
        append(writer, &Fields { name, algorithm, time, mac, original_id, error, other })
    }
}

impl Rejected {
    /// Bytes that it takes.
    pub fn room(&self) -> usize {
        self.name.len() + self.algorithm.len() + MAX_MAC + 10 + 16 + 6
    }

    /// Says why: without a signature, except where the time alone is wrong (section 5.2).
    pub fn append(self, writer: &mut Writer<'_>, now: u64) -> Result<(), Full> {
        let error = self.error.to_int();
        if let Some(mut signed) = self.signed {
            return signed.sign_with(writer, self.time, error, &time_of(now));
        }
        let (name, algorithm) = (self.name.as_slice(), self.algorithm.as_slice());
        let (time, original_id) = (self.time, self.original_id);
        append(writer, &Fields { name, algorithm, time, mac: &[], original_id, error, other: &[] })
    }
}
