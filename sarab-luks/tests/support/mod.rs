//! What the tests share, of which nothing is of the simulation: random numbers that are the same each time, quick keys, and disks with given bytes.

#![allow(dead_code, reason = "each test uses some of it")]

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;

use rand_core::{TryCryptoRng, TryRng};
use sarab_luks::{FormatOptions, Kdf, Limits, Volume};
use sha2::{Digest, Sha256};
use xen_blkif::ramdisk::PageBuffer;
use xen_blkif::{BlockDevice, Buffer, Completed, Error, Geometry};
use xen_hal::Pages;
use xenbus::yield_now;

/// Random numbers by a seed (SplitMix64), which are remembered.
#[derive(Clone)]
pub struct Random {
    pub state: u64,
    /// The begins of what was drawn first, where that is kept: the volume key, salts, the split key.
    pub drawn: Option<Vec<u8>>,
}

impl Random {
    pub fn new(seed: u64) -> Random {
        Random { state: seed, drawn: None }
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.next() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next())
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
        for part in to.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            part.copy_from_slice(&bytes[..part.len()]);
        }
        if let Some(drawn) = &mut self.drawn {
            drawn.extend_from_slice(&to[..to.len().min(64)]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Random {}

/// Bytes of the data of small volumes.
pub const DATA: usize = 512 << 10;

/// A small volume whose key is derived at once.
pub fn quick() -> FormatOptions {
    FormatOptions::default().with_kdf(Kdf::for_random_keys()).with_data_offset(512 << 10)
}

/// One with more room for keyslots.
pub fn roomy() -> FormatOptions {
    quick().with_data_offset(1 << 20)
}

pub async fn volume<P: Pages + Clone>(domain: &P, options: &FormatOptions, key: &[u8]) -> Volume<Image<P>> {
    let image = Image::new(domain, vec![0xee; DATA + options.data_offset as usize]);
    Volume::format(image, key, options, &mut Random::new(1)).await.unwrap()
}

/// A disk whose bytes are at hand, and are as many as needed.
#[derive(Clone)]
pub struct Image<P> {
    pages: P,
    pub bytes: Rc<RefCell<Vec<u8>>>,
    pub geometry: Rc<Cell<Geometry>>,
}

impl<P: Pages + Clone> Image<P> {
    pub fn new(pages: &P, bytes: Vec<u8>) -> Image<P> {
        let geometry = Geometry::plain(bytes.len() as u64 / 512).with_flush(true);
        Image { pages: pages.clone(), bytes: Rc::new(RefCell::new(bytes)), geometry: Rc::new(Cell::new(geometry)) }
    }

    pub fn with(self, change: impl FnOnce(Geometry) -> Geometry) -> Image<P> {
        self.geometry.set(change(self.geometry.get()));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }
}

impl<P: Pages + Clone> BlockDevice for Image<P> {
    type Buffer = PageBuffer<P::Page>;

    fn geometry(&self) -> Geometry {
        self.geometry.get()
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error> {
        PageBuffer::new(&self.pages, len)
    }

    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        let outcome = self.geometry().check(sector, buffer.len());
        if outcome.is_ok() {
            buffer.write(0, &self.bytes.borrow()[sector as usize * 512..][..buffer.len()]);
        }
        yield_now().await;
        (buffer, outcome)
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        let outcome = self.geometry().check_writable().and(self.geometry().check(sector, buffer.len()));
        yield_now().await;
        if outcome.is_ok() {
            buffer.read(0, &mut self.bytes.borrow_mut()[sector as usize * 512..][..buffer.len()]);
        }
        (buffer, outcome)
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn discard(&self, sector: u64, count: u64, _: bool) -> Result<(), Error> {
        self.geometry().check_sectors(sector, count)?;
        self.bytes.borrow_mut()[sector as usize * 512..][..count as usize * 512].fill(0xdd);
        Ok(())
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        while self.geometry.get() == *known {
            yield_now().await;
        }
        self.geometry.get()
    }
}

/// All of a disk, in parts.
pub async fn bytes_of<D: BlockDevice>(disk: &D) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.geometry().bytes()).unwrap()];
    for (index, part) in bytes.chunks_mut(1 << 20).enumerate() {
        disk.read_bytes((index << 11) as u64, part).await.unwrap();
    }
    bytes
}

/// Why a disk with these bytes is no volume, or what was repaired.
pub async fn load(domain: &(impl Pages + Clone), bytes: &[u8]) -> Result<Option<String>, String> {
    let image = Image::new(domain, bytes.to_vec());
    let volume = Volume::load(image, Limits::default()).await.map_err(|error| error.to_string())?;
    Ok(volume.repair().map(ToString::to_string))
}

/// The bytes of a copy of a header of 16 KiB.
pub fn copy(secondary: bool) -> std::ops::Range<usize> {
    let start = if secondary { 16 << 10 } else { 0 };
    start..start + (16 << 10)
}

/// Makes the checksum of a copy right again.
pub fn seal(copy: &mut [u8]) {
    copy[448..512].fill(0);
    let checksum = Sha256::digest(&copy);
    copy[448..480].copy_from_slice(&checksum);
}

/// The JSON in a copy.
pub fn json(copy: &[u8]) -> String {
    let end = copy[4096..].iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(copy[4096..4096 + end].to_vec()).unwrap()
}

/// Puts other JSON into both copies, with right checksums.
pub fn put_json(image: &mut [u8], json: &str) {
    for secondary in [false, true] {
        let copy = &mut image[copy(secondary)];
        copy[4096..].fill(0);
        copy[4096..4096 + json.len()].copy_from_slice(json.as_bytes());
        seal(copy);
    }
}
