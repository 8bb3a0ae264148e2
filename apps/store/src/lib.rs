//! A control program: lists the store, watches it, or checks that it works.
//!
//! `mode=ls path=/local/domain/1` prints a tree, its own without a path, with `perms=yes` the permissions too;
//! `mode=watch path=data` prints what changes until the domain is shut down; `mode=check` tries every operation that a guest may ask for.

#![no_std]

extern crate alloc;

mod check;
mod list;

use futures_util::future::{Either, select};
use sarab::store::Broken;
use sarab::{App, bail, println};

/// What the guest does.
#[cfg_attr(feature = "guest", sarab::main)]
pub async fn main(app: App) -> sarab::Result {
    let args = app.args();
    args.expect_only(&["mode", "path", "perms"])?;
    let mode = args.choice("mode", &["ls", "watch", "check"])?.unwrap_or("ls");
    let path = args.get::<&str>("path")?;
    let store = app.store()?;
    match mode {
        "ls" => {
            // The root is closed to guests; a domain's own directory is not.
            let own = store.domain_path(store.read_as("domid").await?).await?;
            list::tree(&store, path.unwrap_or(&own), args.get_or("perms", false)?).await?;
        }
        "watch" => watch(app, path.unwrap_or("data")).await?,
        _ => match check::run(&store).await {
            0 => {}
            failed => bail!("{failed} checks failed"),
        },
    }
    Ok(())
}

/// Prints what changes, until the toolstack asks the domain to end.
async fn watch(app: App, path: &str) -> sarab::Result {
    let store = app.store()?;
    let mut watch = store.watch(path).await?;
    let mut shutdown = core::pin::pin!(app.shutdown());
    println!("watching {path}");
    loop {
        let event = match select(core::pin::pin!(watch.next()), &mut shutdown).await {
            Either::Left((Some(event), _)) => event,
            Either::Left((None, _)) => return Err(store.broken().unwrap_or(Broken::Stopped).into()),
            Either::Right((request, _)) => {
                println!("asked to {request}");
                return Ok(());
            }
        };
        match store.get::<alloc::vec::Vec<u8>>(&event.path).await {
            Ok(Some(value)) => println!("{} = \"{}\"", event.path, value.escape_ascii()),
            Ok(None) => println!("{} is gone", event.path),
            Err(error) => println!("{}: {error}", event.path),
        }
    }
}
