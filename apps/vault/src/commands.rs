//! What an administrator can have done while guests are served, on the console or through the store.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write as _;

use sarab::{Size, println};
use sarab_volumes::{Create, Pool, Scrub};

use crate::Vault;
use crate::access::{Access, Speed, Who};
use crate::devices::{Found, Id, Own};
use crate::holds::Wanted;
use crate::keys::{self, MODULE};
use crate::words::Words;

/// What there is.
pub const HELP: &str = "\
list                                    devices and volumes, and who has them
usage                                   how full the pool is
create NAME SIZE [thick] [checksums] [if-missing]
grow NAME SIZE
rename NAME NEW
delete NAME
snapshot NAME NEW [ro]                  NEW holds what NAME holds now
scrub                                   reads all that has checksums, and the metadata
check                                   compares the pool's metadata with itself
encrypt NAME [KEY] [force]              makes a LUKS2 volume of an empty device
unlock NAME [KEY] [keep]                until the last guest leaves it, or always
lock NAME
add-key NAME KEY NEW-KEY
change-key NAME KEY NEW-KEY
remove-key NAME KEY
allow NAME DOMAIN[,DOMAIN...]|any|none [ro]
limit DOMAIN|default [rate=SIZE] [iops=NUMBER]
KEY is a passphrase, in quotation marks if it has spaces, or @module: the file that the toolstack loads.";

/// Lines of bad blocks that a scrub prints for each volume.
const MAX_LINES: usize = 20;

/// Does what a line says. The answer is of one line or several.
pub async fn run(vault: &Rc<Vault>, line: &str) -> Result<String, String> {
    let mut words = Words::new(line)?;
    let command = words.require("a command")?.to_string();
    let outcome = perform(vault, &command, &mut words).await;
    outcome.map_err(|error| format!("{command}: {error}"))
}

async fn perform(vault: &Rc<Vault>, command: &str, words: &mut Words) -> Result<String, String> {
    match command {
        "help" => Ok(HELP.into()),
        "list" => words.end().map(|()| list(vault)),
        "usage" => usage(words, vault.pool()?),
        "create" => create(vault, words).await,
        "grow" => grow(vault, words).await,
        "rename" => rename(vault, words).await,
        "delete" => delete(vault, words).await,
        "snapshot" => snapshot(vault, words).await,
        "scrub" => words.end().and_then(|()| scrub(vault)),
        "check" => check(words, vault.pool()?).await,
        "encrypt" | "unlock" => open(vault, words, command == "encrypt").await,
        "lock" => lock(vault, words),
        "add-key" | "change-key" | "remove-key" => change_keys(vault, words, command).await,
        "allow" => allow(vault, words),
        "limit" => limit(vault, words).await,
        _ => Err("there is no such command; `help` lists them".into()),
    }
}

impl Vault {
    fn pool(&self) -> Result<&Pool<Own>, String> {
        self.devices.pool.as_ref().ok_or_else(|| "there is no pool: pool=DISK names its disks".into())
    }

    fn device(&self, name: &str) -> Result<Found, String> {
        self.devices.find(name).ok_or_else(|| format!("there is no `{name}`"))
    }

    /// Whether guests have a device.
    fn check_unused(&self, name: &str, id: &Id) -> Result<(), String> {
        match self.holds.of(id).first() {
            None => Ok(()),
            Some((domain, _)) => Err(format!("{name}: domain {} has it", domain.0)),
        }
    }
}

/// Sectors as an administrator reads them.
fn size(sectors: u64) -> String {
    match sectors {
        0..2048 => format!("{} KiB", sectors / 2),
        2048..0x20_0000 => format!("{} MiB", sectors >> 11),
        _ => format!("{}.{} GiB", sectors >> 21, (sectors >> 11) % 1024 * 10 / 1024),
    }
}

/// All devices, in lines.
pub fn list(vault: &Vault) -> String {
    let mut text = String::new();
    let mut line = |name: &str, id: &Id, rest: String| {
        let guests = vault.holds.of(id);
        let guests =
            guests.iter().map(|(domain, writes)| format!("{}{}", domain.0, if *writes { "" } else { " (ro)" }));
        let guests = guests.collect::<Vec<_>>().join(", ");
        let key = if vault.keys.get(id).is_some() { ", unlocked" } else { "" };
        let guests = if guests.is_empty() { String::new() } else { format!(", domain {guests}") };
        if !text.is_empty() {
            text.push('\n');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{name}: {rest}{key}{guests}");
    };
    for (name, sectors) in vault.devices.fixed() {
        line(name, &Id::Fixed(name.into()), size(sectors));
    }
    for volume in vault.devices.pool.iter().flat_map(Pool::volumes) {
        let mut rest = format!(
            "{}, {} {} used",
            size(volume.sectors),
            if volume.thick { "thick," } else { "thin," },
            size(volume.mapped_sectors)
        );
        if volume.integrity {
            rest.push_str(", checksums");
        }
        if volume.bad_blocks > 0 {
            let _ = write!(rest, ", {} bad blocks read", volume.bad_blocks);
        }
        if let Some(origin) = volume.origin {
            let _ = write!(rest, ", snapshot of {origin}");
        }
        if volume.read_only {
            rest.push_str(", read-only");
        }
        line(&volume.name, &Id::Volume(volume.id), rest);
    }
    if text.is_empty() { "there is no volume; `create NAME SIZE` makes one".into() } else { text }
}

fn usage(words: &mut Words, pool: &Pool<Own>) -> Result<String, String> {
    words.end()?;
    let usage = pool.usage();
    Ok(format!(
        "{} volumes; {} of {} free, {} of that reserved; {} of {} blocks of metadata free; {} commits, {} blocks repaired, \
         {} writes failed for want of space{}",
        usage.volumes,
        size(usage.free_sectors),
        size(usage.sectors),
        size(usage.reserved_sectors),
        usage.free_metadata_blocks,
        usage.metadata_blocks,
        usage.commits,
        usage.repaired,
        usage.no_space,
        if usage.failed { "; FAILED: it takes no changes, restart the domain" } else { "" }
    ))
}

async fn create(vault: &Rc<Vault>, words: &mut Words) -> Result<String, String> {
    let pool = vault.pool()?;
    let name = words.require("NAME")?.to_string();
    let sectors = words.sectors()?;
    let mut create = if words.take("thick") { Create::thick(sectors) } else { Create::thin(sectors) };
    create = create.with_integrity(words.take("checksums"));
    let if_missing = words.take("if-missing");
    words.end()?;
    if vault.devices.is_fixed(&name) {
        return Err(format!("`{name}` is the name of a disk"));
    }
    if if_missing && pool.volume(&name).is_ok() {
        return Ok(format!("{name}: is there"));
    }
    pool.create(&name, &create).await.map_err(|error| format!("{name}: {error}"))?;
    Ok(format!("{name}: created, {}", size(sectors)))
}

async fn grow(vault: &Rc<Vault>, words: &mut Words) -> Result<String, String> {
    let name = words.require("NAME")?.to_string();
    let sectors = words.sectors()?;
    words.end()?;
    vault.pool()?.grow(&name, sectors).await.map_err(|error| format!("{name}: {error}"))?;
    Ok(format!("{name}: {}", size(sectors)))
}

async fn rename(vault: &Rc<Vault>, words: &mut Words) -> Result<String, String> {
    let name = words.require("NAME")?.to_string();
    let new = words.require("NEW")?.to_string();
    words.end()?;
    if vault.devices.is_fixed(&new) {
        return Err(format!("`{new}` is the name of a disk"));
    }
    vault.pool()?.rename(&name, &new).await.map_err(|error| format!("{name}: {error}"))?;
    Ok(format!("{new}: was {name}"))
}

async fn delete(vault: &Rc<Vault>, words: &mut Words) -> Result<String, String> {
    let name = words.require("NAME")?.to_string();
    words.end()?;
    if vault.devices.is_fixed(&name) {
        return Err(format!("`{name}` is the name of a disk"));
    }
    let pool = vault.pool()?;
    let Found { id, device, .. } = vault.device(&name)?;
    vault.check_unused(&name, &id)?;
    // What is open is not deleted.
    drop(device);
    vault.keys.lock(&id);
    pool.delete(&name).await.map_err(|error| format!("{name}: {error}"))?;
    vault.settings.forget(&id);
    Ok(format!("{name}: deleted"))
}

async fn snapshot(vault: &Rc<Vault>, words: &mut Words) -> Result<String, String> {
    let name = words.require("NAME")?.to_string();
    let new = words.require("NEW")?.to_string();
    let read_only = words.take("ro");
    words.end()?;
    if vault.devices.is_fixed(&new) {
        return Err(format!("`{new}` is the name of a disk"));
    }
    vault.pool()?.snapshot(&name, &new, !read_only).await.map_err(|error| format!("{name}: {error}"))?;
    Ok(format!("{new}: snapshot of {name}"))
}

/// Starts a scrub, which says on the console what it finds.
fn scrub(vault: &Rc<Vault>) -> Result<String, String> {
    let pool = vault.pool()?.clone();
    if vault.scrubbing.replace(true) {
        return Err("one is under way".into());
    }
    let vault = vault.clone();
    let app = vault.app;
    let work = async move {
        let mut lines = BTreeMap::<String, usize>::new();
        let mut tenths = BTreeMap::<String, u64>::new();
        let outcome = pool.scrub(|event| match event {
            Scrub::Progress { volume, done, total } => {
                let tenth = done * 10 / total.max(1);
                if tenths.insert(volume.clone(), tenth).unwrap_or_default() < tenth {
                    println!("vault: scrub: {volume}: {}%", tenth * 10);
                }
            }
            Scrub::BadBlock { volume, sector } => {
                let count = lines.entry(volume.clone()).or_default();
                *count += 1;
                if *count <= MAX_LINES {
                    println!("vault: scrub: {volume}: bad block at sector {sector}");
                }
            }
            _ => {}
        });
        let text = match outcome.await {
            Ok(report) => format!(
                "{} read, {} bad blocks; {} blocks of metadata, {} repaired, {} damaged in both copies",
                size(report.sectors),
                report.bad_blocks,
                report.metadata_blocks,
                report.repaired,
                report.damaged
            ),
            Err(error) => format!("failed: {error}"),
        };
        vault.scrubbing.set(false);
        println!("vault: scrub: {text}");
    };
    app.spawn(work).detach();
    Ok("under way; the console tells what it finds".into())
}

async fn check(words: &mut Words, pool: &Pool<Own>) -> Result<String, String> {
    words.end()?;
    let report = pool.check().await.map_err(|error| error.to_string())?;
    let text = format!(
        "{} blocks of metadata, {} chunks of data; {} counted too low, {} too high, {} counters wrong, {} damaged",
        report.metadata_blocks, report.chunks, report.too_low, report.too_high, report.wrong_counters, report.damaged
    );
    if report.is_clean() { Ok(text) } else { Err(text) }
}

async fn open(vault: &Rc<Vault>, words: &mut Words, new: bool) -> Result<String, String> {
    let name = words.require("NAME")?.to_string();
    let option = if new { "force" } else { "keep" };
    let mut chosen = words.take(option);
    let key = if chosen { MODULE } else { words.next().unwrap_or(MODULE) };
    let key = keys::bytes_of(vault.app, key)?;
    chosen |= words.take(option);
    words.end_of_keys()?;
    let Found { id, parent, device, .. } = vault.device(&name)?;
    if vault.keys.get(&id).is_some() {
        return Err(format!("{name}: it is unlocked"));
    }
    let _turn = vault.keys.turn(&id).ok_or_else(|| another(&name))?;
    // No guest gets the device while it becomes another one, nor may one write that is to be unlocked.
    let wanted = Wanted { id: id.clone(), parent, writes: new };
    let _hold = vault.holds.take(wanted, None, false).map_err(|other| format!("{name}: {other} has it"))?;
    let outcome = match new {
        true => vault.keys.encrypt(vault.app, id.clone(), device, &key, chosen).await,
        false => vault.keys.unlock(vault.app, id.clone(), device, &key, chosen).await,
    };
    outcome.map(|text| format!("{name}: {text}")).map_err(|error| format!("{name}: {error}"))
}

fn another(name: &str) -> String {
    format!("{name}: another command works on its keys")
}

fn lock(vault: &Rc<Vault>, words: &mut Words) -> Result<String, String> {
    let name = words.require("NAME")?.to_string();
    words.end_of_keys()?;
    let Found { id, .. } = vault.device(&name)?;
    vault.check_unused(&name, &id)?;
    match vault.keys.lock(&id) {
        true => Ok(format!("{name}: locked")),
        false => Err(format!("{name}: it is not unlocked")),
    }
}

async fn change_keys(vault: &Rc<Vault>, words: &mut Words, command: &str) -> Result<String, String> {
    let name = words.require("NAME")?.to_string();
    let key = keys::bytes_of(vault.app, words.require("KEY")?)?;
    let Found { id, parent, device, .. } = vault.device(&name)?;
    let _turn = vault.keys.turn(&id).ok_or_else(|| another(&name))?;
    // A guest that unlocks it itself may change keys, too.
    let _hold = match vault.keys.get(&id) {
        Some(_) => None,
        None => {
            let wanted = Wanted { id: id.clone(), parent, writes: true };
            Some(vault.holds.take(wanted, None, false).map_err(|other| format!("{name}: {other} has it"))?)
        }
    };
    let slot = match command {
        "remove-key" => {
            words.end_of_keys()?;
            vault.keys.remove(vault.app, device, &key).await
        }
        _ => {
            let new = keys::bytes_of(vault.app, words.require("NEW-KEY")?)?;
            words.end_of_keys()?;
            match command {
                "add-key" => vault.keys.add(vault.app, device, &key, &new).await,
                _ => vault.keys.change(vault.app, device, &key, &new).await,
            }
        }
    };
    match (slot.map_err(|error| format!("{name}: {error}"))?, command) {
        (slot, "remove-key") => Ok(format!("{name}: keyslot {slot} removed")),
        (slot, _) => Ok(format!("{name}: keyslot {slot}")),
    }
}

fn allow(vault: &Rc<Vault>, words: &mut Words) -> Result<String, String> {
    let name = words.require("NAME")?.to_string();
    let who = words.require("DOMAIN")?.to_string();
    let read_only = words.take("ro");
    words.end()?;
    let only = match &*who {
        "any" => None,
        "none" => Some(Vec::new()),
        list => Some(list.split(',').filter(|one| !one.is_empty()).map(Who::parse).collect()),
    };
    // Of a name that is not there, nobody would be kept from anything.
    let Found { id, .. } = vault.device(&name)?;
    vault.settings.allow(id, Access { only, read_only });
    Ok(format!("{name}: {who}{}", if read_only { ", read-only" } else { "" }))
}

async fn limit(vault: &Rc<Vault>, words: &mut Words) -> Result<String, String> {
    let who = words.require("DOMAIN")?.to_string();
    let mut speed = Speed::default();
    while let Some(word) = words.next() {
        match word.split_once('=') {
            Some(("rate", value)) => {
                let Size(bytes) = value.parse().map_err(|error| format!("`{word}`: {error}"))?;
                speed.bytes = Some(bytes).filter(|bytes| *bytes > 0);
            }
            Some(("iops", value)) => {
                let requests: u64 = value.parse().map_err(|_| format!("`{word}`: expected a number"))?;
                speed.requests = Some(requests).filter(|requests| *requests > 0);
            }
            _ => return Err(format!("`{word}`: expected rate=SIZE or iops=NUMBER")),
        }
    }
    let store = vault.app.store().map_err(|error| error.to_string())?;
    let whom = if who == "default" { None } else { Some(Who::parse(&who)) };
    vault.settings.limit(whom, speed, &store).await;
    let number = |limit: Option<u64>| limit.map_or_else(|| "no limit".to_string(), |limit| limit.to_string());
    Ok(format!("{who}: bytes a second: {}, requests a second: {}", number(speed.bytes), number(speed.requests)))
}
