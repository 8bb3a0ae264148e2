//! The control channel.

use alloc::string::String;
use alloc::vec::Vec;

use super::{HEADER_LEN, WireError, header};
use crate::bytes::{Backlog, u32_at, until_nul};

/// Bytes of a command line, at most, with its NUL (`MAX_QREXEC_CMD_LEN`).
pub const MAX_COMMAND: usize = 65535;
/// Bytes of a service's name and argument, at most (`MAX_SERVICE_NAME_LEN`), with the NUL here.
pub const MAX_SERVICE: usize = 65000;

const IDENT_LEN: usize = 32;
const TARGET_LEN: usize = 64;
/// Domain and port.
const CONNECTION_LEN: usize = 8;

/// The other domain of a data channel, and its vchan port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The domain's number.
    pub domain: u32,
    /// The port: 513 and more.
    pub port: u32,
}

/// A message of the control channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Which version an end speaks. Both send it first: the agent, and then the daemon.
    Hello {
        /// The version.
        version: u32,
    },
    /// From the daemon: run a command, with its streams.
    Exec {
        /// Where the streams go.
        connection: Connection,
        /// The command line.
        command: String,
    },
    /// From the daemon: run a command without streams.
    JustExec {
        /// Where the exit code goes.
        connection: Connection,
        /// The command line.
        command: String,
    },
    /// From the daemon: a call of this domain's is accepted.
    ServiceConnect {
        /// Whose client to wait for.
        connection: Connection,
        /// Which call it is.
        ident: String,
    },
    /// From the daemon: a call of this domain's is refused.
    ServiceRefused {
        /// Which call it is.
        ident: String,
    },
    /// From the agent: call a service.
    Trigger {
        /// The domain to be called, or what the policy makes of it: `dom0`, `@default`, `@dispvm`.
        target: String,
        /// The service, with `+` and its argument.
        service: String,
        /// What the daemon is to call this call.
        ident: String,
    },
    /// From the agent: a data channel is closed, and its port free.
    Terminated(Connection),
}

// Types of messages. A trigger's depends on the version.
const HELLO: u32 = 0x300;
const EXEC: u32 = 0x200;
const JUST_EXEC: u32 = 0x201;
const SERVICE_CONNECT: u32 = 0x202;
const SERVICE_REFUSED: u32 = 0x203;
const TRIGGER: u32 = 0x210;
const TERMINATED: u32 = 0x211;
const TRIGGER3: u32 = 0x212;
const TRIGGER4: u32 = 0x213;

impl Control {
    /// Its bytes in a version.
    ///
    /// # Errors
    ///
    /// Where a name is longer than its field, or holds a NUL.
    pub fn encode(&self, version: u32) -> Result<Vec<u8>, WireError> {
        let mut body = Vec::new();
        let kind = match self {
            Control::Hello { version } => {
                body.extend_from_slice(&version.to_le_bytes());
                HELLO
            }
            Control::Exec { connection, command } => {
                put_connection(&mut body, connection);
                put_text(&mut body, command, MAX_COMMAND)?;
                EXEC
            }
            Control::JustExec { connection, command } => {
                put_connection(&mut body, connection);
                put_text(&mut body, command, MAX_COMMAND)?;
                JUST_EXEC
            }
            Control::ServiceConnect { connection, ident } => {
                put_connection(&mut body, connection);
                put_field(&mut body, ident, IDENT_LEN)?;
                SERVICE_CONNECT
            }
            Control::ServiceRefused { ident } => {
                put_field(&mut body, ident, IDENT_LEN)?;
                SERVICE_REFUSED
            }
            Control::Trigger { target, service, ident } => put_trigger(&mut body, version, target, service, ident)?,
            Control::Terminated(connection) => {
                put_connection(&mut body, connection);
                TERMINATED
            }
        };
        Ok([&header(kind, body.len())[..], &body].concat())
    }

    fn decode(kind: u32, body: &[u8]) -> Result<Control, WireError> {
        let short = WireError::Length { kind, len: body.len() };
        let connection = || Some(Connection { domain: u32_at(body, 0)?, port: u32_at(body, 4)? });
        let text = |at: usize| -> Result<String, WireError> {
            let bytes = body.get(at..).ok_or(short)?;
            // The original ends it with a NUL whether there is one or not.
            let bytes = until_nul(bytes).unwrap_or(bytes.split_last().map_or(bytes, |(_, rest)| rest));
            str::from_utf8(bytes).map(String::from).map_err(|_| WireError::NotText { kind })
        };
        let field = |at: usize, len: usize| -> Result<String, WireError> {
            let bytes = body.get(at..at + len).ok_or(short)?;
            let bytes = until_nul(bytes).ok_or(WireError::NotText { kind })?;
            str::from_utf8(bytes).map(String::from).map_err(|_| WireError::NotText { kind })
        };
        Ok(match kind {
            HELLO => Control::Hello { version: u32_at(body, 0).ok_or(short)? },
            EXEC => Control::Exec { connection: connection().ok_or(short)?, command: text(CONNECTION_LEN)? },
            JUST_EXEC => Control::JustExec { connection: connection().ok_or(short)?, command: text(CONNECTION_LEN)? },
            SERVICE_CONNECT => {
                Control::ServiceConnect { connection: connection().ok_or(short)?, ident: text(CONNECTION_LEN)? }
            }
            SERVICE_REFUSED => Control::ServiceRefused { ident: field(0, IDENT_LEN)? },
            TRIGGER => {
                Control::Trigger { service: field(0, 64)?, target: field(64, 32)?, ident: field(96, IDENT_LEN)? }
            }
            TRIGGER3 => {
                Control::Trigger { target: field(0, TARGET_LEN)?, ident: field(64, IDENT_LEN)?, service: text(96)? }
            }
            TRIGGER4 => {
                Control::Trigger { target: field(64, TARGET_LEN)?, ident: field(128, IDENT_LEN)?, service: text(160)? }
            }
            TERMINATED => Control::Terminated(connection().ok_or(short)?),
            kind => return Err(WireError::UnknownType { kind }),
        })
    }
}

fn put_trigger(body: &mut Vec<u8>, version: u32, target: &str, service: &str, ident: &str) -> Result<u32, WireError> {
    Ok(match version {
        ..3 => {
            put_field(body, service, 64)?;
            put_field(body, target, 32)?;
            put_field(body, ident, IDENT_LEN)?;
            TRIGGER
        }
        3 => {
            put_field(body, target, TARGET_LEN)?;
            put_field(body, ident, IDENT_LEN)?;
            put_text(body, service, MAX_SERVICE)?;
            TRIGGER3
        }
        4.. => {
            // The source: this domain itself.
            put_field(body, "", TARGET_LEN)?;
            put_field(body, target, TARGET_LEN)?;
            put_field(body, ident, IDENT_LEN)?;
            put_text(body, service, MAX_SERVICE)?;
            TRIGGER4
        }
    })
}

fn put_connection(body: &mut Vec<u8>, connection: &Connection) {
    body.extend_from_slice(&connection.domain.to_le_bytes());
    body.extend_from_slice(&connection.port.to_le_bytes());
}

/// A text that goes to the end of its message, with a NUL.
fn put_text(body: &mut Vec<u8>, text: &str, max: usize) -> Result<(), WireError> {
    if text.len() >= max || text.contains('\0') {
        return Err(WireError::Text { len: text.len(), max: max - 1 });
    }
    body.extend_from_slice(text.as_bytes());
    body.push(0);
    Ok(())
}

/// A text in a field of fixed length, filled up with NULs, of which there is one at least.
fn put_field(body: &mut Vec<u8>, text: &str, len: usize) -> Result<(), WireError> {
    if text.len() >= len || text.contains('\0') {
        return Err(WireError::Text { len: text.len(), max: len - 1 });
    }
    let end = body.len() + len;
    body.extend_from_slice(text.as_bytes());
    body.resize(end, 0);
    Ok(())
}

/// Puts messages of the control channel together from pieces of any length.
#[derive(Debug, Default)]
pub struct ControlDecoder {
    backlog: Backlog,
    header: Option<(u32, usize)>,
}

impl ControlDecoder {
    /// Adds what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.backlog.push(bytes);
    }

    /// The next message that is there as a whole.
    ///
    /// # Errors
    ///
    /// Where a message makes no sense. A peer of which one was not understood is not to be listened to any further.
    pub fn next_message(&mut self) -> Result<Option<Control>, WireError> {
        let (kind, len) = match self.header {
            Some(header) => header,
            None => {
                let Some(header) = self.backlog.take(HEADER_LEN) else { return Ok(None) };
                let (kind, len) = (u32_at(header, 0).unwrap_or(0), u32_at(header, 4).unwrap_or(u32::MAX) as usize);
                check_len(kind, len)?;
                *self.header.insert((kind, len))
            }
        };
        let Some(body) = self.backlog.take(len) else { return Ok(None) };
        self.header = None;
        Control::decode(kind, body).map(Some)
    }
}

fn check_len(kind: u32, len: usize) -> Result<(), WireError> {
    let fits = match kind {
        HELLO => len == 4,
        EXEC | JUST_EXEC | SERVICE_CONNECT => len > CONNECTION_LEN && len <= CONNECTION_LEN + MAX_COMMAND,
        SERVICE_REFUSED => len == IDENT_LEN,
        TRIGGER => len == 64 + 32 + IDENT_LEN,
        TRIGGER3 => len > 96 && len <= 96 + MAX_SERVICE,
        TRIGGER4 => len > 160 && len <= 160 + MAX_SERVICE,
        TERMINATED => len == CONNECTION_LEN,
        kind => return Err(WireError::UnknownType { kind }),
    };
    if fits { Ok(()) } else { Err(WireError::Length { kind, len }) }
}
