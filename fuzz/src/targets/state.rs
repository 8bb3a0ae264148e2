//! A store on a disk of which some bytes are changed: each is told by its place and its value.

use std::sync::OnceLock;

use sarab_state::{Options, Store};
use xen_blkif::BlockDevice;
use xen_blkif::ramdisk::RamDisk;
use xen_sim::Xen;

pub(super) const SHORT: u32 = 150;

/// Sectors of the smallest disk.
const SECTORS: u64 = 17 * 128;
/// Bytes of the head, and of a page of a log.
const PAGE: usize = 64 << 10;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    // In the head, in the state of pages, in items' headers and in what they hold, of both logs.
    let places =
        [9, 12, 16, PAGE, PAGE + 4, PAGE + 20, 2 * PAGE - 4, 9 * PAGE, 9 * PAGE + 4, 9 * PAGE + 12, 9 * PAGE + 40];
    places.into_iter().map(|at| [&(at as u32).to_le_bytes()[..3], &[1]].concat()).collect()
}

/// A store with a few keys.
fn image() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let xen = Xen::new(1);
        let domain = xen.domain();
        let image = xen.run(async move {
            let disk = RamDisk::new(domain, SECTORS).expect("memory");
            let store = Store::open(disk.clone(), Options::default()).await.expect("a store");
            for index in 0..20_u8 {
                store.set(&[index % 7 + 1], &[index; 90]).await.expect("room");
            }
            let mut image = vec![0; SECTORS as usize * 512];
            disk.read_bytes(0, &mut image).await.expect("memory");
            image
        });
        xen.end();
        image
    })
}

pub(super) fn run(data: &[u8]) {
    let mut bytes = image().to_vec();
    for change in data.chunks_exact(4) {
        let at = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize % bytes.len();
        bytes[at] = change[3];
    }
    let xen = Xen::new(1);
    let domain = xen.domain();
    xen.run(async move {
        let disk = RamDisk::new(domain, SECTORS).expect("memory");
        disk.write_bytes(0, &bytes).await.expect("memory");
        let Ok(store) = Store::open(disk.clone(), Options::default()).await else { return };
        let mut scan = store.scan(b"");
        while let Ok(Some((key, value))) = scan.next().await {
            assert!(!key.is_empty() && value.len() <= sarab_state::MAX_VALUE);
        }
        if store.set(b"new", b"value").await.is_ok() {
            assert_eq!(store.get(b"new").await.expect("it is in memory").as_deref(), Some(&b"value"[..]));
        }
    });
    xen.end();
}
