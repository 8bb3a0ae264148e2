//! A server of files that live in memory, as strict as a server can be: whatever a client must not ask panics.

#![allow(dead_code, reason = "each test is a crate of its own, and uses a part")]

use std::collections::{BTreeMap, HashMap};

use xen_9pfs::front::Dialect;
use xen_9pfs::protocol::{
    Attributes, DMDIR, Data, DirEntry, FileSystem, Kind, Message, NOFID, QTDIR, QTSYMLINK, Qid, Qids, Stat, Text, Time,
    VERSION, VERSION_U, is_name,
};

pub const ENOENT: u32 = 2;
pub const EACCES: u32 = 13;
pub const EEXIST: u32 = 17;
pub const ENOTDIR: u32 = 20;
pub const EISDIR: u32 = 21;
pub const EINVAL: u32 = 22;
pub const EMFILE: u32 = 24;
pub const ENOTEMPTY: u32 = 39;
pub const EOPNOTSUPP: u32 = 95;

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    File(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, u64>),
    Link(Vec<u8>),
}

struct Inode {
    node: Node,
    mode: u32,
    modified: Time,
    links: u64,
}

#[derive(Clone, Debug)]
struct Fid {
    inode: u64,
    /// Its directory, and its name there.
    parent: (u64, Vec<u8>),
    open: Option<Open>,
}

#[derive(Clone, Debug)]
struct Open {
    read: bool,
    write: bool,
    remove: bool,
    /// Where a directory of 9P2000.u goes on, by offset and by entry.
    next: (u64, usize),
}

pub struct Files {
    /// What it speaks.
    pub dialect: Dialect,
    /// It is xen-9pfsd: its faults, and what it cannot do.
    pub is_daemon: bool,
    pub max_fids: usize,
    pub max_msize: u32,
    /// It reads and writes no more at once.
    pub short: Option<usize>,
    msize: u32,
    inodes: BTreeMap<u64, Inode>,
    fids: HashMap<u32, Fid>,
    last: u64,
    pub most_fids: usize,
}

type Answer = Result<Vec<u8>, u32>;

impl Files {
    pub fn new(dialect: Dialect) -> Files {
        let root = Inode { node: Node::Dir(BTreeMap::new()), mode: 0o755, modified: now(), links: 1 };
        Files {
            dialect,
            is_daemon: false,
            max_fids: 1000,
            max_msize: u32::MAX,
            short: None,
            msize: 0,
            inodes: BTreeMap::from([(1, root)]),
            fids: HashMap::new(),
            last: 1,
            most_fids: 0,
        }
    }

    /// Fids in use.
    pub fn fids(&self) -> usize {
        self.fids.len()
    }

    /// A new session, of a server that has been started again.
    pub fn restart(&mut self) {
        self.fids.clear();
    }

    /// Puts a file there, past the protocol.
    pub fn put(&mut self, path: &str, node: Node) {
        let mut at = 1;
        let names: Vec<_> = path.split('/').collect();
        for (index, name) in names.iter().enumerate() {
            let made = if index + 1 == names.len() { node.clone() } else { Node::Dir(BTreeMap::new()) };
            at = match self.child(at, name.as_bytes()) {
                Some(found) => found,
                None => self.make(at, name.as_bytes(), made, 0o644).unwrap(),
            };
        }
    }

    /// What is at a path.
    pub fn get(&self, path: &str) -> Option<&Node> {
        let names = path.split('/').filter(|name| !name.is_empty());
        let at = names.into_iter().try_fold(1, |at, name| self.child(at, name.as_bytes()))?;
        Some(&self.inodes[&at].node)
    }

    fn child(&self, dir: u64, name: &[u8]) -> Option<u64> {
        match &self.inodes[&dir].node {
            Node::Dir(entries) => entries.get(name).copied(),
            _ => None,
        }
    }

    fn entries(&mut self, dir: u64) -> Result<&mut BTreeMap<Vec<u8>, u64>, u32> {
        match &mut self.inodes.get_mut(&dir).unwrap().node {
            Node::Dir(entries) => Ok(entries),
            _ => Err(ENOTDIR),
        }
    }

    fn make(&mut self, dir: u64, name: &[u8], node: Node, mode: u32) -> Result<u64, u32> {
        assert!(is_name(name), "{name:?}");
        if name.len() > 255 {
            return Err(36);
        }
        if self.child(dir, name).is_some() {
            return Err(EEXIST);
        }
        let inode = self.last + 1;
        self.entries(dir)?.insert(name.into(), inode);
        self.last = inode;
        self.inodes.insert(inode, Inode { node, mode, modified: now(), links: 1 });
        Ok(inode)
    }

    fn remove(&mut self, dir: u64, name: &[u8], wants_dir: Option<bool>) -> Result<(), u32> {
        let inode = self.child(dir, name).ok_or(ENOENT)?;
        let is_dir = match &self.inodes[&inode].node {
            Node::Dir(entries) if !entries.is_empty() => return Err(ENOTEMPTY),
            Node::Dir(_) => true,
            _ => false,
        };
        match wants_dir {
            Some(true) if !is_dir => return Err(ENOTDIR),
            Some(false) if is_dir => return Err(EISDIR),
            _ => {}
        }
        self.entries(dir)?.remove(name);
        Ok(())
    }

    fn qid(&self, inode: u64) -> Qid {
        let kind = match &self.inodes[&inode].node {
            Node::Dir(_) => QTDIR,
            Node::Link(_) => QTSYMLINK,
            Node::File(_) => 0,
        };
        Qid { kind, version: 0, path: inode }
    }

    fn fid(&self, fid: u32) -> &Fid {
        self.fids.get(&fid).unwrap_or_else(|| panic!("fid {fid} is not in use: {:?}", self.fids.keys()))
    }

    /// Answers a request; every answer fits into the session's messages.
    pub fn answer(&mut self, tag: u16, message: &Message<'_>) -> Vec<u8> {
        if let Message::Tversion { msize, version } = *message {
            self.msize = msize.min(self.max_msize);
            let known = if self.dialect == Dialect::Linux { VERSION } else { VERSION_U };
            let version = if version == known { version } else { "unknown" };
            return Message::Rversion { msize: self.msize, version }.encode(tag, msize).unwrap();
        }
        let linux = matches!(message.kind().0, 8..=77);
        let unix = matches!(message.kind(), Kind::TOPEN | Kind::TCREATE | Kind::TREMOVE | Kind::TSTAT | Kind::TWSTAT);
        assert!(!(linux && self.dialect == Dialect::Unix || unix && self.dialect == Dialect::Linux), "{message:?}");
        let answer = self.perform(tag, message).unwrap_or_else(|ecode| {
            match self.dialect {
                Dialect::Linux => Message::Rlerror { ecode },
                _ => Message::Rerror { ename: Text(b"no"), ecode },
            }
            .encode(tag, self.msize)
            .unwrap()
        });
        self.most_fids = self.most_fids.max(self.fids.len());
        answer
    }

    fn perform(&mut self, tag: u16, message: &Message<'_>) -> Answer {
        let msize = self.msize;
        let encode = |message: Message<'_>| Ok(message.encode(tag, msize).expect("it fits"));
        match *message {
            Message::Tattach { fid, afid, .. } => {
                assert!(self.fids.is_empty() && afid == NOFID);
                self.fids.insert(fid, Fid { inode: 1, parent: (1, Vec::new()), open: None });
                encode(Message::Rattach { qid: self.qid(1) })
            }
            Message::Twalk { fid, newfid, names } => {
                let start = self.fid(fid).clone();
                assert!(start.open.is_none() && names.len() <= 16, "a walk of {} names", names.len());
                assert!(newfid == fid || !self.fids.contains_key(&newfid), "fid {newfid} is in use");
                let (mut at, mut parent, mut qids) = (start.inode, start.parent, Vec::new());
                for name in names.iter() {
                    assert!(is_name(name), "{name:?}");
                    let Some(next) = self.child(at, name) else { break };
                    parent = (at, name.to_vec());
                    at = next;
                    let qid = self.qid(at);
                    qids.push(qid.kind);
                    qids.extend(qid.version.to_le_bytes());
                    qids.extend(qid.path.to_le_bytes());
                }
                if qids.is_empty() && !names.is_empty() {
                    return Err(if matches!(self.inodes[&at].node, Node::Dir(_)) { ENOENT } else { ENOTDIR });
                }
                if qids.len() == names.len() * Qid::SIZE {
                    if newfid != fid && self.fids.len() >= self.max_fids {
                        return Err(EMFILE);
                    }
                    self.fids.insert(newfid, Fid { inode: at, parent, open: None });
                }
                encode(Message::Rwalk { qids: Qids::of(&qids) })
            }
            Message::Tlopen { fid, flags } => {
                assert_eq!(flags & !0o101003, 0, "{flags:o}");
                self.open(fid, (flags & 3) as u8, flags & 0o1000 != 0, false)?;
                encode(Message::Rlopen { qid: self.qid(self.fid(fid).inode), iounit: 0 })
            }
            Message::Topen { fid, mode } => {
                self.open(fid, mode & 3, mode & 0x10 != 0, mode & 0x40 != 0)?;
                encode(Message::Ropen { qid: self.qid(self.fid(fid).inode), iounit: self.msize - 1000 })
            }
            Message::Tlcreate { fid, name, flags, mode, .. } => {
                assert_eq!(flags & 0o300, 0o300);
                self.create(fid, name.0, Node::File(Vec::new()), mode, (flags & 3) as u8)?;
                encode(Message::Rlcreate { qid: self.qid(self.fid(fid).inode), iounit: 4096 })
            }
            Message::Tcreate { fid, name, perm, mode, .. } => {
                let node = if perm & DMDIR != 0 { Node::Dir(BTreeMap::new()) } else { Node::File(Vec::new()) };
                self.create(fid, name.0, node, perm & 0o777, mode & 3)?;
                encode(Message::Rcreate { qid: self.qid(self.fid(fid).inode), iounit: 0 })
            }
            Message::Tread { fid, offset, count } => {
                assert!(count + 11 <= self.msize, "a read of {count} bytes");
                let open = self.fid(fid).open.clone().expect("it is open");
                if matches!(self.inodes[&self.fid(fid).inode].node, Node::Dir(_)) {
                    assert_eq!(self.dialect, Dialect::Unix);
                    return self.read_dir_unix(tag, fid, offset, count as usize);
                }
                let Node::File(bytes) = &self.inodes[&self.fid(fid).inode].node else { return Err(EINVAL) };
                if !open.read {
                    return Err(9);
                }
                let from = bytes.len().min(usize::try_from(offset).unwrap());
                let most = self.short.unwrap_or(usize::MAX).min(count as usize);
                encode(Message::Rread { data: Data(&bytes[from..bytes.len().min(from.saturating_add(most))]) })
            }
            Message::Twrite { fid, offset, data } => {
                assert!(self.fid(fid).open.as_ref().is_some_and(|open| open.write) && !data.0.is_empty());
                let data = &data.0[..data.0.len().min(self.short.unwrap_or(usize::MAX))];
                let inode = self.fid(fid).inode;
                let Node::File(bytes) = &mut self.inodes.get_mut(&inode).unwrap().node else { return Err(EISDIR) };
                let from = usize::try_from(offset).unwrap();
                if bytes.len() < from + data.len() {
                    bytes.resize(from + data.len(), 0);
                }
                bytes[from..from + data.len()].copy_from_slice(data);
                encode(Message::Rwrite { count: data.len() as u32 })
            }
            Message::Tclunk { fid } => {
                let gone = self.fids.remove(&fid).unwrap_or_else(|| panic!("fid {fid} is not in use"));
                if gone.open.is_some_and(|open| open.remove) {
                    let _ = self.remove(gone.parent.0, &gone.parent.1, None);
                }
                encode(Message::Rclunk {})
            }
            Message::Tgetattr { fid, .. } => {
                let attributes = self.attributes(self.fid(fid).inode);
                encode(Message::Rgetattr { attributes })
            }
            Message::Tstat { fid } => {
                let (inode, name) = (self.fid(fid).inode, self.fid(fid).parent.1.clone());
                let mut bytes = Message::Rstat { stat: self.stat(inode, &name) }.encode(tag, msize).unwrap();
                if self.is_daemon {
                    lengthen(&mut bytes[7..]);
                    lengthen(&mut bytes[9..]);
                }
                Ok(bytes)
            }
            Message::Tsetattr { fid, attributes } => {
                let inode = self.inodes.get_mut(&self.fids[&fid].inode).unwrap();
                if attributes.valid & 1 != 0 {
                    inode.mode = attributes.mode;
                }
                if attributes.valid & 0x120 == 0x120 {
                    inode.modified = attributes.modified;
                }
                if attributes.valid & 8 != 0 {
                    let Node::File(bytes) = &mut inode.node else { return Err(EISDIR) };
                    bytes.resize(attributes.size as usize, 0);
                }
                encode(Message::Rsetattr {})
            }
            _ if self.is_daemon && !matches!(message.kind(), Kind::TSTATFS) => Err(EOPNOTSUPP),
            Message::Twstat { fid, stat } => {
                let Fid { inode, parent: (dir, old), .. } = self.fid(fid).clone();
                if !stat.name.0.is_empty() {
                    self.remove_name(dir, &old, dir, stat.name.0)?;
                }
                let inode = self.inodes.get_mut(&inode).unwrap();
                if stat.mode != !0 {
                    inode.mode = stat.mode & 0o777;
                }
                if stat.size != !0 {
                    let Node::File(bytes) = &mut inode.node else { return Err(EISDIR) };
                    bytes.resize(stat.size as usize, 0);
                }
                encode(Message::Rwstat {})
            }
            Message::Tremove { fid } => {
                let gone = self.fids.remove(&fid).expect("it is in use");
                self.remove(gone.parent.0, &gone.parent.1, None)?;
                encode(Message::Rremove {})
            }
            Message::Treaddir { fid, offset, count } => {
                let Fid { inode, open, .. } = self.fid(fid).clone();
                assert!(open.is_some() && count + 11 <= self.msize);
                let all = self.all_entries(inode)?;
                let mut data = Vec::new();
                for (index, (name, inode)) in all.iter().enumerate().skip(offset as usize) {
                    let entry = DirEntry { qid: self.qid(*inode), offset: index as u64 + 1, kind: 0, name: Text(name) };
                    let before = data.len();
                    entry.write(&mut data).unwrap();
                    if data.len() > count as usize {
                        data.truncate(before);
                        break;
                    }
                }
                encode(Message::Rreaddir { data: Data(&data) })
            }
            Message::Tmkdir { fid, name, mode, .. } => {
                let dir = self.fid(fid).inode;
                let made = self.make(dir, name.0, Node::Dir(BTreeMap::new()), mode)?;
                encode(Message::Rmkdir { qid: self.qid(made) })
            }
            Message::Tsymlink { fid, name, target, .. } => {
                let dir = self.fid(fid).inode;
                let made = self.make(dir, name.0, Node::Link(target.0.into()), 0o777)?;
                encode(Message::Rsymlink { qid: self.qid(made) })
            }
            Message::Treadlink { fid } => match &self.inodes[&self.fid(fid).inode].node {
                Node::Link(target) => encode(Message::Rreadlink { target: Text(target) }),
                _ => Err(EINVAL),
            },
            Message::Tlink { dfid, fid, name } => {
                let (dir, inode) = (self.fid(dfid).inode, self.fid(fid).inode);
                if self.child(dir, name.0).is_some() {
                    return Err(EEXIST);
                }
                self.entries(dir)?.insert(name.0.into(), inode);
                self.inodes.get_mut(&inode).unwrap().links += 1;
                encode(Message::Rlink {})
            }
            Message::Trenameat { from, old, to, new } => {
                let (from, to) = (self.fid(from).inode, self.fid(to).inode);
                self.remove_name(from, old.0, to, new.0)?;
                encode(Message::Rrenameat {})
            }
            Message::Tunlinkat { fid, name, flags } => {
                let dir = self.fid(fid).inode;
                self.remove(dir, name.0, Some(flags == 0x200))?;
                encode(Message::Runlinkat {})
            }
            Message::Tfsync { fid, .. } => {
                assert!(self.fid(fid).open.is_some());
                encode(Message::Rfsync {})
            }
            Message::Tstatfs { .. } => {
                let system = FileSystem {
                    kind: 1,
                    block_size: 512,
                    blocks: 100,
                    free: 50,
                    available: 40,
                    files: 10,
                    free_files: 5,
                    id: 0,
                    name_length: 255,
                };
                encode(Message::Rstatfs { system })
            }
            ref other => panic!("{other:?}"),
        }
    }

    fn remove_name(&mut self, from: u64, old: &[u8], to: u64, new: &[u8]) -> Result<(), u32> {
        let inode = self.child(from, old).ok_or(ENOENT)?;
        assert!(is_name(new));
        self.entries(to)?.insert(new.into(), inode);
        if (from, old) != (to, new) {
            self.entries(from)?.remove(old);
        }
        Ok(())
    }

    fn open(&mut self, fid: u32, access: u8, truncate: bool, remove: bool) -> Result<(), u32> {
        let inode = self.fid(fid).inode;
        assert!(self.fid(fid).open.is_none(), "it is open");
        match &mut self.inodes.get_mut(&inode).unwrap().node {
            Node::Dir(_) if access != 0 || truncate || remove => return Err(EISDIR),
            Node::Link(_) => return Err(40),
            Node::File(bytes) if truncate => bytes.clear(),
            _ => {}
        }
        let open = Open { read: access != 1, write: access != 0, remove, next: (0, 0) };
        self.fids.get_mut(&fid).unwrap().open = Some(open);
        Ok(())
    }

    fn create(&mut self, fid: u32, name: &[u8], node: Node, mode: u32, access: u8) -> Result<(), u32> {
        let dir = self.fid(fid).inode;
        assert!(self.fid(fid).open.is_none());
        let made = self.make(dir, name, node, mode)?;
        let open = Open { read: access != 1, write: access != 0, remove: false, next: (0, 0) };
        self.fids.insert(fid, Fid { inode: made, parent: (dir, name.into()), open: Some(open) });
        Ok(())
    }

    fn all_entries(&mut self, dir: u64) -> Result<Vec<(Vec<u8>, u64)>, u32> {
        let entries = self.entries(dir)?.clone();
        Ok([(b".".to_vec(), dir), (b"..".to_vec(), 1)].into_iter().chain(entries).collect())
    }

    /// As `p9_read` of xen-9pfsd, where an entry that does not fit is lost.
    fn read_dir_unix(&mut self, tag: u16, fid: u32, offset: u64, count: usize) -> Answer {
        let Fid { inode, open, .. } = self.fid(fid).clone();
        let (at, mut index) = if offset == 0 { (0, 0) } else { open.unwrap().next };
        assert_eq!(at, offset, "a directory is read from begin to end");
        let all = self.all_entries(inode)?;
        let (mut data, mut excess) = (Vec::new(), 0);
        while let Some((name, inode)) = all.get(index) {
            let before = data.len();
            if self.is_daemon {
                data.extend((61 + name.len() as u16 + 2 + EXCESS as u16).to_le_bytes());
            }
            let start = data.len();
            self.stat(*inode, name).write(&mut data).unwrap();
            if self.is_daemon {
                lengthen(&mut data[start..]);
                excess += EXCESS - 2;
            }
            if data.len() + excess > count {
                excess -= if self.is_daemon { EXCESS - 2 } else { 0 };
                data.truncate(before);
                index += usize::from(self.is_daemon);
                break;
            }
            index += 1;
        }
        // What lies in its buffer from before.
        data.extend(std::iter::repeat_n(0xaa, excess));
        self.fids.get_mut(&fid).unwrap().open.as_mut().unwrap().next = (offset + data.len() as u64, index);
        Ok(Message::Rread { data: Data(&data) }.encode(tag, self.msize).unwrap())
    }

    fn size(&self, inode: u64) -> u64 {
        match &self.inodes[&inode].node {
            Node::File(bytes) | Node::Link(bytes) => bytes.len() as u64,
            Node::Dir(_) => 4096,
        }
    }

    fn attributes(&self, inode: u64) -> Attributes {
        let Inode { node, mode, modified, links } = &self.inodes[&inode];
        let kind = match node {
            Node::File(_) => 0o100_000,
            Node::Dir(_) => 0o040_000,
            Node::Link(_) => 0o120_000,
        };
        let never = Time { seconds: 0, nanoseconds: 0 };
        Attributes {
            valid: 0x7ff,
            qid: self.qid(inode),
            mode: kind | mode,
            uid: 1,
            gid: 2,
            links: *links,
            device: 0,
            size: self.size(inode),
            block_size: 4096,
            blocks: 0,
            accessed: never,
            modified: *modified,
            changed: never,
            created: never,
            generation: 0,
            data_version: 0,
        }
    }

    fn stat<'n>(&self, inode: u64, name: &'n [u8]) -> Stat<'n> {
        let dir = if matches!(self.inodes[&inode].node, Node::Dir(_)) { DMDIR } else { 0 };
        Stat {
            qid: self.qid(inode),
            mode: self.inodes[&inode].mode & 0o777 | dir,
            accessed: 0,
            modified: self.inodes[&inode].modified.seconds as u32,
            size: self.size(inode),
            name: Text(name),
            ..Stat::UNCHANGED
        }
    }
}

fn now() -> Time {
    Time { seconds: 1_700_000_000, nanoseconds: 5 }
}

/// What xen-9pfsd counts too many of each stat.
const EXCESS: usize = 10;

fn lengthen(stat: &mut [u8]) {
    let len = u16::from_le_bytes([stat[0], stat[1]]) + EXCESS as u16;
    stat[..2].copy_from_slice(&len.to_le_bytes());
}
