//! The other end of a guest's network interface.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::RefCell;

use embassy_net::{Config, Ipv4Cidr, StackResources, StaticConfigV4};
use xen_netif::back;
use xen_ring::WaitQueue;

use super::Running;
use super::guest::Backend;
use crate::network::Stack;

/// What the backend makes when the guest's interface appears.
#[derive(Default)]
pub(super) struct Port {
    opened: RefCell<Option<back::Port>>,
    changed: WaitQueue,
}

/// Its address.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

pub(super) fn serve(backend: &Backend, port: Rc<Port>) {
    let Backend { domain, store } = backend.clone();
    backend
        .domain
        .spawn(async move {
            let opened = |opened| {
                port.opened.replace(Some(opened));
                port.changed.wake_all();
                Ok(())
            };
            drop(back::serve(&store, domain, Default::default(), opened).await);
        })
        .detach();
}

impl Running {
    /// A TCP/IP stack for so many sockets on a host with this address (`10.0.0.1/24`), at the other end of the guest's wire.
    /// To be called once, and once for each interface that is [plugged in](Running::plug).
    ///
    /// # Panics
    ///
    /// Where the guest has no network, or the address is none.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn peer<const SOCKETS: usize>(&self, address: &str) -> Stack {
        let address = cidr(address);
        let (Some(wire), Some(backend)) = (&self.port, &self.devices.backend) else {
            panic!("the guest has no peer: Guest::network")
        };
        let port = wire.changed.wait_until(|| wire.opened.take()).await;
        let config = Config::ipv4_static(StaticConfigV4 { address, gateway: None, dns_servers: Default::default() });
        let resources = Box::leak(Box::new(StackResources::<SOCKETS>::new()));
        let (stack, mut runner) = embassy_net::new(port.device(MAC, 1500), config, resources, 1);
        // A device of `Port` always does.
        stack.set_tcp_segmentation(true);
        let run = async move {
            // For as long as it is kept there is an interface.
            let _port = port;
            runner.run().await
        };
        backend.domain.spawn(run).detach();
        stack
    }
}

impl Running {
    /// `xl network-attach`: another interface of this number and MAC, whose other end is the test's, with keys in its
    /// frontend's directory, such as `mtu`. [`peer`](Running::peer) is a host on it.
    ///
    /// # Panics
    ///
    /// Where the guest has no peer, or has an interface of this number.
    ///
    /// # Cancellation
    ///
    /// The interface may be there, or not.
    pub async fn plug(&self, number: u32, mac: &str, keys: &[(&str, &str)]) {
        let Some(backend) = &self.devices.backend else { panic!("the guest has no peer: Guest::network") };
        let guest = &self.machine.domain;
        let front = [&[("mac", mac)][..], keys].concat();
        let device = ("vif", number);
        self.devices.attach_with(&self.toolstack, guest, device, backend.domain.clone(), &front, &[("mac", mac)]).await;
    }

    /// `xl network-detach`: takes the interface of this number away.
    ///
    /// # Panics
    ///
    /// Where there is none, or the guest does not close it.
    ///
    /// # Cancellation
    ///
    /// The interface may be on its way to its end.
    pub async fn unplug(&self, number: u32) {
        let found = self.devices.remove("vif", number);
        let (class, number, backend) = found.unwrap_or_else(|| panic!("the guest has no vif {number}"));
        let detached = self.toolstack.detach(class, self.machine.domain.id(), backend.id(), number).await;
        assert!(detached.expect("the store answers"), "vif {number} does not close");
    }
}

/// An address with its prefix.
pub(super) fn cidr(text: &str) -> Ipv4Cidr {
    let parsed = text
        .split_once('/')
        .and_then(|(ip, bits)| Some(Ipv4Cidr::new(ip.parse().ok()?, bits.parse().ok().filter(|bits| *bits <= 32)?)));
    parsed.unwrap_or_else(|| panic!("{text}: expected an address with its prefix, such as 10.0.0.1/24"))
}
