//! Where commands come from: the command line, the console, and the store.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use sarab::hal::Errno;
use sarab::println;
use sarab::store::{Error, Store};
use sarab_luks::Zeroizing;

use crate::Vault;
use crate::commands;

/// A command as a value; or any number of them below it, each with a name of its own.
const COMMAND: &str = "data/vault/command";
/// What became of it, below the same name.
const STATUS: &str = "data/vault/status";
/// Most bytes of a command.
const MAX_LINE: usize = 1024;

/// Does what the command line says, for what there is: `commands=` has lines with `;` between, or names the module.
pub async fn first(vault: &Rc<Vault>) -> sarab::Result {
    let text = match vault.app.args().get::<&str>("commands")? {
        None => return Ok(()),
        Some("module") => match vault.app.modules().first() {
            None => {
                sarab::bail!("commands=module: the toolstack has loaded none; its xl file names it (ramdisk = '/path')")
            }
            Some(module) => match core::str::from_utf8(module) {
                Ok(text) => text.trim_end_matches('\0').to_string(),
                Err(error) => {
                    sarab::bail!("commands=module: it is not valid UTF-8 after {} bytes", error.valid_up_to())
                }
            },
        },
        Some(text) => text.replace(';', "\n"),
    };
    let text = Zeroizing::new(text);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        show(&commands::run(vault, line).await);
    }
    Ok(())
}

fn show(outcome: &Result<String, String>) {
    match outcome {
        Ok(text) => text.lines().for_each(|line| println!("vault: {line}")),
        Err(error) => println!("vault: error: {error}"),
    }
}

/// Follows the console.
pub async fn console(vault: Rc<Vault>) {
    loop {
        let line = Zeroizing::new(vault.app.console().read_line(MAX_LINE).await);
        if !line.trim().is_empty() {
            show(&commands::run(&vault, &line).await);
        }
    }
}

/// Follows the store.
pub async fn store(vault: Rc<Vault>) {
    if let Ok(store) = vault.app.store()
        && let Err(error) = follow(&vault, &store).await
    {
        println!("vault: {COMMAND}: {error}");
    }
}

async fn follow(vault: &Rc<Vault>, store: &Store) -> Result<(), Error> {
    let mut watch = store.watch_any(COMMAND).await?;
    while watch.next().await.is_some() {
        let names = match store.list(COMMAND).await {
            Err(error) if error.errno() == Some(Errno::ENOENT) => continue,
            names => survive(names)?.unwrap_or_default(),
        };
        let own = (COMMAND.to_string(), STATUS.to_string());
        let below = names.iter().map(|name| (format!("{COMMAND}/{name}"), format!("{STATUS}/{name}")));
        for (command, status) in core::iter::once(own).chain(below) {
            survive(perform(vault, store, &command, &status).await)?;
        }
    }
    Ok(())
}

/// What the store says of one command is no reason to follow no others, unless the store is gone.
fn survive<T>(outcome: Result<T, Error>) -> Result<Option<T>, Error> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_broken() => Err(error),
        Err(error) => {
            println!("vault: {error}");
            Ok(None)
        }
    }
}

async fn perform(vault: &Rc<Vault>, store: &Store, command: &str, status: &str) -> Result<(), Error> {
    // As bytes: an error about text would tell the line, and with it a key.
    let line = match store.get::<Vec<u8>>(command).await? {
        Some(line) => Zeroizing::new(line),
        None => return Ok(()),
    };
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    // It may name a key, and is not to be done twice.
    if command == COMMAND {
        store.set(command, "").await?
    } else {
        store.remove(command).await?
    }
    let outcome = match (line.len(), core::str::from_utf8(&line)) {
        (0..=MAX_LINE, Ok(line)) => commands::run(vault, line).await,
        (0..=MAX_LINE, Err(error)) => Err(format!("not valid UTF-8 after {} bytes", error.valid_up_to())),
        (len, _) => Err(format!("a command of {len} bytes, of {MAX_LINE} at most")),
    };
    show(&outcome);
    let text = match &outcome {
        Ok(text) => format!("ok: {text}"),
        Err(error) => format!("error: {error}"),
    };
    // A value of the store's is of 4 KiB at most with its path.
    let text = &text[..text.floor_char_boundary(3000)];
    store.set(status, text).await
}
