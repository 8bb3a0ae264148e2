//! What the control connection carries: single bytes that lead both ends through a test, and JSON.

use alloc::string::String;
use alloc::vec;
use core::fmt;

use embedded_io_async::{Read, ReadExactError, Write};
use sarab::network::stack::tcp::{self, TcpSocket};
use serde_json::Value;

/// Bytes of what tells a test from others: it comes first on each connection.
pub const COOKIE: usize = 37;
/// Longest text that is accepted.
const MOST_TEXT: usize = 64 << 10;

/// Where a test has come to (iperf_api.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Start = 1,
    Running = 2,
    End = 4,
    Parameters = 9,
    CreateStreams = 10,
    ClientTerminates = 12,
    Results = 13,
    Display = 14,
    Done = 16,
}

/// Why a test ends early.
#[derive(Debug)]
pub enum Error {
    Closed,
    Tcp(tcp::Error),
    Accept(tcp::AcceptError),
    Terminated,
    Unexpected { state: State, found: u8 },
    Text(&'static str),
    Cookie,
    Late,
    Udp,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Closed => f.write_str("the client has closed its connection"),
            Error::Tcp(error) => write!(f, "the connection is broken: {error:?}"),
            Error::Accept(error) => write!(f, "no connection: {error:?}"),
            Error::Terminated => f.write_str("the client has given up"),
            Error::Unexpected { state, found } => write!(f, "state {found} where {state:?} was expected"),
            Error::Text(what) => f.write_str(what),
            Error::Cookie => f.write_str("a stream of another test"),
            Error::Late => f.write_str("the client does not go on"),
            Error::Udp => f.write_str("the port cannot be used for UDP"),
        }
    }
}

impl From<tcp::Error> for Error {
    fn from(error: tcp::Error) -> Self {
        Error::Tcp(error)
    }
}

impl From<ReadExactError<tcp::Error>> for Error {
    fn from(error: ReadExactError<tcp::Error>) -> Self {
        match error {
            ReadExactError::UnexpectedEof => Error::Closed,
            ReadExactError::Other(error) => Error::Tcp(error),
        }
    }
}

pub async fn send(socket: &mut TcpSocket<'_>, state: State) -> Result<(), Error> {
    socket.write_all(&[state as u8]).await?;
    Ok(socket.flush().await?)
}

pub async fn expect(socket: &mut TcpSocket<'_>, state: State) -> Result<(), Error> {
    let mut found = [0];
    socket.read_exact(&mut found).await?;
    match found[0] {
        found if found == state as u8 => Ok(()),
        found if found == State::ClientTerminates as u8 => Err(Error::Terminated),
        found => Err(Error::Unexpected { state, found }),
    }
}

pub async fn read_text(socket: &mut TcpSocket<'_>) -> Result<Value, Error> {
    let mut length = [0; 4];
    socket.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MOST_TEXT {
        return Err(Error::Text("a text that is too long"));
    }
    let mut text = vec![0; length];
    socket.read_exact(&mut text).await?;
    serde_json::from_slice(&text).map_err(|_| Error::Text("a text that is no JSON"))
}

pub async fn write_text(socket: &mut TcpSocket<'_>, text: &str) -> Result<(), Error> {
    let mut bytes = alloc::vec::Vec::from((text.len() as u32).to_be_bytes());
    bytes.extend(text.as_bytes());
    socket.write_all(&bytes).await?;
    Ok(socket.flush().await?)
}

/// What a stream has done, as it is told at the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub bytes: u64,
    pub packets: u64,
    pub lost: u64,
    /// In seconds.
    pub jitter: f64,
}

/// The server's results.
pub fn results(streams: &[Count], seconds: f64, sends: bool) -> String {
    let mut text = String::from("{\"cpu_util_total\":0,\"cpu_util_user\":0,\"cpu_util_system\":0,");
    text += if sends {
        "\"sender_has_retransmits\":0,\"streams\":["
    } else {
        "\"sender_has_retransmits\":-1,\"streams\":["
    };
    for (index, count) in streams.iter().enumerate() {
        // The first stream is 1, the second 3, and so on: so iperf3 counts them.
        let id = if index == 0 { 1 } else { index + 2 };
        let Count { bytes, packets, lost, jitter } = count;
        text += &alloc::format!(
            "{}{{\"id\":{id},\"bytes\":{bytes},\"retransmits\":-1,\"jitter\":{jitter:.9},\"errors\":{lost},\
             \"packets\":{packets},\"start_time\":0,\"end_time\":{seconds:.6}}}",
            if index == 0 { "" } else { "," }
        );
    }
    text + "]}"
}
