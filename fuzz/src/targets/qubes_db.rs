//! What dom0's QubesDB daemon writes, in pieces of any length, to a database that also has requests of its own.

use std::time::Duration;

use qubes::Database;
use qubes::db::wire::{Decoder, Kind, Message};
use qubes::db::{Change, Options};
use xen_hal::DomId;
use xen_sim::Xen;
use xen_vchan::Server;

use crate::input::Input;
use crate::peer::pause;

pub(super) const SHORT: u32 = 800;

/// The bounds of the database.
const MAX_ENTRIES: usize = 8;
const MAX_BYTES: usize = 2000;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let message = |kind, path: &str, value: &[u8]| {
        Message { kind, path: path.into(), value: value.into() }.encode().expect("it can be")
    };
    let copy = [
        message(Kind::Entry, "/qubes-ip", b"10.137.0.5"),
        message(Kind::Entry, "/a/b", b""),
        message(Kind::Entry, "", b""),
    ]
    .concat();
    let pushes = [
        message(Kind::Write, "/a/c", b"1"),
        message(Kind::Ok, "/own", b""),
        message(Kind::Remove, "/a/", b""),
        message(Kind::NotFound, "/own", b""),
        message(Kind::Write, "/a", b""),
    ]
    .concat();
    let error = message(Kind::Error, "/own", b"");
    let begin = [1, 40, 3];
    vec![
        [&begin[..], &copy].concat(),
        [&begin[..], &copy, &pushes].concat(),
        [&begin[..], &copy, &error].concat(),
        [&begin[..], &pushes].concat(),
    ]
}

pub(super) fn run(data: &[u8]) {
    let mut input = Input(data);
    let (seed, piece, requests) = (input.byte(), 1 + usize::from(input.byte()), input.byte());
    let bytes = input.0.to_vec();
    decode(&bytes, piece);

    let xen = Xen::new(u64::from(seed));
    let (dom0, qube) = (xen.dom0(), xen.domain());
    let mut options = Options::default();
    (options.max_entries, options.max_bytes, options.max_changes) = (MAX_ENTRIES, MAX_BYTES, 4);
    let (db, runner) = Database::new(qube.clone(), &qube.store(), options);
    let running = qube.spawn(runner);
    for number in 0..requests % 4 {
        let db = db.clone();
        let asking = async move {
            let _ = if number == 1 { db.remove("/own").await } else { db.write("/own", b"x").await };
        };
        qube.spawn(asking).detach();
    }
    let (watched, watching) = (db.clone(), db.watch(""));
    qube.spawn(follow(watched, watching)).detach();
    let server = Server::new(dom0.clone(), &dom0.store(), qube.id(), 111).with_sizes(4096, 4096);
    let mut server = server.expect("there are such rings");
    let serving = dom0.spawn(async move {
        let Ok(mut channel) = server.accept().await else { return };
        let mut asked = [0; 72];
        let _ = channel.read(&mut asked).await;
        for piece in bytes.chunks(piece) {
            let mut rest = piece;
            while let Ok(len @ 1..) = channel.write(rest).await {
                rest = &rest[len..];
            }
        }
        while let Ok(1..) = channel.read(&mut asked).await {}
    });
    pause(&xen, Duration::from_millis(20));
    let all = db.list("");
    assert!(all.len() <= MAX_ENTRIES);
    assert!(all.iter().map(|(path, value)| path.len() + value.len()).sum::<usize>() <= MAX_BYTES);
    assert!(all.iter().all(|(path, _)| path.starts_with('/') && !path.ends_with('/')));
    xen.check_budgets();
    drop((db, running, serving));
    pause(&xen, Duration::from_secs(3));
    assert_eq!((qube.id(), qube.mapped_pages()), (DomId(1), 0));
    xen.end();
}

async fn follow(db: Database, mut changes: qubes::db::Changes) {
    while let Some(change) = changes.next().await {
        if let Change::Written(path) = change {
            let _ = (db.text(&path), db.children(&path));
        }
    }
}

/// What is read is what was written, and does not depend on the pieces.
fn decode(bytes: &[u8], piece: usize) {
    let read = |piece: usize| {
        let (mut decoder, mut read) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            decoder.push(piece);
            loop {
                match decoder.next_message() {
                    Ok(Some(message)) => read.push(message),
                    Ok(None) => break,
                    Err(error) => return (read, Some(error)),
                }
            }
        }
        (read, None)
    };
    let (messages, error) = read(piece);
    assert_eq!((&messages, error), (&read(usize::MAX).0, read(usize::MAX).1));
    for message in messages {
        let mut decoder = Decoder::default();
        decoder.push(&message.encode().expect("it was read"));
        assert_eq!(decoder.next_message(), Ok(Some(message)));
    }
}
