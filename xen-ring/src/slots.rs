//! A ring of requests and responses, as the block and network protocols use it (xen/include/public/io/ring.h).
//!
//! Requests and responses share the slots: a response overwrites a request that the backend has taken. Indices run
//! freely and wrap at 2³². Each end keeps its own indices to itself and checks the peer's against them, so whatever
//! the peer writes, a slot is read only where the peer may have filled one, and once.
//!
//! The peer can change its index at any time, also between two loads. So each end takes a snapshot of it, works up to
//! that, and takes the next when it has come there; a snapshot that is behind an earlier one is the peer's failure.

use core::fmt;

use crate::{SharedMemory, handshake};

/// Where the producer of requests has come to.
const REQ_PROD: usize = 0;
/// The backend wants to be notified when the producer of requests passes this.
const REQ_EVENT: usize = 4;
/// Where the producer of responses has come to.
const RSP_PROD: usize = 8;
/// The frontend wants to be notified when the producer of responses passes this.
const RSP_EVENT: usize = 12;
/// The slots begin after the header and its padding.
const SLOTS: usize = 64;
/// No protocol of Xen's has larger slots.
const MAX_SLOT_SIZE: usize = 128;

/// How a protocol's requests and responses lie in a slot.
///
/// # Examples
///
/// A ring of numbers, which the backend doubles:
///
/// ```
/// use xen_hal::Pages;
/// use xen_ring::{BackRing, FrontRing, Protocol, SharedPage};
///
/// #[derive(Debug)]
/// struct Doubling;
///
/// impl Protocol for Doubling {
///     type Request = u32;
///     type Response = u32;
///
///     fn slot_size(&self) -> usize {
///         4
///     }
///
///     fn encode_request(&self, request: &u32, slot: &mut [u8]) {
///         slot.copy_from_slice(&request.to_le_bytes());
///     }
///
///     fn decode_request(&self, slot: &[u8]) -> u32 {
///         u32::from_le_bytes(slot.try_into().unwrap())
///     }
///
///     fn encode_response(&self, response: &u32, slot: &mut [u8]) {
///         self.encode_request(response, slot);
///     }
///
///     fn decode_response(&self, slot: &[u8]) -> u32 {
///         self.decode_request(slot)
///     }
/// }
///
/// let xen = xen_sim::Xen::new(1);
/// let page = SharedPage::new(xen.domain().alloc_page().unwrap());
/// let mut front = FrontRing::new(Doubling, &page);
/// let mut back = BackRing::attach(Doubling, &page).unwrap();
///
/// front.push(&page, &21).unwrap();
/// assert!(front.publish(&page), "the backend waits for an event");
/// while let Some(request) = back.pop(&page).unwrap() {
///     back.push(&page, &(request * 2));
/// }
/// back.publish(&page);
/// assert_eq!(front.pop(&page), Ok(Some(42)));
/// ```
pub trait Protocol {
    /// What the frontend asks.
    type Request;
    /// What the backend answers.
    type Response;

    /// Bytes of a slot: of the larger of the two, with C's padding.
    fn slot_size(&self) -> usize;

    /// Writes a request to a slot of zeroes.
    fn encode_request(&self, request: &Self::Request, slot: &mut [u8]);

    /// Reads a request from a copy of its slot. Nothing in it is to be trusted.
    fn decode_request(&self, slot: &[u8]) -> Self::Request;

    /// Writes a response to a slot of zeroes.
    fn encode_response(&self, response: &Self::Response, slot: &mut [u8]);

    /// Reads a response from a copy of its slot. Nothing in it is to be trusted.
    fn decode_response(&self, slot: &[u8]) -> Self::Response;
}

/// The peer has moved its index to where it cannot be: it is broken or hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum BadProducer {
    /// It is not within the ring.
    OutOfRange {
        /// What the peer's index says.
        producer: u32,
        /// How far this end has taken what the peer produced.
        consumer: u32,
        /// The most that there can be.
        max: u32,
    },
    /// It has been further already: what was produced cannot be unmade.
    Backwards {
        /// What the peer's index says.
        producer: u32,
        /// What it has said before.
        seen: u32,
    },
}

impl fmt::Display for BadProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            BadProducer::OutOfRange { producer, consumer, max } => write!(
                f,
                "ring index out of range: the peer's producer is {producer:#x} where {consumer:#x} to {:#x} is possible",
                consumer.wrapping_add(max)
            ),
            BadProducer::Backwards { producer, seen } => {
                write!(f, "ring index moved backwards: the peer's producer is {producer:#x}, and was {seen:#x}")
            }
        }
    }
}

impl core::error::Error for BadProducer {}

/// How a ring stands, for whoever looks for a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indices {
    /// How many slots there are.
    pub slots: u32,
    /// This end's producer, and how much of it the peer may see.
    pub produced: u32,
    /// See `produced`.
    pub published: u32,
    /// How far this end has taken what the peer produced.
    pub consumed: u32,
    /// `req_prod`, `req_event`, `rsp_prod` and `rsp_event` in the shared page, whoever wrote them.
    pub shared: [u32; 4],
}

impl Indices {
    fn read(memory: &SharedMemory, slots: u32, produced: u32, published: u32, consumed: u32) -> Indices {
        let shared = [REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT].map(|index| memory.load(index));
        Indices { slots, produced, published, consumed, shared }
    }
}

impl fmt::Display for Indices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Indices { slots, produced, published, consumed, shared: [req_prod, req_event, rsp_prod, rsp_event] } = self;
        write!(f, "{slots} slots, produced {produced} (published {published}), consumed {consumed}; ")?;
        write!(f, "req_prod {req_prod} req_event {req_event} rsp_prod {rsp_prod} rsp_event {rsp_event}")
    }
}

/// No slot is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no slot of the ring is free")
    }
}

impl core::error::Error for Full {}

/// How many slots of `slot_size` bytes a ring in `bytes` bytes has: a power of two, as `__RING_SIZE` rounds it.
///
/// # Panics
///
/// Where there is no room for one.
///
/// # Examples
///
/// ```
/// // A ring of network requests, 12 bytes each, in one page.
/// assert_eq!(xen_ring::slots(4096, 12), 256);
/// ```
pub const fn slots(bytes: usize, slot_size: usize) -> u32 {
    let fit = ((bytes - SLOTS) / slot_size) as u32;
    1 << fit.ilog2()
}

#[derive(Clone, Copy, Debug)]
struct Layout {
    slot: usize,
    slots: u32,
}

impl Layout {
    fn new(memory: &SharedMemory, slot: usize) -> Layout {
        assert!(slot <= MAX_SLOT_SIZE, "slots of {slot} bytes");
        Layout { slot, slots: slots(memory.len(), slot) }
    }

    fn offset(&self, index: u32) -> usize {
        SLOTS + (index & (self.slots - 1)) as usize * self.slot
    }

    /// Copies a slot out, once.
    fn read<R>(&self, memory: &SharedMemory, index: u32, decode: impl FnOnce(&[u8]) -> R) -> R {
        let mut copy = [0; MAX_SLOT_SIZE];
        memory.read(self.offset(index), &mut copy[..self.slot]);
        decode(&copy[..self.slot])
    }

    /// Fills a slot whole: what encodes nothing is zero, not what lay there before (XSA-216).
    fn write(&self, memory: &SharedMemory, index: u32, encode: impl FnOnce(&mut [u8])) {
        let mut copy = [0; MAX_SLOT_SIZE];
        encode(&mut copy[..self.slot]);
        memory.write(self.offset(index), &copy[..self.slot]);
    }
}

/// The frontend's end: it puts requests in and takes responses out.
#[derive(Debug)]
pub struct FrontRing<P> {
    protocol: P,
    layout: Layout,
    /// Requests put in, of which the peer knows those before `published`.
    produced: u32,
    published: u32,
    /// Responses taken out.
    consumed: u32,
    /// The last snapshot of the peer's producer, never behind `consumed`.
    seen: u32,
}

impl<P: Protocol> FrontRing<P> {
    /// An empty ring in this memory, which the peer has not seen yet.
    pub fn new(protocol: P, memory: &SharedMemory) -> FrontRing<P> {
        let layout = Layout::new(memory, protocol.slot_size());
        for (index, value) in [(REQ_PROD, 0), (REQ_EVENT, 1), (RSP_PROD, 0), (RSP_EVENT, 1)] {
            memory.store(index, value);
        }
        FrontRing { protocol, layout, produced: 0, published: 0, consumed: 0, seen: 0 }
    }

    /// How many slots there are.
    pub fn slots(&self) -> u32 {
        self.layout.slots
    }

    /// How many requests have no response taken yet.
    pub fn outstanding(&self) -> u32 {
        self.produced.wrapping_sub(self.consumed)
    }

    /// How many requests can be put in now.
    pub fn free(&self) -> u32 {
        self.layout.slots - self.outstanding()
    }

    /// How it stands.
    pub fn indices(&self, memory: &SharedMemory) -> Indices {
        Indices::read(memory, self.layout.slots, self.produced, self.published, self.consumed)
    }

    /// Puts a request in, for the peer to see at the next [`publish`](FrontRing::publish).
    ///
    /// # Errors
    ///
    /// Where no slot is free.
    pub fn push(&mut self, memory: &SharedMemory, request: &P::Request) -> Result<(), Full> {
        if self.free() == 0 {
            return Err(Full);
        }
        self.layout.write(memory, self.produced, |slot| self.protocol.encode_request(request, slot));
        self.produced = self.produced.wrapping_add(1);
        Ok(())
    }

    /// Shows the peer what was put in. Whether it is to be notified.
    #[must_use = "a peer that is not notified may sleep for ever"]
    pub fn publish(&mut self, memory: &SharedMemory) -> bool {
        let from = core::mem::replace(&mut self.published, self.produced);
        from != self.produced && handshake::publish(memory, REQ_PROD, REQ_EVENT, from, self.produced)
    }

    /// Takes a response out, if there is one.
    ///
    /// # Errors
    ///
    /// Where the peer has produced more responses than there were requests, or has moved its index backwards.
    pub fn pop(&mut self, memory: &SharedMemory) -> Result<Option<P::Response>, BadProducer> {
        if self.consumed == self.seen && self.waiting(memory)? == 0 {
            return Ok(None);
        }
        let response = self.layout.read(memory, self.consumed, |slot| self.protocol.decode_response(slot));
        self.consumed = self.consumed.wrapping_add(1);
        Ok(Some(response))
    }

    /// How many responses wait to be taken now: so many calls of [`pop`](FrontRing::pop) give one each, whatever the
    /// peer does meanwhile.
    ///
    /// # Errors
    ///
    /// As [`pop`](FrontRing::pop).
    pub fn waiting(&mut self, memory: &SharedMemory) -> Result<u32, BadProducer> {
        self.seen = check(memory.load(RSP_PROD), self.seen, self.consumed, self.published.wrapping_sub(self.consumed))?;
        Ok(self.seen.wrapping_sub(self.consumed))
    }

    /// Asks to be notified when the `after`th response from now is there, 1 for the next. Whether responses wait
    /// already, that many: then no notification will come for them.
    ///
    /// # Errors
    ///
    /// As [`pop`](FrontRing::pop).
    #[must_use = "what is there already makes no notification"]
    pub fn arm(&mut self, memory: &SharedMemory, after: u32) -> Result<bool, BadProducer> {
        handshake::arm(memory, RSP_EVENT, self.consumed.wrapping_add(after));
        Ok(self.waiting(memory)? >= after)
    }
}

/// The backend's end: it takes requests out and puts responses in.
#[derive(Debug)]
pub struct BackRing<P> {
    protocol: P,
    layout: Layout,
    /// Requests taken out.
    consumed: u32,
    /// The last snapshot of the peer's producer, never behind `consumed`.
    seen: u32,
    /// Responses put in, of which the peer knows those before `published`.
    produced: u32,
    published: u32,
}

impl<P: Protocol> BackRing<P> {
    /// Takes over a ring that a frontend has made, and goes on where the last backend has stopped.
    ///
    /// # Errors
    ///
    /// Where the frontend's index is out of range.
    pub fn attach(protocol: P, memory: &SharedMemory) -> Result<BackRing<P>, BadProducer> {
        let layout = Layout::new(memory, protocol.slot_size());
        let start = memory.load(RSP_PROD);
        let seen = check(memory.load(REQ_PROD), start, start, layout.slots)?;
        Ok(BackRing { protocol, layout, consumed: start, seen, produced: start, published: start })
    }

    /// How many slots there are.
    pub fn slots(&self) -> u32 {
        self.layout.slots
    }

    /// How many requests were taken and have no response yet.
    pub fn outstanding(&self) -> u32 {
        self.consumed.wrapping_sub(self.produced)
    }

    /// How it stands.
    pub fn indices(&self, memory: &SharedMemory) -> Indices {
        Indices::read(memory, self.layout.slots, self.produced, self.published, self.consumed)
    }

    /// Takes a request out, if there is one.
    ///
    /// # Errors
    ///
    /// Where the peer has produced more requests than there are slots for, or has moved its index backwards.
    pub fn pop(&mut self, memory: &SharedMemory) -> Result<Option<P::Request>, BadProducer> {
        if self.consumed == self.seen && self.waiting(memory)? == 0 {
            return Ok(None);
        }
        let request = self.layout.read(memory, self.consumed, |slot| self.protocol.decode_request(slot));
        self.consumed = self.consumed.wrapping_add(1);
        Ok(Some(request))
    }

    /// How many requests wait to be taken now: so many calls of [`pop`](BackRing::pop) give one each, whatever the peer
    /// does meanwhile.
    ///
    /// # Errors
    ///
    /// As [`pop`](BackRing::pop).
    pub fn waiting(&mut self, memory: &SharedMemory) -> Result<u32, BadProducer> {
        self.seen = check(memory.load(REQ_PROD), self.seen, self.consumed, self.layout.slots - self.outstanding())?;
        Ok(self.seen.wrapping_sub(self.consumed))
    }

    /// Asks to be notified of the next request. Whether there is one already: then no notification will come for it.
    ///
    /// # Errors
    ///
    /// As [`pop`](BackRing::pop).
    #[must_use = "what is there already makes no notification"]
    pub fn arm(&mut self, memory: &SharedMemory) -> Result<bool, BadProducer> {
        self.arm_for(memory, 1)
    }

    /// Asks to be notified when `count` requests wait. Whether as many wait already: then no notification will come.
    ///
    /// # Errors
    ///
    /// As [`pop`](BackRing::pop).
    #[must_use = "what is there already makes no notification"]
    pub fn arm_for(&mut self, memory: &SharedMemory, count: u32) -> Result<bool, BadProducer> {
        handshake::arm(memory, REQ_EVENT, self.consumed.wrapping_add(count));
        Ok(self.waiting(memory)? >= count)
    }

    /// Puts a response in, for the peer to see at the next [`publish`](BackRing::publish).
    ///
    /// # Panics
    ///
    /// Where every request that was taken has its response already: it would overwrite a request.
    pub fn push(&mut self, memory: &SharedMemory, response: &P::Response) {
        assert!(self.outstanding() > 0, "a response without a request");
        self.layout.write(memory, self.produced, |slot| self.protocol.encode_response(response, slot));
        self.produced = self.produced.wrapping_add(1);
    }

    /// Shows the peer what was put in. Whether it is to be notified.
    #[must_use = "a peer that is not notified may sleep for ever"]
    pub fn publish(&mut self, memory: &SharedMemory) -> bool {
        let from = core::mem::replace(&mut self.published, self.produced);
        from != self.produced && handshake::publish(memory, RSP_PROD, RSP_EVENT, from, self.produced)
    }
}

/// A snapshot of the peer's producer, where the last one was `seen`, after it was checked.
fn check(producer: u32, seen: u32, consumer: u32, max: u32) -> Result<u32, BadProducer> {
    match producer.wrapping_sub(consumer) {
        count if count > max => Err(BadProducer::OutOfRange { producer, consumer, max }),
        count if count < seen.wrapping_sub(consumer) => Err(BadProducer::Backwards { producer, seen }),
        _ => Ok(producer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;
    use core::ptr::NonNull;
    use proptest::prelude::*;

    /// Requests of 12 bytes and responses of 8.
    #[derive(Clone, Copy, Debug)]
    struct Numbers;

    impl Protocol for Numbers {
        type Request = u64;
        type Response = u32;

        fn slot_size(&self) -> usize {
            12
        }

        fn encode_request(&self, request: &u64, slot: &mut [u8]) {
            slot[4..].copy_from_slice(&request.to_le_bytes());
        }

        fn decode_request(&self, slot: &[u8]) -> u64 {
            u64::from_le_bytes(slot[4..].try_into().unwrap())
        }

        fn encode_response(&self, response: &u32, slot: &mut [u8]) {
            slot[..4].copy_from_slice(&response.to_le_bytes());
        }

        fn decode_response(&self, slot: &[u8]) -> u32 {
            u32::from_le_bytes(slot[..4].try_into().unwrap())
        }
    }

    #[repr(align(4096))]
    struct Bytes(#[allow(dead_code, reason = "used through a pointer")] [u8; 256]);

    /// Room for 16 slots of 12 bytes.
    fn memory() -> SharedMemory {
        let bytes = NonNull::from(Box::leak(Box::new(Bytes([0xaa; 256])))).cast();
        // SAFETY: leaked, and used through this value alone.
        unsafe { SharedMemory::new(bytes, 256) }
    }

    #[test]
    fn sizes_are_those_of_the_protocols() {
        // blkif has 32 slots of 112 bytes in a page and 512 in sixteen; netif 256 of 12 or 8.
        assert_eq!(slots(4096, 112), 32);
        assert_eq!(slots(16 * 4096, 112), 512);
        assert_eq!(slots(4096, 12), 256);
        assert_eq!(slots(4096, 8), 256);
        assert_eq!(FrontRing::new(Numbers, &memory()).slots(), 16);
    }

    #[test]
    fn a_full_ring_refuses_and_a_response_hides_what_was_asked() {
        let memory = memory();
        let mut front = FrontRing::new(Numbers, &memory);
        for number in 0..16 {
            front.push(&memory, &(number << 32 | 0xffff_ffff)).unwrap();
        }
        assert_eq!(front.push(&memory, &16), Err(Full));
        let mut back = BackRing::attach(Numbers, &memory).unwrap();
        assert_eq!(back.pop(&memory), Ok(None), "nothing was published");
        assert!(front.publish(&memory));
        assert_eq!(back.pop(&memory), Ok(Some(0xffff_ffff)));
        back.push(&memory, &7);
        let mut slot = [0xff; 12];
        memory.read(SLOTS, &mut slot);
        assert_eq!(slot, [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "XSA-216: padding leaks nothing");
        assert!(back.publish(&memory));
        assert_eq!(front.pop(&memory), Ok(Some(7)));
        assert_eq!(front.free(), 1);
    }

    #[test]
    fn a_backend_goes_on_where_another_has_stopped() {
        let memory = memory();
        let mut front = FrontRing::new(Numbers, &memory);
        let mut back = BackRing::attach(Numbers, &memory).unwrap();
        for number in 0..3 {
            front.push(&memory, &number).unwrap();
        }
        let _ = front.publish(&memory);
        back.pop(&memory).unwrap();
        back.push(&memory, &0);
        let _ = back.publish(&memory);
        let mut back = BackRing::attach(Numbers, &memory).unwrap();
        assert_eq!(back.pop(&memory), Ok(Some(1)));
    }

    proptest! {
        /// Both ends against a model, in any order of steps: what goes in comes out once and in order, and an end that
        /// sleeps is told when there is something.
        #[test]
        fn requests_and_responses_arrive_once(steps in prop::collection::vec(0..6, 0..400)) {
            let memory = memory();
            let mut front = FrontRing::new(Numbers, &memory);
            let mut back = BackRing::attach(Numbers, &memory).unwrap();
            let (mut asked, mut taken, mut answered) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
            let (mut next, mut back_sleeps, mut front_sleeps) = (0_u64, false, false);
            let (mut unpublished, mut unanswered) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    0 => match front.push(&memory, &next) {
                        Ok(()) => {
                            unpublished.push(next);
                            next += 1;
                        }
                        Err(Full) => prop_assert_eq!(
                            unpublished.len() + asked.len() + taken.len() + unanswered.len() + answered.len(), 16
                        ),
                    },
                    1 => {
                        let notify = front.publish(&memory);
                        prop_assert!(notify || !back_sleeps || unpublished.is_empty());
                        back_sleeps &= !notify;
                        asked.extend(unpublished.drain(..));
                    }
                    2 => {
                        let found = back.pop(&memory).unwrap();
                        prop_assert_eq!(found, asked.pop_front());
                        match found {
                            Some(found) => taken.push_back(found),
                            None => back_sleeps = !back.arm(&memory).unwrap(),
                        }
                    }
                    3 => if let Some(number) = taken.pop_front() {
                        back.push(&memory, &(number as u32));
                        unanswered.push(number);
                    },
                    4 => {
                        let notify = back.publish(&memory);
                        prop_assert!(notify || !front_sleeps || unanswered.is_empty());
                        front_sleeps &= !notify;
                        answered.extend(unanswered.drain(..));
                    }
                    _ => {
                        let found = front.pop(&memory).unwrap();
                        prop_assert_eq!(found, answered.pop_front().map(|number| number as u32));
                        if found.is_none() {
                            front_sleeps = !front.arm(&memory, 1).unwrap();
                        }
                    }
                }
            }
        }

        /// A peer that moves its index between any two steps: what was counted can be taken, each once and in order, and
        /// an index that goes back is the peer's failure as soon as it is looked at.
        #[test]
        fn an_index_that_moves_back_takes_nothing_away(
            start in prop_oneof![Just(0), (u32::MAX - 40)..=u32::MAX],
            steps in prop::collection::vec((0..3, 0_u32..20), 0..60),
        ) {
            let memory = memory();
            let mut front = FrontRing::new(Numbers, &memory);
            memory.store(REQ_PROD, start);
            memory.store(RSP_PROD, start);
            let mut back = BackRing::attach(Numbers, &memory).unwrap();
            (front.produced, front.published, front.consumed, front.seen) = (start.wrapping_add(16), start.wrapping_add(16), start, start);
            // As far as this end knows, and where the index is in truth.
            let (mut consumed, mut seen, mut producer) = (0_u32, 0_u32, 0_u32);
            for (step, number) in steps {
                match step {
                    0 => {
                        producer = number;
                        memory.store(REQ_PROD, start.wrapping_add(producer));
                        memory.store(RSP_PROD, start.wrapping_add(producer));
                    }
                    1 => {
                        let (at_back, at_front) = (back.waiting(&memory), front.waiting(&memory));
                        prop_assert_eq!(at_back, at_front);
                        let (absolute, before) = (start.wrapping_add(producer), start.wrapping_add(seen));
                        match at_back {
                            Ok(count) => {
                                prop_assert!(seen <= producer && producer <= 16);
                                prop_assert_eq!(count, producer - consumed);
                                seen = producer;
                            }
                            Err(BadProducer::Backwards { producer: said, seen: known }) => {
                                prop_assert_eq!((said, known), (absolute, before));
                                prop_assert!((consumed..seen).contains(&producer));
                            }
                            Err(BadProducer::OutOfRange { producer: said, .. }) => {
                                prop_assert_eq!(said, absolute);
                                prop_assert!(producer < consumed || producer > 16);
                            }
                        }
                    }
                    _ => {
                        // Up to what was counted, whatever the index says by now.
                        for _ in 0..number.min(seen - consumed) {
                            prop_assert!(back.pop(&memory).unwrap().is_some());
                            prop_assert!(front.pop(&memory).unwrap().is_some());
                            consumed += 1;
                        }
                        prop_assert_eq!(back.indices(&memory).consumed, start.wrapping_add(consumed));
                    }
                }
            }
        }

        /// A peer that writes anything into its index gets nothing but an error, and no slot is read for it.
        #[test]
        fn a_hostile_index_is_an_error(index in any::<u32>(), pushed in 0_u32..16) {
            let memory = memory();
            let mut front = FrontRing::new(Numbers, &memory);
            for number in 0..pushed {
                front.push(&memory, &number.into()).unwrap();
            }
            let _ = front.publish(&memory);
            let mut back = BackRing::attach(Numbers, &memory).unwrap();
            memory.store(RSP_PROD, index);
            prop_assert_eq!(front.pop(&memory).is_ok(), index <= pushed);
            memory.store(RSP_PROD, 0);
            memory.store(REQ_PROD, index);
            prop_assert_eq!(back.waiting(&memory).is_ok(), (pushed..=16).contains(&index));
            prop_assert_eq!(BackRing::attach(Numbers, &memory).is_ok(), index <= 16);
        }
    }
}
