//! Whole applications in the simulation: what `App` gives them, and how they end.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use embedded_io_async::{Read, Write};
use futures_util::future::pending;
use sarab::block::BlockDevice;
use sarab::hal::Clock;
use sarab::network::stack::Ipv4Address;
use sarab::network::stack::tcp::TcpSocket;
use sarab::testing::{End, Faults, Guest, check};
use sarab::{App, format_err, platform, println};

const SEEDS: u64 = 10;

#[test]
fn the_command_line_is_what_the_guest_was_given() {
    check("arguments", SEEDS, |xen| {
        for (line, expected) in [("count=3", "count 3\n"), ("", "count 1\n")] {
            let ended = Guest::new(xen).command_line(line).run(async |app: App| {
                println!("count {}", app.args().get_or("count", 1)?);
                Ok::<(), sarab::Error>(())
            });
            assert_eq!((ended.how(), ended.console()), (End::PowerOff, expected));
        }
    });
}

#[test]
fn an_error_is_printed_and_ends_the_domain_as_crashed() {
    check("error", SEEDS, |xen| {
        let ended = Guest::new(xen).command_line("count=many").run(async |app: App| {
            app.args().get::<u32>("count")?;
            Ok::<(), sarab::Error>(())
        });
        assert_eq!(ended.how(), End::Crash);
        assert_eq!(ended.console(), "error: command line: `count=many`: expected a number\n");
    });
}

#[test]
fn a_panic_ends_the_domain_and_says_where_it_was() {
    check("panic", SEEDS, |xen| {
        let ended = Guest::new(xen).run(async |app: App| {
            app.spawn(async move {
                if app.args().as_str().is_empty() {
                    panic!("on purpose: {}", 7);
                }
            })
            .detach();
            pending::<()>().await;
        });
        let End::Panic(text) = ended.how() else { panic!("{:?}", ended.how()) };
        assert!(text.starts_with("panic at tests/app.rs:") && text.ends_with(": on purpose: 7"), "{text}");
        assert_eq!(ended.console(), format!("CRASH: {text}\n"));
    });
}

#[test]
fn nothing_of_a_guest_runs_after_its_end() {
    struct Sets(Rc<Cell<bool>>);
    impl Drop for Sets {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    check("end", SEEDS, |xen| {
        let (ticks, dropped) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let guest = Guest::new(xen);
        let (counted, sets) = (ticks.clone(), Sets(dropped.clone()));
        xen.run(async move {
            let running = guest
                .start(async move |app: App| -> () {
                    let clock = app.clock();
                    app.spawn(async move {
                        let _sets = sets;
                        loop {
                            clock.sleep(Duration::from_millis(10)).await;
                            counted.set(counted.get() + 1);
                        }
                    })
                    .detach();
                    app.clock().sleep(Duration::from_millis(105)).await;
                    platform::poweroff();
                })
                .await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
            assert!(dropped.get());
            let then = ticks.get();
            assert!((5..=10).contains(&then), "{then}");
            running.sleep(Duration::from_secs(1)).await;
            assert_eq!(ticks.get(), then);
            assert!(!running.domain().is_alive());
        });
    });
}

/// Counts starts in the store, and on the first sector of its disk.
async fn counting(app: App) -> sarab::Result {
    let disk = app.disk("xvda").await?;
    let mut sector = [0; 512];
    disk.read_bytes(0, &mut sector).await?;
    sector[0] += 1;
    disk.write_bytes(0, &sector).await?;
    disk.flush().await?;
    let store = app.store()?;
    store.set("data/state", "ready").await?;
    println!("start {}, {}", sector[0], store.get::<String>("data/config").await?.unwrap_or_default());
    println!("asked to {}", app.shutdown().await);
    Ok(())
}

#[test]
fn a_guest_starts_again_with_what_its_disk_holds() {
    check("disk", SEEDS, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let before = xen.in_use();
        let mut image = vec![7; 700];
        image[0] = 0;
        let guest = |image: &[u8]| Guest::new(xen).disk("xvda", image).key("data/config", "mine");
        let first = guest(&image);
        let disk = xen.run(async move {
            let running = first.start(counting).await;
            running.wait_for("start 1, mine\n").await;
            running.reboot().await;
            let ended = running.ended().await;
            assert_eq!(ended.how(), End::Reboot);
            assert!(ended.console().ends_with("asked to reboot\n"), "{}", ended.console());
            ended.disk("xvda").to_vec()
        });
        assert_eq!(disk.len(), 1024);
        assert_eq!((disk[0], disk[699], disk[700]), (1, 7, 0));
        let second = guest(&disk);
        xen.run(async move {
            let running = second.start(counting).await;
            running.wait_for("start 2, mine\n").await;
            assert_eq!(running.get("data/state").await.as_deref(), Some("ready"));
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
        // The toolstack's connection has come.
        assert!(xen.in_use().0 <= before.0 + 1 && xen.in_use().1 == 0, "{before:?}, {:?}", xen.in_use());
    });
}

#[test]
fn requests_end_a_guest_that_does_not_wait_for_them() {
    check("requests", SEEDS, |xen| {
        let idle = async |_: App| {
            println!("up");
            pending::<()>().await;
        };
        let (one, two, three, four) = (Guest::new(xen), Guest::new(xen), Guest::new(xen), Guest::new(xen).memory(64));
        xen.run(async move {
            let running = one.start(idle).await;
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);

            let running = two.start(idle).await;
            running.wait_for("up").await;
            running.sysrq('b').await;
            assert_eq!(running.ended().await.how(), End::Reboot);

            let running = three.start(idle).await;
            running.wait_for("up").await;
            running.destroy();
            assert_eq!(running.ended().await.how(), End::Destroyed);

            // Its first request is the application's; the second one ends it.
            let stubborn = async |app: App| {
                println!("asked to {}", app.shutdown().await);
                pending::<()>().await;
            };
            let running = four.start(stubborn).await;
            running.sysrq('m').await;
            running.wait_for("sysrq: memory 65536 KiB").await;
            running.shutdown().await;
            running.wait_for("asked to poweroff").await;
            running.reboot().await;
            assert_eq!(running.ended().await.how(), End::Reboot);
        });
    });
}

#[test]
fn a_guest_is_saved_and_restored() {
    check("restore", SEEDS, |xen| {
        let guest = Guest::new(xen).disk("xvda", vec![1; 512]);
        xen.run(async move {
            let main = async |app: App| -> sarab::Result {
                let disk = app.first_disk().await?;
                println!("up");
                println!("{:?}", app.resumed().await);
                let mut sector = [0; 512];
                disk.read_bytes(0, &mut sector).await?;
                println!("reads {}, {:?}", sector[511], app.store()?.get::<String>("data/x").await?);
                Ok(())
            };
            let running = guest.start(main).await;
            running.set("data/x", "y").await;
            running.wait_for("up\n").await;
            running.save_and_restore().await;
            let ended = running.ended().await;
            assert_eq!(ended.console(), "up\nRestored\nreads 1, Some(\"y\")\n");
            assert_eq!(ended.how(), End::PowerOff);
        });
    });
}

#[test]
fn two_guests_have_consoles_of_their_own() {
    check("two", SEEDS, |xen| {
        let guests = [Guest::new(xen).command_line("name=a"), Guest::new(xen).command_line("name=b")];
        xen.run(async move {
            let main = async |app: App| -> sarab::Result {
                let name = app.args().require::<&str>("name")?;
                for _ in 0..10 {
                    sarab::time::Timer::after(sarab::time::Duration::from_millis(1)).await;
                    println!("{name}");
                    platform::yield_now().await;
                }
                let line = app.console().read_line(80).await;
                println!("typed {line}");
                Ok(())
            };
            let [a, b] = guests;
            let (a, b) = (a.start(main).await, b.start(main).await);
            a.type_in("for a\n");
            b.type_in("for b\n");
            for (running, name) in [(a, "a"), (b, "b")] {
                let ended = running.ended().await;
                assert_eq!(ended.console(), format!("{}typed for {name}\n", format!("{name}\n").repeat(10)));
            }
        });
    });
}

#[test]
fn a_guest_answers_on_its_network() {
    check("network", 5, |xen| {
        let guest = Guest::new(xen).network().command_line("ip=10.0.0.2/24");
        xen.run(async move {
            let main = async |app: App| -> sarab::Result {
                let network = app.network("vif").await?;
                let (mut incoming, mut outgoing) = ([0; 2048], [0; 2048]);
                let mut socket = TcpSocket::new(network.stack, &mut incoming, &mut outgoing);
                println!("listening");
                socket.accept(7).await.map_err(|error| format_err!("no connection: {error:?}"))?;
                let mut bytes = [0; 64];
                let len = socket.read(&mut bytes).await?;
                socket.write_all(&bytes[..len]).await?;
                socket.flush().await?;
                println!("asked to {}", app.shutdown().await);
                Ok(())
            };
            let running = guest.start(main).await;
            let peer = running.peer::<4>("10.0.0.1/24").await;
            running.wait_for("network: 10.0.0.2/24\nlistening\n").await;
            let (mut incoming, mut outgoing) = ([0; 2048], [0; 2048]);
            let mut socket = TcpSocket::new(peer, &mut incoming, &mut outgoing);
            socket.connect((Ipv4Address::new(10, 0, 0, 2), 7)).await.unwrap();
            socket.write_all(b"hello").await.unwrap();
            let mut answer = [0; 5];
            socket.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"hello");
            assert_eq!(running.get("data/ip").await.as_deref(), Some("10.0.0.2/24"));
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    use sarab::hal::DomId;
    use std::fmt::Write;
    let run = |seed| {
        let xen = sarab::testing::Xen::new(seed);
        let ended = Guest::new(&xen).disk("xvda", vec![0; 4096]).run(async |app: App| {
            use rand_core::TryRng;
            assert!(app.domain_id().is_some_and(|id| id != DomId::DOM0));
            let mut text = String::new();
            let random = app.entropy().expect("numbers").try_next_u64().expect("a number");
            app.disk("xvda").await.expect("the disk");
            write!(text, "{random} {:?} {:?}", app.clock().now(), app.clock().wall()).expect("a text");
            println!("{text}");
        });
        xen.end();
        ended.console().to_owned()
    };
    let runs: BTreeSet<_> = (0..5).map(run).collect();
    assert_eq!(runs.len(), 5);
    assert_eq!(runs, (0..5).map(run).collect());
}
