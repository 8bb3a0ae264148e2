//! What the parts share.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt::Write;
use core::net::IpAddr;

use sarab::hal::Clock;
use sarab::network::Network;
use sarab::ring::WaitQueue;
use sarab::{App, println};
use sarab_dns::{Question, Server, Time, Zone};

use crate::disk::Source;

/// Lines about questions in a second.
const LOGGED: u32 = 50;
/// The largest message (RFC 1035, section 4.2.2).
pub const MESSAGE: usize = 65_535;

/// The server, and what is around it.
pub struct Dns {
    pub app: App,
    pub server: Server,
    /// Where zones come from; none while there is nothing.
    pub source: RefCell<Option<Rc<Source>>>,
    pub network: RefCell<Option<Network>>,
    /// Answers by TCP are made here: nothing waits in between.
    pub scratch: RefCell<Vec<u8>>,
    /// Connections that there may be, and that there are.
    pub connections: usize,
    pub open: Cell<usize>,
    pub stop: Cell<bool>,
    /// Zones whose secondaries are to be told.
    pub changed: RefCell<VecDeque<Rc<Zone>>>,
    pub to_notify: WaitQueue,
    /// Zones that somebody says are to be read again.
    pub notified: RefCell<VecDeque<Box<[u8]>>>,
    pub to_reload: WaitQueue,
    pub busy: Cell<bool>,
    pub idle: WaitQueue,
    pub reloads: [Cell<u64>; 2],
    settled: Cell<bool>,
    settling: WaitQueue,
    logged: Cell<(u32, u32)>,
}

impl Dns {
    pub fn new(app: App, server: Server, connections: usize) -> Dns {
        Dns {
            app,
            server,
            source: RefCell::default(),
            network: RefCell::default(),
            scratch: RefCell::new(vec![0; MESSAGE]),
            connections,
            open: Cell::new(0),
            stop: Cell::new(false),
            changed: RefCell::default(),
            to_notify: WaitQueue::new(),
            notified: RefCell::default(),
            to_reload: WaitQueue::new(),
            busy: Cell::new(false),
            idle: WaitQueue::new(),
            reloads: Default::default(),
            settled: Cell::new(false),
            settling: WaitQueue::new(),
            logged: Cell::default(),
        }
    }

    /// When it is.
    pub fn now(&self) -> Time {
        let clock = self.app.clock();
        Time { monotonic: clock.now().as_secs() as u32, unix: clock.wall().as_secs() }
    }

    /// Waits until it is known which zones there are.
    pub async fn settled(&self) {
        self.settling.wait_until(|| self.settled.get().then_some(())).await;
    }

    pub fn settle(&self) {
        self.settled.set(true);
        self.settling.wake_all();
    }

    /// Tells a question, where the configuration asks for it; of many in a second not all.
    pub fn log(&self, message: &[u8], address: IpAddr, tcp: bool) {
        if !self.server.logs_queries() {
            return;
        }
        let Some(question) = Question::of(message) else { return };
        let now = self.app.clock().now().as_secs() as u32;
        let (second, count) = self.logged.get();
        if second != now && count > LOGGED {
            println!("dns: query: and {} more in a second", count - LOGGED);
        }
        let count = if second == now { count.saturating_add(1) } else { 1 };
        self.logged.set((now, count));
        if count <= LOGGED {
            println!("dns: query: {address} {} {question}", if tcp { "TCP" } else { "UDP" });
        }
    }

    /// In a line.
    pub fn summary(&self) -> String {
        let counters = &self.server.counters;
        let [udp, tcp] = [counters.messages[0].get(), counters.messages[1].get()];
        let limited = counters.limited[0].get() + counters.limited[1].get();
        format!(
            "{udp} messages by UDP, {tcp} by TCP, {limited} answers limited, {} transfers",
            counters.transfers.get()
        )
    }

    /// All zones, in lines.
    pub fn zones(&self) -> String {
        let mut text = String::new();
        for zone in self.server.catalog().zones() {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{} serial {}, {} names, {} records, {} KiB{}",
                zone.name(),
                zone.serial(),
                zone.names(),
                zone.records(),
                zone.memory().div_ceil(1024),
                zone.denial().map(|denial| format!(", signed with {denial}")).unwrap_or_default()
            );
        }
        match text.is_empty() {
            true => "no zones".into(),
            false => text.trim_end().into(),
        }
    }

    /// What there is, in lines.
    pub fn status(&self) -> String {
        let memory = self.app.memory();
        format!(
            "{}\n{} connections of {}; {} KiB of {} KiB of memory free\n{}",
            self.summary(),
            self.open.get(),
            self.connections,
            memory.free / 1024,
            memory.total / 1024,
            self.zones()
        )
    }
}
