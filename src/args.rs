//! The command line: arguments, most of them `key=value`.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

/// The arguments of a command line.
///
/// An argument is `key=value`, or a key alone. A value in double quotes may hold spaces: `motd="good morning"`. Where a key
/// comes twice, the last one counts.
///
/// ```
/// # use sarab::{ArgError, Args, Size};
/// # use core::time::Duration;
/// # fn main() -> Result<(), ArgError> {
/// let args = Args::new(b"count=3 pause=1.5s cache=16M verbose motd=\"good morning\"");
/// assert_eq!(args.get::<u32>("count")?, Some(3));
/// assert_eq!(args.get::<Duration>("pause")?, Some(Duration::from_millis(1500)));
/// assert_eq!(args.get::<Size>("cache")?, Some(Size(16 << 20)));
/// assert_eq!(args.get_or("retries", 5)?, 5);
/// assert_eq!(args.get::<bool>("verbose")?, Some(true));
/// assert_eq!(args.get::<&str>("motd")?, Some("good morning"));
/// let error = Args::new(b"count=many").get::<u32>("count").unwrap_err();
/// assert_eq!(error.to_string(), "command line: `count=many`: expected a number");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Args {
    line: &'static [u8],
}

impl Args {
    /// Takes a command line apart; nothing is checked before it is asked for.
    pub const fn new(line: &'static [u8]) -> Args {
        Args { line }
    }

    /// The whole line, as far as it is UTF-8.
    pub fn as_str(&self) -> &'static str {
        match core::str::from_utf8(self.line) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&self.line[..error.valid_up_to()]).unwrap_or_default(),
        }
    }

    /// Keys and values in order; an argument without `=` has no value.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Option<&'static str>)> + use<> {
        Arguments { rest: self.as_str() }
    }

    fn find(&self, key: &str) -> Option<(&'static str, Option<&'static str>)> {
        self.iter().filter(|(found, _)| *found == key).last()
    }

    /// The value of `key`, `None` where it is not given.
    ///
    /// # Errors
    ///
    /// Where the value is not of the type that is asked for; the error names the argument.
    pub fn get<T: FromArg>(&self, key: &str) -> Result<Option<T>, ArgError> {
        let Some((key, value)) = self.find(key) else { return Ok(None) };
        match T::from_arg(value) {
            Some(value) => Ok(Some(value)),
            None => Err(ArgError { key, value, kind: Kind::Expected(T::EXPECTED) }),
        }
    }

    /// The value of `key`, or `default` where it is not given.
    ///
    /// # Errors
    ///
    /// As [`get`](Args::get).
    pub fn get_or<T: FromArg>(&self, key: &str, default: T) -> Result<T, ArgError> {
        Ok(self.get(key)?.unwrap_or(default))
    }

    /// The value of `key`.
    ///
    /// # Errors
    ///
    /// Where it is not given, and as [`get`](Args::get).
    pub fn require<T: FromArg>(&self, key: &'static str) -> Result<T, ArgError> {
        self.get(key)?.ok_or(ArgError { key, value: None, kind: Kind::Missing(T::EXPECTED) })
    }

    /// The value of `key`, which is one of `choices`.
    ///
    /// # Errors
    ///
    /// Where it is another; the error lists the choices.
    ///
    /// # Examples
    ///
    /// ```
    /// use sarab::Args;
    ///
    /// let args = Args::new(b"mode=fast");
    /// assert_eq!(args.choice("mode", &["fast", "safe"])?, Some("fast"));
    /// assert!(args.choice("mode", &["slow"]).is_err());
    /// # Ok::<(), sarab::ArgError>(())
    /// ```
    pub fn choice(&self, key: &str, choices: &'static [&'static str]) -> Result<Option<&'static str>, ArgError> {
        let Some((key, value)) = self.find(key) else { return Ok(None) };
        match choices.iter().find(|choice| Some(**choice) == value) {
            Some(choice) => Ok(Some(choice)),
            None => Err(ArgError { key, value, kind: Kind::Choices(choices) }),
        }
    }

    /// Checks that no other keys than `known` are given: a mistyped key should not be ignored.
    ///
    /// # Errors
    ///
    /// Names the first unknown argument and the known ones. A command line that is not UTF-8 is an error too.
    ///
    /// # Examples
    ///
    /// ```
    /// use sarab::Args;
    ///
    /// let args = Args::new(b"port=80 vebrose");
    /// let error = args.expect_only(&["port", "verbose"]).unwrap_err();
    /// assert!(error.to_string().contains("vebrose"));
    /// ```
    pub fn expect_only(&self, known: &'static [&'static str]) -> Result<(), ArgError> {
        if self.as_str().len() != self.line.len() {
            return Err(ArgError { key: self.as_str(), value: None, kind: Kind::NotText });
        }
        match self.iter().find(|(key, _)| !known.contains(key)) {
            Some((key, value)) => Err(ArgError { key, value, kind: Kind::Unknown(known) }),
            None => Ok(()),
        }
    }
}

struct Arguments {
    rest: &'static str,
}

impl Iterator for Arguments {
    type Item = (&'static str, Option<&'static str>);

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.rest.trim_start();
        if text.is_empty() {
            return None;
        }
        let mut quoted = false;
        let end = text.find(|c: char| {
            quoted ^= c == '"';
            c.is_whitespace() && !quoted
        });
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        self.rest = rest;
        Some(match word.split_once('=') {
            Some((key, value)) => {
                let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                (key, Some(inner.unwrap_or(value)))
            }
            None => (word, None),
        })
    }
}

/// A type that a value on the command line can have.
///
/// # Examples
///
/// ```
/// use sarab::{ArgError, Args, FromArg};
///
/// struct Percent(u8);
///
/// impl FromArg for Percent {
///     const EXPECTED: &'static str = "a number from 0 to 100";
///
///     fn from_arg(value: Option<&'static str>) -> Option<Self> {
///         value?.parse().ok().filter(|percent| *percent <= 100).map(Percent)
///     }
/// }
///
/// assert_eq!(Args::new(b"load=70").get::<Percent>("load")?.unwrap().0, 70);
/// assert!(Args::new(b"load=170").get::<Percent>("load").is_err());
/// # Ok::<(), ArgError>(())
/// ```
pub trait FromArg: Sized {
    /// What is expected, for the error: "a number".
    const EXPECTED: &'static str;

    /// Reads the value; `None` as the argument is a key without `=`.
    fn from_arg(value: Option<&'static str>) -> Option<Self>;
}

impl FromArg for &'static str {
    const EXPECTED: &'static str = "a text";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        value
    }
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl FromArg for $type {
            const EXPECTED: &'static str = "a number";

            fn from_arg(value: Option<&'static str>) -> Option<Self> {
                match value?.strip_prefix("0x") {
                    Some(digits) => <$type>::from_str_radix(digits, 16).ok(),
                    None => value?.parse().ok(),
                }
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64, usize, i32, i64);

impl FromArg for bool {
    const EXPECTED: &'static str = "yes or no";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        match value {
            None | Some("yes" | "on" | "true" | "1") => Some(true),
            Some("no" | "off" | "false" | "0") => Some(false),
            _ => None,
        }
    }
}

macro_rules! parsed {
    ($($type:ty, $expected:literal;)*) => {$(
        impl FromArg for $type {
            const EXPECTED: &'static str = $expected;

            fn from_arg(value: Option<&'static str>) -> Option<Self> {
                value?.parse().ok()
            }
        }
    )*};
}
parsed! {
    Ipv4Addr, "an IPv4 address such as 10.0.0.2";
    Ipv6Addr, "an IPv6 address such as fd00::2";
    IpAddr, "an IP address";
}

/// A number of bytes: `512`, `16K`, `16M`, `2G`, `1T`, in powers of 1,024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl core::str::FromStr for Size {
    type Err = BadSize;

    fn from_str(text: &str) -> Result<Size, BadSize> {
        let parse = || {
            let (digits, shift) = match text.split_at_checked(text.len().checked_sub(1)?)? {
                (digits, "k" | "K") => (digits, 10),
                (digits, "m" | "M") => (digits, 20),
                (digits, "g" | "G") => (digits, 30),
                (digits, "t" | "T") => (digits, 40),
                _ => (text, 0),
            };
            digits.parse::<u64>().ok()?.checked_mul(1 << shift).map(Size)
        };
        parse().ok_or(BadSize)
    }
}

/// A text that is no [`Size`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSize;

impl fmt::Display for BadSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", Size::EXPECTED)
    }
}

impl core::error::Error for BadSize {}

impl FromArg for Size {
    const EXPECTED: &'static str = "a size such as 512, 16K, 16M or 2G";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        value?.parse().ok()
    }
}

impl FromArg for Duration {
    const EXPECTED: &'static str = "a time such as 250ms, 1.5s or 2m";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        let value = value?;
        let unit = value.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, unit) = value.split_at(unit);
        let nanoseconds: u64 = match unit {
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        let mut total = whole.parse::<u64>().ok()?.checked_mul(nanoseconds)?;
        let mut scale = nanoseconds;
        for digit in fraction.chars() {
            scale /= 10;
            total = total.checked_add(u64::from(digit.to_digit(10)?) * scale)?;
        }
        Some(Duration::from_nanos(total))
    }
}

/// A word of the command line that is wrong, missing or unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgError {
    key: &'static str,
    value: Option<&'static str>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Expected(&'static str),
    Choices(&'static [&'static str]),
    Missing(&'static str),
    Unknown(&'static [&'static str]),
    NotText,
}

struct List(&'static [&'static str], &'static str);

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            let separator = match index {
                0 => "",
                _ if index + 1 == self.0.len() => self.1,
                _ => ", ",
            };
            write!(f, "{separator}{word}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ArgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("command line: ")?;
        if let Kind::NotText = self.kind {
            return write!(f, "not valid UTF-8 after `{}`", self.key);
        }
        match self.value {
            Some(value) => write!(f, "`{}={value}`: ", self.key)?,
            None => write!(f, "`{}`: ", self.key)?,
        }
        match self.kind {
            Kind::Expected(what) => write!(f, "expected {what}"),
            Kind::Choices(choices) => write!(f, "expected {}", List(choices, " or ")),
            Kind::Missing(what) => write!(f, "missing; expected `{}=` and {what}", self.key),
            Kind::Unknown([]) => f.write_str("unknown key; this application takes none"),
            Kind::Unknown(known) => write!(f, "unknown key; known are {}", List(known, " and ")),
            Kind::NotText => Ok(()),
        }
    }
}

impl core::error::Error for ArgError {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    #[test]
    fn arguments_are_split_at_spaces_outside_quotes() {
        let args = Args::new(b"  a=1 b  c=\"x y\"\td=e=f g= \"h i\" j=\"k");
        let words: Vec<_> = args.iter().collect();
        let expected = [
            ("a", Some("1")),
            ("b", None),
            ("c", Some("x y")),
            ("d", Some("e=f")),
            ("g", Some("")),
            ("\"h i\"", None),
            ("j", Some("\"k")),
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn the_last_value_counts() {
        let args = Args::new(b"n=1 n=0x10");
        assert_eq!(args.get::<u8>("n"), Ok(Some(16)));
        assert_eq!(args.get::<u8>("m"), Ok(None));
    }

    #[test]
    fn errors_name_the_argument_and_what_was_expected() {
        let line = Args::new(b"n=300 when=5 size=4X ip=10.0.0 mode=x empty");
        let text = |error: ArgError| error.to_string();
        assert_eq!(text(line.get::<u8>("n").unwrap_err()), "command line: `n=300`: expected a number");
        assert_eq!(
            text(line.get::<Duration>("when").unwrap_err()),
            "command line: `when=5`: expected a time such as 250ms, 1.5s or 2m"
        );
        assert!(line.get::<Size>("size").is_err() && line.get::<Ipv4Addr>("ip").is_err());
        assert_eq!(
            text(line.choice("mode", &["a", "b", "c"]).unwrap_err()),
            "command line: `mode=x`: expected a, b or c"
        );
        assert_eq!(text(line.get::<&str>("empty").unwrap_err()), "command line: `empty`: expected a text");
        assert_eq!(
            text(line.require::<u8>("gone").unwrap_err()),
            "command line: `gone`: missing; expected `gone=` and a number"
        );
        assert_eq!(
            text(line.expect_only(&["n", "when"]).unwrap_err()),
            "command line: `size=4X`: unknown key; known are n and when"
        );
        assert_eq!(
            text(Args::new(b"x").expect_only(&[]).unwrap_err()),
            "command line: `x`: unknown key; this application takes none"
        );
        assert_eq!(
            text(Args::new(b"a=1 \xff").expect_only(&["a"]).unwrap_err()),
            "command line: not valid UTF-8 after `a=1 `"
        );
    }

    #[test]
    fn sizes_and_times_do_not_overflow() {
        assert_eq!(Args::new(b"s=99999999999G").get::<Size>("s").ok(), None);
        assert_eq!(Args::new(b"s=").get::<Size>("s").ok(), None);
        assert_eq!(Args::new("s=1é".as_bytes()).get::<Size>("s").ok(), None);
        assert_eq!(Args::new(b"t=18446744073709551615h").get::<Duration>("t").ok(), None);
        assert_eq!(Args::new(b"t=0.0625s").get::<Duration>("t"), Ok(Some(Duration::from_micros(62_500))));
        assert_eq!(Args::new(b"t=2m").get::<Duration>("t"), Ok(Some(Duration::from_secs(120))));
    }
}
