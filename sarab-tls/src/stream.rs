//! A connection: records in, records out.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use embedded_io_async::{ErrorType, Read, Write};
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};

use crate::Error;
use crate::record::{self, Step, Wish};
use crate::turn::Turn;

/// Longest record: 16 KiB, and what TLS 1.2 allows a cipher to add (RFC 5246 section 6.2.3).
const MAX_RECORD: usize = 5 + (16 << 10) + 2048;
/// What is read at once, as long as records are small.
const SMALL: usize = 2048;

/// What one connection may take.
///
/// Memory that a connection holds, at most: what comes, `max(handshake, 18 KiB)`, or 2 KiB while nothing is under way; a record that
/// was decrypted and not read, 16 KiB; what was encrypted and not sent, `2 * record` and some hundred bytes; and some 10 KiB of
/// keys and state, as long as the handshake takes up to three times the certificate chain more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes that the other end may send until the handshake is over.
    pub handshake: usize,
    /// Longest record that is sent, in bytes of plaintext: 512 to 16384.
    pub record: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { handshake: 32 << 10, record: 16 << 10 }
    }
}

impl Limits {
    /// The same for rustls, which counts the record's header.
    pub(crate) fn fragment(&self) -> usize {
        self.record.clamp(512, 16 << 10) + 5
    }
}

pub(crate) enum Connection {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

impl Connection {
    fn state(&self) -> &CommonState {
        match self {
            Connection::Server(connection) => connection,
            Connection::Client(connection) => connection,
        }
    }
}

/// A connection protected by TLS, over the transport `T`.
///
/// It is a stream of bytes: [`Read`] and [`Write`]. What is written is encrypted at once and sent when a record is full, at
/// [`flush`](Write::flush), and while something is read. [`close`](TlsStream::close) tells the other end that no more comes; without
/// that it has to believe that it was cut off.
///
/// Reading returns 0 where the other end has said that no more comes, and [`Error::Truncated`] where it just ended.
pub struct TlsStream<T> {
    transport: T,
    connection: Connection,
    /// What has come: so many bytes of it.
    incoming: Vec<u8>,
    filled: usize,
    /// A record's plaintext, read so far.
    plain: Vec<u8>,
    taken: usize,
    /// What is to be sent, sent so far.
    outgoing: Vec<u8>,
    sent: usize,
    record: usize,
    /// So much may `incoming` hold.
    limit: usize,
    peer_closed: bool,
    closed: bool,
    failed: Option<Failed>,
    turn: Turn,
}

/// Why there is nothing more to be had.
#[derive(Clone)]
enum Failed {
    Protocol(rustls::Error),
    Truncated,
    TooLong(usize),
}

impl<E> From<Failed> for Error<E> {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Protocol(error) => Error::Protocol(error),
            Failed::Truncated => Error::Truncated,
            Failed::TooLong(most) => Error::TooLong(most),
        }
    }
}

impl<T: Read + Write> TlsStream<T> {
    /// Does the handshake.
    pub(crate) async fn begin(transport: T, connection: Connection, limits: &Limits) -> Result<Self, Error<T::Error>> {
        let mut stream = TlsStream {
            transport,
            connection,
            incoming: Vec::new(),
            filled: 0,
            plain: Vec::new(),
            taken: 0,
            outgoing: Vec::new(),
            sent: 0,
            record: limits.record.clamp(512, 16 << 10),
            limit: limits.handshake,
            peer_closed: false,
            closed: false,
            failed: None,
            turn: Turn::default(),
        };
        // Boxed: the future of a handshake is not to be part of every connection's.
        Box::pin(stream.handshake(limits.handshake)).await?;
        stream.limit = MAX_RECORD;
        Ok(stream)
    }

    async fn handshake(&mut self, most: usize) -> Result<(), Error<T::Error>> {
        let mut received = 0;
        loop {
            let step = self.step(Wish::Nothing).await?;
            let over = !self.connection.state().is_handshaking();
            match step {
                // What comes last, such as tickets, is still to be sent.
                Step::Again if !over => self.turn.count(1).await,
                Step::Again => {}
                _ if over => return self.send().await,
                Step::Wait => {
                    self.send().await?;
                    received += self.receive().await?;
                    if received > most {
                        return Err(self.fail(Failed::TooLong(most)));
                    }
                }
                // Before the handshake is over nobody says goodbye.
                Step::Data | Step::PeerClosed | Step::Closed => return Err(self.fail(Failed::Truncated)),
            }
        }
    }

    /// One step of rustls'. Where it fails, the other end is told why.
    async fn step(&mut self, wish: Wish<'_>) -> Result<Step, Error<T::Error>> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone().into());
        }
        match self.advance(wish) {
            Ok(step) => Ok(step),
            Err(error) => {
                self.give_up(error.clone());
                // Whether that arrives does not change why it failed.
                if self.send().await.is_ok() {
                    let _ = self.transport.flush().await;
                }
                Err(Error::Protocol(error))
            }
        }
    }

    fn advance(&mut self, wish: Wish<'_>) -> Result<Step, rustls::Error> {
        let (incoming, plain, outgoing) = (&mut self.incoming[..self.filled], &mut self.plain, &mut self.outgoing);
        let (used, step) = match &mut self.connection {
            Connection::Server(connection) => {
                record::take(connection.process_tls_records(incoming), plain, outgoing, wish)
            }
            Connection::Client(connection) => {
                record::take(connection.process_tls_records(incoming), plain, outgoing, wish)
            }
        };
        self.incoming.copy_within(used..self.filled, 0);
        self.filled -= used;
        step
    }

    /// After rustls has failed: what it has to say about it, and no more. It is not to look at the same record again.
    fn give_up(&mut self, error: rustls::Error) {
        self.failed = Some(Failed::Protocol(error));
        while self.connection.state().wants_write() && self.advance(Wish::Nothing).is_ok() {}
    }

    fn fail(&mut self, failed: Failed) -> Error<T::Error> {
        self.failed = Some(failed.clone());
        failed.into()
    }

    /// Waits for more from the transport. How much has come.
    async fn receive(&mut self) -> Result<usize, Error<T::Error>> {
        if self.filled == 0 && self.incoming.len() > SMALL {
            // An idle connection holds no more than it needs.
            self.incoming = Vec::new();
        }
        if self.filled == self.incoming.len() {
            if self.filled >= self.limit {
                return Err(self.fail(Failed::TooLong(self.limit)));
            }
            // The length of a record is in its header.
            let record = match self.incoming[..self.filled] {
                [_, _, _, high, low, ..] => 5 + usize::from(u16::from_be_bytes([high, low])),
                _ => 0,
            };
            let size = record.max(2 * self.filled).clamp(SMALL, self.limit);
            self.incoming.reserve_exact(size - self.filled);
            self.incoming.resize(size, 0);
        }
        let len = self.transport.read(&mut self.incoming[self.filled..]).await.map_err(Error::Transport)?;
        if len == 0 {
            return Err(self.fail(Failed::Truncated));
        }
        self.filled += len;
        self.turn.count(len).await;
        Ok(len)
    }

    /// Gives the transport what was encrypted, and does not wait until it has arrived, as [`flush`](Write::flush) may.
    ///
    /// # Errors
    ///
    /// Where the transport fails.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the next call goes on.
    pub async fn push(&mut self) -> Result<(), Error<T::Error>> {
        self.send().await
    }

    async fn send(&mut self) -> Result<(), Error<T::Error>> {
        while self.sent < self.outgoing.len() {
            match self.transport.write(&self.outgoing[self.sent..]).await.map_err(Error::Transport)? {
                0 => return Err(Error::Closed),
                len => self.sent += len,
            }
        }
        self.sent = 0;
        self.outgoing.clear();
        if self.outgoing.capacity() > SMALL {
            self.outgoing = Vec::new();
        }
        Ok(())
    }

    /// Has it done: something written, or said.
    async fn wish(&mut self, wish: Wish<'_>) -> Result<(), Error<T::Error>> {
        loop {
            match self.step(wish).await? {
                Step::Wait => return Ok(()),
                Step::Closed => return Err(Error::Closed),
                Step::PeerClosed => self.peer_closed = true,
                Step::Data | Step::Again => self.turn.count(1).await,
            }
        }
    }

    /// Says that no more is written (`close_notify`), and sends what there is to send. The other end can still be read, and is to be
    /// read to its own end by who wants to know that it got everything.
    ///
    /// # Errors
    ///
    /// Where the connection has failed before, or fails.
    ///
    /// # Cancellation
    ///
    /// May be dropped; then it is not said yet, or not sent. The next call sends it.
    pub async fn close(&mut self) -> Result<(), Error<T::Error>> {
        self.queue_close().await?;
        self.send().await?;
        self.transport.flush().await.map_err(Error::Transport)
    }

    /// As [`close`](TlsStream::close), but sends nothing yet: that is for [`push`](TlsStream::push), or what is read next. Where the
    /// connection has failed there is nothing to be said.
    pub fn announce_close(&mut self) {
        while !self.closed && self.failed.is_none() {
            match self.advance(Wish::Close) {
                Ok(Step::Data | Step::Again) => {}
                Ok(Step::PeerClosed) => self.peer_closed = true,
                Ok(Step::Wait | Step::Closed) => self.closed = true,
                // The record stays where it is, and is not to be looked at again. What rustls says about it is sent with the rest.
                Err(error) => {
                    self.give_up(error);
                    self.closed = true;
                }
            }
        }
    }

    async fn queue_close(&mut self) -> Result<(), Error<T::Error>> {
        if !self.closed {
            self.wish(Wish::Close).await.or_else(|error| if self.peer_closed { Ok(()) } else { Err(error) })?;
            self.closed = true;
        }
        Ok(())
    }

    /// Has both ends use new keys from now on (TLS 1.3, RFC 8446 section 4.6.3). That happens by itself before a cipher's
    /// limit, so few need it.
    ///
    /// # Errors
    ///
    /// With TLS 1.2, or where the connection has failed.
    ///
    /// # Cancellation
    ///
    /// May be dropped; the message is sent with what is sent next.
    pub async fn update_keys(&mut self) -> Result<(), Error<T::Error>> {
        self.wish(Wish::UpdateKeys).await?;
        // Now rustls gives the message.
        self.wish(Wish::Nothing).await?;
        self.send().await
    }

    /// What was agreed on.
    pub fn session(&self) -> Session<'_> {
        let state = self.connection.state();
        Session {
            version: state.protocol_version(),
            suite: state.negotiated_cipher_suite().map(|suite| suite.suite()),
            alpn: state.alpn_protocol(),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// The transport below. What is written to it by others destroys the connection.
    pub fn transport(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Ends TLS without a word, and returns the transport.
    pub fn into_transport(self) -> T {
        self.transport
    }

    /// Bytes that were encrypted, and are still to be sent.
    pub fn unsent(&self) -> usize {
        self.outgoing.len() - self.sent
    }

    /// Bytes of memory for data of this connection, beside keys and state.
    pub fn buffered(&self) -> usize {
        self.incoming.capacity() + self.plain.capacity() + self.outgoing.capacity()
    }
}

/// What the two ends have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Session<'a> {
    /// The version of TLS.
    pub version: Option<ProtocolVersion>,
    /// Cipher and hash.
    pub suite: Option<CipherSuite>,
    /// The protocol above TLS, if one was agreed on.
    pub alpn: Option<&'a [u8]>,
    /// Whether it goes on with a session of before.
    pub resumed: bool,
}

impl<T> fmt::Debug for TlsStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.connection.state();
        f.debug_struct("TlsStream").field("version", &state.protocol_version()).finish_non_exhaustive()
    }
}

impl<T: Read + Write> ErrorType for TlsStream<T> {
    type Error = Error<T::Error>;
}

impl<T: Read + Write> Read for TlsStream<T> {
    /// # Cancellation
    ///
    /// May be dropped at any time; nothing is lost.
    async fn read(&mut self, to: &mut [u8]) -> Result<usize, Self::Error> {
        loop {
            let rest = &self.plain[self.taken..];
            if !rest.is_empty() || to.is_empty() {
                let len = rest.len().min(to.len());
                to[..len].copy_from_slice(&rest[..len]);
                self.taken += len;
                if self.taken == self.plain.len() {
                    self.taken = 0;
                    self.plain = Vec::new();
                }
                return Ok(len);
            }
            if self.peer_closed {
                return Ok(0);
            }
            match self.step(Wish::Nothing).await? {
                Step::Data => {}
                Step::Again => self.turn.count(1).await,
                Step::PeerClosed | Step::Closed => self.peer_closed = true,
                Step::Wait => {
                    self.send().await?;
                    self.receive().await?;
                }
            }
        }
    }
}

impl<T: Read + Write> Write for TlsStream<T> {
    /// Encrypts one record's worth of `bytes`, after what was written before has been sent if there is a record of it.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time: then nothing of `bytes` was written.
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        if self.closed {
            return Err(Error::Closed);
        }
        if self.unsent() >= self.record {
            self.send().await?;
        }
        let piece = &bytes[..bytes.len().min(self.record)];
        if !piece.is_empty() {
            self.wish(Wish::Write(piece)).await?;
        }
        Ok(piece.len())
    }

    /// Sends what was written, and flushes the transport.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the next call goes on.
    async fn flush(&mut self) -> Result<(), Self::Error> {
        self.send().await?;
        self.transport.flush().await.map_err(Error::Transport)
    }
}
