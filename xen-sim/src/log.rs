//! What the drivers log.

use std::cell::RefCell;
use std::sync::Once;

use log::{LevelFilter, Log, Metadata, Record};

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Lines;

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        LINES.with_borrow_mut(|lines| lines.push(record.args().to_string()));
    }

    fn flush(&self) {}
}

/// Begins to keep what is logged on this thread, which runs one machine at a time.
pub fn keep_log() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        log::set_logger(&Lines).expect("the only logger");
        log::set_max_level(LevelFilter::Info);
    });
    LINES.with_borrow_mut(Vec::clear);
}

/// What was logged since [`keep_log`], or the last look.
pub fn take_log() -> Vec<String> {
    LINES.take()
}
