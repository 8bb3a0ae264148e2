//! What HTTP asks of a server of files (RFC 9110): paths, types, parts, and whether a client has a file already.

use alloc::format;
use alloc::string::String;
use core::ops::Range;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// A request's path as a name in the site: decoded, without what changes nothing, and with `index.html` behind a folder.
/// `None` where it is no text, or leads out of the site.
///
/// # Examples
///
/// ```
/// use sarab_site::http::name;
///
/// assert_eq!(name("/docs/").as_deref(), Some("docs/index.html"));
/// assert_eq!(name("/a%20b.txt").as_deref(), Some("a b.txt"));
/// assert_eq!(name("/..%2f..%2fsecret"), None);
/// ```
pub fn name(path: &str) -> Option<String> {
    let decoded = percent_decode_str(path).decode_utf8().ok()?;
    if decoded.ends_with('/') || decoded.is_empty() {
        return crate::path::clean(format!("{decoded}index.html").as_bytes());
    }
    crate::path::clean(decoded.as_bytes())
}

/// What no query holds (RFC 3986, 3.4), and neither does a path.
const QUERY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
/// What no path holds, or what would mean something else in it.
const PATH: &AsciiSet = &QUERY.add(b'%').add(b'?').add(b'[').add(b']');

/// The address of a folder by its [name] in the site, for a client that has left out the `/` at its end. It is on this
/// server whatever the name is: it begins with one `/`, and with no backslash, which browsers take for another.
pub fn folder_address(name: &str, query: Option<&str>) -> String {
    let mut address = format!("/{}/", utf8_percent_encode(name, PATH));
    if let Some(query) = query {
        address.push('?');
        address.extend(utf8_percent_encode(query, QUERY));
    }
    address
}

/// A file's type by the end of its name.
pub fn content_type(name: &str) -> &'static str {
    let file = name.rsplit('/').next().unwrap_or(name);
    let extension = file.rsplit_once('.').map_or("", |(_, extension)| extension);
    let known = |known: &str| extension.eq_ignore_ascii_case(known);
    TYPES
        .iter()
        .find(|(extensions, _)| extensions.split(' ').any(known))
        .map_or("application/octet-stream", |(_, content_type)| content_type)
}

/// By the registry of media types (IANA).
const TYPES: &[(&str, &str)] = &[
    ("html htm", "text/html; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("js mjs", "text/javascript; charset=utf-8"),
    ("json map", "application/json"),
    ("txt text md log", "text/plain; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("xml", "application/xml"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("jpg jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("avif", "image/avif"),
    ("ico", "image/vnd.microsoft.icon"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("ttf", "font/ttf"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("wasm", "application/wasm"),
    ("zip", "application/zip"),
    ("gz", "application/gzip"),
    ("tar", "application/x-tar"),
    ("mp3", "audio/mpeg"),
    ("ogg", "audio/ogg"),
    ("wav", "audio/wav"),
    ("mp4", "video/mp4"),
    ("webm", "video/webm"),
    ("webmanifest", "application/manifest+json"),
    ("atom", "application/atom+xml"),
    ("rss", "application/rss+xml"),
];

/// An entity tag for a file as it is now, quotes included.
pub fn entity_tag(size: u64, modified: i64, coding: &str) -> String {
    format!("\"{size:x}-{modified:x}{coding}\"")
}

/// Whether one of the tags of `If-None-Match` is this one, or any is meant (section 13.1.2: compared weakly).
pub fn has_tag(header: &str, tag: &str) -> bool {
    header.trim() == "*" || header.split(',').any(|own| own.trim().trim_start_matches("W/") == tag)
}

/// Whether `Accept-Encoding` takes a coding (section 12.5.3).
pub fn accepts(header: &str, coding: &str) -> bool {
    header.split(',').any(|part| {
        let mut words = part.split(';');
        let named = words.next().is_some_and(|name| name.trim().eq_ignore_ascii_case(coding));
        let refused = words.any(|word| {
            let weight = word.trim().strip_prefix("q=").or_else(|| word.trim().strip_prefix("Q="));
            weight.is_some_and(|weight| weight.trim_matches(['0', '.']).is_empty())
        });
        named && !refused
    })
}

/// What of a file is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// These bytes.
    Bytes(Range<u64>),
    /// Bytes that it does not have.
    Beyond,
}

/// What `Range` asks for, of a file of `size` bytes. What cannot be read, or has several parts, asks for all
/// (section 14.2).
pub fn part(header: &str, size: u64) -> Part {
    let Some((first, last)) = header.trim().strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
    else {
        return Part::Whole;
    };
    // Digits alone: `parse` takes a sign.
    let number = |text: &str| {
        let text = text.trim();
        text.parse::<u64>().map_err(drop).and_then(|number| if text.starts_with('+') { Err(()) } else { Ok(number) })
    };
    match (first.trim(), last.trim()) {
        ("", suffix) => match number(suffix) {
            Ok(0) => Part::Beyond,
            Ok(_) if size == 0 => Part::Beyond,
            Ok(count) => Part::Bytes(size.saturating_sub(count)..size),
            Err(_) => Part::Whole,
        },
        (first, last) => match (number(first), number(last)) {
            (Ok(first), _) if first >= size && (last.is_empty() || number(last).is_ok()) => Part::Beyond,
            (Ok(first), Ok(last)) if first <= last => Part::Bytes(first..last.saturating_add(1).min(size)),
            (Ok(first), Err(_)) if last.is_empty() => Part::Bytes(first..size),
            _ => Part::Whole,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        for (path, expected) in [
            ("/", Some("index.html")),
            ("", Some("index.html")),
            ("/a/", Some("a/index.html")),
            ("/a%20b.txt", Some("a b.txt")),
            ("/%61//./b", Some("a/b")),
            ("/a/../b", None),
            ("/%2e%2e/b", None),
            ("/..%2fb", None),
            ("/%ff", None),
            ("/a%00", None),
            ("/%C3%BC", Some("ü")),
            ("/100%", Some("100%")),
        ] {
            assert_eq!(name(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn folders() {
        for (path, query, expected) in [
            ("/docs", None, "/docs/"),
            ("//docs", None, "/docs/"),
            ("///evil.example", None, "/evil.example/"),
            ("/\\evil.example", None, "/%5Cevil.example/"),
            ("/%5c%5Cevil.example", None, "/%5C%5Cevil.example/"),
            ("/%2f/evil.example", None, "/evil.example/"),
            ("/./a%0d%0aSet-Cookie:b", None, "/a%0D%0ASet-Cookie:b/"),
            ("/a%3Fb%23c%25", Some("x=%20&y=\"\\"), "/a%3Fb%23c%25/?x=%20&y=%22%5C"),
            ("/%C3%BC", Some(""), "/%C3%BC/?"),
        ] {
            assert_eq!(folder_address(&name(path).unwrap(), query), expected, "{path}");
        }
    }

    #[test]
    fn types() {
        assert_eq!(content_type("a/b.HTML"), "text/html; charset=utf-8");
        assert_eq!(content_type("a.tar.gz"), "application/gzip");
        assert_eq!(content_type("a.b/c"), "application/octet-stream");
        assert_eq!(content_type("jpg"), "application/octet-stream");
    }

    #[test]
    fn parts() {
        for (header, size, expected) in [
            ("bytes=0-0", 10, Part::Bytes(0..1)),
            ("bytes=2-", 10, Part::Bytes(2..10)),
            ("bytes=-3", 10, Part::Bytes(7..10)),
            ("bytes=-30", 10, Part::Bytes(0..10)),
            ("bytes=5-99", 10, Part::Bytes(5..10)),
            ("bytes=10-", 10, Part::Beyond),
            ("bytes=10-12", 10, Part::Beyond),
            ("bytes=-0", 10, Part::Beyond),
            ("bytes=-5", 0, Part::Beyond),
            ("bytes=0-", 0, Part::Beyond),
            ("bytes=5-2", 10, Part::Whole),
            ("bytes=0-1,4-5", 10, Part::Whole),
            ("bytes=", 10, Part::Whole),
            ("bytes=-", 10, Part::Whole),
            ("bytes=a-b", 10, Part::Whole),
            ("bytes=+1-2", 10, Part::Whole),
            ("lines=0-1", 10, Part::Whole),
            ("bytes=0-18446744073709551615", 10, Part::Bytes(0..10)),
            ("bytes=0-99999999999999999999", 10, Part::Whole),
        ] {
            assert_eq!(part(header, size), expected, "{header} of {size}");
        }
    }

    #[test]
    fn tags_and_codings() {
        let tag = entity_tag(10, 20, "");
        assert!(has_tag(&tag, &tag) && has_tag("*", &tag) && has_tag("\"x\", W/\"a-14\"", &tag));
        assert!(!has_tag("\"a-15\"", &tag) && !has_tag("", &tag) && tag != entity_tag(10, 20, "-gzip"));
        assert!(accepts("gzip, deflate, br", "gzip") && accepts("br;q=0.5", "br") && accepts("GZIP ; q=1", "gzip"));
        assert!(!accepts("gzip;q=0", "gzip") && !accepts("gzip; q=0.000", "gzip") && !accepts("", "gzip"));
    }

    proptest! {
        #[test]
        fn anything_is_answered(header in ".{0,40}", range in "bytes=[-0-9, ]{0,12}", size in 0..100_u64) {
            let _ = (name(&header), has_tag(&header, "\"x\""), accepts(&header, "gzip"), part(&header, size));
            if let Part::Bytes(bytes) = part(&range, size) {
                prop_assert!(bytes.start < bytes.end && bytes.end <= size);
            }
        }

        /// Whatever is asked for, a redirect stays on this server, and leads to the same name.
        #[test]
        fn a_folder_is_on_this_server(path in "[/\\\\.%a2fF5cCdD0-9:?#\\PC\r\n\t]{0,30}", query in ".{0,10}") {
            if let Some(own) = name(&path) {
                let address = folder_address(&own, Some(&query));
                prop_assert!(address.starts_with('/') && !address.starts_with("//"), "{}", address);
                prop_assert!(address.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'), "{}", address);
                let folder = address.split('?').next().unwrap();
                prop_assert_eq!(name(folder.strip_suffix('/').unwrap()), Some(own));
            }
        }
    }
}
