//! Disks with what others have made, and archives by the byte.

use sarab_site::{ReadError, Site};
use xen_blkif::BlockDevice;
use xen_blkif::ramdisk::RamDisk;
use xen_sim::{Domain, Xen};

/// What an index may take.
pub const MEMORY: usize = 1 << 20;

/// A disk with these bytes.
async fn disk(domain: &Domain, bytes: &[u8]) -> RamDisk<Domain> {
    let disk = RamDisk::new(domain.clone(), bytes.len().div_ceil(512) as u64).unwrap();
    let mut padded = bytes.to_vec();
    padded.resize(padded.len().next_multiple_of(512), 0);
    disk.write_bytes(0, &padded).await.unwrap();
    disk
}

/// Runs a test on a disk with these bytes.
pub fn on<T: 'static>(bytes: Vec<u8>, test: impl AsyncFnOnce(RamDisk<Domain>) -> T + 'static) -> T {
    let xen = Xen::new(1);
    let domain = xen.domain();
    let result = xen.run(async move { test(disk(&domain, &bytes).await).await });
    xen.end();
    result
}

pub async fn read<D: BlockDevice>(site: &Site<D>, path: &str) -> Result<Option<Vec<u8>>, ReadError> {
    let Some(mut file) = site.open(path).await? else { return Ok(None) };
    let mut bytes = vec![0; file.size() as usize];
    let mut at = 0;
    while at < bytes.len() {
        // Also parts that end in the middle of blocks.
        let end = bytes.len().min(at + 10_007);
        let len = file.read(at as u64, &mut bytes[at..end]).await?;
        assert!(len > 0);
        at += len;
    }
    assert_eq!(file.read(at as u64, &mut [0]).await?, 0);
    Ok(Some(bytes))
}

pub fn content(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + seed) as u8).collect()
}

/// A block with a header, of this kind and size.
pub fn raw(name: &[u8], kind: u8, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// The same with what it describes.
pub fn with_bytes(name: &[u8], kind: u8, bytes: &[u8]) -> Vec<u8> {
    let mut all = raw(name, kind, bytes.len() as u64);
    all.extend(bytes);
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

/// A record of a pax header.
pub fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let len = (rest..).find(|len| len.to_string().len() + rest == *len).unwrap();
    format!("{len} {key}={value}\n")
}
