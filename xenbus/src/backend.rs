//! A backend's life.

use alloc::rc::Rc;
use core::convert::Infallible;
use core::time::Duration;

use xen_hal::{Clock, Errno};
use xenstore_client::{Error, Store};

use crate::backoff::Backoff;
use crate::device::Device;
use crate::failure::{EndReason, Failure};
use crate::keys::Keys;
use crate::life::{Life, attend};
use crate::signals::Signals;
use crate::state::{BackendStage, BackendStep, End, State, backend_step};
use crate::stop::Stop;

/// What a driver does for a device that it provides to another domain, which may be hostile.
///
/// # Cancellation
///
/// The futures may be dropped at any time: what they use of the frontend's ends with them.
#[allow(async_fn_in_trait, reason = "one core: no future has to be `Send`")]
pub trait Backend {
    /// The frontend's rings, mapped, and what else is in use. Dropping it lets go of all of it.
    type Link;

    /// Gets ready what the device stands for: opens the disk, joins the bridge. This comes before each time that the
    /// frontend is waited for, and is nothing new where all is ready still.
    ///
    /// # Errors
    ///
    /// What makes the device unusable.
    async fn prepare(&mut self, device: &Device) -> Result<(), Failure>;

    /// Writes what this end can do, before it waits for the frontend. This runs in the transaction that also changes
    /// the state, and perhaps more than once.
    ///
    /// # Errors
    ///
    /// What the store says.
    async fn advertise(&mut self, keys: &Keys<'_>) -> Result<(), Error>;

    /// Reads where the frontend's rings are, and connects to them.
    ///
    /// # Errors
    ///
    /// What makes the device unusable: a frontend that publishes nonsense.
    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure>;

    /// Writes what the frontend is to know before it uses the device: its size, for example. As
    /// [`advertise`](Backend::advertise), in the transaction.
    ///
    /// # Errors
    ///
    /// What the store says.
    async fn publish(&mut self, keys: &Keys<'_>, link: &Self::Link) -> Result<(), Error>;

    /// Serves until [`Signals::closing`]. What was mapped is let go of before it returns.
    ///
    /// # Errors
    ///
    /// What makes the device unusable from here on: a frontend that breaks the protocol.
    async fn run(&mut self, device: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure>;
}

/// Leads a backend's driver through the life of the device at `path`, such as `backend/vbd/3/51712`: connects, answers
/// the frontend's wish to close, and connects again to a frontend that comes back, until the toolstack wants the device
/// gone.
///
/// A frontend that comes back a few times is served at once; one that does not stop has to wait longer each time, up to
/// half a minute, until a connection has lasted a minute. The toolstack's requests are handled at any time.
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
pub async fn backend<B: Backend>(
    store: &Store,
    clock: impl Clock,
    path: &str,
    driver: &mut B,
) -> Result<EndReason, Error> {
    loop {
        // Nobody but the toolstack makes a device anew: what was before counts no more.
        let (mut backoff, log) = (Backoff::default(), Rc::default());
        let Some(device) = Device::open(store, End::Backend, path, &log).await? else { return Ok(EndReason::Removed) };
        let Err(stop) = live(&device, &clock, driver, &mut backoff).await;
        if let Some(outcome) = stop.end() {
            return outcome;
        }
    }
}

async fn live<B: Backend>(
    device: &Device,
    clock: &impl Clock,
    driver: &mut B,
    backoff: &mut Backoff,
) -> Result<Infallible, Stop> {
    let life = Life::new(device, clock, backoff).await?;
    let mut life = BackendLife { life, driver, stage: BackendStage::Closed, resume: None, unready: false };
    let mut outcome = life.begin().await;
    loop {
        match outcome {
            Err(Stop::Closing) => life.disconnect().await?,
            Err(Stop::Failed(failure)) => life.give_up(&failure).await?,
            Err(Stop::Leaving) => return Err(leave(device).await),
            other => other?,
        }
        outcome = life.step().await;
    }
}

struct BackendLife<'a, B, C> {
    life: Life<'a, C>,
    driver: &'a mut B,
    stage: BackendStage,
    /// When the pause before the next connection ends.
    resume: Option<Duration>,
    /// Whether this end itself could not begin: the frontend has done nothing, and does not ask.
    unready: bool,
}

impl<B: Backend, C: Clock> BackendLife<'_, B, C> {
    /// Anything but the beginning is left over from an earlier driver, or the toolstack's wish to end.
    async fn begin(&mut self) -> Result<(), Stop> {
        match self.life.device.last() {
            State::Initialising => self.prepare().await,
            State::Closed => Ok(()),
            _ => Err(Stop::Closing),
        }
    }

    /// Looks at both ends, and does what is to be done then.
    async fn step(&mut self) -> Result<(), Stop> {
        match look(self.life.device, self.stage).await? {
            BackendStep::Wait => self.life.next().await,
            BackendStep::Connect => self.connect().await,
            BackendStep::Close => Err(Stop::Closing),
            BackendStep::Reopen => self.reopen().await,
            BackendStep::Leave => Err(Stop::Leaving),
        }
    }

    /// Gets ready, says what this end can do, and waits for the frontend.
    async fn prepare(&mut self) -> Result<(), Stop> {
        let Self { life: Life { device, .. }, driver, .. } = self;
        let prepared = driver.prepare(device).await;
        device.set_hotplug_status(prepared.as_ref().copied()).await?;
        self.unready = prepared.is_err();
        prepared?;
        device.switch_with(State::InitWait, async |keys| driver.advertise(keys).await).await?;
        self.stage = BackendStage::Waiting;
        Ok(())
    }

    /// Connects to what the frontend has published, and serves it.
    async fn connect(&mut self) -> Result<(), Stop> {
        let Self { life: Life { device, .. }, driver, .. } = self;
        let link = driver.connect(device).await?;
        match device.switch_with(State::Connected, async |keys| driver.publish(keys, &link).await).await {
            // The toolstack has done something: the next look shows what.
            Err(Stop::Again) => return Ok(()),
            outcome => outcome.map_err(Stop::of_driver)?,
        }
        self.life.backoff.connected(self.life.clock.now());
        let outcome = self.run(link).await;
        self.life.backoff.disconnected(self.life.clock.now());
        outcome?;
        self.close().await?;
        Err(Stop::Ended(EndReason::Stopped))
    }

    /// Runs the driver, and tells it when the frontend or the toolstack wants to end.
    async fn run(&mut self, link: B::Link) -> Result<(), Stop> {
        let Self { life: Life { device, clock, watches, .. }, driver, .. } = self;
        let signals = Signals::default();
        let monitor = async {
            loop {
                match look(device, BackendStage::Up).await? {
                    BackendStep::Wait | BackendStep::Connect | BackendStep::Reopen => signals.change(),
                    BackendStep::Close => return Err(Stop::Closing),
                    BackendStep::Leave => return Err(Stop::Leaving),
                }
                watches.next(device, *clock).await?;
            }
        };
        attend(&signals, driver.run(device, link, &signals), monitor).await
    }

    async fn reopen(&mut self) -> Result<(), Stop> {
        let Life { device, clock, .. } = self.life;
        let again = if self.unready { Backoff::next_unrequested_pause } else { Backoff::next_pause };
        let at = *self.resume.get_or_insert_with(|| self.life.pause(again));
        if clock.now() < at {
            // What the frontend does meanwhile shows at the end.
            return Ok(self.life.watches.own_before(device, clock, at).await?);
        }
        self.resume = None;
        self.prepare().await
    }

    /// The connection has ended, or there was none.
    async fn disconnect(&mut self) -> Result<(), Stop> {
        self.life.device.switch(State::Closed).await?;
        self.stage = BackendStage::Closed;
        Ok(())
    }

    async fn close(&mut self) -> Result<(), Stop> {
        let done = |state| {
            matches!(backend_step(BackendStage::Closing, state, true, false), BackendStep::Close | BackendStep::Leave)
        };
        self.life.close(done).await
    }

    /// Reports what makes the device unusable, and closes it. What a driver finds wrong with a device that was taken away
    /// meanwhile is no failure.
    async fn give_up(&mut self, failure: &Failure) -> Result<(), Stop> {
        let device = self.life.device;
        look(device, BackendStage::Up).await?;
        device.report(failure).await?;
        if device.last() != State::Closed {
            self.close().await?;
        }
        self.stage = BackendStage::Closed;
        Ok(())
    }
}

/// Ends a device's life for good. The directory of one that is to go is removed, and that of its guest's with the last of
/// these: the toolstack waits for that where the
/// backend is not in its own domain (`xl devd` does it for Linux; tools/libs/light/libxl_device.c).
async fn leave(device: &Device) -> Stop {
    if let Err(stop) = device.switch(State::Closed).await {
        return stop;
    }
    // In one transaction: it may be another device's directory by now.
    let (state, online) = (device.own("state"), device.own("online"));
    let removed = device
        .store()
        .transaction(async |t| -> Result<(), Error> {
            match (t.get::<State>(&state).await?, t.get::<bool>(&online).await) {
                (Some(State::Closed), Ok(Some(false))) => t.remove(device.path()).await?,
                _ => return Ok(()),
            }
            // What is above it may be this domain's as well, and count in its quota: a driver domain's would be used up by
            // the guests that come and go. Where it is the toolstack's, that removes it (libxl__xs_path_cleanup).
            if let Some((guest, _)) = device.path().rsplit_once('/')
                && t.list_short(guest).await.is_ok_and(|others| others.is_empty())
            {
                match t.remove(guest).await {
                    Err(error) if !matches!(error.errno(), Some(Errno::EACCES | Errno::ENOENT)) => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        })
        .await;
    match removed {
        // Where this domain may not, the toolstack will.
        Err(error) if !matches!(error.errno(), Some(Errno::EACCES | Errno::ENOENT)) => Stop::Store(error),
        _ => Stop::Ended(EndReason::Removed),
    }
}

/// What the two states, and what the toolstack has written, say that is to be done.
async fn look(device: &Device, stage: BackendStage) -> Result<BackendStep, Stop> {
    let Some(own) = device.state().await? else { return Err(Stop::Ended(EndReason::Removed)) };
    let asked = own == State::Closing && device.last() != State::Closing;
    if own != device.last() && !asked {
        return Err(Stop::Again);
    }
    let online = device.get::<bool>("online").await.unwrap_or(None).unwrap_or(false);
    let frontend = device.other_state().await?;
    Ok(backend_step(stage, frontend, online, asked))
}
