//! A frontend's life.

use core::time::Duration;

use xen_hal::Clock;

use super::backoff::Backoff;
use super::device::{Device, Ended, Failure, Switched, Watches};
use super::signals::{Signals, attend};
use super::state::{End, FrontendStage, FrontendStep, State, frontend_step};
use crate::{Error, Store, Tree};

/// What a driver does for its end of a device that another domain provides.
///
/// # Cancellation
///
/// The futures may be dropped at any time: what they share with the backend ends with them.
#[allow(async_fn_in_trait, reason = "one core: no future has to be `Send`")]
pub trait Frontend {
    /// The state that says that rings are published: [`State::Initialised`] for block devices,
    /// [`State::Connected`] for network devices.
    const OFFERED: State;
    /// What is lent to the backend: rings, ports. Dropping it takes all of it back.
    type Offer;

    /// Reads what the backend can do, and makes rings and ports for it.
    ///
    /// # Errors
    ///
    /// What makes the device unusable.
    async fn offer(&mut self, device: &Device) -> Result<Self::Offer, Failure>;

    /// Writes where they are. This runs in the transaction that also changes the state, and perhaps more than once.
    ///
    /// # Errors
    ///
    /// What the store says.
    async fn publish(&mut self, device: &Device, offer: &Self::Offer, tree: &Tree) -> Result<(), Error>;

    /// The backend is connected: reads what it provides, before this end says that it is connected too.
    ///
    /// # Errors
    ///
    /// What makes the device unusable.
    async fn accept(&mut self, device: &Device, offer: &mut Self::Offer) -> Result<(), Failure>;

    /// Uses the device until [`Signals::closing`], or for as long as there is somebody to use it. What was lent is
    /// given back before it returns.
    ///
    /// # Errors
    ///
    /// What makes the device unusable from here on: a backend that breaks the protocol.
    async fn run(&mut self, device: &Device, offer: Self::Offer, signals: &Signals) -> Result<(), Failure>;

    /// There is no backend that could be used, and may never be one again: nobody should wait for it. May be called
    /// several times; a backend that comes after all is offered to as any other.
    fn lost(&mut self);
}

/// How one life of a device went.
enum Life {
    Removed,
    Stopped,
    /// The directories are new: the toolstack has made the device again, or the domain was restored.
    Again,
}

/// What the monitor saw while the device was in use.
enum Seen {
    Closing,
    Life(Life),
}

/// Leads a frontend's driver through the life of the device at `path`, such as `device/vbd/51712`: connects, answers the
/// backend's wish to close, and connects again to a backend that comes back, until the device is removed or the driver
/// has had enough. A backend that comes and goes without end has to wait, as with [`backend()`](super::backend()).
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
) -> Result<Ended, Error> {
    let mut backoff = Backoff::default();
    loop {
        let Some(device) = Device::open(store, End::Frontend, path).await? else { return Ok(Ended::Removed) };
        match live(&device, &clock, driver, &mut backoff).await? {
            Life::Removed => return Ok(Ended::Removed),
            Life::Stopped => return Ok(Ended::Stopped),
            Life::Again => {}
        }
    }
}

async fn live<F: Frontend>(
    device: &Device,
    clock: &impl Clock,
    driver: &mut F,
    backoff: &mut Backoff,
) -> Result<Life, Error> {
    device.set_quiet(backoff.is_throttled());
    let mut watches = Watches::new(device).await?;
    let generation = device.store().generation();
    // Left over from an earlier driver.
    if device.last() != State::Initialising {
        for state in [State::Closed, State::Initialising] {
            if let Some(life) = reach(device, state).await? {
                return Ok(life);
            }
        }
    }
    let mut stage = FrontendStage::Fresh;
    let mut offer: Option<F::Offer> = None;
    // When the pause before the next connection ends: one that the backend has asked for, and one that it has not.
    let (mut resume, mut resume_unasked): (Option<Duration>, Option<Duration>) = (None, None);
    loop {
        let state = match look(device, generation, stage).await? {
            Ok(state) => state,
            Err(life) => return Ok(life),
        };
        match frontend_step(stage, state) {
            FrontendStep::Wait => {
                if stage == FrontendStage::Closed && state.is_none() {
                    driver.lost();
                }
                // A backend that was taken from the device and given back may have seen this end's old state, and
                // closed again: it is for this end to begin.
                let again = stage == FrontendStage::Closed && state == Some(State::Closed) && is_online(device).await?;
                if !again {
                    watches.next(device, clock).await?;
                    continue;
                }
                let at = *resume_unasked.get_or_insert_with(|| pause(device, clock, backoff, Backoff::again_unasked));
                if !watches.next_before(device, clock, at).await? {
                    return Ok(reach(device, State::Initialising).await?.unwrap_or(Life::Again));
                }
            }
            FrontendStep::Offer => match make_offer(device, driver).await? {
                Ok(Ok(made)) => {
                    offer = Some(made);
                    stage = FrontendStage::Offered;
                }
                Ok(Err(life)) => return Ok(life),
                Err(failure) => {
                    if let Some(life) = give_up(device, generation, &mut watches, clock, driver, &failure).await? {
                        return Ok(life);
                    }
                    stage = FrontendStage::Closed;
                }
            },
            FrontendStep::Finish => {
                let Some(made) = offer.take() else { return Ok(Life::Again) };
                backoff.up(clock.now());
                let outcome = use_device(device, clock, generation, &mut watches, driver, made).await?;
                backoff.down(clock.now());
                let ended = match outcome {
                    (_, Some(Seen::Life(life))) => return Ok(life),
                    (Ok(()), Some(Seen::Closing)) => reach(device, State::Closed).await?,
                    (Ok(()), None) => {
                        close(device, &mut watches, clock).await?;
                        Some(Life::Stopped)
                    }
                    (Err(failure), _) => give_up(device, generation, &mut watches, clock, driver, &failure).await?,
                };
                if let Some(life) = ended {
                    return Ok(life);
                }
                stage = FrontendStage::Closed;
            }
            FrontendStep::Close => {
                offer = None;
                if let Some(life) = reach(device, State::Closed).await? {
                    return Ok(life);
                }
                stage = FrontendStage::Closed;
            }
            FrontendStep::Reopen => {
                let at = *resume.get_or_insert_with(|| pause(device, clock, backoff, Backoff::again));
                if clock.now() >= at {
                    return Ok(reach(device, State::Initialising).await?.unwrap_or(Life::Again));
                }
                // What the backend does meanwhile shows at the end.
                watches.own_before(device, clock, at).await?;
            }
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
    if backoff.is_throttled() {
        device.announce_pause(backoff.count(), pause);
    }
    clock.now().saturating_add(pause)
}

/// Goes to a state; or says how this life ends, where that could not be.
async fn reach(device: &Device, state: State) -> Result<Option<Life>, Error> {
    Ok(match device.switch(state).await? {
        Switched::Yes => None,
        Switched::No => Some(Life::Again),
        Switched::Gone => Some(Life::Removed),
    })
}

/// The backend's state; or how this life ends, where this end's directory is gone or another one.
async fn look(device: &Device, generation: u32, stage: FrontendStage) -> Result<Result<Option<State>, Life>, Error> {
    let Some(own) = device.state().await? else { return Ok(Err(Life::Removed)) };
    // Nobody but the toolstack writes it.
    if own != device.last() || device.store().generation() != generation {
        return Ok(Err(Life::Again));
    }
    let state = device.other_state().await?;
    // A backend's directory that is gone may be another one by now.
    if state.is_none() && stage == FrontendStage::Fresh && is_renamed(device).await? {
        return Ok(Err(Life::Again));
    }
    Ok(Ok(state))
}

/// Whether the toolstack wants the device to stay, as far as the backend lets this domain see.
async fn is_online(device: &Device) -> Result<bool, Error> {
    match device.get_other::<bool>("online").await {
        Err(error) if error.is_broken() => Err(error),
        other => Ok(other.unwrap_or(None).unwrap_or(false)),
    }
}

async fn is_renamed(device: &Device) -> Result<bool, Error> {
    let now = Device::open(device.store(), End::Frontend, device.path()).await?;
    Ok(now.is_some_and(|now| now.other_path() != device.other_path()))
}

async fn make_offer<F: Frontend>(
    device: &Device,
    driver: &mut F,
) -> Result<Result<Result<F::Offer, Life>, Failure>, Error> {
    let offer = match driver.offer(device).await {
        Ok(offer) => offer,
        Err(failure) => return Ok(Err(failure)),
    };
    match device.switch_with(F::OFFERED, async |tree| driver.publish(device, &offer, tree).await).await {
        Ok(Switched::Yes) => Ok(Ok(Ok(offer))),
        Ok(Switched::No) => Ok(Ok(Err(Life::Again))),
        Ok(Switched::Gone) => Ok(Ok(Err(Life::Removed))),
        Err(error) if error.is_broken() => Err(error),
        Err(error) => Ok(Err(error.into())),
    }
}

/// Accepts what the backend provides, and runs the driver.
async fn use_device<F: Frontend>(
    device: &Device,
    clock: &impl Clock,
    generation: u32,
    watches: &mut Watches,
    driver: &mut F,
    mut offer: F::Offer,
) -> Result<(Result<(), Failure>, Option<Seen>), Error> {
    if let Err(failure) = driver.accept(device, &mut offer).await {
        return Ok((Err(failure), None));
    }
    match reach(device, State::Connected).await? {
        Some(life) => Ok((Ok(()), Some(Seen::Life(life)))),
        None => run(device, clock, generation, watches, driver, offer).await,
    }
}

/// Runs the driver, and tells it when the backend wants to end, or is gone.
async fn run<F: Frontend>(
    device: &Device,
    clock: &impl Clock,
    generation: u32,
    watches: &mut Watches,
    driver: &mut F,
    offer: F::Offer,
) -> Result<(Result<(), Failure>, Option<Seen>), Error> {
    let signals = Signals::default();
    let monitor = async {
        loop {
            match look(device, generation, FrontendStage::Up).await? {
                Err(life) => {
                    signals.lose();
                    return Ok::<Seen, Error>(Seen::Life(life));
                }
                // It still answers what it was asked, unless it goes away meanwhile.
                Ok(Some(State::Closing)) => signals.close(),
                Ok(state) if frontend_step(FrontendStage::Up, state) == FrontendStep::Close => {
                    signals.lose();
                    return Ok(Seen::Closing);
                }
                Ok(_) => signals.change(),
            }
            watches.next(device, clock).await?;
        }
    };
    let (outcome, seen) = attend(&signals, driver.run(device, offer, &signals), monitor).await?;
    Ok((outcome, seen.or_else(|| signals.is_closing().then_some(Seen::Closing))))
}

/// The closing handshake, from this end.
async fn close(device: &Device, watches: &mut Watches, clock: &impl Clock) -> Result<(), Error> {
    if device.switch(State::Closing).await? == Switched::Yes {
        let stage = FrontendStage::Closing;
        watches.until(device, clock, |state| frontend_step(stage, state) == FrontendStep::Close).await?;
        // What became of it shows at the next look.
        let _ = device.switch(State::Closed).await?;
    }
    Ok(())
}

/// Reports what makes the device unusable, and closes it; or says how its life has ended: what a driver finds wrong with
/// a device that was taken away meanwhile, as by a restore, is no failure.
async fn give_up<F: Frontend>(
    device: &Device,
    generation: u32,
    watches: &mut Watches,
    clock: &impl Clock,
    driver: &mut F,
    failure: &Failure,
) -> Result<Option<Life>, Error> {
    if let Err(life) = look(device, generation, FrontendStage::Fresh).await? {
        return Ok(Some(life));
    }
    driver.lost();
    device.report(failure).await?;
    close(device, watches, clock).await?;
    Ok(None)
}
