//! LUKS2 volumes that Linux has made, and others that it opens then.

use alloc::string::String;
use alloc::vec;

use core::fmt::Write;

use sarab::block::BlockDevice;
use sarab::block::ramdisk::RamDisk;
use sarab::hal::Clock;
use sarab::{App, println};
use sarab_luks::{FormatOptions, Kdf, Limits, OpenOptions, Volume};

use crate::checks::Checks;
use crate::text;

/// Bytes of a part of the volume, and of a line in it, which is the line's number.
const PART: usize = 1 << 20;
const LINE: usize = 16;

/// Numbered lines from `first` on, as `printf "%015d\n"` writes them.
fn lines(first: usize) -> String {
    let mut text = String::with_capacity(PART);
    for number in first..first + PART / LINE {
        // A `String` takes what there is memory for.
        let _ = writeln!(text, "{number:015}");
    }
    text
}

/// Opens the volume with `key=`, compares its first part with lines from 0 on, and writes lines from a million on to the
/// second.
pub async fn open(app: App, checks: &mut Checks) -> Result<(), String> {
    let key = app.args().require::<&str>("key").map_err(text)?;
    let disk = app.first_disk().await.map_err(text)?;
    let volume = Volume::load(disk, Limits::default()).await.map_err(text)?;
    if let Some(repair) = volume.repair() {
        println!("luks: {repair}");
    }
    let wrong = volume.open(b"wrong", app.xen(), OpenOptions::default()).await;
    let refused = wrong.err().map(text).unwrap_or_default();
    checks.equal(refused.as_str(), "No key available with this passphrase.", "a wrong key");
    let begin = app.clock().now();
    let open = volume.open(key.as_bytes(), app.xen(), OpenOptions::default()).await.map_err(text)?;
    println!("luks: opened in {} ms", (app.clock().now() - begin).as_millis());
    let mut bytes = vec![0; PART];
    open.read_bytes(0, &mut bytes).await.map_err(text)?;
    checks.check(bytes == lines(0).as_bytes(), "what Linux has written");
    open.write_bytes((PART / 512) as u64, lines(1_000_000).as_bytes()).await.map_err(text)?;
    open.flush().await.map_err(text)?;
    measure(app).await
}

/// Makes a volume for `key=` on the disk, adds another key, and writes both parts.
pub async fn format(app: App) -> Result<(), String> {
    let key = app.args().require::<&str>("key").map_err(text)?.as_bytes();
    let mut random = app.entropy().map_err(text)?;
    let disk = app.first_disk().await.map_err(text)?;
    let options = FormatOptions::default().with_label("ours");
    let mut volume = Volume::format(disk, b"first", &options, &mut random).await.map_err(text)?;
    volume.add_key(b"first", key, Kdf::for_random_keys(), &mut random).await.map_err(text)?;
    for slot in volume.keyslots() {
        println!("luks: keyslot {}: {:?}", slot.number, slot.kdf);
    }
    let open = volume.open(key, app.xen(), OpenOptions::default()).await.map_err(text)?;
    for (index, first) in [0, 1_000_000].into_iter().enumerate() {
        open.write_bytes((index * PART / 512) as u64, lines(first).as_bytes()).await.map_err(text)?;
    }
    open.flush().await.map_err(text)
}

/// How fast the cipher is, on a disk in memory.
async fn measure(app: App) -> Result<(), String> {
    let offset = 512 << 10;
    let disk = RamDisk::new(app.grant_table(), (offset + PART as u64) / 512).map_err(text)?;
    let options = FormatOptions::default().with_kdf(Kdf::for_random_keys()).with_data_offset(offset);
    let mut random = app.entropy().map_err(text)?;
    let volume = Volume::format(disk, b"key", &options, &mut random).await.map_err(text)?;
    let open = volume.open(b"key", app.xen(), OpenOptions::default()).await.map_err(text)?;
    let mut buffer = open.buffer(PART).map_err(text)?;
    let begin = app.clock().now();
    let mut bytes = 0;
    while (app.clock().now() - begin).as_millis() < 1000 {
        let (back, outcome) = open.write(0, buffer).await;
        outcome.map_err(text)?;
        let (back, outcome) = open.read(0, back).await;
        outcome.map_err(text)?;
        buffer = back;
        bytes += 2 * PART as u128;
    }
    let micros = (app.clock().now() - begin).as_micros();
    // CPUID's leaf 1 says in bit 25 of ECX whether there is AES-NI.
    let aes = core::arch::x86_64::__cpuid(1).ecx & (1 << 25) != 0;
    println!("luks: AES-NI {aes}: {} kB/s", bytes * 1000 / micros.max(1));
    Ok(())
}
