//! Data channels.

use super::{HEADER_LEN, WireError, header};
use crate::bytes::u32_at;

/// Bytes of a piece of a stream, at most.
pub const fn max_chunk(version: u32) -> usize {
    if version < 3 { 4096 } else { 65536 }
}

/// One of the streams of a data channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// To the service.
    Stdin,
    /// From the service.
    Stdout,
    /// From the service.
    Stderr,
}

const STREAMS: [(Stream, u32); 3] = [(Stream::Stdin, 0x190), (Stream::Stdout, 0x191), (Stream::Stderr, 0x192)];
const EXIT_CODE: u32 = 0x193;

impl Stream {
    /// The header of a piece of it; one of no length is its end.
    pub fn header(self, len: usize) -> [u8; HEADER_LEN] {
        let kind = STREAMS.iter().find(|(stream, _)| *stream == self).map_or(0, |(_, kind)| *kind);
        header(kind, len)
    }
}

/// The message with an exit code.
pub fn exit_code(code: u32) -> [u8; HEADER_LEN + 4] {
    let mut message = [0; HEADER_LEN + 4];
    message[..HEADER_LEN].copy_from_slice(&header(EXIT_CODE, 4));
    message[HEADER_LEN..].copy_from_slice(&code.to_le_bytes());
    message
}

/// What is next on a data channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes of a stream: a message's, or a part of them.
    Bytes(Stream, &'a [u8]),
    /// A stream is over.
    End(Stream),
    /// The service has ended.
    Exit(u32),
}

/// Takes the messages of a data channel apart, after both `HELLO`s. Of streams it keeps nothing.
#[derive(Debug)]
pub struct DataDecoder {
    max_chunk: usize,
    header: [u8; HEADER_LEN],
    /// Bytes of the header that are there.
    filled: usize,
    body: Body,
}

#[derive(Debug)]
enum Body {
    None,
    Stream(Stream, usize),
    /// An exit code: its bytes, how many are there, and how many are to come, of which the first four count.
    Exit([u8; 4], usize, usize),
}

impl DataDecoder {
    /// A decoder for a version.
    pub fn new(version: u32) -> DataDecoder {
        DataDecoder { max_chunk: max_chunk(version), header: [0; HEADER_LEN], filled: 0, body: Body::None }
    }

    /// The next piece of what has come, which is removed from `input`; `None` where it ends.
    ///
    /// # Errors
    ///
    /// Where a message makes no sense.
    pub fn next_piece<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, WireError> {
        if matches!(self.body, Body::None) {
            let len = (HEADER_LEN - self.filled).min(input.len());
            self.header[self.filled..self.filled + len].copy_from_slice(split(input, len));
            self.filled += len;
            if self.filled < HEADER_LEN {
                return Ok(None);
            }
            self.filled = 0;
            if let Some(end) = self.begin()? {
                return Ok(Some(end));
            }
        }
        match &mut self.body {
            Body::None => Ok(None),
            Body::Stream(..) if input.is_empty() => Ok(None),
            Body::Stream(stream, left) => {
                let (stream, bytes) = (*stream, split(input, *left));
                *left -= bytes.len();
                if *left == 0 {
                    self.body = Body::None;
                }
                Ok(Some(Piece::Bytes(stream, bytes)))
            }
            Body::Exit(code, filled, left) => {
                for byte in split(input, *left) {
                    if let Some(place) = code.get_mut(*filled) {
                        *place = *byte;
                    }
                    *filled += 1;
                    *left -= 1;
                }
                if *left > 0 {
                    return Ok(None);
                }
                // What the original makes of one that is too short.
                let code = if *filled < 4 { 255 } else { u32::from_le_bytes(*code) };
                self.body = Body::None;
                Ok(Some(Piece::Exit(code)))
            }
        }
    }

    /// A header is there.
    fn begin(&mut self) -> Result<Option<Piece<'static>>, WireError> {
        let kind = u32_at(&self.header, 0).unwrap_or(0);
        let len = u32_at(&self.header, 4).unwrap_or(u32::MAX) as usize;
        let stream = STREAMS.iter().find(|(_, known)| *known == kind).map(|(stream, _)| *stream);
        if stream.is_none() && kind != EXIT_CODE {
            return Err(WireError::UnknownType { kind });
        }
        if len > self.max_chunk {
            return Err(WireError::Length { kind, len });
        }
        match (stream, len) {
            (Some(stream), 0) => return Ok(Some(Piece::End(stream))),
            (Some(stream), len) => self.body = Body::Stream(stream, len),
            (None, 0) => return Ok(Some(Piece::Exit(255))),
            (None, len) => self.body = Body::Exit([0; 4], 0, len),
        }
        Ok(None)
    }
}

/// Removes `len` bytes, or as many as there are.
fn split<'a>(input: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (first, rest) = input.split_at(len.min(input.len()));
    *input = rest;
    first
}
