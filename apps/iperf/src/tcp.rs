//! A stream over TCP.

use core::cell::Cell;

use embedded_io_async::Read;
use sarab::network::stack::tcp::TcpSocket;

use crate::protocol::{COOKIE, Count, Error};
use crate::session::Progress;

/// Waits for the client's connection, which says which test it is of.
pub async fn meet(stream: &mut TcpSocket<'_>, port: u16, cookie: &[u8; COOKIE]) -> Result<(), Error> {
    stream.accept(port).await.map_err(Error::Accept)?;
    let mut own = [0; COOKIE];
    stream.read_exact(&mut own).await?;
    if own == *cookie { Ok(()) } else { Err(Error::Cookie) }
}

/// Sends or receives until the test is over. What is sent is whatever the buffer holds.
pub async fn run(stream: &mut TcpSocket<'_>, sends: bool, progress: &Progress, count: &Cell<Count>) {
    while !progress.over.get() {
        let moved = match sends {
            true => stream.write_with(|free| (free.len(), free.len())).await,
            false => stream.read_with(|bytes| (bytes.len(), bytes.len())).await,
        };
        match moved {
            Ok(bytes) if bytes > 0 => {
                let mut own = count.get();
                own.bytes += bytes as u64;
                count.set(own);
            }
            // The client has closed it, or it broke: the control connection tells what next.
            _ => return,
        }
    }
}
