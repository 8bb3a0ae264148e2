//! Load from Linux: on a disk, or for a web server.

mod disk;
mod http;

use std::time::Duration;

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: linux-load disk DEVICE MILLISECONDS [write]
       linux-load http ADDRESS:PORT PATH CLIENTS COUNT PER_CONNECTION";

fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().context(USAGE);
    match args[..] {
        ["disk", device, ms] => disk::run(device, Duration::from_millis(number(ms)?), false),
        ["disk", device, ms, "write"] => disk::run(device, Duration::from_millis(number(ms)?), true),
        ["http", address, path, clients, count, per_connection] => {
            http::run(address, path, number(clients)?, number(count)?, number(per_connection)?)
        }
        _ => bail!(USAGE),
    }
}
