//! What a guest can make blkback do with one turn of its ring.

mod support;

use std::time::Duration;

use xen_blkif::protocol::{Body, Request};
use xen_hal::Clock;
use xen_sim::check;

use support::block::{How, against_backend};

const SECTORS: u64 = 2 << 11; // 2 MiB
const DISCARDS: u64 = 31;

/// They move no bytes, and each zeroes the whole disk.
#[test]
fn a_ring_of_discards_leaves_the_others_their_turn() {
    check("discards", 5, |xen| {
        let did = against_backend(xen, How { sectors: SECTORS, ..How::default() }, async |guest| {
            for id in 0..DISCARDS {
                guest.push(&Request {
                    id,
                    sector: 0,
                    handle: 0,
                    body: Body::Discard { secure: false, sectors: SECTORS },
                });
            }
            guest.publish();
            guest.domain.sleep(Duration::from_secs(1)).await;
        });
        assert_eq!(did.discards, DISCARDS);
        // `check` does this too: here it is the point.
        xen.check_budgets();
    });
}
