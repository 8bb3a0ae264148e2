//! The task that owns the ring.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Context, Poll};
use core::time::Duration;

use xen_hal::{Clock, Port, StoreChannel, warning};
use xen_ring::{ByteReader, ByteWriter, SharedPage};

use super::error::Broken;
use super::link::{Link, Phase};
use crate::wire::offsets::{CONNECTION, ERROR, REPLIES, REQUESTS, SERVER_FEATURES};
use crate::wire::{Features, HEADER_SIZE, Header, RingError};

/// Rounds in one poll: other tasks are to have their turn, whatever the server sends.
const MAX_ROUNDS: usize = 32;
/// New connections that are asked for at once, and then one more each time that so long has passed: a server that is
/// restarted needs one. Whether any of them has worked does not count, as a server can make it look so.
const MAX_RECONNECTIONS: u32 = 8;
const RECONNECTION_INTERVAL: Duration = Duration::from_secs(60);

/// The task that talks to the store; see [`connect`](crate::connect).
#[must_use = "nothing is sent unless it runs"]
pub struct Runner<C: StoreChannel, K: Clock> {
    channel: C,
    clock: K,
    link: Rc<Link>,
    connection: Option<Connection<C>>,
    /// Bytes of a packet that is not all there yet.
    incoming: Vec<u8>,
    /// When all new connections that were asked for are forgotten.
    forgotten: Duration,
}

struct Connection<C: StoreChannel> {
    page: SharedPage<C::Page>,
    port: C::Port,
    features: Features,
    /// `None` while the server is asked for a new connection.
    ends: Option<(ByteReader, ByteWriter)>,
}

impl<C: StoreChannel> Connection<C> {
    fn new(page: C::Page, port: C::Port) -> Self {
        let page = SharedPage::new(page);
        let features = Features(page.load(SERVER_FEATURES));
        Connection { page, port, features, ends: None }
    }

    /// Whether the server has asked to wait: nothing in the page means anything until then.
    fn is_pending(&self) -> bool {
        self.features.offers(Features::RECONNECTION) && self.page.load(CONNECTION) != 0
    }

    /// Takes up the ring where its indices are.
    fn open(&mut self) -> Result<(), Broken> {
        let reader = REPLIES.reader(&self.page).map_err(|error| Broken::index(false, error))?;
        let writer = REQUESTS.writer(&self.page).map_err(|error| Broken::index(true, error))?;
        self.ends = Some((reader, writer));
        Ok(())
    }
}

impl<C: StoreChannel, K: Clock> Runner<C, K> {
    pub(super) fn new(channel: C, clock: K, page: C::Page, port: C::Port, link: Rc<Link>) -> Self {
        let connection = Connection::new(page, port);
        link.state.borrow_mut().features = connection.features;
        Runner { channel, clock, link, connection: Some(connection), incoming: Vec::new(), forgotten: Duration::ZERO }
    }

    /// Talks to the store until the last handle is gone, or the connection breaks for good.
    ///
    /// # Errors
    ///
    /// Why it broke; handles are told too.
    ///
    /// # Cancellation
    ///
    /// Dropping the future cuts the domain off from the store: whoever waits for an answer learns so.
    pub async fn run(mut self) -> Result<(), Broken> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        for _ in 0..MAX_ROUNDS {
            self.link.register_runner(cx.waker());
            match self.round() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(broken) => match self.reconnect(broken) {
                    true => continue,
                    false => {
                        warning!("store: {}", broken);
                        self.link.fail(broken);
                        return Poll::Ready(Err(broken));
                    }
                },
            }
            if Rc::strong_count(&self.link) == 1 && self.link.is_idle() {
                return Poll::Ready(Ok(()));
            }
            let Some(connection) = &self.connection else { return Poll::Pending };
            if connection.port.poll_wait(cx).is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves what can be moved; `false` where nothing could.
    fn round(&mut self) -> Result<bool, Broken> {
        let phase = self.link.state.borrow().phase;
        match phase {
            Phase::Broken(broken) => return Err(broken),
            Phase::Restart => {
                // The old port goes first: its number may be the new one's.
                self.connection = None;
                let (page, port) = self.channel.open_store().ok_or(Broken::Absent)?;
                self.connection = Some(Connection::new(page, port));
                self.link.state.borrow_mut().phase = Phase::Up;
                self.renew();
            }
            Phase::Up | Phase::Quiesced => {}
        }
        let Some(connection) = &mut self.connection else { return Err(Broken::Absent) };
        if connection.ends.is_none() {
            if connection.is_pending() {
                return Ok(false);
            }
            connection.open()?;
        }
        // What the server has said before it stopped talking still counts.
        let read = self.receive()?;
        if let Some(Connection { page, features, .. }) = &self.connection
            && features.offers(Features::ERROR)
            && let Some(error) = RingError::from_number(page.load(ERROR))
        {
            return Err(Broken::Server(error));
        }
        let written = self.send()?;
        Ok(read || written)
    }

    fn send(&mut self) -> Result<bool, Broken> {
        let Some(Connection { page, port, ends: Some((_, writer)), .. }) = &mut self.connection else {
            return Ok(false);
        };
        let mut bytes = [0; REQUESTS.size as usize];
        let len = self.link.next_bytes(&mut bytes);
        let moved = writer.write(page, &bytes[..len]).map_err(|error| Broken::index(true, error))?;
        if moved.notify {
            port.notify();
        }
        self.link.sent(moved.bytes);
        Ok(moved.bytes > 0)
    }

    fn receive(&mut self) -> Result<bool, Broken> {
        let Some(Connection { page, port, ends: Some((reader, _)), .. }) = &mut self.connection else {
            return Ok(false);
        };
        let mut bytes = [0; REPLIES.size as usize];
        let moved = reader.read(page, &mut bytes).map_err(|error| Broken::index(false, error))?;
        if moved.notify {
            port.notify();
        }
        self.incoming.extend_from_slice(&bytes[..moved.bytes]);
        let mut rest = &self.incoming[..];
        while let Some((header, after)) = rest.split_first_chunk::<HEADER_SIZE>() {
            let header = Header::from_bytes(header);
            let len = header.payload_len().ok_or(Broken::Oversized { len: header.len, op: header.op })?;
            let Some((payload, after)) = after.split_at_checked(len) else { break };
            self.link.deliver(header, payload);
            rest = after;
        }
        let left = rest.len();
        self.incoming.drain(..self.incoming.len() - left);
        Ok(moved.bytes > 0)
    }

    /// Asks the server for a new connection, where it offers that and the old one is beyond use.
    fn reconnect(&mut self, broken: Broken) -> bool {
        if matches!(broken, Broken::Absent | Broken::Stopped) {
            return false;
        }
        let Some(connection) = &mut self.connection else { return false };
        let now = self.clock.now();
        let forgotten = self.forgotten.max(now) + RECONNECTION_INTERVAL;
        if !connection.features.offers(Features::RECONNECTION)
            || forgotten > now + MAX_RECONNECTIONS * RECONNECTION_INTERVAL
        {
            return false;
        }
        self.forgotten = forgotten;
        warning!("store: {}; asking for a new connection", broken);
        connection.ends = None;
        connection.page.store(CONNECTION, 1);
        connection.port.notify();
        self.renew();
        true
    }

    fn renew(&mut self) {
        self.incoming.clear();
        let features = self.connection.as_ref().map_or(Features::default(), |connection| connection.features);
        self.link.renew(features);
    }
}

impl<C: StoreChannel, K: Clock> Drop for Runner<C, K> {
    fn drop(&mut self) {
        self.link.fail(Broken::Stopped);
    }
}
