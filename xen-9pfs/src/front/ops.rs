//! Requests that take one file, in either dialect.

use alloc::vec::Vec;

use super::error::is_unknown;
use super::fid::Fid;
use super::{Changes, Error, File, Metadata, OpenOptions};
use crate::protocol::{DMDIR, Message, Stat, Text};

/// `P9_GETATTR_BASIC` of Linux's include/net/9p/9p.h: what `stat` shows.
const BASIC: u64 = 0x7ff;
/// No group in particular.
const NOGID: u32 = !0;

/// What a server does not know at all has a name of its own.
fn known(error: Error) -> Error {
    if is_unknown(&error) { Error::Unsupported } else { error }
}

pub(super) async fn metadata(fid: &Fid) -> Result<Metadata, Error> {
    let number = fid.number();
    let answer = if fid.session.dialect.is_linux() {
        fid.call(&Message::Tgetattr { fid: number, mask: BASIC }).await?
    } else {
        fid.call(&Message::Tstat { fid: number }).await?
    };
    match answer.message()? {
        Message::Rgetattr { attributes } => Ok(Metadata::of_attributes(&attributes)),
        Message::Rstat { stat } => Ok(Metadata::of_stat(&stat)),
        _ => Err(Error::Garbage),
    }
}

pub(super) async fn change(fid: &Fid, changes: &Changes, is_dir: bool) -> Result<(), Error> {
    let number = fid.number();
    if fid.session.dialect.is_linux() {
        return fid.call(&Message::Tsetattr { fid: number, attributes: changes.attributes() }).await.map(drop);
    }
    let stat = changes.stat(is_dir).ok_or(Error::Unsupported)?;
    fid.call(&Message::Twstat { fid: number, stat }).await.map(drop).map_err(known)
}

pub(super) async fn rename_here(fid: &Fid, name: &[u8]) -> Result<(), Error> {
    let stat = Stat { name: Text(name), ..Stat::UNCHANGED };
    fid.call(&Message::Twstat { fid: fid.number(), stat }).await.map(drop).map_err(known)
}

pub(super) async fn sync(fid: &Fid) -> Result<(), Error> {
    let number = fid.number();
    if fid.session.dialect.is_linux() {
        return fid.call(&Message::Tfsync { fid: number, datasync: 0 }).await.map(drop);
    }
    // "if all fields are don't touch, the server may interpret it as a request to guarantee that the contents of the
    // file are committed to stable storage" (9P2000, stat(5)).
    fid.call(&Message::Twstat { fid: number, stat: Stat::UNCHANGED }).await.map(drop).map_err(known)
}

/// Opens what a fid stands for.
pub(super) async fn open(fid: Fid, options: &OpenOptions) -> Result<File, Error> {
    let number = fid.number();
    let answer = if fid.session.dialect.is_linux() {
        fid.call(&Message::Tlopen { fid: number, flags: options.flags(false) }).await?
    } else {
        fid.call(&Message::Topen { fid: number, mode: options.mode(false) }).await?
    };
    match answer.message()? {
        Message::Rlopen { qid, iounit } | Message::Ropen { qid, iounit } => Ok(File::new(fid, qid, iounit)),
        _ => Err(Error::Garbage),
    }
}

/// Makes a file in the directory that a fid stands for, and opens it.
pub(super) async fn create(fid: Fid, name: &[u8], options: &OpenOptions, mode: u32) -> Result<File, Error> {
    let (number, name) = (fid.number(), Text(name));
    let answer = if fid.session.dialect.is_linux() {
        fid.call(&Message::Tlcreate { fid: number, name, flags: options.flags(true), mode, gid: NOGID }).await?
    } else {
        let (perm, mode) = (mode & 0o777, options.mode(true));
        fid.call(&Message::Tcreate { fid: number, name, perm, mode, extension: Text(b"") }).await?
    };
    match answer.message()? {
        Message::Rlcreate { qid, iounit } | Message::Rcreate { qid, iounit } => Ok(File::new(fid, qid, iounit)),
        _ => Err(Error::Garbage),
    }
}

/// Makes a directory in 9P2000.u, where that opens it. The fid was the parent's.
pub(super) async fn create_dir_unix(fid: Fid, name: &[u8], mode: u32) -> Result<(), Error> {
    let (number, name) = (fid.number(), Text(name));
    let perm = mode & 0o777 | DMDIR;
    fid.call(&Message::Tcreate { fid: number, name, perm, mode: 0, extension: Text(b"") }).await?;
    fid.clunk().await
}

/// Removes a file in 9P2000.u. xen-9pfsd does not know `Tremove`; there a file is opened to be removed when it is closed,
/// and a directory cannot be removed.
pub(super) async fn remove_unix(fid: Fid, is_dir: bool) -> Result<(), Error> {
    const REMOVE_ON_CLOSE: u8 = 0x40;
    let (shared, number) = (fid.shared.clone(), fid.number());
    if !is_dir && shared.no_remove.get() {
        fid.call(&Message::Topen { fid: number, mode: REMOVE_ON_CLOSE }).await?;
        return fid.clunk().await;
    }
    let outcome = fid.remove().await;
    if outcome.as_ref().is_err_and(is_unknown) {
        shared.no_remove.set(true);
    }
    outcome
}

/// The message's bytes that stand for a target of a link.
pub(super) async fn read_link(fid: &Fid) -> Result<Vec<u8>, Error> {
    let number = fid.number();
    let answer = if fid.session.dialect.is_linux() {
        fid.call(&Message::Treadlink { fid: number }).await?
    } else {
        fid.call(&Message::Tstat { fid: number }).await?
    };
    match answer.message()? {
        Message::Rreadlink { target } => Ok(target.0.into()),
        Message::Rstat { stat } if stat.mode & crate::protocol::DMSYMLINK != 0 => Ok(stat.extension.0.into()),
        Message::Rstat { .. } => Err(Error::Refused(xen_hal::Errno::EINVAL)),
        _ => Err(Error::Garbage),
    }
}

/// Makes a name in a directory: one that has a request of 9P2000.L alone.
pub(super) async fn call_linux(
    shared: &super::Shared,
    session: super::Session,
    message: &Message<'_>,
) -> Result<(), Error> {
    if !session.dialect.is_linux() {
        return Err(Error::Unsupported);
    }
    shared.call(session, message).await.map(drop)
}

pub(super) fn mkdir(fid: u32, name: &[u8], mode: u32) -> Message<'_> {
    Message::Tmkdir { fid, name: Text(name), mode, gid: NOGID }
}

pub(super) fn symlink<'m>(fid: u32, name: &'m [u8], target: &'m [u8]) -> Message<'m> {
    Message::Tsymlink { fid, name: Text(name), target: Text(target), gid: NOGID }
}
