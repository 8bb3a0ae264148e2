//! A call to a service in another domain.

use alloc::vec::Vec;

use xen_hal::Xen;

use super::calls::Data;
use super::streams::{Received, Receiver, Sender};
use super::wire::Stream;
use super::{Error, ExitCode};

/// A call of this domain's that was accepted: standard input to write, standard output and error to read, and an exit code.
///
/// It is over when it is dropped.
pub struct RemoteCall<X: Xen> {
    input: RemoteInput<X>,
    output: RemoteOutput<X>,
    // After the streams, whose channel is to be closed when dom0 hears of it.
    _data: Data,
}

/// The service's standard input.
pub struct RemoteInput<X: Xen> {
    sender: Sender<X>,
    is_over: bool,
}

/// What the service sends.
pub struct RemoteOutput<X: Xen> {
    receiver: Receiver<X>,
    exit: Option<ExitCode>,
}

/// What has come from a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// So many bytes of standard output.
    Stdout(usize),
    /// So many bytes of standard error.
    Stderr(usize),
    /// It has ended.
    Exit(ExitCode),
}

/// All that a service has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// How it has ended.
    pub exit: ExitCode,
}

impl<X: Xen> RemoteCall<X> {
    pub(super) fn new((receiver, sender): (Receiver<X>, Sender<X>), data: Data) -> RemoteCall<X> {
        let (input, output) = (RemoteInput { sender, is_over: false }, RemoteOutput { receiver, exit: None });
        RemoteCall { input, output, _data: data }
    }

    /// As [`RemoteInput::write`].
    ///
    /// # Errors
    ///
    /// As that.
    ///
    /// # Cancellation
    ///
    /// As that.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.input.write(bytes).await
    }

    /// As [`RemoteInput::finish`].
    ///
    /// # Errors
    ///
    /// As that.
    ///
    /// # Cancellation
    ///
    /// As that.
    pub async fn finish_input(&mut self) -> Result<(), Error> {
        self.input.finish().await
    }

    /// As [`RemoteOutput::receive`].
    ///
    /// # Errors
    ///
    /// As that.
    ///
    /// # Cancellation
    ///
    /// As that.
    pub async fn receive(&mut self, to: &mut [u8]) -> Result<Answer, Error> {
        self.output.receive(to).await
    }

    /// Both directions, to be used at the same time.
    pub fn split(&mut self) -> (&mut RemoteInput<X>, &mut RemoteOutput<X>) {
        (&mut self.input, &mut self.output)
    }

    /// Ends standard input, and waits for the service's end. Of both streams `limit` bytes are kept at most, and the rest is
    /// thrown away.
    ///
    /// # Errors
    ///
    /// As [`receive`](RemoteCall::receive).
    ///
    /// # Cancellation
    ///
    /// Ends the call.
    pub async fn collect(mut self, limit: usize) -> Result<Collected, Error> {
        // A service that has ended already says so.
        match self.finish_input().await {
            Ok(()) | Err(Error::Channel(xen_vchan::Error::Closed)) => {}
            Err(error) => return Err(error),
        }
        let (mut stdout, mut stderr, mut bytes) = (Vec::new(), Vec::new(), [0; 512]);
        loop {
            let (stream, len) = match self.receive(&mut bytes).await? {
                Answer::Stdout(len) => (&mut stdout, len),
                Answer::Stderr(len) => (&mut stderr, len),
                Answer::Exit(exit) => return Ok(Collected { stdout, stderr, exit }),
            };
            let len = len.min(limit.saturating_sub(stream.len()));
            stream.extend_from_slice(&bytes[..len]);
        }
    }
}

impl<X: Xen> RemoteInput<X> {
    /// Writes to the service's standard input. Bytes of any number; the service gets them in pieces.
    ///
    /// # Errors
    ///
    /// Where the service has gone, or [`finish`](RemoteInput::finish) was called.
    ///
    /// # Cancellation
    ///
    /// A part of them may have been written.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        if self.is_over {
            return Err(Error::Closed);
        }
        while !bytes.is_empty() {
            let len = self.sender.send(Stream::Stdin, bytes).await?;
            bytes = &bytes[len..];
        }
        Ok(())
    }

    /// Ends it: the service reads an end of file.
    ///
    /// # Errors
    ///
    /// Where the service has gone.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; it is not ended then.
    pub async fn finish(&mut self) -> Result<(), Error> {
        if !self.is_over {
            self.sender.end(Stream::Stdin).await?;
            self.is_over = true;
        }
        Ok(())
    }
}

impl<X: Xen> RemoteOutput<X> {
    /// Waits for what the service sends; bytes go to `to`. After its end it returns that again.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] where the service's domain has gone, or `to` is empty; or it breaks the protocol.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; nothing is lost.
    pub async fn receive(&mut self, to: &mut [u8]) -> Result<Answer, Error> {
        loop {
            if let Some(exit) = self.exit {
                return Ok(Answer::Exit(exit));
            }
            if to.is_empty() {
                return Err(Error::Closed);
            }
            match self.receiver.receive(to).await? {
                Received::Bytes(Stream::Stdin | Stream::Stdout, len) => return Ok(Answer::Stdout(len)),
                Received::Bytes(Stream::Stderr, len) => return Ok(Answer::Stderr(len)),
                // Which stream has ended is of no use to a caller: the exit code comes last.
                Received::End(_) => {}
                Received::Exit(code) => self.exit = Some(code),
                Received::Closed => return Err(Error::Closed),
            }
        }
    }
}
