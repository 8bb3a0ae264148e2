//! A device's two ends in the store, written by hand, and its rings, written byte by byte.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::time::Duration;

use futures_util::future::{Either, select};
use sarab::hal::{Access, Clock, DomId, EventChannels, GrantRef, Port};
use sarab::platform::{XenGrant, XenPort};
use sarab::store::Store;
use sarab::{App, platform};
use xen_ring::GrantedPages;

use crate::text;

/// XenBus states.
pub const INITIALISING: u32 = 1;
pub const INIT_WAIT: u32 = 2;
pub const INITIALISED: u32 = 3;
pub const CONNECTED: u32 = 4;
pub const CLOSING: u32 = 5;
pub const CLOSED: u32 = 6;

/// What was done so far.
#[derive(Default)]
pub struct Count {
    pub connections: Cell<u32>,
    pub slots: Cell<u64>,
    pub events: Cell<u64>,
    pub states: Cell<u64>,
}

pub struct Device {
    pub app: App,
    pub store: Store,
    /// Its directory, and its backend's.
    pub path: String,
    backend: String,
    pub peer: DomId,
    pub count: Count,
    random: Cell<u64>,
}

impl Device {
    pub async fn find(app: App, store: &Store, class: &str, id: &str) -> Result<Device, String> {
        let path = format!("device/{class}/{id}");
        let backend = store.read_as(&format!("{path}/backend")).await.map_err(text)?;
        let peer = store.read_as(&format!("{path}/backend-id")).await.map_err(text)?;
        let random = Cell::new(0x9e37_79b9_7f4a_7c15);
        Ok(Device { app, store: store.clone(), path, backend, peer, count: Count::default(), random })
    }

    pub fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x
    }

    pub fn now(&self) -> Duration {
        self.app.clock().now()
    }

    pub async fn write(&self, key: &str, value: &str) -> Result<(), String> {
        self.store.set(&format!("{}/{key}", self.path), value).await.map_err(text)
    }

    pub async fn state(&self, state: u32) -> Result<(), String> {
        self.count.states.set(self.count.states.get() + 1);
        self.write("state", &format!("{state}")).await
    }

    pub async fn backend_state(&self) -> u32 {
        self.store.get(&format!("{}/state", self.backend)).await.ok().flatten().unwrap_or(CLOSED)
    }

    /// Waits until the backend is in one of these states; not for ever.
    async fn backend_comes(&self, states: &[u32]) -> bool {
        let state = format!("{}/state", self.backend);
        let found = self.store.wait_for(&state, |state| {
            let state = core::str::from_utf8(state?).ok()?.parse().ok()?;
            states.contains(&state).then_some(())
        });
        matches!(select(core::pin::pin!(found), self.app.clock().sleep(Duration::from_secs(3))).await, Either::Left(_))
    }

    /// Has a backend in whatever state begin anew, offers it these keys in the state `offered`, and waits until it is
    /// connected. Whether it is.
    pub async fn connect(&self, keys: &[(&str, String)], offered: u32) -> Result<bool, String> {
        for state in [CLOSING, CLOSED] {
            self.state(state).await?;
            self.backend_comes(&[CLOSED, INIT_WAIT]).await;
        }
        self.state(INITIALISING).await?;
        self.backend_comes(&[INIT_WAIT]).await;
        for (key, value) in keys {
            self.write(key, value).await?;
        }
        self.state(offered).await?;
        let connected = self.backend_comes(&[CONNECTED]).await;
        self.state(CONNECTED).await?;
        self.count.connections.set(self.count.connections.get() + u32::from(connected));
        Ok(connected)
    }

    /// Every state there is and some that there are not, as fast as the store takes them.
    pub async fn cycle(&self, until: Duration) -> Result<(), String> {
        while self.now() < until {
            self.state((self.random() % 9) as u32).await?;
        }
        Ok(())
    }

    pub fn pages(&self, count: usize, access: Access) -> Result<GrantedPages<XenGrant>, String> {
        GrantedPages::grant(&self.app.grant_table(), count, self.peer, access).map_err(text)
    }

    pub fn summary(&self) -> String {
        let Count { connections, slots, events, states } = &self.count;
        format!(
            "{}: {} connections, {} slots, {} notifications, {} states",
            self.path,
            connections.get(),
            slots.get(),
            events.get(),
            states.get()
        )
    }
}

/// A front end's ring, without any of the cares of one.
pub struct Ring<'a> {
    device: &'a Device,
    memory: GrantedPages<XenGrant>,
    size: u32,
    slot: usize,
    produced: u32,
}

impl<'a> Ring<'a> {
    /// One page, of `size` slots of `slot` bytes.
    pub fn new(device: &'a Device, size: u32, slot: usize) -> Result<Ring<'a>, String> {
        let ring = Ring { device, memory: device.pages(1, Access::ReadWrite)?, size, slot, produced: 0 };
        // As C's `SHARED_RING_INIT`: both ends want to hear of the first.
        ring.memory.store(4, 1);
        ring.memory.store(12, 1);
        Ok(ring)
    }

    pub fn reference(&self) -> GrantRef {
        self.memory.references().next().expect("one page")
    }

    /// Slots that the backend has answered.
    pub fn room(&self) -> u32 {
        self.size - self.produced.wrapping_sub(self.memory.load(8)).min(self.size)
    }

    /// Writes a slot, wherever the backend is.
    pub fn put(&mut self, bytes: &[u8]) {
        let index = (self.produced % self.size) as usize;
        self.memory.write(64 + index * self.slot, &bytes[..bytes.len().min(self.slot)]);
        self.produced = self.produced.wrapping_add(1);
        self.device.count.slots.set(self.device.count.slots.get() + 1);
    }

    /// Tells the backend of what was written.
    pub fn publish(&self, port: &XenPort) {
        self.memory.store(0, self.produced);
        self.notify(port);
    }

    /// An index that is not where it was.
    pub fn publish_at(&self, offset: i32, port: &XenPort) {
        self.memory.store(0, self.produced.wrapping_add_signed(offset));
        self.notify(port);
    }

    pub fn notify(&self, port: &XenPort) {
        port.notify();
        self.device.count.events.set(self.device.count.events.get() + 1);
    }
}

/// A port for the backend.
pub fn port(device: &Device) -> Result<XenPort, String> {
    device.app.event_channels().alloc_unbound(device.peer).map_err(text)
}

/// Does `step` over and over until then, and lets others have their turn: the store's task among them.
pub async fn repeat(device: &Device, until: Duration, mut step: impl FnMut()) {
    while device.now() < until {
        for _ in 0..16 {
            step();
        }
        platform::yield_now().await;
    }
}

/// All modes over and over. Those that end the connection come in each fourth pass only: a backend lets a guest that comes
/// and goes wait.
pub fn passes<M: Copy, const N: usize>(modes: [M; N], ends: impl Fn(M) -> bool) -> impl Iterator<Item = M> {
    (1_u32..).flat_map(move |pass| modes.map(|mode| (!ends(mode) || pass.is_multiple_of(4)).then_some(mode))).flatten()
}

/// Random bytes.
pub fn noise(device: &Device, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(device.random().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
