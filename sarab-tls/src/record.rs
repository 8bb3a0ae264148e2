//! What rustls asks for after it has looked at records.

use alloc::string::ToString;
use alloc::vec::Vec;

use rustls::Error;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};

/// What is to be done where the connection allows it.
#[derive(Clone, Copy)]
pub(crate) enum Wish<'a> {
    Nothing,
    /// So many bytes: a record.
    Write(&'a [u8]),
    Close,
    UpdateKeys,
}

/// What has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is plaintext.
    Data,
    /// There is more to do.
    Again,
    /// More has to come. A wish was granted, if the handshake is over.
    Wait,
    /// The other end says that no more comes.
    PeerClosed,
    /// Both have said it.
    Closed,
}

/// Bytes that a record of ours is longer than its plaintext, at most, and that messages of rustls' own take before it.
const OVERHEAD: usize = 256;

/// Does what is asked for. Returns how many bytes of what has come were used, and what is next.
pub(crate) fn take<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plain: &mut Vec<u8>,
    outgoing: &mut Vec<u8>,
    wish: Wish<'_>,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Step::Data),
                Some(Err(error)) => break Err(error),
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => append(outgoing, OVERHEAD, |room| match data.encode(room) {
            Ok(len) => Ok(len),
            Err(EncodeError::InsufficientSize(needed)) => Err(Some(needed)),
            Err(EncodeError::AlreadyEncoded) => Err(None),
        })
        .map(|()| Step::Again),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It is sent in its order, before anything is waited for.
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Wait),
        Ok(ConnectionState::WriteTraffic(traffic)) => grant(traffic, outgoing, wish).map(|()| Step::Wait),
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::Closed) => Ok(Step::Closed),
        // Early data is never agreed to.
        Ok(_) => Err(Error::General("rustls is in a state that is unknown".to_string())),
    };
    (discard, step)
}

fn grant<D>(mut traffic: WriteTraffic<'_, D>, outgoing: &mut Vec<u8>, wish: Wish<'_>) -> Result<(), Error> {
    let encrypted = |result| match result {
        Ok(len) => Ok(len),
        Err(EncryptError::InsufficientSize(needed)) => Err(Some(needed)),
        Err(EncryptError::EncryptExhausted) => Err(None),
    };
    match wish {
        Wish::Nothing => Ok(()),
        Wish::Write(bytes) => append(outgoing, bytes.len() + OVERHEAD, |room| encrypted(traffic.encrypt(bytes, room))),
        Wish::Close => append(outgoing, OVERHEAD, |room| encrypted(traffic.queue_close_notify(room))),
        Wish::UpdateKeys => traffic.refresh_traffic_keys(),
    }
}

/// Has something written behind what there is, with so much room, or as much as is asked for.
fn append(
    outgoing: &mut Vec<u8>,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> Result<(), Error> {
    let begin = outgoing.len();
    outgoing.resize(begin + room, 0);
    let mut written = write(&mut outgoing[begin..]);
    if let Err(Some(needed)) = written {
        outgoing.resize(begin + needed.required_size, 0);
        written = write(&mut outgoing[begin..]);
    }
    outgoing.truncate(begin + written.as_ref().copied().unwrap_or(0));
    written.map(|_| ()).map_err(|_| Error::EncryptError)
}
