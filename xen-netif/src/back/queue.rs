//! Packets that wait, and the memory that they take: a bound on their bytes alone would be none on memory, since a frame
//! of 14 bytes takes many times as much.

use alloc::collections::VecDeque;

use super::packet::Packet;

/// What an allocation takes besides its bytes: the allocator's own, and what it rounds up to.
const ALLOCATION: usize = 40;
/// Slots that a queue keeps however few packets there are.
const KEPT: usize = 64;

/// The memory of a packet with so many bytes, without its slot in a queue.
pub(super) fn memory(bytes: usize) -> usize {
    bytes + ALLOCATION
}

/// Packets in their order.
#[derive(Default)]
pub(super) struct Queue {
    packets: VecDeque<Packet>,
    /// Memory of the packets without their slots.
    memory: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Memory in use.
    pub(super) fn held(&self) -> usize {
        self.held_with(0, 0)
    }

    /// Memory that will have been in use once `count` more packets are there, whose own memory is `memory`. Slots are
    /// moved where there are too few, and then there are both, the old and the new.
    pub(super) fn held_with(&self, count: usize, memory: usize) -> usize {
        let (slots, wanted) = (self.packets.capacity(), self.packets.len() + count);
        let slots = if wanted > slots { slots + wanted.max(2 * slots).max(4) } else { slots };
        self.memory + memory + slots * size_of::<Packet>()
    }

    pub(super) fn push(&mut self, packet: Packet) {
        self.memory += memory(packet.bytes.memory());
        self.packets.push_back(packet);
    }

    pub(super) fn pop(&mut self) -> Option<Packet> {
        let packet = self.packets.pop_front()?;
        self.memory -= memory(packet.bytes.memory());
        let slots = self.packets.capacity();
        if slots > KEPT && self.packets.len() <= slots / 4 {
            self.packets.shrink_to((self.packets.len() * 2).max(KEPT));
        }
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    /// The guest's allocator, talc, adds a word and rounds up to 32 bytes.
    #[test]
    fn what_the_allocator_adds_counts() {
        for bytes in 0..5000_usize {
            assert!(memory(bytes) >= (bytes + 8).next_multiple_of(32), "{bytes} bytes");
        }
    }

    proptest! {
        /// What it says that it holds is the memory of its packets and of its slots, which are few where packets are few.
        #[test]
        fn it_knows_what_it_holds(steps in prop::collection::vec((any::<bool>(), 0..300_usize, 0..3000_usize), 0..30)) {
            let mut queue = Queue::default();
            let mut model = VecDeque::new();
            for (push, count, len) in steps {
                for _ in 0..count {
                    match push {
                        true => {
                            let expected = queue.held_with(1, memory(len));
                            queue.push(vec![7; len].into());
                            model.push_back(len);
                            prop_assert!(queue.held() <= expected);
                        }
                        false => {
                            let packet = queue.pop().map(|packet| packet.bytes.len());
                            prop_assert_eq!(packet, model.pop_front());
                        }
                    }
                }
                let slots = queue.packets.capacity();
                prop_assert!(slots <= KEPT * 2 || slots <= 4 * queue.len() + 4, "{} slots for {}", slots, queue.len());
                let own: usize = model.iter().map(|len| memory(*len)).sum();
                prop_assert_eq!(queue.held(), own + slots * size_of::<Packet>());
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}
