//! The server: packets in, packets out.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use xen_hal::{DomId, Errno};
use xenstore_client::wire::{Features, HEADER_SIZE, Header, MAX_PAYLOAD, Op, Request, check_path, check_watch_path};
use xenstore_client::{Access, Permission};

use super::transaction::{Change, Transaction};
use super::tree::{Node, Tree, is_at_or_below};

/// How much a guest may have; dom0 has no limits.
#[derive(Clone, Copy, Debug)]
pub struct Quotas {
    /// Nodes that it owns.
    pub nodes: usize,
    /// Watches.
    pub watches: usize,
    /// Open transactions.
    pub transactions: usize,
    /// Bytes of a node's value and of the names of its children.
    pub node_size: usize,
    /// Entries of a node's permissions.
    pub permissions: usize,
    /// Packets that wait to be taken before no more requests are.
    pub outstanding: usize,
}

impl Quotas {
    /// No limits.
    pub const NONE: Quotas = Quotas {
        nodes: usize::MAX,
        watches: usize::MAX,
        transactions: usize::MAX,
        node_size: usize::MAX,
        permissions: usize::MAX,
        outstanding: usize::MAX,
    };
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas { nodes: 1000, watches: 128, transactions: 10, node_size: 2048, permissions: 5, outstanding: 20 }
    }
}

#[derive(Default)]
struct Connection {
    watches: Vec<Watch>,
    transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
    /// Packets for the domain.
    output: VecDeque<Vec<u8>>,
    /// Who carries the packets to the domain.
    waker: Option<std::task::Waker>,
    /// Counts connections of the domain, so that who served an earlier one stops.
    serial: u64,
}

struct Watch {
    /// Absolute, or a special one.
    path: String,
    /// As the domain has given it: relative paths are answered with relative paths.
    relative: bool,
    token: String,
    depth: Option<u32>,
}

/// The store.
pub struct Server {
    tree: Tree,
    connections: BTreeMap<u16, Connection>,
    next_serial: u64,
    /// Requests of each domain so far.
    requests: BTreeMap<u16, u64>,
    /// What domains may have.
    pub quotas: Quotas,
    /// What it says that it offers.
    pub features: Features,
    /// The next commits that are answered with `EAGAIN` without need.
    pub refuse_commits: u32,
}

/// What happened to the tree, for the watches.
enum Event {
    Changed(String),
    Removed(Vec<(Rc<str>, Rc<Node>)>),
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// An empty store.
    pub fn new() -> Server {
        Server {
            tree: Tree::new(),
            connections: BTreeMap::new(),
            next_serial: 0,
            requests: BTreeMap::new(),
            quotas: Quotas::default(),
            features: Features::WATCH_DEPTH,
            refuse_commits: 0,
        }
    }

    /// The nodes.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What the toolstack writes for each new domain.
    pub fn create_domain(&mut self, domain: DomId) {
        self.tree.add_domain(domain);
        let home = format!("/local/domain/{}", domain.0);
        let read = [Permission::new(DomId::DOM0, Access::None), Permission::new(domain, Access::Read)];
        let own = [Permission::new(domain, Access::None)];
        let mut node = |path: &str, value: &str, permissions: &[Permission]| {
            let path = if path.is_empty() { home.clone() } else { format!("{home}/{path}") };
            let _ = self.tree.create(DomId::DOM0, &path, &Quotas::NONE);
            self.tree.write(&path, value.as_bytes());
            self.tree.set_permissions(&path, permissions);
        };
        node("", "", &read);
        node("name", &format!("domain-{}", domain.0), &read);
        node("domid", &domain.0.to_string(), &read);
        for path in ["control", "device", "backend"] {
            node(path, "", &read);
        }
        for path in ["control/shutdown", "control/sysrq", "data", "drivers", "feature", "attr", "error"] {
            node(path, "", &own);
        }
        for feature in ["poweroff", "reboot", "suspend", "sysrq"] {
            node(&format!("control/feature-{feature}"), "", &own);
        }
        node("control/platform-feature-xs_reset_watches", "1", &read);
        // A domain may put anything below its backends' directory: it may be a driver domain.
        let both = [Permission::new(domain, Access::None), Permission::new(DomId::DOM0, Access::ReadWrite)];
        node("backend", "", &both);
    }

    /// Begins a connection; returns its serial number.
    pub fn introduce(&mut self, domain: DomId) -> u64 {
        self.next_serial += 1;
        let connection = Connection { serial: self.next_serial, ..Connection::default() };
        self.connections.insert(domain.0, connection);
        self.fire("@introduceDomain");
        self.next_serial
    }

    /// Ends a connection: the domain is gone.
    pub fn release(&mut self, domain: DomId) {
        self.forget_connection(domain);
        self.tree.remove_domain(domain);
        self.fire("@releaseDomain");
    }

    pub(crate) fn forget_connection(&mut self, domain: DomId) {
        if let Some(connection) = self.connections.remove(&domain.0) {
            connection.waker.into_iter().for_each(std::task::Waker::wake);
        }
    }

    /// How many watches and transactions a domain has.
    pub(crate) fn in_use(&self, domain: DomId) -> (usize, usize) {
        let counts = |connection: &Connection| (connection.watches.len(), connection.transactions.len());
        self.connections.get(&domain.0).map_or((0, 0), counts)
    }

    /// Whether this connection is still the domain's.
    pub(crate) fn is_current(&self, domain: DomId, serial: u64) -> bool {
        self.connections.get(&domain.0).is_some_and(|connection| connection.serial == serial)
    }

    pub(crate) fn set_waker(&mut self, domain: DomId, waker: &std::task::Waker) {
        if let Some(connection) = self.connections.get_mut(&domain.0) {
            connection.waker = Some(waker.clone());
        }
    }

    /// How many requests a domain has made so far, over all its connections.
    pub fn requests(&self, domain: DomId) -> u64 {
        self.requests.get(&domain.0).copied().unwrap_or(0)
    }

    /// Packets that wait for a domain.
    pub fn outstanding(&self, domain: DomId) -> usize {
        self.connections.get(&domain.0).map_or(0, |connection| connection.output.len())
    }

    /// Takes the packet at `index` of those that wait for a domain.
    pub fn take_output(&mut self, domain: DomId, index: usize) -> Option<Vec<u8>> {
        self.connections.get_mut(&domain.0)?.output.remove(index)
    }

    /// Takes a packet of a domain. Its answer waits in the domain's output, as do events for all whom it concerns.
    pub fn handle(&mut self, domain: DomId, header: Header, payload: &[u8]) {
        if !self.connections.contains_key(&domain.0) {
            return;
        }
        *self.requests.entry(domain.0).or_default() += 1;
        let answer = match Op::from_number(header.op) {
            None => Err(Errno::ENOSYS),
            Some(op) => match Request::parse(op, payload) {
                Err(_) => Err(Errno::EINVAL),
                Ok(request) => self.answer(domain, header.transaction, request),
            },
        };
        let (answer, events) = match answer {
            Ok((payload, _)) if payload.len() > MAX_PAYLOAD => (Err(Errno::E2BIG), Vec::new()),
            Ok((payload, events)) => (Ok(payload), events),
            Err(errno) => (Err(errno), Vec::new()),
        };
        let (op, payload) = match answer {
            Ok(payload) => (header.op, payload),
            Err(errno) => (Op::Error as u32, format!("{}\0", errno.name()).into_bytes()),
        };
        self.send(domain, Header { op, len: payload.len() as u32, ..header }, &payload);
        for event in events {
            self.tell(event);
        }
    }

    /// Carries out a request in the name of `domain` at once, by no connection: it takes no simulated time.
    ///
    /// # Errors
    ///
    /// What the domain would be answered.
    pub fn act(&mut self, domain: DomId, request: Request<'_>) -> Result<(), Errno> {
        let (_, events) = self.answer(domain, 0, request)?;
        for event in events {
            self.tell(event);
        }
        Ok(())
    }

    fn send(&mut self, domain: DomId, header: Header, payload: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&domain.0) {
            let mut packet = header.to_bytes().to_vec();
            packet.extend_from_slice(payload);
            assert_eq!(packet.len(), HEADER_SIZE + payload.len());
            connection.output.push_back(packet);
            connection.waker.take().into_iter().for_each(std::task::Waker::wake);
        }
    }

    fn transaction(&mut self, domain: DomId, id: u32) -> Result<Option<&mut Transaction>, Errno> {
        if id == 0 {
            return Ok(None);
        }
        let connection = self.connections.get_mut(&domain.0).ok_or(Errno::EINVAL)?;
        connection.transactions.get_mut(&id).map(Some).ok_or(Errno::ENOENT)
    }

    /// The tree as this request is to see it; `path` counts as read, or only its value does.
    fn view(&mut self, domain: DomId, id: u32, path: &str, value: bool) -> Result<&Tree, Errno> {
        // Twice, as the borrow of one outcome must not outlive the other.
        if self.transaction(domain, id)?.is_none() {
            return Ok(&self.tree);
        }
        let transaction = self.transaction(domain, id)?.ok_or(Errno::ENOENT)?;
        match value {
            true => transaction.read_value(path),
            false => transaction.read(path),
        }
        Ok(&transaction.view)
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each operation")]
    fn answer(&mut self, domain: DomId, id: u32, request: Request<'_>) -> Result<(Vec<u8>, Vec<Event>), Errno> {
        let ok = || b"OK\0".to_vec();
        let nothing = |payload: Vec<u8>| Ok((payload, Vec::new()));
        let privileged = || if domain == DomId::DOM0 { Ok(()) } else { Err(Errno::EACCES) };
        match request {
            Request::Directory { path } => {
                let path = absolute(domain, path)?;
                let tree = self.view(domain, id, &path, false)?;
                let node = tree.visible(domain, &path, false)?;
                nothing(node.children.iter().flat_map(|name| name.bytes().chain([0])).collect())
            }
            Request::DirectoryPart { path, offset } => {
                let path = absolute(domain, path)?;
                let tree = self.view(domain, id, &path, false)?;
                let node = tree.visible(domain, &path, false)?;
                nothing(directory_part(node, offset as usize))
            }
            Request::Read { path } => {
                let path = absolute(domain, path)?;
                let tree = self.view(domain, id, &path, true)?;
                nothing(tree.visible(domain, &path, false)?.value.clone())
            }
            Request::GetPerms { path } => {
                let path = absolute(domain, path)?;
                let tree = self.view(domain, id, &path, false)?;
                let node = tree.visible(domain, &path, false)?;
                nothing(node.permissions.iter().flat_map(|entry| format!("{entry}\0").into_bytes()).collect())
            }
            Request::Write { path, value } => {
                let path = absolute(domain, path)?;
                if domain != DomId::DOM0 && value.len() > self.quotas.node_size {
                    return Err(Errno::ENOSPC);
                }
                let events = self.apply(domain, id, Change::Write { path, value: value.to_vec() })?;
                Ok((ok(), events))
            }
            Request::Mkdir { path } => {
                let path = absolute(domain, path)?;
                let events = self.apply(domain, id, Change::Mkdir { path })?;
                Ok((ok(), events))
            }
            Request::Rm { path } => {
                let path = absolute(domain, path)?;
                if path == "/" {
                    return Err(Errno::EINVAL);
                }
                let events = self.apply(domain, id, Change::Remove { path })?;
                Ok((ok(), events))
            }
            Request::SetPerms { path, permissions } => {
                let path = absolute(domain, path)?;
                if permissions.is_empty() {
                    return Err(Errno::EINVAL);
                }
                if domain != DomId::DOM0 && permissions.len() > self.quotas.permissions {
                    return Err(Errno::ENOSPC);
                }
                let change = Change::SetPermissions { path, permissions: permissions.into_owned() };
                let events = self.apply(domain, id, change)?;
                Ok((ok(), events))
            }
            Request::Watch { path, token, depth } => {
                let special = path.starts_with('@');
                if special && domain != DomId::DOM0 {
                    return Err(Errno::EACCES);
                }
                check_watch_path(path).map_err(|_| Errno::EINVAL)?;
                let full = if special { path.to_owned() } else { absolute(domain, path)? };
                let most = self.quotas.watches;
                let connection = self.connections.get_mut(&domain.0).ok_or(Errno::EINVAL)?;
                if connection.watches.iter().any(|watch| watch.path == full && watch.token == token) {
                    return Err(Errno::EEXIST);
                }
                if domain != DomId::DOM0 && connection.watches.len() >= most {
                    return Err(Errno::ENOSPC);
                }
                let relative = !special && !path.starts_with('/');
                connection.watches.push(Watch { path: full, relative, token: token.into(), depth });
                // The event that each watch begins with. It may come before the answer, and here it does.
                self.events_pending(domain, path, token);
                nothing(ok())
            }
            Request::Unwatch { path, token } => {
                let full = if path.starts_with('@') { path.to_owned() } else { absolute(domain, path)? };
                let connection = self.connections.get_mut(&domain.0).ok_or(Errno::EINVAL)?;
                let found = connection.watches.iter().position(|watch| watch.path == full && watch.token == token);
                connection.watches.remove(found.ok_or(Errno::ENOENT)?);
                nothing(ok())
            }
            Request::ResetWatches => {
                let connection = self.connections.get_mut(&domain.0).ok_or(Errno::EINVAL)?;
                connection.watches.clear();
                connection.transactions.clear();
                nothing(ok())
            }
            Request::TransactionStart => {
                if id != 0 {
                    return Err(Errno::EBUSY);
                }
                let most = self.quotas.transactions;
                let transaction = Transaction::new(&self.tree);
                let connection = self.connections.get_mut(&domain.0).ok_or(Errno::EINVAL)?;
                if domain != DomId::DOM0 && connection.transactions.len() >= most {
                    return Err(Errno::ENOSPC);
                }
                connection.next_transaction += 1;
                let id = connection.next_transaction;
                connection.transactions.insert(id, transaction);
                nothing(format!("{id}\0").into_bytes())
            }
            Request::TransactionEnd { commit } => {
                let connection = self.connections.get_mut(&domain.0).ok_or(Errno::EINVAL)?;
                let transaction = connection.transactions.remove(&id).ok_or(Errno::ENOENT)?;
                if !commit {
                    return nothing(ok());
                }
                if self.refuse_commits > 0 {
                    self.refuse_commits -= 1;
                    return Err(Errno::EAGAIN);
                }
                if !transaction.holds(&self.tree) {
                    return Err(Errno::EAGAIN);
                }
                if !transaction.fits(&self.tree, domain, &self.quotas) {
                    return Err(Errno::ENOSPC);
                }
                let mut events = Vec::new();
                for change in transaction.into_changes() {
                    events.extend(make(&mut self.tree, domain, change, &Quotas::NONE)?);
                }
                Ok((ok(), events))
            }
            Request::GetDomainPath { domain } => nothing(format!("/local/domain/{}\0", domain.0).into_bytes()),
            Request::IsDomainIntroduced { domain } => {
                privileged()?;
                let known = self.connections.contains_key(&domain.0);
                nothing(if known { b"T\0".to_vec() } else { b"F\0".to_vec() })
            }
            Request::GetFeature { domain: None } => nothing(format!("{}\0", self.features.0).into_bytes()),
            Request::Control { .. }
            | Request::Introduce { .. }
            | Request::Release { .. }
            | Request::Resume { .. }
            | Request::SetTarget { .. }
            | Request::GetFeature { .. }
            | Request::SetFeature { .. }
            | Request::GetQuota { .. }
            | Request::SetQuota { .. } => {
                privileged()?;
                // The toolstack of the simulation needs none of them.
                Err(Errno::ENOSYS)
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    /// Makes a change, or takes note of it for a transaction.
    fn apply(&mut self, domain: DomId, id: u32, change: Change) -> Result<Vec<Event>, Errno> {
        let quotas = self.quotas;
        let Some(transaction) = self.transaction(domain, id)? else {
            return make(&mut self.tree, domain, change, &quotas);
        };
        // To make or remove a node is to read the one above; to write one that is there is not to read it.
        match &change {
            Change::Write { path, .. } | Change::Mkdir { path } => {
                if transaction.view.node(path).is_none() {
                    transaction.read(path);
                    let nearest = transaction.view.nearest(path).to_owned();
                    transaction.read(&nearest);
                }
            }
            Change::Remove { path } => {
                transaction.read(path);
                transaction.read(super::tree::parent(path).unwrap_or("/"));
            }
            Change::SetPermissions { path, .. } => transaction.read(path),
        }
        make(&mut transaction.view, domain, change.clone(), &quotas)?;
        transaction.changes.push(change);
        Ok(Vec::new())
    }

    /// The event that a new watch begins with.
    fn events_pending(&mut self, domain: DomId, path: &str, token: &str) {
        let payload = format!("{path}\0{token}\0").into_bytes();
        let header = Header { op: Op::WatchEvent as u32, request: 0, transaction: 0, len: payload.len() as u32 };
        self.send(domain, header, &payload);
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::Changed(path) => {
                let node = self.tree.node(&path).cloned();
                self.fire_node(&path, node.as_ref(), false);
            }
            Event::Removed(nodes) => {
                for (index, (path, node)) in nodes.iter().enumerate() {
                    self.fire_node(path, Some(node), index > 0);
                }
            }
        }
    }

    /// Tells the watches at and above a node, or only those `exact`ly at it.
    fn fire_node(&mut self, path: &str, node: Option<&Node>, exact: bool) {
        let mut events = Vec::new();
        for (id, connection) in &self.connections {
            let domain = DomId(*id);
            if !node.is_none_or(|node| node.allows(domain, false)) {
                continue;
            }
            for watch in connection.watches.iter().filter(|watch| !watch.path.starts_with('@')) {
                let hit = if exact { watch.path == path } else { is_at_or_below(path, &watch.path) };
                if hit && watch.depth.is_none_or(|depth| levels_below(path, &watch.path) <= depth as usize) {
                    let home = format!("/local/domain/{id}/");
                    let shown = match watch.relative {
                        true => path.strip_prefix(&home).unwrap_or(path),
                        false => path,
                    };
                    events.push((domain, shown.to_owned(), watch.token.clone()));
                }
            }
        }
        for (domain, path, token) in events {
            self.events_pending(domain, &path, &token);
        }
    }

    /// Tells those that watch a special path.
    fn fire(&mut self, special: &str) {
        let mut events = Vec::new();
        for (id, connection) in &self.connections {
            for watch in connection.watches.iter().filter(|watch| watch.path == special) {
                events.push((DomId(*id), watch.token.clone()));
            }
        }
        for (domain, token) in events {
            self.events_pending(domain, special, &token);
        }
    }
}

/// Makes a change to a tree, with the checks of permissions and quotas.
fn make(tree: &mut Tree, domain: DomId, change: Change, quotas: &Quotas) -> Result<Vec<Event>, Errno> {
    match change {
        Change::Write { path, value } => {
            if !tree.create(domain, &path, quotas)? {
                tree.visible(domain, &path, true)?;
            }
            tree.write(&path, &value);
            Ok(vec![Event::Changed(path)])
        }
        Change::Mkdir { path } => {
            let made = tree.create(domain, &path, quotas)?;
            Ok(if made { vec![Event::Changed(path)] } else { Vec::new() })
        }
        Change::Remove { path } => {
            if tree.node(&path).is_none() {
                let above = super::tree::parent(&path).unwrap_or("/");
                // As xenstored has it: to remove what is not there is well, where the node above is.
                tree.visible(domain, above, true)?;
                return Ok(Vec::new());
            }
            tree.visible(domain, &path, true)?;
            Ok(vec![Event::Removed(tree.remove(&path))])
        }
        Change::SetPermissions { path, permissions } => {
            let node = tree.visible(domain, &path, true)?;
            let owner = node.permissions[0].domain;
            if domain != DomId::DOM0 && owner != domain {
                return Err(Errno::EACCES);
            }
            if domain != DomId::DOM0 && permissions[0].domain != owner {
                return Err(Errno::EPERM);
            }
            tree.set_permissions(&path, &permissions);
            Ok(vec![Event::Changed(path)])
        }
    }
}

fn absolute(domain: DomId, path: &str) -> Result<String, Errno> {
    check_path(path).map_err(|_| Errno::EINVAL)?;
    Ok(match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/local/domain/{}/{path}", domain.0),
    })
}

/// How many levels a path is below another.
fn levels_below(path: &str, above: &str) -> usize {
    path.matches('/').count().saturating_sub(above.trim_end_matches('/').matches('/').count())
}

/// As many whole names from `offset` on as fit into a packet.
fn directory_part(node: &Node, offset: usize) -> Vec<u8> {
    let names: Vec<u8> = node.children.iter().flat_map(|name| name.bytes().chain([0])).collect();
    let mut payload = format!("{}\0", node.generation).into_bytes();
    let rest = names.get(offset..).unwrap_or_default();
    // One byte is kept for the NUL that ends the last part.
    let room = MAX_PAYLOAD - payload.len() - 1;
    let len = match rest.len() <= room {
        true => rest.len(),
        false => rest[..room].iter().rposition(|byte| *byte == 0).map_or(0, |last| last + 1),
    };
    payload.extend_from_slice(&rest[..len]);
    if len == rest.len() {
        payload.push(0);
    }
    payload
}
