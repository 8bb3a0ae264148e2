//! The connection to dom0's daemon, again and again.

use alloc::rc::Rc;
use alloc::vec;
use core::fmt;
use core::future::{pending, poll_fn};
use core::pin::pin;
use core::time::Duration;

use futures_util::future::{Either, select};
use xen_hal::{DomId, Xen, information, warning};
use xen_vchan::{Channel, Client, ReadHalf, SetupError};
use xenbus::RateLimit;
use xenstore_client::Store;

use super::state::{Event, ProtocolError};
use super::wire::{Decoder, Kind, Message, WireError};
use super::{Options, Shared};
use crate::waiting::within;

/// Connections that are made at once, and how often after these.
const CONNECTIONS_AT_ONCE: u32 = 4;
const CONNECTION_INTERVAL: Duration = Duration::from_secs(5);
/// How long the daemon may take for the next part of a copy, for an answer, or until it reads.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Runner<X: Xen> {
    xen: X,
    server: DomId,
    client: Client<X>,
    shared: Rc<Shared>,
}

impl<X: Xen> Runner<X> {
    pub(super) fn new(xen: X, store: &Store, options: &Options, shared: Rc<Shared>) -> Runner<X> {
        let client = Client::new(xen.clone(), store, options.server, options.port);
        Runner { xen, server: options.server, client, shared }
    }

    pub(super) async fn run(self) {
        let mut connections = RateLimit::new(CONNECTIONS_AT_ONCE, CONNECTION_INTERVAL);
        let working = pin!(async {
            loop {
                self.xen.sleep_until(connections.next()).await;
                connections.take(self.xen.now());
                let stop = self.connect().await;
                self.shared.replica.borrow_mut().disconnect();
                self.take_events();
                self.log(&stop);
            }
        });
        let unused = poll_fn(|cx| self.shared.poll_unused(cx));
        select(working, unused).await;
    }

    async fn connect(&self) -> Stop {
        let channel = match self.client.connect().await {
            Ok(channel) => channel,
            Err(error) => return Stop::Setup(error),
        };
        match self.serve(channel).await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    async fn serve(&self, channel: Channel<X>) -> Result<core::convert::Infallible, Stop> {
        let (mut reader, mut writer) = channel.split();
        let (mut decoder, mut bytes) = (Decoder::default(), vec![0; 4096]);
        let mut last = self.xen.now();
        self.shared.replica.borrow_mut().connect();
        loop {
            while let Some(message) = self.next_to_send() {
                let is_request = message.kind != Kind::Ok && message.kind != Kind::Error;
                let message = message.encode()?;
                // The daemon waits for the rest of a message that it has a part of.
                within(&self.xen, PATIENCE, writer.write_message(&message)).await.ok_or(Stop::Silent)??;
                if is_request {
                    last = self.xen.now();
                }
            }
            match self.wait(&mut reader, &mut bytes, last).await? {
                Some(0) => return Err(Stop::Closed),
                Some(len) => {
                    decoder.push(&bytes[..len]);
                    if self.shared.replica.borrow().is_copying() {
                        last = self.xen.now();
                    }
                }
                None => {}
            }
            while let Some(message) = decoder.next_message()? {
                let outcome = self.shared.replica.borrow_mut().receive(message);
                self.take_events();
                outcome?;
            }
        }
    }
    /// Waits for something to read, or to send.
    async fn wait(&self, reader: &mut ReadHalf<X>, to: &mut [u8], last: Duration) -> Result<Option<usize>, Stop> {
        let working = poll_fn(|cx| self.shared.work.poll_notified(cx));
        match select(pin!(reader.read(to)), select(pin!(working), pin!(self.silence(last)))).await {
            Either::Left((len, _)) => Ok(Some(len?)),
            Either::Right((Either::Left(_), _)) => Ok(None),
            Either::Right((Either::Right(_), _)) => Err(Stop::Silent),
        }
    }

    fn next_to_send(&self) -> Option<Message> {
        let message = self.shared.replica.borrow_mut().next_to_send();
        // A removal of nothing is over without being sent.
        self.take_events();
        message
    }

    /// Waits until the daemon has been silent for too long where something is due from it.
    async fn silence(&self, last: Duration) {
        let is_due = {
            let replica = self.shared.replica.borrow();
            replica.is_copying() || replica.is_waiting()
        };
        if is_due { self.xen.sleep_until(last.saturating_add(PATIENCE)).await } else { pending().await }
    }

    fn take_events(&self) {
        loop {
            let Some(event) = self.shared.replica.borrow_mut().next_event() else { return };
            let shared = &*self.shared;
            match event {
                Event::Changed(change) => shared.watches.changed(&change),
                Event::Copied(differences) => {
                    shared.is_ready.set(true);
                    shared.watches.copied(&differences);
                    shared.waiters.wake();
                    if shared.lines.borrow_mut().allows(self.xen.now()) {
                        information!("QubesDB: connected to {}", self.server);
                    }
                }
                Event::Answered(id, outcome) => {
                    shared.answer(id, outcome);
                    shared.waiters.wake();
                }
                Event::NoRoom(path) => {
                    if !shared.has_warned_of_room.replace(true) {
                        warning!("QubesDB: no room for {} and perhaps others; see max_entries and max_bytes", path);
                    }
                }
                Event::Refused(path) => {
                    if shared.lines.borrow_mut().allows(self.xen.now()) {
                        warning!("QubesDB: {} sends an invalid change of \"{}\"", self.server, path);
                    }
                }
            }
        }
    }

    fn log(&self, stop: &Stop) {
        if self.shared.lines.borrow_mut().allows(self.xen.now()) {
            warning!("QubesDB: {}: {}; connecting again", self.server, stop);
        }
    }
}

impl<X: Xen> Drop for Runner<X> {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// Why a connection has ended, or there was none.
#[derive(Debug)]
enum Stop {
    Setup(SetupError),
    Channel(xen_vchan::Error),
    Wire(WireError),
    Protocol(ProtocolError),
    Closed,
    Silent,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Setup(error) => error.fmt(f),
            Stop::Channel(error) => error.fmt(f),
            Stop::Wire(error) => error.fmt(f),
            Stop::Protocol(error) => error.fmt(f),
            Stop::Closed => f.write_str("the daemon has closed the vchan"),
            Stop::Silent => write!(f, "no answer from the daemon for {} s", PATIENCE.as_secs()),
        }
    }
}

impl From<xen_vchan::Error> for Stop {
    fn from(error: xen_vchan::Error) -> Self {
        Stop::Channel(error)
    }
}

impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        Stop::Wire(error)
    }
}

impl From<ProtocolError> for Stop {
    fn from(error: ProtocolError) -> Self {
        Stop::Protocol(error)
    }
}
