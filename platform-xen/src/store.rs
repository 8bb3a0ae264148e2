//! This domain's connection to the store: the page and the port that the toolstack has made.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering};

use xen_hal::{Frame, PAGE_SIZE, Page, StoreChannel};

use crate::events::{XenEventChannels, XenPort};
use crate::{abi, domain};

/// The connection to the store.
#[derive(Clone, Copy, Debug, Default)]
pub struct XenStoreChannel;

/// The page that is shared with the store's server. It is not RAM of this domain's allocator, and is never freed.
#[derive(Debug)]
pub struct StorePage {
    frame: u64,
}

/// Whether there is a [`StorePage`].
static TAKEN: AtomicBool = AtomicBool::new(false);

// SAFETY: the page lies among Xen's special pages, which are mapped one to one and are in no allocator. `open_store`
// makes the only value: `TAKEN` sees to that. The address is built from a number, so it may be used for whatever is
// mapped beside it.
unsafe impl Page for StorePage {
    fn as_ptr(&self) -> NonNull<u8> {
        let address = self.frame as usize * PAGE_SIZE;
        NonNull::new(core::ptr::with_exposed_provenance_mut(address)).expect("frame 0 is refused")
    }

    fn frame(&self) -> Frame {
        Frame(self.frame)
    }
}

impl Drop for StorePage {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::Relaxed);
    }
}

impl StoreChannel for XenStoreChannel {
    type Page = StorePage;
    type Port = XenPort;

    fn open_store(&self) -> Option<(StorePage, XenPort)> {
        // Neither is ever 0 or all ones where it is set.
        let frame = domain::param(abi::HVM_PARAM_STORE_PFN)?;
        let port = domain::param(abi::HVM_PARAM_STORE_EVTCHN)?;
        let port = u32::try_from(port).ok()?;
        if TAKEN.swap(true, Ordering::Relaxed) {
            return None;
        }
        let page = StorePage { frame };
        Some((page, XenEventChannels.adopt(port)?))
    }
}
