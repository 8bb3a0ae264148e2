//! How a file is opened.

use super::Dialect;

/// How a file is opened. The default is to read one that is there.
///
/// # Examples
///
/// ```
/// use xen_9pfs::front::OpenOptions;
///
/// // To add to a file, or begin one.
/// let options = OpenOptions::new().read().write().create(0o644);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) truncate: bool,
    pub(super) create: Option<u32>,
    pub(super) exclusive: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions::new()
    }
}

impl OpenOptions {
    /// Neither read nor written yet; a file that is opened so is read.
    pub const fn new() -> OpenOptions {
        OpenOptions { read: false, write: false, truncate: false, create: None, exclusive: false }
    }

    /// It is read.
    pub const fn read(mut self) -> OpenOptions {
        self.read = true;
        self
    }

    /// It is written.
    pub const fn write(mut self) -> OpenOptions {
        self.write = true;
        self
    }

    /// What it has is removed first.
    pub const fn truncate(mut self) -> OpenOptions {
        self.truncate = true;
        self
    }

    /// It is made if it is not there, with these permissions; the server may take some away.
    pub const fn create(mut self, mode: u32) -> OpenOptions {
        self.create = Some(mode & 0o7777);
        self
    }

    /// It is made with these permissions, and must not be there.
    pub const fn create_new(mut self, mode: u32) -> OpenOptions {
        self.exclusive = true;
        self.create(mode)
    }

    /// `O_RDONLY`, `O_WRONLY` or `O_RDWR`, which are the same in both dialects.
    const fn access(&self) -> u8 {
        match (self.read, self.write || self.truncate) {
            (_, false) => 0,
            (false, true) => 1,
            (true, true) => 2,
        }
    }

    /// Linux's flags (`P9_DOTL_*` of include/net/9p/9p.h).
    pub(super) const fn flags(&self, creates: bool) -> u32 {
        const CREATE: u32 = 0o100;
        const EXCLUSIVE: u32 = 0o200;
        const TRUNCATE: u32 = 0o1000;
        const LARGE_FILE: u32 = 0o100_000;
        let create = if creates { CREATE | EXCLUSIVE } else { 0 };
        self.access() as u32 | LARGE_FILE | create | if self.truncate { TRUNCATE } else { 0 }
    }

    /// The mode of 9P2000.u.
    pub(super) const fn mode(&self, creates: bool) -> u8 {
        self.access() | if self.truncate && !creates { 0x10 } else { 0 }
    }
}

impl Dialect {
    /// Whether it is 9P2000.L.
    pub(super) const fn is_linux(self) -> bool {
        matches!(self, Dialect::Linux)
    }
}
