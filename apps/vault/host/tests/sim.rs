//! The whole driver domain on this machine, in a simulated Xen, and guests with disks of it. Each run has a seed; where one fails,
//! its seed is printed.

use sarab::block::BlockDevice;
use sarab::testing::{End, Faults, Guest, check};
use sarab::{App, println};

/// A guest that counts its starts on its disk.
async fn counting(app: App) -> sarab::Result {
    let disk = app.disk("xvda").await?;
    let mut found = [0; 1024];
    disk.read_bytes(9, &mut found).await?;
    disk.write_bytes(9, &[found[0] + 1; 1024]).await?;
    disk.flush().await?;
    println!("{} {}", found[0], found[1023]);
    Ok(())
}

#[test]
fn a_guest_finds_again_what_it_has_written() {
    check("ramdisk=", 10, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let guest = Guest::new(xen).command_line("ramdisk=64K");
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ram: 128 sectors\nvault: ready\n").await;
            // The disk stays what it is while guests come and go.
            for expected in ["0 0\n", "1 1\n"] {
                let ended = Guest::new(&xen).disk_of("xvda", &vault, "ram").start(counting).await.ended().await;
                assert_eq!((ended.how(), ended.console()), (End::PowerOff, expected));
            }
            vault.wait_for(": 1 reads (1024 bytes), 1 writes (1024 bytes), 1 flushes").await;
            vault.shutdown().await;
            let ended = vault.ended().await;
            assert_eq!(ended.how(), End::PowerOff);
            assert!(ended.console().ends_with("vault: asked to poweroff\n"), "{}", ended.console());
        });
    });
}

#[test]
fn a_disk_of_its_own_is_passed_on() {
    check("pass=", 10, |xen| {
        let guest = Guest::new(xen).command_line("pass=xvda").disk("xvda", vec![0; 64 << 10]);
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            let ended = Guest::new(&xen).disk_of("xvda", &vault, "xvda").start(counting).await.ended().await;
            assert_eq!((ended.how(), ended.console()), (End::PowerOff, "0 0\n"));
            vault.shutdown().await;
            let ended = vault.ended().await;
            assert_eq!(ended.how(), End::PowerOff);
            assert_eq!(ended.disk("xvda")[9 * 512..11 * 512], [1; 1024]);
        });
    });
}

#[test]
fn what_there_is_nothing_to_serve_of_is_an_error() {
    check("nothing", 5, |xen| {
        let ended = Guest::new(xen).run(vault::main);
        assert_eq!(ended.how(), End::Crash);
        assert_eq!(ended.console(), "error: nothing to serve: give ramdisk=SIZE, pass=DISK or both\n");
    });
}
