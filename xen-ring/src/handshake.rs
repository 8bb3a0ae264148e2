//! How two ends tell each other of work without losing a wake-up, and without a notification for each piece of it.
//!
//! The producer publishes its index, then reads what the consumer waits for. The consumer says what it waits for, then
//! reads the index. Each must see at least one of the two as the other wrote it: hence a full fence in each. The test
//! below has loom try all orders, and shows that neither fence can go.

use core::sync::atomic::{Ordering, fence};

use crate::SharedMemory;

/// Words that both ends can see.
pub(crate) trait Words {
    /// Reads a word; what is read after it is at least as new.
    fn load(&self, offset: usize) -> u32;
    /// Writes a word; who sees it sees what was written before.
    fn store(&self, offset: usize, value: u32);
    /// Everything before comes before everything after.
    fn fence(&self);
}

impl Words for SharedMemory {
    fn load(&self, offset: usize) -> u32 {
        self.load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        self.store(offset, value);
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

/// Moves the producer's index from `from` to `to`. Whether the consumer waits for something in between, and is to be
/// notified (`RING_PUSH_*_AND_CHECK_NOTIFY`).
pub(crate) fn publish(words: &impl Words, producer: usize, event: usize, from: u32, to: u32) -> bool {
    words.store(producer, to);
    words.fence();
    to.wrapping_sub(words.load(event)) < to.wrapping_sub(from)
}

/// Says that the consumer waits for the producer to come to `at` (`RING_FINAL_CHECK_FOR_*`). It looks at the
/// producer's index once more afterwards.
pub(crate) fn arm(words: &impl Words, event: usize, at: u32) {
    words.store(event, at);
    words.fence();
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering::*, fence};
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    /// The two words, and which end leaves its fence out.
    struct Loom {
        words: Arc<[AtomicU32; 2]>,
        fenced: bool,
    }

    impl Words for Loom {
        fn load(&self, offset: usize) -> u32 {
            self.words[offset].load(Acquire)
        }

        fn store(&self, offset: usize, value: u32) {
            self.words[offset].store(value, Release);
        }

        fn fence(&self) {
            if self.fenced {
                fence(SeqCst);
            }
        }
    }

    const PRODUCER: usize = 0;
    const EVENT: usize = 1;

    /// One end produces one piece of work, the other sleeps when it finds none. Whether it was ever left asleep.
    fn a_wake_up_can_be_lost(producer_fenced: bool, consumer_fenced: bool) -> bool {
        let lost = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = lost.clone();
        loom::model(move || {
            let words = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
            let notified = Arc::new(AtomicBool::new(false));
            let producer = Loom { words: words.clone(), fenced: producer_fenced };
            let bell = notified.clone();
            let thread = thread::spawn(move || {
                if publish(&producer, PRODUCER, EVENT, 0, 1) {
                    bell.store(true, SeqCst);
                }
            });
            let consumer = Loom { words, fenced: consumer_fenced };
            arm(&consumer, EVENT, 1);
            let sleeps = consumer.load(PRODUCER) == 0;
            thread.join().unwrap();
            // Whoever sleeps is woken by the bell or by nothing.
            if sleeps && !notified.load(SeqCst) {
                seen.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        });
        lost.load(std::sync::atomic::Ordering::Relaxed)
    }

    #[test]
    fn no_wake_up_is_lost_and_neither_fence_can_go() {
        assert!(!a_wake_up_can_be_lost(true, true));
        assert!(a_wake_up_can_be_lost(false, true), "the producer's fence is not tested");
        assert!(a_wake_up_can_be_lost(true, false), "the consumer's fence is not tested");
    }

    /// The whole loop with a bell that can be rung before it is waited for: three pieces of work all arrive.
    #[test]
    fn all_work_arrives() {
        loom::model(|| {
            let words = Arc::new([AtomicU32::new(0), AtomicU32::new(1)]);
            let bell = Arc::new((Mutex::new(false), Condvar::new()));
            let producer = Loom { words: words.clone(), fenced: true };
            let ring = bell.clone();
            let thread = thread::spawn(move || {
                for index in 0..2 {
                    if publish(&producer, PRODUCER, EVENT, index, index + 1) {
                        *ring.0.lock().unwrap() = true;
                        ring.1.notify_one();
                    }
                }
            });
            let consumer = Loom { words, fenced: true };
            let mut taken = 0;
            while taken < 2 {
                taken = consumer.load(PRODUCER);
                if taken == 2 {
                    break;
                }
                arm(&consumer, EVENT, taken + 1);
                if consumer.load(PRODUCER) != taken {
                    continue;
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
