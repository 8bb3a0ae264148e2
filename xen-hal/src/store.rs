//! The domain's own connection to the store.

use crate::{Page, Port};

/// Where this domain's connection to the store is: a page shared with the store's server, and a port to notify it
/// (docs/misc/xenstore-ring.txt).
pub trait StoreChannel {
    /// The shared page.
    type Page: Page + 'static;
    /// The port. Dropping it cuts the domain off from the store.
    type Port: Port + 'static;

    /// Takes page and port, or `None` where the toolstack has made none.
    ///
    /// There is one connection: it is taken once, and once more after each resume from suspend, when there is a new
    /// port. While the page that was taken last is still there, there is no other: [`Page`]'s contract has one owner.
    fn open_store(&self) -> Option<(Self::Page, Self::Port)>;
}

impl<T: StoreChannel + ?Sized> StoreChannel for &T {
    type Page = T::Page;
    type Port = T::Port;

    fn open_store(&self) -> Option<(Self::Page, Self::Port)> {
        (**self).open_store()
    }
}
