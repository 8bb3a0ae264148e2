//! What the server counts.

use alloc::format;
use alloc::string::String;
use core::cell::Cell;

/// Counters of the server's own.
#[derive(Default)]
pub struct Counters {
    /// By the first digit of their status.
    pub answers: [Cell<u64>; 6],
    pub bytes: Cell<u64>,
    pub connections: Cell<u64>,
    pub open: Cell<u64>,
    pub cut: Cell<u64>,
}

fn add(counter: &Cell<u64>, value: u64) {
    counter.set(counter.get() + value);
}

impl Counters {
    pub fn opened(&self) {
        add(&self.connections, 1);
        add(&self.open, 1);
    }

    pub fn closed(&self) {
        self.open.set(self.open.get() - 1);
    }

    pub fn answered(&self, status: u16) {
        add(&self.answers[usize::from(status / 100).min(5)], 1);
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
