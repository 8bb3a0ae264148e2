//! The header of a LUKS2 volume: both copies, and the metadata in them.
//!
//! The first byte says what is done with the rest: it is the beginning of the disk as it stands, or a binary header and JSON
//! of which both copies are made, with right checksums, one of them damaged or older, or not.

use std::convert::Infallible;
use std::time::Instant;

use rand_core::{TryCryptoRng, TryRng};
use sarab_luks::{Kdf, Limits, OpenOptions, Volume};
use sha2::{Digest, Sha256};
use xen_blkif::BlockDevice;
use xen_blkif::ramdisk::RamDisk;
use xen_sim::Xen;

pub(super) const SHORT: u32 = 150;

/// Bytes of a copy, of the header's fields, and of the disk.
const COPY: usize = 16 << 10;
const HEADER: usize = 512;
const DISK: usize = 1 << 20;

const SEALED: u8 = 1;
const DAMAGED: u8 = 2;
const OLDER: u8 = 4;
const SECONDARY: u8 = 8;

/// What `cryptsetup luksFormat` writes, with quick keys.
const JSON: &str = r#"{"keyslots":{"0":{"type":"luks2","key_size":64,"af":{"type":"luks1","stripes":4000,"hash":"sha256"},"area":{"type":"raw","offset":"32768","size":"258048","encryption":"aes-xts-plain64","key_size":64},"kdf":{"type":"argon2id","time":4,"memory":64,"cpus":2,"salt":"tdWWytO7gH76j9/X9gVXhKgZyNUq9ry4B/VpABeQaj4="}},"1":{"type":"luks2","key_size":64,"priority":2,"af":{"type":"luks1","stripes":4000,"hash":"sha512"},"area":{"type":"raw","offset":"290816","size":"258048","encryption":"aes-xts-plain64","key_size":64},"kdf":{"type":"pbkdf2","hash":"sha512","iterations":1000,"salt":"tdWWytO7gH76j9/X9gVXhKgZyNUq9ry4B/VpABeQaj4="}}},"tokens":{},"segments":{"0":{"type":"crypt","offset":"851968","size":"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64","sector_size":4096}},"digests":{"0":{"type":"pbkdf2","keyslots":["0","1"],"segments":["0"],"hash":"sha256","iterations":1000,"salt":"WsRw5senglvkbxJ/Kch3kB/2/a06x0tAi9Nu/H7V8dE=","digest":"wOtX0/L7AFc0pNhV+aQhNZBdli8vKSrpe6ZbaVLa8tA="}},"config":{"json_size":"12288","keyslots_size":"819200"}}"#;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut header = [0; HEADER];
    header[..6].copy_from_slice(b"LUKS\xba\xbe");
    header[7] = 2;
    header[14] = (COPY >> 8) as u8;
    header[23] = 3;
    header[72..78].copy_from_slice(b"sha256");
    let kinds = [SEALED, SEALED | DAMAGED, SEALED | OLDER | SECONDARY, SEALED | DAMAGED | SECONDARY];
    let mut seeds: Vec<_> = kinds.map(|kind| [&[kind], &header[..], JSON.as_bytes()].concat()).to_vec();
    seeds.push([&[0], &disk(&seeds[0])[..2 * COPY]].concat());
    seeds
}

/// The disk that an input stands for.
fn disk(data: &[u8]) -> Vec<u8> {
    let mut disk = vec![0; DISK];
    let Some((kind, rest)) = data.split_first() else { return disk };
    if kind & SEALED == 0 {
        let len = rest.len().min(DISK);
        disk[..len].copy_from_slice(&rest[..len]);
        return disk;
    }
    let (header, json) = rest.split_at(rest.len().min(HEADER));
    let json = &json[..json.len().min(COPY - 4096)];
    for (index, copy) in disk[..2 * COPY].chunks_mut(COPY).enumerate() {
        copy[..header.len()].copy_from_slice(header);
        copy[4096..4096 + json.len()].copy_from_slice(json);
        if index == 1 {
            copy[..4].copy_from_slice(b"SKUL");
            copy[256..264].copy_from_slice(&(COPY as u64).to_be_bytes());
        }
        let chosen = index == usize::from(kind & SECONDARY != 0);
        if chosen && kind & OLDER != 0 {
            copy[23] = copy[23].wrapping_sub(1);
        }
        copy[448..512].fill(0);
        let checksum = Sha256::digest(&*copy);
        copy[448..480].copy_from_slice(&checksum);
        if chosen && kind & DAMAGED != 0 {
            copy[5000] ^= 1;
        }
    }
    disk
}

/// Always the same bytes.
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

pub(super) fn run(data: &[u8]) {
    let begin = Instant::now();
    let bytes = disk(data);
    let xen = Xen::new(1);
    let domain = xen.domain();
    xen.run(async move {
        let disk = RamDisk::new(domain.clone(), (DISK / 512) as u64).expect("memory");
        disk.write_bytes(0, &bytes).await.expect("inside of the disk");
        let limits =
            Limits::default().with_argon2_memory_kib(256).with_argon2_work_kib(2048).with_pbkdf2_iterations(4000);
        let mut volume = match Volume::load(disk.clone(), limits).await {
            Ok(volume) => volume,
            Err(error) => return assert!(!error.to_string().is_empty()),
        };
        // What is in use of the disk then is whole.
        let again = Volume::load(disk, limits).await.expect("it was read just now");
        assert!(again.repair().is_none() || !volume.repair().expect("as the first time").written);
        assert_eq!((again.uuid(), again.label(), again.info()), (volume.uuid(), volume.label(), volume.info()));
        // No keyslot holds a key.
        let opened = volume.open(b"key", domain, OpenOptions::default()).await;
        assert!(opened.is_err_and(|error| !error.to_string().is_empty()));
        let number = volume.keyslots().next().map(|slot| slot.number);
        if let Some(number) = number {
            let before = volume.keyslots().count();
            let removed = volume.remove_keyslot(number, &mut Numbers).await;
            assert_eq!(volume.keyslots().count(), before - usize::from(removed.is_ok()));
        }
        assert!(volume.add_key(b"key", b"new", Kdf::for_random_keys(), &mut Numbers).await.is_err());
    });
    assert!(begin.elapsed().as_secs() < 20, "it takes too long");
}
