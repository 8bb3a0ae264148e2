//! Zones from their files, at the start and whenever they are to be read again.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Ordering;

use sarab::println;
use sarab_dns::{Catalog, Config, Limits, LoadError, Loader, Step, Zone, ZoneConfig};

use crate::disk::{File, Files, Source, read_all};
use crate::server::Dns;

/// The configuration's name where nothing else is said, and its most bytes.
const CONFIG: &str = "dns.conf";
const MAX_CONFIG: usize = 256 << 10;
/// Bytes of a zone's file that are read at once.
const PIECE: usize = 16 << 10;
/// Memory that is left alone while zones are loaded: for packets and answers.
const RESERVE: usize = 2 << 20;

/// Serves what is there from now on.
pub async fn use_source(dns: &Rc<Dns>, source: Source) {
    dns.source.replace(Some(Rc::new(source)));
    match reload(dns, None).await {
        Ok(text) => println!("dns: {text}"),
        Err(error) => println!("dns: error: {error}"),
    }
    dns.settle();
}

/// Only one reads zones at a time.
struct Busy<'a>(&'a Dns);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.set(false);
        self.0.idle.wake_all();
    }
}

/// Reads the configuration and the zones again, or one zone. A zone that is wrong stays as it was; what is wrong is printed, and
/// the first of it returned.
pub async fn reload(dns: &Rc<Dns>, only: Option<&[u8]>) -> Result<String, String> {
    dns.idle.wait_until(|| (!dns.busy.replace(true)).then_some(())).await;
    let _busy = Busy(dns);
    let outcome = Box::pin(read(dns, only)).await;
    let count = &dns.reloads[usize::from(outcome.is_err())];
    count.set(count.get() + 1);
    outcome
}

async fn read(dns: &Rc<Dns>, only: Option<&[u8]>) -> Result<String, String> {
    let source = dns.source.borrow().clone().ok_or("there is no disk to read from")?;
    let files = source.files(dns.app.memory().free as usize / 8).await?;
    let config = configuration(dns, &files).await?;
    let mut errors = Vec::new();
    let (mut loaded, mut catalog) = (0, Catalog::new());
    let old = dns.server.catalog();
    if let Some(only) = only
        && !config.zones.contains_key(only)
    {
        return Err("the configuration has no such zone".into());
    }
    for (apex, zone) in &config.zones {
        let before = old.get(apex);
        if only.is_some_and(|only| *only != **apex)
            && let Some(before) = before
        {
            catalog.insert(before.clone());
            continue;
        }
        match load(dns, &files, apex, zone).await {
            Ok(zone) => {
                loaded += 1;
                let zone = accept(dns, zone, before);
                catalog.insert(zone);
            }
            Err(error) => {
                let kept = if before.is_some() { "; its older version is served on" } else { "" };
                println!("dns: error: {error}{kept}");
                errors.push(format!("{error}{kept}"));
                if let Some(before) = before {
                    catalog.insert(before.clone());
                }
            }
        }
        // At the start, zones are served as soon as they are there.
        if before.is_none() {
            let mut growing = (*dns.server.catalog()).clone();
            if let Some(zone) = catalog.get(apex) {
                growing.insert(zone.clone());
                dns.server.set_catalog(growing);
            }
        }
    }
    let all = catalog.zones().len();
    dns.server.set_catalog(catalog);
    dns.server.set_config(config);
    match errors.first() {
        None => Ok(format!("{loaded} zones read of {}, {all} served", files.format())),
        Some(first) => Err(format!(
            "{first}{}",
            match errors.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            }
        )),
    }
}

/// What the file says, or the command line.
async fn configuration(dns: &Dns, files: &Files) -> Result<Config, String> {
    let args = dns.app.args();
    let name = args.get::<&str>("config").map_err(|error| error.to_string())?;
    let zones = args.get::<&str>("zones").map_err(|error| error.to_string())?;
    let (source, text) = match (name, zones) {
        (None, Some(zones)) => {
            ("zones=", zones.split(',').map(|zone| format!("zone {zone} {zone}.zone\n")).collect::<String>())
        }
        (name, _) => {
            let name = name.unwrap_or(CONFIG);
            let mut file = files
                .open(name)
                .await
                .map_err(|error| format!("{name}: {error}"))?
                .ok_or_else(|| format!("{name}: there is no such file in {}", files.format()))?;
            let bytes = read_all(&mut file, MAX_CONFIG).await.map_err(|error| format!("{name}: {error}"))?;
            let text = String::from_utf8(bytes);
            (
                name,
                text.map_err(|error| {
                    format!("{name}: not valid UTF-8 after {} bytes", error.utf8_error().valid_up_to())
                })?,
            )
        }
    };
    Config::parse(&text).map_err(|errors| {
        for error in errors.iter().skip(1) {
            println!("dns: error: {source}: {error}");
        }
        let first = errors.first().map_or("", |error| error);
        format!("{source}: {first}; what was configured before stays")
    })
}

/// Takes a zone that was read, and says what is strange about its serial number.
fn accept(dns: &Rc<Dns>, zone: Zone, before: Option<&Rc<Zone>>) -> Rc<Zone> {
    let serial = zone.serial();
    if let Some(before) = before {
        if before.is_same(&zone) {
            return before.clone();
        }
        match zone.compare_serial(before) {
            Some(Ordering::Greater) => {}
            Some(Ordering::Equal) => println!(
                "dns: warning: {} has changed, and its serial number {serial} has not: secondaries will not take it",
                zone.name()
            ),
            _ => println!(
                "dns: warning: {} has serial number {serial}, which is lower than {} before: secondaries will not take it",
                zone.name(),
                before.serial()
            ),
        }
    }
    println!("dns: {} serial {serial}: {} records of {} names", zone.name(), zone.records(), zone.names());
    let zone = Rc::new(zone);
    dns.changed.borrow_mut().push_back(zone.clone());
    dns.to_notify.wake_all();
    zone
}

async fn load(dns: &Dns, files: &Files, apex: &[u8], config: &ZoneConfig) -> Result<Zone, LoadError> {
    // What there was before is served until the new one is whole.
    let memory = (dns.app.memory().free as usize).saturating_sub(RESERVE);
    let mut loader = Loader::new(apex, &config.file, Limits::new(memory));
    let mut open: Vec<(File, u64)> = Vec::new();
    let mut piece = vec![0; PIECE];
    match files.open(&config.file).await {
        Ok(Some(file)) => open.push((file, 0)),
        Ok(None) => return Err(loader.unreadable(&format!("there is no such file in {}", files.format()))),
        Err(error) => return Err(loader.unreadable(&error)),
    }
    loop {
        match loader.step()? {
            Step::Read => {
                let Some((file, at)) = open.last_mut() else { return Err(loader.unreadable("it has ended before")) };
                match file.read(*at, &mut piece).await {
                    Ok(0) => {
                        loader.end_of_file();
                        open.pop();
                    }
                    Ok(len) => {
                        *at += len as u64;
                        loader.feed(&piece[..len]);
                    }
                    Err(error) => return Err(loader.unreadable(&error)),
                }
            }
            Step::Include(name) => match files.open(&name).await {
                Ok(Some(file)) => open.push((file, 0)),
                Ok(None) => return Err(loader.unreadable(&format!("there is no such file in {}", files.format()))),
                Err(error) => return Err(loader.unreadable(&error)),
            },
            Step::Done => break,
            _ => sarab::platform::yield_now().await,
        }
    }
    let (zone, warnings) = loader.finish(async || sarab::platform::yield_now().await).await?;
    for warning in warnings {
        println!("dns: warning: {}: {warning}", config.file);
    }
    Ok(zone)
}
