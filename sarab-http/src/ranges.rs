//! Parts that are asked for (RFC 9110, section 14).

use alloc::vec::Vec;
use core::ops::Range;

/// Parts that may be asked for at once. Who asks for more gets all (14.2).
const MAX_PARTS: usize = 16;
/// Parts that are so near to each other are given as one: what stands between two takes about as much (15.3.7.2).
const GAP: u64 = 80;

/// What of something a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// All of it.
    Whole,
    /// These bytes.
    One(Range<u64>),
    /// Several parts, none of which is empty, and none of which has bytes of another.
    Many(Vec<Range<u64>>),
    /// Bytes that it does not have: 416.
    Beyond,
}

impl Ranges {
    /// What `Range` asks for, of something with `size` bytes. What cannot be read asks for all, and so does what asks for
    /// more than 16 parts. Parts that overlap, or nearly touch, are joined; the others keep their order.
    ///
    /// # Examples
    ///
    /// ```
    /// use sarab_http::Ranges;
    ///
    /// assert_eq!(Ranges::parse("bytes=0-9", 1000), Ranges::One(0..10));
    /// assert_eq!(Ranges::parse("bytes=-10, 0-0, 100000-", 1000), Ranges::Many(vec![990..1000, 0..1]));
    /// assert_eq!(Ranges::parse("bytes=5-20,0-9,3-3", 1000), Ranges::One(0..21));
    /// assert_eq!(Ranges::parse("bytes=1000-", 1000), Ranges::Beyond);
    /// assert_eq!(Ranges::parse("lines=1-2", 1000), Ranges::Whole);
    /// ```
    pub fn parse(header: &str, size: u64) -> Ranges {
        let Some((unit, set)) = header.trim_matches([' ', '\t']).split_once('=') else { return Ranges::Whole };
        if !unit.eq_ignore_ascii_case("bytes") {
            return Ranges::Whole;
        }
        let mut parts: Vec<Range<u64>> = Vec::new();
        let mut count = 0;
        for spec in set.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty()) {
            count += 1;
            let Some(part) = part(spec, size).filter(|_| count <= MAX_PARTS) else { return Ranges::Whole };
            if !part.is_empty() {
                add(&mut parts, part);
            }
        }
        match &mut *parts {
            [] if count == 0 => Ranges::Whole,
            [] => Ranges::Beyond,
            [one] => Ranges::One(one.clone()),
            _ => Ranges::Many(parts),
        }
    }
}

/// The bytes of one part, which are none where there are none of it; nothing where it is no part.
fn part(spec: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    match (first, last) {
        ("", suffix) => Some(size - number(suffix)?.min(size)..size),
        (first, "") => Some(number(first)?.min(size)..size),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first.min(size)..last.saturating_add(1).min(size))
        }
    }
}

/// Digits alone; more than fits is as much as fits.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// Adds a part, joined with those that it overlaps or nearly touches, in the place of the first of them.
fn add(parts: &mut Vec<Range<u64>>, mut part: Range<u64>) {
    let mut place = None;
    let near = |one: &Range<u64>, other: &Range<u64>| {
        one.start <= other.end.saturating_add(GAP) && other.start <= one.end.saturating_add(GAP)
    };
    while let Some(at) = parts.iter().position(|other| near(&part, other)) {
        let other = parts.remove(at);
        part = part.start.min(other.start)..part.end.max(other.end);
        place = Some(place.unwrap_or(at).min(at));
    }
    parts.insert(place.unwrap_or(parts.len()), part);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn ranges() {
        for (header, size, expected) in [
            ("bytes=0-0", 10, Ranges::One(0..1)),
            ("Bytes=2-", 10, Ranges::One(2..10)),
            (" bytes=-3 ", 10, Ranges::One(7..10)),
            ("bytes=-30", 10, Ranges::One(0..10)),
            ("bytes=5-99", 10, Ranges::One(5..10)),
            ("bytes=10-", 10, Ranges::Beyond),
            ("bytes=10-12,11-", 10, Ranges::Beyond),
            ("bytes=-0", 10, Ranges::Beyond),
            ("bytes=-5", 0, Ranges::Beyond),
            ("bytes=0-", 0, Ranges::Beyond),
            ("bytes=5-2", 10, Ranges::Whole),
            ("bytes=0-0,5-2", 10, Ranges::Whole),
            ("bytes=0-1,4-5", 10, Ranges::One(0..6)),
            ("bytes=0-1,100-101", 1000, Ranges::Many(vec![0..2, 100..102])),
            ("bytes=100-101 ,,\t0-1", 1000, Ranges::Many(vec![100..102, 0..2])),
            ("bytes=0-1,500-501,90-99,82-", 1000, Ranges::One(0..1000)),
            ("bytes=900-901,0-1,300-301,890-", 1000, Ranges::Many(vec![890..1000, 0..2, 300..302])),
            ("bytes=0-1,5000-", 1000, Ranges::One(0..2)),
            ("bytes=", 10, Ranges::Whole),
            ("bytes=,", 10, Ranges::Whole),
            ("bytes=-", 10, Ranges::Whole),
            ("bytes=a-b", 10, Ranges::Whole),
            ("bytes=1 - 2", 10, Ranges::Whole),
            ("bytes=+1-2", 10, Ranges::Whole),
            ("bytes 1-2", 10, Ranges::Whole),
            ("lines=0-1", 10, Ranges::Whole),
            ("bytes=0-18446744073709551615", 10, Ranges::One(0..10)),
            ("bytes=0-99999999999999999999", 10, Ranges::One(0..10)),
            ("bytes=99999999999999999999-", u64::MAX, Ranges::Beyond),
            ("bytes=-99999999999999999999", 10, Ranges::One(0..10)),
        ] {
            assert_eq!(Ranges::parse(header, size), expected, "{header} of {size}");
        }
        let many = |count: u64| {
            "bytes="
                .chars()
                .chain((0..count).flat_map(|at| {
                    let mut spec = alloc::string::String::new();
                    let _ = core::fmt::Write::write_fmt(&mut spec, format_args!("{0}-{0},", at * 1000));
                    spec.into_bytes().into_iter().map(char::from)
                }))
                .collect::<alloc::string::String>()
        };
        assert!(matches!(Ranges::parse(&many(16), 1 << 20), Ranges::Many(parts) if parts.len() == 16));
        assert_eq!(Ranges::parse(&many(17), 1 << 20), Ranges::Whole);
    }

    proptest! {
        /// Whatever is asked for: parts are of the file, apart from each other, and have what was asked for.
        #[test]
        fn parts_are_apart(specs in prop::collection::vec((0..3000_u64, 0..600_u64), 1..20), size in 0..2500_u64) {
            let text: Vec<_> = specs.iter().map(|(at, len)| alloc::format!("{at}-{}", at + len)).collect();
            let parts = match Ranges::parse(&alloc::format!("bytes={}", text.join(",")), size) {
                Ranges::Whole => {
                    prop_assert!(specs.len() > MAX_PARTS);
                    return Ok(());
                }
                Ranges::Beyond => vec![],
                Ranges::One(one) => vec![one],
                Ranges::Many(many) => many,
            };
            for (at, part) in parts.iter().enumerate() {
                prop_assert!(part.start < part.end && part.end <= size);
                for other in &parts[at + 1..] {
                    prop_assert!(part.end + GAP < other.start || other.end + GAP < part.start);
                }
            }
            for (at, len) in specs {
                for byte in (at..=at + len).filter(|byte| *byte < size) {
                    prop_assert!(parts.iter().any(|part| part.contains(&byte)));
                }
            }
        }

        #[test]
        fn any_text(header in "\\PC{0,40}", near in "bytes=[-0-9, ]{0,30}", size in any::<u64>()) {
            let _ = (Ranges::parse(&header, size), Ranges::parse(&near, size));
        }
    }
}
