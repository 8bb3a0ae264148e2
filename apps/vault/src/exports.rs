//! What a guest's xl file names as its disk's target, and the device that it gets.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use core::cell::Cell;

use futures_util::future::Either;
use sarab::block::back::Attachment;
use sarab::block::fair::Share;
use sarab::block::rate::Rated;
use sarab::block::{BlockDevice, Completed, Error, Geometry};
use sarab::hal::Errno;
use sarab::xenbus::Failure;
use sarab::{XenClock, println};
use sarab_volumes::Overlay;

use crate::Vault;
use crate::access::Denied;
use crate::devices::{Clear, Found, Id, Shown};
use crate::holds::{Hold, Wanted};
use crate::keys;

/// The memory that what guests write with `snapshot=on` may take: of one a quarter, and of all together half of what was
/// free when the vault began. A guest's part is put aside for as long as it has the device: no more is promised than there is.
pub struct Spare {
    all: u64,
    taken: Cell<u64>,
}

impl Spare {
    pub fn new(free: u64) -> Spare {
        Spare { all: free / 2, taken: Cell::new(0) }
    }

    fn take(self: &Rc<Spare>) -> Part {
        let bytes = (self.all - self.taken.get()) / 2;
        self.taken.set(self.taken.get() + bytes);
        Part { spare: self.clone(), bytes }
    }
}

/// What of it is one guest's.
struct Part {
    spare: Rc<Spare>,
    bytes: u64,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.spare.taken.set(self.spare.taken.get() - self.bytes);
    }
}

/// A target: `NAME`, then options.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub name: &'a str,
    /// What is written stays in memory, and is gone with the guest.
    pub snapshot: bool,
    /// The guest gets the device when who has it now is gone: it was migrated here.
    pub handover: bool,
    /// The device as it is, though it is encrypted.
    pub raw: bool,
    /// Nothing but a device that was unlocked: whoever has the disk could have made it look like a plain one.
    pub encrypted: bool,
}

impl<'a> Target<'a> {
    pub fn parse(text: &'a str) -> Result<Target<'a>, String> {
        let mut words = text.split(',');
        let name = words.next().unwrap_or_default();
        let mut target = Target { name, snapshot: false, handover: false, raw: false, encrypted: false };
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let value = match value {
                "on" => true,
                "off" => false,
                _ => return Err(format!("target={text}: expected {key}=on or {key}=off")),
            };
            match key {
                "snapshot" => target.snapshot = value,
                "handover" => target.handover = value,
                "raw" => target.raw = value,
                "encrypted" => target.encrypted = value,
                _ => {
                    return Err(format!(
                        "target={text}: unknown option `{key}`; there are snapshot, handover, raw and encrypted"
                    ));
                }
            }
        }
        Ok(target)
    }
}

/// A guest's device.
pub struct Export {
    device: Rated<Share<Shown>, XenClock>,
    clock: XenClock,
    hold: Hold,
    /// Of what the device keeps in memory.
    _memory: Option<Part>,
}

impl Export {
    /// The device for a guest.
    pub async fn open(vault: &Rc<Vault>, attach: &Attachment) -> Result<Export, Failure> {
        let refused = |errno, text: String| Failure::new(errno, text);
        let target = Target::parse(&attach.params).map_err(|text| refused(Errno::EINVAL, text))?;
        let name = target.name;
        let Some(Found { id, parent, device: plain, fair }) = vault.devices.find(name) else {
            let names = vault.devices.names().join(", ");
            return Err(refused(
                Errno::ENOENT,
                format!("target={name}: there is no such device here; there are {names}"),
            ));
        };
        let writes = attach.writable && !target.snapshot;
        let store = vault.app.store().map_err(|error| refused(Errno::EIO, error.to_string()))?;
        let denied = |denied| match denied {
            Denied::Domain => {
                let only = vault.settings.access(&id).only.unwrap_or_default();
                let only = only.iter().map(ToString::to_string).collect::<alloc::vec::Vec<_>>().join(", ");
                let text = format!("{name}: domain {} may not have it (allowed: {only})", attach.domain.0);
                refused(Errno::EACCES, text)
            }
            Denied::ReadOnly => refused(Errno::EROFS, format!("{name}: it may only be read (access=ro)")),
        };
        vault.settings.check(&id, attach.domain, writes, &store).await.map_err(denied)?;
        let wanted = Wanted { id: id.clone(), parent, writes };
        let hold = vault.holds.take(wanted, Some(attach.domain), target.handover).map_err(|other| {
            // xbdback(4)
            let text = format!(
                "{name}: cannot open it: error 16, it is in use by {other}; it has to be detached there first, as it is \
                 not opened a second time"
            );
            refused(Errno::EBUSY, text)
        })?;
        let clear: Clear = match vault.keys.get(&id) {
            Some(encrypted) if !target.raw => Either::Right(encrypted),
            Some(_) => {
                return Err(refused(Errno::EBUSY, format!("{name}: raw=on, but it is unlocked (`lock {name}`)")));
            }
            None => {
                let failed = |error: Error| refused(Errno::EIO, format!("{name}: {error}"));
                if !target.raw && keys::is_encrypted(&plain).await.map_err(failed)? {
                    let text = format!("{name}: it is encrypted and locked; `unlock {name} KEY` opens it");
                    return Err(refused(Errno::EACCES, text));
                }
                if target.encrypted {
                    return Err(refused(Errno::EACCES, format!("{name}: encrypted=on, but it is not encrypted")));
                }
                Either::Left(plain)
            }
        };
        let memory = target.snapshot.then(|| vault.spare.take());
        let shown: Shown = match &memory {
            None => Either::Left(clear),
            Some(part) => Either::Right(Overlay::new(clear, usize::try_from(part.bytes).unwrap_or(usize::MAX))),
        };
        let release = vault.clone();
        hold.on_release(move || release.released(&id));
        let rate = vault.settings.rate(attach.domain, &store).await;
        let device = Rated::new(fair.share(shown), vault.app.clock(), rate);
        Ok(Export { device, clock: vault.app.clock(), hold, _memory: memory })
    }
}

impl Vault {
    /// A guest has left a device.
    fn released(&self, id: &Id) {
        if self.holds.of(id).is_empty() && self.keys.ends_with_guest(id) && self.keys.lock(id) {
            println!("vault: {}: locked", self.devices.name(id).unwrap_or_default());
        }
    }
}

impl BlockDevice for Export {
    type Buffer = <Shown as BlockDevice>::Buffer;

    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }

    fn buffer(&self, len: usize) -> Result<Self::Buffer, Error> {
        self.device.buffer(len)
    }

    fn buffer_at(&self, sector: u64, len: usize) -> Result<Self::Buffer, Error> {
        // The device's own memory is for who may write it now.
        match self.hold.is_granted() {
            true => self.device.buffer_at(sector, len),
            false => self.device.buffer(len),
        }
    }

    async fn read(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        match self.hold.granted(&self.clock).await {
            Ok(()) => self.device.read(sector, buffer).await,
            Err(error) => (buffer, Err(error)),
        }
    }

    async fn write(&self, sector: u64, buffer: Self::Buffer) -> Completed<Self::Buffer> {
        match self.hold.granted(&self.clock).await {
            Ok(()) => self.device.write(sector, buffer).await,
            Err(error) => (buffer, Err(error)),
        }
    }

    async fn flush(&self) -> Result<(), Error> {
        self.hold.granted(&self.clock).await?;
        self.device.flush().await
    }

    async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), Error> {
        self.hold.granted(&self.clock).await?;
        self.device.discard(sector, count, secure).await
    }

    async fn changed(&self, known: &Geometry) -> Geometry {
        self.device.changed(known).await
    }
}
