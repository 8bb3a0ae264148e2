//! Peers that write anything where they can write, to each end.

mod support;

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, join, select};
use xen_hal::{
    Access, Clock, DomId, EventChannels, GrantRef, GrantTable, MapRequest, PAGE_SIZE, Pages, Port, PortNumber,
};
use xen_ring::{GrantablePage, SharedMapping};
use xen_sim::{Domain, SimGrant, SimMapping, SimPort, Xen, check, keep_log, take_log};
use xen_vchan::{Channel, Error, SetupError};
use xenstore_client::{Access as Rights, Permission, Store};

use support::{Bench, PORT, bench};

// Offsets of struct vchan_interface.
const LEFT_CONS: usize = 0;
const LEFT_PROD: usize = 4;
const RIGHT_CONS: usize = 8;
const RIGHT_PROD: usize = 12;
const ORDERS: usize = 16;
const CLI_LIVE: usize = 20;
const SRV_LIVE: usize = 21;
const CLI_NOTIFY: usize = 22;
const SRV_NOTIFY: usize = 23;
const GRANTS: usize = 24;

/// What a client has that does by hand what it wants.
struct RawClient {
    page: SharedMapping<SimMapping>,
    port: SimPort,
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
    async fn connect(bench: &Bench) -> RawClient {
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
async fn against_server(bench: &Rc<Bench>) -> (Channel<Domain>, RawClient) {
    let mut server = bench.serve(PORT).with_sizes(1024, 2048).unwrap();
    let (accepted, raw) = join(server.accept(), RawClient::connect(bench)).await;
    (accepted.unwrap(), raw)
}

#[test]
fn an_index_that_cannot_be_ends_the_channel_for_both_halves() {
    for (offset, value) in
        [(LEFT_PROD, 1025), (LEFT_PROD, u32::MAX), (LEFT_PROD, 0x8000_0000), (RIGHT_CONS, 1), (RIGHT_CONS, 0x7fff_ffff)]
    {
        check("indices", 8, |xen| {
            keep_log();
            let bench = bench(xen);
            let used = bench.clone();
            xen.run(async move {
                let (channel, raw) = against_server(&used).await;
                let (mut read, mut write) = channel.split();
                let reading = used.server.spawn(async move {
                    let mut bytes = [0; 3000];
                    read.read(&mut bytes).await
                });
                used.pause(1).await;
                raw.page.store(offset, value);
                raw.port.notify();
                let written = write.write(&[0; 100]).await;
                used.pause(1).await;
                // Either half finds it, and both fail with the same.
                let failure = if offset == RIGHT_CONS { written } else { reading.await };
                assert!(matches!(failure, Err(Error::BadIndex(_))), "{failure:?}");
                assert_eq!(write.write(&[0; 100]).await, failure);
                assert!(matches!(write.flush().await, Err(Error::BadIndex(_))));
            });
            let lines = take_log();
            let told = lines.iter().filter(|line| line.contains("ring indices out of range")).count();
            assert_eq!(told, 1, "{lines:?}");
            bench.check_no_leak(xen);
        });
    }
}

/// All bytes of the page at once, at any time, and events: the server has errors and bytes, and nothing else.
#[test]
fn a_client_that_writes_anything() {
    check("anything", 150, |xen| {
        let bench = bench(xen);
        let (used, machine) = (bench.clone(), xen.clone());
        xen.run(async move {
            let (channel, raw) = against_server(&used).await;
            let (mut read, mut write) = channel.split();
            let reading = used.server.spawn(async move {
                let mut bytes = [0; 3000];
                while let Ok(1..) = read.read(&mut bytes).await {}
            });
            let writing = used.server.spawn(async move {
                while write.write(&[1; 3000]).await.is_ok() {
                    if write.flush().await.is_err() {
                        break;
                    }
                }
            });
            for _ in 0..200 {
                let word = match machine.random(3) {
                    0 => machine.random(3000) as u32,
                    1 => raw.page.load(LEFT_CONS).wrapping_add(machine.random(1100) as u32),
                    _ => machine.random(1 << 32) as u32,
                };
                match machine.random(4) {
                    0 => raw.page.store_byte(CLI_LIVE + machine.random(4) as usize, word as u8),
                    1 => raw.page.store(machine.random(8) as usize * 4, word),
                    2 => {
                        raw.page.store(LEFT_PROD, raw.page.load(LEFT_CONS).wrapping_add(word % 1025));
                        raw.page.store(RIGHT_CONS, raw.page.load(RIGHT_PROD));
                    }
                    _ => {}
                }
                raw.port.notify();
                used.dom0.sleep(Duration::from_micros(machine.random(100))).await;
            }
            raw.page.store_byte(CLI_LIVE, 0);
            drop(raw);
            join(reading, writing).await;
        });
        bench.check_no_leak(xen);
    });
}

/// The client has a second processor, which changes what the server has just read.
#[test]
fn what_changes_between_two_reads_is_read_once() {
    check("races", 100, |xen| {
        let bench = bench(xen);
        let (used, machine) = (bench.clone(), xen.clone());
        xen.run(async move {
            let (channel, raw) = against_server(&used).await;
            let (mut read, mut write) = channel.split();
            let (random, left) = (machine.clone(), Cell::new(400_u32));
            used.client.second_processor(move |accessed| {
                if left.get() == 0 {
                    return;
                }
                left.set(left.get() - 1);
                let word = random.random(5000) as u32;
                let (cons, prod) = (word.wrapping_sub(2500), word);
                accessed.write(LEFT_PROD, &prod.to_le_bytes());
                accessed.write(RIGHT_CONS, &cons.to_le_bytes());
                accessed.write(LEFT_CONS, &cons.to_le_bytes());
                accessed.write(RIGHT_PROD, &prod.to_le_bytes());
                accessed.write(CLI_LIVE, &[1, 0, word as u8, word as u8]);
            });
            let reading = used.server.spawn(async move {
                let mut bytes = [0; 3000];
                while let Ok(len @ 1..) = read.read(&mut bytes).await {
                    assert!(len <= 1024, "more than the ring has");
                }
            });
            let writing = used.server.spawn(async move {
                while let Ok(len) = write.write(&[1; 3000]).await {
                    assert!(len <= 2048, "more than the ring has");
                }
            });
            for _ in 0..50 {
                raw.port.notify();
                used.dom0.sleep(Duration::from_micros(100)).await;
            }
            used.client.one_processor();
            raw.page.store_byte(CLI_LIVE, 0);
            raw.port.notify();
            drop(raw);
            join(reading, writing).await;
        });
        bench.check_no_leak(xen);
    });
}

/// Events without end, for nothing: the server looks ever less often, and has the data in a few of them all the same.
#[test]
fn xsa_332_events_for_nothing_are_looked_at_ever_less_often() {
    check("events", 10, |xen| {
        let bench = bench(xen);
        let (used, machine) = (bench.clone(), xen.clone());
        xen.run(async move {
            let (channel, raw) = against_server(&used).await;
            let (mut read, _write) = channel.split();
            let reading = used.server.spawn(async move {
                let mut bytes = [0; 8];
                read.read(&mut bytes).await
            });
            // What a look at the ring costs: accesses to the page, which the client's second processor sees.
            let looks = Rc::new(Cell::new(0_u32));
            let counted = looks.clone();
            used.client.second_processor(move |accessed| {
                if accessed.offset == LEFT_PROD && !accessed.write {
                    counted.set(counted.get() + 1);
                }
            });
            for _ in 0..20_000 {
                raw.port.notify();
                used.dom0.sleep(Duration::from_micros(100)).await;
            }
            used.client.one_processor();
            assert!(looks.get() < 300, "{} looks at 20,000 events", looks.get());
            raw.page.store(LEFT_PROD, 5);
            raw.port.notify();
            let before = machine.now();
            assert_eq!(reading.await, Ok(5));
            assert!(machine.now() - before < Duration::from_millis(100));
            drop(raw);
        });
        bench.check_no_leak(xen);
    });
}

/// A peer that always has more, and always has room: other tasks of the domain have their turn.
#[test]
fn a_busy_peer_does_not_keep_other_tasks_from_running() {
    check("turns", 4, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let (channel, raw) = against_server(&used).await;
            let (mut read, mut write) = channel.split();
            used.client.second_processor(|accessed| {
                if accessed.write && accessed.offset == LEFT_CONS {
                    let more = accessed.word().wrapping_add(1);
                    accessed.write(LEFT_PROD, &more.to_le_bytes());
                }
                if accessed.write && accessed.offset == RIGHT_PROD {
                    let all = accessed.word();
                    accessed.write(RIGHT_CONS, &all.to_le_bytes());
                }
            });
            raw.page.store(LEFT_PROD, 1);
            raw.port.notify();
            let (domain, ticks) = (used.server.clone(), Rc::new(Cell::new(0)));
            let counted = ticks.clone();
            let other = used.server.spawn(async move {
                loop {
                    domain.sleep(Duration::from_nanos(1)).await;
                    counted.set(counted.get() + 1);
                }
            });
            let moving = used.server.spawn(async move {
                let mut bytes = [0; 16];
                for _ in 0..20_000 {
                    assert_eq!((read.read(&mut bytes).await, write.write(&[1]).await), (Ok(1), Ok(1)));
                }
            });
            moving.await;
            assert!(ticks.get() > 20, "{} turns of the other task", ticks.get());
            let _: Option<()> = other.cancel().await;
            used.client.one_processor();
            drop(raw);
        });
        // The budget for one turn is checked besides.
        bench.check_no_leak(xen);
    });
}

/// A domain that is destroyed says nothing: neither in the page nor by an event. Whoever waits finds out.
#[test]
fn a_peer_that_ends_without_a_word_is_noticed() {
    check("silent", 20, |xen| {
        let bench = bench(xen);
        let (used, machine) = (bench.clone(), xen.clone());
        xen.run(async move {
            let (channel, raw) = against_server(&used).await;
            assert!(channel.is_open());
            let (mut read, mut write) = channel.split();
            let reading = used.server.spawn(async move { read.read(&mut [0]).await });
            let writing = used.server.spawn(async move {
                write.write_message(&[1; 2048]).await.unwrap();
                (write.write(&[1]).await, write.flush().await)
            });
            used.pause(machine.random(5000)).await;
            used.client.destroy();
            let before = machine.now();
            assert_eq!(reading.await, Ok(0));
            assert_eq!(writing.await, (Err(Error::Closed), Err(Error::Closed)));
            assert!(machine.now() - before <= Duration::from_secs(3));
            assert_eq!(raw.page.load_byte(CLI_LIVE), 1, "it has said nothing");
            drop(raw);
        });
        bench.check_no_leak(xen);
    });
    check("silent server", 20, |xen| {
        let bench = bench(xen);
        let (used, machine) = (bench.clone(), xen.clone());
        xen.run(async move {
            let server = RawServer::listen(&used, |page| {
                page.store(ORDERS, 10 | 11 << 16);
                page.store(CLI_LIVE, u32::from_le_bytes([2, 1, 1, 0]));
            })
            .await;
            let mut channel = used.client(PORT).connect().await.unwrap();
            server.page.store_byte(SRV_NOTIFY, 0);
            let reading = used.client.spawn(async move { channel.read(&mut [0]).await });
            used.pause(machine.random(5000)).await;
            used.server.destroy();
            let before = machine.now();
            assert_eq!(reading.await, Ok(0));
            assert!(machine.now() - before <= Duration::from_secs(3));
            assert_eq!(server.page.load_byte(SRV_LIVE), 1, "it has said nothing");
            drop(server);
        });
        bench.check_no_leak(xen);
    });
}

/// Clients that come and go as fast as they can.
#[test]
fn clients_that_come_and_go_cost_little() {
    check("comings", 5, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        let accepted = xen.run(async move {
            let mut server = used.serve(PORT);
            let accepted = Rc::new(Cell::new(0));
            let counted = accepted.clone();
            let serving = used.server.spawn(async move {
                loop {
                    let mut channel = server.accept().await.unwrap();
                    counted.set(counted.get() + 1);
                    // It may have been told to forget that there was a client.
                    while let Ok(1..) = channel.read(&mut [0; 8]).await {}
                }
            });
            let client = used.client(PORT);
            let coming = used.client.spawn(async move {
                loop {
                    drop(client.connect().await);
                }
            });
            used.pause(10_000).await;
            let _: Option<()> = coming.cancel().await;
            let _: Option<()> = serving.cancel().await;
            used.pause(100).await;
            accepted.get()
        });
        assert!((50..240).contains(&accepted), "{accepted} clients in ten seconds");
    });
}

/// Each of them breaks its channel, and the server says so: not without end.
#[test]
fn clients_that_break_their_channels_do_not_fill_the_log() {
    check("lines", 4, |xen| {
        keep_log();
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            let mut server = used.serve(PORT).with_sizes(1024, 2048).unwrap();
            for _ in 0..60 {
                let (accepted, raw) = join(server.accept(), RawClient::connect(&used)).await;
                raw.page.store(LEFT_PROD, 0x1234_5678);
                assert!(matches!(accepted.unwrap().read(&mut [0]).await, Err(Error::BadIndex(_))));
            }
        });
        let lines = take_log();
        assert!(lines.iter().any(|line| line.contains("ring indices out of range")), "{lines:?}");
        assert!(lines.len() < 12, "{lines:?}");
        bench.check_no_leak(xen);
    });
}

/// A server by hand: its page, and what it writes to the store.
struct RawServer {
    page: GrantablePage<SimGrant>,
    port: SimPort,
}

impl RawServer {
    async fn listen(bench: &Bench, fill: impl Fn(&GrantablePage<SimGrant>)) -> RawServer {
        let mut page = GrantablePage::<SimGrant>::new(bench.server.alloc_page().unwrap());
        let reference = page.grant(&bench.server, bench.client.id(), Access::ReadWrite).unwrap();
        fill(&page);
        let port = bench.server.alloc_unbound(bench.client.id()).unwrap();
        let number = port.number();
        publish(bench, &reference.0.to_string(), &number.0.to_string()).await;
        RawServer { page, port }
    }
}

async fn publish(bench: &Bench, reference: &str, port: &str) {
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

/// Any orders, any list of grants, any indices, any of the other bytes.
#[test]
fn a_server_whose_page_holds_anything() {
    check("pages", 200, |xen| {
        let bench = bench(xen);
        let (used, machine) = (bench.clone(), xen.clone());
        xen.run(async move {
            let random = machine.clone();
            let server = RawServer::listen(&used, |page| {
                let bytes: Vec<u8> = (0..PAGE_SIZE).map(|_| random.random(256) as u8).collect();
                page.write(0, &bytes);
                let order = |of: &Xen| match of.random(3) {
                    0 => of.random(1 << 16) as u32,
                    _ => 8 + of.random(15) as u32,
                };
                page.store(ORDERS, order(&random) | order(&random) << 16);
                if random.random(2) == 0 {
                    // Indices that can be, and pages that are granted: the one that there is.
                    (0..4).for_each(|word| page.store(word * 4, 77));
                    (0..20).for_each(|index| page.store(GRANTS + index * 4, page.reference().unwrap().0));
                    page.store_byte(SRV_LIVE, 1);
                }
            })
            .await;
            let client = used.client(PORT);
            let using = async {
                let mut channel = client.connect().await?;
                let mut bytes = [0; 3000];
                let read = channel.read(&mut bytes).await;
                let written = channel.write(&bytes).await;
                Ok::<_, SetupError>((read, written))
            };
            match select(pin!(using), pin!(used.dom0.sleep(Duration::from_secs(1)))).await {
                Either::Left((
                    Err(SetupError::Layout(_) | SetupError::BadIndex(_) | SetupError::Refused { .. }),
                    _,
                )) => {}
                Either::Left((Err(error), _)) => panic!("{error}"),
                Either::Left((Ok(_), _)) | Either::Right(_) => {}
            }
            drop(server);
        });
        bench.check_no_leak(xen);
    });
}

/// A server that changes orders and grants while the client reads them, and indices and liveness later.
#[test]
fn a_server_that_changes_what_was_checked() {
    check("changes", 100, |xen| {
        let bench = bench(xen);
        let (used, machine) = (bench.clone(), xen.clone());
        xen.run(async move {
            let server = RawServer::listen(&used, |page| {
                page.store(ORDERS, 10 | 11 << 16);
                page.store(CLI_LIVE, u32::from_le_bytes([2, 1, 1, 0]));
            })
            .await;
            let random = machine.clone();
            used.server.second_processor(move |accessed| {
                if accessed.offset == ORDERS {
                    let orders = random.random(24) as u32 | (random.random(24) as u32) << 16;
                    accessed.write(ORDERS, &orders.to_le_bytes());
                }
                if random.random(8) == 0 {
                    let at = random.random(24) as usize;
                    accessed.write(at, &[random.random(256) as u8]);
                }
            });
            let client = used.client(PORT);
            let using = used.client.spawn(async move {
                let Ok(mut channel) = client.connect().await else { return };
                assert_eq!(channel.layout(), xen_vchan::layout::Layout::new(10, 11).unwrap());
                let mut bytes = [0; 3000];
                for _ in 0..50 {
                    match channel.read(&mut bytes).await {
                        Ok(0) | Err(_) => return,
                        Ok(len) => assert!(len <= 2048),
                    }
                    match channel.write(&bytes).await {
                        Ok(len) => assert!(len <= 1024),
                        Err(_) => return,
                    }
                }
            });
            for _ in 0..50 {
                server.port.notify();
                used.dom0.sleep(Duration::from_micros(100)).await;
            }
            used.server.one_processor();
            server.page.store_byte(SRV_LIVE, 0);
            server.page.store_byte(CLI_NOTIFY, 3);
            server.port.notify();
            match select(using, pin!(used.dom0.sleep(Duration::from_secs(5)))).await {
                Either::Left(_) => {}
                // Keys of a server that says it is gone: the client waits for other ones.
                Either::Right(((), using)) => assert!(using.cancel().await.is_none()),
            }
            drop(server);
        });
        bench.check_no_leak(xen);
    });
}

/// Keys that are no numbers, or lead nowhere, or change without end.
#[test]
fn a_server_that_writes_anything_to_the_store() {
    check("keys", 10, |xen| {
        let bench = bench(xen);
        let used = bench.clone();
        xen.run(async move {
            for (reference, port) in [("abc", "1"), ("-1", "1"), ("8", "4294967296"), ("8", "1 2")] {
                publish(&used, reference, port).await;
                let error = used.client(PORT).connect().await.err().unwrap();
                let text = error.to_string();
                assert!(matches!(error, SetupError::Store(_)) && text.contains("expected"), "{text}");
            }
            publish(&used, "", "").await;
            let machine = used.server.machine();
            let flood = async || {
                let before = machine.steps();
                for round in 0..2000 {
                    publish(&used, "4000000000", &(1000 + round).to_string()).await;
                }
                machine.steps() - before
            };
            let alone = flood().await;
            let client = used.client(PORT);
            let connecting = used.client.spawn(async move { client.connect().await.map(|_| ()) });
            let watched = flood().await;
            assert!(watched < alone * 13 / 10, "{alone} steps alone, {watched} with a client that looks");
            assert!(!connecting.is_finished());
            let _: Option<Result<(), SetupError>> = connecting.cancel().await;
        });
        bench.check_no_leak(xen);
    });
}
