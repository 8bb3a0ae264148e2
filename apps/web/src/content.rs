//! What an answer holds.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use sarab_http::{Content, Text};
use sarab_site::{BlockDevice, File};

use crate::counters::Counters;
use crate::pages::Pages;
use crate::parts::Parts;
use crate::turns::Turn;

/// Bytes that are read from the disk at once for a client.
pub const CHUNK: usize = 8 << 10;
/// Memory that an answer from the disk takes beside the piece that the disk reads ahead.
pub const TRANSFER: usize = CHUNK + 4096;

/// An answer's content.
pub enum Body<'a, D: BlockDevice> {
    Text(Text, &'a Counters),
    Disk(Box<FromDisk<'a, D>>),
    Parts(Box<Parts<'a, D>>),
}

/// A file's bytes.
pub struct FromDisk<'a, D: BlockDevice> {
    pages: &'a Pages<D>,
    file: File<D>,
    part: Range<u64>,
    name: String,
    media_type: &'static str,
    /// Leave to use memory for it; none while the client takes nothing.
    turn: Option<Turn<'a>>,
    bytes: Vec<u8>,
}

impl<'a, D: BlockDevice> FromDisk<'a, D> {
    pub fn new(
        pages: &'a Pages<D>,
        file: File<D>,
        part: Range<u64>,
        name: &str,
        media_type: &'static str,
        turn: Turn<'a>,
    ) -> FromDisk<'a, D> {
        FromDisk { pages, file, part, name: name.into(), media_type, turn: Some(turn), bytes: Vec::new() }
    }

    pub fn media_type(&self) -> &'static str {
        self.media_type
    }

    /// Bytes that are still to be read.
    pub fn left(&self) -> u64 {
        self.part.end - self.part.start
    }

    /// Reads this part from now on.
    pub fn turn_to(&mut self, part: Range<u64>) {
        self.part = part;
    }

    /// So many bytes that are not the file's were sent with it.
    pub fn count(&self, bytes: usize) {
        self.pages.counters.sent(bytes as u64);
    }

    pub async fn next(&mut self, most: usize) -> Option<&[u8]> {
        if self.turn.as_ref().is_some_and(|turn| turn.is_over(self.pages.host.now())) {
            self.pause();
        }
        if self.turn.is_none() {
            self.turn = Some(self.pages.turn().await);
        }
        let most = usize::try_from(self.left()).unwrap_or(usize::MAX).min(most);
        let at = self.part.start;
        // Twice, as the compiler does not see that it is not borrowed where there is nothing.
        if let Some(len) = self.file.at_hand(at, most).map(<[u8]>::len).filter(|len| *len > 0) {
            self.part.start += len as u64;
            self.pages.counters.sent(len as u64);
            self.bytes = Vec::new();
            return self.file.at_hand(at, len);
        }
        self.bytes.resize(most.min(CHUNK), 0);
        let problem = match self.file.read(at, &mut self.bytes).await {
            Ok(len @ 1..) => {
                self.part.start += len as u64;
                self.pages.counters.sent(len as u64);
                return Some(&self.bytes[..len]);
            }
            Ok(_) => "it is shorter than it says".into(),
            Err(error) => format!("{error}"),
        };
        self.pages.counters.cut();
        self.pages.report(format_args!("web: {:?}: cut at byte {at}: {problem}", format!("/{}", self.name)));
        None
    }

    pub fn pause(&mut self) {
        self.bytes = Vec::new();
        self.file.pause();
        self.turn = None;
    }
}

impl<D: BlockDevice> Content for Body<'_, D> {
    fn media_type(&self) -> &str {
        match self {
            Body::Text(text, _) => text.media_type(),
            Body::Disk(disk) => disk.media_type,
            Body::Parts(parts) => parts.media_type(),
        }
    }

    fn length(&self) -> u64 {
        match self {
            Body::Text(text, _) => text.length(),
            Body::Disk(disk) => disk.left(),
            Body::Parts(parts) => parts.length(),
        }
    }

    async fn next(&mut self, most: usize) -> Option<&[u8]> {
        match self {
            Body::Text(text, counters) => {
                let bytes = text.next(most).await?;
                counters.sent(bytes.len() as u64);
                Some(bytes)
            }
            Body::Disk(disk) => disk.next(most).await,
            Body::Parts(parts) => parts.next(most).await,
        }
    }

    fn pause(&mut self) {
        match self {
            Body::Text(..) => {}
            Body::Disk(disk) => disk.pause(),
            Body::Parts(parts) => parts.pause(),
        }
    }
}
