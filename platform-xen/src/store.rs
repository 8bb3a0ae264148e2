//! This domain's connection to the store: the page and the port that the toolstack has made.

use core::ptr::NonNull;

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

// SAFETY: the page lies among Xen's special pages, which are mapped one to one and are in no allocator. `open_store`
// makes the only value; a second one comes after a resume, when the first is gone.
unsafe impl Page for StorePage {
    fn as_ptr(&self) -> NonNull<u8> {
        let address = self.frame as usize * PAGE_SIZE;
        NonNull::new(core::ptr::with_exposed_provenance_mut(address)).expect("frame 0 is refused")
    }

    fn frame(&self) -> Frame {
        Frame(self.frame)
    }
}

impl StoreChannel for XenStoreChannel {
    type Page = StorePage;
    type Port = XenPort;

    fn open_store(&self) -> Option<(StorePage, XenPort)> {
        // Neither is ever 0 or all ones where it is set.
        let frame = domain::param(abi::HVM_PARAM_STORE_PFN)?;
        let port = domain::param(abi::HVM_PARAM_STORE_EVTCHN)?;
        let port = XenEventChannels.adopt(u32::try_from(port).ok()?);
        Some((StorePage { frame }, port))
    }
}
