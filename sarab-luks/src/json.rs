//! Fields of the metadata, which is JSON; numbers of 64 bits are strings there.

use alloc::vec::Vec;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::error::Error;

/// The most bytes of a salt or a digest.
const MAX_BYTES: usize = 256;

/// An object, and where it is for errors.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    name: &'static str,
    fields: &'a Map<alloc::string::String, Value>,
}

impl<'a> Object<'a> {
    /// All of the metadata.
    pub(crate) fn root(value: &'a Value) -> Result<Object<'a>, Error> {
        let name = "the JSON area";
        let fields = value.as_object().ok_or(Error::Metadata { object: name, problem: "no object" })?;
        Ok(Object { name, fields })
    }

    /// One of the objects that all of the metadata is made of.
    pub(crate) fn part(self, name: &'static str) -> Result<Object<'a>, Error> {
        let problem = "there is none";
        let value = self.fields.get(name).ok_or(Error::Metadata { object: name, problem })?;
        Object { name, ..self }.of(value)
    }

    fn of(self, value: &'a Value) -> Result<Object<'a>, Error> {
        let fields = value.as_object().ok_or(self.wrong("no object where one should be"))?;
        Ok(Object { fields, ..self })
    }

    pub(crate) fn wrong(self, problem: &'static str) -> Error {
        Error::Metadata { object: self.name, problem }
    }

    pub(crate) fn is_empty(self) -> bool {
        self.fields.is_empty()
    }

    pub(crate) fn get(self, key: &str) -> Option<&'a Value> {
        self.fields.get(key)
    }

    pub(crate) fn object(self, key: &str, missing: &'static str) -> Result<Object<'a>, Error> {
        self.of(self.get(key).ok_or(self.wrong(missing))?)
    }

    /// All fields as objects.
    pub(crate) fn objects(self) -> impl Iterator<Item = Result<(&'a str, Object<'a>), Error>> {
        self.fields.iter().map(move |(key, value)| Ok((key.as_str(), self.of(value)?)))
    }

    pub(crate) fn str(self, key: &str, missing: &'static str) -> Result<&'a str, Error> {
        self.get(key).and_then(Value::as_str).ok_or(self.wrong(missing))
    }

    /// A number of up to 32 bits.
    pub(crate) fn u32(self, key: &str, missing: &'static str) -> Result<u32, Error> {
        let number = self.get(key).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
        number.ok_or(self.wrong(missing))
    }

    /// A number of 64 bits, written as a string.
    pub(crate) fn u64(self, key: &str, missing: &'static str) -> Result<u64, Error> {
        let text = self.str(key, missing)?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits).ok_or(self.wrong(missing))
    }

    /// Bytes, in base64.
    pub(crate) fn bytes(self, key: &str, missing: &'static str) -> Result<Vec<u8>, Error> {
        let text = self.str(key, missing)?;
        if text.len() > MAX_BYTES.div_ceil(3) * 4 {
            return Err(self.wrong(missing));
        }
        STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty()).ok_or(self.wrong(missing))
    }

    /// A list of strings.
    pub(crate) fn strings(self, key: &str, missing: &'static str) -> Result<Vec<&'a str>, Error> {
        let list = self.get(key).and_then(Value::as_array).ok_or(self.wrong(missing))?;
        list.iter().map(|value| value.as_str().ok_or(self.wrong(missing))).collect()
    }
}

pub(crate) fn encode(bytes: &[u8]) -> alloc::string::String {
    STANDARD.encode(bytes)
}
