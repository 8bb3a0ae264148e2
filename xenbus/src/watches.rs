//! Watches on both ends of a device.

use core::pin::pin;
use core::time::Duration;

use futures_util::future::{Either, select};
use xen_hal::{Clock, warning};
use xenstore_client::{Error, Watch, WatchEvent};

use crate::device::Device;
use crate::rate_limit::RateLimit;
use crate::state::State;

/// How long the other end has for its part of the closing handshake, as Linux waits.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Looks at the other end that are taken one after the other: each costs a few requests to the store, and the other end
/// may write its nodes as fast as it can.
const READ_BURST: u32 = 32;
/// After these there is one in this time.
const READ_INTERVAL: Duration = Duration::from_millis(100);

/// Watches on both ends of a device.
pub(crate) struct Watches {
    own: Watch,
    other: Watch,
    looks: RateLimit,
}

impl Watches {
    pub(crate) async fn new(device: &Device) -> Result<Watches, Error> {
        let own = device.store().watch_any(device.path()).await?;
        let other = device.store().watch_any(&device.other("state")).await?;
        Ok(Watches { own, other, looks: RateLimit::new(READ_BURST, READ_INTERVAL) })
    }

    /// Waits until something may have changed at either end. What the toolstack changes in this end's directory is heard
    /// of at once, what the other end changes in its own only so often.
    pub(crate) async fn next(&mut self, device: &Device, clock: &impl Clock) -> Result<(), Error> {
        let Watches { own, other, looks } = self;
        let changed = async {
            let next = looks.next();
            if clock.now() < next {
                clock.sleep_until(next).await;
            }
            let event = other.next().await;
            looks.take(clock.now());
            event
        };
        let event = match select(pin!(own.next()), pin!(changed)).await {
            Either::Left((event, _)) | Either::Right((event, _)) => event,
        };
        heard(device, event).await
    }

    /// Waits until something may have changed in this end's directory, or until `deadline`.
    pub(crate) async fn own_before(
        &mut self,
        device: &Device,
        clock: &impl Clock,
        deadline: Duration,
    ) -> Result<(), Error> {
        match select(pin!(self.own.next()), clock.sleep_until(deadline)).await {
            Either::Left((event, _)) => heard(device, event).await,
            Either::Right(_) => Ok(()),
        }
    }

    /// Waits until something may have changed at either end; `false` where nothing has before `deadline`.
    pub(crate) async fn next_before(
        &mut self,
        device: &Device,
        clock: &impl Clock,
        deadline: Duration,
    ) -> Result<bool, Error> {
        match select(pin!(self.next(device, clock)), clock.sleep_until(deadline)).await {
            Either::Left((event, _)) => event.map(|()| true),
            Either::Right(_) => Ok(false),
        }
    }

    /// Waits until `done` says so, but not longer than the closing handshake may take.
    pub(crate) async fn until(
        &mut self,
        device: &Device,
        clock: &impl Clock,
        mut done: impl FnMut(Option<State>) -> bool,
    ) -> Result<(), Error> {
        let deadline = clock.now() + TIMEOUT;
        loop {
            if done(device.other_state().await?) || device.state().await?.is_none() {
                return Ok(());
            }
            if !self.next_before(device, clock, deadline).await? {
                if device.log().allows_warning() {
                    warning!("{}: timeout closing device after {} s", device.path(), TIMEOUT.as_secs());
                }
                return Ok(());
            }
        }
    }
}

async fn heard(device: &Device, event: Option<WatchEvent>) -> Result<(), Error> {
    match event {
        Some(_) => Ok(()),
        // The store itself says best what is wrong with it.
        None => device.store().read(&device.own("state")).await.map(drop),
    }
}
