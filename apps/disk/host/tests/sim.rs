//! The whole program on this machine, in a simulated Xen, on disks that are served by another guest. Each run has a seed; where one
//! fails, its seed is printed.

use sarab::block::Error;
use sarab::block::back::{self, Attachment, Limits};
use sarab::block::faulty::{DeviceRequest, Faulty};
use sarab::block::ramdisk::RamDisk;
use sarab::testing::{End, Ended, Faults, Guest, Xen, check};
use sarab::{App, println};
use serde_json::Value;

/// Sectors of the disk: as many as no read or write of the program ends with.
const SECTORS: u64 = 1300;
/// What `sha256sum` says of 1000 bytes of 7, filled up to two sectors.
const SUM: &str = "sha256 0a9dde58ef0191b98ac84437abfab803c40551890f39f5dbfc6310f1a4ad1331 1024\n";

/// A guest that serves a disk, of which a sector cannot be read that the command line may name.
async fn server(app: App) -> sarab::Result {
    let bad = app.args().get::<u64>("bad")?.unwrap_or(u64::MAX);
    let ram = RamDisk::new(app.xen(), SECTORS)?;
    let open = async |_: &Attachment| {
        Ok(Faulty::new(ram.clone(), async move |ask| match ask {
            DeviceRequest::Read(sector, count) if (sector..sector + count).contains(&bad) => {
                Err(Error::Failed { operation: "read", sector: bad })
            }
            _ => Ok(()),
        }))
    };
    println!("ready");
    let store = app.store()?;
    match back::serve(&store, app.xen(), Limits::default(), open, |_, _| ()).await? {}
}

/// Runs a test with a server's disk, on which the program can be run with one command line after the other.
fn with_server(
    name: &str,
    seeds: u64,
    arguments: &'static str,
    test: impl AsyncFn(&dyn Fn(&str) -> Guest) + Copy + Sync + 'static,
) {
    check(name, seeds, |xen: &Xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let xen = xen.clone();
        xen.clone().run(async move {
            let server = Guest::new(&xen).command_line(arguments).start(server).await;
            server.wait_for("ready\n").await;
            let guest = |line: &str| Guest::new(&xen).command_line(line).disk_of("xvda", &server, "ram");
            test(&guest).await;
            server.shutdown().await;
            server.ended().await;
        });
    });
}

async fn run(guest: Guest) -> Ended {
    guest.start(disk::main).await.ended().await
}

#[test]
fn what_was_filled_is_verified() {
    with_server("fill", 8, "", async |guest| {
        let filled = run(guest("mode=fill seed=3")).await;
        assert_eq!((filled.how(), filled.console()), (End::PowerOff, "fill: 1300 sectors with seed 3\n"));
        for ring in ["", " ring=0", " disk=xvda"] {
            let verified = run(guest(&format!("mode=verify seed=3{ring}"))).await;
            assert_eq!((verified.how(), verified.console()), (End::PowerOff, "verify: 1300 sectors with seed 3\n"));
        }
        let other = run(guest("mode=verify seed=4")).await;
        assert_eq!(other.how(), End::Crash);
        assert!(
            other.console().starts_with("error: disk xvda: verify: byte 0 of sector 0 is 0x"),
            "{}",
            other.console()
        );
    });
}

#[test]
fn a_sector_of_another_place_is_found() {
    check("swapped", 8, |xen| {
        let filled = Guest::new(xen).command_line("mode=fill").disk("xvda", vec![0; 300 << 10]).run(disk::main);
        assert_eq!((filled.how(), filled.console()), (End::PowerOff, "fill: 600 sectors with seed 0\n"));
        let mut image = filled.disk("xvda").to_vec();
        let (low, high) = image.split_at_mut(580 * 512);
        low[20 * 512..21 * 512].swap_with_slice(&mut high[..512]);
        let found = Guest::new(xen).command_line("mode=verify disk=xvda").disk("xvda", image).run(disk::main);
        assert_eq!(found.how(), End::Crash);
        assert!(
            found.console().starts_with("error: disk xvda: verify: byte 0 of sector 20 is 0x"),
            "{}",
            found.console()
        );
    });
}

#[test]
fn a_disk_that_fails_is_named_with_the_sector() {
    with_server("a bad sector", 8, "bad=700", async |guest| {
        for mode in ["hash", "verify", "bench"] {
            let ended = run(guest(&format!("mode={mode}"))).await;
            assert_eq!(ended.how(), End::Crash, "{mode}");
            let expected = match mode {
                // All is zero, which no pattern is.
                "verify" => "error: disk xvda: verify: byte 0 of sector 0 ",
                _ => "error: disk xvda: the device has failed to read at sector ",
            };
            let error = ended.console().lines().last().unwrap();
            assert!(error.starts_with(expected), "{mode}: {}", ended.console());
        }
        // What is written is not read.
        assert_eq!(run(guest("mode=fill")).await.how(), End::PowerOff);
    });
}

#[test]
fn it_tells_what_a_disk_is_like_and_what_is_on_it() {
    check("info", 8, |xen| {
        let info = Guest::new(xen).read_only_disk("xvda", vec![7; 1000]).run(disk::main);
        assert_eq!(info.how(), End::PowerOff);
        let info: Value = serde_json::from_str(info.console()).unwrap();
        let found = ["bytes", "sectors", "sector_size", "read_only"].map(|key| &info[key]);
        assert_eq!(found, [&Value::from(1024), &2.into(), &512.into(), &true.into()], "{info}");
        let sum = Guest::new(xen).command_line("mode=hash").disk("xvda", vec![7; 1000]).run(disk::main);
        assert_eq!((sum.how(), sum.console()), (End::PowerOff, SUM));
    });
}

#[test]
fn it_measures_reads_and_writes() {
    check("bench", 2, |xen| {
        let guest = Guest::new(xen).command_line("mode=bench ms=1 write=yes").disk("xvda", vec![0; 60 << 10]);
        let ended = guest.run(disk::main);
        assert_eq!(ended.how(), End::PowerOff, "{}", ended.console());
        let lines: Vec<Value> = ended.console().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // Reads and writes, one after the other and anywhere, few and many at once, of the one size that the disk has room for.
        assert_eq!(lines.len(), 8, "{}", ended.console());
        for line in lines {
            assert!(line["iops"].as_u64() > Some(0) && line["p99_us"].as_u64() >= line["p50_us"].as_u64(), "{line}");
        }
    });
}

#[test]
fn a_disk_that_is_not_there_is_an_error() {
    check("no disk", 5, |xen| {
        for (line, error) in [
            ("", "the domain has no disk; its xl file lists them (disk = [...])"),
            ("disk=xvdb", "disk xvdb: not found; the xl file lists the disks (disk = [...])"),
            ("mode=format", "command line: `mode=format`: expected info, hash, fill, verify, bench or watch"),
        ] {
            let ended = Guest::new(xen).command_line(line).run(disk::main);
            assert_eq!((ended.how(), ended.console()), (End::Crash, &*format!("error: {error}\n")));
        }
    });
}

#[test]
fn it_measures_again_until_it_is_asked_to_end() {
    check("again", 2, |xen| {
        let xen = xen.clone();
        xen.clone().run(async move {
            let guest = Guest::new(&xen).command_line("mode=bench ms=1 again=yes").disk("xvda", vec![0; 60 << 10]);
            let guest = guest.start(disk::main).await;
            // Four in all without `again`.
            while guest.console().lines().count() < 6 {
                guest.sleep(std::time::Duration::from_millis(1)).await;
            }
            guest.shutdown().await;
            assert_eq!(guest.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn all_disks_are_in_use_at_once() {
    check("all", 2, |xen| {
        let guest = (0..40_u32).fold(Guest::new(xen).command_line("mode=hash disk=all"), |guest, number| {
            let content = if number == 29 { 7 } else { 1 };
            guest.disk(&format!("d{number}"), vec![content; 1000])
        });
        let ended = guest.run(disk::main);
        let lines: Vec<_> = ended.console().lines().collect();
        assert_eq!((ended.how(), lines.len()), (End::PowerOff, 40), "{}", ended.console());
        // In the order of their numbers: d29 is xvdad.
        assert_eq!(format!("{}\n", lines[29]), SUM);
        assert_eq!(lines.iter().filter(|line| **line == lines[29]).count(), 1);
    });
}

#[test]
fn it_tells_how_large_a_disk_is_while_it_reads() {
    check("watch", 4, |xen| {
        let guest = Guest::new(xen).command_line("mode=watch").disk("xvda", vec![0; 60 << 10]);
        xen.run(async move {
            let guest = guest.start(disk::main).await;
            guest.wait_for("disk xvda: 120 sectors\n").await;
            guest.sleep(std::time::Duration::from_secs(10)).await;
            guest.detach_disk("xvda").await;
            let ended = guest.ended().await;
            assert_eq!(ended.how(), End::Crash);
            assert!(ended.console().ends_with("error: disk xvda: the device is gone\n"), "{}", ended.console());
        });
    });
}
