//! Devices that are encrypted: LUKS2, as cryptsetup has it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use core::cell::RefCell;

use sarab::App;
use sarab::block::BlockDevice;
use sarab::platform::XenGrantTable;
use sarab_luks::{
    Argon2Cost, Encrypted, Error, FormatOptions, Kdf, Limits, MIN_ARGON2_MEMORY_KIB, OpenOptions, Volume, Zeroizing,
};
use sarab_volumes::{Content, identify};

use crate::devices::{Id, Plain};

/// The word for the key that the toolstack has loaded with the domain.
pub const MODULE: &str = "@module";
/// Bytes from which on a device has the 16 MiB before its data that cryptsetup leaves; less gets 1 MiB.
const LARGE: u128 = 256 << 20;

type Opened = Encrypted<Plain, XenGrantTable>;

/// The devices that are unlocked.
pub struct Keys {
    open: RefCell<BTreeMap<Id, Unlocked>>,
    /// Those whose header a command works on: two at once would each undo what the other does.
    busy: RefCell<BTreeSet<Id>>,
    /// What Argon2 may take of the memory. The heap keeps what it once had: what is free later says too little.
    spare_kib: u32,
}

/// That no other command works on a device's header, until it is dropped.
pub struct Turn<'a> {
    keys: &'a Keys,
    id: &'a Id,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.keys.busy.borrow_mut().remove(self.id);
    }
}

struct Unlocked {
    device: Opened,
    /// It stays so when no guest has it any more.
    keep: bool,
}

impl Keys {
    /// Half of the memory that is free may be taken for Argon2, for the time that it needs.
    pub fn new(app: App) -> Keys {
        let spare_kib = u32::try_from(app.memory().free >> 11).unwrap_or(u32::MAX);
        Keys { open: RefCell::default(), busy: RefCell::default(), spare_kib }
    }

    async fn load(&self, plain: Plain) -> Result<Volume<Plain>, String> {
        Volume::load(plain, self.limits()).await.map_err(text)
    }

    fn limits(&self) -> Limits {
        let most = Limits::default();
        most.with_argon2_memory_kib(self.spare_kib.clamp(MIN_ARGON2_MEMORY_KIB, most.argon2_memory_kib))
    }

    /// For a new key, the usual work on as much memory as there is.
    fn kdf(&self) -> Kdf {
        let mut cost = Argon2Cost { memory_kib: 64 << 10, passes: 4, lanes: 1 };
        while cost.memory_kib > self.spare_kib.max(MIN_ARGON2_MEMORY_KIB) {
            cost.memory_kib /= 2;
            cost.passes *= 2;
        }
        Kdf::Argon2id(cost)
    }

    /// A command begins to work on a device's header, unless another one does.
    pub fn turn<'a>(&'a self, id: &'a Id) -> Option<Turn<'a>> {
        self.busy.borrow_mut().insert(id.clone()).then(|| Turn { keys: self, id })
    }

    pub fn get(&self, id: &Id) -> Option<Opened> {
        self.open.borrow().get(id).map(|unlocked| unlocked.device.clone())
    }

    /// Forgets the key of a device, unless a guest has it still; then it is gone with that.
    pub fn lock(&self, id: &Id) -> bool {
        self.open.borrow_mut().remove(id).is_some()
    }

    /// Whether the key is to be forgotten with the last guest.
    pub fn ends_with_guest(&self, id: &Id) -> bool {
        self.open.borrow().get(id).is_some_and(|unlocked| !unlocked.keep)
    }

    /// Unlocks a device.
    pub async fn unlock(&self, app: App, id: Id, plain: Plain, key: &[u8], keep: bool) -> Result<String, String> {
        let volume = self.load(plain).await?;
        let repaired = match volume.repair() {
            Some(repair) => format!("; {repair}"),
            None => String::new(),
        };
        let device = volume.open(key, app.grant_table(), OpenOptions::default()).await.map_err(text)?;
        let sectors = device.geometry().sectors;
        self.open.borrow_mut().insert(id, Unlocked { device, keep });
        Ok(format!("unlocked, {sectors} sectors{repaired}"))
    }

    /// Makes an encrypted device of a plain one.
    pub async fn encrypt(&self, app: App, id: Id, plain: Plain, key: &[u8], force: bool) -> Result<String, String> {
        let content = identify(&plain).await.map_err(|error| error.to_string())?;
        if !force && content != Content::Nothing {
            return Err(format!("it is not empty: it holds {content}; `encrypt NAME KEY force` destroys that"));
        }
        let data = if plain.geometry().bytes() < LARGE { 1 << 20 } else { 16 << 20 };
        let options = FormatOptions::default().with_data_offset(data).with_kdf(self.kdf()).with_limits(self.limits());
        let mut random = app.entropy().map_err(|error| error.to_string())?;
        let volume = Volume::format(plain, key, &options, &mut random).await.map_err(text)?;
        let device = volume.open(key, app.grant_table(), OpenOptions::default()).await.map_err(text)?;
        let sectors = device.geometry().sectors;
        self.open.borrow_mut().insert(id, Unlocked { device, keep: false });
        Ok(format!("encrypted and unlocked, {sectors} sectors"))
    }

    pub async fn add(&self, app: App, plain: Plain, existing: &[u8], new: &[u8]) -> Result<u8, String> {
        let mut random = app.entropy().map_err(|error| error.to_string())?;
        self.load(plain).await?.add_key(existing, new, self.kdf(), &mut random).await.map_err(text)
    }

    pub async fn change(&self, app: App, plain: Plain, old: &[u8], new: &[u8]) -> Result<u8, String> {
        let mut random = app.entropy().map_err(|error| error.to_string())?;
        self.load(plain).await?.change_key(old, new, self.kdf(), &mut random).await.map_err(text)
    }

    pub async fn remove(&self, app: App, plain: Plain, key: &[u8]) -> Result<u8, String> {
        let mut random = app.entropy().map_err(|error| error.to_string())?;
        self.load(plain).await?.remove_key(key, &mut random).await.map_err(text)
    }
}

/// Whether a device is encrypted: also where the first header is damaged and the second is not, for a guest that gets the
/// device as it is would write over what can still be opened.
pub async fn is_encrypted(plain: &Plain) -> Result<bool, sarab::block::Error> {
    match identify(plain).await? {
        Content::Known(name) => Ok(name == "a LUKS container"),
        Content::Nothing | Content::Unknown => Volume::is_there(plain).await,
        _ => Ok(false),
    }
}

/// The bytes that a word stands for: the module's, or its own.
pub fn bytes_of(app: App, word: &str) -> Result<Zeroizing<alloc::vec::Vec<u8>>, String> {
    if word != MODULE {
        return Ok(Zeroizing::new(word.as_bytes().to_vec()));
    }
    match (app.args().get::<&str>("key"), app.modules().first()) {
        (Ok(Some("module")), Some(module)) => Ok(Zeroizing::new(module.to_vec())),
        (Ok(Some("module")), None) => {
            Err("key=module: the toolstack has loaded none; its xl file names it (ramdisk = '/path/vault.key')".into())
        }
        _ => Err("no key: give a passphrase, or key=module on the command line".into()),
    }
}

fn text(error: Error) -> String {
    error.to_string()
}
