//! Where the configuration comes from: the command line, a module or a disk; and the store, where it may change at any time.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use core::pin::pin;

use futures_util::future::select;
use sarab::block::{BlockDevice, Buffer};
use sarab::hal::{Errno, PAGE_SIZE};
use sarab::store::{Error, Store};
use sarab::time::{Duration, Timer};
use sarab::{App, Context, bail, println};
use sarab_router::ClientLimits;
use sarab_router::rules::{Config, MAX_TEXT};

use crate::firewall::nat;
use crate::gate::Gate;

/// Where the store has it: as one value, or in parts below it, in the order of their names, for one value is 4 KiB at most.
pub const KEY: &str = "data/gate/rules";
/// What became of it.
const STATUS: &str = "data/gate/status";
/// Parts that change together come one after the other.
const SETTLE: Duration = Duration::from_millis(100);
/// Where nothing is said: networks for clients, and what a household's router does.
const DEFAULT: &str = "clients 10.86.0.1/24\nclients fd86:6174:65::1/64\n";

/// What the command line says.
pub async fn first(app: App) -> sarab::Result<(String, String)> {
    let text = match app.args().get::<&str>("rules")? {
        None => match app.modules().first() {
            Some(module) => (String::from("module"), text_of(module)?),
            None => (String::from("default"), DEFAULT.to_string()),
        },
        Some("module") => match app.modules().first() {
            Some(module) => (String::from("module"), text_of(module)?),
            None => bail!(
                "rules=module: the toolstack has loaded none; its xl file names it (ramdisk = '/path/gate.rules')"
            ),
        },
        Some("store") => (String::from("default"), DEFAULT.to_string()),
        Some(disk) if !disk.contains([' ', ';']) => (disk.to_string(), from_disk(app, disk).await?),
        Some(inline) => (String::from("rules="), inline.replace(';', "\n")),
    };
    Ok(text)
}

fn text_of(bytes: &[u8]) -> sarab::Result<String> {
    // What fills up a sector or a page is not its.
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    match core::str::from_utf8(&bytes[..end]) {
        Ok(text) => Ok(text.to_string()),
        Err(error) => bail!("the rules are not valid UTF-8 after {} bytes", error.valid_up_to()),
    }
}

async fn from_disk(app: App, name: &str) -> sarab::Result<String> {
    let disk = app.disk(name).await.with_context(|| format!("rules={name}"))?;
    let sectors = (MAX_TEXT as u64 / 512 + 1).min(disk.geometry().sectors);
    let buffer = disk.buffer(sectors as usize * 512).with_context(|| format!("rules={name}"))?;
    let (buffer, outcome) = disk.read(0, buffer).await;
    outcome.with_context(|| format!("rules={name}"))?;
    let mut bytes = vec![0; buffer.len()];
    for (index, page) in bytes.chunks_mut(PAGE_SIZE).enumerate() {
        buffer.page(index).read(0, page);
    }
    text_of(&bytes)
}

/// The store's text, if there is one.
async fn from_store(store: &Store) -> Result<Option<String>, Error> {
    let is_missing = |error: &Error| error.errno() == Some(Errno::ENOENT);
    let names = match store.list(KEY).await {
        Ok(names) => names,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    let mut paths = vec![KEY.to_string()];
    paths.extend(names.iter().map(|name| format!("{KEY}/{name}")));
    for path in paths {
        match store.get(&path).await {
            Ok(Some(part)) => {
                let part: String = part;
                text.push_str(&part);
                text.push('\n');
            }
            Ok(None) => {}
            Err(error) => return Err(error),
        }
        // Too long, which the parser tells.
        if text.len() > MAX_TEXT {
            break;
        }
    }
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}

/// Uses a text from now on, unless it is wrong: then what was there before stays. What is said to the store.
pub fn apply(gate: &Gate, source: &str, text: &str) -> Result<String, String> {
    let config = match Config::parse(text) {
        Ok(config) => config,
        Err(errors) => {
            let errors = errors.named(source).to_string();
            for line in errors.lines() {
                println!("gate: {line}");
            }
            return Err(errors.lines().next().unwrap_or_default().to_string());
        }
    };
    for warning in &config.warnings {
        println!("gate: warning: {warning}");
    }
    let now = gate.now();
    let config = Rc::new(config);
    gate.config.replace(config.clone());
    {
        let mut state = gate.firewall.0.borrow_mut();
        state.names.reload(config.rules.names(), now);
        state.counters.reload(&config.rules);
        state.config = config.clone();
    }
    gate.configure_clients();
    if let Err(error) = gate.dns.names(|names| names.set_domain(config.search.as_deref())) {
        println!("gate: search: {error}");
    }
    let forgotten = {
        let mut router = gate.router.borrow_mut();
        let limits = config.limits;
        router.set_limits(ClientLimits {
            flows: limits.flows.map(|flows| flows as usize),
            new_flows: limits.new_flows,
            icmp: limits.icmp,
        });
        router.set_inside(config.clients.clone());
        router.set_policy(gate.firewall.clone(), nat(&config))
    };
    let count = config.rules.iter().count();
    let text = format!("{count} rules of {source}; {forgotten} flows forgotten");
    println!("gate: {text}");
    Ok(text)
}

/// Follows what the store says, for as long as there is one.
pub async fn follow(gate: Rc<Gate>, first: (String, String)) -> Result<(), Error> {
    let store = match gate.app.store() {
        Ok(store) => store,
        Err(_) => return Ok(()),
    };
    let mut watch = store.watch_any(KEY).await?;
    let mut last = None;
    loop {
        if watch.next().await.is_none() {
            return Ok(());
        }
        loop {
            let more = pin!(watch.next());
            let settled = pin!(Timer::after(SETTLE));
            if let futures_util::future::Either::Right(_) = select(more, settled).await {
                break;
            }
        }
        let now = from_store(&store).await?;
        if now == last {
            continue;
        }
        let (source, text) = match &now {
            Some(text) => ("store", text),
            None => (&*first.0, &first.1),
        };
        let outcome = apply(&gate, source, text);
        last = now;
        gate.reloaded.advance();
        let text = match outcome {
            Ok(text) => format!("ok: {text}"),
            Err(text) => format!("error: {text}"),
        };
        store.set(STATUS, text.as_str()).await?;
    }
}
