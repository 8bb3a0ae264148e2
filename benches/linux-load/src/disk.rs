//! Reads and writes a disk as `mode=bench` of apps/disk does, in a Linux guest: past the page cache, by io_uring, and
//! with the same lines of JSON.

use std::alloc::{Layout, alloc_zeroed};
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::NonNull;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use io_uring::{IoUring, opcode, types};

/// 32 buffers of 1 MiB.
const MAX_BYTES: usize = 32 << 20;
const MAX_DEPTH: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Load {
    writes: bool,
    random: bool,
    size: usize,
    depth: usize,
}

/// `randread:4096:32` and the like: what is done (in fio's words), the bytes of a request, and how many are in flight.
impl FromStr for Load {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Load> {
        let (operation, rest) = text.split_once(':').context("OPERATION:BYTES:IN_FLIGHT")?;
        let (size, depth) = rest.split_once(':').context("OPERATION:BYTES:IN_FLIGHT")?;
        let (random, direction) = match operation.strip_prefix("rand") {
            Some(direction) => (true, direction),
            None => (false, operation),
        };
        let writes = match direction {
            "read" => false,
            "write" => true,
            _ => bail!("{text}: expected read, write, randread or randwrite"),
        };
        let (size, depth): (usize, usize) = (size.parse()?, depth.parse()?);
        let fits = size.checked_mul(depth).is_some_and(|bytes| (1..=MAX_BYTES).contains(&bytes));
        ensure!(fits && size.is_multiple_of(4096) && depth <= MAX_DEPTH, "{text}: not so much");
        Ok(Load { writes, random, size, depth })
    }
}

fn memory() -> Result<NonNull<u8>> {
    let layout = Layout::from_size_align(MAX_BYTES, 4096)?;
    // SAFETY: the size is not zero. It is freed at the program's end.
    NonNull::new(unsafe { alloc_zeroed(layout) }).context("no memory")
}

/// Measures what these words say, each for that time.
pub fn run_loads(device: &str, time: Duration, loads: &[&str]) -> Result<()> {
    let loads = loads.iter().map(|load| load.parse()).collect::<Result<Vec<Load>>>()?;
    let memory = memory()?;
    loads.into_iter().try_for_each(|load| measure(device, memory, load, time))
}

/// Measures reads, and writes where `write` says so, each for that time.
pub fn run(device: &str, time: Duration, write: bool) -> Result<()> {
    let memory = memory()?;
    for writes in [false, true].into_iter().filter(|writes| write || !writes) {
        for random in [false, true] {
            for size in [4 << 10, 64 << 10, 1 << 20] {
                for depth in [1, 32] {
                    measure(device, memory, Load { writes, random, size, depth }, time)?;
                }
            }
        }
    }
    Ok(())
}

/// Makes a file a loop device with sectors of so many bytes, which busybox's `losetup` cannot.
pub fn attach(device: &str, path: &str, sectors: u64) -> Result<()> {
    /// `LOOP_CONFIGURE` and the length of `struct loop_config` (include/uapi/linux/loop.h).
    const CONFIGURE: u64 = 0x4c0a;
    const LEN: usize = 304;
    let open = |path: &str| OpenOptions::new().read(true).write(true).open(path).with_context(|| path.to_owned());
    let (device_file, file) = (open(device)?, open(path)?);
    let mut config = [0_u64; LEN / 8];
    // The file's descriptor, then the size of sectors.
    config[0] = u64::from(file.as_raw_fd() as u32) | sectors << 32;
    // SAFETY: the structure has its whole length, and the kernel only reads it.
    let outcome = unsafe { libc::ioctl(device_file.as_raw_fd(), CONFIGURE as _, config.as_ptr()) };
    ensure!(outcome == 0, "{device}: {}", std::io::Error::last_os_error());
    Ok(())
}

fn measure(device: &str, memory: NonNull<u8>, load: Load, time: Duration) -> Result<()> {
    let Load { writes, random, size, depth } = load;
    let mut file = OpenOptions::new()
        .read(true)
        .write(writes)
        .custom_flags(libc::O_DIRECT)
        .open(device)
        .with_context(|| device.to_owned())?;
    let places = file.seek(SeekFrom::End(0))? / size as u64;
    ensure!(places > 0, "{device} is smaller than {size} bytes");
    // SAFETY: the largest load takes all of the memory.
    let buffers: Vec<_> = (0..depth).map(|index| unsafe { memory.add(index * size) }.as_ptr()).collect();
    let mut ring = IoUring::new(MAX_DEPTH as u32)?;
    let descriptor = types::Fd(file.as_raw_fd());
    let (mut next, mut state) = (0_u64, 0x2545_f491_4f6c_dd1d_u64);
    let mut place = || {
        if !random {
            next += 1;
            return (next - 1) % places;
        }
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % places
    };
    let before = interrupts()?;
    let mut begun = vec![Instant::now(); depth];
    let mut latencies = Vec::new();
    let start = Instant::now();
    let mut idle: Vec<usize> = (0..depth).collect();
    let mut in_flight = 0;
    loop {
        if start.elapsed() < time {
            for index in idle.drain(..) {
                let offset = place() * size as u64;
                let entry = match writes {
                    true => opcode::Write::new(descriptor, buffers[index], size as u32).offset(offset).build(),
                    false => opcode::Read::new(descriptor, buffers[index], size as u32).offset(offset).build(),
                };
                begun[index] = Instant::now();
                // SAFETY: the buffer stays where it is, and is used for nothing else until the entry is completed.
                unsafe { ring.submission().push(&entry.user_data(index as u64)) }.context("the queue is full")?;
                in_flight += 1;
            }
        }
        if in_flight == 0 {
            break;
        }
        ring.submit_and_wait(1)?;
        for entry in ring.completion() {
            ensure!(entry.result() == size as i32, "{device}: {}", std::io::Error::from_raw_os_error(-entry.result()));
            let index = entry.user_data() as usize;
            latencies.push(begun[index].elapsed().as_micros() as u64);
            idle.push(index);
            in_flight -= 1;
        }
    }
    let took = start.elapsed().as_micros() as u64;
    let events = interrupts()? - before;
    latencies.sort_unstable();
    let count = latencies.len() as u64;
    println!(
        "{{\"op\":\"{}\",\"pattern\":\"{}\",\"size\":{size},\"in_flight\":{depth},\"mb_per_s\":{},\"iops\":{},\
         \"p50_us\":{},\"p99_us\":{},\"events\":{events}}}",
        if writes { "write" } else { "read" },
        if random { "random" } else { "sequential" },
        count * size as u64 / took,
        count * 1_000_000 / took,
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
    );
    Ok(())
}

/// How often block frontends were interrupted so far.
fn interrupts() -> Result<u64> {
    let mut text = String::new();
    std::fs::File::open("/proc/interrupts")?.read_to_string(&mut text)?;
    let lines = text.lines().filter(|line| line.ends_with("blkif"));
    Ok(lines.flat_map(|line| line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok())).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_words() {
        let load = |text: &str| text.parse::<Load>();
        assert_eq!(load("randread:4096:32").unwrap(), Load { writes: false, random: true, size: 4096, depth: 32 });
        assert_eq!(load("write:1048576:1").unwrap(), Load { writes: true, random: false, size: 1 << 20, depth: 1 });
        for bad in
            ["", "read", "read:4096", "trim:4096:1", "read:4096:33", "read:512:1", "read:2097152:32", "read:4096:0"]
        {
            assert!(load(bad).is_err(), "{bad}");
        }
    }
}
