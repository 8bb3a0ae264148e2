//! `mode=ls`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use sarab::hal::Errno;
use sarab::println;
use sarab::store::{Error, Store};

/// Prints a node and all below it, as `xenstore-ls` does.
pub async fn tree(store: &Store, path: &str, permissions: bool) -> Result<(), Error> {
    // The root has to be there; what disappears meanwhile is no error.
    store.read(path).await?;
    let mut left = Vec::from([(String::from(path), 0_usize)]);
    while let Some((path, depth)) = left.pop() {
        if !show(store, &path, depth, permissions).await? {
            continue;
        }
        let mut names = match store.list(&path).await {
            Ok(names) => names,
            Err(error) if is_hidden(&error) => continue,
            Err(error) => return Err(error),
        };
        names.sort_unstable();
        let above = if path == "/" { "" } else { &path };
        left.extend(names.iter().rev().map(|name| (format!("{above}/{name}"), depth + 1)));
    }
    Ok(())
}

/// Prints one node; `false` where it is hidden or gone.
async fn show(store: &Store, path: &str, depth: usize, permissions: bool) -> Result<bool, Error> {
    let value = match store.read(path).await {
        Ok(value) => value,
        Err(error) if is_hidden(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let name = match depth {
        0 => path,
        _ => path.rsplit('/').next().unwrap_or(path),
    };
    let mut line = format!("{:indent$}{name} = \"{}\"", "", value.escape_ascii(), indent = depth);
    if permissions {
        match store.permissions(path).await {
            Ok(entries) => {
                let entries: Vec<String> = entries.iter().map(|entry| format!("{entry}")).collect();
                line = format!("{line}  ({})", entries.join(","));
            }
            Err(error) if is_hidden(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    println!("{line}");
    Ok(true)
}

fn is_hidden(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::EACCES | Errno::ENOENT))
}
