//! Servers that write anything where they can write, against a client of ours.

mod support;

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use xen_hal::{Clock, PAGE_SIZE, Port};
use xen_sim::{Xen, check};
use xen_vchan::SetupError;

use support::raw::*;
use support::{PORT, bench};

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

/// A domain that is destroyed says nothing: neither in the page nor by an event. Whoever waits finds out.
#[test]
fn a_server_that_ends_without_a_word_is_noticed() {
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
