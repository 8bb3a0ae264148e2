//! Event channels: one-bit notifications between domains.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use crate::{DomId, PortNumber};

/// What every event-channel error can be reduced to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum EventChannelErrorKind {
    /// No port is free in this domain.
    NoPorts,
    /// The remote domain does not exist.
    NoDomain,
    /// The remote port is not open to this domain.
    Refused,
    /// Anything else.
    Other,
}

/// An error of an [`EventChannels`] implementation.
pub trait EventChannelError: fmt::Debug + fmt::Display {
    /// The kind, for callers that are generic over the implementation.
    fn kind(&self) -> EventChannelErrorKind;
}

/// Opens event channels.
///
/// # Examples
///
/// ```
/// use xen_hal::{EventChannels, Port};
///
/// let xen = xen_sim::Xen::new(1);
/// let (front, back) = (xen.domain(), xen.domain());
/// xen.run(async move {
///     let own = front.alloc_unbound(back.id())?;
///     // The number reaches the peer through the store.
///     let peers = back.bind_interdomain(front.id(), own.number())?;
///     own.notify();
///     peers.wait().await;
///     Ok::<(), xen_sim::SimEventChannelError>(())
/// })
/// .unwrap();
/// ```
pub trait EventChannels {
    /// Why a channel could not be opened.
    type Error: EventChannelError;
    /// An open port; dropping it closes it.
    type Port: Port + 'static;

    /// Opens a port that `remote` may bind to (`EVTCHNOP_alloc_unbound`).
    ///
    /// # Errors
    ///
    /// [`NoPorts`](EventChannelErrorKind::NoPorts), [`NoDomain`](EventChannelErrorKind::NoDomain).
    fn alloc_unbound(&self, remote: DomId) -> Result<Self::Port, Self::Error>;

    /// Binds a new port to one that `remote` has opened for this domain (`EVTCHNOP_bind_interdomain`).
    ///
    /// The new port may have an event pending from the start, for notifications sent before it was bound.
    ///
    /// # Errors
    ///
    /// [`Refused`](EventChannelErrorKind::Refused) if the remote port is not open to this domain, and as
    /// [`alloc_unbound`](EventChannels::alloc_unbound).
    fn bind_interdomain(&self, remote: DomId, remote_port: PortNumber) -> Result<Self::Port, Self::Error>;
}

impl<T: EventChannels + ?Sized> EventChannels for &T {
    type Error = T::Error;
    type Port = T::Port;

    fn alloc_unbound(&self, remote: DomId) -> Result<Self::Port, Self::Error> {
        (**self).alloc_unbound(remote)
    }

    fn bind_interdomain(&self, remote: DomId, remote_port: PortNumber) -> Result<Self::Port, Self::Error> {
        (**self).bind_interdomain(remote, remote_port)
    }
}

/// One end of an event channel.
///
/// Events do not count: any number of notifications before a wait are one event, and there may be one that nobody has
/// sent; what it is about is to be read elsewhere. A port has one waiter at a time; a
/// second one takes the place of the first, which is woken and may wait again.
pub trait Port {
    /// This end's number, for the peer to bind to.
    fn number(&self) -> PortNumber;

    /// Notifies the peer. A peer that is gone is not an error: its responses stay away, and the store says so.
    fn notify(&self);

    /// Whether a port of the peer's is bound to this one at the moment (`EVTCHNOP_status`).
    ///
    /// That is over when the peer closes its port, or ends. No event tells of it, but it can be asked for without any
    /// rights in the store: a guest may not hear of `@releaseDomain` there.
    fn is_bound(&self) -> bool;

    /// Whether this domain was not restored since it has had the port.
    ///
    /// After a restore the port is of no use. Of what peers wrote into shared pages while the image was made, only a part may be
    /// in it, such as a response without the data that it is about.
    fn is_current(&self) -> bool;

    /// Takes a pending event, or arranges for the task to be woken by the next one.
    ///
    /// An event that came at any time since the last one was taken is never lost.
    fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Waits for an event and takes it.
    ///
    /// # Cancellation
    ///
    /// Dropping the future takes no event.
    fn wait(&self) -> Wait<'_, Self> {
        Wait { port: self }
    }
}

impl<T: Port + ?Sized> Port for &T {
    fn number(&self) -> PortNumber {
        (**self).number()
    }

    fn notify(&self) {
        (**self).notify();
    }

    fn is_bound(&self) -> bool {
        (**self).is_bound()
    }

    fn is_current(&self) -> bool {
        (**self).is_current()
    }

    fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_wait(cx)
    }
}

/// The future of [`Port::wait`].
#[must_use = "futures do nothing unless awaited"]
pub struct Wait<'a, P: ?Sized> {
    port: &'a P,
}

impl<P: Port + ?Sized> Future for Wait<'_, P> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.port.poll_wait(cx)
    }
}
