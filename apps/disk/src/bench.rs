//! How fast a disk is: a line of JSON for each way to use it.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use futures_util::future::join_all;
use sarab::block::{BlockDevice, Buffer};
use sarab::hal::Clock;
use sarab::{App, Disk, Size, bail, println};

/// Most bytes of a request, and most requests at once, that are taken from a command line.
const MAX_SIZE: u64 = 1 << 20;
const MAX_DEPTH: usize = 256;

/// Measures what `loads` names, such as `randread:4K:32,write:1M:1` (fio's words, bytes of a request, requests in flight), or
/// all reads, and writes where `write` says so, each for `ms` milliseconds.
pub async fn run(app: App, disk: &Disk, write: bool, ms: u64, loads: Option<&str>) -> sarab::Result {
    if let Some(loads) = loads {
        for text in loads.split(',') {
            let Some(load) = Load::parse(text) else {
                bail!(
                    "loads={text}: expected read, write, randread or randwrite, a size and how many, as in randread:4K:32"
                );
            };
            if disk.geometry().bytes() < load.size as u128 {
                bail!("loads={text}: the disk is smaller");
            }
            measure(app, disk, load, Duration::from_millis(ms)).await?;
        }
        return Ok(());
    }
    for writes in [false, true] {
        if writes && !write {
            continue;
        }
        for random in [false, true] {
            for size in [4 << 10, 64 << 10, 1 << 20] {
                for depth in [1, 32] {
                    if disk.geometry().bytes() >= size as u128 {
                        measure(app, disk, Load { writes, random, size, depth }, Duration::from_millis(ms)).await?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Load {
    writes: bool,
    random: bool,
    size: usize,
    depth: usize,
}

impl Load {
    fn parse(text: &str) -> Option<Load> {
        let (operation, rest) = text.split_once(':')?;
        let (Ok(Size(size)), Ok(depth)) = rest.split_once(':').map(|(size, depth)| (size.parse(), depth.parse()))?
        else {
            return None;
        };
        let (random, direction) = match operation.strip_prefix("rand") {
            Some(direction) => (true, direction),
            None => (false, operation),
        };
        let writes = match direction {
            "read" => false,
            "write" => true,
            _ => return None,
        };
        let is_usual = (512..=MAX_SIZE).contains(&size) && size.is_multiple_of(512) && (1..=MAX_DEPTH).contains(&depth);
        is_usual.then_some(Load { writes, random, size: size as usize, depth })
    }
}

async fn measure(app: App, disk: &Disk, load: Load, time: Duration) -> sarab::Result {
    let Load { writes, random, size, depth } = load;
    let places = disk.geometry().sectors / (size / 512) as u64;
    let (next, state) = (Cell::new(0_u64), Cell::new(0x2545_f491_4f6c_dd1d_u64));
    let place = || match random {
        false => next.replace(next.get() + 1) % places,
        true => {
            let mut x = state.get();
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            state.set(x);
            x % places
        }
    };
    let latencies = RefCell::new(Vec::new());
    let before = disk.statistics();
    let start = app.clock().now();
    let worker = || async {
        let mut buffer = disk.buffer(size)?;
        while app.clock().now() - start < time {
            let begin = app.clock().now();
            let sector = place() * (size / 512) as u64;
            let (back, outcome) = match writes {
                true => disk.write(sector, buffer).await,
                false => disk.read(sector, buffer).await,
            };
            outcome?;
            buffer = back;
            latencies.borrow_mut().push((app.clock().now() - begin).as_micros() as u32);
        }
        Ok::<usize, sarab::block::Error>(buffer.len())
    };
    for outcome in join_all((0..depth).map(|_| worker())).await {
        outcome?;
    }
    let took = (app.clock().now() - start).as_micros().max(1) as u64;
    let after = disk.statistics();
    let mut latencies = latencies.into_inner();
    latencies.sort_unstable();
    let count = latencies.len() as u64;
    println!(
        "{{\"op\":\"{}\",\"pattern\":\"{}\",\"size\":{size},\"in_flight\":{depth},\"mb_per_s\":{},\"iops\":{},\
         \"p50_us\":{},\"p99_us\":{},\"requests\":{},\"notifications\":{},\"events\":{}}}",
        if writes { "write" } else { "read" },
        if random { "random" } else { "sequential" },
        count * size as u64 / took,
        count * 1_000_000 / took,
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
        after.requests - before.requests,
        after.notifications - before.notifications,
        after.events - before.events
    );
    Ok(())
}
