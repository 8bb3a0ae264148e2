//! Where chunked content ends (RFC 9112, section 7.1).

use crate::Refusal;

/// What may stand beside content: sizes, extensions and trailer fields, which nobody reads here.
const OVERHEAD: u64 = 8 << 10;

/// Follows chunked content to its end while it comes. Only what is written as the grammar has it is understood: where two
/// readers could see different ends, the content is refused.
///
/// # Examples
///
/// ```
/// use sarab_http::{Chunked, Refusal};
///
/// let mut content = Chunked::new(1000);
/// let received = b"5;x=\"y\"\r\nhello\r\n0\r\nTrailer: z\r\n\r\nGET /";
/// assert_eq!(content.follow(received)?, received.len() - b"GET /".len());
/// assert!(content.is_over());
/// assert_eq!(Chunked::new(1000).follow(b"0x5\r\n"), Err(Refusal::Chunk));
/// assert_eq!(Chunked::new(3).follow(b"5\r\n"), Err(Refusal::ContentTooLarge));
/// # Ok::<(), Refusal>(())
/// ```
#[derive(Clone, Debug)]
pub struct Chunked {
    state: State,
    /// Bytes of content that may still come, and of what is beside it.
    content: u64,
    overhead: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Digits of a size, of which so many have come.
    Size {
        digits: u8,
        size: u64,
    },
    /// White space behind a size, which an extension has to follow.
    Space {
        size: u64,
    },
    /// An extension.
    Extension {
        size: u64,
    },
    /// The LF that ends a size.
    SizeEnd {
        size: u64,
    },
    /// So many bytes of a chunk are to come.
    Data(u64),
    /// CR and LF behind a chunk.
    DataReturn,
    DataEnd,
    /// A trailer field's first byte, or the CR of the last line.
    Trailer,
    /// The rest of its name, its value, and the LF behind it.
    Name,
    Value,
    FieldEnd,
    /// The last LF.
    End,
    Over,
}

impl Chunked {
    /// Content of up to `limit` bytes. What is not content is bounded by the same, and 8 KiB.
    pub const fn new(limit: u64) -> Chunked {
        Chunked { state: State::Size { digits: 0, size: 0 }, content: limit, overhead: limit.saturating_add(OVERHEAD) }
    }

    /// Whether its end has come.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Bytes that are still to come at least: who reads no more than these reads nothing of what follows.
    pub const fn least(&self) -> u64 {
        // "0 CR LF CR LF" is the least behind a chunk.
        match self.state {
            State::Size { digits: 0, .. } => 5,
            State::Size { size: 0, .. } | State::Extension { size: 0 } => 4,
            State::Space { size: 0 } => 5,
            State::SizeEnd { size: 0 } => 3,
            State::Size { size, .. } | State::Extension { size } => size.saturating_add(2 + 2 + 5),
            State::Space { size } => size.saturating_add(3 + 2 + 5),
            State::SizeEnd { size } => size.saturating_add(1 + 2 + 5),
            State::Data(left) => left.saturating_add(2 + 5),
            State::DataReturn => 2 + 5,
            State::DataEnd => 1 + 5,
            State::Trailer => 2,
            State::Name => 1 + 2 + 2,
            State::Value => 2 + 2,
            State::FieldEnd => 1 + 2,
            State::End => 1,
            State::Over => 0,
        }
    }

    /// Looks at bytes that have come. Returns how many of them are its own: all, but at its end.
    ///
    /// # Errors
    ///
    /// Where it is not chunked content, or too much of it.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < bytes.len() && !self.is_over() {
            if let State::Data(left) = self.state {
                let len = left.min((bytes.len() - at) as u64);
                at += len as usize;
                self.state = if len == left { State::DataReturn } else { State::Data(left - len) };
                continue;
            }
            self.overhead = self.overhead.checked_sub(1).ok_or(Refusal::ContentTooLarge)?;
            self.state = self.next(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn next(&mut self, byte: u8) -> Result<State, Refusal> {
        let is_text = matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
        Ok(match (self.state, byte) {
            (State::Size { digits, size }, byte) if byte.is_ascii_hexdigit() => {
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    _ => (byte | 0x20) - b'a' + 10,
                };
                // More digits than a number of 64 bits has, zeros or not, are no size.
                let size = size.checked_mul(16).filter(|_| digits < 16).ok_or(Refusal::Chunk)? + u64::from(digit);
                if size > self.content {
                    return Err(Refusal::ContentTooLarge);
                }
                State::Size { digits: digits + 1, size }
            }
            (State::Size { digits: 1.., size }, b'\r') => State::SizeEnd { size },
            (State::Size { digits: 1.., size } | State::Space { size }, b';') => State::Extension { size },
            (State::Size { digits: 1.., size } | State::Space { size }, b' ' | b'\t') => State::Space { size },
            (State::Extension { size }, b'\r') => State::SizeEnd { size },
            (State::Extension { size }, _) if is_text => State::Extension { size },
            (State::SizeEnd { size: 0 }, b'\n') => State::Trailer,
            (State::SizeEnd { size }, b'\n') => {
                self.content -= size;
                State::Data(size)
            }
            (State::DataReturn, b'\r') => State::DataEnd,
            (State::DataEnd, b'\n') => State::Size { digits: 0, size: 0 },
            (State::Trailer, b'\r') => State::End,
            (State::Name, b':') => State::Value,
            (State::Trailer | State::Name, byte) if crate::request::is_token(byte) => State::Name,
            (State::Value, b'\r') => State::FieldEnd,
            (State::Value, _) if is_text => State::Value,
            (State::FieldEnd, b'\n') => State::Trailer,
            (State::End, b'\n') => State::Over,
            _ => return Err(Refusal::Chunk),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use alloc::{format, string::String};
    use proptest::prelude::*;

    #[test]
    fn what_is_content_and_what_is_none() {
        let long = format!("0\r\n{}\r\n", "X: y\r\n".repeat(3000));
        let extended = format!("{}0\r\n\r\n", "1;xxxxxxxxxxxxxxx\r\nz\r\n".repeat(900));
        for (text, expected) in [
            ("0\r\n\r\n", Ok(true)),
            ("00000\r\n\r\n", Ok(true)),
            ("a\r\n0123456789\r\n0\r\n\r\n", Ok(true)),
            ("A;b\r\n0123456789\r\n0;c=\"d;\"\r\n\r\n", Ok(true)),
            ("1 ;a\r\nx\r\n0\r\nX: y\r\nZ:\r\n\r\n", Ok(true)),
            ("a\r\n0123456789\r\n0\r\n", Ok(false)),
            ("\r\n", Err(Refusal::Chunk)),
            (";a\r\n", Err(Refusal::Chunk)),
            ("g\r\n", Err(Refusal::Chunk)),
            ("-1\r\n", Err(Refusal::Chunk)),
            ("+1\r\n", Err(Refusal::Chunk)),
            ("0x1\r\n", Err(Refusal::Chunk)),
            (" 1\r\n", Err(Refusal::Chunk)),
            ("1 \r\n", Err(Refusal::Chunk)),
            ("1 1\r\n", Err(Refusal::Chunk)),
            ("1\nx\r\n", Err(Refusal::Chunk)),
            ("1\r\nxy\r\n", Err(Refusal::Chunk)),
            ("1\r\nx\n", Err(Refusal::Chunk)),
            ("1;\n", Err(Refusal::Chunk)),
            ("1;\r\r", Err(Refusal::Chunk)),
            ("1;\0", Err(Refusal::Chunk)),
            ("00000000000000000\r\n", Err(Refusal::Chunk)),
            ("ffffffffffffffff\r\n", Err(Refusal::ContentTooLarge)),
            ("10000000000000001\r\n", Err(Refusal::ContentTooLarge)),
            ("7d1\r\n", Err(Refusal::ContentTooLarge)),
            ("0\r\n X: y\r\n\r\n", Err(Refusal::Chunk)),
            ("0\r\nX : y\r\n\r\n", Err(Refusal::Chunk)),
            ("0\r\nX: y\n\r\n", Err(Refusal::Chunk)),
            ("0\r\nGET / HTTP/1.1\r\n\r\n", Err(Refusal::Chunk)),
            ("0\r\n\n", Err(Refusal::Chunk)),
            (&long, Err(Refusal::ContentTooLarge)),
            (&extended, Err(Refusal::ContentTooLarge)),
        ] {
            let mut content = Chunked::new(2000);
            let outcome = content.follow(text.as_bytes()).map(|len| {
                assert_eq!(len, text.len());
                content.is_over()
            });
            assert_eq!(outcome, expected, "{text:.60?}");
        }
        let mut content = Chunked::new(8);
        assert_eq!(content.follow(b"5\r\nhello\r\n4\r\n"), Err(Refusal::ContentTooLarge));
    }

    proptest! {
        /// Content in any chunks and pieces: it ends where it does, and who reads only what is certain to come reads
        /// nothing behind it.
        #[test]
        fn its_end_is_found(chunks in prop::collection::vec((1..300_usize, "(;[a-z]{0,5})?"), 0..5), trailers in 0..3_usize) {
            let mut text: String = chunks
                .iter()
                .map(|(len, extension)| format!("{len:x}{extension}\r\n{}\r\n", "\n".repeat(*len)))
                .collect();
            text += "0\r\n";
            text += &"A: b\r\n".repeat(trailers);
            text += "\r\n";
            let whole = [text.as_bytes(), b"0\r\n\r\n"].concat();
            let mut content = Chunked::new(2000);
            prop_assert_eq!(content.follow(&whole).unwrap(), text.len());
            let (mut content, mut at) = (Chunked::new(2000), 0);
            while !content.is_over() {
                let least = content.least() as usize;
                prop_assert!(least > 0 && at + least <= text.len());
                prop_assert_eq!(content.follow(&whole[at..at + least]).unwrap(), least);
                at += least;
            }
            prop_assert_eq!((at, content.least()), (text.len(), 0));
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let (mut one, mut other) = (Chunked::new(50), Chunked::new(50));
            let whole = one.follow(&bytes);
            let singly: Result<Vec<usize>, _> = bytes.iter().map(|byte| other.follow(&[*byte])).collect();
            prop_assert_eq!(whole, singly.map(|lens| lens.into_iter().sum::<usize>()));
        }
    }
}
