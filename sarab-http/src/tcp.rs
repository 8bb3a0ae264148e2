//! A socket of embassy-net as a stream to a client.

use core::future::poll_fn;
use core::pin::pin;
use core::task::Poll;

use embassy_net::tcp::{Error, TcpSocket};
use embedded_io_async::{ErrorType, Read, Write};

use crate::Stream;

/// A socket as a stream to a client.
pub struct Tcp<'a, 's>(pub &'a mut TcpSocket<'s>);

impl ErrorType for Tcp<'_, '_> {
    type Error = Error;
}

impl Read for Tcp<'_, '_> {
    async fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        self.0.read(to).await
    }
}

impl Write for Tcp<'_, '_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        self.0.write(bytes).await
    }

    async fn flush(&mut self) -> Result<(), Error> {
        self.0.flush().await
    }
}

impl Stream for Tcp<'_, '_> {
    async fn room(&mut self, wished: usize) -> Result<usize, Error> {
        let capacity = self.0.send_capacity();
        poll_fn(|cx| {
            if !self.0.may_send() {
                return Poll::Ready(Err(Error::ConnectionReset));
            }
            let room = capacity - self.0.send_queue();
            if room > 0 && room >= wished.min(capacity / 2) {
                return Poll::Ready(Ok(room));
            }
            // Something is under way: what waits for all of it is woken whenever some of it has arrived.
            let _ = pin!(self.0.flush()).poll(cx);
            Poll::Pending
        })
        .await
    }

    fn close(&mut self) {
        self.0.close();
    }

    fn abort(&mut self) {
        self.0.abort();
    }
}
