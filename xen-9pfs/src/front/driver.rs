//! The driver's side of a share: its life on XenBus.

use alloc::rc::Rc;
use alloc::string::String;

use xen_hal::{Port, Xen, information};
use xenbus::{Device, Failure, Frontend, Keys, Phase, RateLimit, Signals, State};
use xenstore_client::Error as StoreError;

use super::Options;
use super::connection::{Connection, Link, broken};
use super::shared::Shared;
use crate::ring;

pub(super) struct Driver<X: Xen> {
    pub(super) shared: Rc<Shared>,
    pub(super) xen: X,
    pub(super) options: Options,
    /// For the lines that a backend can cause.
    pub(super) lines: RateLimit,
}

impl<X: Xen> Frontend for Driver<X> {
    const PUBLISHED: State = State::Initialised;
    type Link = Link<X::Grant, X::Port>;

    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
        let tag = device.get::<String>("tag").await?;
        self.shared.tag.replace(tag.map(Rc::from));
        let offered = device
            .read_peer(async |peer| {
                let versions: String = peer.required("versions").await?;
                if !versions.split(',').any(|version| version.trim() == ring::VERSION) {
                    return Err(peer.unexpected("versions", versions, format_args!("{} among them", ring::VERSION)));
                }
                for (key, least) in [("max-rings", 1), ("max-ring-page-order", ring::MIN_ORDER)] {
                    let value: u32 = peer.required(key).await?;
                    if value < least {
                        return Err(peer.unexpected(key, value, format_args!("{least} at least")));
                    }
                }
                peer.required::<u32>("max-ring-page-order").await
            })
            .await?;
        let order = offered.min(self.options.max_ring_order.into()).clamp(ring::MIN_ORDER, ring::MAX_ORDER);
        let memory = device.grant_ring(&self.xen, "the ring", 1 + (1 << order))?;
        let mut references = memory.references();
        // The first is that of the interface page itself.
        references.next();
        ring::write_references(&memory, references);
        let requests = ring::requests(order).writer(&memory).map_err(broken)?;
        let responses = ring::responses(order).reader(&memory).map_err(broken)?;
        Ok(Link { memory, order, requests, responses, port: device.alloc_port(&self.xen)? })
    }

    async fn publish(&mut self, keys: &Keys<'_>, link: &Self::Link) -> Result<(), StoreError> {
        keys.set("version", ring::VERSION).await?;
        keys.set("num-rings", &1_u32).await?;
        for reference in link.memory.references().take(1) {
            keys.set("ring-ref0", &reference).await?;
        }
        keys.set("event-channel-0", &link.port.number()).await
    }

    async fn accept(&mut self, device: &Device, link: &mut Self::Link) -> Result<(), Failure> {
        self.shared.status.count(|statistics| statistics.connections += 1);
        if self.lines.allows(self.xen.now()) {
            let bytes = ring::size(link.order);
            information!("{}: 9pfs from {}, {} bytes in flight", device.path(), device.other_domain(), bytes);
        }
        Ok(())
    }

    async fn run(&mut self, _: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure> {
        self.shared.status.set_phase(Phase::Up);
        let outcome = Connection::new(self.shared.clone(), link).run(signals, &self.xen).await;
        match outcome {
            Ok(()) => self.shared.disconnect(),
            Err(_) => self.shared.lose(),
        }
        outcome
    }

    fn lost(&mut self) {
        self.shared.lose();
    }
}
