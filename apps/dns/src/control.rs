//! Commands: from the console, from the store, and from who is believed that a zone has changed.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use sarab::hal::Errno;
use sarab::println;
use sarab::store::{Error, Store};
use sarab_dns::parse_name;

use crate::server::Dns;
use crate::zones;

/// A command as a value.
const COMMAND: &str = "data/dns/command";
/// What became of it.
const STATUS: &str = "data/dns/status";
/// Most bytes of a command.
const MAX_LINE: usize = 512;
/// Zones that wait to be read again since others say so.
const MAX_NOTIFIED: usize = 32;

const HELP: &str = "\
reload [ZONE]     reads the configuration and all zones again, or one
notify ZONE       tells its secondaries that it has changed
zones             all zones, with their serial numbers
status            counters and memory, and all zones";

impl Dns {
    /// A zone is to be read again.
    pub fn notified(&self, zone: Box<[u8]>) {
        let mut waiting = self.notified.borrow_mut();
        if waiting.len() < MAX_NOTIFIED && !waiting.contains(&zone) {
            waiting.push_back(zone);
        }
        self.to_reload.wake_all();
    }
}

/// Does what a line says.
async fn run(dns: &Rc<Dns>, line: &str) -> Result<String, String> {
    let words: Vec<_> = line.split_whitespace().collect();
    match words[..] {
        ["help"] => Ok(HELP.into()),
        ["zones"] => Ok(dns.zones()),
        ["status"] => Ok(dns.status()),
        ["reload"] => zones::reload(dns, None).await,
        ["reload", zone] => zones::reload(dns, Some(&parse_name(zone)?)).await,
        ["notify", zone] => {
            let apex = parse_name(zone)?;
            let found = dns.server.catalog().get(&apex).cloned().ok_or_else(|| format!("{zone}: no such zone"))?;
            let config = dns.server.config();
            let count = config.zones.get(&apex).map_or(0, |zone| zone.notify.len());
            dns.changed.borrow_mut().push_back(found);
            dns.to_notify.wake_all();
            Ok(format!("{count} secondaries are told"))
        }
        _ => Err(format!("`{line}`: unknown; `help` lists the commands")),
    }
}

fn show(outcome: &Result<String, String>) {
    match outcome {
        Ok(text) => text.lines().for_each(|line| println!("dns: {line}")),
        Err(error) => println!("dns: error: {error}"),
    }
}

/// Follows the console; and, beside it, what is to be read again.
pub async fn console(dns: Rc<Dns>) {
    let own = dns.clone();
    let app = dns.app;
    app.spawn(async move { follow_notified(own).await }).detach();
    loop {
        let line = dns.app.console().read_line(MAX_LINE).await;
        if !line.trim().is_empty() {
            show(&run(&dns, line.trim()).await);
        }
    }
}

async fn follow_notified(dns: Rc<Dns>) {
    loop {
        let zone = dns.to_reload.wait_until(|| dns.notified.borrow_mut().pop_front()).await;
        show(&zones::reload(&dns, Some(&zone)).await);
        // Who notifies without end has it read once in a while.
        sarab::time::Timer::after(sarab::time::Duration::from_secs(1)).await;
    }
}

/// Follows the store.
pub async fn store(dns: Rc<Dns>) {
    if let Ok(store) = dns.app.store()
        && let Err(error) = follow(&dns, &store).await
    {
        println!("dns: {COMMAND}: {error}");
    }
}

async fn follow(dns: &Rc<Dns>, store: &Store) -> Result<(), Error> {
    let mut watch = store.watch_any(COMMAND).await?;
    while watch.next().await.is_some() {
        match perform(dns, store).await {
            Err(error) if error.is_broken() => return Err(error),
            // One command that the store does not take is no reason to follow no others.
            Err(error) => println!("dns: {COMMAND}: {error}"),
            Ok(()) => {}
        }
    }
    Ok(())
}

async fn perform(dns: &Rc<Dns>, store: &Store) -> Result<(), Error> {
    let line = match store.get::<Vec<u8>>(COMMAND).await {
        Ok(Some(line)) => line,
        Ok(None) => return Ok(()),
        Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(()),
        Err(error) => return Err(error),
    };
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    // It is not to be done twice.
    store.set(COMMAND, "").await?;
    let outcome = match core::str::from_utf8(&line) {
        Ok(line) if line.len() <= MAX_LINE => run(dns, line.trim()).await,
        Ok(line) => Err(format!("a command of {} bytes, of {MAX_LINE} at most", line.len())),
        Err(error) => Err(format!("not valid UTF-8 after {} bytes", error.valid_up_to())),
    };
    show(&outcome);
    let text = match &outcome {
        Ok(text) => format!("ok: {text}"),
        Err(error) => format!("error: {error}"),
    };
    // A value of the store's is of 4 KiB at most with its path.
    let text = text[..text.floor_char_boundary(3000)].to_string();
    store.set(STATUS, text.as_str()).await
}
