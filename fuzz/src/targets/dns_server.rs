//! Questions from clients to an authoritative server, and zone files from an administrator.

use std::cell::RefCell;
use std::rc::Rc;

use domain::base::{Message, ParsedName};
use domain::rdata::AllRecordData;
use futures_util::FutureExt;
use sarab_dns::{Catalog, Client, Config, Limits, Loader, Reply, Server, Step, Time, Zone, parse_name};

pub(super) const SHORT: u32 = 3000;

const ZONES: [(&str, &str); 3] = [
    ("nsec.test", include_str!("../../../sarab-dns/tests/data/signed-nsec.zone")),
    ("nsec3.test", include_str!("../../../sarab-dns/tests/data/signed-nsec3.zone")),
    ("plain.test", include_str!("../../../sarab-dns/tests/data/plain.zone")),
];
const NOW: Time = Time { monotonic: 5, unix: 1_800_000_000 };
const CONFIG: &str = "ratelimit off\nnsid fuzz\nidentity a\nversion b\nkey k hmac-sha256 c2VjcmV0\n\
                      zone nsec.test a transfer=0.0.0.0/0 notified-by=0.0.0.0/0\nzone nsec3.test b key=k\n";

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let names: [&[u8]; 6] = [
        b"\x04nsec\x04test\0",
        b"\x01a\x07nothing\x05nsec3\x04test\0",
        b"\x01x\x05dname\x04nsec\x04test\0",
        b"\x01a\x04wild\x05nsec3\x04test\0",
        b"\x03sub\x05plain\x04test\0",
        b"\x05loop1\x05plain\x04test\0",
    ];
    for (index, name) in names.iter().enumerate() {
        for qtype in [1, 252] {
            let mut seed = vec![index as u8 & 1, 1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
            seed.extend_from_slice(name);
            seed.extend_from_slice(&[0, qtype, 0, 1]);
            // EDNS with DO, NSID and a cookie.
            seed.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\x80\0\0\x10\0\x03\0\0\0\x0a\0\x08abcdefgh");
            seeds.push(seed);
        }
    }
    seeds.push([&[2, 40][..], &ZONES[2].1.as_bytes()[..2000]].concat());
    seeds.push([&[2, 9][..], &ZONES[1].1.as_bytes()[..2000]].concat());
    seeds.push(
        b"\x02\x01$TTL 1h\n@ SOA a b 1 2 3 4 5\n NS a\n* HTTPS 1 . alpn=\"a,b\" key9=\\001\nl LOC 1 N 1 E 1m\n"
            .to_vec(),
    );
    seeds
}

pub(super) fn run(data: &[u8]) {
    thread_local!(static SERVER: RefCell<Option<Rc<Server>>> = const { RefCell::new(None) });
    let [kind, rest @ ..] = data else { return };
    if *kind < 2 {
        let server = SERVER.with_borrow_mut(|server| server.get_or_insert_with(|| Rc::new(server_of_all())).clone());
        ask(&server, rest, *kind == 1);
    } else if let [piece, text @ ..] = rest
        && let Some(zone) = load("plain.test", text, usize::from(*piece) + 1)
    {
        check(zone);
    }
}

fn server_of_all() -> Server {
    let mut catalog = Catalog::new();
    for (name, text) in ZONES {
        let zone = load(name, text.replace("$INCLUDE", ";").as_bytes(), 1000).expect("a zone of the tests");
        catalog.insert(Rc::new(zone));
    }
    Server::new(Config::parse(CONFIG).expect("a configuration"), catalog, 7)
}

/// A zone from its file, in pieces; files that are included are empty.
fn load(name: &str, text: &[u8], piece: usize) -> Option<Zone> {
    let mut loader = Loader::new(&parse_name(name).unwrap(), "zone", Limits::new(4 << 20));
    let mut pieces = text.chunks(piece);
    loop {
        match loader.step() {
            Ok(Step::More) => {}
            Ok(Step::Read) => match pieces.next() {
                Some(piece) => loader.feed(piece),
                None => loader.end_of_file(),
            },
            Ok(Step::Include(_)) => loader.end_of_file(),
            Ok(Step::Done) => break,
            Ok(step) => panic!("{step:?}"),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return None;
            }
        }
    }
    loader.finish(async || {}).now_or_never().expect("nothing to wait for").ok().map(|(zone, _)| zone)
}

fn ask(server: &Server, query: &[u8], tcp: bool) {
    let client = Client { address: [192, 0, 2, 1].into(), tcp };
    let mut to = vec![0; if tcp { 65_535 } else { 4096 }];
    match server.handle(query, client, NOW, &mut to) {
        Reply::None => {}
        Reply::Answer(len) | Reply::Notified(len, _) => {
            assert!(tcp || len <= 1232, "{len} bytes by UDP");
            assert_eq!(to[..2], query[..2]);
            read(&to[..len]);
        }
        Reply::Transfer(mut transfer) => {
            while let Some(len) = transfer.next(NOW.unix, &mut to) {
                read(&to[..len]);
            }
        }
    }
}

/// A message that others understand, to its end.
fn read(bytes: &[u8]) -> Vec<Vec<u8>> {
    let message = Message::from_slice(bytes).expect("a header");
    assert!(message.header().qr());
    let mut owners = Vec::new();
    for (record, _) in message.iter().map(|record| record.expect("a record")) {
        let owner: Vec<u8> = domain::base::name::ToName::to_vec(&record.owner()).as_slice().to_vec();
        owners.push(owner);
        record.to_any_record::<AllRecordData<_, ParsedName<_>>>().expect("data of its type");
    }
    owners
}

/// All that a zone holds can be asked for, and transferred.
fn check(zone: Zone) {
    let config = "ratelimit off\nzone plain.test x transfer=0.0.0.0/0\n";
    let mut catalog = Catalog::new();
    catalog.insert(Rc::new(zone));
    let server = Server::new(Config::parse(config).unwrap(), catalog, 7);
    let question = |name: &[u8], qtype: u8| {
        let mut query = vec![0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        query.extend_from_slice(name);
        query.extend_from_slice(&[0, qtype, 0, 1]);
        query.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\x80\0\0\0");
        query
    };
    let client = Client { address: [192, 0, 2, 1].into(), tcp: true };
    let mut to = vec![0; 65_535];
    let mut owners = Vec::new();
    let query = question(&parse_name("plain.test").unwrap(), 252);
    let Reply::Transfer(mut transfer) = server.handle(&query, client, NOW, &mut to) else { panic!("no transfer") };
    while let Some(len) = transfer.next(NOW.unix, &mut to) {
        owners.append(&mut read(&to[..len]));
    }
    for owner in owners.iter().take(50) {
        for qtype in [1, 2, 255] {
            ask(&server, &question(owner, qtype), true);
            let below = [&b"\x01!"[..], owner].concat();
            if below.len() <= 255 {
                ask(&server, &question(&below, qtype), false);
            }
        }
    }
}
