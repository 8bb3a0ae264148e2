//! A guest with an interface, and a domain of ours that serves it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use embassy_net_driver::{Driver, RxToken as _, TxToken as _};
use xen_hal::Clock;
use xen_netif::back::{self, Limits, Port};
use xen_netif::front::{self, Device, Interface, Options};
use xen_sim::{Domain, Toolstack, Xen};
use xenstore_client::Store;

const MAC: &str = "00:16:3e:01:02:03";

/// A guest with an interface, and a domain that serves it.
pub struct Bench {
    pub front: Domain,
    pub back: Domain,
    pub toolstack: Toolstack,
    pub ports: Rc<RefCell<Vec<Rc<Port>>>>,
    /// The backend's connection.
    pub store: Store,
}

/// Both, not attached yet.
pub fn bench(xen: &Xen, limits: Limits) -> Bench {
    beside(xen, xen.toolstack(), limits)
}

/// As [`bench`], where there is a toolstack already.
pub fn beside(xen: &Xen, toolstack: Toolstack, limits: Limits) -> Bench {
    let (front, back) = (xen.domain(), xen.domain());
    let ports = Rc::<RefCell<Vec<_>>>::default();
    let store = back.store();
    let (own, domain, opened) = (store.clone(), back.clone(), ports.clone());
    back.spawn(async move {
        let opened = |port| {
            opened.borrow_mut().push(Rc::new(port));
            Ok(())
        };
        drop(back::serve(&own, domain, limits, opened).await);
    })
    .detach();
    Bench { front, back, toolstack, ports, store }
}

impl Bench {
    /// Attaches the interface, with these nodes of the backend's.
    pub async fn attach(&self, nodes: &[(&str, &str)]) {
        let nodes: Vec<_> = [("mac", MAC)].into_iter().chain(nodes.iter().copied()).collect();
        self.toolstack.attach_with("vif", self.front.id(), self.back.id(), 0, &nodes).await.unwrap();
        let own = format!("/local/domain/{}/device/vif/0/mac", self.front.id().0);
        self.toolstack.store().set(&own, MAC).await.unwrap();
    }

    /// Says what the interface's MTU is; before it connects.
    pub async fn set_mtu(&self, mtu: u16) {
        self.write_mtu(&mtu.to_string()).await;
    }

    /// The same with whatever an administrator may have written.
    pub async fn write_mtu(&self, mtu: &str) {
        let own = format!("/local/domain/{}/device/vif/0/mtu", self.front.id().0);
        self.toolstack.store().set(&own, mtu).await.unwrap();
    }

    /// Drives the interface, once it can be used; and its port.
    pub async fn connect(&self, options: Options) -> (Interface<Domain>, Rc<Port>) {
        self.connect_by(&self.front.store(), options).await
    }

    /// The same where the interface's domain has a connection already.
    pub async fn connect_by(&self, store: &Store, options: Options) -> (Interface<Domain>, Rc<Port>) {
        let domain = self.front.clone();
        let (interface, runner) = front::connect(store, domain.clone(), "device/vif/0", options);
        domain.spawn(async move { drop(runner.await) }).detach();
        interface.ready().await.unwrap();
        let port = self.ports.borrow()[0].clone();
        while !port.is_up() {
            domain.sleep(Duration::from_micros(100)).await;
        }
        (interface, port)
    }
}

/// Sends a frame as a stack does.
pub async fn send(device: &mut Device<Domain>, frame: &[u8]) {
    poll_fn(|cx| match device.transmit(cx) {
        Some(token) => {
            token.consume(frame.len(), |bytes| bytes.copy_from_slice(frame));
            Poll::Ready(())
        }
        None => Poll::Pending,
    })
    .await
}

/// Waits for a frame as a stack does.
pub async fn receive(device: &mut Device<Domain>) -> Vec<u8> {
    poll_fn(|cx| match device.receive(cx) {
        Some((token, _)) => Poll::Ready(token.consume(|bytes| bytes.to_vec())),
        None => Poll::Pending,
    })
    .await
}

/// A frame of bytes that are told from others.
pub fn frame(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|at| (at as u64 * 31 + at as u64 / 256 + seed) as u8).collect();
    // To one host.
    if let Some(first) = bytes.first_mut() {
        *first &= 0xfe;
    }
    bytes
}
