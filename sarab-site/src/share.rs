//! A folder of another domain's (9pfs), as it is now: nothing of it is kept.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use xen_9pfs::front::{Dir, Error, File, FileKind};

use crate::path::{MAX_PATH, join, parent};

/// Symbolic links that are followed for one file, as many as Linux follows.
const MAX_LINKS: usize = 40;

/// The folder.
pub(crate) struct Folder {
    root: Dir,
}

/// An open file of it.
pub(crate) struct OpenFile {
    file: File,
    pub(crate) size: u64,
    pub(crate) modified: i64,
    /// What was read ahead, and from which byte on.
    ahead: Vec<u8>,
    start: u64,
    piece: usize,
}

impl Folder {
    pub(crate) fn new(root: Dir) -> Folder {
        Folder { root }
    }

    /// A regular file by its clean path. Links lead no further than the folder.
    pub(crate) async fn open(&self, path: &str, piece: usize) -> Result<Option<Box<OpenFile>>, Error> {
        let Some(file) = self.find(path).await? else { return Ok(None) };
        let metadata = file.metadata().await?;
        let modified = i64::try_from(metadata.modified.seconds).unwrap_or(i64::MAX);
        let is_file = metadata.kind == FileKind::File;
        let open = OpenFile { file, size: metadata.size, modified, ahead: Vec::new(), start: 0, piece };
        Ok(is_file.then(|| Box::new(open)))
    }

    async fn find(&self, path: &str) -> Result<Option<File>, Error> {
        let mut path = String::from(path);
        for _ in 0..MAX_LINKS {
            let link = match self.kind(&path).await? {
                Found::File => match self.root.open(&path).await {
                    // It has become something else meanwhile.
                    Err(error) if is_missing(&error) => return Ok(None),
                    outcome => return outcome.map(Some),
                },
                Found::Nothing => return Ok(None),
                Found::Link(len) => len,
            };
            let target = match self.root.read_link(&path[..link]).await {
                Err(error) if is_missing(&error) => return Ok(None),
                outcome => outcome?,
            };
            let Ok(target) = core::str::from_utf8(&target) else { return Ok(None) };
            match follow(&path[..link], target, &path[link..]) {
                Some(next) => path = next,
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    async fn kind(&self, path: &str) -> Result<Found, Error> {
        match self.root.metadata(path).await {
            Ok(metadata) => Ok(match metadata.kind {
                FileKind::File => Found::File,
                FileKind::SymbolicLink => Found::Link(path.len()),
                _ => Found::Nothing,
            }),
            // One of the folders in it is a link.
            Err(Error::SymbolicLink) => {
                for (end, _) in path.match_indices('/') {
                    match self.root.metadata(&path[..end]).await {
                        Ok(metadata) if metadata.kind == FileKind::SymbolicLink => return Ok(Found::Link(end)),
                        Ok(_) => {}
                        Err(error) if is_missing(&error) => return Ok(Found::Nothing),
                        Err(error) => return Err(error),
                    }
                }
                Ok(Found::Nothing)
            }
            Err(error) if is_missing(&error) => Ok(Found::Nothing),
            Err(error) => Err(error),
        }
    }
}

/// What a path leads to.
enum Found {
    File,
    /// So many bytes of it name a symbolic link.
    Link(usize),
    Nothing,
}

/// Whether there is no such file, however the server says so.
fn is_missing(error: &Error) -> bool {
    use xen_hal::Errno;
    matches!(error, Error::NotFound | Error::NotADirectory | Error::SymbolicLink | Error::InvalidPath)
        || matches!(error, Error::Refused(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG))
}

/// Where a link at a clean path leads, with what comes after it; `None` where that is out of the folder. One that begins with
/// a slash begins at the folder, as in an archive.
fn follow(link: &str, target: &str, rest: &str) -> Option<String> {
    let mut path = String::from(if target.starts_with('/') { "" } else { parent(link) });
    for part in target.split('/').chain(rest.split('/')) {
        match part {
            "" | "." => {}
            ".." if path.is_empty() => return None,
            ".." => path.truncate(parent(&path).len()),
            _ => path = join(&path, part),
        }
    }
    (!path.is_empty() && path.len() <= MAX_PATH).then_some(path)
}

impl OpenFile {
    /// Reads from byte `at` on, of which there are some.
    pub(crate) async fn read(&mut self, at: u64, to: &mut [u8]) -> Result<usize, Error> {
        if to.len() >= self.piece {
            return self.file.read_at(at, to).await;
        }
        let known = |ahead: &[u8], start: u64| {
            let from = usize::try_from(at.checked_sub(start)?).ok()?;
            (from < ahead.len()).then_some(from)
        };
        if known(&self.ahead, self.start).is_none() {
            let mut ahead = core::mem::take(&mut self.ahead);
            ahead.resize(self.piece, 0);
            let read = self.file.read_at(at, &mut ahead).await?;
            ahead.truncate(read);
            (self.ahead, self.start) = (ahead, at);
        }
        let Some(from) = known(&self.ahead, self.start) else { return Ok(0) };
        let len = to.len().min(self.ahead.len() - from);
        to[..len].copy_from_slice(&self.ahead[from..from + len]);
        Ok(len)
    }

    pub(crate) fn pause(&mut self) {
        self.ahead = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_in_the_folder() {
        for (link, target, rest, expected) in [
            ("a/link", "file", "", Some("a/file")),
            ("a/link", "../file", "", Some("file")),
            ("a/link", "../../file", "", None),
            ("link", "..", "/etc/passwd", None),
            ("a/link", "/etc/passwd", "", Some("etc/passwd")),
            ("a/link", "/../etc/passwd", "", None),
            ("a/link", "b/../../c/./d", "/e", Some("c/d/e")),
            ("a/link", "b/../../../c", "", None),
            ("a/link", "..", "", None),
            ("a/b/link", "..", "/x", Some("a/x")),
        ] {
            assert_eq!(follow(link, target, rest).as_deref(), expected, "{link} -> {target}{rest}");
        }
    }
}
