//! A block backend that is under the test's control, request by request, against blkfront.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use xen_blkif::front::{self, Disk};
use xen_blkif::protocol::{Abi, Request, Response, Status};
use xen_blkif::{BlockDevice, Error};
use xen_hal::{Access, Clock, DomId, Errno, EventChannels, GrantRef, GrantTable, MapRequest, Port, PortNumber};
use xen_ring::{BackRing, SharedMapping};
use xen_sim::{Domain, Script, SimMapping, SimPort, Toolstack, Xen, script};
use xenbus::{Backend, Device, Failure, Keys, Signals, backend};
use xenstore_client::{Error as StoreError, Store};

pub const DEVICE: u32 = 51712;
pub const SECTORS: u64 = 64;

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(Errno::EIO, error.to_string())
}

/// A backend that runs a script.
pub struct BadBackend {
    pub domain: Domain,
    pub nodes: Vec<(&'static str, &'static str)>,
    pub run: Script<Served>,
}

pub struct Served {
    pub domain: Domain,
    pub peer: DomId,
    pub ring: RefCell<BackRing<Abi>>,
    pub memory: SharedMapping<SimMapping>,
    pub port: SimPort,
    /// Its directory in the store, and the store.
    pub path: String,
    pub store: Store,
}

impl Served {
    pub async fn request(&self) -> Request {
        loop {
            if let Some(request) = self.ring.borrow_mut().pop(&self.memory).unwrap() {
                return request;
            }
            self.domain.sleep(Duration::from_micros(100)).await;
        }
    }

    pub fn answer(&self, response: Response) {
        self.ring.borrow_mut().push(&self.memory, &response);
        let _ = self.ring.borrow_mut().publish(&self.memory);
        self.port.notify();
    }
}

impl Backend for BadBackend {
    type Link = Served;

    async fn prepare(&mut self, _: &Device) -> Result<(), Failure> {
        Ok(())
    }

    async fn advertise(&mut self, keys: &Keys<'_>) -> Result<(), StoreError> {
        for (key, value) in self.nodes.iter().filter(|(key, _)| *key == "max-ring-page-order") {
            keys.set(key, *value).await?;
        }
        keys.set("feature-max-indirect-segments", &256_u32).await
    }

    async fn connect(&mut self, device: &Device) -> Result<Served, Failure> {
        let reference: GrantRef = device.get_other("ring-ref").await?.ok_or_else(|| failure("no ring"))?;
        let port: PortNumber = device.get_other("event-channel").await?.ok_or_else(|| failure("no port"))?;
        let peer = device.other_domain();
        let mapping = self.domain.map(&[MapRequest { peer, reference, access: Access::ReadWrite }]).map_err(failure)?;
        let memory = SharedMapping::new(mapping).map_err(failure)?;
        let ring = RefCell::new(BackRing::attach(Abi::X86_64, &memory).map_err(failure)?);
        let port = self.domain.bind_interdomain(peer, port).map_err(failure)?;
        let (path, store) = (device.path().to_owned(), device.store().clone());
        Ok(Served { domain: self.domain.clone(), peer, ring, memory, port, path, store })
    }

    async fn publish(&mut self, keys: &Keys<'_>, _: &Served) -> Result<(), StoreError> {
        keys.set("feature-flush-cache", &true).await?;
        keys.set("feature-barrier", &true).await?;
        keys.set("feature-discard", &true).await?;
        keys.set("feature-persistent", &true).await?;
        keys.set("sectors", &SECTORS).await?;
        for (key, value) in &self.nodes {
            keys.set(key, *value).await?;
        }
        Ok(())
    }

    async fn run(&mut self, _: &Device, served: Served, signals: &Signals) -> Result<(), Failure> {
        let served = Rc::new(served);
        (self.run)(served.clone()).await;
        signals.closing().await;
        Ok(())
    }
}

/// Runs `user` on a disk that a script serves; says what the frontend's error node holds afterwards.
pub fn against_frontend(
    xen: &Xen,
    run: impl AsyncFn(&Served) + 'static,
    user: impl AsyncFn(&Disk<Domain>) + 'static,
) -> Option<String> {
    against_frontend_with(xen, &[], run, user)
}

/// The same, where the backend says some things in other words.
pub fn against_frontend_with(
    xen: &Xen,
    nodes: &[(&'static str, &'static str)],
    run: impl AsyncFn(&Served) + 'static,
    user: impl AsyncFn(&Disk<Domain>) + 'static,
) -> Option<String> {
    run_against_frontend(xen, nodes.to_vec(), script(run), script(user))
}

fn run_against_frontend(
    xen: &Xen,
    nodes: Vec<(&'static str, &'static str)>,
    run: Script<Served>,
    user: Script<Disk<Domain>>,
) -> Option<String> {
    let toolstack = xen.toolstack();
    let (front, back) = (xen.domain(), xen.domain());
    let (store, domain) = (back.store(), back.clone());
    let path = Toolstack::paths("vbd", front.id(), back.id(), DEVICE).1;
    let (front_id, back_id) = (front.id(), back.id());
    let front_store = front.store();
    xen.run(async move {
        toolstack.attach_with("vbd", front_id, back_id, DEVICE, &[("mode", "w")]).await.unwrap();
        back.spawn(async move {
            let mut driver = BadBackend { domain: domain.clone(), nodes, run };
            drop(backend(&store, &domain, &path, &mut driver).await);
        })
        .detach();
        let device = format!("device/vbd/{DEVICE}");
        let options = front::Options::default();
        let (disk, runner) = front::connect(&front_store, front.clone(), &device, options);
        front.spawn(async move { drop(runner.await) }).detach();
        user(Rc::new(disk)).await;
        front.sleep(Duration::from_millis(50)).await;
        let error = format!("/local/domain/{}/error/device/vbd/{DEVICE}/error", front_id.0);
        toolstack.store().get::<String>(&error).await.unwrap()
    })
}

pub async fn read(disk: &Disk<Domain>) -> Result<(), Error> {
    let mut bytes = [0; 512];
    disk.read_bytes(0, &mut bytes).await
}

/// The answer to a request that went well.
pub fn okay(request: &Request) -> Response {
    Response { id: request.id, operation: request.response_operation(), status: Status::Okay }
}
