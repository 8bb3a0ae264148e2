//! Zone files: what they may have, and what is said of what they may not.

mod support;

use support::{UDP, ask, data, describe, from_text, load, query, server};

const HEAD: &str = "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\n";

#[test]
fn what_is_wrong_has_its_line() {
    for (text, expected) in [
        ("", "text: the zone has no SOA record at its own name"),
        ("@ NS ns", "text:1: it has no TTL: begin the file with $TTL 1h, or write one"),
        ("@ 60 SOA a b 1 2 3 4 5\n", "text:1: the zone has no NS record at its own name"),
        ("\n\n www A 192.0.2.1", "text:3: the first record has no owner: its line begins with a space"),
        ("$TTL 1x", "text:1: $TTL: expected a time such as 3600 or 1h"),
        ("$TTL 1h 2h", "text:1: something follows the directive"),
        ("$GENERATE 1-2 a$ A 192.0.2.$", "text:1: unknown directive $GENERATE; known are $ORIGIN, $TTL and $INCLUDE"),
        ("HEAD@ SOA a b 1 2 3 4 5", "text:4: a.test. has several SOA records, of which there is one"),
        ("HEADx SOA a b 1 2 3 4 5", "text:4: x.a.test. has a SOA record, which belongs to the zone's own name"),
        ("HEADx.b.test. A 192.0.2.1", "text:4: x.b.test. is outside of the zone: is a dot missing, or too much?"),
        ("HEADx A 192.0.2", "text:4: A: "),
        ("HEADx A 192.0.2.1 192.0.2.2", "text:4: A: something follows its last field"),
        ("HEADx MX 10", "text:4: MX: it ends too early: a field is missing"),
        ("HEADx MX (\n 10\n a..b )", "text:6: MX: a name has an empty label"),
        ("HEADx CH A 192.0.2.1", "text:4: class CH: zones of class IN are served, and no others"),
        ("HEADx NONSENSE y", "text:4: unknown type \"NONSENSE\"; RFC 3597 has a name for any: TYPE65280"),
        ("HEADx AXFR y", "text:4: type AXFR cannot be in a zone"),
        ("HEADx TYPE65280 y", "text:4: TYPE65280: the text of this type is not known here; RFC 3597 has one for any: "),
        ("HEADx TYPE1 \\# 3 010203", "text:4: A: these bytes are not what a record of its type has"),
        ("HEADx TYPE2 \\# 2 c000", "text:4: NS: these bytes are not what a record of its type has"),
        ("HEADx TXT \"a", "text:4: quotation marks are not closed before the file's end"),
        ("HEADx TXT \"a\nb\"", "text:4: quotation marks are not closed before the line's end"),
        ("HEADx TXT ( a\n", "text:4: `(` is not closed before the file's end"),
        ("HEADx TXT a )", "text:4: `)` without `(`"),
        ("HEADx CNAME y\nx A 192.0.2.1", "text:4: x.a.test. has a CNAME record and others (RFC 1034, section 3.6.2)"),
        ("HEADx CNAME y\nx CNAME z", "text:4: x.a.test. has several CNAME records, of which there is one"),
        ("HEADx HTTPS 1 . alpn=h2 alpn=h3", "text:4: HTTPS: a parameter is given twice"),
        ("HEADx LOC 91 N 1 E 1m", "text:4: LOC: expected a place such as "),
        (
            "HEAD@ NSEC3PARAM 1 0 151 -\n00000000000000000000000000000000 NSEC3 1 0 151 - 0P9MHAVEQVM6T7VBL5LOP2U3T2RP3TOM A",
            "text:5: NSEC3 with 151 iterations: 150 at most are served; sign the zone with 0 (RFC 9276)",
        ),
        (
            "HEADx NSEC3 1 0 0 - 0P9MHAVEQVM6T7VBL5LOP2U3T2RP3TOM A",
            "text:4: NSEC3: its owner is no hash below the zone's name",
        ),
    ] {
        let error = from_text("a.test", &text.replace("HEAD", HEAD)).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text:?}: {error}");
    }
}

#[test]
fn what_is_strange_is_told() {
    let (zone, warnings) =
        from_text("a.test", &format!("{HEAD}x 60 A 192.0.2.1\nx 30 A 192.0.2.2\nd DNAME e\ny.d A 192.0.2.3\n"))
            .unwrap();
    assert_eq!(
        warnings,
        [
            "x.a.test. A: records have different TTLs; the least counts (RFC 2181, section 5.2)",
            "y.d.a.test. is not served: d.a.test. has a DNAME record (RFC 6672, section 2.4)"
        ]
    );
    let told = describe(&ask(&server([zone], ""), &query(b"\x01x\x01a\x04test\0", 1, None, false), UDP));
    assert!(told.contains("x.a.test 30 in a 192.0.2.1") && told.contains("x.a.test 30 in a 192.0.2.2"), "{told}");
}

/// However a file arrives, the zone is the same.
#[test]
fn pieces_do_not_matter() {
    for (apex, file) in [("plain.test", "plain.zone"), ("nsec3.test", "signed-nsec3.zone")] {
        let (whole, _) = load(apex, &data(file), 1 << 20).unwrap();
        for piece in [1, 7, 100, 4096] {
            let (other, _) = load(apex, &data(file), piece).unwrap();
            assert!(whole.is_same(&other), "{file} in pieces of {piece}");
        }
    }
}

#[test]
fn a_zone_tells_what_it_takes_and_one_that_does_not_fit_says_so() {
    let mut text = HEAD.to_owned();
    (0..10_000).for_each(|host| text.push_str(&format!("host{host} A 10.1.{}.{}\n", host / 256, host % 256)));
    let (zone, _) = from_text("large.test", &text).unwrap();
    let bytes = zone.memory();
    assert!((500_000..2_000_000).contains(&bytes), "{bytes} bytes");
    let mut loader =
        sarab_dns::Loader::new(&sarab_dns::parse_name("large.test").unwrap(), "large", sarab_dns::Limits::new(bytes));
    loader.feed(text.as_bytes());
    loader.end_of_file();
    let error = loop {
        match loader.step() {
            Ok(sarab_dns::Step::Done) => panic!("it fits into what it takes later"),
            Ok(_) => {}
            Err(error) => break error.to_string(),
        }
    };
    assert!(
        error.contains("the zone does not fit into the ") && error.ends_with("give the domain more memory"),
        "{error}"
    );
}
