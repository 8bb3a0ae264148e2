//! dom0's QubesDB daemon, as strict as the original: what that takes for fatal is a panic here. It reads and writes bytes by
//! itself, so that a mistake of the crate's messages is no agreement between both ends.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;

use futures_util::future::{Either, select};
use xen_sim::Domain;
use xen_vchan::{Channel, Server};
use xenbus::Notify;

use super::{Bench, write_all};

pub const PORT: u32 = 111;

#[derive(Default)]
pub struct Daemon {
    pub entries: RefCell<BTreeMap<String, Vec<u8>>>,
    /// What a program in dom0 has changed, as messages.
    pushes: RefCell<VecDeque<Vec<u8>>>,
    is_copied: Cell<bool>,
    /// Pushes that were not answered yet, by path.
    unanswered: RefCell<VecDeque<String>>,
    /// Messages that it refuses, and how often it takes a message and closes the channel instead of an answer.
    pub refuses: RefCell<Vec<String>>,
    pub closes: Cell<u32>,
    work: Notify,
    pub connections: Cell<u32>,
}

/// `struct qdb_hdr` and data.
pub fn raw(kind: u8, path: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 72];
    bytes[0] = kind;
    bytes[1..1 + path.len()].copy_from_slice(path.as_bytes());
    bytes[68..].copy_from_slice(&(value.len() as u32).to_le_bytes());
    bytes.extend_from_slice(value);
    bytes
}

pub fn server(bench: &Bench) -> Server<Domain> {
    let server = Server::new(bench.dom0.clone(), &bench.dom0_store, bench.qube.id(), PORT);
    server.with_sizes(4096, 4096).unwrap()
}

fn covers(pattern: &str, path: &str) -> bool {
    if pattern.ends_with('/') { path.starts_with(pattern) } else { path == pattern }
}

impl Daemon {
    pub fn write(&self, path: &str, value: &[u8]) {
        self.entries.borrow_mut().insert(path.into(), value.into());
        self.push(1, path, value);
    }

    pub fn remove(&self, pattern: &str) {
        if self.forget(pattern) {
            self.push(4, pattern, b"");
        }
    }

    fn push(&self, kind: u8, path: &str, value: &[u8]) {
        if self.is_copied.get() {
            self.pushes.borrow_mut().push_back(raw(kind, path, value));
            self.unanswered.borrow_mut().push_back(path.into());
            self.work.notify();
        }
    }

    fn forget(&self, pattern: &str) -> bool {
        let mut entries = self.entries.borrow_mut();
        let before = entries.len();
        entries.retain(|path, _| !covers(pattern, path));
        entries.len() < before
    }

    pub fn copy(&self) -> Vec<(String, Vec<u8>)> {
        self.entries.borrow().iter().map(|(path, value)| (path.clone(), value.clone())).collect()
    }

    /// Whether all that was pushed is answered.
    pub fn is_idle(&self) -> bool {
        self.is_copied.get() && self.unanswered.borrow().is_empty()
    }

    /// Serves one connection to its end.
    pub async fn serve(self: &Rc<Daemon>, mut channel: Channel<Domain>) {
        self.connections.set(self.connections.get() + 1);
        self.is_copied.set(false);
        self.pushes.borrow_mut().clear();
        self.unanswered.borrow_mut().clear();
        let (mut received, mut bytes) = (Vec::new(), [0; 700]);
        loop {
            if !self.send_pushes(&mut channel).await {
                return self.is_copied.set(false);
            }
            let len = {
                let working = pin!(poll_fn(|cx| self.work.poll_notified(cx)));
                match select(pin!(channel.read(&mut bytes)), working).await {
                    Either::Left((Ok(0) | Err(_), _)) => return self.is_copied.set(false),
                    Either::Left((Ok(len), _)) => len,
                    Either::Right(_) => continue,
                }
            };
            received.extend_from_slice(&bytes[..len]);
            while received.len() >= 72 {
                let len = u32::from_le_bytes(received[68..72].try_into().unwrap()) as usize;
                assert!(len < 3072, "invalid message received from peer");
                if received.len() < 72 + len {
                    break;
                }
                let message: Vec<u8> = received.drain(..72 + len).collect();
                // What was changed before it is sent before its answer.
                if !self.send_pushes(&mut channel).await || !self.message(&mut channel, &message).await {
                    return self.is_copied.set(false);
                }
            }
        }
    }

    async fn send_pushes(&self, channel: &mut Channel<Domain>) -> bool {
        loop {
            let push = self.pushes.borrow_mut().pop_front();
            match push {
                Some(push) if write_all(channel, &push).await => {}
                Some(_) => return false,
                None => return true,
            }
        }
    }

    async fn message(&self, channel: &mut Channel<Domain>, message: &[u8]) -> bool {
        let field = &message[1..65];
        let path = &field[..field.iter().position(|byte| *byte == 0).expect("the path ends")];
        let path = std::str::from_utf8(path).expect("a path");
        let value = &message[72..];
        assert!(!value.contains(&0), "invalid data received from peer");
        let answer = match message[0] {
            1 => {
                assert!(path.starts_with('/') && !path.ends_with('/'), "failed to write path {path}");
                if self.closes.get() > 0 {
                    self.closes.set(self.closes.get() - 1);
                    return false;
                }
                if self.refuses.borrow().iter().any(|refused| refused == path) {
                    raw(9, path, b"")
                } else {
                    self.entries.borrow_mut().insert(path.into(), value.into());
                    raw(7, path, b"")
                }
            }
            2 => {
                assert!(path.is_empty() && value.is_empty(), "that is not all");
                assert!(!self.is_copied.replace(true), "only one after connection allowed");
                let mut answer: Vec<u8> =
                    self.copy().iter().rev().flat_map(|(path, value)| raw(11, path, value)).collect();
                answer.extend(raw(11, "", b""));
                answer
            }
            4 => {
                assert!(value.is_empty(), "CMD_RM shouldn't have data field");
                let kind = if self.forget(path) { 7 } else { 8 };
                let written = write_all(channel, &raw(kind, path, b"")).await;
                // "failed rm received from vchan is fatal"
                return written && kind == 7;
            }
            7 => {
                assert!(value.is_empty());
                let expected = self.unanswered.borrow_mut().pop_front();
                assert_eq!(expected.as_deref(), Some(path), "an answer to something else");
                return true;
            }
            other => panic!("unexpected command from peer: {other}"),
        };
        write_all(channel, &answer).await
    }
}
