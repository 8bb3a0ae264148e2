//! Disks by their names, as they come and go, and drives whose media may be missing.

use std::future::pending;
use std::time::Duration;

use sarab::block::BlockDevice;
use sarab::testing::{End, Guest, check};
use sarab::{App, println};

const SEEDS: u64 = 10;

/// Prints which disk is the first, and how it begins.
async fn first(app: App) -> sarab::Result {
    let disk = app.first_disk().await?;
    let mut sector = [0; 512];
    disk.read_bytes(0, &mut sector).await?;
    println!("first disk: {}, {}", disk.name(), sector[0]);
    app.shutdown().await;
    Ok(())
}

async fn idle(_: App) {
    println!("idle");
    pending().await
}

#[test]
fn disks_have_all_the_names_of_the_interface_document() {
    const NAMES: [(&str, &str); 8] = [
        ("xvda", "xvda"),
        ("d1p2", "xvdb2"),
        ("xvdaa", "xvdaa"),
        ("xvdaa3", "xvdaa3"),
        ("sda1", "sda1"),
        ("hdd", "hdd"),
        ("0xca20", "xvdc"),
        ("268442368", "xvdab"),
    ];
    check("names", SEEDS, |xen| {
        let guest =
            NAMES.iter().zip(1_u8..).fold(Guest::new(xen), |guest, ((name, _), number)| guest.disk(name, [number]));
        let ended = guest.run(async |app: App| {
            for ((name, known), number) in NAMES.iter().zip(1_u8..) {
                // By the name in the xl file, and by the one that messages have.
                for name in [name, known] {
                    let disk = app.disk(name).await?;
                    assert_eq!(disk.name(), *known);
                    let mut sector = [0; 512];
                    disk.read_bytes(0, &mut sector).await?;
                    assert_eq!(sector[0], number, "{name}");
                    drop(disk);
                    sarab::time::Timer::after_secs(1).await;
                }
            }
            Ok::<(), sarab::Error>(())
        });
        assert_eq!((ended.how(), ended.console()), (End::PowerOff, ""));
    });
}

#[test]
fn what_is_no_name_and_what_is_not_there_are_errors() {
    for (name, expected) in [
        (
            "floppy",
            "error: disk `floppy`: expected xvda, sda (to sdp), hda (to hdd) or d0p0, a partition such as xvda1",
        ),
        ("xvdaa", "error: disk xvdaa: not found; the xl file lists the disks (disk = [...])\n"),
    ] {
        check("no disk", 2, |xen| {
            let ended = Guest::new(xen).run(move |app: App| async move { app.disk(name).await.map(drop) });
            assert!(ended.console().starts_with(expected), "{}", ended.console());
            assert_eq!(ended.how(), End::Crash);
        });
    }
    check("none", 2, |xen| {
        let ended = Guest::new(xen).run(first);
        assert_eq!(ended.console(), "error: the domain has no disk; its xl file lists them (disk = [...])\n");
    });
}

#[test]
fn the_first_disk_is_the_first_with_a_medium() {
    check("media", SEEDS, |xen| {
        let drives = |xen| Guest::new(xen).cdrom("hda", []).cdrom("hdc", [5]);
        for (guest, expected, is_empty_drive_first) in [
            // In the order of their numbers: hda, hdc, xvda.
            (drives(xen).disk("xvda", [9]), "first disk: hdc, 5\n", false),
            (Guest::new(xen).cdrom("hda", []).disk("xvda", [9]), "first disk: xvda, 9\n", true),
            (Guest::new(xen).disk("xvda", [9]).cdrom("xvdb", [5]), "first disk: xvda, 9\n", false),
        ] {
            xen.run(async move {
                let running = guest.start(first).await;
                running.wait_for(expected).await;
                // The drives that were looked into are free.
                if is_empty_drive_first {
                    running.detach_disk("hda").await;
                }
                running.shutdown().await;
                let ended = running.ended().await;
                assert_eq!(ended.console(), expected);
            });
        }
    });
}

#[test]
fn a_medium_is_waited_for() {
    check("no medium", SEEDS, |xen| {
        let guest = Guest::new(xen).cdrom("hda", []);
        xen.run(async move {
            let running = guest.start(first).await;
            running.wait_for("disk hda: waiting for a medium for 5 s (domain ").await;
            running.wait_for("state 4, Connected)\n").await;
            running.wait_for("for 60 s").await;
            running.sleep(Duration::from_secs(3600)).await;
            // Another drive comes, empty too; and the first one again, with something in it, as `xl cd-insert` is not for
            // PVH.
            running.attach_cdrom("hdb", []).await;
            running.sleep(Duration::from_secs(10)).await;
            running.detach_disk("hda").await;
            running.attach_cdrom("hda", [7]).await;
            running.wait_for("disk hda: it has a medium\nfirst disk: hda, 7\n").await;
            assert_eq!(running.console().matches("waiting").count(), 3, "{}", running.console());
            running.shutdown().await;
            running.ended().await;
        });
    });
    check("another disk", SEEDS, |xen| {
        let guest = Guest::new(xen).cdrom("hda", []);
        xen.run(async move {
            let running = guest.start(first).await;
            running.sleep(Duration::from_secs(2)).await;
            running.attach_disk("xvdaa", [8]).await;
            running.wait_for("first disk: xvdaa, 8\n").await;
            running.shutdown().await;
            running.ended().await;
        });
    });
}

/// The backend's domain does nothing: its driver is not loaded.
#[test]
fn a_backend_that_does_not_come_is_named() {
    check("no backend", SEEDS, |xen| {
        let server = Guest::new(xen);
        let xen = xen.clone();
        xen.clone().run(async move {
            let server = server.start(idle).await;
            let domain = server.domain().id().0;
            let guest = Guest::new(&xen).disk_of("xvdaa", &server, "ram");
            let running = guest.start(first).await;
            running
                .wait_for(&format!(
                    "disk xvdaa: waiting for its backend for 5 s (domain {domain}, state 1, Initialising)\n"
                ))
                .await;
            running.wait_for("for 60 s").await;
            running.wait_for("for 600 s").await;
            running.sleep(Duration::from_secs(3600)).await;
            assert_eq!(running.console().matches("waiting").count(), 3, "{}", running.console());
            running.destroy();
            server.destroy();
        });
    });
}

/// `xl block-detach` of disks that the application does not use.
#[test]
fn disks_that_nobody_uses_are_detached() {
    check("unused", SEEDS, |xen| {
        let guest = Guest::new(xen).disk("xvda", [1]).cdrom("hda", []);
        xen.run(async move {
            let running = guest.start(idle).await;
            running.wait_for("idle").await;
            running.attach_disk("xvdaa", [1]).await;
            for name in ["xvda", "hda", "xvdaa"] {
                running.detach_disk(name).await;
            }
            running.destroy();
            running.ended().await;
        });
    });
}

/// As Linux's backend waits for it; the simulation's does not.
#[test]
fn the_toolstack_has_an_answer_for_a_disk_that_nobody_uses() {
    check("answer", SEEDS, |xen| {
        let (server, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let server = server.start(idle).await;
            let running = Guest::new(&xen).disk_of("xvdaa", &server, "ram").start(idle).await;
            running.wait_for("idle").await;
            running.sleep(Duration::from_secs(1)).await;
            assert_eq!(running.get("device/vbd/268442112/state").await.as_deref(), Some("1"));
            server.set(&format!("backend/vbd/{}/268442112/state", running.domain().id().0), "5").await;
            running.sleep(Duration::from_secs(1)).await;
            assert_eq!(running.get("device/vbd/268442112/state").await.as_deref(), Some("6"));
            running.destroy();
            server.destroy();
        });
    });
}
