//! The `log` crate's output: lines of text on the console.

use log::{LevelFilter, Log, Metadata, Record};

use crate::{console, time};

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let micros = time::now_ns() / 1000;
        console::print(format_args!(
            "[{}.{:06}] {:<5} {}  ({})\n",
            micros / 1_000_000,
            micros % 1_000_000,
            record.level().as_str(),
            record.args(),
            record.target()
        ));
    }

    fn flush(&self) {}
}

/// Makes the console the output of `log`, down to `info`; `log::set_max_level` changes that.
pub(crate) fn init() {
    // One core, and called once: there is no other logger yet.
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}
