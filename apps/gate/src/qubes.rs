//! The gate as a qube of Qubes OS: all that it has to know is in QubesDB, and dom0 talks to it by qrexec.
//!
//! Reference: qubes-core-agent-linux, whose place it takes in sys-firewall.

mod policy;
mod reports;
mod services;
mod settings;

use alloc::collections::BTreeSet;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::FutureExt;
use sarab::network::IpCidr;
use sarab::qubes::firewall::Rules;
use sarab::qubes::{Change, Database};
use sarab::ring::WaitQueue;
use sarab::time::{Duration, with_timeout};
use sarab::{App, FromArg, println};
use sarab_router::{Nat, Redirect};

pub use policy::Table;

use crate::firewall::DNS;
use crate::gate::Gate;
use crate::random::Random;
use crate::uplink::Network;

const RULES: &str = "/qubes-firewall";
/// What entries about networks begin with, and those that say what has become of rules.
const NETWORKS: [&str; 3] = ["/qubes-", "/net-config/", "/mapped-ip/"];
const REPORTS: [&str; 2] = ["/qubes-firewall-handled/", "/qubes-iptables-"];
/// How long QubesDB may take before the console says that it is missing.
const PATIENCE: Duration = Duration::from_secs(5);

/// This qube's end of what it shares with dom0.
pub struct Qubes {
    gate: Rc<Gate>,
    db: Database,
    random: Random,
    /// Clients whose rules have come into use: dom0 is still to be told.
    handled: RefCell<BTreeSet<IpAddr>>,
    /// Clients in whose rules are names that may stand for others now.
    named: RefCell<BTreeSet<IpAddr>>,
    news: WaitQueue,
}

/// Whether clients reach each other.
enum Between {
    Nobody,
    Rules,
}

impl FromArg for Between {
    const EXPECTED: &'static str = "`apart` or `rules`";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        match value? {
            "apart" => Some(Between::Nobody),
            "rules" => Some(Between::Rules),
            _ => None,
        }
    }
}

/// What a qube's command line says, at most.
const KEYS: [&str; 3] = ["qubes", "clients", "flows"];

/// Whether the gate is a qube. In a build for Qubes it is, unless its command line or a module says what QubesDB would.
pub fn is_wanted(app: App) -> sarab::Result<bool> {
    let is_alone = app.args().iter().all(|(key, _)| KEYS.contains(&key)) && app.modules().is_empty();
    Ok(app.args().get_or("qubes", is_alone)?)
}

/// Connects to dom0, and follows what it says from now on.
pub fn start(gate: &Rc<Gate>, random: Random) -> sarab::Result<Rc<Qubes>> {
    let app = gate.app;
    let between_clients = matches!(app.args().get_or("clients", Between::Nobody)?, Between::Rules);
    gate.firewall.0.borrow_mut().qubes = Some(Table { between_clients, ..Table::default() });
    let db = app.qubes_database()?;
    let qubes = Rc::new(Qubes {
        gate: gate.clone(),
        db,
        random,
        handled: RefCell::default(),
        named: RefCell::default(),
        news: WaitQueue::default(),
    });
    // Before dom0 has said anything nothing passes, and clients have nothing of the gate's own making.
    qubes.provide();
    let own = gate.clone();
    let agent = app.qubes_agent(async move |call, session: &mut _| services::serve(&own, call, session).await)?;
    app.spawn(reports::features(qubes.db.clone(), agent)).detach();
    app.spawn(reports::run(qubes.clone())).detach();
    app.spawn(qubes.clone().follow()).detach();
    Ok(qubes)
}

impl Qubes {
    /// Waits until QubesDB is there.
    pub async fn ready(&self) {
        if with_timeout(PATIENCE, self.db.ready()).await.is_err() {
            println!("gate: waiting for QubesDB: vchan 111 of dom0");
            let _ = self.db.ready().await;
        }
    }

    /// The network on an interface.
    pub fn network(&self, name: &str, mac: [u8; 6]) -> Network {
        Network { vlan: None, config: settings::uplink(&self.db, mac), name: name.into() }
    }

    /// Follows what dom0 changes.
    async fn follow(self: Rc<Self>) {
        let mut changes = self.db.watch("");
        self.ready().await;
        self.load_all();
        while let Some(change) = changes.next().await {
            // What comes at once is one change.
            let mut batch = Batch::default();
            batch.add(&change);
            while let Some(Some(change)) = changes.next().now_or_never() {
                batch.add(&change);
            }
            match batch.all {
                true => self.load_all(),
                false => self.apply(batch),
            }
            sarab::platform::yield_now().await;
        }
    }

    /// A daemon of dom0's that is started anew knows nothing until somebody writes it: what was there before stays.
    fn load_all(&self) {
        if !self.is_complete() {
            return println!("gate: QubesDB has no /name yet; going on with what it has said before");
        }
        self.seed();
        self.provide();
        self.connect();
        self.load_inside();
        let present: BTreeSet<String> = self.db.children(RULES).into_iter().collect();
        let gone: Vec<IpAddr> = {
            let state = self.gate.firewall.0.borrow();
            let rules = state.qubes.iter().flat_map(|table| table.rules.keys().copied());
            rules.filter(|address| !present.contains(&address.to_string())).collect()
        };
        self.load_rules(&present, &gone);
    }

    /// Whether Qubes OS has begun to write: the qube's name comes first.
    fn is_complete(&self) -> bool {
        self.db.get("/name").is_some()
    }

    fn apply(&self, batch: Batch) {
        if batch.seed {
            self.seed();
        }
        if batch.networks && self.is_complete() {
            self.provide();
            self.connect();
        }
        if batch.inside && self.is_complete() {
            self.load_inside();
        }
        if !batch.rules.is_empty() {
            self.load_rules(&batch.rules, &[]);
        }
    }

    /// dom0 gives 64 random bytes.
    fn seed(&self) {
        let Some(text) = self.db.get("/qubes-random-seed") else { return };
        match BASE64_STANDARD.decode(text.trim_ascii()) {
            Ok(bytes) => self.random.mix(&bytes),
            Err(error) => println!("gate: QubesDB: /qubes-random-seed is not Base64: {error}"),
        }
    }

    /// What clients have.
    fn provide(&self) {
        let provider = settings::provider(&self.db);
        if self.gate.provider.borrow().as_deref() != Some(&provider) {
            self.gate.provider.replace(Some(Rc::new(provider)));
            self.gate.configure_clients();
        }
        self.translate();
    }

    /// What uplinks have.
    fn connect(&self) {
        let gate = &self.gate;
        let uplinks: Vec<_> = gate.uplinks.borrow().keys().copied().collect();
        for id in uplinks {
            let Some(mac) = gate.router.borrow().link(id).map(|link| link.mac()) else { continue };
            gate.configure_uplink(id, settings::uplink(&self.db, mac));
        }
        gate.set_servers();
        gate.kick();
        self.translate();
    }

    /// Clients are seen with the gate's address. Their name servers are others' names for this qube's, unless those are the
    /// same: then the next qube translates.
    fn translate(&self) {
        let own = settings::servers(&self.db, "/qubes");
        let given =
            self.gate.provider.borrow().as_ref().map(|provider| provider.name_servers.clone()).unwrap_or_default();
        let mut redirect = Vec::new();
        for (index, address) in given.iter().enumerate().filter(|(_, address)| !own.contains(address)) {
            let of_family: Vec<_> = own.iter().filter(|server| server.is_ipv4() == address.is_ipv4()).collect();
            if let Some(to) = of_family.get(index % of_family.len().max(1)) {
                redirect.push(Redirect { address: *address, port: DNS, to: **to });
            }
        }
        if let Some(table) = &mut self.gate.firewall.0.borrow_mut().qubes {
            table.name_servers = given.iter().chain(&own).copied().collect();
        }
        let nat = Nat { masquerade_v4: true, masquerade_v6: true, redirect, ..Nat::default() };
        self.gate.router.borrow_mut().set_policy(self.gate.firewall.clone(), nat);
    }

    fn load_inside(&self) {
        let all = settings::inside(&self.db).into_iter();
        let alone = all.map(|address| IpCidr::new(address.into(), if address.is_ipv4() { 32 } else { 128 }));
        self.gate.router.borrow_mut().set_inside(alone.collect());
    }

    /// Uses the rules of these addresses from now on.
    fn load_rules(&self, addresses: &BTreeSet<String>, gone: &[IpAddr]) {
        let (mut loaded, mut gone) = (Vec::new(), gone.to_vec());
        let present: BTreeSet<String> = self.db.children(RULES).into_iter().collect();
        for text in addresses {
            let Ok(address) = text.parse::<IpAddr>() else {
                println!("gate: QubesDB: {RULES}/{text}: expected an address");
                continue;
            };
            if !present.contains(text) {
                println!("gate: {address}: it has no rules any more; blocking its traffic");
                gone.push(address);
                continue;
            }
            loaded.push((address, self.rules_of(text, address)));
        }
        let now = self.gate.now();
        let added: Vec<IpAddr> = loaded.iter().map(|(address, _)| *address).collect();
        {
            let mut state = self.gate.firewall.0.borrow_mut();
            let Some(table) = &mut state.qubes else { return };
            gone.iter().for_each(|address| drop(table.rules.remove(address)));
            table.rules.extend(loaded);
            let names = table.names();
            state.names.reload(&names, now);
        }
        let forgotten = self.gate.router.borrow_mut().judge_again(false);
        for address in &added {
            let state = self.gate.firewall.0.borrow();
            let count =
                state.qubes.as_ref().and_then(|table| table.rules.get(address)).map_or(0, |rules| rules.rules.len());
            println!("gate: {address}: {count} rules");
        }
        if forgotten > 0 {
            println!("gate: {forgotten} flows forgotten, which the rules forbid now");
        }
        self.handled.borrow_mut().extend(&added);
        self.named.borrow_mut().extend(added.iter().chain(&gone));
        self.news.wake_all();
        self.gate.reloaded.advance();
    }

    fn rules_of(&self, text: &str, address: IpAddr) -> Rules {
        let directory = alloc::format!("{RULES}/{text}/");
        if self.db.is_incomplete(&directory) {
            println!("gate: {address}: there are more rules than there is room for; blocking its traffic");
            return Rules::drop_all();
        }
        let entries = self.db.list(&directory);
        let entries = entries.iter().map(|(path, value)| (&path[directory.len()..], value));
        match Rules::parse(address, entries) {
            Ok(rules) => rules,
            Err(error) => {
                println!("gate: {address}: {error}; blocking its traffic");
                Rules::drop_all()
            }
        }
    }
}

/// What of it has changed.
#[derive(Default)]
struct Batch {
    all: bool,
    seed: bool,
    networks: bool,
    inside: bool,
    /// Addresses whose rules are complete.
    rules: BTreeSet<String>,
}

impl Batch {
    fn add(&mut self, change: &Change) {
        let (path, is_written) = match change {
            Change::Written(path) => (path, true),
            Change::Removed(path) => (path, false),
            Change::Resynced => return self.all = true,
        };
        // An empty value says that the rules are complete; until then those before count. Without it there are none.
        if let Some(address) = path.strip_prefix("/qubes-firewall/") {
            if !address.contains('/') {
                self.rules.insert(address.to_string());
            }
            return;
        }
        match &**path {
            "/name" => self.all |= is_written,
            "/qubes-random-seed" => self.seed = true,
            "/connected-ips" | "/connected-ips6" => self.inside = true,
            _ => {
                let is_own = REPORTS.iter().any(|own| path.starts_with(own));
                self.networks |= !is_own && NETWORKS.iter().any(|first| path.starts_with(first));
            }
        }
    }
}
