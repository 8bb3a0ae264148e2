//! What is kept of what was read: the same bytes, from memory.

#[allow(dead_code, reason = "what other tests use")]
mod support;

use std::cell::Cell;
use std::rc::Rc;

use sarab_site::Site;
use xen_blkif::faulty::{DeviceRequest, Faulty};

use support::{MEMORY, content, on};

#[test]
fn what_was_read_is_read_from_memory() {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, len, seed) in [("small", 1000, 1), ("middle", 100_000, 2), ("large", 300_000, 3)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(len);
        builder.append_data(&mut header, name, &*content(len as usize, seed)).unwrap();
    }
    on(builder.into_inner().unwrap(), async |disk| {
        let requests = Rc::new(Cell::new(0));
        let count = requests.clone();
        let disk = Faulty::new(disk, async move |request| {
            count.set(count.get() + u32::from(matches!(request, DeviceRequest::Read(..))));
            Ok(())
        });
        let site = Site::new(disk, MEMORY).await.unwrap().with_cache_of(256 << 10);
        for (name, len, seed, is_kept) in
            [("small", 1000, 1, true), ("middle", 100_000, 2, true), ("large", 300_000, 3, false)]
        {
            let expected = content(len, seed);
            let mut counts = Vec::new();
            for pieces in [7000, 4096, 100] {
                let before = requests.get();
                let mut file = site.open(name).await.unwrap().unwrap();
                let (mut at, mut bytes, mut at_hand) = (0, vec![0; pieces], 0);
                while at < len {
                    let kept = file.at_hand(at as u64, pieces).map(<[u8]>::to_vec);
                    let part = match kept {
                        Some(part) => {
                            at_hand += part.len();
                            part
                        }
                        None => {
                            let read = file.read(at as u64, &mut bytes).await.unwrap();
                            bytes[..read].to_vec()
                        }
                    };
                    assert!((1..=pieces).contains(&part.len()) && expected[at..].starts_with(&part), "{name}: {at}");
                    at += part.len();
                    // Memory that is given back is had again.
                    if at % 3 == 0 {
                        file.pause();
                    }
                }
                assert!(file.at_hand(len as u64, 10).is_none_or(<[u8]>::is_empty));
                counts.push(requests.get() - before);
                assert!(!is_kept || counts.len() == 1 || at_hand == len, "{name}: {at_hand} of {len}");
            }
            assert_eq!(counts[1..].iter().all(|count| *count == 0), is_kept, "{name}: {counts:?}");
        }
    });
}
