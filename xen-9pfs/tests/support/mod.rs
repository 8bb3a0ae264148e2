//! A 9pfs backend that is under the test's control, message by message, against the frontend.

#![allow(dead_code, reason = "each test is a crate of its own, and uses a part")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

pub mod files;

use std::ops::Deref;

use futures_util::future::{LocalBoxFuture, join_all};
use xen_9pfs::front::{self, Dialect, Options, Share};
use xen_9pfs::protocol::{HEADER_SIZE, Header, Message, NOTAG, Qid, VERSION};
use xen_9pfs::ring;
use xen_hal::{Clock, Errno, GrantRef, GrantTable, Port, PortNumber};
use xen_ring::{ByteReader, ByteRing, ByteWriter, SharedMapping};
use xen_sim::{Domain, Script, SimMapping, SimPort, Toolstack, Usage, Xen, script};
use xenbus::{Backend, Device, EndReason, Failure, Keys, Signals, backend, yield_now};
use xenstore_client::{Error as StoreError, Store};

pub const DEVICE: u32 = 0;
pub const PATH: &str = "device/9pfs/0";
pub use files::Files;
pub const QID: Qid = Qid { kind: 0x80, version: 1, path: 2 };
/// What the backend offers.
pub const NODES: [(&str, &str); 3] = [("versions", "1"), ("max-rings", "4"), ("max-ring-page-order", "8")];

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(Errno::EIO, error.to_string())
}

/// A backend that runs a script.
pub struct Scripted {
    pub domain: Domain,
    pub nodes: Vec<(&'static str, &'static str)>,
    pub run: Script<Served>,
}

/// What the frontend has granted.
pub struct Served {
    pub rings: Vec<RingEnd>,
}

/// The first ring.
impl Deref for Served {
    type Target = RingEnd;

    fn deref(&self) -> &RingEnd {
        &self.rings[0]
    }
}

impl Served {
    /// Answers all requests, of all rings at the same time.
    pub async fn serve_files(&self, files: &RefCell<Files>) {
        files.borrow_mut().restart();
        join_all(self.rings.iter().map(|ring| async move {
            loop {
                ring.serve_one(files).await;
                yield_now().await;
            }
        }))
        .await;
    }

    pub async fn serve(&self) {
        let mut files = Files::new(Dialect::Linux);
        files.put("file", files::Node::File(b"what it has".to_vec()));
        self.serve_files(&RefCell::new(files)).await;
    }
}

pub struct RingEnd {
    pub domain: Domain,
    pub ring: ByteRing,
    /// Bytes of requests.
    pub taken: Cell<u32>,
    pub requests: RefCell<ByteReader>,
    pub responses: RefCell<ByteWriter>,
    pub memory: SharedMapping<SimMapping>,
    pub port: SimPort,
}

impl RingEnd {
    /// Waits for an event if nothing has come; what has come is taken.
    async fn read(&self, len: usize) -> Vec<u8> {
        let unread = || self.memory.load(self.ring.producer).wrapping_sub(self.taken.get()) as usize;
        while unread() == 0 {
            self.port.wait().await;
        }
        assert!(unread() >= len, "QEMU's backend never looks again at a request of which it has seen a part");
        let mut bytes = vec![0; len];
        assert_eq!(self.requests.borrow_mut().read(&self.memory, &mut bytes).unwrap().bytes, len);
        self.taken.set(self.taken.get().wrapping_add(len as u32));
        bytes
    }

    /// The next request: its header and the rest.
    pub async fn request(&self) -> (Header, Vec<u8>) {
        let header = Header::from_bytes(self.read(HEADER_SIZE).await.try_into().unwrap());
        let body = self.read(header.size as usize - HEADER_SIZE).await;
        self.port.notify();
        Message::decode(header.kind, &body).expect("the frontend asks in an orderly way");
        (header, body)
    }

    /// Writes bytes, a few at a time if the seed says so.
    pub async fn write(&self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let piece = match self.domain.machine().random(3) {
                0 => 1 + self.domain.machine().random(bytes.len() as u64) as usize,
                _ => bytes.len(),
            };
            let moved = self.responses.borrow_mut().write(&self.memory, &bytes[..piece]).unwrap().bytes;
            bytes = &bytes[moved..];
            self.port.notify();
            if moved == 0 {
                self.port.wait().await;
            }
        }
    }

    pub async fn answer(&self, tag: u16, message: Message<'_>) {
        self.write(&message.encode(tag, u32::MAX).unwrap()).await;
    }

    /// Answers one request as a server does.
    pub async fn serve_one(&self, files: &RefCell<Files>) {
        let (header, body) = self.request().await;
        let message = Message::decode(header.kind, &body).unwrap();
        let answer = files.borrow_mut().answer(header.tag, &message);
        self.write(&answer).await;
    }

    /// Answers what a session of 9P2000.L begins with.
    pub async fn serve_session(&self, most: u32) {
        let (header, body) = self.request().await;
        let Ok(Message::Tversion { msize, .. }) = Message::decode(header.kind, &body) else { panic!("{header:?}") };
        assert_eq!(header.tag, NOTAG);
        self.answer(NOTAG, Message::Rversion { msize: msize.min(most), version: VERSION }).await;
        let (header, body) = self.request().await;
        let Ok(Message::Tattach { .. }) = Message::decode(header.kind, &body) else { panic!("{header:?}") };
        self.answer(header.tag, Message::Rattach { qid: QID }).await;
    }
}

impl Backend for Scripted {
    type Link = Served;

    async fn prepare(&mut self, _: &Device) -> Result<(), Failure> {
        Ok(())
    }

    async fn advertise(&mut self, keys: &Keys<'_>) -> Result<(), StoreError> {
        for (key, value) in &self.nodes {
            keys.set(key, *value).await?;
        }
        Ok(())
    }

    async fn connect(&mut self, device: &Device) -> Result<Served, Failure> {
        let (version, pages) = device
            .read_peer(async |peer| {
                let version: String = peer.required("version").await?;
                let mut pages = Vec::new();
                for index in 0..peer.required::<usize>("num-rings").await? {
                    let reference: GrantRef = peer.required(&format!("ring-ref{index}")).await?;
                    let port: PortNumber = peer.required(&format!("event-channel-{index}")).await?;
                    pages.push((reference, port));
                }
                Ok((version, pages))
            })
            .await?;
        assert!(version == "1" && (1..=4).contains(&pages.len()));
        let mut rings = Vec::new();
        for (reference, port) in pages {
            let interface = device.map_ring("interface", &[reference], |pages| self.domain.map(pages))?;
            let order = ring::read_order(&interface);
            assert!((1..=8).contains(&order));
            let data = (0..1 << order).map(|index| ring::read_reference(&interface, index));
            let references: Vec<_> = [reference].into_iter().chain(data).collect();
            let memory = device.map_ring("ring", &references, |pages| self.domain.map(pages))?;
            let (ring, taken) = (ring::requests(order), Cell::new(0));
            let requests = RefCell::new(ring.reader(&memory).map_err(failure)?);
            let responses = RefCell::new(ring::responses(order).writer(&memory).map_err(failure)?);
            let port = device.bind_port(&self.domain, port)?;
            let domain = self.domain.clone();
            rings.push(RingEnd { domain, ring, taken, requests, responses, memory, port });
        }
        Ok(Served { rings })
    }

    async fn publish(&mut self, _: &Keys<'_>, _: &Served) -> Result<(), StoreError> {
        Ok(())
    }

    async fn run(&mut self, _: &Device, served: Served, signals: &Signals) -> Result<(), Failure> {
        let script = (self.run)(Rc::new(served));
        let closing = std::pin::pin!(signals.closing());
        futures_util::future::select(script, closing).await;
        signals.closing().await;
        Ok(())
    }
}

/// A guest, a domain that serves, and what both have in use without a device.
pub struct Bench {
    pub front: Domain,
    pub back: Domain,
    pub dom0: Domain,
    pub toolstack: Toolstack,
    pub front_store: Store,
    pub back_store: Store,
    before: (Usage, Usage),
}

pub fn bench(xen: &Xen) -> Rc<Bench> {
    let (front, back, toolstack) = (xen.domain(), xen.domain(), xen.toolstack());
    let (front_store, back_store) = (front.store(), back.store());
    xen.settle();
    let before = (front.in_use(), back.in_use());
    Rc::new(Bench { front, back, dom0: xen.dom0(), toolstack, front_store, back_store, before })
}

impl Bench {
    pub async fn attach(&self) {
        let nodes = [("path", "/srv"), ("security_model", "none")];
        let (front, back) = (self.front.id(), self.back.id());
        self.toolstack.attach_with("9pfs", front, back, DEVICE, &nodes).await.unwrap();
        self.toolstack.store().set(&format!("/local/domain/{}/{PATH}/tag", front.0), "files").await.unwrap();
    }

    pub async fn detach(&self) -> bool {
        self.toolstack.detach("9pfs", self.front.id(), self.back.id(), DEVICE).await.unwrap()
    }

    /// Begins to serve by a script. Dropping what is returned ends the backend at once.
    pub fn serve(&self, run: impl AsyncFn(&Served) + 'static) -> LocalBoxFuture<'static, ()> {
        self.serve_with(NODES.to_vec(), script(run))
    }

    pub fn serve_with(
        &self,
        nodes: Vec<(&'static str, &'static str)>,
        run: Script<Served>,
    ) -> LocalBoxFuture<'static, ()> {
        let (store, domain) = (self.back_store.clone(), self.back.clone());
        let path = Toolstack::paths("9pfs", self.front.id(), self.back.id(), DEVICE).1;
        let driver = async move {
            let mut driver = Scripted { domain: domain.clone(), nodes, run };
            drop(backend(&store, &domain, &path, &mut driver).await);
        };
        Box::pin(self.back.spawn(driver))
    }

    /// Begins to drive the frontend; the future tells how it ended.
    pub fn connect(&self) -> (Share, impl Future<Output = EndReason> + use<>) {
        self.connect_with(Options::default())
    }

    pub fn connect_with(&self, options: Options) -> (Share, impl Future<Output = EndReason> + use<>) {
        let (share, runner) = front::connect(&self.front_store, self.front.clone(), PATH, options);
        let task = self.front.spawn(runner);
        (share, async move { task.await.expect("the store works") })
    }

    /// What the frontend's error node holds.
    pub async fn error(&self) -> Option<String> {
        let error = format!("/local/domain/{}/error/{PATH}/error", self.front.id().0);
        self.toolstack.store().get::<String>(&error).await.unwrap()
    }

    pub async fn pause(&self, millis: u64) {
        self.dom0.sleep(Duration::from_millis(millis)).await;
    }

    /// Lets everything come to rest, and checks that nothing is left of any device.
    pub fn check_no_leak(self: &Rc<Bench>, xen: &Xen) {
        let bench = self.clone();
        xen.run(async move { bench.pause(20_000).await });
        assert_eq!((self.front.in_use(), self.back.in_use()), self.before, "something has leaked");
        assert_eq!(xen.in_use().1, 0, "grants whose end was put off");
    }
}

/// Runs `user` on a share that a script serves; says what the frontend's error node holds afterwards. Nothing may be
/// left.
pub fn against_frontend(
    xen: &Xen,
    run: impl AsyncFn(&Served) + 'static,
    user: impl AsyncFn(&Share) + 'static,
) -> Option<String> {
    against_frontend_with(xen, NODES.to_vec(), run, user)
}

/// The same, where the backend offers something else.
pub fn against_frontend_with(
    xen: &Xen,
    nodes: Vec<(&'static str, &'static str)>,
    run: impl AsyncFn(&Served) + 'static,
    user: impl AsyncFn(&Share) + 'static,
) -> Option<String> {
    let bench = bench(xen);
    let (used, run, user) = (bench.clone(), script(run), script(user));
    let error = xen.run(async move {
        used.attach().await;
        let serving = used.serve_with(nodes, run);
        let (share, ended) = used.connect();
        let share = Rc::new(share);
        user(share.clone()).await;
        used.pause(50).await;
        let error = used.error().await;
        used.detach().await;
        assert_eq!(ended.await, EndReason::Removed);
        drop(serving);
        error
    });
    bench.check_no_leak(xen);
    error
}
