//! A frontend's life.

use alloc::rc::Rc;
use core::convert::Infallible;
use core::time::Duration;

use xen_hal::Clock;
use xenstore_client::{Error, Store};

use crate::backoff::Backoff;
use crate::device::Device;
use crate::failure::{EndReason, Failure};
use crate::keys::Keys;
use crate::life::{Life, attend};
use crate::signals::Signals;
use crate::state::{End, FrontendStage, FrontendStep, State, frontend_step};
use crate::stop::Stop;
use crate::waiting::Waiting;

/// What a driver does for its end of a device that another domain provides.
///
/// # Cancellation
///
/// The futures may be dropped at any time: what they share with the backend ends with them.
#[allow(async_fn_in_trait, reason = "one core: no future has to be `Send`")]
pub trait Frontend {
    /// The state that says that rings are published: [`State::Initialised`] for block devices,
    /// [`State::Connected`] for network devices.
    const PUBLISHED: State;
    /// What is granted to the backend: rings, ports. Dropping it ends the backend's access to all of it.
    type Link;

    /// Reads what the backend can do, and makes rings and ports for it.
    ///
    /// # Errors
    ///
    /// What makes the device unusable. `ENOSPC` and `ENOMEM` do not: this domain has too little left of something, such as
    /// grants, and this is called again after a pause.
    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure>;

    /// Writes where they are. This runs in the transaction that also changes the state, and perhaps more than once.
    ///
    /// # Errors
    ///
    /// What the store says.
    async fn publish(&mut self, keys: &Keys<'_>, link: &Self::Link) -> Result<(), Error>;

    /// The backend is connected: reads what it provides, before this end says that it is connected too.
    ///
    /// # Errors
    ///
    /// What makes the device unusable.
    async fn accept(&mut self, device: &Device, link: &mut Self::Link) -> Result<(), Failure>;

    /// Uses the device until [`Signals::closing`], or for as long as there is somebody to use it. What was granted is
    /// revoked before it returns.
    ///
    /// # Errors
    ///
    /// What makes the device unusable from here on: a backend that breaks the protocol.
    async fn run(&mut self, device: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure>;

    /// There is no backend that could be used, and may never be one again: nobody should wait for it. May be called
    /// several times; a backend that comes after all is connected to as any other.
    fn lost(&mut self);
}

/// Leads a frontend's driver through the life of the device at `path`, such as `device/vbd/51712`: connects, answers the
/// backend's wish to close, and connects again to a backend that comes back, until the device is removed or the driver
/// has had enough. A backend that comes and goes without end has to wait, as with [`backend()`](crate::backend()).
///
/// A backend that does not come, or does not connect, is waited for without end; after five seconds a line in the log
/// says so.
///
/// Whatever makes the device unusable is written to its error node, and closes it; that is no error here.
///
/// # Errors
///
/// Where the store fails.
///
/// # Cancellation
///
/// Dropping the future ends the use at once, and leaves the state as it is.
pub async fn frontend<F: Frontend>(
    store: &Store,
    clock: impl Clock,
    path: &str,
    driver: &mut F,
) -> Result<EndReason, Error> {
    let (mut backoff, mut waiting, log) = (Backoff::default(), Waiting::default(), Rc::default());
    loop {
        let Some(device) = Device::open(store, End::Frontend, path, &log).await? else { return Ok(EndReason::Removed) };
        let Err(stop) = live(&device, &clock, driver, &mut backoff, &mut waiting).await;
        if let Some(outcome) = stop.end() {
            return outcome;
        }
    }
}

async fn live<F: Frontend>(
    device: &Device,
    clock: &impl Clock,
    driver: &mut F,
    backoff: &mut Backoff,
    waiting: &mut Waiting,
) -> Result<Infallible, Stop> {
    let life = Life::new(device, clock, backoff).await?;
    let generation = device.store().generation();
    let stage = FrontendStage::Fresh;
    let mut life =
        FrontendLife { life, driver, waiting, generation, stage, link: None, resume: None, resume_unasked: None };
    life.begin().await?;
    loop {
        match life.step().await {
            Err(Stop::Closing) => life.disconnect().await?,
            Err(Stop::Failed(failure)) => life.give_up(&failure).await?,
            outcome => outcome?,
        }
    }
}

struct FrontendLife<'a, F: Frontend, C> {
    life: Life<'a, C>,
    driver: &'a mut F,
    waiting: &'a mut Waiting,
    /// Of the connection to the store: after a restore of this domain it is another one.
    generation: u32,
    stage: FrontendStage,
    /// From the time when it is published until the backend is connected.
    link: Option<F::Link>,
    /// When the pause before the next connection ends: one that the backend has asked for, and one that it has not.
    resume: Option<Duration>,
    resume_unasked: Option<Duration>,
}

impl<F: Frontend, C: Clock> FrontendLife<'_, F, C> {
    /// Clears away what is left over from an earlier driver.
    async fn begin(&mut self) -> Result<(), Stop> {
        let device = self.life.device;
        if device.last() != State::Initialising {
            device.switch(State::Closed).await?;
            device.switch(State::Initialising).await?;
        }
        Ok(())
    }

    /// Looks at both ends, and does what is to be done then.
    async fn step(&mut self) -> Result<(), Stop> {
        let state = look(self.life.device, self.generation, self.stage).await?;
        match frontend_step(self.stage, state) {
            FrontendStep::Wait => self.wait(state).await,
            FrontendStep::Publish => self.publish().await,
            FrontendStep::Finish => self.finish().await,
            FrontendStep::Close => Err(Stop::Closing),
            FrontendStep::Reopen => self.reopen().await,
        }
    }

    async fn wait(&mut self, state: Option<State>) -> Result<(), Stop> {
        let Life { device, clock, .. } = self.life;
        let closed = self.stage == FrontendStage::Closed;
        if closed && state.is_none() {
            self.driver.lost();
        }
        // A backend that was taken from the device and given back may have seen this end's old state, and closed again:
        // it is for this end to begin.
        if !(closed && state == Some(State::Closed) && is_online(device).await?) {
            return self.wait_for_change(state).await;
        }
        let at = *self.resume_unasked.get_or_insert_with(|| self.life.pause(Backoff::next_unrequested_pause));
        if self.life.watches.next_before(device, clock, at).await? {
            return Ok(());
        }
        device.switch(State::Initialising).await?;
        Err(Stop::Again)
    }

    /// Waits for the backend to do something, and says so where that takes long.
    async fn wait_for_change(&mut self, state: Option<State>) -> Result<(), Stop> {
        let Self { life: Life { device, clock, watches, .. }, waiting, stage, .. } = self;
        let Some(at) = waiting.due(clock.now()) else { return self.life.next().await };
        // A backend that never ceases to write its state has done nothing by that.
        if clock.now() < at && watches.next_before(device, *clock, at).await? {
            return Ok(());
        }
        Ok(waiting.tell(device, clock.now(), *stage, state).await?)
    }

    /// Makes what the backend is to have, and says where it is.
    async fn publish(&mut self) -> Result<(), Stop> {
        let Self { life: Life { device, clock, watches, .. }, driver, waiting, .. } = self;
        if let Some(at) = waiting.retry_at().filter(|at| clock.now() < *at) {
            watches.next_before(device, *clock, at).await?;
            return Ok(());
        }
        let link = match driver.connect(device).await {
            Err(failure) if failure.is_shortage() => {
                if waiting.lacks(device.path(), &failure, clock.now()) {
                    device.write_error(&failure).await?;
                }
                return Ok(());
            }
            link => link?,
        };
        waiting.lacks_nothing(device.path(), clock.now());
        let published = device.switch_with(F::PUBLISHED, async |keys| driver.publish(keys, &link).await).await;
        published.map_err(Stop::of_driver)?;
        self.link = Some(link);
        self.stage = FrontendStage::Published;
        Ok(())
    }

    /// The backend is connected: uses the device.
    async fn finish(&mut self) -> Result<(), Stop> {
        let Some(link) = self.link.take() else { return Err(Stop::Again) };
        self.life.backoff.connected(self.life.clock.now());
        self.waiting.connected(self.life.device.path(), self.life.clock.now());
        let outcome = self.run(link).await;
        self.life.backoff.disconnected(self.life.clock.now());
        outcome?;
        self.close().await?;
        Err(Stop::Ended(EndReason::Stopped))
    }

    /// Accepts what the backend provides, runs the driver, and tells it when the backend wants to end, or is gone.
    async fn run(&mut self, mut link: F::Link) -> Result<(), Stop> {
        let Self { life: Life { device, clock, watches, .. }, driver, generation, .. } = self;
        driver.accept(device, &mut link).await?;
        device.switch(State::Connected).await?;
        let signals = Signals::default();
        let monitor = async {
            loop {
                match look(device, *generation, FrontendStage::Up).await {
                    // It still answers what it was asked, unless it goes away meanwhile.
                    Ok(Some(State::Closing)) => signals.close(),
                    Ok(state) if frontend_step(FrontendStage::Up, state) == FrontendStep::Close => {
                        signals.lose();
                        return Err(Stop::Closing);
                    }
                    Ok(_) => signals.change(),
                    Err(Stop::Store(error)) => return Err(Stop::Store(error)),
                    Err(stop) => {
                        signals.lose();
                        return Err(stop);
                    }
                }
                watches.next(device, *clock).await?;
            }
        };
        attend(&signals, driver.run(device, link, &signals), monitor).await
    }

    async fn reopen(&mut self) -> Result<(), Stop> {
        let Life { device, clock, .. } = self.life;
        let at = *self.resume.get_or_insert_with(|| self.life.pause(Backoff::next_pause));
        if clock.now() < at {
            // What the backend does meanwhile shows at the end.
            return Ok(self.life.watches.own_before(device, clock, at).await?);
        }
        device.switch(State::Initialising).await?;
        Err(Stop::Again)
    }

    /// The connection has ended, or there was none.
    async fn disconnect(&mut self) -> Result<(), Stop> {
        self.link = None;
        self.life.device.switch(State::Closed).await?;
        self.stage = FrontendStage::Closed;
        Ok(())
    }

    async fn close(&mut self) -> Result<(), Stop> {
        let done = |state| frontend_step(FrontendStage::Closing, state) == FrontendStep::Close;
        self.life.close(done).await
    }

    /// Reports what makes the device unusable, and closes it. What a driver finds wrong with a device that was taken away
    /// meanwhile, as by a restore, is no failure.
    async fn give_up(&mut self, failure: &Failure) -> Result<(), Stop> {
        look(self.life.device, self.generation, FrontendStage::Fresh).await?;
        self.driver.lost();
        self.life.device.report(failure).await?;
        self.close().await?;
        self.stage = FrontendStage::Closed;
        Ok(())
    }
}

/// The backend's state, where this end's directory is still there and the same.
async fn look(device: &Device, generation: u32, stage: FrontendStage) -> Result<Option<State>, Stop> {
    let Some(own) = device.state().await? else { return Err(Stop::Ended(EndReason::Removed)) };
    // Nobody but the toolstack writes it.
    if own != device.last() || device.store().generation() != generation {
        return Err(Stop::Again);
    }
    let state = device.other_state().await?;
    // A backend's directory that is gone may be another one by now.
    if state.is_none() && stage == FrontendStage::Fresh && is_renamed(device).await? {
        return Err(Stop::Again);
    }
    Ok(state)
}

/// Whether the toolstack wants the device to stay, as far as the backend lets this domain see.
async fn is_online(device: &Device) -> Result<bool, Error> {
    match device.get_other::<bool>("online").await {
        Err(error) if error.is_broken() => Err(error),
        other => Ok(other.unwrap_or(None).unwrap_or(false)),
    }
}

async fn is_renamed(device: &Device) -> Result<bool, Error> {
    let now = Device::open(device.store(), End::Frontend, device.path(), device.log()).await?;
    Ok(now.is_some_and(|now| now.other_path() != device.other_path()))
}
