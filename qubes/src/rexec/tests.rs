use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::command::{BadCommand, Call, Request};
use super::wire::{
    self, Connection, Control, ControlDecoder, DataDecoder, MAX_COMMAND, MAX_SERVICE, Piece, Stream, WireError,
};

const CONNECTION: Connection = Connection { domain: 7, port: 513 };

fn raw(kind: u32, body: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(body.len() as u32).to_le_bytes(), body].concat()
}

fn field(text: &str, len: usize) -> Vec<u8> {
    let mut field = text.as_bytes().to_vec();
    field.resize(len, 0);
    field
}

fn decode(bytes: &[u8]) -> Result<Vec<Control>, WireError> {
    let mut decoder = ControlDecoder::default();
    decoder.push(bytes);
    let mut messages = Vec::new();
    while let Some(message) = decoder.next_message()? {
        messages.push(message);
    }
    Ok(messages)
}

fn trigger() -> Control {
    Control::Trigger { target: "@default".into(), service: "qubes.Ping+me".into(), ident: "call-1".into() }
}

/// The structures of `qrexec.h`, by hand.
#[test]
fn control_messages_as_the_original_lays_them_out() {
    let connection = [7, 0, 0, 0, 1, 2, 0, 0];
    let command = || "user:QUBESRPC a+b dom0".to_string();
    let text = [&connection[..], b"user:QUBESRPC a+b dom0\0"].concat();
    let ident = || "call-1".to_string();
    for (message, kind, body) in [
        (Control::Hello { version: 3 }, 0x300, vec![3, 0, 0, 0]),
        (Control::Exec { connection: CONNECTION, command: command() }, 0x200, text.clone()),
        (Control::JustExec { connection: CONNECTION, command: command() }, 0x201, text),
        (
            Control::ServiceConnect { connection: CONNECTION, ident: ident() },
            0x202,
            [&connection[..], &field("call-1", 32)].concat(),
        ),
        (Control::ServiceRefused { ident: ident() }, 0x203, field("call-1", 32)),
        (Control::Terminated(CONNECTION), 0x211, connection.to_vec()),
    ] {
        for version in 2..=4 {
            assert_eq!(message.encode(version).unwrap(), raw(kind, &body));
        }
        assert_eq!(decode(&raw(kind, &body)).unwrap(), [message]);
    }
}

/// The name of the service is part of it in each version, at the end from version 3 on.
#[test]
fn a_call_names_its_service_in_each_version() {
    let (name, target, ident) = ("qubes.Ping+me", "@default", field("call-1", 32));
    let end = [name.as_bytes(), b"\0"].concat();
    for (version, kind, body) in [
        (2, 0x210, [field(name, 64), field(target, 32), ident.clone()].concat()),
        (3, 0x212, [field(target, 64), ident.clone(), end.clone()].concat()),
        (4, 0x213, [field("", 64), field(target, 64), ident, end].concat()),
    ] {
        assert_eq!(trigger().encode(version).unwrap(), raw(kind, &body), "version {version}");
        assert_eq!(decode(&raw(kind, &body)).unwrap(), [trigger()]);
    }
    let long = |len: usize| Control::Trigger { target: "a".into(), service: "s".repeat(len), ident: "i".into() };
    assert_eq!(long(64).encode(2), Err(WireError::Text { len: 64, max: 63 }));
    assert_eq!(long(63).encode(2).unwrap().len(), 8 + 128);
    assert_eq!(long(MAX_SERVICE).encode(3), Err(WireError::Text { len: 65000, max: 64999 }));
    assert_eq!(decode(&long(MAX_SERVICE - 1).encode(4).unwrap()).unwrap(), [long(MAX_SERVICE - 1)]);
    let nul = Control::Trigger { target: "a\0b".into(), service: "s".into(), ident: "i".into() };
    assert_eq!(nul.encode(4), Err(WireError::Text { len: 3, max: 63 }));
}

#[test]
fn control_messages_that_cannot_be() {
    for (kind, len) in [
        (0x300, 0),
        (0x300, 8),
        (0x200, 8),
        (0x200, 9 + MAX_COMMAND),
        (0x201, 0),
        (0x202, 8),
        (0x203, 31),
        (0x210, 127),
        (0x211, 9),
        (0x212, 96),
        (0x213, 161 + MAX_SERVICE),
    ] {
        // Refused by the header alone: nothing is collected for it.
        let header = [&u32::to_le_bytes(kind)[..], &(len as u32).to_le_bytes()].concat();
        assert_eq!(decode(&header), Err(WireError::Length { kind, len }));
    }
    for kind in [0, 0x190, 0x204, 0x214, 0x301, u32::MAX] {
        assert_eq!(decode(&raw(kind, &[])), Err(WireError::UnknownType { kind }));
    }
    assert_eq!(decode(&raw(0x203, &[b'a'; 32])), Err(WireError::NotText { kind: 0x203 }));
    assert_eq!(decode(&raw(0x200, b"12345678\xff\0")), Err(WireError::NotText { kind: 0x200 }));
    // The original ends a command with a NUL in place of its last byte.
    let Control::Exec { command, .. } = &decode(&raw(0x200, b"12345678abc")).unwrap()[0] else { panic!() };
    assert_eq!(command, "ab");
    let Control::Exec { command, .. } = &decode(&raw(0x200, b"12345678a\0b\0")).unwrap()[0] else { panic!() };
    assert_eq!(command, "a");
}

#[test]
fn versions() {
    assert_eq!(wire::negotiate(0), Err(WireError::Version { offered: 0 }));
    assert_eq!(wire::negotiate(1), Err(WireError::Version { offered: 1 }));
    assert_eq!((wire::negotiate(2), wire::negotiate(3), wire::negotiate(4)), (Ok(2), Ok(3), Ok(4)));
    assert_eq!((wire::negotiate(5), wire::negotiate(u32::MAX)), (Ok(4), Ok(4)));
    assert_eq!((wire::max_chunk(2), wire::max_chunk(3), wire::max_chunk(4)), (4096, 65536, 65536));
}

#[test]
fn command_lines() {
    let parse = |line: &str| Call::parse(line, false);
    let service = |name: &str, argument: Option<&str>, source: &str| Request::Service {
        name: name.into(),
        argument: argument.map(String::from),
        source: source.into(),
    };
    for (line, user, request) in [
        ("user:QUBESRPC qubes.Ping work", "user", service("qubes.Ping", None, "work")),
        ("user:QUBESRPC qubes.Ping+ work", "user", service("qubes.Ping", Some(""), "work")),
        ("root:nogui:QUBESRPC a.B+c+d dom0", "root", service("a.B", Some("c+d"), "dom0")),
        // What comes after the source says what was asked for, which the policy may have changed.
        (":QUBESRPC a.B work keyword adminvm", "", service("a.B", None, "work")),
        ("user:ls -l a:b", "user", Request::CommandLine("ls -l a:b".into())),
        ("user:", "user", Request::CommandLine(String::new())),
    ] {
        assert_eq!(parse(line), Ok(Call { user: user.into(), request, is_just_exec: false }), "{line}");
    }
    for (line, error) in [
        ("", BadCommand::NoUser),
        ("QUBESRPC a b", BadCommand::NoUser),
        ("user:QUBESRPC", BadCommand::NoService),
        ("user:QUBESRPCa b", BadCommand::NoService),
        ("user:QUBESRPC a", BadCommand::NoSource),
        ("user:QUBESRPC  a b", BadCommand::NoService),
        ("user:QUBESRPC +a b", BadCommand::NoService),
        ("user:QUBESRPC a ", BadCommand::NoSource),
        ("user:QUBESRPC a  b", BadCommand::NoSource),
    ] {
        assert_eq!(parse(line), Err(error), "{line}");
    }
}

/// What a decoder makes of these bytes in pieces, with the bytes of one stream joined.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Read {
    Bytes(Stream, Vec<u8>),
    End(Stream),
    Exit(u32),
}

fn read(version: u32, bytes: &[u8], cuts: &[usize]) -> Result<Vec<Read>, WireError> {
    let (mut decoder, mut all, mut rest, mut cuts) =
        (DataDecoder::new(version), Vec::new(), bytes, cuts.iter().cycle());
    while !rest.is_empty() {
        let (mut piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
        rest = after;
        while let Some(read) = decoder.next_piece(&mut piece)? {
            match (read, all.last_mut()) {
                (Piece::Bytes(stream, bytes), Some(Read::Bytes(last, joined))) if *last == stream => {
                    joined.extend_from_slice(bytes);
                }
                (Piece::Bytes(stream, bytes), _) => all.push(Read::Bytes(stream, bytes.to_vec())),
                (Piece::End(stream), _) => all.push(Read::End(stream)),
                (Piece::Exit(code), _) => all.push(Read::Exit(code)),
            }
        }
        assert!(piece.is_empty(), "what was not taken is lost");
    }
    Ok(all)
}

#[test]
fn data_messages_as_the_original_lays_them_out() {
    for (stream, kind) in [(Stream::Stdin, 0x190), (Stream::Stdout, 0x191), (Stream::Stderr, 0x192)] {
        assert_eq!([&stream.header(3)[..], b"abc"].concat(), raw(kind, b"abc"));
        assert_eq!(stream.header(0)[..], raw(kind, b"")[..]);
        let bytes = [raw(kind, b"abc"), raw(kind, b"")].concat();
        assert_eq!(read(4, &bytes, &[100]).unwrap(), [Read::Bytes(stream, b"abc".into()), Read::End(stream)]);
    }
    assert_eq!(wire::exit_code(0x0102_0304)[..], raw(0x193, &[4, 3, 2, 1])[..]);
    assert_eq!(read(4, &wire::exit_code(127), &[100]).unwrap(), [Read::Exit(127)]);
    // As the original: 255 where it is too short, the first four bytes where it is longer.
    assert_eq!(read(4, &raw(0x193, b""), &[100]).unwrap(), [Read::Exit(255)]);
    assert_eq!(read(4, &raw(0x193, b"\x01\x02"), &[1]).unwrap(), [Read::Exit(255)]);
    assert_eq!(read(4, &raw(0x193, b"\x01\0\0\0\x09\x09"), &[1]).unwrap(), [Read::Exit(1)]);
}

#[test]
fn data_messages_that_cannot_be() {
    for (version, max) in [(2, 4096), (3, 65536), (4, 65536)] {
        assert!(read(version, &raw(0x190, &vec![1; max]), &[1000]).is_ok());
        for kind in [0x190, 0x193] {
            let error = read(version, &raw(kind, &vec![1; max + 1]), &[1000]);
            assert_eq!(error, Err(WireError::Length { kind, len: max + 1 }));
        }
    }
    for kind in [0, 0x18f, 0x194, 0x300, u32::MAX] {
        assert_eq!(read(4, &raw(kind, b""), &[8]), Err(WireError::UnknownType { kind }));
    }
}

fn any_control() -> impl Strategy<Value = Control> {
    const SHORT: &str = "[a-z.@+]{1,31}";
    const LONG: &str = "[a-z.@+]{1,63}";
    let connection = || (any::<u32>(), any::<u32>()).prop_map(|(domain, port)| Connection { domain, port });
    prop_oneof![
        any::<u32>().prop_map(|version| Control::Hello { version }),
        (connection(), ".{0,200}")
            .prop_map(|(connection, command)| { Control::Exec { connection, command: command.replace('\0', "") } }),
        (connection(), ".{0,200}")
            .prop_map(|(connection, command)| { Control::JustExec { connection, command: command.replace('\0', "") } }),
        (connection(), SHORT).prop_map(|(connection, ident)| Control::ServiceConnect { connection, ident }),
        SHORT.prop_map(|ident| Control::ServiceRefused { ident }),
        (SHORT, LONG, SHORT).prop_map(|(target, service, ident)| Control::Trigger { target, service, ident }),
        connection().prop_map(Control::Terminated),
    ]
}

proptest! {
    #[test]
    fn control_messages_arrive_in_any_pieces(
        sent in prop::collection::vec(any_control(), 0..8),
        version in 2..=4_u32,
        cuts in prop::collection::vec(1..100_usize, 1..30),
    ) {
        let bytes = sent.iter().map(|message| message.encode(version).unwrap()).collect::<Vec<_>>().concat();
        let (mut decoder, mut received, mut rest, mut cuts) = (ControlDecoder::default(), Vec::new(), &bytes[..], cuts.iter().cycle());
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
    fn streams_arrive_in_any_pieces(
        sent in prop::collection::vec((0..4_usize, 0..3000_usize), 0..12),
        cuts in prop::collection::vec(1..2000_usize, 1..30),
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::<Read>::new());
        for (number, (kind, len)) in sent.into_iter().enumerate() {
            let Some(stream) = [Stream::Stdin, Stream::Stdout, Stream::Stderr].get(kind).copied() else {
                bytes.extend_from_slice(&wire::exit_code(len as u32));
                expected.push(Read::Exit(len as u32));
                continue;
            };
            let body = vec![number as u8; len];
            bytes.extend_from_slice(&stream.header(len));
            bytes.extend_from_slice(&body);
            match (len, expected.last_mut()) {
                (0, _) => expected.push(Read::End(stream)),
                (_, Some(Read::Bytes(last, joined))) if *last == stream => joined.extend(body),
                _ => expected.push(Read::Bytes(stream, body)),
            }
        }
        prop_assert_eq!(read(2, &bytes, &cuts).unwrap(), expected);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0x18e..0x304_u32, line in ".{0,60}") {
        let bytes = [&kind.to_le_bytes()[..], &(bytes.len() as u32).to_le_bytes(), &bytes].concat();
        for message in decode(&bytes).unwrap_or_default() {
            let version = if matches!(message, Control::Trigger { .. }) { 4 } else { 2 };
            prop_assert_eq!(decode(&message.encode(version).unwrap()).unwrap(), [message]);
        }
        let _ = read(2, &bytes, &[7]);
        let _ = Call::parse(&line, true);
    }
}
