//! What the fuzz targets run, with any bytes: a panic is a bug, and so is a call that does not end. The tests run it with
//! random ones.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use xen_blkif::{Buffer, Completed, Error, Geometry};
use xen_ring::SharedMemory;

use crate::{BlockDevice, Site};

/// Bytes of a part of an image.
const PART: usize = 64;
/// Paths that the images of the corpus have, and some that lead nowhere.
const PATHS: [&str; 18] = [
    "file",
    "large",
    "sparse",
    "dir/file",
    "dir/sub/deep",
    "link",
    "long-link",
    "loop",
    "up",
    "absolute",
    "many/17",
    "many/nothing",
    "many/\u{fc}ber",
    "fragments",
    "nothing",
    "dir",
    "file/x",
    "lost+found/x",
];

/// An image of which only the parts are told that are not zero: their numbers, and their bytes. The first byte says how large
/// it is.
pub fn image(data: &[u8]) -> Vec<u8> {
    let Some((size, mut rest)) = data.split_first() else { return Vec::new() };
    let mut image = vec![0; (1 + usize::from(size % 32)) << 16];
    while let Some((number, after)) = rest.split_first_chunk() {
        let (part, after) = after.split_at(after.len().min(PART));
        let at = usize::from(u16::from_le_bytes(*number)) * PART % image.len();
        image[at..at + part.len()].copy_from_slice(part);
        rest = after;
    }
    image
}

/// The parts of an image, of up to 2 MiB.
pub fn parts(image: &[u8]) -> Vec<u8> {
    let mut parts = vec![(image.len().div_ceil(1 << 16) - 1) as u8];
    for (number, part) in image.chunks(PART).enumerate() {
        if part.iter().any(|byte| *byte != 0) {
            parts.extend((number as u16).to_le_bytes());
            parts.extend(part);
            parts.resize(parts.len() + PART - part.len(), 0);
        }
    }
    parts
}

/// A file system.
pub fn ext4(data: &[u8]) {
    let mut bytes = image(data);
    if bytes.len() < 2048 {
        return;
    }
    // Otherwise it is not looked at any further.
    bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
    let device = Memory::new(bytes);
    end_of(async {
        let Ok(site) = Site::new(&device, 64 << 10).await else { return };
        let site = site.with_pieces_of(4096);
        for path in PATHS {
            device.start();
            read_some(&site, path).await;
        }
    });
}

/// An archive. Of blocks that look like headers the checksum is put right.
pub fn tar(data: &[u8]) {
    let Some((memory, bytes)) = data.split_first() else { return };
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    if bytes.get(1080..1082) == Some(&[0x53, 0xef]) {
        return;
    }
    let mut names = Vec::new();
    for block in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..155].copy_from_slice(alloc::format!("{sum:06o}\0").as_bytes());
        let name = block[..100].split(|byte| *byte == 0).next().unwrap_or_default();
        names.extend(core::str::from_utf8(name).ok().filter(|_| names.len() < 50).map(String::from));
    }
    let device = Memory::new(bytes);
    end_of(async {
        // Room for nothing at all, or for a thousand and more.
        let Ok(site) = Site::new(&device, usize::from(*memory) << 10).await else { return };
        let _ = alloc::format!("{} {:?}", site.format(), site.warnings());
        for name in names.iter().map(String::as_str).chain(["name", "long", "pax", "link", "link/name", "link/pax"]) {
            device.start();
            read_some(&site, name).await;
        }
    });
}

/// A hash of a name, for tests that need names which have the same.
pub fn half_md4(name: &[u8], seed: [u32; 4]) -> u32 {
    crate::ext4::half_md4(name, seed)
}

/// Reads the begin, the middle and the end of a file, if there is one.
async fn read_some<D: BlockDevice>(site: &Site<D>, path: &str) {
    let Ok(Some(mut file)) = site.open(path).await else { return };
    let size = file.size();
    let _ = file.modified();
    let mut bytes = [0; 3000];
    for start in [0, size / 2, size.saturating_sub(100)] {
        let mut at = start;
        for _ in 0..4 {
            match file.read(at, &mut bytes).await {
                Ok(0) => {
                    assert_eq!(at, size, "{path} ends where it says");
                    break;
                }
                Ok(len) => at += len as u64,
                Err(_) => break,
            }
        }
        file.pause();
    }
    assert_eq!(file.read(size, &mut bytes).await.ok(), Some(0));
}

/// Polls a future to its end, which is not far away.
pub fn end_of<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..1_000_000 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return value;
        }
    }
    panic!("it does not come to an end")
}

/// Makes sectors.
type Fill = dyn Fn(u64, &mut [u8]);

/// A device that is made of sectors as somebody says, which is read so often and no more.
pub struct Memory {
    sectors: u64,
    fill: Box<Fill>,
    most: u32,
    left: Cell<u32>,
}

impl Memory {
    /// One with these bytes.
    pub fn new(bytes: Vec<u8>) -> Memory {
        let sectors = bytes.len() as u64 / 512;
        let fill = move |sector: u64, to: &mut [u8]| to.copy_from_slice(&bytes[sector as usize * 512..][..to.len()]);
        Memory { most: 50_000, left: Cell::new(50_000), ..Memory::made(sectors, fill) }
    }

    /// One of so many sectors, which are made when they are read.
    pub fn made(sectors: u64, fill: impl Fn(u64, &mut [u8]) + 'static) -> Memory {
        Memory { sectors, fill: Box::new(fill), most: u32::MAX, left: Cell::new(u32::MAX) }
    }

    /// Reads that were made since the last time.
    pub fn reads(&self) -> u32 {
        self.most - self.left.replace(self.most)
    }

    /// Another request begins.
    fn start(&self) {
        self.left.set(20_000);
    }
}

/// A buffer of it.
pub struct Bytes(Vec<u8>);

impl Buffer for Bytes {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn page(&self, _: usize) -> &SharedMemory {
        unreachable!("its bytes are copied")
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.0[offset..offset + to.len()]);
    }
}

impl BlockDevice for &Memory {
    type Buffer = Bytes;

    fn geometry(&self) -> Geometry {
        Geometry::plain(self.sectors)
    }

    fn buffer(&self, len: usize) -> Result<Bytes, Error> {
        assert!(len <= 64 << 10, "{len} bytes at once");
        Ok(Bytes(vec![0; len]))
    }

    async fn read(&self, sector: u64, mut buffer: Bytes) -> Completed<Bytes> {
        self.left.set(self.left.get().checked_sub(1).expect("it does not read on and on"));
        let outcome = self.geometry().check(sector, buffer.0.len());
        if outcome.is_ok() {
            (self.fill)(sector, &mut buffer.0);
        }
        (buffer, outcome)
    }

    async fn write(&self, _: u64, buffer: Bytes) -> Completed<Bytes> {
        (buffer, Err(Error::ReadOnly))
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn discard(&self, _: u64, _: u64, _: bool) -> Result<(), Error> {
        Err(Error::ReadOnly)
    }

    async fn changed(&self, _: &Geometry) -> Geometry {
        core::future::pending().await
    }
}
