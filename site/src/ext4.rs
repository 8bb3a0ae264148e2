//! An ext4 file system: a parser that reads synchronously, on a cache of blocks that tells what it misses.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use core::cell::RefCell;
use core::fmt;
use core::num::NonZeroUsize;

use async_lock::Mutex;
use ext4_view::{Ext4, Ext4Error, Ext4Read, File};
use lru::LruCache;
use xen_blkif::BlockDevice;

use crate::window::Window;
use crate::{OpenError, ReadError};

const BLOCK: usize = 4096;
/// Blocks that are kept: more than one call of the parser needs.
const MOST_BLOCKS: NonZeroUsize = NonZeroUsize::new(192).expect("not zero");
/// Blocks that are fetched where one is missed.
const AHEAD: u64 = 16;
/// Fetches of one call before it counts as going round in circles.
const MOST_FETCHES: usize = 4096;

/// Whether there is one: its magic number (Linux, Documentation/filesystems/ext4/super.rst).
pub(crate) async fn is_there<D: BlockDevice>(window: &mut Window<D>) -> Result<bool, xen_blkif::Error> {
    let mut magic = [0; 2];
    if window.size() < 2048 {
        return Ok(false);
    }
    window.read_all(1024 + 56, &mut magic).await?;
    Ok(magic == [0x53, 0xef])
}

/// What the parser reads from.
struct Blocks {
    kept: LruCache<u64, Box<[u8]>>,
    /// Bytes of the device.
    size: u64,
    /// The first block that the last read missed.
    missing: Option<u64>,
}

#[derive(Clone)]
struct Reader(Rc<RefCell<Blocks>>);

/// Why a read fails, for the parser to pass on.
#[derive(Debug)]
enum NotThere {
    Missing,
    Outside { start: u64, len: usize },
}

impl fmt::Display for NotThere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotThere::Missing => f.write_str("not read yet"),
            NotThere::Outside { start, len } => write!(f, "{len} bytes at {start} are not on the device"),
        }
    }
}

impl core::error::Error for NotThere {}

impl Ext4Read for Reader {
    fn read(&mut self, start: u64, to: &mut [u8]) -> Result<(), Box<dyn core::error::Error + Send + Sync>> {
        let mut blocks = self.0.borrow_mut();
        let len = to.len();
        if start.checked_add(len as u64).is_none_or(|end| end > blocks.size) {
            return Err(Box::new(NotThere::Outside { start, len }));
        }
        let mut done = 0;
        while done < len {
            let at = start + done as u64;
            let (number, offset) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let Some(block) = blocks.kept.get(&number) else {
                blocks.missing = Some(number);
                return Err(Box::new(NotThere::Missing));
            };
            let own = (block.len() - offset).min(len - done);
            to[done..done + own].copy_from_slice(&block[offset..offset + own]);
            done += own;
        }
        Ok(())
    }
}

pub(crate) struct FileSystem<D: BlockDevice> {
    blocks: Rc<RefCell<Blocks>>,
    system: Ext4,
    /// One call at a time: what it has fetched has to be there when it runs again.
    window: Mutex<Window<D>>,
}

/// A file that is read.
pub(crate) struct OpenFile {
    file: File,
    /// It has to find its place anew.
    lost: bool,
}

impl OpenFile {
    pub(crate) fn size(&self) -> u64 {
        self.file.metadata().len()
    }

    pub(crate) fn modified(&self) -> i64 {
        self.file.metadata().modified().seconds()
    }
}

/// Why a call fails for good.
enum Failure {
    Disk(xen_blkif::Error),
    Ext4(Ext4Error),
}

impl Failure {
    fn text(error: &Ext4Error) -> String {
        match error {
            Ext4Error::Io(cause) => cause.to_string(),
            other => format!("{other}"),
        }
    }
}

impl From<Failure> for ReadError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Disk(error) => ReadError::Disk(error),
            Failure::Ext4(error) => ReadError::Ext4(Failure::text(&error)),
        }
    }
}

impl From<Failure> for OpenError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Disk(error) => OpenError::Disk(error),
            Failure::Ext4(error) => OpenError::Ext4(Failure::text(&error)),
        }
    }
}

/// Runs a call of the parser until it has all that it reads.
async fn run<D: BlockDevice, T>(
    blocks: &RefCell<Blocks>,
    window: &mut Window<D>,
    mut call: impl FnMut() -> Result<T, Ext4Error>,
) -> Result<T, Failure> {
    let mut fetches = 0;
    loop {
        blocks.borrow_mut().missing = None;
        let error = match call() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let Some(first) = blocks.borrow_mut().missing.take().filter(|_| fetches < MOST_FETCHES) else {
            return Err(Failure::Ext4(error));
        };
        fetches += 1;
        let size = blocks.borrow().size;
        for number in first..first + AHEAD {
            let start = number * BLOCK as u64;
            if start >= size {
                break;
            }
            let mut block = vec![0; (size - start).min(BLOCK as u64) as usize].into_boxed_slice();
            window.read_all(start, &mut block).await.map_err(Failure::Disk)?;
            blocks.borrow_mut().kept.put(number, block);
        }
    }
}

impl<D: BlockDevice> FileSystem<D> {
    pub(crate) async fn load(disk: Rc<D>) -> Result<FileSystem<D>, OpenError> {
        let mut window = Window::new(disk);
        let size = window.size();
        let blocks = Rc::new(RefCell::new(Blocks { kept: LruCache::new(MOST_BLOCKS), size, missing: None }));
        let system = run(&blocks, &mut window, || Ext4::load(Box::new(Reader(blocks.clone())))).await?;
        Ok(FileSystem { blocks, system, window: Mutex::new(window) })
    }

    /// A regular file of a clean name.
    pub(crate) async fn open(&self, path: &str) -> Result<Option<OpenFile>, ReadError> {
        let path = format!("/{path}");
        let mut window = self.window.lock().await;
        let found = run(&self.blocks, &mut window, || match self.system.open(path.as_str()) {
            Ok(file) => Ok(Some(file)),
            Err(
                Ext4Error::NotFound
                | Ext4Error::NotADirectory
                | Ext4Error::IsADirectory
                | Ext4Error::IsASpecialFile
                | Ext4Error::MalformedPath
                | Ext4Error::PathTooLong
                | Ext4Error::TooManySymlinks,
            ) => Ok(None),
            Err(error) => Err(error),
        });
        Ok(found.await?.map(|file| OpenFile { file, lost: false }))
    }

    /// Reads as much as is there without another fetch, and something in any case.
    pub(crate) async fn read(&self, open: &mut OpenFile, at: u64, to: &mut [u8]) -> Result<usize, ReadError> {
        let mut window = self.window.lock().await;
        let read = run(&self.blocks, &mut window, || {
            if open.lost || open.file.position() != at {
                open.lost = true;
                open.file.seek_to(at)?;
                // It goes on where a block was missed, and is of no use then.
                if self.blocks.borrow().missing.is_some() {
                    return Err(Ext4Error::Io(Box::new(NotThere::Missing)));
                }
                open.lost = false;
            }
            let mut done = 0;
            while done < to.len() {
                match open.file.read_bytes(&mut to[done..]) {
                    Ok(0) => break,
                    Ok(len) => done += len,
                    Err(error) => {
                        open.lost = true;
                        return if done > 0 { Ok(done) } else { Err(error) };
                    }
                }
            }
            Ok(done)
        });
        Ok(read.await?)
    }
}
