//! What a server is to serve, and to whom: the text of its configuration.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::name::Text;
use crate::tsig::{Algorithm, Key};
use crate::zonefile::text;

/// Bytes of an answer by UDP that pass everywhere without fragments (DNS flag day 2020).
const UDP_SIZE: u16 = 1232;
/// Answers of a kind that a network gets in a second, and each how many beyond is an empty one.
const RATE: (u32, u32) = (200, 2);
/// Most bytes of an NSID.
pub(crate) const MAX_NSID: usize = 64;
const MAX_TEXT: usize = 255;

/// Addresses with so many bits in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// Whether an address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - u32::from(self.len)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - u32::from(self.len)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// A zone, and who may do what with it.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ZoneConfig {
    /// Its file.
    pub file: String,
    /// Who may have all of it.
    pub transfer: Vec<Prefix>,
    /// The key that a transfer has to be signed with.
    pub key: Option<Rc<Key>>,
    /// Who is told when it has changed.
    pub notify: Vec<SocketAddr>,
    /// Whose notifications have it read again.
    pub notified_by: Vec<Prefix>,
}

/// A server's configuration.
///
/// # Examples
///
/// ```
/// use sarab_dns::Config;
///
/// let config = Config::parse(
///     "zone example.org example.zone transfer=192.0.2.0/24 notify=192.0.2.53\n\
///      zone 2.0.192.in-addr.arpa reverse.zone\n\
///      identity ns1.example.org\n\
///      ratelimit 500 slip=3\n",
/// )
/// .unwrap();
/// assert_eq!(config.zones.len(), 2);
/// let errors = Config::parse("zone example.org\nzoned\n").unwrap_err();
/// assert_eq!(errors[0], "line 1: zone: expected the zone's file: zone NAME FILE [transfer=…] [key=…] [notify=…] [notified-by=…]");
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Zones by their names, in wire format and lower case.
    pub zones: BTreeMap<Box<[u8]>, ZoneConfig>,
    /// What is said to `id.server` and `hostname.bind` (RFC 4892).
    pub identity: Option<String>,
    /// What is said to `version.server` and `version.bind`.
    pub version: Option<String>,
    /// What is sent to whom asks for it (RFC 5001).
    pub nsid: Option<String>,
    /// Most bytes of an answer by UDP.
    pub udp_size: u16,
    /// Answers of a kind that a network gets in a second, and each how many beyond is an empty one, or none with 0.
    pub rate: Option<(u32, u32)>,
    /// With which cookies are made: servers of one address have the same.
    pub cookie_secret: Option<[u8; 16]>,
    /// Whether cookies are made at all.
    pub cookies: bool,
    /// Whether each question is told.
    pub query_log: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            zones: BTreeMap::new(),
            identity: None,
            version: None,
            nsid: None,
            udp_size: UDP_SIZE,
            rate: Some(RATE),
            cookie_secret: None,
            cookies: true,
            query_log: false,
        }
    }
}

/// A name in wire format and lower case, from its text, with or without a dot at its end.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_name(text: &str) -> Result<Box<[u8]>, String> {
    let mut name = text::name(text.as_bytes(), &[0]).map_err(|bad| format!("`{text}`: {bad}"))?;
    name.make_ascii_lowercase();
    Ok(name.into_boxed_slice())
}

const ZONE: &str = "zone NAME FILE [transfer=…] [key=…] [notify=…] [notified-by=…]";
const KNOWN: &str = "zone, key, identity, version, nsid, udp, ratelimit, cookies, querylog";

impl Config {
    /// Reads a configuration: a line for each zone and each setting; `#` begins a comment.
    ///
    /// # Errors
    ///
    /// All that is wrong, with its lines.
    pub fn parse(text: &str) -> Result<Config, Vec<String>> {
        let mut config = Config::default();
        let (mut keys, mut errors) = (BTreeMap::new(), Vec::new());
        // Keys first, which zones name.
        for pass in [true, false] {
            for (index, line) in text.lines().enumerate() {
                let line = line.split('#').next().unwrap_or_default();
                let mut words = line.split_whitespace();
                let Some(first) = words.next() else { continue };
                if (first == "key") != pass {
                    continue;
                }
                let words: Vec<_> = words.collect();
                let outcome = match pass {
                    true => key(&words).map(|key| drop(keys.insert(key.name.clone(), Rc::new(key)))),
                    false => config.line(first, &words, &keys),
                };
                if let Err(error) = outcome {
                    errors.push((index, format!("line {}: {first}: {error}", index + 1)));
                }
            }
        }
        errors.sort();
        if errors.is_empty() { Ok(config) } else { Err(errors.into_iter().map(|(_, error)| error).collect()) }
    }

    fn line(&mut self, first: &str, words: &[&str], keys: &BTreeMap<Box<[u8]>, Rc<Key>>) -> Result<(), String> {
        let one = |what: &str| match words {
            [word] => Ok(word.to_string()),
            _ => Err(format!("expected {what}")),
        };
        let text = |what: &str, most: usize| match words.join(" ") {
            text if text.is_empty() || text.len() > most => Err(format!("expected {what} of 1 to {most} bytes")),
            text => Ok(text),
        };
        match first {
            "zone" => {
                let (name, zone) = zone(words, keys)?;
                if self.zones.insert(name.clone(), zone).is_some() {
                    return Err(format!("{} is there twice", Text(&name)));
                }
            }
            "identity" => self.identity = Some(text("a text", MAX_TEXT)?),
            "version" => self.version = Some(text("a text", MAX_TEXT)?),
            "nsid" => self.nsid = Some(text("a text", MAX_NSID)?),
            "udp" => {
                let size = one("a number of bytes")?.parse().ok().filter(|size| (512..=4096).contains(size));
                self.udp_size = size.ok_or("expected a number of bytes from 512 to 4096")?;
            }
            "ratelimit" => self.rate = rate(words)?,
            "cookies" => match &*one("`on`, `off`, or a secret of 32 hexadecimal digits")? {
                "on" => self.cookies = true,
                "off" => self.cookies = false,
                secret => {
                    let number = u128::from_str_radix(secret, 16).ok().filter(|_| secret.len() == 32);
                    let secret = number.ok_or("expected `on`, `off`, or a secret of 32 hexadecimal digits")?;
                    self.cookie_secret = Some(secret.to_be_bytes());
                }
            },
            "querylog" => {
                self.query_log = match &*one("`on` or `off`")? {
                    "on" => true,
                    "off" => false,
                    _ => return Err("expected `on` or `off`".into()),
                }
            }
            _ => return Err(format!("unknown; known are {KNOWN}")),
        }
        Ok(())
    }
}

fn rate(words: &[&str]) -> Result<Option<(u32, u32)>, String> {
    const EXPECTED: &str = "expected `off`, or answers in a second such as 200, perhaps with slip=2";
    let (rate, slip) = match words {
        ["off"] => return Ok(None),
        [rate] => (rate.parse().ok(), Some(RATE.1)),
        [rate, slip] => (rate.parse().ok(), slip.strip_prefix("slip=").and_then(|slip| slip.parse().ok())),
        _ => return Err(EXPECTED.into()),
    };
    match (rate, slip) {
        (Some(rate @ 1..), Some(slip @ 0..=10)) => Ok(Some((rate, slip))),
        _ => Err(EXPECTED.into()),
    }
}

fn key(words: &[&str]) -> Result<Key, String> {
    let [name, algorithm, secret] = words else {
        return Err("expected key NAME hmac-sha256 BASE64".into());
    };
    let algorithm = Algorithm::from_name(algorithm)
        .ok_or_else(|| format!("{algorithm}: unknown; known are hmac-sha1, hmac-sha256, hmac-sha384, hmac-sha512"))?;
    // What is wrong is not told: it is a secret.
    let secret = STANDARD.decode(secret).ok().filter(|secret| !secret.is_empty()).ok_or("the secret is no base64")?;
    Ok(Key { name: parse_name(name)?, algorithm, secret })
}

fn zone(words: &[&str], keys: &BTreeMap<Box<[u8]>, Rc<Key>>) -> Result<(Box<[u8]>, ZoneConfig), String> {
    let [name, file, options @ ..] = words else {
        return Err(format!("expected the zone's file: {ZONE}"));
    };
    let mut zone = ZoneConfig { file: file.to_string(), ..ZoneConfig::default() };
    for option in options {
        let (option, value) = option.split_once('=').ok_or_else(|| format!("{option}: expected {ZONE}"))?;
        match option {
            "transfer" => zone.transfer = list(value, prefix)?,
            "notified-by" => zone.notified_by = list(value, prefix)?,
            "notify" => zone.notify = list(value, target)?,
            "key" => {
                let key = keys.get(&parse_name(value)?);
                let key = key.ok_or_else(|| format!("key={value}: there is no line `key {value} …`"))?;
                zone.key = Some(key.clone());
            }
            _ => return Err(format!("{option}=: unknown: {ZONE}")),
        }
    }
    Ok((parse_name(name)?, zone))
}

fn list<T>(value: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    value.split(',').map(parse).collect()
}

fn prefix(text: &str) -> Result<Prefix, String> {
    let wrong = || format!("{text}: expected an address, or a network such as 192.0.2.0/24");
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let len = len.map_or(Ok(most), |len| len.parse().map_err(|_| wrong()))?;
    if len > most { Err(wrong()) } else { Ok(Prefix { address, len }) }
}

fn target(text: &str) -> Result<SocketAddr, String> {
    let whole = text.parse().ok();
    let target = whole.or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53)));
    target
        .ok_or_else(|| format!("{text}: expected an address, perhaps with a port: 192.0.2.53:5353, [2001:db8::1]:5353"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_they_say() {
        for (network, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("0.0.0.0/0", "255.1.1.1", "::1"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.0"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::/0", "2001::", "1.1.1.1"),
        ] {
            let network = prefix(network).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network:?}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?}");
        }
        assert!(prefix("192.0.2.0/33").is_err() && prefix("x").is_err() && prefix("::/129").is_err());
    }

    #[test]
    fn all_errors_are_told_with_their_lines() {
        let text = "zone a a.zone key=k\n\n# nothing\nkey k hmac-md5 AAAA\nratelimit 0\nudp 100\nzone b. b notify=1.2.3.4:x\nzone a a\n";
        let errors = Config::parse(text).unwrap_err();
        let lines: Vec<_> = errors.iter().map(|error| error.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["line 1", "line 4", "line 5", "line 6", "line 7"], "{errors:#?}");
    }
}
