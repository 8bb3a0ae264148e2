//! A device that is used no faster than agreed.

use alloc::rc::Rc;
use core::cell::Cell;
use core::pin::pin;
use core::time::Duration;

use futures_util::future::{Either, select};
use xen_hal::Clock;
use xen_ring::WaitQueue;

use crate::device::{BlockDevice, Buffer, Completed, Error, Geometry};

/// How much of what was not used before may be used at once.
const BURST: Duration = Duration::from_millis(100);

/// A rate for all requests of one user, over all devices that it has. Clones are the same.
///
/// Whatever waits is served in its order, each request when its time has come (the generic cell rate algorithm, ITU-T
/// I.371): no list of requests is kept.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    state: Rc<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Meter,
    requests: Meter,
    /// How often what was agreed has changed.
    changes: Cell<u64>,
    changed: WaitQueue,
}

#[derive(Debug, Default)]
struct Meter {
    /// How many a second; 0 where there is no limit.
    limit: Cell<u64>,
    /// When the next one's time is.
    next: Cell<Duration>,
}

impl Meter {
    /// When `amount` more may begin.
    fn take(&self, now: Duration, amount: u64) -> Duration {
        let limit = self.limit.get();
        if limit == 0 {
            return now;
        }
        let start = self.next.get().max(now.saturating_sub(BURST));
        let nanoseconds = u128::from(amount) * 1_000_000_000 / u128::from(limit);
        let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.next.set(start.saturating_add(takes));
        start
    }
}

impl Rate {
    /// Sets how many bytes and requests a second there may be; `None` is any number. It holds for what waits, too.
    pub fn set(&self, bytes: Option<u64>, requests: Option<u64>) {
        let State { changes, changed, .. } = &*self.state;
        let meters = [(&self.state.bytes, bytes.unwrap_or(0)), (&self.state.requests, requests.unwrap_or(0))];
        if meters.iter().all(|(meter, limit)| meter.limit.get() == *limit) {
            return;
        }
        for (meter, limit) in meters {
            meter.limit.set(limit);
            // What was agreed before is over.
            meter.next.set(Duration::ZERO);
        }
        changes.set(changes.get() + 1);
        changed.wake_all();
    }

    /// Whether there is a clone of it.
    pub fn is_used(&self) -> bool {
        Rc::strong_count(&self.state) > 1
    }

    async fn wait(&self, clock: &impl Clock, bytes: usize) {
        let State { changes, changed, .. } = &*self.state;
        loop {
            let now = clock.now();
            let by_bytes = self.state.bytes.take(now, bytes as u64);
            let start = by_bytes.max(self.state.requests.take(now, 1));
            if start <= now {
                return;
            }
            let known = changes.get();
            let other = pin!(changed.wait_until(|| (changes.get() != known).then_some(())));
            if let Either::Left(_) = select(pin!(clock.sleep_until(start)), other).await {
                return;
            }
        }
    }
}

/// A device with a [`Rate`].
///
/// # Examples
///
/// ```
/// use xen_blkif::BlockDevice;
/// use xen_blkif::ramdisk::RamDisk;
/// use xen_blkif::rate::{Rate, Rated};
/// use xen_hal::Clock;
///
/// # let xen = xen_sim::Xen::new(1);
/// # let domain = xen.domain();
/// # xen.run(async move {
/// let rate = Rate::default();
/// rate.set(Some(1 << 20), None);
/// let disk = Rated::new(RamDisk::new(domain.clone(), 64)?, domain.clone(), rate);
/// let start = domain.now();
/// for _ in 0..64 {
///     disk.write_bytes(0, &[1; 16 << 10]).await?;
/// }
/// assert!((domain.now() - start).as_millis() >= 880, "1 MiB at 1 MiB a second, of which a tenth at once");
/// # Ok::<(), xen_blkif::Error>(())
/// # })?;
/// # Ok::<(), xen_blkif::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rated<D, C> {
    device: D,
    clock: C,
    rate: Rate,
}

impl<D, C> Rated<D, C> {
    /// `device`, used as fast as `rate` allows.
    pub fn new(device: D, clock: C, rate: Rate) -> Rated<D, C> {
        Rated { device, clock, rate }
    }
}

impl<D: BlockDevice, C: Clock> BlockDevice for Rated<D, C> {
    type Buffer = D::Buffer;

    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn buffer(&self, len: usize) -> Result<D::Buffer, Error> {
        self.device.buffer(len)
    }

    fn buffer_at(&self, sector: u64, len: usize) -> Result<D::Buffer, Error> {
        self.device.buffer_at(sector, len)
    }

    async fn read(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        self.rate.wait(&self.clock, buffer.len()).await;
        self.device.read(sector, buffer).await
    }

    async fn write(&self, sector: u64, buffer: D::Buffer) -> Completed<D::Buffer> {
        self.rate.wait(&self.clock, buffer.len()).await;
        self.device.write(sector, buffer).await
    }

    async fn flush(&self) -> Result<(), Error> {
        self.rate.wait(&self.clock, 0).await;
        self.device.flush().await
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
        self.rate.wait(&self.clock, 0).await;
        self.device.discard(sector, count, secure).await
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        self.device.changed(known).await
    }
}
