//! A connection with TLS, as HTTP uses one.

use core::pin::pin;

use embedded_io_async::{ErrorType, Read, Write};
use futures_util::FutureExt;
use sarab::network::stack::tcp;
use sarab_http::{Stream, Tcp};
use sarab_tls::{Error, TlsStream};

use super::RECORD;

/// What a record is longer than its content, at most.
const OVERHEAD: usize = 64;

pub struct Secure<'a, 's> {
    tls: TlsStream<Tcp<'a, 's>>,
    /// The end was announced; once that has been sent, the socket is to be closed.
    closing: bool,
}

impl<'a, 's> Secure<'a, 's> {
    pub fn new(tls: TlsStream<Tcp<'a, 's>>) -> Secure<'a, 's> {
        Secure { tls, closing: false }
    }

    async fn push(&mut self) -> Result<(), Error<tcp::Error>> {
        self.tls.push().await?;
        if core::mem::take(&mut self.closing) {
            self.tls.transport().close();
        }
        Ok(())
    }
}

impl ErrorType for Secure<'_, '_> {
    type Error = Error<tcp::Error>;
}

impl Read for Secure<'_, '_> {
    async fn read(&mut self, to: &mut [u8]) -> Result<usize, Self::Error> {
        self.push().await?;
        match self.tls.read(to).await {
            // Clients end like that when they have all that they want. What a request lacks, HTTP notices.
            Err(Error::Truncated) => Ok(0),
            read => read,
        }
    }
}

impl Write for Secure<'_, '_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        self.tls.write(bytes).await
    }

    async fn flush(&mut self) -> Result<(), Self::Error> {
        self.push().await?;
        self.tls.flush().await
    }
}

impl Stream for Secure<'_, '_> {
    async fn room(&mut self, wished: usize) -> Result<usize, Self::Error> {
        // What was encrypted is under way before there is more: so nothing that is written waits.
        self.push().await?;
        let wished = wished.min(RECORD);
        let room = self.tls.transport().room(wished + OVERHEAD).await.map_err(Error::Transport)?;
        Ok(room.saturating_sub(OVERHEAD).clamp(1, RECORD))
    }

    fn close(&mut self) {
        self.tls.announce_close();
        self.closing = true;
        // Mostly there is room at once; otherwise the next read goes on.
        let _ = pin!(self.push()).now_or_never();
    }

    fn abort(&mut self) {
        self.tls.transport().abort();
    }
}
