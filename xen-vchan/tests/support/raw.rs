//! Either end by hand, which does what it wants.

use std::rc::Rc;

use futures_util::future::join;
use xen_hal::{Access, DomId, EventChannels, GrantRef, GrantTable, MapRequest, Pages, Port, PortNumber};
use xen_ring::{GrantablePage, SharedMapping};
use xen_sim::{Domain, SimGrant, SimMapping, SimPort};
use xen_vchan::Channel;
use xenstore_client::{Access as Rights, Permission, Store};

use super::{Bench, PORT};

// Offsets of struct vchan_interface.
pub const LEFT_CONS: usize = 0;
pub const LEFT_PROD: usize = 4;
pub const RIGHT_CONS: usize = 8;
pub const RIGHT_PROD: usize = 12;
pub const ORDERS: usize = 16;
pub const CLI_LIVE: usize = 20;
pub const SRV_LIVE: usize = 21;
pub const CLI_NOTIFY: usize = 22;
pub const SRV_NOTIFY: usize = 23;
pub const GRANTS: usize = 24;

/// What a client has that does by hand what it wants.
pub struct RawClient {
    pub page: SharedMapping<SimMapping>,
    pub port: SimPort,
}

fn map(domain: &Domain, peer: DomId, reference: GrantRef) -> SharedMapping<SimMapping> {
    let request = MapRequest { peer, reference, access: Access::ReadWrite };
    SharedMapping::new(domain.map(&[request]).unwrap()).unwrap()
}

async fn key<T: xenstore_client::FromValue>(bench: &Bench, key: &str) -> T {
    let (server, client) = (bench.server.id().0, bench.client.id().0);
    let path = format!("/local/domain/{server}/data/vchan/{client}/{PORT}/{key}");
    loop {
        if let Ok(Some(value)) = bench.client_store.get::<T>(&path).await {
            return value;
        }
        bench.pause(1).await;
    }
}

impl RawClient {
    pub async fn connect(bench: &Bench) -> RawClient {
        let number: PortNumber = key(bench, "event-channel").await;
        let reference: GrantRef = key(bench, "ring-ref").await;
        let port = bench.client.bind_interdomain(bench.server.id(), number).unwrap();
        let page = map(&bench.client, bench.server.id(), reference);
        page.store_byte(CLI_LIVE, 1);
        page.store_byte(SRV_NOTIFY, 1);
        port.notify();
        RawClient { page, port }
    }
}

/// Our server's channel, and the client by hand.
pub async fn against_server(bench: &Rc<Bench>) -> (Channel<Domain>, RawClient) {
    let mut server = bench.serve(PORT).with_sizes(1024, 2048).unwrap();
    let (accepted, raw) = join(server.accept(), RawClient::connect(bench)).await;
    (accepted.unwrap(), raw)
}

/// A server by hand: its page, and what it writes to the store.
pub struct RawServer {
    pub page: GrantablePage<SimGrant>,
    pub port: SimPort,
}

impl RawServer {
    pub async fn listen(bench: &Bench, fill: impl Fn(&GrantablePage<SimGrant>)) -> RawServer {
        let mut page = GrantablePage::<SimGrant>::new(bench.server.alloc_page().unwrap());
        let reference = page.grant(&bench.server, bench.client.id(), Access::ReadWrite).unwrap();
        fill(&page);
        let port = bench.server.alloc_unbound(bench.client.id()).unwrap();
        let number = port.number();
        publish(bench, &reference.0.to_string(), &number.0.to_string()).await;
        RawServer { page, port }
    }
}

pub async fn publish(bench: &Bench, reference: &str, port: &str) {
    let store: &Store = &bench.server_store;
    let path = format!("data/vchan/{}/{PORT}", bench.client.id().0);
    let permissions =
        [Permission::new(bench.server.id(), Rights::None), Permission::new(bench.client.id(), Rights::Read)];
    for (key, value) in [("ring-ref", reference), ("event-channel", port)] {
        let key = format!("{path}/{key}");
        store.set(&key, value).await.unwrap();
        store.set_permissions(&key, &permissions).await.unwrap();
    }
}
