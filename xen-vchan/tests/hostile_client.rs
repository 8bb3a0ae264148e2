//! Clients that write anything where they can write, against a server of ours.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join;
use xen_hal::{Clock, Port};
use xen_sim::{check, keep_log, take_log};
use xen_vchan::Error;

use support::raw::*;
use support::{PORT, bench};

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
fn a_client_that_ends_without_a_word_is_noticed() {
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
