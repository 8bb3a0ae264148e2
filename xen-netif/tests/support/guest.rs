//! A guest whose frontend is under the test's control, slot by slot, against netback.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use xen_hal::{Access, Clock, Errno, EventChannels, GrantRef, Pages, Port as _};
use xen_netif::back::{self, Limits, Port};
use xen_netif::protocol::{
    Extra, Gso, RxProtocol, RxRequest, TxProtocol, TxRequest, TxResponse, TxSlot, rx_flags, tx_flags,
};
use xen_ring::{FrontRing, GrantablePage};
use xen_sim::{Domain, Script, SimGrant, SimPort, Xen};
use xenbus::{Device, Failure, Frontend, Keys, Signals, State, frontend};
use xenstore_client::Error as StoreError;

const MAC: &str = "00:16:3e:01:02:03";
/// What a frontend takes where a test says nothing else.
pub const FEATURES: &[&str] = &["feature-sg", "feature-gso-tcpv4"];

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(Errno::EIO, error.to_string())
}

/// What a frontend under the test's control has.
pub struct Guest {
    pub domain: Domain,
    pub tx: RefCell<FrontRing<TxProtocol>>,
    pub tx_page: GrantablePage<SimGrant>,
    pub rx: RefCell<FrontRing<RxProtocol>>,
    pub rx_page: GrantablePage<SimGrant>,
    /// Granted for writing, granted for reading alone, and more of each in turn.
    pub data: Vec<GrantablePage<SimGrant>>,
    pub port: SimPort,
    refilled: Cell<usize>,
}

impl Guest {
    pub fn reference(&self, index: usize) -> GrantRef {
        self.data[index].reference().unwrap()
    }

    /// A slot for bytes of the second page.
    pub fn slot(&self, offset: u16, size: u16, flags: u16) -> TxSlot {
        TxRequest { reference: self.reference(1), offset, flags, id: 7, size }.into()
    }

    /// Sends slots.
    pub fn send(&self, slots: &[TxSlot]) {
        for slot in slots {
            self.tx.borrow_mut().push(&self.tx_page, slot).unwrap();
        }
        let _ = self.tx.borrow_mut().publish(&self.tx_page);
        self.port.notify();
    }

    /// Gives the backend pages to write to; their numbers are the requests' ids.
    pub fn offer_pages(&self, count: usize) {
        for id in 0..count {
            let request = RxRequest { id: id as u16, reference: self.reference(id * 2) };
            self.rx.borrow_mut().push(&self.rx_page, &request).unwrap();
        }
        let _ = self.rx.borrow_mut().publish(&self.rx_page);
        self.port.notify();
    }

    /// Gives the backend pages again that it has used, so that it always has six. Each is in use once at a time.
    pub fn refill_pages(&self) {
        while self.rx.borrow().outstanding() < 6 {
            let id = self.refilled.replace((self.refilled.get() + 1) % 6);
            let request = RxRequest { id: id as u16, reference: self.reference(id * 2) };
            self.rx.borrow_mut().push(&self.rx_page, &request).unwrap();
        }
        let _ = self.rx.borrow_mut().publish(&self.rx_page);
        self.port.notify();
    }

    /// Sends a packet in pages that are granted for reading, with as much in each as it takes.
    pub fn send_packet(&self, bytes: &[u8], flags: u16, gso: Option<(Gso, u16)>) {
        let mut slots: Vec<TxSlot> = Vec::new();
        let last = bytes.len().div_ceil(4096) - 1;
        for (index, part) in bytes.chunks(4096).enumerate() {
            self.data[index].write(0, part);
            let mut own = if index < last { tx_flags::MORE_DATA } else { 0 };
            if index == 0 {
                own |= flags | if gso.is_some() { tx_flags::EXTRA_INFO } else { 0 };
            }
            let size = if index == 0 { bytes.len() } else { part.len() } as u16;
            slots.push(TxRequest { reference: self.reference(index), offset: 0, flags: own, id: 7, size }.into());
            if let Some((protocol, size)) = gso.filter(|_| index == 0) {
                slots.push((Extra::Gso { size, protocol }, false).into());
            }
        }
        self.send(&slots);
    }

    /// The next packet that the backend has put into pages, and its ids: the first slot's flags, its segments, and its
    /// bytes, or nothing where it was dropped.
    pub fn received(&self) -> Option<Received> {
        let mut rx = self.rx.borrow_mut();
        let first = rx.pop(&self.rx_page).unwrap()?.response();
        let mut found = Received { flags: first.flags, gso: None, bytes: Some(Vec::new()), slots: 1 };
        let (mut next, mut extra) = (first, first.flags & rx_flags::EXTRA_INFO != 0);
        loop {
            match (usize::try_from(next.status), &mut found.bytes) {
                (Ok(len), Some(bytes)) => {
                    let start = bytes.len();
                    bytes.resize(start + len, 0);
                    self.data[usize::from(next.id) * 2].read(next.offset.into(), &mut bytes[start..]);
                }
                _ => found.bytes = None,
            }
            while std::mem::take(&mut extra) {
                let (said, more) = rx.pop(&self.rx_page).unwrap().expect("the packet is there as a whole").extra();
                let Extra::Gso { size, protocol } = said else { panic!("{said:?}") };
                (found.gso, extra, found.slots) = (Some((protocol, size)), more, found.slots + 1);
            }
            if next.flags & rx_flags::MORE_DATA == 0 {
                return Some(found);
            }
            next = rx.pop(&self.rx_page).unwrap().expect("the packet is there as a whole").response();
            found.slots += 1;
        }
    }

    /// Waits for a response; none within 100 ms is none.
    pub async fn response(&self) -> Option<TxResponse> {
        let deadline = self.domain.now() + Duration::from_millis(100);
        while self.domain.now() < deadline {
            if let Some(response) = self.tx.borrow_mut().pop(&self.tx_page).unwrap() {
                return Some(response);
            }
            self.domain.sleep(Duration::from_micros(100)).await;
        }
        None
    }
}

/// A packet that the guest has received.
#[derive(Debug)]
pub struct Received {
    /// The first slot's.
    pub flags: u16,
    pub gso: Option<(Gso, u16)>,
    /// `None` where the backend has dropped it.
    pub bytes: Option<Vec<u8>>,
    pub slots: usize,
}

struct Scripted {
    domain: Domain,
    features: &'static [&'static str],
    run: Script<Guest>,
    done: Rc<Cell<bool>>,
}

impl Frontend for Scripted {
    const PUBLISHED: State = State::Connected;
    type Link = Guest;

    async fn connect(&mut self, device: &Device) -> Result<Guest, Failure> {
        let peer = device.other_domain();
        let grant = |access| {
            let mut page = GrantablePage::<SimGrant>::new(self.domain.alloc_page().unwrap());
            page.grant(&self.domain, peer, access).map_err(failure)?;
            Ok::<_, Failure>(page)
        };
        let (tx_page, rx_page) = (grant(Access::ReadWrite)?, grant(Access::ReadWrite)?);
        Ok(Guest {
            domain: self.domain.clone(),
            tx: RefCell::new(FrontRing::new(TxProtocol, &tx_page)),
            rx: RefCell::new(FrontRing::new(RxProtocol, &rx_page)),
            tx_page,
            rx_page,
            data: [Access::ReadWrite, Access::ReadOnly].repeat(6).into_iter().map(grant).collect::<Result<_, _>>()?,
            port: self.domain.alloc_unbound(peer).map_err(failure)?,
            refilled: Cell::new(0),
        })
    }

    async fn publish(&mut self, keys: &Keys<'_>, guest: &Guest) -> Result<(), StoreError> {
        keys.set("tx-ring-ref", &guest.tx_page.reference().unwrap()).await?;
        keys.set("rx-ring-ref", &guest.rx_page.reference().unwrap()).await?;
        keys.set("event-channel", &guest.port.number()).await?;
        for key in ["request-rx-copy", "feature-rx-notify"].iter().chain(self.features) {
            keys.set(key, &true).await?;
        }
        Ok(())
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

/// Runs a script as a frontend of our backend, whose application is given the port; what the backend's error node says
/// afterwards.
pub fn against(
    xen: &Xen,
    opened: impl Fn(Domain, Port) + 'static,
    script: impl AsyncFn(&Guest) + 'static,
) -> Option<String> {
    against_with(xen, FEATURES, Limits::default(), opened, script)
}

/// As [`against`], with a frontend that has these features, and a backend that has these limits.
pub fn against_with(
    xen: &Xen,
    features: &'static [&'static str],
    limits: Limits,
    opened: impl Fn(Domain, Port) + 'static,
    script: impl AsyncFn(&Guest) + 'static,
) -> Option<String> {
    run_against(xen, features, limits, Box::new(opened), xen_sim::script(script))
}

fn run_against(
    xen: &Xen,
    features: &'static [&'static str],
    limits: Limits,
    opened: Box<dyn Fn(Domain, Port)>,
    run: Script<Guest>,
) -> Option<String> {
    let toolstack = xen.toolstack();
    let (guest, back) = (xen.domain(), xen.domain());
    let (store, domain) = (back.store(), back.clone());
    back.spawn(async move {
        let spawner = domain.clone();
        let opened = |port| {
            opened(spawner.clone(), port);
            Ok(())
        };
        drop(back::serve(&store, domain.clone(), limits, opened).await);
    })
    .detach();
    let done = Rc::new(Cell::new(false));
    let (store, domain, flag) = (guest.store(), guest.clone(), done.clone());
    let dom0 = xen.dom0();
    let error = xen.run(async move {
        toolstack.attach_with("vif", guest.id(), back.id(), 0, &[("mac", MAC)]).await.unwrap();
        guest
            .spawn(async move {
                let mut driver = Scripted { domain: domain.clone(), features, run, done: flag };
                drop(frontend(&store, &domain, "device/vif/0", &mut driver).await);
            })
            .detach();
        let deadline = dom0.now() + Duration::from_secs(30);
        while !done.get() {
            assert!(dom0.now() < deadline, "the script does not end");
            dom0.sleep(Duration::from_millis(1)).await;
        }
        dom0.sleep(Duration::from_millis(100)).await;
        let error = format!("/local/domain/{}/error/backend/vif/{}/0/error", back.id().0, guest.id().0);
        let error = toolstack.store().get::<String>(&error).await.unwrap();
        assert!(toolstack.detach("vif", guest.id(), back.id(), 0).await.unwrap(), "closed in time");
        dom0.sleep(Duration::from_secs(1)).await;
        assert_eq!(guest.in_use().mapped, 0);
        assert!(back.in_use().ports <= 1, "the store's port alone");
        error
    });
    xen.settle();
    error
}
