//! A disk's life on XenBus, and its ring while a guest is connected.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;

use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use xen_hal::{Access, Clock, DomId, Errno, EventChannels, GrantRef, MapRequest, Port, PortNumber, Remote};
use xen_ring::{BackRing, SharedMapping};
use xenstore_client::xenbus::{Backend, Device, Failure, Signals};
use xenstore_client::{Error as StoreError, FromValue, Tree};

use super::persistent::Persistent;
use super::request::{BadRequest, LIST_SIZE, MOST_INDIRECT_SEGMENTS, Work, answer, check_indirect};
use super::{Attach, Limits, Statistics, failure};
use crate::device::{BlockDevice, Buffer, Geometry, pieces};
use crate::front::Memory;
use crate::protocol::{Abi, Body, MOST_RING_ORDER, Request, SECTOR_SIZE, Segment};
use crate::ramdisk::PageBuffer;
use crate::storm::Storm;

/// Most bytes of requests that are made one.
const MOST_MERGED: usize = 1 << 20;
pub(super) struct Driver<'a, M, E, C, O, D> {
    pub(super) memory: M,
    pub(super) events: E,
    pub(super) clock: C,
    pub(super) limits: Limits,
    pub(super) open: &'a O,
    pub(super) opened: Option<(Attach, D)>,
    /// The device's geometry when the guest was told of it last.
    pub(super) told: Option<Geometry>,
    pub(super) statistics: &'a Cell<Statistics>,
}

/// A guest's ring and bell.
pub(super) struct Link<M: Memory, P> {
    ring: BackRing<Abi>,
    mapping: SharedMapping<M::Mapping>,
    port: P,
    /// The guest uses the same pages again and again.
    persistent: bool,
}

impl<M, E, C, O, D> Driver<'_, M, E, C, O, D>
where
    M: Memory,
    D: BlockDevice,
{
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
        information!(
            "{}: {} sectors for {}{}",
            device.path(),
            sectors,
            device.other_domain(),
            if geometry.read_only { ", read-only" } else { "" }
        );
        Ok(())
    }

    async fn offer(&mut self, device: &Device, tree: &Tree) -> Result<(), StoreError> {
        let geometry = self.geometry();
        tree.set(&device.own("feature-max-indirect-segments"), &(MOST_INDIRECT_SEGMENTS as u32)).await?;
        tree.set(&device.own("max-ring-page-order"), &MOST_RING_ORDER).await?;
        write_features(device, tree, &geometry).await
    }

    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
        let peer = device.other_domain();
        let abi = match device.get_other::<String>("protocol").await? {
            None => Abi::default(),
            Some(name) => Abi::from_name(&name).ok_or_else(|| {
                let key = device.other("protocol");
                failure(Errno::EINVAL, format_args!("{key} = {name}: expected x86_64-abi or x86_32-abi"))
            })?,
        };
        let references = ring_references(device).await?;
        let port: PortNumber = required(device, "event-channel").await?;
        let requests: Vec<_> = references
            .iter()
            .map(|reference| MapRequest { peer, reference: *reference, access: Access::ReadWrite })
            .collect();
        let mapping = self.memory.map(&requests).map_err(|error| failure(Errno::ENOMEM, error))?;
        let mapping = SharedMapping::new(mapping)
            .map_err(|status| failure(Errno::EINVAL, format_args!("the ring's pages: {status}")))?;
        let ring = BackRing::attach(abi, &mapping).map_err(|error| failure(Errno::EIO, error))?;
        let bell = self.events.bind_interdomain(peer, port).map_err(|error| failure(Errno::EINVAL, error))?;
        information!(
            "{}: connected with {}, {} pages of ring from {}, event channel {}, {}",
            device.path(),
            peer,
            references.len(),
            references[0],
            port,
            abi
        );
        let persistent = device.get_other::<u32>("feature-persistent").await?.is_some_and(|value| value != 0);
        Ok(Link { ring, mapping, port: bell, persistent })
    }

    async fn publish(&mut self, device: &Device, _: &Self::Link, tree: &Tree) -> Result<(), StoreError> {
        self.told = self.opened.as_ref().map(|(_, disk)| disk.geometry());
        let geometry = self.geometry();
        write_features(device, tree, &geometry).await?;
        write_size(device, tree, &geometry).await
    }

    async fn run(&mut self, device: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure> {
        let (_, disk) = self.opened.as_ref().expect("opened before it is used");
        let worker = Worker {
            memory: &self.memory,
            disk,
            peer: device.other_domain(),
            geometry: Cell::new(self.geometry()),
            statistics: self.statistics,
            complained: Cell::new(false),
            persistent: link.persistent.then(|| RefCell::new(Persistent::new())),
            path: device.path(),
        };
        let mut told = self.told.unwrap_or_else(|| disk.geometry());
        let resize = async {
            loop {
                told = disk.changed(&told).await;
                let geometry = self.geometry();
                worker.geometry.set(geometry);
                information!("{}: now {} sectors", device.path(), geometry.sectors);
                // The state is written again: that is what frontends watch.
                device
                    .store()
                    .transaction(async |t| -> Result<(), StoreError> {
                        write_size(device, t, &geometry).await?;
                        let state: u32 = t.read_as(&device.own("state")).await?;
                        t.set(&device.own("state"), &state).await
                    })
                    .await?;
            }
        };
        let serving = serve(&worker, link, signals, &self.clock, self.limits);
        match select(pin!(serving), pin!(resize)).await {
            Either::Left((outcome, _)) => outcome,
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

async fn required<T: FromValue>(device: &Device, key: &str) -> Result<T, Failure> {
    let missing = || failure(Errno::EINVAL, format_args!("the frontend has written no {}", device.other(key)));
    device.get_other(key).await?.ok_or_else(missing)
}

/// The pages of the ring. A frontend that names an order, even 0, numbers its keys (`ring-ref0`).
async fn ring_references(device: &Device) -> Result<Vec<GrantRef>, Failure> {
    let Some(order) = device.get_other::<u32>("ring-page-order").await? else {
        return Ok(alloc::vec![required(device, "ring-ref").await?]);
    };
    if order > MOST_RING_ORDER {
        let key = device.other("ring-page-order");
        return Err(failure(Errno::EINVAL, format_args!("{key} = {order}: expected {MOST_RING_ORDER} at most")));
    }
    let mut references = Vec::new();
    for index in 0..1 << order {
        references.push(required(device, &format!("ring-ref{index}")).await?);
    }
    Ok(references)
}

/// What a disk's requests are done with.
struct Worker<'a, M: Memory, D> {
    memory: &'a M,
    disk: &'a D,
    peer: DomId,
    geometry: Cell<Geometry>,
    statistics: &'a Cell<Statistics>,
    /// The guest's pages that stay mapped, where it wants that.
    persistent: Option<RefCell<Persistent<M>>>,
    /// One line tells of bad requests; the statistics count them.
    complained: Cell<bool>,
    path: &'a str,
}

/// Requests of one kind side by side on the disk, done as one.
struct Group {
    work: Work,
    /// Each with how many of the segments are its own.
    requests: Vec<(Request, usize)>,
}

type Answers = Vec<(Request, Result<(), BadRequest>)>;

async fn serve<M: Memory, D: BlockDevice, P: Port>(
    worker: &Worker<'_, M, D>,
    mut link: Link<M, P>,
    signals: &Signals,
    clock: &impl Clock,
    limits: Limits,
) -> Result<(), Failure> {
    let broken = |error| failure(Errno::EIO, error);
    let scratch = PageBuffer::new(worker.memory, LIST_SIZE).map_err(|error| failure(Errno::ENOMEM, error))?;
    let in_flight = Cell::new(0_usize);
    let mut running = FuturesUnordered::new();
    let mut finished: Vec<Answers> = Vec::new();
    let mut waiting: VecDeque<(Request, Work)> = VecDeque::new();
    let mut barrier = false;
    let mut storm = Storm::default();
    loop {
        let mut answered = false;
        for (request, outcome) in finished.drain(..).flatten() {
            worker.note(&request, outcome);
            link.ring.push(&link.mapping, &answer(&request, outcome));
            answered = true;
        }
        // What was asked is looked at, in its order; what is asked from now on is another backend's.
        let closing = signals.is_closing();
        while !closing && waiting.len() < link.ring.slots() as usize {
            let Some(request) = link.ring.pop(&link.mapping).map_err(broken)? else { break };
            match worker.check(&request, &scratch) {
                Ok(work) => waiting.push_back((request, work)),
                Err(bad) => {
                    worker.note(&request, Err(bad));
                    link.ring.push(&link.mapping, &answer(&request, Err(bad)));
                    answered = true;
                }
            }
        }
        if answered && link.ring.publish(&link.mapping) {
            worker.count(|statistics| statistics.notifications += 1);
            link.port.notify();
        }
        let mut started = false;
        loop {
            let idle = running.is_empty();
            barrier &= !idle;
            if barrier {
                break;
            }
            let room = if idle { usize::MAX } else { limits.in_flight.saturating_sub(in_flight.get()) };
            let Some(group) = next_group(&mut waiting, room, idle) else { break };
            barrier = matches!(group.work, Work::Barrier { .. });
            worker.count(|statistics| statistics.merged += group.requests.len() as u64 - 1);
            let len = group.work.len();
            in_flight.set(in_flight.get() + len);
            let in_flight = &in_flight;
            running.push(async move {
                let answers = worker.run(group).await;
                in_flight.set(in_flight.get() - len);
                answers
            });
            started = true;
        }
        if closing && running.is_empty() {
            return Ok(());
        }
        // Where something waits there is something running, and its end is an occasion to look at the ring again.
        let more = !closing && link.ring.arm(&link.mapping).map_err(broken)? && waiting.is_empty();
        let sleeps = !(answered || started || more);
        let hurry = storm.is_calm();
        let event = {
            let port = &link.port;
            let mut closed = pin!(signals.closing());
            let mut wake = poll_fn(|cx| {
                while let Poll::Ready(Some(answers)) = running.poll_next_unpin(cx) {
                    finished.push(answers);
                }
                if !finished.is_empty() || !sleeps {
                    return Poll::Ready(false);
                }
                if hurry && !closing && port.poll_wait(cx).is_ready() {
                    return Poll::Ready(true);
                }
                match !closing && closed.as_mut().poll(cx).is_ready() {
                    true => Poll::Ready(false),
                    false => Poll::Pending,
                }
            });
            if hurry || !sleeps {
                wake.await
            } else {
                // A peer that rings without end is heard late, by so much at most.
                matches!(select(&mut wake, clock.sleep(storm.pause())).await, Either::Right(_))
            }
        };
        match link.ring.waiting(&link.mapping).map_err(broken)? {
            0 if event => storm.in_vain(),
            0 if sleeps => {}
            _ => storm.over(),
        }
    }
}

/// The next requests to be done as one, if there is room for the bytes of the first; a barrier only where all is idle.
fn next_group(waiting: &mut VecDeque<(Request, Work)>, room: usize, idle: bool) -> Option<Group> {
    let (_, first) = waiting.front()?;
    if first.len() > room || (matches!(first, Work::Barrier { .. }) && !idle) {
        return None;
    }
    let (request, mut work) = waiting.pop_front()?;
    let mut requests = alloc::vec![(request, work.segments())];
    while let Some((_, next)) = waiting.front() {
        let total = work.len() + next.len();
        if total > room.min(MOST_MERGED) || !work.is_followed_by(next) {
            break;
        }
        let (request, next) = waiting.pop_front()?;
        requests.push((request, next.segments()));
        work.append(next);
    }
    Some(Group { work, requests })
}

impl<M: Memory, D: BlockDevice> Worker<'_, M, D> {
    fn count(&self, change: impl FnOnce(&mut Statistics)) {
        let mut statistics = self.statistics.get();
        change(&mut statistics);
        self.statistics.set(statistics);
    }

    /// Counts a request that ended, and says the first time why one was refused.
    fn note(&self, request: &Request, outcome: Result<(), BadRequest>) {
        let Err(bad) = outcome else { return };
        self.count(|statistics| statistics.failures += 1);
        if !self.complained.replace(true) {
            let operation = request.answered_operation();
            warning!("{}: {} of {} at sector {}: {}", self.path, operation, self.peer, request.sector, bad);
        }
    }

    /// Checks a request, of which an indirect one's segments are copied here first, once.
    fn check(
        &self,
        request: &Request,
        scratch: &PageBuffer<<M as xen_hal::GrantTable>::Page>,
    ) -> Result<Work, BadRequest> {
        let geometry = self.geometry.get();
        let Body::Indirect { operation, count, pages } = request.body else {
            return Work::new(request, &[], &geometry);
        };
        check_indirect(operation, count)?;
        let len = usize::from(count) * crate::protocol::SEGMENT_SIZE;
        let remote = Remote { peer: self.peer, reference: GrantRef(pages[0]), offset: 0 };
        let mut operations = [scratch.page(0).copy_from(0, len, remote)];
        self.memory.copy(&mut operations).map_err(|_| BadRequest::Copy)?;
        operations[0].result().map_err(|_| BadRequest::Copy)?;
        let mut list = [0; LIST_SIZE];
        scratch.read(0, &mut list[..len]);
        Work::new(request, &list[..len], &geometry)
    }

    /// Does a group, and where that fails each of its requests alone.
    async fn run(&self, group: Group) -> Answers {
        if let [(request, _)] = group.requests[..] {
            return alloc::vec![(request, self.perform(group.work).await)];
        }
        if self.perform(group.work.clone()).await.is_ok() {
            return group.requests.into_iter().map(|(request, _)| (request, Ok(()))).collect();
        }
        let mut answers = Vec::new();
        let mut rest = group.work;
        for (request, count) in group.requests {
            let own = rest.split_off_front(count);
            answers.push((request, self.perform(own).await));
        }
        answers
    }

    async fn perform(&self, work: Work) -> Result<(), BadRequest> {
        let bad = BadRequest::Device;
        match work {
            Work::Read { sector, segments } => {
                let len = super::request::len(&segments);
                self.count(|statistics| {
                    statistics.reads += 1;
                    statistics.read_bytes += len as u64;
                });
                let buffer = self.disk.buffer(len).map_err(bad)?;
                let (buffer, outcome) = self.disk.read(sector, buffer).await;
                outcome.map_err(bad)?;
                self.copy(&buffer, &segments, true)
            }
            Work::Write { sector, segments } => self.write(sector, &segments).await,
            Work::Discard { sector, sectors, secure } => {
                self.count(|statistics| statistics.discards += 1);
                self.disk.discard(sector, sectors, secure).await.map_err(bad)
            }
            Work::Flush => self.flush().await,
            Work::Barrier { sector, segments } => {
                self.flush().await?;
                if segments.is_empty() {
                    return Ok(());
                }
                self.write(sector, &segments).await?;
                self.flush().await
            }
        }
    }

    async fn write(&self, sector: u64, segments: &[Segment]) -> Result<(), BadRequest> {
        let len = super::request::len(segments);
        self.count(|statistics| {
            statistics.writes += 1;
            statistics.written_bytes += len as u64;
        });
        let buffer = self.disk.buffer(len).map_err(BadRequest::Device)?;
        self.copy(&buffer, segments, false)?;
        self.disk.write(sector, buffer).await.1.map_err(BadRequest::Device)
    }

    async fn flush(&self) -> Result<(), BadRequest> {
        self.count(|statistics| statistics.flushes += 1);
        self.disk.flush().await.map_err(BadRequest::Device)
    }

    /// Copies between a buffer and the guest's pages: those that stay mapped by itself, others all in one call to the
    /// hypervisor, of which each outcome counts.
    fn copy(&self, buffer: &D::Buffer, segments: &[Segment], to_guest: bool) -> Result<(), BadRequest> {
        if let Some(persistent) = &self.persistent {
            let mut offset = 0;
            let done = persistent.borrow_mut().with(self.memory, self.peer, segments, |segment, memory, page| {
                let len = usize::from(segment.last - segment.first + 1) * SECTOR_SIZE;
                let start = page + usize::from(segment.first) * SECTOR_SIZE;
                pieces(offset, len, |page, at, range| match to_guest {
                    true => buffer.page(page).copy(at, range.len(), memory, start + range.start),
                    false => memory.copy(start + range.start, range.len(), buffer.page(page), at),
                });
                offset += len;
            });
            if done {
                return Ok(());
            }
        }
        let mut operations = Vec::with_capacity(segments.len());
        let mut offset = 0;
        for segment in segments {
            let len = usize::from(segment.last - segment.first + 1) * SECTOR_SIZE;
            let start = usize::from(segment.first) * SECTOR_SIZE;
            pieces(offset, len, |page, at, range| {
                let page = buffer.page(page);
                let reference = GrantRef(segment.reference);
                let remote = Remote { peer: self.peer, reference, offset: (start + range.start) as u16 };
                operations.push(match to_guest {
                    true => page.copy_to(at, range.len(), remote),
                    false => page.copy_from(at, range.len(), remote),
                });
            });
            offset += len;
        }
        self.memory.copy(&mut operations).map_err(|_| BadRequest::Copy)?;
        match operations.iter().all(|operation| operation.result().is_ok()) {
            true => Ok(()),
            false => Err(BadRequest::Copy),
        }
    }
}
