//! What a service has of its caller.

use xen_hal::Xen;

use super::streams::{Received, Receiver, Sender};
use super::wire::Stream;
use super::{Error, ExitCode};

/// The streams of a call that is served here. The agent ends them when the service returns.
pub struct Session<X: Xen> {
    input: Input<X>,
    output: Output<X>,
}

/// What the caller sends: the service's standard input.
pub struct Input<X: Xen> {
    receiver: Option<Receiver<X>>,
    is_over: bool,
}

/// What goes to the caller: standard output and standard error.
pub struct Output<X: Xen> {
    sender: Option<Sender<X>>,
}

impl<X: Xen> Session<X> {
    pub(super) fn new((receiver, sender): (Receiver<X>, Sender<X>)) -> Session<X> {
        Session { input: Input { receiver: Some(receiver), is_over: false }, output: Output { sender: Some(sender) } }
    }

    /// Of a call without streams.
    pub(super) fn detached() -> Session<X> {
        Session { input: Input { receiver: None, is_over: true }, output: Output { sender: None } }
    }

    /// As [`Input::read`].
    ///
    /// # Errors
    ///
    /// As that.
    ///
    /// # Cancellation
    ///
    /// As that.
    pub async fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        self.input.read(to).await
    }

    /// As [`Output::write`].
    ///
    /// # Errors
    ///
    /// As that.
    ///
    /// # Cancellation
    ///
    /// As that.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.output.write(bytes).await
    }

    /// As [`Output::write_error`].
    ///
    /// # Errors
    ///
    /// As that.
    ///
    /// # Cancellation
    ///
    /// As that.
    pub async fn write_error(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.output.write_error(bytes).await
    }

    /// Both directions, to be used at the same time.
    pub fn split(&mut self) -> (&mut Input<X>, &mut Output<X>) {
        (&mut self.input, &mut self.output)
    }

    /// Ends both streams and says how the service has ended.
    pub(super) async fn finish(self, code: ExitCode) -> Result<(), Error> {
        let Some(mut sender) = self.output.sender else { return Ok(()) };
        sender.end(Stream::Stdout).await?;
        sender.end(Stream::Stderr).await?;
        sender.exit(code).await
    }

    /// Says how a service without streams has ended.
    pub(super) async fn finish_detached(self, code: ExitCode) -> Result<(), Error> {
        let Some(mut sender) = self.output.sender else { return Ok(()) };
        sender.exit(code).await
    }
}

impl<X: Xen> Input<X> {
    /// Waits until there is something to read, and reads it; 0 at the end of what the caller sends, and where there are no
    /// streams.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] where the caller has gone before that end, or breaks the protocol.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; nothing is lost.
    pub async fn read(&mut self, to: &mut [u8]) -> Result<usize, Error> {
        let Some(receiver) = self.receiver.as_mut().filter(|_| !self.is_over && !to.is_empty()) else { return Ok(0) };
        loop {
            match receiver.receive(to).await? {
                // The original takes one for the other: the caller may be another qube's agent, of any age.
                Received::Bytes(Stream::Stdin | Stream::Stdout, len) => return Ok(len),
                Received::End(Stream::Stdin | Stream::Stdout) => {
                    self.is_over = true;
                    return Ok(0);
                }
                Received::Bytes(Stream::Stderr, _) | Received::End(Stream::Stderr) | Received::Exit(_) => {}
                Received::Closed => return Err(Error::Closed),
            }
        }
    }
}

impl<X: Xen> Output<X> {
    /// Writes to standard output. Bytes of any number; the caller gets them in pieces.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] where the caller has gone.
    ///
    /// # Cancellation
    ///
    /// A part of them may have been written.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.send(Stream::Stdout, bytes).await
    }

    /// Writes to standard error. Otherwise as [`write`](Output::write).
    ///
    /// # Errors
    ///
    /// As [`write`](Output::write).
    ///
    /// # Cancellation
    ///
    /// As [`write`](Output::write).
    pub async fn write_error(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.send(Stream::Stderr, bytes).await
    }

    async fn send(&mut self, stream: Stream, mut bytes: &[u8]) -> Result<(), Error> {
        let Some(sender) = &mut self.sender else { return Ok(()) };
        while !bytes.is_empty() {
            let len = sender.send(stream, bytes).await?;
            bytes = &bytes[len..];
        }
        Ok(())
    }
}
