//! What the log is told of a device, and what it was told before.

use alloc::collections::BTreeSet;
use alloc::string::String;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use xen_hal::warning;
use xenstore_client::printable;

use crate::failure::Failure;
use crate::rate_limit::RateLimit;

/// Lives as long as the device: a frontend opens its directories anew with each connection, and the other end can have it
/// connect again and again.
pub(crate) struct DeviceLog {
    /// Connections whose lines are logged.
    connections: RefCell<RateLimit>,
    level: Cell<Level>,
    /// Lines that the log was spared since it was told so last.
    spared: Cell<u32>,
    /// Keys of either end that were complained of: a driver may come to read them again at any change.
    complaints: RefCell<BTreeSet<String>>,
    /// What was reported last.
    reported: RefCell<Option<Failure>>,
}

/// What of a connection is logged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    All,
    /// The device connects again and again: no steps, and no failures that the log has already.
    News,
    Nothing,
}

impl Default for DeviceLog {
    fn default() -> Self {
        DeviceLog {
            connections: RefCell::new(RateLimit::for_log_lines()),
            level: Cell::new(Level::All),
            spared: Cell::new(0),
            complaints: RefCell::default(),
            reported: RefCell::default(),
        }
    }
}

impl DeviceLog {
    /// Another connection is to come; with the pause before it, where there are many in a row.
    pub(crate) fn next_connection(&self, path: &str, now: Duration, row: Option<(u32, Duration)>) {
        if !self.connections.borrow_mut().allows(now) {
            self.level.set(Level::Nothing);
            self.spare();
            return;
        }
        match (row, self.spared.take()) {
            (Some((count, pause)), spared) => warning!(
                "{}: connecting for the {}th time in a row, in {} ms ({} lines suppressed)",
                path,
                count,
                pause.as_millis(),
                spared
            ),
            (None, 0) => {}
            (None, spared) => warning!("{}: {} lines suppressed", path, spared),
        }
        self.level.set(if row.is_some() { Level::News } else { Level::All });
    }

    fn spare(&self) {
        self.spared.set(self.spared.get().saturating_add(1));
    }

    fn allows(&self, allowed: bool) -> bool {
        if !allowed {
            self.spare();
        }
        allowed
    }

    /// Whether a step of the connection is logged.
    pub(crate) fn allows_step(&self) -> bool {
        self.allows(self.level.get() == Level::All)
    }

    /// Whether it is logged that the other end does not do its part.
    pub(crate) fn allows_warning(&self) -> bool {
        self.allows(self.level.get() != Level::Nothing)
    }

    /// Whether a failure is to be reported, which then is known.
    pub(crate) fn is_news(&self, failure: &Failure) -> bool {
        let known = self.reported.replace(Some(failure.clone()));
        self.allows(self.level.get() == Level::All || known.as_ref() != Some(failure))
    }

    /// Logs what is wrong with a key, once for each.
    pub(crate) fn warn_once(&self, key: &str, line: &str) {
        if !self.complaints.borrow().contains(key) && self.allows_warning() {
            self.complaints.borrow_mut().insert(key.into());
            warning!("{}", printable(line));
        }
    }
}
