//! How two ends tell each other of work by bits that one sets and the other takes, as vchan does.
//!
//! Who is about to sleep sets a bit, and then looks at the index once more. Who moves the index takes the bit afterwards,
//! and notifies if it was set. Both change the same byte in one step each, so one of the two comes second and sees all
//! that the other did before: either the bit is seen, or the index. The test below has loom try all orders, and shows that
//! each of the two steps needs its ordering. (Xen's C library has full barriers there, which is more.)

use core::sync::atomic::Ordering;

use crate::SharedMemory;

/// Bytes and words that both ends can see.
trait Words {
    /// Writes a word; who sees it sees what was written before.
    fn store(&self, offset: usize, value: u32);
    /// Sets bits, in one step that is ordered with what is before and after it.
    fn set(&self, offset: usize, bits: u8);
    /// Clears bits in such a step, and returns what was there.
    fn clear(&self, offset: usize, bits: u8) -> u8;
}

impl Words for SharedMemory {
    fn store(&self, offset: usize, value: u32) {
        self.store(offset, value);
    }

    fn set(&self, offset: usize, bits: u8) {
        self.byte(offset).fetch_or(bits, Ordering::AcqRel);
        self.accessed(offset, 1, true);
    }

    fn clear(&self, offset: usize, bits: u8) -> u8 {
        let before = self.byte(offset).fetch_and(!bits, Ordering::AcqRel);
        self.accessed(offset, 1, true);
        before
    }
}

fn publish(words: &impl Words, index: usize, to: u32, notify: usize, bit: u8) -> bool {
    words.store(index, to);
    words.clear(notify, bit) & bit != 0
}

impl SharedMemory {
    /// Moves the index at `index` on to `to`, and takes `bit` of the byte at `notify`: whether the peer is to be notified.
    ///
    /// # Examples
    ///
    /// ```
    /// use xen_hal::Pages;
    /// use xen_ring::SharedPage;
    ///
    /// let xen = xen_sim::Xen::new(1);
    /// let page = SharedPage::new(xen.domain().alloc_page().unwrap());
    /// page.request_notify(22, 1);
    /// assert!(page.publish_index(4, 10, 22, 1), "the peer has asked for it");
    /// assert!(!page.publish_index(4, 20, 22, 1), "it has asked once");
    /// ```
    ///
    /// # Panics
    ///
    /// As [`store`](SharedMemory::store), and where the byte is not inside.
    pub fn publish_index(&self, index: usize, to: u32, notify: usize, bit: u8) -> bool {
        publish(self, index, to, notify, bit)
    }

    /// Sets `bit` of the byte at `notify`: the peer is to notify this end when it moves its index on. That index is to be
    /// [loaded](SharedMemory::load) once more afterwards, before this end sleeps.
    ///
    /// # Panics
    ///
    /// Where the byte is not inside.
    pub fn request_notify(&self, notify: usize, bit: u8) {
        self.set(notify, bit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::*};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    /// The index and the byte, and whether this end's steps are ordered.
    #[derive(Clone)]
    struct Loom {
        shared: Arc<(AtomicU32, AtomicU8)>,
        ordering: loom::sync::atomic::Ordering,
    }

    impl Loom {
        fn pair(producer: bool, consumer: bool) -> (Loom, Loom) {
            let shared = Arc::new((AtomicU32::new(0), AtomicU8::new(0)));
            let end = |ordered| Loom { shared: shared.clone(), ordering: if ordered { AcqRel } else { Relaxed } };
            (end(producer), end(consumer))
        }

        fn index(&self) -> u32 {
            self.shared.0.load(Acquire)
        }
    }

    impl Words for Loom {
        fn store(&self, _: usize, value: u32) {
            self.shared.0.store(value, Release);
        }

        fn set(&self, _: usize, bits: u8) {
            self.shared.1.fetch_or(bits, self.ordering);
        }

        fn clear(&self, _: usize, bits: u8) -> u8 {
            self.shared.1.fetch_and(!bits, self.ordering)
        }
    }

    const BIT: u8 = 1;

    /// One end produces one piece of work, the other sleeps when it finds none. Whether it was ever left asleep.
    fn a_wake_up_can_be_lost(producer_ordered: bool, consumer_ordered: bool) -> bool {
        let lost = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = lost.clone();
        loom::model(move || {
            let (producer, consumer) = Loom::pair(producer_ordered, consumer_ordered);
            let notified = Arc::new(AtomicBool::new(false));
            let event = notified.clone();
            let thread = thread::spawn(move || {
                if publish(&producer, 0, 1, 0, BIT) {
                    event.store(true, SeqCst);
                }
            });
            consumer.set(0, BIT);
            let sleeps = consumer.index() == 0;
            thread.join().unwrap();
            if sleeps && !notified.load(SeqCst) {
                seen.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        });
        lost.load(std::sync::atomic::Ordering::Relaxed)
    }

    #[test]
    fn no_wake_up_is_lost_and_neither_step_can_do_without_its_ordering() {
        assert!(!a_wake_up_can_be_lost(true, true));
        assert!(a_wake_up_can_be_lost(false, true), "the producer's ordering is not tested");
        assert!(a_wake_up_can_be_lost(true, false), "the consumer's ordering is not tested");
    }

    /// The consumer looks before it asks, and does not look again: what comes in between is lost, which is why it must.
    #[test]
    fn a_look_before_the_request_is_not_enough() {
        let lost = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = lost.clone();
        loom::model(move || {
            let (producer, consumer) = Loom::pair(true, true);
            let thread = thread::spawn(move || publish(&producer, 0, 1, 0, BIT));
            let sleeps = consumer.index() == 0;
            consumer.set(0, BIT);
            if sleeps && !thread.join().unwrap() {
                seen.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        });
        assert!(lost.load(std::sync::atomic::Ordering::Relaxed));
    }

    /// The whole loop with an event that can come before it is waited for: two pieces of work both arrive.
    #[test]
    fn all_work_arrives() {
        loom::model(|| {
            let (producer, consumer) = Loom::pair(true, true);
            let bell = Arc::new((Mutex::new(false), Condvar::new()));
            let ring = bell.clone();
            let thread = thread::spawn(move || {
                for index in 1..=2 {
                    if publish(&producer, 0, index, 0, BIT) {
                        *ring.0.lock().unwrap() = true;
                        ring.1.notify_one();
                    }
                }
            });
            loop {
                consumer.set(0, BIT);
                if consumer.index() == 2 {
                    break;
                }
                let mut rung = bell.0.lock().unwrap();
                while !*rung {
                    rung = bell.1.wait(rung).unwrap();
                }
                *rung = false;
            }
            thread.join().unwrap();
        });
    }
}
