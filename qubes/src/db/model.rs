use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::Change;
use super::copy::matches;
use super::state::{Event, Operation, Replica};
use super::tests::{BOUNDS, events, message};
use super::wire::{Kind, Message};

/// dom0's daemon, as strict as the original.
#[derive(Default)]
struct Daemon {
    entries: BTreeMap<String, Vec<u8>>,
    is_connected: bool,
    sends: VecDeque<Message>,
}

impl Daemon {
    /// A program in dom0 writes or removes.
    fn write(&mut self, path: &str, value: &[u8]) {
        self.entries.insert(path.into(), value.into());
        if self.is_connected {
            self.sends.push_back(message(Kind::Write, path, value));
        }
    }

    fn remove(&mut self, pattern: &str) {
        if self.forget(pattern) && self.is_connected {
            self.sends.push_back(Message::new(Kind::Remove, pattern));
        }
    }

    fn forget(&mut self, pattern: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|path, _| !matches(pattern, path));
        self.entries.len() < before
    }

    fn receive(&mut self, received: Message) {
        match received.kind {
            Kind::MultiRead => {
                assert!(!core::mem::replace(&mut self.is_connected, true), "only one after connection allowed");
                let entries = self.entries.iter().rev();
                self.sends.extend(entries.map(|(path, value)| message(Kind::Entry, path, value)));
                self.sends.push_back(Message::new(Kind::Entry, ""));
            }
            Kind::Write => {
                self.entries.insert(received.path.clone(), received.value);
                self.sends.push_back(Message::new(Kind::Ok, &received.path));
            }
            Kind::Remove => {
                // If dom0 has removed it just before, the original closes the channel.
                let found = self.forget(&received.path);
                self.sends.push_back(Message::new(if found { Kind::Ok } else { Kind::NotFound }, &received.path));
            }
            Kind::Ok => {}
            other => panic!("the original does not accept {other:?}"),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(String, Vec<u8>),
    Remove(String),
    OwnWrite(String, Vec<u8>),
    OwnRemove(String),
    ToDaemon(u8),
    ToReplica(u8),
    Reconnect,
}

fn any_step() -> impl Strategy<Value = Step> {
    let path = || "/[ab](/[ab]){0,2}";
    let pattern = || "/[ab](/[ab]){0,2}/?";
    let value = || prop::collection::vec(1..=255_u8, 0..4);
    prop_oneof![
        (path(), value()).prop_map(|(path, value)| Step::Write(path, value)),
        pattern().prop_map(Step::Remove),
        (path(), value()).prop_map(|(path, value)| Step::OwnWrite(path, value)),
        pattern().prop_map(Step::OwnRemove),
        (1..5_u8).prop_map(Step::ToDaemon),
        (1..5_u8).prop_map(Step::ToReplica),
        Just(Step::Reconnect),
    ]
}

proptest! {
    /// Whatever both ends do, and whenever the channel ends: in the end the copy is dom0's, who follows the changes has it
    /// too, and each request has one outcome.
    #[test]
    fn the_copy_is_dom0s(steps in prop::collection::vec(any_step(), 0..60)) {
        let (mut replica, mut daemon) = (Replica::new(BOUNDS), Daemon::default());
        let (mut followed, mut outcomes, mut requests) = (BTreeMap::new(), Vec::new(), Vec::new());
        replica.connect();
        let steps = steps.into_iter().chain([Step::ToDaemon(u8::MAX), Step::ToReplica(u8::MAX)].into_iter().cycle().take(100));
        for step in steps {
            match step {
                Step::Write(path, value) => daemon.write(&path, &value),
                Step::Remove(pattern) => daemon.remove(&pattern),
                Step::OwnWrite(path, value) => requests.push(replica.request(&path, Operation::Write(value))),
                Step::OwnRemove(pattern) => requests.push(replica.request(&pattern, Operation::Remove)),
                Step::ToDaemon(count) => {
                    for _ in 0..count {
                        replica.next_to_send().into_iter().for_each(|sent| daemon.receive(sent));
                    }
                }
                Step::ToReplica(count) => {
                    for _ in 0..count {
                        let Some(sent) = daemon.sends.pop_front() else { break };
                        replica.receive(sent).unwrap();
                    }
                }
                Step::Reconnect => {
                    daemon.is_connected = false;
                    daemon.sends.clear();
                    replica.connect();
                }
            }
            for event in events(&mut replica) {
                let changes = match event {
                    Event::Changed(change) => vec![change],
                    Event::Copied(changes) => changes,
                    Event::Answered(id, _) => { outcomes.push(id); continue }
                    other => panic!("{other:?}"),
                };
                for change in changes {
                    match change {
                        Change::Written(path) => { followed.insert(path, ()); }
                        Change::Removed(path) => { followed.remove(&path); }
                        Change::Resynced => panic!("that is for watches"),
                    }
                }
            }
            let paths: Vec<String> = replica.copy().matching("").map(|(path, _)| path.to_string()).collect();
            prop_assert_eq!(paths, followed.keys().cloned().collect::<Vec<_>>());
        }
        let copy: Vec<_> = replica.copy().matching("").map(|(path, value)| (path.to_string(), value.to_vec())).collect();
        prop_assert_eq!(copy, daemon.entries.into_iter().collect::<Vec<_>>());
        outcomes.sort();
        prop_assert_eq!(outcomes, requests);
    }
}
