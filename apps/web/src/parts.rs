//! Several parts of a file in one answer (RFC 9110, section 14.6).

use alloc::format;
use alloc::string::String;
use alloc::vec::{IntoIter, Vec};
use core::ops::Range;

use sarab_site::BlockDevice;

use crate::content::FromDisk;

/// Parts of a file, each with a head of its own.
pub struct Parts<'a, D: BlockDevice> {
    disk: FromDisk<'a, D>,
    media_type: String,
    length: u64,
    /// A part's head, or the end of all, as far as it was not given yet.
    head: Vec<u8>,
    given: usize,
    next: IntoIter<Range<u64>>,
    frame: Frame,
}

/// What stands between parts.
struct Frame {
    boundary: u64,
    media_type: &'static str,
    size: u64,
}

impl Frame {
    fn head(&self, part: &Range<u64>) -> String {
        let Frame { boundary, media_type, size } = self;
        let (start, last) = (part.start, part.end - 1);
        format!(
            "\r\n--{boundary:016x}\r\nContent-Type: {media_type}\r\nContent-Range: bytes {start}-{last}/{size}\r\n\r\n"
        )
    }

    fn end(&self) -> String {
        format!("\r\n--{:016x}--\r\n", self.boundary)
    }
}

impl<'a, D: BlockDevice> Parts<'a, D> {
    /// These parts, none of which is empty, of a file of `size` bytes. `boundary` is to be a number that is not in it.
    pub fn new(disk: FromDisk<'a, D>, parts: Vec<Range<u64>>, size: u64, boundary: u64) -> Parts<'a, D> {
        let frame = Frame { boundary, media_type: disk.media_type(), size };
        let bytes = |part: &Range<u64>| frame.head(part).len() as u64 + part.end - part.start;
        let length = parts.iter().map(bytes).sum::<u64>() + frame.end().len() as u64;
        let media_type = format!("multipart/byteranges; boundary={boundary:016x}");
        let mut parts = Parts { disk, media_type, length, head: Vec::new(), given: 0, next: parts.into_iter(), frame };
        parts.begin();
        parts
    }

    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    pub fn length(&self) -> u64 {
        self.length
    }

    /// Begins the next part, or the end.
    fn begin(&mut self) {
        let (part, head) = match self.next.next() {
            Some(part) => (part.clone(), self.frame.head(&part)),
            None => (0..0, self.frame.end()),
        };
        self.disk.turn_to(part);
        (self.head, self.given) = (head.into_bytes(), 0);
    }

    pub async fn next(&mut self, most: usize) -> Option<&[u8]> {
        if self.given == self.head.len() {
            if self.disk.left() > 0 {
                return self.disk.next(most).await;
            }
            self.begin();
        }
        let start = self.given;
        self.given = self.head.len().min(start + most);
        self.disk.count(self.given - start);
        Some(&self.head[start..self.given])
    }

    pub fn pause(&mut self) {
        self.disk.pause();
    }
}
