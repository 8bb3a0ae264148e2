//! One end of a device by hand: pages, keys and states without a driver.
//!
//! What the toolstack and the peer write is in the store at once, without a connection of theirs: a machine is made for each
//! input, and connecting takes most of its time.

use std::borrow::Cow;
use std::fmt::Display;
use std::time::Duration;

use xen_hal::{Access, Clock, DomId, Errno, GrantRef, GrantTable, MapRequest, Pages};
use xen_ring::{GrantablePage, SharedMapping};
use xen_sim::{Domain, SimGrant, SimMapping, Toolstack, Xen};
use xenstore_client::wire::Request;
use xenstore_client::{Access as Allows, FromValue, Permission};

/// Writes a node in the name of a domain.
pub(crate) fn write(xen: &Xen, domain: DomId, path: &str, value: impl Display) {
    write_bytes(xen, domain, path, value.to_string().as_bytes()).expect("it may be written");
}

/// As [`write()`], with any value; an error where the store refuses it.
pub(crate) fn write_bytes(xen: &Xen, domain: DomId, path: &str, value: &[u8]) -> Result<(), Errno> {
    xen.server().borrow_mut().act(domain, Request::Write { path, value })
}

/// What a node says.
pub(crate) fn read<T: FromValue>(xen: &Xen, path: &str) -> Option<T> {
    T::from_value(&xen.server().borrow().tree().node(path)?.value)
}

/// Makes a device's two directories, as `Toolstack::attach_with` does, and returns their paths.
pub(crate) fn attach(
    xen: &Xen,
    class: &str,
    (front, back): (&Domain, &Domain),
    device: u32,
    nodes: &[(&str, &str)],
) -> (String, String) {
    let (front, back) = (front.id(), back.id());
    let (front_path, back_path) = Toolstack::paths(class, front, back, device);
    for (path, own, other) in [(&front_path, front, back), (&back_path, back, front)] {
        let permissions = [Permission::new(own, Allows::None), Permission::new(other, Allows::Read)];
        let server = xen.server();
        let mut server = server.borrow_mut();
        let made = server.act(DomId::DOM0, Request::Mkdir { path });
        let permissions = Cow::Borrowed(&permissions[..]);
        made.and_then(|()| server.act(DomId::DOM0, Request::SetPerms { path, permissions }))
            .expect("the toolstack may");
    }
    let write = |path: &str, key: &str, value: &dyn Display| write(xen, DomId::DOM0, &format!("{path}/{key}"), value);
    write(&front_path, "backend", &back_path);
    write(&front_path, "backend-id", &back.0);
    write(&back_path, "frontend", &front_path);
    write(&back_path, "frontend-id", &front.0);
    write(&back_path, "online", &1);
    for (key, value) in nodes {
        write(&back_path, key, value);
    }
    write(&front_path, "state", &1);
    write(&back_path, "state", &1);
    (front_path, back_path)
}

/// Lets time go on.
pub(crate) fn pause(xen: &Xen, time: Duration) {
    let clock = xen.dom0();
    xen.run(async move { clock.sleep(time).await });
}

/// Waits until `path` is in a state.
pub(crate) fn until_state(xen: &Xen, path: &str, wanted: u32) {
    let path = format!("{path}/state");
    for _ in 0..10_000 {
        if read::<u32>(xen, &path) == Some(wanted) {
            return;
        }
        pause(xen, Duration::from_micros(20));
    }
    panic!("{path} is {:?}, expected {wanted}", read::<u32>(xen, &path));
}

/// Maps a page that the frontend grants.
pub(crate) fn map(domain: &Domain, peer: DomId, reference: GrantRef) -> SharedMapping<SimMapping> {
    let request = MapRequest { peer, reference, access: Access::ReadWrite };
    SharedMapping::new(domain.map(&[request]).expect("a mapping")).expect("the frontend grants it")
}

/// A page granted to a peer.
pub(crate) fn grant_page(domain: &Domain, peer: DomId, access: Access) -> GrantablePage<SimGrant> {
    let mut page = GrantablePage::new(domain.alloc_page().expect("a page"));
    page.grant(domain, peer, access).expect("a grant");
    page
}
