//! What the lives of both ends have in common.

use core::convert::Infallible;
use core::future::Future;
use core::pin::pin;
use core::time::Duration;

use futures_util::future::{Either, select};
use xen_hal::Clock;
use xenstore_client::Error;

use crate::backoff::Backoff;
use crate::device::{Device, Ended, Failure};
use crate::signals::Signals;
use crate::state::State;
use crate::watches::Watches;

/// Why a step of a device's life leads no further. What is to be done about it is decided in one place for each end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The device's life is over.
    Ended(Ended),
    /// The directories are new: the toolstack has made the device again, or the domain was restored.
    Again,
    /// The other end closes, or is gone: this end lets go, and is [`State::Closed`].
    Closing,
    /// The toolstack wants a backend's device gone for good.
    Leaving,
    /// The device cannot be used, which is to be reported.
    Failed(Failure),
    /// The store has failed.
    Store(Error),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Store(error)
    }
}

impl Stop {
    /// Of what a driver has written: where the store does not take it, that makes the device unusable, and nothing else.
    pub(crate) fn of_driver(self) -> Stop {
        match self {
            Stop::Store(error) if !error.is_broken() => Stop::Failed(error.into()),
            other => other,
        }
    }

    /// How the device's life has ended; `None` where another one begins.
    pub(crate) fn end(self) -> Option<Result<Ended, Error>> {
        match self {
            Stop::Ended(ended) => Some(Ok(ended)),
            Stop::Store(error) => Some(Err(error)),
            Stop::Again | Stop::Closing | Stop::Leaving | Stop::Failed(_) => None,
        }
    }
}

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
        match self.backoff.is_throttled() {
            true => self.device.announce_pause(self.backoff.count(), pause),
            false => self.device.set_quiet(false),
        }
        self.clock.now().saturating_add(pause)
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
