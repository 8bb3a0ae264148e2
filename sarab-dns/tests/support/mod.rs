//! Zones from files of the tests, messages as what they say, and NSD.

#![allow(dead_code, reason = "each test uses a part")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use domain::base::iana::Rtype;
use domain::base::{Message, ParsedName};
use domain::rdata::AllRecordData;
use futures_util::FutureExt;
use sarab_dns::{Catalog, Client, Config, Limits, LoadError, Loader, Reply, Server, Step, Time, Zone, parse_name};

pub const NOW: Time = Time { monotonic: 1000, unix: 1_800_000_000 };
pub const UDP: Client = Client { address: std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), tcp: false };
pub const TCP: Client = Client { tcp: true, ..UDP };

pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Loads a zone from its file, in pieces of so many bytes.
pub fn load(apex: &str, path: &Path, piece: usize) -> Result<(Zone, Vec<String>), LoadError> {
    let folder = path.parent().unwrap();
    let mut loader =
        Loader::new(&parse_name(apex).unwrap(), path.file_name().unwrap().to_str().unwrap(), Limits::new(64 << 20));
    let mut files = vec![(fs::read(path).unwrap(), 0)];
    loop {
        match loader.step()? {
            Step::More => {}
            Step::Read => {
                let (bytes, at) = files.last_mut().unwrap();
                let end = (*at + piece).min(bytes.len());
                loader.feed(&bytes[*at..end]);
                *at = end;
                if end == bytes.len() {
                    loader.end_of_file();
                    files.pop();
                }
            }
            Step::Include(name) => match fs::read(folder.join(&*name)) {
                Ok(bytes) => files.push((bytes, 0)),
                Err(error) => return Err(loader.unreadable(&error.to_string())),
            },
            Step::Done => return loader.finish(async || {}).now_or_never().unwrap(),
            _ => unreachable!(),
        }
    }
}

pub fn from_text(apex: &str, text: &str) -> Result<(Zone, Vec<String>), LoadError> {
    let mut loader = Loader::new(&parse_name(apex).unwrap(), "text", Limits::new(64 << 20));
    loader.feed(text.as_bytes());
    loader.end_of_file();
    loop {
        match loader.step()? {
            Step::Done => return loader.finish(async || {}).now_or_never().unwrap(),
            Step::More => {}
            step => panic!("{step:?}"),
        }
    }
}

/// A server of these zones, without limits for who asks much.
pub fn server(zones: impl IntoIterator<Item = Zone>, config: &str) -> Server {
    let mut catalog = Catalog::new();
    for zone in zones {
        catalog.insert(Rc::new(zone));
    }
    let config = Config::parse(&format!("ratelimit off\n{config}")).unwrap();
    Server::new(config, catalog, 7)
}

/// A query. `size` is that of EDNS, if there is to be any.
pub fn query(name: &[u8], qtype: u16, edns: Option<u16>, dnssec: bool) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&qtype.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    if let Some(size) = edns {
        bytes.extend_from_slice(&[0, 0, 41]);
        bytes.extend_from_slice(&size.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, if dnssec { 0x80 } else { 0 }, 0, 0, 0]);
    }
    bytes
}

pub fn ask(server: &Server, query: &[u8], client: Client) -> Vec<u8> {
    let mut to = vec![0; 65_535];
    match server.handle(query, client, NOW, &mut to) {
        Reply::Answer(len) | Reply::Notified(len, _) => to[..len].to_vec(),
        other => panic!("{other:?}"),
    }
}

/// What a message says: header and sections, each in the order of its records' text.
pub fn describe(bytes: &[u8]) -> String {
    let message = Message::from_slice(bytes).unwrap();
    let header = message.header();
    let mut text = format!("{} {}\n", header.rcode(), header.flags());
    if header.tc() {
        // What is left out is the server's choice.
        return text;
    }
    let mut sections =
        [message.answer().unwrap(), message.authority().unwrap(), message.additional().unwrap()].into_iter();
    for name in ["answer", "authority", "additional"] {
        let mut records = BTreeSet::new();
        for record in sections.next().unwrap() {
            let record = record.unwrap();
            if record.rtype() == Rtype::OPT {
                continue;
            }
            let record = record.to_any_record::<AllRecordData<_, ParsedName<_>>>().unwrap();
            let (owner, class, ttl) = (record.owner(), record.class(), record.ttl().as_secs());
            let line = format!("{owner} {ttl} {class} {} {}", record.rtype(), record.data());
            assert!(records.insert(line.to_lowercase()), "twice: {line}");
        }
        for record in records {
            writeln!(text, "{name}: {record}").unwrap();
        }
    }
    text
}

/// NSD, as long as this lives.
pub struct Nsd {
    child: Child,
    _folder: tempfile::TempDir,
    socket: UdpSocket,
    id: Cell<u16>,
}

impl Nsd {
    /// Serves these zones: names and files, in a folder. `None` where there is no NSD.
    pub fn start(folder: &Path, zones: &[(&str, &str)]) -> Option<Nsd> {
        if Command::new("nsd").arg("-v").stderr(Stdio::null()).status().is_err() {
            eprintln!("not compared with NSD, which is not installed");
            return None;
        }
        let own = tempfile::tempdir().unwrap();
        // A port that nobody has now.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = own.path().display();
        let mut config = format!(
            "server:\n ip-address: 127.0.0.1@{port}\n username: \"\"\n chroot: \"\"\n database: \"\"\n zonesdir: \"{}\"\n \
             pidfile: \"{path}/pid\"\n xfrdfile: \"{path}/xfrd\"\n zonelistfile: \"{path}/list\"\n xfrdir: \"{path}\"\n \
             cookie-secret-file: \"{path}/cookies\"\n \
             minimal-responses: yes\n refuse-any: no\n rrl-ratelimit: 0\n rrl-whitelist-ratelimit: 0\n server-count: 1\n\
             remote-control:\n control-enable: no\n",
            folder.display()
        );
        for (name, file) in zones {
            write!(config, "zone:\n name: \"{name}\"\n zonefile: \"{file}\"\n").unwrap();
        }
        let file = own.path().join("nsd.conf");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(own.path().join("log")).unwrap();
        let child = Command::new("nsd").arg("-d").arg("-c").arg(&file).stderr(log).spawn().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let nsd = Nsd { child, _folder: own, socket, id: Cell::new(0) };
        let deadline = Instant::now() + Duration::from_secs(20);
        let first = query(&parse_name(zones[0].0).unwrap(), 6, None, false);
        loop {
            match nsd.try_ask(&first) {
                Some(answer) if answer[3] & 15 == 0 => return Some(nsd),
                answer if Instant::now() > deadline => {
                    let log = fs::read_to_string(nsd._folder.path().join("log")).unwrap();
                    panic!("NSD does not serve: {answer:?}\n{log}")
                }
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn try_ask(&self, query: &[u8]) -> Option<Vec<u8>> {
        // An answer to an earlier query may still come.
        let id = self.id.get().wrapping_add(1);
        self.id.set(id);
        let mut own = query.to_vec();
        own[..2].copy_from_slice(&id.to_be_bytes());
        self.socket.send(&own).ok()?;
        loop {
            let mut bytes = vec![0; 65_535];
            let len = self.socket.recv(&mut bytes).ok()?;
            if bytes[..2] == id.to_be_bytes() {
                bytes.truncate(len);
                return Some(bytes);
            }
        }
    }

    pub fn ask(&self, query: &[u8]) -> Vec<u8> {
        (0..10).find_map(|_| self.try_ask(query)).expect("NSD answers")
    }
}

impl Drop for Nsd {
    fn drop(&mut self) {
        // It ends its own children when it is asked to.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
