use alloc::vec::Vec;
use alloc::{format, vec};

use proptest::prelude::*;

use super::copy::{Bounds, Copy, matches};
use super::state::{Event, Operation, ProtocolError, Replica};
use super::wire::{Decoder, Kind, MAX_VALUE, Message, WireError};
use super::{Change, Error};

pub(super) const BOUNDS: Bounds = Bounds { entries: 1000, bytes: 1 << 20 };

/// `struct qdb_hdr` as a C compiler lays it out, and the data after it.
fn raw(kind: u8, path: &[u8], len: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 72];
    bytes[0] = kind;
    bytes[1..1 + path.len()].copy_from_slice(path);
    bytes[68..72].copy_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(data);
    bytes
}

pub(super) fn message(kind: Kind, path: &str, value: &[u8]) -> Message {
    Message { kind, path: path.into(), value: value.into() }
}

fn decode(bytes: &[u8]) -> Result<Vec<Message>, WireError> {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    let mut messages = Vec::new();
    while let Some(message) = decoder.next_message()? {
        messages.push(message);
    }
    Ok(messages)
}

#[test]
fn messages_as_the_original_lays_them_out() {
    for (kind, number) in [
        (Kind::Write, 1),
        (Kind::MultiRead, 2),
        (Kind::Remove, 4),
        (Kind::Ok, 7),
        (Kind::NotFound, 8),
        (Kind::Error, 9),
        (Kind::Entry, 11),
    ] {
        let bytes = raw(number, b"/qubes-ip", 10, b"10.137.0.5");
        let message = message(kind, "/qubes-ip", b"10.137.0.5");
        assert_eq!(message.encode().unwrap(), bytes);
        assert_eq!(decode(&bytes).unwrap(), [message]);
    }
    let mut noisy = raw(11, b"/a\0noise-/*\xff", 1, b"x");
    noisy[65..68].fill(0xee);
    assert_eq!(decode(&noisy).unwrap(), [message(Kind::Entry, "/a", b"x")], "what the original leaves uninitialised");
    assert_eq!(Message::new(Kind::MultiRead, "").encode().unwrap(), raw(2, b"", 0, b""));
}

#[test]
fn headers_that_cannot_be() {
    for kind in [0, 3, 5, 6, 10, 12, 13, 14, 0xff] {
        assert_eq!(decode(&raw(kind, b"/a", 0, b"")), Err(WireError::UnknownType { found: kind }));
    }
    for path in [&[b'a'; 64][..], b"/a b", b"/\xff", b"-/a", b"/a*", b"/a\n", b"/a\\b"] {
        assert_eq!(decode(&raw(1, path, 0, b"")), Err(WireError::BadPath), "{path:?}");
    }
    for len in [3072, 3073, 1 << 16, u32::MAX] {
        assert_eq!(decode(&raw(1, b"/a", len, b"")), Err(WireError::TooLong { len: len as usize }));
    }
    assert_eq!(decode(&raw(1, &[b'/'; 63], 3071, &[7; 3071])).unwrap()[0].value.len(), MAX_VALUE);
    assert_eq!(message(Kind::Write, "/a", &[1; 3072]).encode(), Err(WireError::TooLong { len: 3072 }));
    assert_eq!(message(Kind::Write, "/a\0b", b"").encode(), Err(WireError::BadPath));
    assert_eq!(message(Kind::Write, &"/".repeat(64), b"").encode(), Err(WireError::BadPath));
}

#[test]
fn patterns_are_the_original_ones() {
    for (pattern, path, expected) in [
        ("/connected-ips", "/connected-ips", true),
        ("/connected-ips", "/connected-ips6", false),
        ("/qubes-firewall/", "/qubes-firewall/10.137.0.5", true),
        ("/qubes-firewall/", "/qubes-firewall-handled/1", false),
        ("/qubes-firewall/10.137.0.5", "/qubes-firewall/10.137.0.50", false),
        ("", "/a", true),
        ("/", "/a", true),
    ] {
        assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
    }
}

/// A replica that follows, with these entries.
fn following(bounds: Bounds, entries: &[(&str, &[u8])]) -> Replica {
    let mut replica = Replica::new(bounds);
    copy(&mut replica, entries);
    while replica.next_event().is_some() {}
    replica
}

fn copy(replica: &mut Replica, entries: &[(&str, &[u8])]) {
    replica.connect();
    assert_eq!(replica.next_to_send(), Some(Message::new(Kind::MultiRead, "")));
    assert_eq!(replica.next_to_send(), None, "a second one ends the channel");
    for (path, value) in entries {
        replica.receive(message(Kind::Entry, path, value)).unwrap();
    }
    replica.receive(Message::new(Kind::Entry, "")).unwrap();
}

pub(super) fn events(replica: &mut Replica) -> Vec<Event> {
    core::iter::from_fn(|| replica.next_event()).collect()
}

fn written(path: &str) -> Event {
    Event::Changed(Change::Written(path.into()))
}

#[test]
fn pushes_are_answered_with_the_same_path() {
    let mut replica = following(BOUNDS, &[("/d/a", b"1"), ("/d/b", b"2"), ("/d", b"3")]);
    replica.receive(message(Kind::Write, "/d/a", b"1")).unwrap();
    assert_eq!(replica.next_to_send(), Some(Message::new(Kind::Ok, "/d/a")));
    assert_eq!(events(&mut replica), [written("/d/a")], "also where the value is the same: it may be a marker");
    replica.receive(Message::new(Kind::Remove, "/d/")).unwrap();
    assert_eq!(replica.next_to_send(), Some(Message::new(Kind::Ok, "/d/")));
    let removed = |path: &str| Event::Changed(Change::Removed(path.into()));
    assert_eq!(events(&mut replica), [removed("/d/a"), removed("/d/b")]);
    assert_eq!(replica.copy().get("/d").unwrap()[..], *b"3");
    // Never that it is not there, which would end the channel.
    replica.receive(Message::new(Kind::Remove, "/none")).unwrap();
    assert_eq!(replica.next_to_send(), Some(Message::new(Kind::Ok, "/none")));
    assert_eq!(events(&mut replica), []);
}

#[test]
fn pushes_that_cannot_be_are_refused_and_no_more() {
    let mut replica = following(BOUNDS, &[("/a", b"1")]);
    for push in [
        message(Kind::Write, "/a", b"x\0y"),
        message(Kind::Write, "/a/", b""),
        message(Kind::Write, "a", b""),
        message(Kind::Write, "", b""),
        message(Kind::Remove, "", b""),
        message(Kind::Remove, "/a", b"x"),
    ] {
        let path = push.path.clone();
        replica.receive(push).unwrap();
        assert_eq!(replica.next_to_send(), Some(Message::new(Kind::Error, &path)), "without data");
        assert_eq!(events(&mut replica), [Event::Refused(path)]);
    }
    assert_eq!(replica.copy().get("/a").unwrap()[..], *b"1");
}

#[test]
fn what_ends_a_channel() {
    let mut replica = following(BOUNDS, &[]);
    assert_eq!(replica.receive(Message::new(Kind::MultiRead, "")), Err(ProtocolError::MultiRead));
    let late = replica.receive(message(Kind::Entry, "/a", b""));
    assert_eq!(late, Err(ProtocolError::Entry { path: "/a".into() }));
    replica.connect();
    let _ = replica.next_to_send();
    for (path, value) in [("/a", &b"\0"[..]), ("/a/", b""), ("a", b"")] {
        let error = replica.receive(message(Kind::Entry, path, value));
        assert_eq!(error, Err(ProtocolError::BadEntry { path: path.into() }));
    }
}

#[test]
fn our_requests_follow_one_by_one() {
    let mut replica = following(BOUNDS, &[("/b", b"0")]);
    let ids = [
        replica.request("/a", Operation::Write(b"1".into())),
        replica.request("/b", Operation::Remove),
        replica.request("/c", Operation::Remove),
    ];
    assert_eq!(replica.next_to_send(), Some(message(Kind::Write, "/a", b"1")));
    assert_eq!(replica.next_to_send(), None);
    assert!(replica.copy().get("/a").is_none(), "dom0 has not got it yet");
    // dom0 changes the same entry before it reads our request.
    replica.receive(message(Kind::Write, "/a", b"dom0's")).unwrap();
    assert_eq!(replica.next_to_send(), Some(Message::new(Kind::Ok, "/a")));
    let other = replica.receive(Message::new(Kind::Ok, "/b"));
    assert_eq!(other, Err(ProtocolError::Answer { path: "/b".into() }));
    replica.receive(Message::new(Kind::Ok, "/a")).unwrap();
    assert_eq!(replica.copy().get("/a").unwrap()[..], *b"1");
    assert_eq!(events(&mut replica), [written("/a"), written("/a"), Event::Answered(ids[0], Ok(()))]);
    assert_eq!(replica.next_to_send(), Some(Message::new(Kind::Remove, "/b")));
    replica.receive(Message::new(Kind::Error, "/b")).unwrap();
    let refused = Err(Error::Refused { path: "/b".into() });
    assert_eq!(events(&mut replica), [Event::Answered(ids[1], refused)]);
    assert!(replica.copy().get("/b").is_some());
    // A removal of what is not there would end the channel.
    assert_eq!(replica.next_to_send(), None);
    let missing = Err(Error::NotFound { path: "/c".into() });
    assert_eq!(events(&mut replica), [Event::Answered(ids[2], missing)]);
    // Answers to nothing are of no interest.
    replica.receive(Message::new(Kind::Ok, "/c")).unwrap();
    replica.receive(Message::new(Kind::Error, "/c")).unwrap();
    assert_eq!(events(&mut replica), []);
}

#[test]
fn requests_survive_one_connection() {
    let mut replica = following(BOUNDS, &[("/b", b"0")]);
    let write = replica.request("/a", Operation::Write(b"1".into()));
    let remove = replica.request("/b", Operation::Remove);
    assert!(replica.next_to_send().is_some());
    replica.disconnect();
    assert_eq!(events(&mut replica), []);
    copy(&mut replica, &[("/b", b"0")]);
    assert_eq!(events(&mut replica), [Event::Copied(vec![])]);
    assert_eq!(replica.next_to_send(), Some(message(Kind::Write, "/a", b"1")), "once more");
    replica.disconnect();
    let unanswered = Err(Error::Unanswered { path: "/a".into() });
    assert_eq!(events(&mut replica), [Event::Answered(write, unanswered)], "it may be why dom0 closes the channel");
    copy(&mut replica, &[("/b", b"0")]);
    assert_eq!(replica.next_to_send(), Some(Message::new(Kind::Remove, "/b")));
    replica.disconnect();
    // dom0 has done it just before the channel ended.
    copy(&mut replica, &[]);
    assert_eq!(replica.next_to_send(), None);
    let removed = Event::Copied(vec![Change::Removed("/b".into())]);
    assert_eq!(events(&mut replica), [Event::Copied(vec![]), removed, Event::Answered(remove, Ok(()))]);
}

#[test]
fn requests_that_nobody_waits_for() {
    let mut replica = following(BOUNDS, &[]);
    let sent = replica.request("/a", Operation::Write(b"1".into()));
    let unsent = replica.request("/b", Operation::Write(b"1".into()));
    assert!(replica.next_to_send().is_some());
    replica.cancel(unsent);
    replica.cancel(sent);
    replica.receive(Message::new(Kind::Ok, "/a")).unwrap();
    assert_eq!(events(&mut replica), [written("/a"), Event::Answered(sent, Ok(()))]);
    assert_eq!((replica.next_to_send(), replica.requests()), (None, 0));
    // It is not sent again either.
    let sent = replica.request("/a", Operation::Write(b"2".into()));
    assert!(replica.next_to_send().is_some());
    replica.cancel(sent);
    copy(&mut replica, &[]);
    assert_eq!((replica.next_to_send(), replica.requests()), (None, 0));
}

#[test]
fn what_has_no_room_is_named() {
    let bounds = Bounds { entries: 2, bytes: 1000 };
    let mut replica = Replica::new(bounds);
    copy(&mut replica, &[("/a", b"1"), ("/b/c", b"2"), ("/d/e", b"3"), ("/b/f", b"4")]);
    let no_room = |path: &str| Event::NoRoom(path.into());
    assert_eq!(events(&mut replica)[..2], [no_room("/d/e"), no_room("/b/f")]);
    let incomplete = |replica: &Replica, pattern: &str| replica.copy().is_incomplete(pattern);
    assert!(incomplete(&replica, "/d/") && incomplete(&replica, "/b/") && incomplete(&replica, "/b/f"));
    assert!(!incomplete(&replica, "/a") && !incomplete(&replica, "/d") && !incomplete(&replica, "/b/c"));
    // What had room and has none any more is not there with its old value.
    replica.receive(message(Kind::Write, "/a", &[b'x'; 900])).unwrap();
    assert!(replica.copy().get("/a").is_none() && incomplete(&replica, "/a"));
    replica.receive(Message::new(Kind::Remove, "/d/")).unwrap();
    assert!(!incomplete(&replica, "/d/"));
    replica.receive(message(Kind::Write, "/b/f", b"4")).unwrap();
    assert!(!incomplete(&replica, "/b/"));
    // Of very many not each is remembered: all may be incomplete.
    let mut many = Copy::default();
    (0..100).for_each(|number| assert!(!many.write(&format!("/n/{number}"), b"", Bounds { entries: 0, bytes: 0 })));
    assert!(many.is_incomplete("/other"));
}

proptest! {
    #[test]
    fn what_is_sent_is_received_in_any_pieces(
        sent in prop::collection::vec(("(/[a-z0-9_.:@-]{1,15}){0,3}", prop::collection::vec(any::<u8>(), 0..400)), 0..8),
        cuts in prop::collection::vec(1..200_usize, 1..40),
    ) {
        let sent: Vec<Message> = sent.iter().map(|(path, value)| message(Kind::Write, path, value)).collect();
        let bytes = sent.iter().map(|sent| sent.encode().unwrap()).collect::<Vec<_>>().concat();
        let (mut decoder, mut received, mut rest, mut cuts) = (Decoder::default(), Vec::new(), &bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
            rest = after;
            decoder.push(piece);
            while let Some(message) = decoder.next_message().unwrap() {
                received.push(message);
            }
        }
        prop_assert_eq!(received, sent);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0..14_u8) {
        let mut bytes = bytes;
        bytes.insert(0, kind);
        for message in decode(&bytes).unwrap_or_default() {
            prop_assert_eq!(decode(&message.encode().unwrap()).unwrap(), [message]);
        }
    }
}
