//! A file of the server that this end knows by a number, and how it is reached.

use xenbus::Handle;

use super::fids::ROOT;
use super::requests::Answer;
use super::shared::{Session, Shared};
use super::{Error, error::is_unknown};
use crate::protocol::{MAX_NAMES, Message, NamesBuf, QTDIR, QTSYMLINK, Qid, TooLong};
use xen_hal::Errno;

/// A fid that is given back when it is dropped.
pub(super) struct Fid {
    pub(super) shared: Handle<Shared>,
    pub(super) session: Session,
    number: u32,
    /// It lasts no longer than one call of the user's.
    passing: bool,
}

impl Fid {
    fn new(shared: &Handle<Shared>, session: Session, number: u32) -> Fid {
        shared.requests.fids.add_passing(1);
        Fid { shared: shared.clone(), session, number, passing: true }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// The same, for a user who holds it as long as he likes.
    pub(super) fn keep(mut self) -> Fid {
        self.pass();
        self
    }

    /// Of a user's call again, which needs no further one: whoever waits for a fid may wait for this.
    pub(super) fn lend(&mut self) {
        if !core::mem::replace(&mut self.passing, true) {
            self.shared.requests.fids.add_passing(1);
        }
    }

    fn pass(&mut self) {
        if core::mem::take(&mut self.passing) {
            self.shared.requests.fids.add_passing(-1);
        }
    }

    pub(super) async fn call(&self, message: &Message<'_>) -> Result<Answer, Error> {
        self.shared.call(self.session, message).await
    }

    /// Gives it back, and waits until the server has done so.
    pub(super) async fn clunk(mut self) -> Result<(), Error> {
        let outcome = self.call(&Message::Tclunk { fid: self.number }).await;
        self.forget();
        outcome.map(drop)
    }

    /// Has the server remove the file, by a request that gives the fid back too, whatever becomes of it.
    pub(super) async fn remove(mut self) -> Result<(), Error> {
        let outcome = self.call(&Message::Tremove { fid: self.number }).await;
        if !outcome.as_ref().is_err_and(is_unknown) {
            self.forget();
        }
        outcome.map(drop)
    }

    /// The server knows it no more.
    fn forget(&mut self) {
        if self.shared.status.info().is_some_and(|now| now.number == self.session.number) {
            self.shared.requests.fids.free(self.number);
        }
        self.number = ROOT;
    }
}

impl Drop for Fid {
    fn drop(&mut self) {
        self.pass();
        if self.number != ROOT {
            self.shared.release(self.session.number, self.number);
        }
        // Who waits for it to be given back is to look whether that is still so.
        self.shared.requests.changes.wake_all();
    }
}

/// Makes a fid of what is found from another one by names. `holding` says how many fids the caller has for this call already.
pub(super) async fn walk(
    shared: &Handle<Shared>,
    session: Session,
    from: u32,
    names: &[&[u8]],
    holding: usize,
) -> Result<(Fid, Option<Qid>), Error> {
    let mut pieces = names.chunks(MAX_NAMES);
    let first = pieces.next().unwrap_or_default();
    let (number, mut qid) = first_walk(shared, session, from, first, holding).await?;
    let fid = Fid::new(shared, session, number);
    for piece in pieces {
        qid = step(shared, session, number, number, piece).await?;
    }
    Ok((fid, qid))
}

/// xen-9pfsd has five fids at a time unless it is told otherwise: where those that soon come back would do, waits for them.
async fn first_walk(
    shared: &Handle<Shared>,
    session: Session,
    from: u32,
    names: &[&[u8]],
    holding: usize,
) -> Result<(u32, Option<Qid>), Error> {
    struct Stuck<'a>(&'a Shared, isize);
    impl Drop for Stuck<'_> {
        fn drop(&mut self) {
            self.0.requests.fids.add_stuck(-self.1);
            self.0.requests.changes.wake_all();
        }
    }
    let requests = &shared.requests;
    loop {
        let before = requests.count_clunks();
        // Another number each time: that of a walk that has failed may be somebody else's by now.
        let number = shared.requests.fids.alloc();
        let refused = match step(shared, session, from, number, names).await {
            Err(error @ Error::Refused(Errno::EMFILE)) => error,
            outcome => return outcome.map(|qid| (number, qid)),
        };
        let held = isize::try_from(holding).unwrap_or(0);
        requests.fids.add_stuck(held);
        let _stuck = Stuck(shared, held);
        requests.changes.wake_all();
        let (clunks, moving) = (requests.count_clunks(), requests.fids.count_moving());
        if before.max(clunks) + moving == 0 {
            return Err(refused);
        }
        // Until one of them has come back.
        requests
            .changes
            .wait_until(|| {
                let (clunks_now, moving_now) = (requests.count_clunks(), requests.fids.count_moving());
                (clunks_now + moving_now < clunks + moving || clunks_now + moving_now == 0).then_some(())
            })
            .await;
    }
}

async fn step(
    shared: &Handle<Shared>,
    session: Session,
    fid: u32,
    newfid: u32,
    names: &[&[u8]],
) -> Result<Option<Qid>, Error> {
    let encoded = NamesBuf::new(names.iter().copied()).map_err(|TooLong| Error::TooLong { msize: session.msize })?;
    let answer = shared.call(session, &Message::Twalk { fid, newfid, names: encoded.names() }).await;
    let answer = answer.map_err(|error| if error.is_not_found() { Error::NotFound } else { error })?;
    let Message::Rwalk { qids } = answer.message()? else { return Err(Error::Garbage) };
    let last = qids.iter().next_back();
    if qids.len() == names.len() {
        return Ok(last);
    }
    Err(match last {
        Some(qid) if qid.kind & QTSYMLINK != 0 => Error::SymbolicLink,
        Some(qid) if qid.kind & QTDIR == 0 => Error::NotADirectory,
        _ => Error::NotFound,
    })
}
