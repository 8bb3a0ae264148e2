//! The whole driver domain on this machine, in a simulated Xen, and guests with disks of it. Each run has a seed; where one fails,
//! its seed is printed.

use std::time::Duration;

use sarab::block::BlockDevice;
use sarab::hal::Clock;
use sarab::testing::{End, Ended, Faults, Guest, Running, Xen, check};
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
        assert_eq!(ended.console(), "error: nothing to serve: give ramdisk=SIZE, pass=DISK or pool=DISK\n");
    });
}

/// A guest that has the device until it is asked to end.
async fn staying(app: App) -> sarab::Result {
    let disk = app.disk("xvda").await?;
    disk.write_bytes(0, &[7; 512]).await?;
    println!("has it");
    app.shutdown().await;
    disk.flush().await?;
    Ok(())
}

/// A guest that writes what the first sector lacks, and says what it held.
async fn marking(app: App) -> sarab::Result {
    let disk = app.disk("xvda").await?;
    let mut found = [0; 512];
    disk.read_bytes(0, &mut found).await?;
    if disk.geometry().read_only {
        println!("{} read-only", found[0]);
    } else {
        disk.write_bytes(0, &[found[0] + 1; 512]).await?;
        disk.flush().await?;
        println!("{}", found[0]);
    }
    Ok(())
}

async fn mark(xen: &Xen, vault: &Running, target: &str) -> Ended {
    Guest::new(xen).disk_of("xvda", vault, target).start(marking).await.ended().await
}

/// What the toolstack is told where a guest does not get its disk.
async fn refusal(xen: &Xen, vault: &Running, target: &str) -> String {
    let guest = Guest::new(xen).disk_of("xvda", vault, target).start(marking).await;
    let path = format!("error/backend/vbd/{}/51712/error", guest.domain().id().0);
    let mut said = None;
    for _ in 0..10_000 {
        said = vault.get(&path).await;
        if said.is_some() {
            break;
        }
        vault.sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(guest.console(), "");
    guest.destroy();
    guest.ended().await;
    said.unwrap_or_else(|| panic!("{target}: no {path}"))
}

async fn command(vault: &Running, line: &str, answer: &str) {
    let seen = vault.console().len();
    vault.type_in(&format!("{line}\n"));
    while !vault.console()[seen..].ends_with('\n') {
        vault.sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(vault.console()[seen..].trim_end(), format!("vault: {answer}"), "{line}");
}

#[test]
fn a_second_writer_is_refused_as_by_xbdback() {
    check("EBUSY", 5, |xen| {
        let guest = Guest::new(xen).command_line("ramdisk=64K");
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            let first = Guest::new(&xen).disk_of("xvda", &vault, "ram").start(staying).await;
            first.wait_for("has it\n").await;
            let said = refusal(&xen, &vault, "ram").await;
            let number = first.domain().id().0;
            let expected = format!(
                "16 ram: cannot open it: error 16, it is in use by domain {number}; it has to be detached there first, as it is \
                 not opened a second time"
            );
            assert_eq!(said, expected);
            // With what it writes in memory it disturbs nobody, but what it reads changes under it.
            assert!(refusal(&xen, &vault, "ram,snapshot=on").await.starts_with("16 "));
            command(&vault, "list", &format!("ram: 64 KiB, domain {number}")).await;

            // A guest that was migrated here has it when the other is gone.
            let second = Guest::new(&xen).disk_of("xvda", &vault, "ram,handover=on").start(marking).await;
            second.sleep(Duration::from_secs(3)).await;
            assert_eq!(second.console(), "");
            assert!(refusal(&xen, &vault, "ram,handover=on").await.starts_with("16 "), "a third");
            first.shutdown().await;
            assert_eq!(first.ended().await.how(), End::PowerOff);
            assert_eq!(second.ended().await.console(), "7\n");
            command(&vault, "list", "ram: 64 KiB").await;
        });
    });
}

#[test]
fn what_a_throw_away_guest_writes_is_gone_with_it() {
    check("snapshot=on", 5, |xen| {
        let guest = Guest::new(xen).command_line("ramdisk=64K");
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            assert_eq!(mark(&xen, &vault, "ram").await.console(), "0\n");
            for _ in 0..3 {
                assert_eq!(mark(&xen, &vault, "ram,snapshot=on").await.console(), "1\n");
            }
            assert_eq!(mark(&xen, &vault, "ram").await.console(), "1\n");
        });
    });
}

#[test]
fn a_guest_gets_what_it_may_have() {
    check("allow", 5, |xen| {
        let guest = Guest::new(xen).command_line("ramdisk=64K commands=\"allow ram none\"");
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ram: none\nvault: ready\n").await;
            assert!(refusal(&xen, &vault, "ram").await.starts_with("13 ram: domain "));
            command(&vault, "allow ram 77,mail", "ram: 77,mail").await;
            assert!(refusal(&xen, &vault, "ram").await.contains("may not have it (allowed: 77, mail)"));
            command(&vault, "allow ram any ro", "ram: any, read-only").await;
            assert!(refusal(&xen, &vault, "ram").await.contains("30 ram: it may only be read (access=ro)"));
            assert_eq!(mark(&xen, &vault, "ram,snapshot=on").await.console(), "0\n");
            command(&vault, "allow ram any", "ram: any").await;
            assert_eq!(mark(&xen, &vault, "ram").await.console(), "0\n");
            for (target, expected) in [
                ("rom", "target=rom: there is no such device here; there are ram"),
                ("ram,snapshots=on", "unknown option `snapshots`; there are snapshot, handover, raw and encrypted"),
                ("ram,snapshot", "expected snapshot=on or snapshot=off"),
                ("", "target=: there is no such device"),
            ] {
                let said = refusal(&xen, &vault, target).await;
                assert!(said.contains(expected), "{target}: {said}");
            }
        });
    });
}

#[test]
fn a_guest_is_as_fast_as_it_may_be() {
    check("limit", 3, |xen| {
        let guest = Guest::new(xen).command_line("ramdisk=64K commands=\"limit default iops=100 rate=10M\"");
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: default: bytes a second: 10485760, requests a second: 100\n").await;
            let load = async |app: App| {
                let disk = app.disk("xvda").await?;
                let start = app.clock().now();
                for _ in 0..100 {
                    disk.read_bytes(0, &mut [0; 512]).await?;
                }
                println!("{}", (app.clock().now() - start).as_millis() / 100);
                Ok::<(), sarab::Error>(())
            };
            let ended = Guest::new(&xen).disk_of("xvda", &vault, "ram").start(load).await.ended().await;
            assert_eq!(ended.console(), "9\n", "a tenth of a second's may come at once");
            while vault.console().matches(" reads (").count() < 1 {
                vault.sleep(Duration::from_millis(1)).await;
            }
            command(&vault, "limit default", "default: bytes a second: no limit, requests a second: no limit").await;
            let ended = Guest::new(&xen).disk_of("xvda", &vault, "ram").start(load).await.ended().await;
            assert_eq!(ended.console(), "0\n");
            // What is printed of a guest that has ended comes by itself.
            while vault.console().matches(" reads (").count() < 2 {
                vault.sleep(Duration::from_millis(1)).await;
            }
            command(
                &vault,
                "limit 5 rate=fast",
                "error: limit: `rate=fast`: expected a size such as 512, 16K, 16M or 2G",
            )
            .await;
        });
    });
}

#[test]
fn a_key_opens_a_device_until_its_guest_has_gone() {
    check("keys", 2, |xen| {
        let guest = Guest::new(xen).memory(24).command_line("ramdisk=2M key=module").module("a key\n");
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            let plain = refusal(&xen, &vault, "ram,encrypted=on").await;
            assert!(plain.contains("ram: encrypted=on, but it is not encrypted"), "{plain}");
            command(&vault, "encrypt ram", "ram: encrypted and unlocked, 2048 sectors").await;
            let first = Guest::new(&xen).disk_of("xvda", &vault, "ram").start(staying).await;
            first.wait_for("has it\n").await;
            first.shutdown().await;
            first.ended().await;
            vault.wait_for("vault: ram: locked\n").await;
            let said = refusal(&xen, &vault, "ram").await;
            assert!(said.contains("ram: it is encrypted and locked; `unlock ram KEY` opens it"), "{said}");
            command(&vault, "unlock ram wrong", "error: unlock: ram: No key available with this passphrase.").await;
            command(&vault, "add-key ram @module \"correct horse\"", "ram: keyslot 1").await;
            command(&vault, "unlock ram \"correct horse\" keep", "ram: unlocked, 2048 sectors").await;
            for expected in ["7\n", "8\n"] {
                assert_eq!(mark(&xen, &vault, "ram").await.console(), expected);
            }
            while vault.console().matches(" reads (").count() < 3 {
                vault.sleep(Duration::from_millis(1)).await;
            }
            command(&vault, "lock ram", "ram: locked").await;
            // What is there is encrypted.
            let raw = mark(&xen, &vault, "ram,raw=on,snapshot=on").await;
            assert_eq!(raw.console(), "76\n", "the L of LUKS");
            command(&vault, "remove-key ram @module", "ram: keyslot 0 removed").await;
            command(&vault, "unlock ram", "error: unlock: ram: No key available with this passphrase.").await;
            let last = "error: remove-key: ram: this is the last keyslot: without it nothing could open the volume";
            command(&vault, "remove-key ram \"correct horse\"", last).await;
            let used = "error: encrypt: ram: it is not empty: it holds a LUKS container; `encrypt NAME KEY force` destroys that";
            command(&vault, "encrypt ram", used).await;
        });
    });
}

#[test]
fn partitions_are_disks_of_their_own() {
    // An MBR as fdisk writes it: one of Linux's from sector 64 on, a second one that reaches past the disk's end, one in the
    // first, and one with the table in it.
    let mut disk = vec![0; 64 << 10];
    for (at, first, sectors) in [(446, 64_u32, 32_u32), (462, 96, 1000), (478, 95, 8), (494, 0, 8)] {
        disk[at + 4] = 0x83;
        disk[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    check("partitions", 3, |xen| {
        let guest = Guest::new(xen).command_line("pass=xvdb").disk("xvdb", disk.clone());
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            let console = vault.console();
            assert!(console.contains("vault: xvdb1: 32 sectors\nvault: xvdb: 128 sectors\n"), "{console}");
            assert!(
                console.contains("partition 2: 1000 sectors at 96 reach past the device's end at 128"),
                "{console}"
            );
            assert_eq!(mark(&xen, &vault, "xvdb1").await.console(), "0\n");
            for number in [3, 4] {
                let line = format!("vault: partition {number}: it overlaps the partition table or another partition\n");
                assert!(console.contains(&line), "{console}");
                assert!(!console.contains(&format!("vault: xvdb{number}:")), "{console}");
            }
            // Who has a partition has the disk, and the other way round.
            let first = Guest::new(&xen).disk_of("xvda", &vault, "xvdb1").start(staying).await;
            first.wait_for("has it\n").await;
            assert!(refusal(&xen, &vault, "xvdb").await.starts_with("16 "));
            first.shutdown().await;
            first.ended().await;
            vault.shutdown().await;
            assert_eq!(vault.ended().await.disk("xvdb")[64 * 512..65 * 512], [7; 512]);
        });
    });
}

#[test]
fn volumes_are_made_kept_and_deleted_while_guests_use_others() {
    check("pool", 2, |xen| {
        let line = "pool=xvda,xvdb format=yes commands=\"create mail 4M if-missing; create db 1M thick checksums\"";
        let start = async |xen: &Xen, [one, other]: [Vec<u8>; 2]| {
            let guest = Guest::new(xen).command_line(line).disk("xvda", one).disk("xvdb", other);
            guest.start(vault::main).await
        };
        let xen = xen.clone();
        let disks = xen.clone().run(async move {
            let vault = start(&xen, [vec![0; 4 << 20], vec![0; 4 << 20]]).await;
            vault.wait_for("vault: ready\n").await;
            assert!(vault.console().contains("vault: pool: formatted 2 disks\n"), "{}", vault.console());
            assert_eq!(mark(&xen, &vault, "mail").await.console(), "0\n");
            assert_eq!(mark(&xen, &vault, "db").await.console(), "0\n");
            command(&vault, "snapshot mail monday", "monday: snapshot of mail").await;
            assert_eq!(mark(&xen, &vault, "mail").await.console(), "1\n");
            assert_eq!(mark(&xen, &vault, "monday").await.console(), "1\n");

            let first = Guest::new(&xen).disk_of("xvda", &vault, "mail").start(staying).await;
            first.wait_for("has it\n").await;
            let number = first.domain().id().0;
            command(&vault, "delete mail", &format!("error: delete: mail: domain {number} has it")).await;
            command(&vault, "rename mail post", "post: was mail").await;
            command(&vault, "grow post 6M", "post: 6 MiB").await;
            command(&vault, "delete monday", "monday: deleted").await;
            assert!(refusal(&xen, &vault, "post").await.starts_with("16 post: "));
            first.shutdown().await;
            first.ended().await;

            // Through the store, also several at a time.
            vault.set("data/vault/command/1", "create www 1M").await;
            vault.set("data/vault/command/2", "create www 1M").await;
            vault.wait_for("vault: error: create: www: a volume with this name exists\n").await;
            vault.sleep(Duration::from_millis(10)).await;
            assert_eq!(vault.get("data/vault/status/1").await.as_deref(), Some("ok: www: created, 1 MiB"));
            assert_eq!(vault.get("data/vault/command/1").await, None);
            vault.set("data/vault/command", "grow www 1K").await;
            vault.wait_for("vault: error: grow: www: ").await;

            vault.type_in("scrub\n");
            vault.wait_for("vault: scrub: 64 KiB read, 0 bad blocks; ").await;
            vault.shutdown().await;
            let ended = vault.ended().await;
            assert_eq!(ended.how(), End::PowerOff, "{}", ended.console());
            [ended.disk("xvda").to_vec(), ended.disk("xvdb").to_vec()]
        });
        // The same disks on another host: nothing is formatted, and all is there.
        let xen = Xen::new(7);
        xen.clone().run(async move {
            let vault = start(&xen, disks).await;
            vault.wait_for("vault: ready\n").await;
            assert!(!vault.console().contains("formatted"), "{}", vault.console());
            assert_eq!(mark(&xen, &vault, "post").await.console(), "7\n");
            assert_eq!(mark(&xen, &vault, "db").await.console(), "1\n");
            vault.shutdown().await;
            assert_eq!(vault.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn disks_that_are_no_pool_are_refused_with_words() {
    let empty = || vec![0; 4 << 20];
    let start = |line: &str, disks: [Vec<u8>; 2]| {
        let [one, other] = disks;
        Guest::new(&Xen::new(1)).command_line(line).disk("xvda", one).disk("xvdb", other)
    };
    let made = {
        let xen = Xen::new(1);
        let guest = Guest::new(&xen).command_line("pool=xvda,xvdb format=yes");
        let guest = guest.disk("xvda", empty()).disk("xvdb", empty());
        xen.run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            vault.shutdown().await;
            vault.ended().await
        })
    };
    let (one, other) = (made.disk("xvda").to_vec(), made.disk("xvdb").to_vec());
    let mut used = empty();
    used[1080..1082].copy_from_slice(b"\x53\xef");
    for (line, disks, expected) in [
        ("pool=xvdb,xvda", [one.clone(), other.clone()], "disk 0 is disk 1 of the pool"),
        ("pool=xvda", [one.clone(), empty()], "the pool is on 2 disks, and 1 are given"),
        ("pool=xvda,xvdb", [empty(), empty()], "disk 0 is of no pool: it holds nothing but zeroes"),
        ("pool=xvda,xvdb format=yes", [empty(), used.clone()], "disk 1 is not empty: it holds an ext2, ext3 or ext4"),
        ("pool=xvda,xvdb format=yes", [one, used], "disk 1 is of no pool"),
        ("pool=ram", [empty(), empty()], "pool=ram: ramdisk=SIZE says how large it is"),
        (
            "pool=xvda pass=xvdb,51712",
            [empty(), empty()],
            "disk xvda: pass= and pool= name it more than once (as 51712)",
        ),
        ("pool=ram,ram ramdisk=4M", [empty(), empty()], "disk ram: pass= and pool= name it more than once (as ram)"),
    ] {
        let ended = start(line, disks).run(vault::main);
        assert_eq!(ended.how(), End::Crash);
        assert!(ended.console().contains(expected), "{line}: {}", ended.console());
    }
}

#[test]
fn the_rest_of_a_passphrase_is_not_said() {
    check("words", 2, |xen| {
        let guest = Guest::new(xen).command_line("ramdisk=64K");
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            let lines = [
                "unlock ram correct horse",
                "encrypt ram correct horse",
                "lock ram horse",
                "remove-key ram correct horse",
            ];
            for line in
                lines.into_iter().chain(["add-key ram correct battery horse", "change-key ram correct battery horse"])
            {
                vault.set("data/vault/command/it", line).await;
                while vault.get("data/vault/command/it").await.is_some() {
                    vault.sleep(Duration::from_millis(1)).await;
                }
                vault.sleep(Duration::from_millis(10)).await;
                let status = vault.get("data/vault/status/it").await.unwrap_or_default();
                assert!(status.contains("there are more words than expected"), "{line}: {status}");
                assert!(!vault.console().contains("horse"), "{line}: {}", vault.console());
            }
        });
    });
}

#[test]
fn a_command_that_cannot_be_read_leaves_others_be() {
    check("survive", 2, |xen| {
        let guest = Guest::new(xen).command_line("ramdisk=64K");
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            vault.set("data/vault/command", &b"unlock ram p\xe4ssword"[..]).await;
            vault.wait_for("vault: error: not valid UTF-8 after 12 bytes\n").await;
            assert!(!vault.console().contains("ssword"), "{}", vault.console());
            vault.sleep(Duration::from_millis(10)).await;
            assert_eq!(vault.get("data/vault/command").await.as_deref(), Some(""));
            // A name that leaves no room for an answer.
            vault.set(&format!("data/vault/command/{}", "x".repeat(1980)), "help").await;
            vault.sleep(Duration::from_millis(100)).await;
            vault.set("data/vault/command/y", "list").await;
            vault.wait_for("vault: ram: 64 KiB\n").await;
            vault.sleep(Duration::from_millis(10)).await;
            assert_eq!(vault.get("data/vault/status/y").await.as_deref(), Some("ok: ram: 64 KiB"));
        });
    });
}

#[test]
fn a_volume_has_one_writer_while_it_is_renamed() {
    check("rename", 2, |xen| {
        let guest = Guest::new(xen).command_line("pool=xvda format=yes commands=\"create a 1M\"");
        let guest = guest.disk("xvda", vec![0; 8 << 20]);
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            let first = Guest::new(&xen).disk_of("xvda", &vault, "a").start(staying).await;
            first.wait_for("has it\n").await;
            let (mut from, mut to) = ("a", "b");
            for delay in 0..40 {
                let seen = vault.console().len();
                let guest = Guest::new(&xen).disk_of("xvda", &vault, to);
                let path = {
                    let second = guest.start(marking).await;
                    vault.sleep(Duration::from_micros(delay * 25)).await;
                    vault.type_in(&format!("rename {from} {to}\n"));
                    vault.sleep(Duration::from_millis(20)).await;
                    assert_eq!(second.console(), "", "two guests write it ({delay})");
                    second.destroy();
                    second.ended().await;
                    vault.console()[seen..].to_string()
                };
                assert!(path.contains(&format!("{to}: was {from}")), "{path}");
                (from, to) = (to, from);
            }
        });
    });
}

#[test]
fn nobody_gets_a_device_while_it_is_encrypted() {
    check("encrypt", 1, |xen| {
        let guest = Guest::new(xen).memory(24).command_line("pass=xvdb");
        let mut disk = vec![0; 4 << 20];
        disk[446 + 4] = 0x83;
        disk[446 + 8] = 64;
        disk[446 + 13] = 0x10;
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let guest = guest.disk("xvdb", disk);
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            let mut refused = 0;
            for delay in [0, 200, 400, 600, 800, 1000] {
                let seen = vault.console().len();
                let target = if delay % 400 == 0 { "xvdb1" } else { "xvdb1,handover=on" };
                let guest = Guest::new(&xen).disk_of("xvda", &vault, target).start(marking).await;
                vault.sleep(Duration::from_micros(delay)).await;
                vault.type_in("encrypt xvdb1 \"a key\" force\n");
                vault.set("data/vault/command", "encrypt xvdb1 \"another\" force").await;
                let path = format!("error/backend/vbd/{}/51712/error", guest.domain().id().0);
                let said = loop {
                    let said = vault.get(&path).await.unwrap_or_default();
                    if !said.is_empty() || guest.console().ends_with('\n') {
                        break said;
                    }
                    vault.sleep(Duration::from_millis(1)).await;
                };
                refused += usize::from(said.contains("it is in use by a command"));
                guest.destroy();
                guest.ended().await;
                while vault.console()[seen..].matches("xvdb1: ").count() < 2 {
                    vault.sleep(Duration::from_millis(1)).await;
                }
                vault.sleep(Duration::from_millis(10)).await;
                vault.type_in("lock xvdb1\n");
                vault.sleep(Duration::from_millis(10)).await;
                let console = vault.console();
                if console[seen..].contains("another command works on its keys") {
                    // Nobody has written over the header.
                    command(&vault, "unlock xvdb1 \"a key\"", "xvdb1: unlocked, 2048 sectors").await;
                    command(&vault, "lock xvdb1", "xvdb1: locked").await;
                }
            }
            assert!(refused > 0, "{}", vault.console());
            // Who writes the disk writes its partitions.
            let first = Guest::new(&xen).disk_of("xvda", &vault, "xvdb").start(staying).await;
            first.wait_for("has it\n").await;
            let number = first.domain().id().0;
            let refused = format!("error: encrypt: xvdb1: domain {number} has it");
            command(&vault, "encrypt xvdb1 \"a key\" force", &refused).await;
        });
    });
}

#[test]
fn a_device_with_a_damaged_header_is_not_given_as_it_is() {
    check("header", 1, |xen| {
        let encrypt = Guest::new(xen).memory(24).command_line("pass=xvdb commands=\"encrypt xvdb key; lock xvdb\"");
        let encrypt = encrypt.disk("xvdb", vec![0; 2 << 20]);
        let mut disk = xen.clone().run(async move {
            let vault = encrypt.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            vault.shutdown().await;
            vault.ended().await.disk("xvdb").to_vec()
        });
        disk[..4096].fill(0);
        let xen = Xen::new(3);
        let guest = Guest::new(&xen).memory(24).command_line("pass=xvdb").disk("xvdb", disk);
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            let said = refusal(&xen, &vault, "xvdb").await;
            assert!(said.contains("xvdb: it is encrypted and locked"), "{said}");
            vault.type_in("unlock xvdb key\n");
            vault.wait_for("vault: xvdb: unlocked, 2048 sectors; LUKS2 primary header").await;
            assert_eq!(mark(&xen, &vault, "xvdb").await.console().lines().count(), 1);
        });
    });
}

#[test]
fn a_wrong_name_is_no_permission() {
    check("allow", 1, |xen| {
        let guest = Guest::new(xen).command_line("ramdisk=64K");
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            command(&vault, "allow rma none", "error: allow: there is no `rma`").await;
        });
    });
}

/// A guest that writes all of its disk, and says how many bytes of it could be written.
async fn filling(app: App) -> sarab::Result {
    let disk = app.disk("xvda").await?;
    let mut written = 0;
    while disk.write_bytes(written / 512, &[1; 64 << 10]).await.is_ok() {
        written += 64 << 10;
    }
    println!("{written}");
    app.shutdown().await;
    Ok(())
}

#[test]
fn guests_that_are_thrown_away_share_half_of_the_memory() {
    check("spare", 1, |xen| {
        let guest = Guest::new(xen).memory(16).command_line("ramdisk=8M");
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            let mut guests = Vec::new();
            let mut all = 0;
            for _ in 0..6 {
                let guest = Guest::new(&xen).disk_of("xvda", &vault, "ram,snapshot=on").start(filling).await;
                guest.wait_for("\n").await;
                all += guest.console().trim().parse::<u64>().unwrap();
                guests.push(guest);
            }
            assert!((1 << 20..8 << 20).contains(&all), "{all} bytes");
            drop(guests);
        });
    });
}

/// A guest whose drivers change, as with a firmware and its kernel: each connects to the disk anew.
async fn connecting_twice(app: App) -> sarab::Result {
    for number in 0..2 {
        let disk = app.disk("xvda").await?;
        let mut found = [0; 512];
        disk.read_bytes(0, &mut found).await?;
        disk.write_bytes(0, &[number + 1; 512]).await?;
        println!("{}", found[0]);
        drop(disk);
        app.clock().sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

#[test]
fn a_guest_that_connects_again_has_its_device_still() {
    check("again", 3, |xen| {
        let guest = Guest::new(xen).memory(24).command_line("ramdisk=2M commands=\"encrypt ram key\"");
        let xen = xen.clone();
        xen.clone().run(async move {
            let vault = guest.start(vault::main).await;
            vault.wait_for("vault: ready\n").await;
            let ended = Guest::new(&xen).disk_of("xvda", &vault, "ram").start(connecting_twice).await.ended().await;
            assert!(ended.console().ends_with("\n1\n"), "{}\n{}", ended.console(), vault.console());
            vault.wait_for("vault: ram: locked\n").await;
            assert_eq!(vault.console().matches("locked\n").count(), 1, "{}", vault.console());
        });
    });
}
