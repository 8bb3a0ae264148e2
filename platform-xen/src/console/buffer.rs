//! A bounded buffer of messages that go out whole or not at all.

use alloc::boxed::Box;

/// Bytes on their way to the console. What does not fit is dropped and counted, message by message.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
    /// Length before the message that is being written, and whether it still fits.
    message: Option<(usize, bool)>,
    dropped: u64,
    total_dropped: u64,
}

impl Buffer {
    /// An empty buffer for `size` bytes.
    pub fn new(size: usize) -> Buffer {
        Buffer { bytes: alloc::vec![0; size].into(), start: 0, len: 0, message: None, dropped: 0, total_dropped: 0 }
    }

    /// Begins a message.
    pub fn begin(&mut self) {
        let fits = self.dropped == 0 || self.report_loss();
        self.message = Some((self.len, fits));
    }

    /// Adds to the message; says nothing where it has become too long.
    pub fn add(&mut self, bytes: &[u8]) {
        let Some((before, fits)) = self.message else { return };
        if !fits || !self.append(bytes) {
            self.dropped += bytes.len() as u64;
            self.total_dropped += bytes.len() as u64;
            if fits {
                let partial = (self.len - before) as u64;
                self.dropped += partial;
                self.total_dropped += partial;
            }
            self.len = before;
            self.message = Some((before, false));
        }
    }

    /// Ends the message.
    pub fn end(&mut self) {
        self.message = None;
    }

    /// Adds as many of `bytes` as there is room for, and returns how many.
    pub fn add_some(&mut self, bytes: &[u8]) -> usize {
        if self.dropped != 0 && !self.report_loss() {
            return 0;
        }
        let count = bytes.len().min(self.room());
        self.append(&bytes[..count]);
        count
    }

    /// Free bytes.
    pub fn room(&self) -> usize {
        self.bytes.len() - self.len
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes dropped since the start.
    pub fn total_dropped(&self) -> u64 {
        self.total_dropped
    }

    /// The oldest bytes, as far as they lie in one piece.
    pub fn front(&self) -> &[u8] {
        let end = (self.start + self.len).min(self.bytes.len());
        &self.bytes[self.start..end]
    }

    /// Removes `count` bytes from the front.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.len && self.message.is_none());
        self.start = (self.start + count) % self.bytes.len();
        self.len -= count;
    }

    fn append(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.room() {
            return false;
        }
        for byte in bytes {
            self.bytes[(self.start + self.len) % self.bytes.len()] = *byte;
            self.len += 1;
        }
        true
    }

    /// Leaves a line about what is missing, where it fits.
    fn report_loss(&mut self) -> bool {
        let line = alloc::format!("[console: {} bytes dropped]\r\n", self.dropped);
        let fits = self.append(line.as_bytes());
        if fits {
            self.dropped = 0;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(buffer: &mut Buffer, text: &str) {
        buffer.begin();
        text.split_inclusive(' ').for_each(|part| buffer.add(part.as_bytes()));
        buffer.end();
    }

    fn drain(buffer: &mut Buffer, count: usize) -> String {
        let mut text = String::new();
        while text.len() < count && !buffer.is_empty() {
            let part = buffer.front();
            let part = &part[..part.len().min(count - text.len())];
            text += std::str::from_utf8(part).unwrap();
            let taken = part.len();
            buffer.consume(taken);
        }
        text
    }

    #[test]
    fn a_message_that_does_not_fit_is_dropped_whole_and_counted() {
        let mut buffer = Buffer::new(48);
        message(&mut buffer, &"x".repeat(40));
        message(&mut buffer, "one two three");
        assert_eq!(buffer.total_dropped(), 13);
        assert_eq!(drain(&mut buffer, 40), "x".repeat(40));
        message(&mut buffer, "four five");
        assert_eq!(drain(&mut buffer, 100), "[console: 13 bytes dropped]\r\nfour five");
        message(&mut buffer, "six");
        assert_eq!(drain(&mut buffer, 100), "six");
    }

    #[test]
    fn bytes_keep_their_order_around_the_end() {
        let mut buffer = Buffer::new(7);
        let mut out = String::new();
        for round in 0..50 {
            let text = ["abc", "de", "fghi"][round % 3];
            assert_eq!(buffer.add_some(text.as_bytes()), text.len());
            out += &drain(&mut buffer, 100);
        }
        assert!(out.starts_with("abcdefghiabc"));
        assert_eq!(buffer.add_some(b"123456789"), 7);
        assert_eq!(buffer.total_dropped(), 0);
    }
}
