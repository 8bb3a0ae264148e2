//! A guest whose block frontend is under the test's control, request by request, against blkback.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use xen_blkif::back::{self, Attachment, Limits, Statistics};
use xen_blkif::front;
use xen_blkif::protocol::{Abi, Body, Operation, Request, Response, Segment, Status};
use xen_blkif::ramdisk::RamDisk;
use xen_blkif::{BlockDevice, Completed, Error, Geometry};
use xen_hal::{Access, Clock, Errno, EventChannels, GrantRef, Pages, Port};
use xen_ring::{FrontRing, GrantablePage, SharedMemory};
use xen_sim::{Domain, Script, SimGrant, SimPort, Xen, script};
use xenbus::{Device, Failure, Frontend, Keys, Signals, State, frontend};
use xenstore_client::{Error as StoreError, Store};

pub const DEVICE: u32 = 51712;
pub const SECTORS: u64 = 64;

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(Errno::EIO, error.to_string())
}

/// What a frontend under the test's control has.
pub struct Guest {
    pub domain: Domain,
    /// Its queues, of which most tests have one.
    pub lanes: Vec<Lane>,
    /// Pages for data, granted to the backend.
    pub data: Vec<GrantablePage<SimGrant>>,
    /// Its directory in the store, and the store.
    pub path: String,
    pub store: Store,
}

impl Deref for Guest {
    type Target = Lane;

    fn deref(&self) -> &Lane {
        &self.lanes[0]
    }
}

/// A ring and its bell.
pub struct Lane {
    pub domain: Domain,
    pub ring: RefCell<FrontRing<Abi>>,
    pub page: GrantablePage<SimGrant>,
    pub port: SimPort,
}

impl Lane {
    pub fn memory(&self) -> &SharedMemory {
        &self.page
    }

    pub fn push(&self, request: &Request) {
        self.ring.borrow_mut().push(self.memory(), request).unwrap();
    }

    pub fn publish(&self) {
        let _ = self.ring.borrow_mut().publish(self.memory());
        self.port.notify();
    }

    pub fn send(&self, request: &Request) {
        self.push(request);
        self.publish();
    }

    /// Waits for a response; none within 100 ms is none.
    pub async fn response(&self) -> Option<Response> {
        let deadline = self.domain.now() + Duration::from_millis(100);
        while self.domain.now() < deadline {
            if let Some(response) = self.ring.borrow_mut().pop(self.memory()).unwrap() {
                return Some(response);
            }
            self.domain.sleep(Duration::from_micros(100)).await;
        }
        None
    }

    pub async fn ask(&self, request: Request) -> Option<Response> {
        self.send(&request);
        self.response().await
    }
}

impl Guest {
    pub fn reference(&self, index: usize) -> GrantRef {
        self.data[index].reference().unwrap()
    }

    pub fn direct(&self, operation: Operation, sector: u64, segment: Segment) -> Request {
        let mut segments = [Segment::default(); 11];
        segments[0] = segment;
        Request { id: 7, sector, handle: 0, body: Body::Direct { operation, count: 1, segments } }
    }
}

/// A frontend that runs a script.
pub struct Scripted {
    pub domain: Domain,
    pub how: How,
    pub run: Script<Guest>,
    pub done: Rc<Cell<bool>>,
}

/// How a script's frontend is made.
#[derive(Clone, Copy)]
pub struct How {
    pub abi: Abi,
    pub limits: Limits,
    pub queues: usize,
    pub persistent: bool,
    /// How large the disk is.
    pub sectors: u64,
    /// Reads end at multiples of this time, all that there are then at once; immediately where there is none.
    pub reads_end_every: Option<Duration>,
    /// This queue's ring is a page that is not granted.
    pub bad_ring: Option<usize>,
}

impl Default for How {
    fn default() -> How {
        How {
            abi: Abi::X86_64,
            limits: Limits::default(),
            queues: 1,
            persistent: false,
            sectors: SECTORS,
            reads_end_every: None,
            bad_ring: None,
        }
    }
}

impl Frontend for Scripted {
    const PUBLISHED: State = State::Initialised;
    type Link = Guest;

    async fn connect(&mut self, device: &Device) -> Result<Guest, Failure> {
        let peer = device.other_domain();
        let page = || GrantablePage::<SimGrant>::new(self.domain.alloc_page().unwrap());
        let mut lanes = Vec::new();
        for _ in 0..self.how.queues {
            let mut ring_page = page();
            let ring = RefCell::new(FrontRing::new(self.how.abi, &ring_page));
            ring_page.grant(&self.domain, peer, Access::ReadWrite).map_err(failure)?;
            let port = self.domain.alloc_unbound(peer).map_err(failure)?;
            lanes.push(Lane { domain: self.domain.clone(), ring, page: ring_page, port });
        }
        let mut data: Vec<_> = (0..4).map(|_| page()).collect();
        for (index, page) in data.iter_mut().enumerate() {
            // The last one is for reading alone.
            let access = if index == 3 { Access::ReadOnly } else { Access::ReadWrite };
            page.grant(&self.domain, peer, access).map_err(failure)?;
        }
        let (path, store) = (device.path().to_owned(), device.store().clone());
        Ok(Guest { domain: self.domain.clone(), lanes, data, path, store })
    }

    async fn publish(&mut self, keys: &Keys<'_>, guest: &Guest) -> Result<(), StoreError> {
        for (index, lane) in guest.lanes.iter().enumerate() {
            let prefix = if self.how.queues == 1 { String::new() } else { format!("queue-{index}/") };
            let reference =
                if self.how.bad_ring == Some(index) { GrantRef(9999) } else { lane.page.reference().unwrap() };
            keys.set(&format!("{prefix}ring-ref"), &reference).await?;
            keys.set(&format!("{prefix}event-channel"), &lane.port.number()).await?;
        }
        if self.how.queues != 1 {
            keys.set("multi-queue-num-queues", &self.how.queues.to_string()).await?;
        }
        keys.set("feature-persistent", &self.how.persistent).await?;
        keys.set("protocol", self.how.abi.name()).await
    }

    async fn accept(&mut self, _: &Device, _: &mut Guest) -> Result<(), Failure> {
        Ok(())
    }

    async fn run(&mut self, _: &Device, guest: Guest, signals: &Signals) -> Result<(), Failure> {
        let guest = Rc::new(guest);
        (self.run)(guest.clone()).await;
        self.done.set(true);
        signals.closing().await;
        Ok(())
    }

    fn lost(&mut self) {}
}

/// See [`How::reads_end_every`].
struct Periodic {
    disk: RamDisk<Domain>,
    domain: Domain,
    period: Option<Duration>,
}

impl BlockDevice for Periodic {
    type Buffer = <RamDisk<Domain> as BlockDevice>::Buffer;

    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error> {
        self.disk.buffer(len)
    }

    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        if let Some(period) = self.period {
            let periods = self.domain.now().as_nanos() / period.as_nanos() + 1;
            self.domain.sleep_until(period * periods as u32).await;
        }
        self.disk.read(sector, buffer).await
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        self.disk.write(sector, buffer).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.disk.flush().await
    }

    async fn discard(&self, sector: u64, sectors: u64, secure: bool) -> Result<(), Error> {
        self.disk.discard(sector, sectors, secure).await
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        self.disk.changed(known).await
    }
}

/// Runs a script as a frontend of our backend, beside an honest guest whose disk has to go on working.
/// Returns what the backend has done for the script.
pub fn against_backend(xen: &Xen, how: How, run: impl AsyncFn(&Guest) + 'static) -> Statistics {
    run_against_backend(xen, how, script(run))
}

pub fn run_against_backend(xen: &Xen, how: How, run: Script<Guest>) -> Statistics {
    let toolstack = xen.toolstack();
    let (bad, good, back) = (xen.domain(), xen.domain(), xen.domain());
    let (store, domain) = (back.store(), back.clone());
    let served = Rc::<RefCell<Vec<_>>>::default();
    let did = served.clone();
    back.spawn(async move {
        let open = async |attachment: &Attachment| {
            let disk = RamDisk::new(domain.clone(), how.sectors).unwrap();
            let disk = if attachment.writable { disk } else { disk.read_only() };
            Ok(Periodic { disk, domain: domain.clone(), period: how.reads_end_every })
        };
        let ended =
            |attachment: &Attachment, statistics: Statistics| did.borrow_mut().push((attachment.domain, statistics));
        drop(back::serve(&store, domain.clone(), how.limits, open, ended).await);
    })
    .detach();
    let done = Rc::new(Cell::new(false));
    let (store, domain, flag) = (bad.store(), bad.clone(), done.clone());
    let dom0 = xen.dom0();
    let (bad_id, good_id, back_id) = (bad.id(), good.id(), back.id());
    let good_store = good.store();
    xen.run(async move {
        let nodes = [("params", "disk"), ("mode", "w")];
        toolstack.attach_with("vbd", good_id, back_id, DEVICE, &nodes).await.unwrap();
        let path = format!("device/vbd/{DEVICE}");
        let options = front::Options::default();
        let (disk, runner) = front::connect(&good_store, good.clone(), &path, options);
        good.spawn(async move { drop(runner.await) }).detach();
        disk.write_bytes(0, &[0x55; 512]).await.unwrap();
        toolstack.attach_with("vbd", bad_id, back_id, DEVICE, &nodes).await.unwrap();
        bad.spawn(async move {
            let mut driver = Scripted { domain: domain.clone(), how, run, done: flag };
            drop(frontend(&store, &domain, &format!("device/vbd/{DEVICE}"), &mut driver).await);
        })
        .detach();
        let deadline = dom0.now() + Duration::from_secs(20);
        while !done.get() {
            assert!(dom0.now() < deadline, "the script does not end");
            dom0.sleep(Duration::from_millis(1)).await;
        }
        let mut bytes = [0; 512];
        disk.read_bytes(0, &mut bytes).await.expect("the other guest's disk works");
        assert_eq!(bytes, [0x55; 512]);
        // And the offender's goes away like any other.
        assert!(toolstack.detach("vbd", bad_id, back_id, DEVICE).await.unwrap(), "closed in time");
        dom0.sleep(Duration::from_secs(1)).await;
    });
    let served = served.borrow();
    served.iter().find(|(domain, _)| *domain == bad_id).expect("the backend tells of each end").1
}

pub fn answered(status: Status, operation: Operation) -> Option<Response> {
    Some(Response { id: 7, operation, status })
}
