//! What HTTP asks of a server of files (RFC 9110): paths, types, parts, and whether a client has a file already.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// A request's path as a name in the site: decoded, with its steps up done (RFC 3986, 5.2.4), without what changes nothing,
/// and with `index.html` behind a folder. `None` where it is no text, or leads out of the site.
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
    let is_escape =
        |rest: &str| matches!(rest.as_bytes(), [a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
    if !path.split('%').skip(1).all(is_escape) {
        return None;
    }
    let decoded = percent_decode_str(path).decode_utf8().ok()?;
    let mut parts = Vec::new();
    for part in decoded.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    // What is not followed by anything is a folder.
    if matches!(decoded.rsplit('/').next(), None | Some("" | "." | "..")) {
        parts.push("index.html");
    }
    crate::path::clean(parts.join("/").as_bytes())
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

/// By the registry of media types (IANA), and what nginx and Apache have beside it.
const TYPES: &[(&str, &str)] = &[
    ("html htm shtml", "text/html; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("js mjs cjs", "text/javascript; charset=utf-8"),
    ("json map", "application/json"),
    ("jsonld", "application/ld+json"),
    ("geojson", "application/geo+json"),
    ("webmanifest", "application/manifest+json"),
    ("txt text log conf ini sh rs c h py", "text/plain; charset=utf-8"),
    ("md markdown", "text/markdown; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("tsv", "text/tab-separated-values; charset=utf-8"),
    ("ics", "text/calendar; charset=utf-8"),
    ("vcf", "text/vcard; charset=utf-8"),
    ("vtt", "text/vtt; charset=utf-8"),
    ("yaml yml", "application/yaml"),
    ("toml", "application/toml"),
    ("xml xsl", "application/xml"),
    ("xhtml xht", "application/xhtml+xml"),
    ("atom", "application/atom+xml"),
    ("rss", "application/rss+xml"),
    ("rdf", "application/rdf+xml"),
    ("mathml", "application/mathml+xml"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("apng", "image/apng"),
    ("jpg jpeg jpe", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("avif", "image/avif"),
    ("heic", "image/heic"),
    ("jxl", "image/jxl"),
    ("bmp", "image/bmp"),
    ("tif tiff", "image/tiff"),
    ("ico cur", "image/vnd.microsoft.icon"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("ttf", "font/ttf"),
    ("otf", "font/otf"),
    ("ttc", "font/collection"),
    ("eot", "application/vnd.ms-fontobject"),
    ("pdf", "application/pdf"),
    ("ps eps ai", "application/postscript"),
    ("rtf", "application/rtf"),
    ("epub", "application/epub+zip"),
    ("doc", "application/msword"),
    ("xls", "application/vnd.ms-excel"),
    ("ppt", "application/vnd.ms-powerpoint"),
    ("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    ("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    ("odt", "application/vnd.oasis.opendocument.text"),
    ("ods", "application/vnd.oasis.opendocument.spreadsheet"),
    ("odp", "application/vnd.oasis.opendocument.presentation"),
    ("wasm", "application/wasm"),
    ("zip", "application/zip"),
    ("gz tgz", "application/gzip"),
    ("bz2", "application/x-bzip2"),
    ("xz", "application/x-xz"),
    ("zst", "application/zstd"),
    ("7z", "application/x-7z-compressed"),
    ("rar", "application/vnd.rar"),
    ("tar", "application/x-tar"),
    ("jar", "application/java-archive"),
    ("deb", "application/vnd.debian.binary-package"),
    ("sql", "application/sql"),
    ("crt cer der", "application/pkix-cert"),
    ("pem", "application/pem-certificate-chain"),
    ("asc sig", "application/pgp-signature"),
    ("torrent", "application/x-bittorrent"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("mp3", "audio/mpeg"),
    ("ogg oga opus", "audio/ogg"),
    ("wav", "audio/wav"),
    ("flac", "audio/flac"),
    ("aac", "audio/aac"),
    ("m4a", "audio/mp4"),
    ("weba", "audio/webm"),
    ("mid midi", "audio/midi"),
    ("mp4 m4v", "video/mp4"),
    ("webm", "video/webm"),
    ("ogv", "video/ogg"),
    ("mov qt", "video/quicktime"),
    ("mpg mpeg", "video/mpeg"),
    ("ts", "video/mp2t"),
    ("mkv", "video/matroska"),
    ("avi", "video/x-msvideo"),
];

/// An entity tag for a file as it is now, quotes included.
pub fn entity_tag(size: u64, modified: i64, coding: &str) -> String {
    format!("\"{size:x}-{modified:x}{coding}\"")
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
            ("/a/../b", Some("b")),
            ("/a/b/%2E%2e/.", Some("a/index.html")),
            ("/a/..", Some("index.html")),
            ("/a/..%2f..%2fb", None),
            ("/%2e%2e/b", None),
            ("/..%2fb", None),
            ("/%ff", None),
            ("/a%00", None),
            ("/%C3%BC", Some("ü")),
            ("/100%25", Some("100%")),
            ("/100%", None),
            ("/%4", None),
            ("/%zz", None),
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
    fn tags_and_codings() {
        let tag = entity_tag(10, 20, "");
        assert!(tag == "\"a-14\"" && tag != entity_tag(10, 20, "-gzip"));
        assert!(accepts("gzip, deflate, br", "gzip") && accepts("br;q=0.5", "br") && accepts("GZIP ; q=1", "gzip"));
        assert!(!accepts("gzip;q=0", "gzip") && !accepts("gzip; q=0.000", "gzip") && !accepts("", "gzip"));
    }

    proptest! {
        #[test]
        fn anything_is_answered(header in ".{0,40}", path in "[/.a%2e]{0,20}") {
            let _ = accepts(&header, "gzip");
            for name in [name(&header), name(&path)].into_iter().flatten() {
                prop_assert!(!name.split('/').any(|part| matches!(part, "" | "." | "..")), "{}", name);
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
