//! What the server counts.

use alloc::format;
use alloc::string::String;
use core::cell::Cell;

use sarab_http::Ended;

/// Counters of the server's own.
#[derive(Default)]
pub struct Counters {
    /// By the first digit of their status.
    pub answers: [Cell<u64>; 6],
    pub bytes: Cell<u64>,
    pub connections: Cell<u64>,
    pub open: Cell<u64>,
    pub cut: Cell<u64>,
    /// Connections by how they have ended, in the order of [`ENDS`].
    pub ended: [Cell<u64>; ENDS.len()],
    /// Clients that were gone before the end of their handshake.
    pub handshakes: Cell<u64>,
    /// Answers with parts of files, and those that the client has already.
    pub partial: Cell<u64>,
    pub not_modified: Cell<u64>,
    /// Connections and requests of clients that have had too many.
    pub limited: [Cell<u64>; 2],
    /// Lines of the access log, and those that were left out.
    pub lines: [Cell<u64>; 2],
}

/// How connections end, as [`Ended::name`] has it.
pub const ENDS: [&str; 8] = ["closed", "idle", "refused", "evicted", "slow", "reset", "failed", "stopped"];

fn add(counter: &Cell<u64>, value: u64) {
    counter.set(counter.get() + value);
}

impl Counters {
    pub fn opened(&self) {
        add(&self.connections, 1);
        add(&self.open, 1);
    }

    pub fn closed(&self, ended: Ended) {
        self.open.set(self.open.get() - 1);
        if let Some(at) = ENDS.iter().position(|name| *name == ended.name()) {
            add(&self.ended[at], 1);
        }
    }

    pub fn gave_up(&self) {
        add(&self.handshakes, 1);
    }

    pub fn turned_away(&self) {
        add(&self.limited[0], 1);
    }

    pub fn logged(&self) {
        add(&self.lines[0], 1);
    }

    pub fn unlogged(&self) {
        add(&self.lines[1], 1);
    }

    pub fn answered(&self, status: u16) {
        add(&self.answers[usize::from(status / 100).min(5)], 1);
        match status {
            206 => add(&self.partial, 1),
            304 => add(&self.not_modified, 1),
            429 => add(&self.limited[1], 1),
            _ => {}
        }
    }

    pub fn sent(&self, bytes: u64) {
        add(&self.bytes, bytes);
    }

    pub fn cut(&self) {
        add(&self.cut, 1);
    }

    /// In a line.
    pub fn summary(&self) -> String {
        let answers: u64 = self.answers.iter().map(Cell::get).sum();
        let (bytes, connections) = (self.bytes.get(), self.connections.get());
        format!("{answers} requests on {connections} connections, {bytes} bytes")
    }
}
