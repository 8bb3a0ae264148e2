//! A directory of the share, and what can be done from there by paths.

use alloc::vec::Vec;
use core::fmt;

use xen_hal::Errno;
use xenbus::Handle;

use super::fid::{Fid, walk};
use super::fids::ROOT;
use super::shared::{Session, Shared};
use super::{Changes, Error, File, Metadata, OpenOptions, ReadDir, Space, ops, path};
use crate::protocol::{Message, Text};

/// A directory of the share. Paths in its methods begin there, and go down alone: names between slashes, without `..`.
/// Symbolic links are not followed ([`Error::SymbolicLink`]), except by xen-9pfsd, which does so by itself.
///
/// The root ([`Share::root`](super::Share::root)) is there in every session. Any other one was found by the server, and is
/// [`Error::Stale`] when the connection has ended.
pub struct Dir {
    shared: Handle<Shared>,
    /// `None` is the root.
    fid: Option<Fid>,
}

/// What a request starts from: this directory, or one that a walk has found.
enum Start {
    Own(u32),
    Found(Fid),
}

impl Start {
    fn number(&self) -> u32 {
        match self {
            Start::Own(number) => *number,
            Start::Found(fid) => fid.number(),
        }
    }
}

impl Dir {
    pub(super) fn root(shared: &Handle<Shared>) -> Dir {
        Dir { shared: shared.clone(), fid: None }
    }

    async fn start(&self) -> Result<(Session, u32), Error> {
        match &self.fid {
            Some(fid) => Ok((fid.session, fid.number())),
            None => Ok((self.shared.session().await?, ROOT)),
        }
    }

    async fn find(&self, path: &[u8]) -> Result<Fid, Error> {
        let names = path::names(path)?;
        let (session, from) = self.start().await?;
        Ok(walk(&self.shared, session, from, &names, 0).await?.0)
    }

    /// The directory of a path's last name, and that.
    async fn parent<'p>(&self, path: &'p [u8], holding: usize) -> Result<(Session, Start, &'p [u8]), Error> {
        let names = path::names(path)?;
        let (last, before) = names.split_last().ok_or(Error::InvalidPath)?;
        let (session, from) = self.start().await?;
        if before.is_empty() {
            return Ok((session, Start::Own(from), last));
        }
        let (fid, _) = walk(&self.shared, session, from, before, holding).await?;
        Ok((session, Start::Found(fid), last))
    }

    /// A directory below this one.
    ///
    /// # Errors
    ///
    /// Where there is none, or it is a file.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn dir(&self, path: impl AsRef<[u8]>) -> Result<Dir, Error> {
        let names = path::names(path.as_ref())?;
        let (session, from) = self.start().await?;
        let (fid, qid) = walk(&self.shared, session, from, &names, 0).await?;
        if qid.is_some_and(|qid| qid.kind & crate::protocol::QTDIR == 0) {
            return Err(Error::NotADirectory);
        }
        Ok(Dir { shared: self.shared.clone(), fid: Some(fid.keep()) })
    }

    /// Opens a file to read it.
    ///
    /// # Errors
    ///
    /// Where there is none ([`Error::NotFound`]), or the server refuses.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time: what the server has opened is given back.
    pub async fn open(&self, path: impl AsRef<[u8]>) -> Result<File, Error> {
        self.open_with(path, &OpenOptions::new().read()).await
    }

    /// Makes a file, or empties it, and opens it to read and write it. Its permissions are 644 where the server agrees.
    ///
    /// # Errors
    ///
    /// Where its directory is not there, or the server refuses.
    ///
    /// # Cancellation
    ///
    /// What was sent is carried out; what the server has opened is given back.
    pub async fn create(&self, path: impl AsRef<[u8]>) -> Result<File, Error> {
        self.open_with(path, &OpenOptions::new().read().write().truncate().create(0o644)).await
    }

    /// Opens a file as `options` say.
    ///
    /// # Errors
    ///
    /// Where there is none and it is not to be made, there is one and it is not to be there, or the server refuses.
    ///
    /// # Cancellation
    ///
    /// What was sent is carried out; what the server has opened is given back.
    pub async fn open_with(&self, path: impl AsRef<[u8]>, options: &OpenOptions) -> Result<File, Error> {
        let path = path.as_ref();
        if !options.exclusive {
            match self.find(path).await {
                Ok(fid) => return ops::open(fid, options).await,
                Err(Error::NotFound) if options.create.is_some() => {}
                Err(error) => return Err(error),
            }
        }
        match self.make(path, options).await {
            // Somebody else was faster.
            Err(Error::Refused(Errno::EEXIST)) if !options.exclusive => {
                ops::open(self.find(path).await?, options).await
            }
            outcome => outcome,
        }
    }

    async fn make(&self, path: &[u8], options: &OpenOptions) -> Result<File, Error> {
        let names = path::names(path)?;
        let (name, before) = names.split_last().ok_or(Error::InvalidPath)?;
        let (session, from) = self.start().await?;
        // A fid of its own, which becomes the file's.
        let (fid, _) = walk(&self.shared, session, from, before, 0).await?;
        ops::create(fid, name, options, options.create.unwrap_or(0o644)).await
    }

    /// All of a file, of which there are `limit` bytes at most.
    ///
    /// # Errors
    ///
    /// As [`open`](Dir::open) and [`File::read_at`]; [`Error::TooLarge`] where there are more.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn read(&self, path: impl AsRef<[u8]>, limit: usize) -> Result<Vec<u8>, Error> {
        let mut file = self.open(path).await?;
        file.fid.lend();
        // The size may be wrong by the time that it is read, and is 0 of files such as those of /proc.
        let size = usize::try_from(file.metadata().await?.size).unwrap_or(usize::MAX);
        if size > limit {
            return Err(Error::TooLarge { limit });
        }
        let mut bytes = Vec::new();
        loop {
            let done = bytes.len();
            // One more than there may be, to see whether there is.
            let want = size.saturating_sub(done).max(file.piece().min(4096)).min(limit - done + 1);
            bytes.resize(done + want, 0);
            let read = file.read_at(done as u64, &mut bytes[done..]).await?;
            bytes.truncate(done + read);
            if bytes.len() > limit {
                return Err(Error::TooLarge { limit });
            }
            if read == 0 {
                return Ok(bytes);
            }
        }
    }

    /// Makes a file of these bytes, or makes them all that an existing one has.
    ///
    /// # Errors
    ///
    /// As [`create`](Dir::create) and [`File::write_at`]. A part may have been written.
    ///
    /// # Cancellation
    ///
    /// A part may have been written.
    pub async fn write(&self, path: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        let options = OpenOptions::new().write().truncate().create(0o644);
        let mut file = self.open_with(path, &options).await?;
        file.fid.lend();
        file.write_all_at(0, bytes.as_ref()).await?;
        file.close().await
    }

    /// What the server says of a file or directory; of a symbolic link, not of what it names.
    ///
    /// # Errors
    ///
    /// Where there is none, or the server refuses.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn metadata(&self, path: impl AsRef<[u8]>) -> Result<Metadata, Error> {
        ops::metadata(&self.find(path.as_ref()).await?).await
    }

    /// Whether there is a file or directory.
    ///
    /// # Errors
    ///
    /// Where the server does not say it.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn exists(&self, path: impl AsRef<[u8]>) -> Result<bool, Error> {
        match self.find(path.as_ref()).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Changes what is known of a file or directory: permissions, owner, size, times.
    ///
    /// # Errors
    ///
    /// Where the server refuses; xen-9pfsd cannot change anything: [`Error::Unsupported`].
    ///
    /// # Cancellation
    ///
    /// What was sent is carried out.
    pub async fn change(&self, path: impl AsRef<[u8]>, changes: &Changes) -> Result<(), Error> {
        let fid = self.find(path.as_ref()).await?;
        let is_dir = !fid.session.dialect.is_linux() && ops::metadata(&fid).await?.kind == super::FileKind::Dir;
        ops::change(&fid, changes, is_dir).await
    }

    /// The entries of a directory.
    ///
    /// # Errors
    ///
    /// Where there is none, it is a file, or the server refuses.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn read_dir(&self, path: impl AsRef<[u8]>) -> Result<ReadDir, Error> {
        let file = ops::open(self.find(path.as_ref()).await?, &OpenOptions::new().read()).await?;
        if file.qid().kind & crate::protocol::QTDIR == 0 {
            return Err(Error::NotADirectory);
        }
        Ok(ReadDir::new(file))
    }

    /// Makes a directory. Its permissions are 755 where the server agrees.
    ///
    /// # Errors
    ///
    /// Where there is something of this name, its own directory is not there, or the server refuses.
    ///
    /// # Cancellation
    ///
    /// What was sent is carried out.
    pub async fn create_dir(&self, path: impl AsRef<[u8]>) -> Result<(), Error> {
        const MODE: u32 = 0o755;
        let path = path.as_ref();
        let (session, start, name) = self.parent(path, 0).await?;
        if session.dialect.is_linux() {
            return self.shared.call(session, &ops::mkdir(start.number(), name, MODE)).await.map(drop);
        }
        let fid = match start {
            Start::Found(fid) => fid,
            // A fid of its own, which becomes the new directory's.
            Start::Own(number) => walk(&self.shared, session, number, &[], 0).await?.0,
        };
        ops::create_dir_unix(fid, name, MODE).await
    }

    /// Removes a file or a symbolic link.
    ///
    /// # Errors
    ///
    /// Where there is none, it is a directory, or the server refuses.
    ///
    /// # Cancellation
    ///
    /// What was sent is carried out.
    pub async fn remove_file(&self, path: impl AsRef<[u8]>) -> Result<(), Error> {
        let path = path.as_ref();
        if self.start().await?.0.dialect.is_linux() {
            let (session, start, name) = self.parent(path, 0).await?;
            let message = Message::Tunlinkat { fid: start.number(), name: Text(name), flags: 0 };
            return self.shared.call(session, &message).await.map(drop);
        }
        let fid = self.find(path).await?;
        if ops::metadata(&fid).await?.kind == super::FileKind::Dir {
            return Err(Error::Refused(Errno::EISDIR));
        }
        let asked_to_close = self.shared.no_remove.get();
        match ops::remove_unix(fid, false).await {
            Err(_) if !asked_to_close && self.shared.no_remove.get() => {
                ops::remove_unix(self.find(path).await?, false).await?;
            }
            outcome if !asked_to_close => return outcome,
            outcome => outcome?,
        }
        // A server that removes when it closes does not say whether it could.
        if self.exists(path).await? { Err(Error::Refused(Errno::EACCES)) } else { Ok(()) }
    }

    /// Removes a directory, which must be empty.
    ///
    /// # Errors
    ///
    /// Where it is not, there is none, or the server refuses; xen-9pfsd cannot: [`Error::Unsupported`].
    ///
    /// # Cancellation
    ///
    /// What was sent is carried out.
    pub async fn remove_dir(&self, path: impl AsRef<[u8]>) -> Result<(), Error> {
        const REMOVE_DIR: u32 = 0x200;
        let path = path.as_ref();
        if self.start().await?.0.dialect.is_linux() {
            let (session, start, name) = self.parent(path, 0).await?;
            let message = Message::Tunlinkat { fid: start.number(), name: Text(name), flags: REMOVE_DIR };
            return self.shared.call(session, &message).await.map(drop);
        }
        let fid = self.find(path).await?;
        if ops::metadata(&fid).await?.kind != super::FileKind::Dir {
            return Err(Error::NotADirectory);
        }
        ops::remove_unix(fid, true).await.map_err(|error| match super::error::is_unknown(&error) {
            true => Error::Unsupported,
            false => error,
        })
    }

    /// Renames a file or directory; what had the new name before is replaced as Linux does it.
    ///
    /// # Errors
    ///
    /// Where the server refuses. In 9P2000.u both names must be in one directory, and xen-9pfsd cannot at all:
    /// [`Error::Unsupported`].
    ///
    /// # Cancellation
    ///
    /// What was sent is carried out.
    pub async fn rename(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<(), Error> {
        let (from, to) = (from.as_ref(), to.as_ref());
        if !self.start().await?.0.dialect.is_linux() {
            let (old, new) = (path::names(from)?, path::names(to)?);
            let (Some((_, from_dir)), Some((name, to_dir))) = (old.split_last(), new.split_last()) else {
                return Err(Error::InvalidPath);
            };
            if from_dir != to_dir {
                return Err(Error::Unsupported);
            }
            return ops::rename_here(&self.find(from).await?, name).await;
        }
        let (session, old_start, old) = self.parent(from, 0).await?;
        let holding = usize::from(matches!(old_start, Start::Found(_)));
        let (_, new_start, new) = self.parent(to, holding).await?;
        let message =
            Message::Trenameat { from: old_start.number(), old: Text(old), to: new_start.number(), new: Text(new) };
        self.shared.call(session, &message).await.map(drop)
    }

    /// Makes a symbolic link that names `target`, which the server does not look at.
    ///
    /// # Errors
    ///
    /// Where the server refuses, or speaks 9P2000.u: [`Error::Unsupported`].
    ///
    /// # Cancellation
    ///
    /// What was sent is carried out.
    pub async fn symbolic_link(&self, target: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> Result<(), Error> {
        let (session, start, name) = self.parent(path.as_ref(), 0).await?;
        ops::call_linux(&self.shared, session, &ops::symlink(start.number(), name, target.as_ref())).await
    }

    /// What a symbolic link names: any bytes.
    ///
    /// # Errors
    ///
    /// Where there is none, or it is something else.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn read_link(&self, path: impl AsRef<[u8]>) -> Result<Vec<u8>, Error> {
        ops::read_link(&self.find(path.as_ref()).await?).await
    }

    /// Gives a file one more name.
    ///
    /// # Errors
    ///
    /// Where the server refuses, or speaks 9P2000.u: [`Error::Unsupported`].
    ///
    /// # Cancellation
    ///
    /// What was sent is carried out.
    pub async fn hard_link(&self, file: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> Result<(), Error> {
        let file = self.find(file.as_ref()).await?;
        let (session, start, name) = self.parent(path.as_ref(), 1).await?;
        let message = Message::Tlink { dfid: start.number(), fid: file.number(), name: Text(name) };
        ops::call_linux(&self.shared, session, &message).await
    }

    /// How much room there is.
    ///
    /// # Errors
    ///
    /// Where the server refuses, or speaks 9P2000.u: [`Error::Unsupported`].
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn space(&self) -> Result<Space, Error> {
        let (session, fid) = self.start().await?;
        if !session.dialect.is_linux() {
            return Err(Error::Unsupported);
        }
        let answer = self.shared.call(session, &Message::Tstatfs { fid }).await?;
        let Message::Rstatfs { system } = answer.message()? else { return Err(Error::Garbage) };
        Ok(Space::of(&system))
    }
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dir").field("fid", &self.fid.as_ref().map_or(ROOT, Fid::number)).finish_non_exhaustive()
    }
}
