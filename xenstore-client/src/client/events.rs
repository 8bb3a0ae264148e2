//! What a watch's events are until they are read.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use core::task::Waker;

/// Different paths that are kept for a reader that is slow, and their bytes; when more change, it is told that anything
/// may have.
const MAX_EVENTS: usize = 64;
const MAX_BYTES: usize = 8 * 1024;

/// Something at or below a watched path may have changed.
///
/// Events do not count and may come without a change; the first one comes at once. What is new is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The node that changed, absolute or relative as the watched path was given.
    pub path: Box<str>,
    /// Whether other nodes below the watched path may have changed too: there were more events than are kept, or the
    /// connection was made anew.
    pub all: bool,
}

/// What of the events is kept until they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// What they are about.
    Paths,
    /// That there were any.
    Nothing,
}

pub(super) struct WatchState {
    pub(super) path: Box<str>,
    pub(super) depth: Option<u32>,
    /// The server has it.
    pub(super) registered: bool,
    /// Nobody reads it, but the server's answer to its registration is still to come.
    pub(super) dropped: bool,
    /// It could not be made again on a new connection.
    pub(super) ended: bool,
    keep: Keep,
    events: VecDeque<Box<str>>,
    /// Of all their paths.
    bytes: usize,
    all: bool,
    pub(super) waker: Option<Waker>,
}

impl WatchState {
    pub(super) fn new(path: Box<str>, depth: Option<u32>, keep: Keep) -> WatchState {
        WatchState {
            path,
            depth,
            registered: false,
            dropped: false,
            ended: false,
            keep,
            events: VecDeque::new(),
            bytes: 0,
            all: false,
            waker: None,
        }
    }

    /// Takes an event; returns who is to be woken.
    pub(super) fn push(&mut self, path: &str) -> Option<Waker> {
        if self.dropped {
            return None;
        }
        if !self.all && !self.events.iter().any(|known| **known == *path) {
            self.bytes += path.len();
            if self.keep == Keep::Nothing || self.events.len() == MAX_EVENTS || self.bytes > MAX_BYTES {
                self.events = VecDeque::new();
                self.bytes = 0;
                self.all = true;
            } else {
                self.events.push_back(path.into());
            }
        }
        self.waker.take()
    }

    pub(super) fn pop(&mut self) -> Option<WatchEvent> {
        if core::mem::take(&mut self.all) {
            return Some(WatchEvent { path: self.path.clone(), all: true });
        }
        let path = self.events.pop_front()?;
        self.bytes -= path.len();
        Some(WatchEvent { path, all: false })
    }
}

/// Tokens are the watch's number: short, so that events for long paths still fit.
pub(super) fn token(id: u32) -> String {
    alloc::format!("{id:x}")
}

pub(super) fn id_of_token(token: &str) -> Option<u32> {
    u32::from_str_radix(token, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(watch: &mut WatchState) -> usize {
        core::iter::from_fn(|| watch.pop()).count()
    }

    /// A peer may write its nodes as fast as it can, under names of 2 KiB.
    #[test]
    fn events_that_nobody_reads_are_bounded() {
        let mut watch = WatchState::new("a".into(), None, Keep::Paths);
        for len in [1, 100, 3000] {
            for number in 0..10_000 {
                watch.push(&alloc::format!("{number:0len$}"));
                assert!(watch.events.len() <= MAX_EVENTS);
                assert!(watch.events.iter().map(|path| path.len()).sum::<usize>() <= MAX_BYTES);
            }
            assert_eq!(watch.pop(), Some(WatchEvent { path: "a".into(), all: true }));
            assert_eq!((watch.pop(), watch.bytes), (None, 0));
        }
        // Those that are read in time, and those that are about the same, are kept apart.
        for number in 0..1000 {
            watch.push(&alloc::format!("{number:0100}"));
            watch.push(&alloc::format!("{number:0100}"));
            assert_eq!(drain(&mut watch), 1);
        }
        assert_eq!(watch.bytes, 0);
    }

    #[test]
    fn who_wants_no_paths_gets_none() {
        let mut watch = WatchState::new("a".into(), None, Keep::Nothing);
        for number in 0..1000 {
            watch.push(&alloc::format!("{number}"));
            assert!(watch.events.is_empty());
        }
        assert_eq!(watch.pop(), Some(WatchEvent { path: "a".into(), all: true }));
        assert_eq!(watch.pop(), None);
    }
}
