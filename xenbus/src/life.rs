//! What the lives of both ends have in common.

use core::convert::Infallible;
use core::future::Future;
use core::pin::pin;
use core::time::Duration;

use futures_util::future::{Either, select};
use xen_hal::Clock;

use crate::backoff::Backoff;
use crate::device::Device;
use crate::failure::Failure;
use crate::signals::Signals;
use crate::state::State;
use crate::stop::Stop;
use crate::watches::Watches;

/// One life of a device, from its directories' beginning to their end.
pub(crate) struct Life<'a, C> {
    pub(crate) device: &'a Device,
    pub(crate) clock: &'a C,
    pub(crate) watches: Watches,
    pub(crate) backoff: &'a mut Backoff,
}

impl<'a, C: Clock> Life<'a, C> {
    pub(crate) async fn new(device: &'a Device, clock: &'a C, backoff: &'a mut Backoff) -> Result<Self, Stop> {
        Ok(Life { device, clock, watches: Watches::new(device).await?, backoff })
    }

    /// Waits until something may have changed at either end.
    pub(crate) async fn next(&mut self) -> Result<(), Stop> {
        Ok(self.watches.next(self.device, self.clock).await?)
    }

    /// When the device may connect once more.
    pub(crate) fn pause(&mut self, again: impl FnOnce(&mut Backoff) -> Duration) -> Duration {
        let pause = again(self.backoff);
        let now = self.clock.now();
        let row = self.backoff.is_throttled().then(|| (self.backoff.count(), pause));
        self.device.log().next_connection(self.device.path(), now, row);
        now.saturating_add(pause)
    }

    /// The closing handshake, from this end, which waits for the other's part until `done` says that it was done.
    pub(crate) async fn close(&mut self, done: impl FnMut(Option<State>) -> bool) -> Result<(), Stop> {
        if self.device.try_switch(State::Closing).await? {
            self.watches.until(self.device, self.clock, done).await?;
            // What became of it shows at the next look.
            self.device.try_switch(State::Closed).await?;
        }
        Ok(())
    }
}

/// Lets a driver use the device until it ends by itself, or `monitor` sees why it has to, and then waits for it to let
/// go. What the driver finds wrong on its way out counts, unless the device is not the same any more.
pub(crate) async fn attend(
    signals: &Signals,
    driver: impl Future<Output = Result<(), Failure>>,
    monitor: impl Future<Output = Result<Infallible, Stop>>,
) -> Result<(), Stop> {
    match select(pin!(driver), pin!(monitor)).await {
        Either::Left((outcome, _)) => {
            outcome?;
            if signals.is_closing() { Err(Stop::Closing) } else { Ok(()) }
        }
        Either::Right((Err(stop), driver)) => {
            signals.close();
            let outcome = driver.await;
            if matches!(stop, Stop::Closing | Stop::Leaving) {
                outcome?;
            }
            Err(stop)
        }
    }
}
