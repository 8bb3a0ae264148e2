//! Load from Linux: on a disk, for a web server, for iperf, or through a router; a name server, questions to others, and hosts of a network.

mod disk;
mod dns;
mod http;
mod iperf;
mod lan;
mod queries;
mod raw;
mod routed;
mod site;
mod soak;

use std::time::Duration;

use anyhow::{Context, Result, bail};

const USAGE: &str =
    "usage: linux-load disk DEVICE MILLISECONDS [write | read|write|randread|randwrite:BYTES:IN_FLIGHT...]
       linux-load loop LOOP_DEVICE FILE SECTOR_BYTES
       linux-load http ADDRESS:PORT PATH CLIENTS COUNT PER_CONNECTION
       linux-load site ADDRESS:PORT FOLDER CLIENTS
       linux-load parts ADDRESS:PORT PATH CLIENTS COUNT LENGTH SIZE
       linux-load raw ADDRESS:PORT FILE
       linux-load soak ADDRESS:PORT REQUESTS SEGMENTS CLIENTS ALLOWED
       linux-load drain ADDRESS:PORT BYTES
       linux-load serve PORT
       linux-load flood ADDRESS:PORT MILLISECONDS up|down FILE INTERFACE
       linux-load connections ADDRESS:PORT MILLISECONDS
       linux-load first ADDRESS:PORT SECONDS [COMMAND...]
       linux-load dns ADDRESS:PORT NAME=ADDRESS...
       linux-load queries ADDRESS:PORT MILLISECONDS IN_FLIGHT FILE
       linux-load compare ADDRESS:PORT ADDRESS:PORT FILE
       linux-load ask ADDRESS:PORT NAME TYPE";

fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().context(USAGE);
    match args[..] {
        ["disk", device, ms] => disk::run(device, Duration::from_millis(number(ms)?), false),
        ["disk", device, ms, "write"] => disk::run(device, Duration::from_millis(number(ms)?), true),
        ["disk", device, ms, ref loads @ ..] => disk::run_loads(device, Duration::from_millis(number(ms)?), loads),
        ["loop", device, file, sectors] => disk::attach(device, file, number(sectors)?),
        ["http", address, path, clients, count, per_connection] => {
            http::run(address, path, number(clients)?, number(count)?, number(per_connection)?)
        }
        ["site", address, folder, clients] => site::run(address, folder.as_ref(), number(clients)? as usize),
        ["parts", address, path, clients, count, len, size] => {
            site::parts(address, path, number(clients)?, number(count)?, number(len)?, number(size)?)
        }
        ["raw", address, file] => raw::run(address, file),
        ["soak", address, requests, segments, clients, allowed] => {
            soak::run(address, number(requests)?, number(segments)?, number(clients)?, number(allowed)?)
        }
        ["drain", address, bytes] => iperf::drain(address, number(bytes)?),
        ["serve", port] => routed::serve(port.parse()?),
        ["flood", server, ms, way @ ("up" | "down"), file, interface] => {
            let counter = routed::Counter { file, interface };
            routed::flood(server.parse()?, Duration::from_millis(number(ms)?), way == "up", &counter)
        }
        ["connections", server, ms] => routed::connections(server.parse()?, Duration::from_millis(number(ms)?)),
        ["first", server, seconds, ref command @ ..] => {
            routed::first(server.parse()?, Duration::from_secs(number(seconds)?), command)
        }
        ["dns", at, ref names @ ..] => dns::serve(at.parse()?, names),
        ["queries", server, ms, in_flight, file] => {
            queries::load(server, Duration::from_millis(number(ms)?), number(in_flight)? as usize, file)
        }
        ["ask", server, name, qtype] => queries::print(server, &format!("{name} {qtype}")),
        ["compare", ours, theirs, file] => queries::compare(ours, theirs, file),
        ["lan", ref words @ ..] => lan::run(words),
        _ => bail!("{USAGE}{}", lan::USAGE),
    }
}
