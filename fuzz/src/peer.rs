//! One end of a device by hand: pages, keys and states without a driver.

use xen_hal::{Access, DomId, GrantRef, GrantTable, MapRequest, Pages};
use xen_ring::{LentPage, SharedMapping};
use xen_sim::{Domain, SimGrant, SimMapping};
use xenstore_client::{Error, Store};

/// Waits until `path` is in a state.
pub(crate) async fn state(store: &Store, path: &str, wanted: u32) -> Result<(), Error> {
    let is = move |value: Option<&[u8]>| (value == Some(wanted.to_string().as_bytes())).then_some(());
    store.wait_for(&format!("{path}/state"), is).await
}

/// Maps a page that the frontend lends.
pub(crate) fn map(domain: &Domain, peer: DomId, reference: GrantRef) -> SharedMapping<SimMapping> {
    let request = MapRequest { peer, reference, access: Access::ReadWrite };
    SharedMapping::new(domain.map(&[request]).expect("a mapping")).expect("the frontend lends it")
}

/// A page lent to a peer.
pub(crate) fn lend(domain: &Domain, peer: DomId, access: Access) -> LentPage<SimGrant> {
    let mut page = LentPage::new(domain.alloc_page().expect("a page"));
    page.lend(domain, peer, access).expect("a grant");
    page
}
