//! A network backend that is under the test's control, slot by slot, against netfront.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use xen_hal::{Access, Clock, DomId, Errno, EventChannels, GrantRef, GrantTable, MapRequest, Port, PortNumber};
use xen_netif::front::{self, Interface, Options};
use xen_netif::protocol::{
    Extra, RxProtocol, RxRequest, RxResponse, RxSlot, TxProtocol, TxResponse, TxStatus, rx_flags, tx_flags,
};
use xen_ring::{BackRing, ReadOnlyMapping, SharedMapping};
use xen_sim::{Domain, Script, SimMapping, SimPort, Toolstack, Xen, script};
use xenbus::{Backend, Device as BusDevice, EndReason, Failure, Keys, Signals, backend};
use xenstore_client::Error as StoreError;

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(Errno::EIO, error.to_string())
}

/// A backend that runs a script.
struct Scripted {
    domain: Domain,
    nodes: Vec<(&'static str, &'static str)>,
    run: Script<Wire>,
}

/// What a backend has of a guest's.
pub struct Wire {
    pub domain: Domain,
    pub peer: DomId,
    pub tx: RefCell<BackRing<TxProtocol>>,
    pub tx_memory: SharedMapping<SimMapping>,
    pub rx: RefCell<BackRing<RxProtocol>>,
    pub rx_memory: SharedMapping<SimMapping>,
    pub ports: Vec<SimPort>,
    /// The rings' pages.
    pub tx_reference: GrantRef,
    pub rx_reference: GrantRef,
}

/// A frame that the guest has sent.
#[derive(Debug, PartialEq)]
pub struct Sent {
    pub bytes: Vec<u8>,
    pub flags: u16,
    pub extra: Option<Extra>,
}

impl Wire {
    pub fn map(&self, reference: GrantRef, access: Access) -> SharedMapping<SimMapping> {
        SharedMapping::new(self.domain.map(&[MapRequest { peer: self.peer, reference, access }]).unwrap()).unwrap()
    }

    pub fn map_to_read(&self, reference: GrantRef) -> ReadOnlyMapping<SimMapping> {
        let request = MapRequest { peer: self.peer, reference, access: Access::ReadOnly };
        ReadOnlyMapping::new(self.domain.map(&[request]).unwrap()).unwrap()
    }

    pub fn notify(&self) {
        self.ports.iter().for_each(Port::notify);
    }

    /// Waits for a frame of the guest's, as netback reads it.
    pub async fn sent(&self) -> Sent {
        let first = self.slot().await.request();
        let mut extra = None;
        if first.flags & tx_flags::EXTRA_INFO != 0 {
            let (found, more) = self.slot().await.extra();
            assert!(!more);
            extra = Some(found);
        }
        let mut slots = vec![first];
        while slots.last().unwrap().flags & tx_flags::MORE_DATA != 0 {
            slots.push(self.slot().await.request());
        }
        // The first slot's size is the whole frame's.
        let rest: u16 = slots[1..].iter().map(|slot| slot.size).sum();
        slots[0].size -= rest;
        let mut bytes = Vec::new();
        for slot in &slots {
            let page = self.map_to_read(slot.reference);
            let mut part = vec![0; slot.size.into()];
            page.read(slot.offset.into(), &mut part);
            bytes.extend(part);
        }
        for (index, slot) in slots.iter().enumerate() {
            self.answer(TxResponse { id: slot.id, status: TxStatus::Okay });
            if index == 0 && extra.is_some() {
                self.answer(TxResponse { id: 0xffff, status: TxStatus::Null });
            }
        }
        Sent { bytes, flags: first.flags & !(tx_flags::MORE_DATA | tx_flags::EXTRA_INFO), extra }
    }

    pub async fn slot(&self) -> xen_netif::protocol::TxSlot {
        loop {
            if let Some(slot) = self.tx.borrow_mut().pop(&self.tx_memory).unwrap() {
                return slot;
            }
            self.domain.sleep(Duration::from_micros(50)).await;
        }
    }

    pub fn answer(&self, response: TxResponse) {
        self.tx.borrow_mut().push(&self.tx_memory, &response);
        let _ = self.tx.borrow_mut().publish(&self.tx_memory);
        self.notify();
    }

    pub async fn page(&self) -> RxRequest {
        loop {
            if let Some(request) = self.rx.borrow_mut().pop(&self.rx_memory).unwrap() {
                return request;
            }
            self.domain.sleep(Duration::from_micros(50)).await;
        }
    }

    pub fn give(&self, slot: impl Into<RxSlot>) {
        self.rx.borrow_mut().push(&self.rx_memory, &slot.into());
    }

    pub fn publish(&self) {
        let _ = self.rx.borrow_mut().publish(&self.rx_memory);
        self.notify();
    }

    /// Gives the guest a frame in parts of these sizes, each at the offset `at` of its page.
    pub async fn deliver(&self, bytes: &[u8], part: usize, at: u16, flags: u16, extra: Option<Extra>) {
        let parts: Vec<_> = bytes.chunks(part).collect();
        for (index, part) in parts.iter().enumerate() {
            let request = self.page().await;
            let page = self.map(request.reference, Access::ReadWrite);
            page.write(at.into(), part);
            let mut own = if index == 0 { flags } else { 0 };
            if index + 1 < parts.len() {
                own |= rx_flags::MORE_DATA;
            }
            if index == 0 && extra.is_some() {
                own |= rx_flags::EXTRA_INFO;
            }
            self.give(RxResponse { id: request.id, offset: at, flags: own, status: part.len() as i16 });
            if index == 0
                && let Some(extra) = extra
            {
                self.page().await;
                self.give((extra, false));
            }
        }
        self.publish();
    }
}

impl Backend for Scripted {
    type Link = Wire;

    async fn prepare(&mut self, _: &BusDevice) -> Result<(), Failure> {
        Ok(())
    }

    async fn advertise(&mut self, keys: &Keys<'_>) -> Result<(), StoreError> {
        for (key, value) in &self.nodes {
            keys.set(key, *value).await?;
        }
        Ok(())
    }

    async fn connect(&mut self, device: &BusDevice) -> Result<Wire, Failure> {
        let peer = device.other_domain();
        let get = async |key: &str| device.get_other::<u32>(key).await.map(|found| found.ok_or_else(|| failure(key)));
        let map = |reference| {
            let mapping = self.domain.map(&[MapRequest { peer, reference, access: Access::ReadWrite }]);
            SharedMapping::new(mapping.map_err(failure)?).map_err(failure)
        };
        let tx_reference = GrantRef(get("tx-ring-ref").await??);
        let rx_reference = GrantRef(get("rx-ring-ref").await??);
        let (tx_memory, rx_memory) = (map(tx_reference)?, map(rx_reference)?);
        assert_eq!(get("request-rx-copy").await??, 1);
        let mut ports = Vec::new();
        for key in ["event-channel", "event-channel-tx", "event-channel-rx"] {
            if let Some(port) = device.get_other::<u32>(key).await? {
                ports.push(self.domain.bind_interdomain(peer, PortNumber(port)).map_err(failure)?);
            }
        }
        let split = self.nodes.contains(&("feature-split-event-channels", "1"));
        assert_eq!(ports.len(), if split { 2 } else { 1 });
        Ok(Wire {
            domain: self.domain.clone(),
            peer,
            tx: RefCell::new(BackRing::attach(TxProtocol, &tx_memory).map_err(failure)?),
            rx: RefCell::new(BackRing::attach(RxProtocol, &rx_memory).map_err(failure)?),
            tx_memory,
            rx_memory,
            ports,
            tx_reference,
            rx_reference,
        })
    }

    async fn publish(&mut self, _: &Keys<'_>, _: &Wire) -> Result<(), StoreError> {
        Ok(())
    }

    async fn run(&mut self, _: &BusDevice, wire: Wire, signals: &Signals) -> Result<(), Failure> {
        let wire = Rc::new(wire);
        (self.run)(wire.clone()).await;
        signals.closing().await;
        Ok(())
    }
}

pub const PLAIN: &[(&str, &str)] = &[("feature-rx-copy", "1")];
pub const ALL: &[(&str, &str)] = &[
    ("feature-rx-copy", "1"),
    ("feature-sg", "1"),
    ("feature-gso-tcpv4", "1"),
    ("feature-gso-tcpv6", "1"),
    ("feature-ipv6-csum-offload", "1"),
    ("feature-split-event-channels", "1"),
    ("multi-queue-max-queues", "4"),
];

/// Runs `user` on an interface that a script serves; says what the frontend's error node holds afterwards.
pub fn against(
    xen: &Xen,
    nodes: &[(&'static str, &'static str)],
    run: impl AsyncFn(&Wire) + 'static,
    user: impl AsyncFnOnce(Interface<Domain>, Domain) + 'static,
) -> Option<String> {
    against_with(xen, Options::default(), nodes, run, user)
}

/// As [`against`], with an interface of few pages that has these options otherwise.
pub fn against_with(
    xen: &Xen,
    options: Options,
    nodes: &[(&'static str, &'static str)],
    run: impl AsyncFn(&Wire) + 'static,
    user: impl AsyncFnOnce(Interface<Domain>, Domain) + 'static,
) -> Option<String> {
    let user = |interface, domain| async move { user(interface, domain).await }.boxed_local();
    run_against(xen, options.with_receive_pages(32), nodes.to_vec(), script(run), Box::new(user))
}

type User = Box<dyn FnOnce(Interface<Domain>, Domain) -> LocalBoxFuture<'static, ()>>;

fn run_against(
    xen: &Xen,
    options: Options,
    nodes: Vec<(&'static str, &'static str)>,
    run: Script<Wire>,
    user: User,
) -> Option<String> {
    let toolstack = xen.toolstack();
    let (front, back) = (xen.domain(), xen.domain());
    let (front_store, store, domain) = (front.store(), back.store(), back.clone());
    let path = Toolstack::paths("vif", front.id(), back.id(), 0).1;
    let outcome = xen.run(async move {
        let mac = [("mac", "00:16:3e:01:02:03")];
        toolstack.attach_with("vif", front.id(), back.id(), 0, &mac).await.unwrap();
        let own = format!("/local/domain/{}/device/vif/0/mac", front.id().0);
        toolstack.store().set(&own, "00:16:3e:01:02:03").await.unwrap();
        back.spawn(async move {
            let mut driver = Scripted { domain: domain.clone(), nodes, run };
            drop(backend(&store, &domain, &path, &mut driver).await);
        })
        .detach();
        let (interface, runner) = front::connect(&front_store, front.clone(), "device/vif/0", options);
        let driver = front.spawn(runner);
        user(interface, front.clone()).await;
        front.sleep(Duration::from_millis(50)).await;
        let error = format!("/local/domain/{}/error/device/vif/0/error", front.id().0);
        let error = toolstack.store().get::<String>(&error).await.unwrap();
        if error.is_none() {
            assert_eq!(driver.await.unwrap(), EndReason::Stopped, "the last handle is gone");
            toolstack.detach("vif", front.id(), back.id(), 0).await.unwrap();
        }
        error
    });
    xen.settle();
    outcome
}
