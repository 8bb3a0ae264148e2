//! What a response holds.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use core::ops::Range;

use async_lock::SemaphoreGuard;
use picoserve::io::Write;
use picoserve::response::Content;
use sarab::{Disk, println};
use sarab_site::File;

use crate::connection::{Cut, Server};

/// Bytes that are read from the disk at once for a client.
const CHUNK: usize = 8 << 10;
/// Memory that an answer from the disk takes beside the piece that the disk reads ahead.
pub const TRANSFER: usize = CHUNK + 4096;

/// A response's content; for HEAD its length alone.
pub struct Body<'a> {
    pub content_type: &'static str,
    pub from: From<'a>,
    pub head: bool,
    pub server: Rc<Server>,
}

pub enum From<'a> {
    Text(Cow<'static, str>),
    Disk(Box<FromDisk<'a>>),
}

/// A file's bytes.
pub struct FromDisk<'a> {
    pub file: File<'a, Disk>,
    pub part: Range<u64>,
    pub name: String,
    pub cut: Rc<Cut>,
    /// Leave to use memory for it.
    pub turn: SemaphoreGuard<'a>,
}

impl Content for Body<'_> {
    fn content_type(&self) -> &'static str {
        self.content_type
    }

    fn content_length(&self) -> usize {
        match &self.from {
            From::Text(text) => text.len(),
            From::Disk(disk) => (disk.part.end - disk.part.start) as usize,
        }
    }

    async fn write_content<W: Write>(self, mut writer: W) -> Result<(), W::Error> {
        if self.head {
            return Ok(());
        }
        match self.from {
            From::Text(text) => {
                writer.write_all(text.as_bytes()).await?;
                self.server.metrics.sent(text.len() as u64);
            }
            From::Disk(disk) => {
                let FromDisk { mut file, part, name, cut, turn: _turn } = *disk;
                let mut bytes = vec![0; CHUNK];
                let mut at = part.start;
                while at < part.end {
                    let len = (part.end - at).min(CHUNK as u64) as usize;
                    match file.read(at, &mut bytes[..len]).await {
                        Ok(len) if len > 0 => {
                            writer.write_all(&bytes[..len]).await?;
                            at += len as u64;
                            self.server.metrics.sent(len as u64);
                        }
                        outcome => {
                            self.server.metrics.cut();
                            match outcome {
                                Err(error) => println!("web: /{name}: cut at byte {at}: {error}"),
                                Ok(_) => println!("web: /{name}: cut at byte {at}: it is shorter than it says"),
                            }
                            return cut.cut().await;
                        }
                    }
                }
            }
        }
        writer.flush().await
    }
}
