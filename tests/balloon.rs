//! The balloon in the simulation: a domain's memory follows what the toolstack writes, as far as it can.

use std::time::Duration;

use sarab::hal::{PAGE_SIZE, Reservation, ReservationSize};
use sarab::testing::{End, Faults, Guest, Running, check};
use sarab::{App, println};

const SEEDS: u64 = 20;
const MIB: u64 = 256;

/// Waits for a condition on the domain's memory.
async fn until(running: &Running, what: &str, holds: impl Fn(ReservationSize) -> bool) {
    for _ in 0..2000 {
        if holds(running.domain().size()) {
            return;
        }
        running.sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: {:?}\n{}", running.domain().size(), running.console());
}

/// As `xl mem-set` does.
async fn mem_set(running: &Running, mib: u64) {
    running.domain().limit_reservation(mib * MIB + MIB);
    running.set("memory/target", &(mib * 1024)).await;
}

async fn idle(app: App) {
    println!("up");
    app.shutdown().await;
    println!("{:?}", app.memory());
}

#[test]
fn memory_follows_its_target() {
    check("balloon", SEEDS, |xen| {
        let guest = Guest::new(xen).memory(256).key("memory/target", "262144").key("memory/static-max", "262144");
        let machine = xen.clone();
        xen.run(async move {
            let running = guest.start(idle).await;
            running.wait_for("up").await;
            // A hypercall that fails or does a part is made again.
            machine.set_faults(Faults { reservation: 20, ..Faults::default() });
            let mut random = 7_u64;
            for _ in 0..12 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let mib = 64 + (random >> 33) % 193;
                mem_set(&running, mib).await;
                until(&running, "the target", |size| size.current == mib * MIB).await;
            }
            machine.set_faults(Faults::default());
            mem_set(&running, 100).await;
            until(&running, "the last target", |size| size.current == 100 * MIB).await;
            running.shutdown().await;
            let ended = running.ended().await;
            assert_eq!(ended.how(), End::PowerOff);
            let bytes = |mib: u64| mib << 20;
            for expected in [bytes(100), bytes(256)] {
                assert!(ended.console().contains(&expected.to_string()), "{}", ended.console());
            }
        });
    });
}

#[test]
fn what_is_in_use_and_what_is_kept_stays() {
    check("balloon floor", SEEDS, |xen| {
        let guest = Guest::new(xen).memory(64);
        xen.run(async move {
            let main = async |app: App| {
                app.keep_memory(10 << 20);
                println!("up");
                app.shutdown().await;
            };
            let running = guest.start(main).await;
            running.wait_for("up").await;
            // Nobody has said a target so far.
            assert_eq!(running.domain().size().current, 64 * MIB);
            let used = running.domain().size().current - running.domain().size().free;
            mem_set(&running, 4).await;
            let floor = used + 10 * MIB;
            until(&running, "the floor", |size| size.current == floor).await;
            running.sleep(Duration::from_secs(3600)).await;
            assert_eq!(running.domain().size().current, floor);
            let line = format!("balloon: {} KiB, target 4096 KiB: the application needs the rest\n", floor * 4);
            assert_eq!(running.console(), format!("up\n{line}"), "it is told once");

            // It uses more by and by: that stays, too, with a quarter beside it.
            mem_set(&running, 64).await;
            until(&running, "all", |size| size.current == 64 * MIB).await;
            let size = running.domain().size();
            running.domain().set_reservation(ReservationSize { free: 24 * MIB, ..size });
            mem_set(&running, 1).await;
            until(&running, "the new floor", |size| size.current == 48 * MIB).await;
            assert_eq!(running.domain().size().free, 8 * MIB);
            running.domain().set_reservation(ReservationSize { free: 40 * MIB, ..running.domain().size() });
            until(&running, "what was freed", |size| size.current == floor).await;
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn a_host_without_memory_is_asked_seldom() {
    check("balloon host", SEEDS, |xen| {
        let guest = Guest::new(xen).memory(64);
        let machine = xen.clone();
        xen.run(async move {
            let running = guest.start(idle).await;
            running.wait_for("up").await;
            mem_set(&running, 16).await;
            until(&running, "less", |size| size.current == 16 * MIB).await;
            running.domain().limit_reservation(20 * MIB);
            running.set("memory/target", &(64 * 1024)).await;
            until(&running, "what there is", |size| size.current == 20 * MIB).await;
            running.sleep(Duration::from_secs(3600)).await;
            assert_eq!(
                running.console().matches("balloon: 20480 KiB, target 65536 KiB: the hypervisor gives").count(),
                1
            );
            running.domain().limit_reservation(64 * MIB);
            until(&running, "all", |size| size.current == 64 * MIB).await;
            // Of a target that is none nothing follows; nor of one beyond the memory map.
            for (value, pages) in [("", 64), ("many", 64), ("-1", 64), ("99999999999", 64), ("32768", 32)] {
                running.set("memory/target", value).await;
                running.sleep(Duration::from_secs(10)).await;
                assert_eq!(running.domain().size().current, pages * MIB, "{value}");
            }
            running.save_and_restore().await;
            mem_set(&running, 40).await;
            until(&running, "a target after a restore", |size| size.current == 40 * MIB).await;
            drop(machine);
            running.destroy();
        });
    });
}

#[test]
fn what_the_map_does_not_have_is_taken_off() {
    check("balloon static-max", SEEDS, |xen| {
        // 1 MiB of it is the toolstack's, as with a screen's memory.
        let guest = Guest::new(xen).memory(63).key("memory/static-max", "65536").key("memory/target", "32768");
        xen.run(async move {
            let running = guest.start(idle).await;
            until(&running, "the target", |size| size.current == 31 * MIB).await;
            // `xl mem-max` is no wish for less.
            running.set("memory/static-max", &(128 * 1024)).await;
            mem_set(&running, 48).await;
            until(&running, "the next target", |size| size.current == 47 * MIB).await;
            running.destroy();
        });
        assert_eq!(PAGE_SIZE as u64 * MIB, 1 << 20);
    });
}
