//! Why a step of a device's life leads no further.

use xenstore_client::Error;

use crate::failure::{EndReason, Failure};

/// Why a step of a device's life leads no further. What is to be done about it is decided in one place for each end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The device's life is over.
    Ended(EndReason),
    /// The directories are new: the toolstack has made the device again, or the domain was restored.
    Again,
    /// The other end closes, or is gone: this end lets go, and is [`State::Closed`](crate::State::Closed).
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
    pub(crate) fn end(self) -> Option<Result<EndReason, Error>> {
        match self {
            Stop::Ended(ended) => Some(Ok(ended)),
            Stop::Store(error) => Some(Err(error)),
            Stop::Again | Stop::Closing | Stop::Leaving | Stop::Failed(_) => None,
        }
    }
}
