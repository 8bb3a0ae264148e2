//! A disk's life on XenBus, and its ring while a guest is connected.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::pin::pin;
use core::time::Duration;

use futures_util::future::{Either, select, try_join_all};
use xen_hal::{GrantRef, MapRequest, PortNumber, Xen, information};
use xenbus::{Backend, Counters, Device, Failure, Keys, Peer, RateLimit, Signals, attach_ring};
use xenstore_client::Error as StoreError;

use super::guests::Guests;
use super::queue::Queue;
use super::request::MAX_INDIRECT_SEGMENTS;
use super::worker::Worker;
use super::{Attachment, Limits, Statistics};
use crate::device::{BlockDevice, Geometry};
use crate::protocol::{Abi, MAX_RING_ORDER};

pub(super) struct Driver<'a, X: Xen, O, D> {
    pub(super) xen: X,
    pub(super) limits: Limits,
    pub(super) guests: &'a Guests<X>,
    pub(super) open: &'a O,
    pub(super) opened: Option<(Attachment, D)>,
    /// The geometry that the guest's nodes were last written with.
    pub(super) advertised: Option<Geometry>,
    pub(super) statistics: &'a Counters<Statistics>,
    /// For the lines that a guest can cause, or a device.
    pub(super) lines: RefCell<RateLimit>,
}

/// The shortest time between two sizes that are advertised to a guest.
const RESIZE_PAUSE: Duration = Duration::from_millis(250);

/// A guest's queues.
pub(super) struct Link<X: Xen> {
    queues: Vec<Queue<X::Mapping, X::Port>>,
    /// The guest uses the same pages again and again.
    persistent: bool,
}

impl<X: Xen, O, D: BlockDevice> Driver<'_, X, O, D> {
    /// Whether a line may be logged that a guest can cause, or a device.
    fn may_log(&self) -> bool {
        self.lines.borrow_mut().allows(self.xen.now())
    }

    /// The device as the guest is to see it.
    fn geometry(&self) -> Geometry {
        let (attachment, device) = self.opened.as_ref().expect("opened before it is used");
        let geometry = device.geometry();
        Geometry {
            read_only: geometry.read_only || !attachment.writable,
            removable: geometry.removable || attachment.removable,
            cdrom: geometry.cdrom || attachment.cdrom,
            ..geometry
        }
    }
}

impl<X, O, D> Backend for Driver<'_, X, O, D>
where
    X: Xen,
    O: AsyncFn(&Attachment) -> Result<D, Failure>,
    D: BlockDevice,
{
    type Link = Link<X>;

    async fn prepare(&mut self, device: &Device) -> Result<(), Failure> {
        let attachment = Attachment::read(device).await?;
        // A guest that connects anew has its device still, and whoever opens it may give it to one alone.
        if self.opened.as_ref().is_none_or(|(known, _)| *known != attachment) {
            self.opened = None;
            let disk = (self.open)(&attachment).await?;
            self.opened = Some((attachment, disk));
        }
        let geometry = self.geometry();
        let sectors = geometry.sectors;
        if self.may_log() {
            information!(
                "{}: {} sectors for {}{}",
                device.path(),
                sectors,
                device.other_domain(),
                if geometry.read_only { ", read-only" } else { "" }
            );
        }
        Ok(())
    }

    async fn advertise(&mut self, keys: &Keys<'_>) -> Result<(), StoreError> {
        let geometry = self.geometry();
        keys.set_numbers(&[
            ("feature-max-indirect-segments", MAX_INDIRECT_SEGMENTS as u32),
            ("max-ring-page-order", MAX_RING_ORDER),
            ("multi-queue-max-queues", self.limits.queues),
        ])
        .await?;
        write_features(keys, &geometry).await
    }

    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
        let Published { abi, queues, persistent } = read_keys(device, self.limits).await?;
        let queues: Result<Vec<_>, Failure> = queues.iter().map(|keys| self.map_queue(device, keys, abi)).collect();
        Ok(Link { queues: queues?, persistent })
    }

    async fn publish(&mut self, keys: &Keys<'_>, _: &Self::Link) -> Result<(), StoreError> {
        self.advertised = self.opened.as_ref().map(|(_, disk)| disk.geometry());
        let geometry = self.geometry();
        write_features(keys, &geometry).await?;
        write_size(keys, &geometry).await
    }

    async fn run(&mut self, device: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure> {
        let (_, disk) = self.opened.as_ref().expect("opened before it is used");
        let share = self.guests.join(device.other_domain(), link.persistent);
        let may_log = || self.may_log();
        let worker = Worker::new(&self.xen, disk, device, self.geometry(), share, self.statistics, &may_log);
        let mut advertised = self.advertised.unwrap_or_else(|| disk.geometry());
        let resize = async {
            loop {
                advertised = disk.changed(&advertised).await;
                let geometry = self.geometry();
                worker.geometry.set(geometry);
                if self.may_log() {
                    information!("{}: now {} sectors", device.path(), geometry.sectors);
                }
                device
                    .store()
                    .transaction(async |t| -> Result<(), StoreError> {
                        let keys = device.keys(t);
                        write_size(&keys, &geometry).await?;
                        keys.touch_state().await
                    })
                    .await?;
                // The device may be another domain's, and change all the time.
                self.xen.sleep(RESIZE_PAUSE).await;
            }
        };
        let serving = try_join_all(link.queues.into_iter().map(|queue| queue.serve(&worker, signals, &self.xen)));
        match select(pin!(serving), pin!(resize)).await {
            Either::Left((outcome, _)) => outcome.map(|_: Vec<()>| ()),
            Either::Right((outcome, _)) => {
                let never: Result<core::convert::Infallible, StoreError> = outcome;
                Err(never.expect_err("it goes on for ever").into())
            }
        }
    }
}

async fn write_features(keys: &Keys<'_>, geometry: &Geometry) -> Result<(), StoreError> {
    keys.set_flags(&[
        ("feature-persistent", true),
        ("feature-flush-cache", geometry.flush),
        ("feature-barrier", geometry.flush),
        ("feature-discard", geometry.discard.is_some()),
    ])
    .await?;
    if let Some(discard) = geometry.discard {
        let numbers = [("discard-granularity", discard.granularity), ("discard-alignment", discard.alignment)];
        keys.set_numbers(&numbers).await?;
        keys.set("discard-secure", &discard.secure).await?;
    }
    Ok(())
}

async fn write_size(keys: &Keys<'_>, geometry: &Geometry) -> Result<(), StoreError> {
    let flags = [(geometry.cdrom, 1), (geometry.removable, 2), (geometry.read_only, 4)];
    let info: u32 = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
    keys.set("sectors", &geometry.sectors).await?;
    keys.set_numbers(&[
        ("info", info),
        ("sector-size", geometry.sector_size),
        ("physical-sector-size", geometry.physical_sector_size),
    ])
    .await
}

/// What the frontend has written.
struct Published {
    abi: Abi,
    queues: Vec<QueueKeys>,
    persistent: bool,
}

struct QueueKeys {
    /// What its keys begin with.
    prefix: String,
    references: Vec<GrantRef>,
    port: PortNumber,
}

async fn read_keys(device: &Device, limits: Limits) -> Result<Published, Failure> {
    device
        .read_peer(async |peer| {
            let abi = match peer.get::<String>("protocol").await? {
                None => Abi::default(),
                Some(name) => Abi::from_name(&name)
                    .ok_or_else(|| peer.unexpected("protocol", &name, "x86_64-abi or x86_32-abi"))?,
            };
            let count = peer.number("multi-queue-num-queues", 1).await?;
            if !(1..=limits.queues.max(1)).contains(&count) {
                let expected = format_args!("1 to {}", limits.queues);
                return Err(peer.unexpected("multi-queue-num-queues", count, expected));
            }
            let mut queues = Vec::new();
            for index in 0..count {
                // One queue's keys are where they were before there were several.
                let prefix = if count == 1 { String::new() } else { format!("queue-{index}/") };
                let references = ring_references(peer, &prefix).await?;
                let port = peer.required(&format!("{prefix}event-channel")).await?;
                queues.push(QueueKeys { prefix, references, port });
            }
            Ok(Published { abi, queues, persistent: peer.flag("feature-persistent").await? })
        })
        .await
}

impl<X: Xen, O, D: BlockDevice> Driver<'_, X, O, D> {
    /// Maps a queue's ring and binds its event channel.
    fn map_queue(&self, device: &Device, keys: &QueueKeys, abi: Abi) -> Result<Queue<X::Mapping, X::Port>, Failure> {
        let QueueKeys { prefix, references, port } = keys;
        let map = |requests: &[MapRequest]| self.guests.map(&self.xen, requests);
        let mapping = device.map_ring(&format!("{prefix}the ring's pages"), references, map)?;
        let ring = attach_ring(abi, &mapping)?;
        let event_port = device.bind_port(&self.xen, *port)?;
        if self.may_log() {
            information!(
                "{}: {}connected with {}, {} pages of ring from {}, event channel {}, {}",
                device.path(),
                prefix,
                device.other_domain(),
                references.len(),
                references.first().copied().unwrap_or(GrantRef(0)),
                port,
                abi
            );
        }
        Ok(Queue { ring, mapping, port: event_port })
    }
}

/// The pages of a ring. A frontend that names an order, even 0, numbers its keys (`ring-ref0`).
async fn ring_references(peer: &Peer<'_>, prefix: &str) -> Result<Vec<GrantRef>, Failure> {
    let Some(order) = peer.get::<u32>("ring-page-order").await? else {
        return Ok(alloc::vec![peer.required(&format!("{prefix}ring-ref")).await?]);
    };
    if order > MAX_RING_ORDER {
        return Err(peer.unexpected("ring-page-order", order, format_args!("{MAX_RING_ORDER} at most")));
    }
    let mut references = Vec::new();
    for index in 0..1 << order {
        references.push(peer.required(&format!("{prefix}ring-ref{index}")).await?);
    }
    Ok(references)
}
