//! A disk's life on XenBus, and its ring while a guest is connected.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::pin::pin;
use core::time::Duration;

use futures_util::future::{Either, select, try_join_all};
use xen_hal::{Access, Clock, Errno, EventChannels, GrantRef, MapRequest, PortNumber, information};
use xen_ring::{BackRing, SharedMapping};
use xenstore_client::xenbus::{Backend, Device, Failure, Peer, Signals};
use xenstore_client::{Error as StoreError, Tree};

use super::guests::Guests;
use super::queue::Queue;
use super::request::MOST_INDIRECT_SEGMENTS;
use super::worker::Worker;
use super::{Attach, Limits, Statistics, failure};
use crate::device::{BlockDevice, Geometry};
use crate::front::Memory;
use crate::pace::Pace;
use crate::protocol::{Abi, MOST_RING_ORDER};

pub(super) struct Driver<'a, M: Memory, E, C, O, D> {
    pub(super) memory: M,
    pub(super) events: E,
    pub(super) clock: C,
    pub(super) limits: Limits,
    pub(super) guests: &'a Guests<M>,
    pub(super) open: &'a O,
    pub(super) opened: Option<(Attach, D)>,
    /// The device's geometry when the guest was told of it last.
    pub(super) told: Option<Geometry>,
    pub(super) statistics: &'a Cell<Statistics>,
    /// For the lines that a guest can cause, or a device.
    pub(super) lines: RefCell<Pace>,
}

/// How long a guest is not told of a new size after it was.
const RESIZE_PAUSE: Duration = Duration::from_millis(250);

/// A guest's queues.
pub(super) struct Link<M: Memory, P> {
    queues: Vec<Queue<M::Mapping, P>>,
    /// The guest uses the same pages again and again.
    persistent: bool,
}

impl<M, E, C, O, D> Driver<'_, M, E, C, O, D>
where
    M: Memory,
    C: Clock,
    D: BlockDevice,
{
    /// Whether a line may be logged that a guest can cause, or a device.
    fn may_log(&self) -> bool {
        self.lines.borrow_mut().allows(self.clock.now())
    }

    /// The device as the guest is to see it.
    fn geometry(&self) -> Geometry {
        let (attach, device) = self.opened.as_ref().expect("opened before it is used");
        let geometry = device.geometry();
        Geometry {
            read_only: geometry.read_only || !attach.writable,
            removable: geometry.removable || attach.removable,
            cdrom: geometry.cdrom || attach.cdrom,
            ..geometry
        }
    }
}

impl<M, E, C, O, D> Backend for Driver<'_, M, E, C, O, D>
where
    M: Memory,
    E: EventChannels,
    C: Clock,
    O: AsyncFn(&Attach) -> Result<D, Failure>,
    D: BlockDevice,
{
    type Link = Link<M, E::Port>;

    async fn prepare(&mut self, device: &Device) -> Result<(), Failure> {
        let attach = Attach::read(device).await?;
        let disk = (self.open)(&attach).await?;
        let sectors = disk.geometry().sectors;
        self.opened = Some((attach, disk));
        let geometry = self.geometry();
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

    async fn offer(&mut self, device: &Device, tree: &Tree) -> Result<(), StoreError> {
        let geometry = self.geometry();
        tree.set(&device.own("feature-max-indirect-segments"), &(MOST_INDIRECT_SEGMENTS as u32)).await?;
        tree.set(&device.own("max-ring-page-order"), &MOST_RING_ORDER).await?;
        tree.set(&device.own("multi-queue-max-queues"), &self.limits.queues).await?;
        write_features(device, tree, &geometry).await
    }

    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
        let Keys { abi, queues, persistent } = read_keys(device, self.limits).await?;
        let queues: Result<Vec<_>, Failure> = queues.iter().map(|keys| self.map_queue(device, keys, abi)).collect();
        Ok(Link { queues: queues?, persistent })
    }

    async fn publish(&mut self, device: &Device, _: &Self::Link, tree: &Tree) -> Result<(), StoreError> {
        self.told = self.opened.as_ref().map(|(_, disk)| disk.geometry());
        let geometry = self.geometry();
        write_features(device, tree, &geometry).await?;
        write_size(device, tree, &geometry).await
    }

    async fn run(&mut self, device: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure> {
        let (_, disk) = self.opened.as_ref().expect("opened before it is used");
        let share = self.guests.join(device.other_domain(), link.persistent);
        let worker = Worker::new(&self.memory, disk, device, self.geometry(), share, self.statistics);
        let mut told = self.told.unwrap_or_else(|| disk.geometry());
        let resize = async {
            loop {
                told = disk.changed(&told).await;
                let geometry = self.geometry();
                worker.geometry.set(geometry);
                if self.may_log() {
                    information!("{}: now {} sectors", device.path(), geometry.sectors);
                }
                // The state is written again: that is what frontends watch.
                device
                    .store()
                    .transaction(async |t| -> Result<(), StoreError> {
                        write_size(device, t, &geometry).await?;
                        let state: u32 = t.read_as(&device.own("state")).await?;
                        t.set(&device.own("state"), &state).await
                    })
                    .await?;
                // The device may be another domain's, and change all the time.
                self.clock.sleep(RESIZE_PAUSE).await;
            }
        };
        let serving = try_join_all(link.queues.into_iter().map(|queue| queue.serve(&worker, signals, &self.clock)));
        match select(pin!(serving), pin!(resize)).await {
            Either::Left((outcome, _)) => outcome.map(|_: Vec<()>| ()),
            Either::Right((outcome, _)) => {
                let never: Result<core::convert::Infallible, StoreError> = outcome;
                Err(never.expect_err("it goes on for ever").into())
            }
        }
    }
}

async fn write_features(device: &Device, tree: &Tree, geometry: &Geometry) -> Result<(), StoreError> {
    tree.set(&device.own("feature-persistent"), &true).await?;
    tree.set(&device.own("feature-flush-cache"), &geometry.flush).await?;
    tree.set(&device.own("feature-barrier"), &geometry.flush).await?;
    tree.set(&device.own("feature-discard"), &geometry.discard.is_some()).await?;
    if let Some(discard) = geometry.discard {
        tree.set(&device.own("discard-granularity"), &discard.granularity).await?;
        tree.set(&device.own("discard-alignment"), &discard.alignment).await?;
        tree.set(&device.own("discard-secure"), &discard.secure).await?;
    }
    Ok(())
}

async fn write_size(device: &Device, tree: &Tree, geometry: &Geometry) -> Result<(), StoreError> {
    let flags = [(geometry.cdrom, 1), (geometry.removable, 2), (geometry.read_only, 4)];
    let info: u32 = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
    tree.set(&device.own("sectors"), &geometry.sectors).await?;
    tree.set(&device.own("info"), &info).await?;
    tree.set(&device.own("sector-size"), &geometry.sector_size).await?;
    tree.set(&device.own("physical-sector-size"), &geometry.physical_sector_size).await
}

/// What the frontend has written.
struct Keys {
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

async fn read_keys(device: &Device, limits: Limits) -> Result<Keys, Failure> {
    device
        .read_peer(async |peer| {
            let abi = match peer.get::<String>("protocol").await? {
                None => Abi::default(),
                Some(name) => Abi::from_name(&name).ok_or_else(|| {
                    let key = peer.path("protocol");
                    failure(Errno::EINVAL, format_args!("{key} = {name}: expected x86_64-abi or x86_32-abi"))
                })?,
            };
            let count = peer.number("multi-queue-num-queues", 1).await?;
            if !(1..=limits.queues.max(1)).contains(&count) {
                let key = peer.path("multi-queue-num-queues");
                return Err(failure(Errno::EINVAL, format_args!("{key} = {count}: expected 1 to {}", limits.queues)));
            }
            let mut queues = Vec::new();
            for index in 0..count {
                // One queue's keys are where they were before there were several.
                let prefix = if count == 1 { String::new() } else { format!("queue-{index}/") };
                let references = ring_references(peer, &prefix).await?;
                let port = peer.required(&format!("{prefix}event-channel")).await?;
                queues.push(QueueKeys { prefix, references, port });
            }
            Ok(Keys { abi, queues, persistent: peer.flag("feature-persistent").await? })
        })
        .await
}

impl<M, E, C, O, D> Driver<'_, M, E, C, O, D>
where
    M: Memory,
    E: EventChannels,
    C: Clock,
    D: BlockDevice,
{
    /// Maps a queue's ring and binds its event channel.
    fn map_queue(&self, device: &Device, keys: &QueueKeys, abi: Abi) -> Result<Queue<M::Mapping, E::Port>, Failure> {
        let peer = device.other_domain();
        let QueueKeys { prefix, references, port } = keys;
        let requests: Vec<_> = references
            .iter()
            .map(|reference| MapRequest { peer, reference: *reference, access: Access::ReadWrite })
            .collect();
        let mapping = self.guests.map(&self.memory, &requests).map_err(|error| failure(Errno::ENOMEM, error))?;
        let mapping = SharedMapping::new(mapping)
            .map_err(|status| failure(Errno::EINVAL, format_args!("{prefix}the ring's pages: {status}")))?;
        let ring = BackRing::attach(abi, &mapping).map_err(|error| failure(Errno::EIO, error))?;
        let bell = self.events.bind_interdomain(peer, *port).map_err(|error| failure(Errno::EINVAL, error))?;
        if self.may_log() {
            information!(
                "{}: {}connected with {}, {} pages of ring from {}, event channel {}, {}",
                device.path(),
                prefix,
                peer,
                references.len(),
                references.first().copied().unwrap_or(GrantRef(0)),
                port,
                abi
            );
        }
        Ok(Queue { ring, mapping, port: bell })
    }
}

/// The pages of a ring. A frontend that names an order, even 0, numbers its keys (`ring-ref0`).
async fn ring_references(peer: &Peer<'_>, prefix: &str) -> Result<Vec<GrantRef>, Failure> {
    let Some(order) = peer.get::<u32>("ring-page-order").await? else {
        return Ok(alloc::vec![peer.required(&format!("{prefix}ring-ref")).await?]);
    };
    if order > MOST_RING_ORDER {
        let key = peer.path("ring-page-order");
        return Err(failure(Errno::EINVAL, format_args!("{key} = {order}: expected {MOST_RING_ORDER} at most")));
    }
    let mut references = Vec::new();
    for index in 0..1 << order {
        references.push(peer.required(&format!("{prefix}ring-ref{index}")).await?);
    }
    Ok(references)
}
