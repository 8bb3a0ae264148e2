//! Answers compared with NSD's for the same zones. Where NSD or the tools that sign zones are not installed these tests say so
//! and end.

mod support;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use domain::base::{Message, ParsedName};
use domain::rdata::AllRecordData;
use sarab_dns::{Reply, Server, parse_name};
use support::{NOW, Nsd, TCP, UDP, ask, data, describe, load, query, server};

/// Types that are asked for each name.
const TYPES: [u16; 20] = [1, 2, 5, 6, 12, 13, 15, 16, 28, 29, 33, 35, 39, 43, 47, 48, 52, 65, 257, 65280];

/// The owners of a zone's records, by a transfer.
fn owners(server: &Server, apex: &str) -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    let Reply::Transfer(mut transfer) =
        server.handle(&query(&parse_name(apex).unwrap(), 252, None, false), TCP, NOW, &mut [0; 512])
    else {
        panic!("no transfer of {apex}")
    };
    let mut bytes = vec![0; 65_535];
    while let Some(len) = transfer.next(NOW.unix, &mut bytes) {
        let message = Message::from_slice(&bytes[..len]).unwrap();
        for record in message.answer().unwrap().limit_to::<AllRecordData<_, ParsedName<_>>>() {
            let mut wire = Vec::new();
            for label in domain::base::name::ToLabelIter::iter_labels(record.unwrap().owner()) {
                wire.push(label.len() as u8);
                wire.extend_from_slice(label.as_slice());
            }
            names.insert(wire);
        }
    }
    names
}

/// Names that are asked for: those that there are, those between them, and some beside and below each.
fn names(server: &Server, apex: &str) -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    let apex = parse_name(apex).unwrap();
    for owner in owners(server, &text(&apex)) {
        let mut rest = &owner[..];
        while rest.len() >= apex.len() {
            names.insert(rest.to_vec());
            for label in [&b"\x01!"[..], b"\x03zzz", b"\x01*", b"\x01a\x01b"] {
                let below = [label, rest].concat();
                if below.len() <= 255 {
                    names.insert(below);
                }
            }
            rest = &rest[1 + usize::from(rest[0])..];
        }
    }
    names
}

fn text(wire: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = wire;
    while let [len @ (1..), after @ ..] = rest {
        let (label, next) = after.split_at(usize::from(*len));
        text.push_str(core::str::from_utf8(label).unwrap());
        text.push('.');
        rest = next;
    }
    text
}

fn compare(nsd: &Nsd, own: &Server, names: &BTreeSet<Vec<u8>>, types: &[u16]) -> usize {
    let (mut count, mut differences, mut wrong) = (0, String::new(), 0);
    for name in names {
        for qtype in types {
            for (edns, dnssec) in [(None, false), (Some(4096), false), (Some(4096), true)] {
                let query = query(name, *qtype, edns, dnssec);
                let (theirs, ours) = (describe(&nsd.ask(&query)), describe(&ask(own, &query, UDP)));
                count += 1;
                if theirs != ours {
                    wrong += 1;
                    if wrong <= 12 {
                        let name = String::from_utf8_lossy(name);
                        writeln!(differences, "== {name:?} {qtype} {edns:?} {dnssec}\nNSD: {theirs}ours: {ours}")
                            .unwrap();
                    }
                }
            }
        }
    }
    assert_eq!(wrong, 0, "of {count} answers:\n{differences}");
    count
}

const TRANSFER: &str = "transfer=127.0.0.1";

#[test]
fn plain_zones_are_answered_as_nsd_does() {
    let folder = data("");
    let zones = [("plain.test", "plain.zone"), ("secure.plain.test", "child.zone"), ("other.test", "child.zone")];
    let Some(nsd) = Nsd::start(&folder, &zones) else { return };
    let loaded = zones.map(|(name, file)| load(name, &data(file), 100).unwrap().0);
    let config: String = zones.iter().map(|(name, file)| format!("zone {name} {file} {TRANSFER}\n")).collect();
    let own = server(loaded, &config);
    let mut all = BTreeSet::new();
    for (name, _) in zones {
        all.append(&mut names(&own, name));
    }
    all.insert(b"\x04none\0".to_vec());
    all.insert(b"\0".to_vec());
    let count = compare(&nsd, &own, &all, &TYPES);
    println!("{count} answers, as NSD's");
    assert!(count > 2000);
}

/// Signs the plain zone in several ways, with BIND's tools.
fn sign(folder: &Path) -> bool {
    let run = |program: &str, words: &[&str]| {
        let output = Command::new(program).current_dir(folder).args(words).output().unwrap();
        assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    if Command::new("dnssec-signzone").arg("-V").stdout(Stdio::null()).status().is_err() {
        eprintln!("signed zones are not compared with NSD's answers: dnssec-signzone is not installed");
        return false;
    }
    let mut text = fs::read_to_string(data("plain.zone")).unwrap();
    fs::copy(data("included.zone"), folder.join("included.zone")).unwrap();
    for flag in [&["-f", "KSK"][..], &[]] {
        let words = [&["-q", "-a", "ECDSAP256SHA256"][..], flag, &["plain.test"]].concat();
        let key = run("dnssec-keygen", &words);
        text.push_str(&fs::read_to_string(folder.join(key + ".key")).unwrap());
    }
    fs::write(folder.join("unsigned.zone"), text).unwrap();
    for (name, words) in [
        ("nsec.zone", &[][..]),
        ("nsec3.zone", &["-3", "aabbccdd", "-H", "5"]),
        ("optout.zone", &["-3", "-", "-H", "0", "-A"]),
    ] {
        let common = ["-q", "-o", "plain.test", "-e", "20500101000000", "-f", name];
        run("dnssec-signzone", &[&common[..], words, &["unsigned.zone"]].concat());
    }
    true
}

/// Whether a label is as long as a hash's.
fn has_hash(name: &[u8]) -> bool {
    let mut rest = name;
    while let [len @ (1..), after @ ..] = rest {
        if *len == 32 {
            return true;
        }
        rest = &after[usize::from(*len)..];
    }
    false
}

#[test]
fn signed_zones_are_answered_as_nsd_does() {
    let folder = tempfile::tempdir().unwrap();
    if !sign(folder.path()) {
        return;
    }
    for (file, denial) in [("nsec.zone", "NSEC"), ("nsec3.zone", "NSEC3"), ("optout.zone", "NSEC3")] {
        let zones = [("plain.test", file)];
        let Some(nsd) = Nsd::start(folder.path(), &zones) else { return };
        let zone = load("plain.test", &folder.path().join(file), 1000).unwrap().0;
        assert_eq!(zone.denial(), Some(denial));
        let own = server([zone], &format!("zone plain.test {file} {TRANSFER}"));
        let mut names = names(&own, "plain.test");
        // Where a DNAME record leads to a wildcard, NSD (4.6) proves with an NSEC record that does not cover the name.
        names.retain(|name| !name.windows(6).any(|part| part == b"\x05dname"));
        // NSD takes the owners of NSEC3 records for names; by RFC 5155, section 7.2.8, they are none.
        names.retain(|name| !has_hash(name));
        // With NSEC3 it proves for a question about a wildcard itself more than is to be proven (RFC 5155, section 7.2.3).
        names.retain(|name| denial == "NSEC" || !name.starts_with(b"\x01*"));
        let count = compare(&nsd, &own, &names, &[1, 2, 5, 6, 16, 43, 47, 48, 39]);
        println!("{file}: {count} answers, as NSD's");
        assert!(count > 2000);
    }
}
