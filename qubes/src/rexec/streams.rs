//! The streams of one call on its data channel.

use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;

use xen_hal::Xen;
use xen_vchan::layout::{End, Side};
use xen_vchan::{Channel, ReadHalf, WriteHalf};

use super::wire::{self, Control, ControlDecoder, DataDecoder, HEADER_LEN, Piece, Stream, WireError};
use super::{Error, ExitCode};
use crate::waiting::within;

/// How long a peer may take for its first message.
const HELLO_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are read at once.
const BUFFER: usize = 4096;

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Bytes(Stream, usize),
    End(Stream),
    Exit(ExitCode),
    /// The channel is closed, between two messages or within one.
    Closed,
}

pub(super) struct Receiver<X: Xen> {
    half: ReadHalf<X>,
    decoder: DataDecoder,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

pub(super) struct Sender<X: Xen> {
    half: WriteHalf<X>,
    /// Bytes of a piece, at most: it is written at once, so that a piece which is given up half-way leaves no half message.
    max_chunk: usize,
}

/// Agrees upon a version with the peer.
pub(super) async fn open<X: Xen>(xen: &X, channel: Channel<X>) -> Result<(Receiver<X>, Sender<X>), Error> {
    let side = match channel.end() {
        End::Client => Side::Left,
        End::Server => Side::Right,
    };
    let ring = channel.layout().size(side) as usize;
    let (mut reader, mut writer) = channel.split();
    let version = within(xen, HELLO_PATIENCE, hello(&mut reader, &mut writer)).await.ok_or(Error::Silent)??;
    // Half of the ring, so that the peer reads one half while the other is filled.
    let max_chunk = wire::max_chunk(version).min((ring / 2).saturating_sub(HEADER_LEN));
    let buffer = vec![0; BUFFER].into_boxed_slice();
    let receiver = Receiver { half: reader, decoder: DataDecoder::new(version), buffer, start: 0, end: 0 };
    Ok((receiver, Sender { half: writer, max_chunk }))
}

/// Sends a `HELLO`, and reads the peer's and nothing after it.
pub(super) async fn hello<X: Xen>(reader: &mut ReadHalf<X>, writer: &mut WriteHalf<X>) -> Result<u32, Error> {
    writer.write_message(&Control::Hello { version: wire::VERSION }.encode(wire::VERSION)?).await?;
    let mut decoder = ControlDecoder::default();
    let mut bytes = [0; HEADER_LEN + 4];
    let mut filled = 0;
    loop {
        // No more than that message: what comes after it is another decoder's.
        let len = reader.read(&mut bytes[filled..]).await?;
        decoder.push(&bytes[filled..filled + len]);
        filled += len;
        match decoder.next_message()? {
            Some(Control::Hello { version }) => return Ok(wire::negotiate(version)?),
            Some(_) => return Err(Error::NoHello),
            None if filled == bytes.len() => return Err(Error::NoHello),
            None if len == 0 => return Err(Error::Closed),
            None => {}
        }
    }
}

impl<X: Xen> Receiver<X> {
    /// Waits for the next piece; bytes of a stream go to `to`, of which there is one at least.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; nothing is lost.
    pub(super) async fn receive(&mut self, to: &mut [u8]) -> Result<Received, Error> {
        loop {
            if let Some(received) = self.take(to)? {
                return Ok(received);
            }
            self.start = 0;
            self.end = 0;
            match self.half.read(&mut self.buffer).await? {
                0 => return Ok(Received::Closed),
                len => self.end = len,
            }
        }
    }

    fn take(&mut self, to: &mut [u8]) -> Result<Option<Received>, WireError> {
        // No more than fits: what the decoder returns is removed.
        loop {
            let available = &self.buffer[self.start..self.end];
            let mut input = &available[..available.len().min(to.len())];
            let len = input.len();
            let piece = self.decoder.next_piece(&mut input)?;
            self.start += len - input.len();
            match piece {
                Some(Piece::Bytes(stream, bytes)) => {
                    to[..bytes.len()].copy_from_slice(bytes);
                    return Ok(Some(Received::Bytes(stream, bytes.len())));
                }
                Some(Piece::End(stream)) => return Ok(Some(Received::End(stream))),
                Some(Piece::Exit(code)) => return Ok(Some(Received::Exit(ExitCode(code)))),
                None if self.start == self.end => return Ok(None),
                None => {}
            }
        }
    }
}

impl<X: Xen> Sender<X> {
    /// Waits until there is room, and sends a piece of a stream. Returns how much of `bytes` that was.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; nothing was sent then.
    pub(super) async fn send(&mut self, stream: Stream, bytes: &[u8]) -> Result<usize, Error> {
        let len = bytes.len().min(self.max_chunk);
        if len > 0 {
            self.half.write_message(&[&stream.header(len)[..], &bytes[..len]].concat()).await?;
        }
        Ok(len)
    }

    pub(super) async fn end(&mut self, stream: Stream) -> Result<(), Error> {
        Ok(self.half.write_message(&stream.header(0)).await?)
    }

    pub(super) async fn exit(&mut self, code: ExitCode) -> Result<(), Error> {
        Ok(self.half.write_message(&wire::exit_code(code.0)).await?)
    }
}
