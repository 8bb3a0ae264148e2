//! How fast a volume is on this machine, on a disk in memory: what the cipher costs, and the derivation of a key.
//!
//! `cargo run --release -p sarab-luks --example speed`; with `RUSTFLAGS='--cfg aes_backend="soft"'` it is without AES-NI.

use std::convert::Infallible;
use std::error::Error;
use std::time::{Duration, Instant};

use rand_core::{TryCryptoRng, TryRng};
use sarab_luks::{FormatOptions, Kdf, OpenOptions, Volume};
use xen_blkif::BlockDevice;
use xen_blkif::ramdisk::RamDisk;
use xen_sim::Xen;

/// Bytes of the disk's data, and of a request.
const DATA: usize = 4 << 20;
const REQUEST: usize = 256 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let xen = Xen::new(1);
    let domain = xen.domain();
    xen.run(async move {
        for sector_size in [512, 4096] {
            let options = FormatOptions::default().with_data_offset(512 << 10).with_sector_size(sector_size);
            let disk = RamDisk::new(domain.clone(), ((512 << 10) + DATA) as u64 / 512)?;
            let quick = options.with_kdf(Kdf::for_random_keys());
            let volume = Volume::format(disk.clone(), b"key", &quick, &mut Numbers).await?;
            let open = volume.open(b"key", domain.clone(), OpenOptions::default()).await?;
            println!(
                "sectors of {sector_size} bytes: write {:.0} MB/s, read {:.0} MB/s; without encryption {:.0} and {:.0}",
                measure(&open, true).await?,
                measure(&open, false).await?,
                measure(&disk, true).await?,
                measure(&disk, false).await?
            );
        }
        let disk = RamDisk::new(domain.clone(), 2048)?;
        let options = FormatOptions::default().with_data_offset(512 << 10);
        let volume = Volume::format(disk, b"key", &options, &mut Numbers).await?;
        let begin = Instant::now();
        volume.open(b"key", domain, OpenOptions::default()).await?;
        println!("{:?}: opened in {} ms", options.kdf, begin.elapsed().as_millis());
        Ok(())
    })
}

/// MB/s.
async fn measure(disk: &impl BlockDevice, write: bool) -> Result<f64, xen_blkif::Error> {
    let mut buffer = disk.buffer(REQUEST)?;
    let begin = Instant::now();
    let mut bytes = 0;
    // Past the header, where there is one.
    let requests = (2..(DATA / REQUEST) as u64).cycle();
    for request in requests {
        let sector = request * (REQUEST / 512) as u64;
        let (back, outcome) = match write {
            true => disk.write(sector, buffer).await,
            false => disk.read(sector, buffer).await,
        };
        outcome?;
        buffer = back;
        bytes += REQUEST;
        if begin.elapsed() > Duration::from_millis(700) {
            break;
        }
    }
    Ok(bytes as f64 / 1e6 / begin.elapsed().as_secs_f64())
}

/// For a measurement alone: always the same.
struct Numbers;

impl TryRng for Numbers {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(7)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(7)
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        to.fill(7);
        Ok(())
    }
}

impl TryCryptoRng for Numbers {}
