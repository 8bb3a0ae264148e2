//! Commands of clients: arrays of RESP (the Redis serialization protocol), or lines of words.

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use embedded_io_async::Read;
use sarab::state::{MAX_KEY, MAX_VALUE};

/// Words of a command.
const MAX_WORDS: usize = 16;
/// Bytes of a line, and of what a command has in all.
const MAX_LINE: usize = MAX_KEY + MAX_VALUE + 16;
const MAX_COMMAND: usize = 2 * MAX_LINE;

/// Why a client is told to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    Malformed,
    TooLarge,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Problem::Malformed => "Protocol error",
            Problem::TooLarge => "Protocol error: too large",
        })
    }
}

/// A value as an answer.
pub fn bulk(value: &[u8]) -> Vec<u8> {
    [alloc::format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

/// What has come and was not used.
#[derive(Default)]
pub struct Input {
    bytes: Vec<u8>,
}

impl Input {
    /// The next command's words; none where the client is done. What fails without a problem is the connection.
    pub async fn command(&mut self, from: &mut impl Read) -> Result<Option<Vec<Vec<u8>>>, Option<Problem>> {
        let Some(line) = self.line(from).await? else { return Ok(None) };
        let Some(count) = line.strip_prefix(b"*") else {
            return Ok(Some(
                line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect(),
            ));
        };
        let count = number(count, MAX_WORDS)?;
        let (mut words, mut left) = (Vec::new(), MAX_COMMAND);
        for _ in 0..count {
            let line = self.line(from).await?.ok_or(None)?;
            let len = number(line.strip_prefix(b"$").ok_or(Some(Problem::Malformed))?, MAX_COMMAND)?;
            left = left.checked_sub(len).ok_or(Some(Problem::TooLarge))?;
            while self.bytes.len() < len + 2 {
                self.fill(from).await?.ok_or(None)?;
            }
            let rest = self.bytes.split_off(len + 2);
            let mut word = core::mem::replace(&mut self.bytes, rest);
            if !word.ends_with(b"\r\n") {
                return Err(Some(Problem::Malformed));
            }
            word.truncate(len);
            words.push(word);
        }
        Ok(Some(words))
    }

    /// The next line, without its end.
    async fn line(&mut self, from: &mut impl Read) -> Result<Option<Vec<u8>>, Option<Problem>> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.bytes[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.bytes.split_off(searched + end + 1);
                let mut line = core::mem::replace(&mut self.bytes, rest);
                line.pop();
                line.pop_if(|last| *last == b'\r');
                return Ok(Some(line));
            }
            searched = self.bytes.len();
            if searched > MAX_LINE {
                return Err(Some(Problem::TooLarge));
            }
            if self.fill(from).await?.is_none() {
                return Ok(None);
            }
        }
    }

    /// Waits for more; none where there will be none.
    async fn fill(&mut self, from: &mut impl Read) -> Result<Option<()>, Option<Problem>> {
        let mut piece = vec![0; 2048];
        let len = from.read(&mut piece).await.map_err(|_| None)?;
        self.bytes.extend(&piece[..len]);
        Ok((len > 0).then_some(()))
    }
}

fn number(digits: &[u8], most: usize) -> Result<usize, Option<Problem>> {
    let text = core::str::from_utf8(digits).map_err(|_| Some(Problem::Malformed))?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Some(Problem::Malformed));
    }
    text.parse().ok().filter(|number| *number <= most).ok_or(Some(Problem::TooLarge))
}
