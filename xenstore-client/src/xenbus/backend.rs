//! A backend's life.

use core::time::Duration;

use xen_hal::{Clock, Errno};

use super::backoff::Backoff;
use super::device::{Device, Ended, Failure, Switched, Watches};
use super::signals::{Signals, attend};
use super::state::{BackendStage, BackendStep, End, State, backend_step};
use crate::{Error, Store, Tree};

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
    async fn offer(&mut self, device: &Device, tree: &Tree) -> Result<(), Error>;

    /// Reads where the frontend's rings are, and connects to them.
    ///
    /// # Errors
    ///
    /// What makes the device unusable: a frontend that publishes nonsense.
    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure>;

    /// Writes what the frontend is to know before it uses the device: its size, for example. As
    /// [`offer`](Backend::offer), in the transaction.
    ///
    /// # Errors
    ///
    /// What the store says.
    async fn publish(&mut self, device: &Device, link: &Self::Link, tree: &Tree) -> Result<(), Error>;

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
/// half a minute, until a connection has lasted a minute. The toolstack is heard at any time.
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
pub async fn backend<B: Backend>(store: &Store, clock: impl Clock, path: &str, driver: &mut B) -> Result<Ended, Error> {
    let mut backoff = Backoff::default();
    loop {
        let Some(device) = Device::open(store, End::Backend, path).await? else { return Ok(Ended::Removed) };
        match live(&device, &clock, driver, &mut backoff).await? {
            Life::Removed => return Ok(Ended::Removed),
            Life::Stopped => return Ok(Ended::Stopped),
            // Nobody but the toolstack makes it anew.
            Life::Again => backoff = Backoff::default(),
        }
    }
}

/// How one life of a device went.
enum Life {
    Removed,
    Stopped,
    /// The directories are new: the toolstack has made the device again.
    Again,
}

/// What the monitor saw while the device was in use.
enum Seen {
    Step(BackendStep),
    Life(Life),
}

async fn live<B: Backend>(
    device: &Device,
    clock: &impl Clock,
    driver: &mut B,
    backoff: &mut Backoff,
) -> Result<Life, Error> {
    let mut watches = Watches::new(device).await?;
    let mut stage = BackendStage::Closed;
    // When the pause before the next connection ends.
    let mut resume: Option<Duration> = None;
    // Whether this end itself could not begin: the frontend has done nothing, and does not ask.
    let mut unready = false;
    // Anything but the beginning is left over from an earlier driver, or the toolstack's wish to end.
    if device.last() == State::Initialising {
        match prepare(device, driver).await? {
            Ok(None) => stage = BackendStage::Waiting,
            Ok(Some(life)) => return Ok(life),
            Err(failure) => {
                if let Some(life) = give_up(device, &mut watches, clock, &failure).await? {
                    return Ok(life);
                }
                unready = true;
            }
        }
    } else if device.last() != State::Closed
        && let Some(life) = reach(device, State::Closed).await?
    {
        return Ok(life);
    }
    loop {
        let step = match look(device, stage).await? {
            Seen::Step(step) => step,
            Seen::Life(life) => return Ok(life),
        };
        match step {
            BackendStep::Wait => watches.next(device, clock).await?,
            BackendStep::Connect => {
                let outcome = match connect(device, driver).await? {
                    Ok(Err(Switched::Gone)) => return Ok(Life::Removed),
                    // The toolstack has done something: the next look tells what.
                    Ok(Err(_)) => continue,
                    Ok(Ok(link)) => {
                        backoff.up(clock.now());
                        let outcome = run(device, clock, &mut watches, driver, link).await?;
                        backoff.down(clock.now());
                        outcome
                    }
                    Err(failure) => (Err(failure), None),
                };
                let ended = match outcome {
                    (_, Some(Seen::Life(life))) => return Ok(life),
                    (Ok(()), Some(Seen::Step(BackendStep::Leave))) => return leave(device).await,
                    (Ok(()), Some(Seen::Step(_))) => reach(device, State::Closed).await?,
                    (Ok(()), None) => {
                        close(device, &mut watches, clock).await?;
                        Some(Life::Stopped)
                    }
                    (Err(failure), _) => give_up(device, &mut watches, clock, &failure).await?,
                };
                if let Some(life) = ended {
                    return Ok(life);
                }
                stage = BackendStage::Closed;
            }
            BackendStep::Close => {
                if let Some(life) = reach(device, State::Closed).await? {
                    return Ok(life);
                }
                stage = BackendStage::Closed;
            }
            BackendStep::Reopen => {
                let again = if unready { Backoff::again_unasked } else { Backoff::again };
                let at = *resume.get_or_insert_with(|| pause(device, clock, backoff, again));
                if clock.now() < at {
                    // What the frontend does meanwhile shows at the end.
                    watches.own_before(device, clock, at).await?;
                    continue;
                }
                resume = None;
                let prepared = prepare(device, driver).await?;
                unready = prepared.is_err();
                match prepared {
                    Ok(None) => stage = BackendStage::Waiting,
                    Ok(Some(life)) => return Ok(life),
                    Err(failure) => {
                        if let Some(life) = give_up(device, &mut watches, clock, &failure).await? {
                            return Ok(life);
                        }
                        stage = BackendStage::Closed;
                    }
                }
            }
            BackendStep::Leave => return leave(device).await,
        }
    }
}

/// When the device may connect once more.
fn pause(
    device: &Device,
    clock: &impl Clock,
    backoff: &mut Backoff,
    again: impl FnOnce(&mut Backoff) -> Duration,
) -> Duration {
    let pause = again(backoff);
    match backoff.is_throttled() {
        true => device.announce_pause(backoff.count(), pause),
        false => device.set_quiet(false),
    }
    clock.now().saturating_add(pause)
}

/// Goes to a state; or says how this life ends, where that could not be.
async fn reach(device: &Device, state: State) -> Result<Option<Life>, Error> {
    Ok(life(device.switch(state).await?))
}

fn life(switched: Switched) -> Option<Life> {
    match switched {
        Switched::Yes => None,
        Switched::No => Some(Life::Again),
        Switched::Gone => Some(Life::Removed),
    }
}

/// Gets ready, says what this end can do, and waits for the frontend.
async fn prepare<B: Backend>(device: &Device, driver: &mut B) -> Result<Result<Option<Life>, Failure>, Error> {
    let prepared = driver.prepare(device).await;
    device.set_hotplug_status(prepared.as_ref().copied()).await?;
    if let Err(failure) = prepared {
        return Ok(Err(failure));
    }
    let switched = device.switch_with(State::InitWait, async |tree| driver.offer(device, tree).await).await?;
    Ok(Ok(life(switched)))
}

/// Ends a device's life for good. The directory of one that is to go is removed: the toolstack waits for that where the
/// backend is not in its own domain (`xl devd` does it for Linux; tools/libs/light/libxl_device.c).
async fn leave(device: &Device) -> Result<Life, Error> {
    match device.switch(State::Closed).await? {
        Switched::No => return Ok(Life::Again),
        Switched::Gone => return Ok(Life::Removed),
        Switched::Yes => {}
    }
    // In one transaction: it may be another device's directory by now.
    let (state, online) = (device.own("state"), device.own("online"));
    let removed = device
        .store()
        .transaction(async |t| -> Result<(), Error> {
            match (t.get::<State>(&state).await?, t.get::<bool>(&online).await) {
                (Some(State::Closed), Ok(Some(false))) => t.remove(device.path()).await,
                _ => Ok(()),
            }
        })
        .await;
    match removed {
        // Where this domain may not, the toolstack will.
        Err(error) if matches!(error.errno(), Some(Errno::EACCES | Errno::ENOENT)) => Ok(Life::Removed),
        other => other.map(|()| Life::Removed),
    }
}

/// What the two states, and what the toolstack has written, say that is to be done.
async fn look(device: &Device, stage: BackendStage) -> Result<Seen, Error> {
    let Some(own) = device.state().await? else { return Ok(Seen::Life(Life::Removed)) };
    let asked = own == State::Closing && device.last() != State::Closing;
    if own != device.last() && !asked {
        return Ok(Seen::Life(Life::Again));
    }
    let online = device.get::<bool>("online").await.unwrap_or(None).unwrap_or(false);
    let frontend = device.other_state().await?;
    Ok(Seen::Step(backend_step(stage, frontend, online, asked)))
}

async fn connect<B: Backend>(
    device: &Device,
    driver: &mut B,
) -> Result<Result<Result<B::Link, Switched>, Failure>, Error> {
    let link = match driver.connect(device).await {
        Ok(link) => link,
        Err(failure) => return Ok(Err(failure)),
    };
    match device.switch_with(State::Connected, async |tree| driver.publish(device, &link, tree).await).await {
        Ok(Switched::Yes) => Ok(Ok(Ok(link))),
        Ok(other) => Ok(Ok(Err(other))),
        Err(error) if error.is_broken() => Err(error),
        Err(error) => Ok(Err(error.into())),
    }
}

/// Runs the driver, and tells it when the frontend or the toolstack wants to end.
async fn run<B: Backend>(
    device: &Device,
    clock: &impl Clock,
    watches: &mut Watches,
    driver: &mut B,
    link: B::Link,
) -> Result<(Result<(), Failure>, Option<Seen>), Error> {
    let signals = Signals::default();
    let monitor = async {
        loop {
            match look(device, BackendStage::Up).await? {
                Seen::Step(BackendStep::Wait | BackendStep::Connect | BackendStep::Reopen) => signals.change(),
                seen => return Ok::<Seen, Error>(seen),
            }
            watches.next(device, clock).await?;
        }
    };
    attend(&signals, driver.run(device, link, &signals), monitor).await
}

/// The closing handshake, from this end.
async fn close(device: &Device, watches: &mut Watches, clock: &impl Clock) -> Result<(), Error> {
    if device.switch(State::Closing).await? == Switched::Yes {
        let done = |state| {
            matches!(backend_step(BackendStage::Closing, state, true, false), BackendStep::Close | BackendStep::Leave)
        };
        watches.until(device, clock, done).await?;
        // What became of it shows at the next look.
        let _ = device.switch(State::Closed).await?;
    }
    Ok(())
}

/// Reports what makes the device unusable, and closes it; or says how its life has ended: what a driver finds wrong with
/// a device that was taken away meanwhile is no failure.
async fn give_up(
    device: &Device,
    watches: &mut Watches,
    clock: &impl Clock,
    failure: &Failure,
) -> Result<Option<Life>, Error> {
    if let Seen::Life(life) = look(device, BackendStage::Up).await? {
        return Ok(Some(life));
    }
    device.report(failure).await?;
    if device.last() != State::Closed {
        close(device, watches, clock).await?;
    }
    Ok(None)
}
