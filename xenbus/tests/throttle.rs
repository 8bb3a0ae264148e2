//! What ends a driver's wait, and what a peer that sends spurious events can do about it.

use std::task::Poll;
use std::time::Duration;

use xen_hal::{Clock, EventChannels, Port};
use xen_sim::check;
use xenbus::{EventThrottle, Wake};

#[test]
fn events_other_things_and_deadlines_end_a_wait() {
    check("waits", 20, |xen| {
        let (own, peer) = (xen.domain(), xen.domain());
        xen.run(async move {
            let port = own.alloc_unbound(peer.id()).unwrap();
            let far = peer.bind_interdomain(own.id(), port.number()).unwrap();
            let mut throttle = EventThrottle::default();
            // What was there from the start.
            let soon = || Some(own.now() + Duration::from_millis(1));
            while throttle.wait(&own, &[&port], soon(), |_| Poll::Pending).await == Wake::Event {}
            far.notify();
            assert_eq!(throttle.wait(&own, &[&port], soon(), |_| Poll::Pending).await, Wake::Event);
            assert_eq!(throttle.wait(&own, &[&port], soon(), |_| Poll::Pending).await, Wake::Deadline);
            assert_eq!(throttle.wait(&own, &[&port], soon(), |_| Poll::Ready(())).await, Wake::Other);
            // A throttled driver leaves an event where it is, and its deadline is the pause's.
            for _ in 0..16 {
                throttle.record_spurious();
            }
            far.notify();
            let before = own.now();
            assert_eq!(throttle.wait(&own, &[&port], soon(), |_| Poll::Pending).await, Wake::Pause);
            assert!((2..4).contains(&(own.now() - before).as_millis()));
            assert_eq!(throttle.wait(&own, &[&port], None, |_| Poll::Ready(())).await, Wake::Other);
            throttle.record_work();
            assert_eq!(throttle.wait(&own, &[&port], None, |_| Poll::Pending).await, Wake::Event);
        });
    });
}
