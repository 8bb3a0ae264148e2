//! The names of disks.

use core::fmt;
use core::str::FromStr;

use alloc::boxed::Box;
use alloc::string::{String, ToString};

/// A disk among those of a domain: the number that names its directories in the store, and its name in an xl file
/// (docs/man/xen-vbd-interface.7.pandoc).
///
/// # Examples
///
/// ```
/// use xen_blkif::Vdev;
///
/// assert_eq!("xvdaa".parse(), Ok(Vdev(268_442_112)));
/// assert_eq!("0xca01".parse::<Vdev>().unwrap().to_string(), "xvda1");
/// assert_eq!(
///     "floppy".parse::<Vdev>().unwrap_err().to_string(),
///     "`floppy`: expected xvda, sda (to sdp), hda (to hdd) or d0p0, a partition such as xvda1 or d0p1, or a number"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vdev(pub u32);

/// The kinds of disks that have names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Xvd,
    Sd,
    Hd,
}

/// A disk and its partition, of which 0 is the whole disk.
struct Parts {
    kind: Kind,
    disk: u32,
    partition: u32,
}

const KINDS: [(&str, Kind); 3] = [("xvd", Kind::Xvd), ("sd", Kind::Sd), ("hd", Kind::Hd)];
/// The form of disks and partitions from 16 on.
const EXTENDED: u32 = 1 << 28;

impl Kind {
    /// The last disk and the last partition.
    const fn limits(self) -> (u32, u32) {
        match self {
            Kind::Xvd => ((1 << 20) - 1, 255),
            Kind::Sd => (15, 15),
            Kind::Hd => (3, 63),
        }
    }
}

impl Parts {
    fn number(&self) -> Option<u32> {
        let Parts { kind, disk, partition } = *self;
        let (last_disk, last_partition) = kind.limits();
        if disk > last_disk || partition > last_partition {
            return None;
        }
        Some(match kind {
            Kind::Xvd if disk < 16 && partition < 16 => 202 << 8 | disk << 4 | partition,
            Kind::Xvd => EXTENDED | disk << 8 | partition,
            Kind::Sd => 8 << 8 | disk << 4 | partition,
            Kind::Hd => (if disk < 2 { 3 } else { 22 }) << 8 | (disk & 1) << 6 | partition,
        })
    }

    /// `None` where the number is none that a name has.
    fn of(number: u32) -> Option<Parts> {
        let (minor, disk) = (number & 0xff, number >> 4 & 15);
        let parts = match number >> 8 {
            202 => Parts { kind: Kind::Xvd, disk, partition: number & 15 },
            8 => Parts { kind: Kind::Sd, disk, partition: number & 15 },
            3 => Parts { kind: Kind::Hd, disk: minor >> 6, partition: number & 63 },
            22 => Parts { kind: Kind::Hd, disk: 2 + (minor >> 6), partition: number & 63 },
            _ if number & !(EXTENDED - 1) == EXTENDED => {
                Parts { kind: Kind::Xvd, disk: (number - EXTENDED) >> 8, partition: minor }
            }
            _ => return None,
        };
        // Numbers that have no name lead to others: those of hd's third disk and so on, and small ones in the form of
        // large ones.
        (parts.number() == Some(number)).then_some(parts)
    }

    fn parse(text: &str) -> Option<Parts> {
        if let Some((kind, rest)) = KINDS.iter().find_map(|(name, kind)| Some((*kind, text.strip_prefix(name)?))) {
            let digits = rest.trim_start_matches(|letter: char| letter.is_ascii_lowercase());
            let disk = index(&rest[..rest.len() - digits.len()])?;
            // `xvda0` is no name: the whole disk has one already.
            let partition = if digits.is_empty() { 0 } else { decimal(digits).filter(|partition| *partition > 0)? };
            return Some(Parts { kind, disk, partition });
        }
        let rest = text.strip_prefix('d')?;
        let (disk, partition) = rest.split_once('p').unwrap_or((rest, "0"));
        Some(Parts { kind: Kind::Xvd, disk: decimal(disk)?, partition: decimal(partition)? })
    }
}

/// A disk's index by its letters: `a` is 0, `z` 25, `aa` 26.
fn index(letters: &str) -> Option<u32> {
    let more = letters.bytes().try_fold(0_u32, |before, letter| {
        before.checked_mul(26)?.checked_add(u32::from(letter.checked_sub(b'a')?) + 1)
    })?;
    more.checked_sub(1)
}

/// A number without leading zeros, which xl takes for the sign of an octal one.
fn decimal(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|digit| digit.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// A number as xl reads it: decimal, or hexadecimal after `0x`, or octal after `0`.
fn number(text: &str) -> Option<u32> {
    let (digits, base) = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // The library also takes a sign.
    let unsigned = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if unsigned { u32::from_str_radix(digits, base).ok() } else { None }
}

impl FromStr for Vdev {
    type Err = BadVdev;

    /// All names of the interface's document: `xvda`, `xvdaa`, `sda`, `hda`, `d0`, with a partition (`xvda1`, `d0p1`) or
    /// without, and the number itself.
    fn from_str(text: &str) -> Result<Self, BadVdev> {
        let named = Parts::parse(text).and_then(|parts| parts.number());
        named.or_else(|| number(text)).map(Vdev).ok_or_else(|| BadVdev(text.chars().take(MAX_SHOWN).collect()))
    }
}

impl fmt::Display for Vdev {
    /// The name, `xvda`; the number where it has none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Parts { kind, disk, partition }) = Parts::of(self.0) else { return write!(f, "{}", self.0) };
        let name = KINDS.iter().find(|(_, known)| *known == kind).map_or("", |(name, _)| name);
        f.write_str(name)?;
        // The last disk, 2^20 - 1, has five letters.
        let mut letters = [0; 5];
        let (mut more, mut first) = (disk + 1, letters.len());
        while more > 0 && first > 0 {
            more -= 1;
            first -= 1;
            letters[first] = b'a' + (more % 26) as u8;
            more /= 26;
        }
        f.write_str(core::str::from_utf8(&letters[first..]).unwrap_or_default())?;
        if partition > 0 { write!(f, "{partition}") } else { Ok(()) }
    }
}

/// What the toolstack's user calls the device with this directory of its class.
pub(crate) fn name_of(directory: &str) -> String {
    match directory.parse() {
        Ok(number) => Vdev(number).to_string(),
        Err(_) => directory.into(),
    }
}

/// How much of a text that is no name an error shows.
const MAX_SHOWN: usize = 64;

/// It is no disk's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadVdev(Box<str>);

impl fmt::Display for BadVdev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}`: expected xvda, sda (to sdp), hda (to hdd) or d0p0, a partition such as xvda1 or d0p1, or a number",
            self.0.escape_debug()
        )
    }
}

impl core::error::Error for BadVdev {}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    fn parse(text: &str) -> Option<u32> {
        text.parse::<Vdev>().ok().map(|vdev| vdev.0)
    }

    /// What libxl makes of them (tools/libs/light/libxl_device.c, `libxl__device_disk_dev_number`).
    #[test]
    fn names_have_the_numbers_of_the_interface_document() {
        for (name, number) in [
            ("xvda", 51712),
            ("xvda1", 51713),
            ("xvdp15", 51967),
            ("xvda16", 1 << 28 | 16),
            ("xvdq", 268439552),
            ("xvdz", 1 << 28 | 25 << 8),
            ("xvdaa", 268442112),
            ("xvdaa3", 268442115),
            ("xvdaz", 1 << 28 | 51 << 8),
            ("xvdba", 1 << 28 | 52 << 8),
            ("xvdzz", 1 << 28 | 701 << 8),
            ("xvdaaa", 1 << 28 | 702 << 8),
            ("xvdtq37", 1 << 28 | 536 << 8 | 37),
            ("sda", 2048),
            ("sdb3", 2067),
            ("sdp15", 8 << 8 | 255),
            ("hda", 768),
            ("hda1", 769),
            ("hdb", 832),
            ("hdc2", 22 << 8 | 2),
            ("hdd63", 22 << 8 | 1 << 6 | 63),
        ] {
            assert_eq!(parse(name), Some(number), "{name}");
            assert_eq!(Vdev(number).to_string(), name);
        }
        for (text, number) in [
            ("d0", 51712),
            ("d0p0", 51712),
            ("d1p2", 51730),
            ("d536p37", 1 << 28 | 536 << 8 | 37),
            ("d1048575p255", u32::MAX >> 3),
            ("51728", 51728),
            ("0xca10", 51728),
            ("0145020", 51728),
            ("0", 0),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
    }

    #[test]
    fn other_text_is_no_name() {
        for text in [
            "",
            "a",
            "d",
            "d0p",
            "dp1",
            "d01",
            "d0p01",
            "d0p256",
            "d1048576",
            "xvd",
            "xvd1",
            "xvdA",
            "xvda0",
            "xvda01",
            "xvda256",
            "xvda1b",
            "sdq",
            "sda16",
            "hde",
            "hda64",
            "disk",
            "é",
            "xvdaé",
            "+5",
            "-5",
            "0x",
            "0x+5",
            "08",
            "0b1",
            "4294967296",
            "xvda ",
            " xvda",
            "xvdbjvvw",
            "xvdzzzzzzzzzzzzzz",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        // The last disk.
        assert_eq!(parse(&Vdev(1 << 28 | 0xf_ffff << 8).to_string()), Some(1 << 28 | 0xf_ffff << 8));
        let long = "x".repeat(5000).parse::<Vdev>().unwrap_err().to_string();
        assert!(long.len() < 300, "{long}");
    }

    #[test]
    fn numbers_without_a_name_stand_for_themselves() {
        for number in [0, 1, 3 << 8 | 128, 22 << 8 | 255, 1 << 28, 1 << 28 | 15 << 8 | 15, 2 << 28, u32::MAX, 65 << 8] {
            assert_eq!(Vdev(number).to_string(), format!("{number}"));
        }
    }

    proptest! {
        #[test]
        fn a_number_is_that_of_its_name(
            number in prop_oneof![
                any::<u32>(), 0..0x1_0000_u32, 202 << 8..203_u32 << 8, 1_u32 << 28..2 << 28, 1_u32 << 28..(1 << 28) + 0x8000,
            ],
        ) {
            prop_assert_eq!(parse(&Vdev(number).to_string()), Some(number));
        }

        /// Name to number to name, of all disks and partitions that a name can have.
        #[test]
        fn a_name_is_that_of_its_number(kind in 0..3_usize, disk in any::<u32>(), partition in any::<u32>()) {
            let (name, kind) = KINDS[kind];
            let (last_disk, last_partition) = kind.limits();
            let (disk, partition) = (disk % (last_disk + 1), partition % (last_partition + 1));
            let (mut letters, mut more) = (alloc::vec::Vec::new(), disk + 1);
            while more > 0 {
                letters.insert(0, (b'a' + ((more - 1) % 26) as u8) as char);
                more = (more - 1) / 26;
            }
            let letters: String = letters.into_iter().collect();
            let text = format!("{name}{letters}{}", if partition == 0 { "".into() } else { partition.to_string() });
            let vdev: Vdev = text.parse().unwrap();
            prop_assert_eq!(vdev.to_string(), text);
            if kind == Kind::Xvd {
                prop_assert_eq!(format!("d{disk}p{partition}").parse(), Ok(vdev));
            }
        }

        #[test]
        fn any_text_is_a_name_or_an_error(text in "\\PC{0,12}|[a-z0-9]{0,10}") {
            if let Ok(vdev) = text.parse::<Vdev>() {
                prop_assert_eq!(vdev.to_string().parse(), Ok(vdev));
            }
        }
    }
}
