//! How much each rule has matched.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::set::{RuleId, Rules};

/// What a rule has matched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Flows, by their first packets.
    pub flows: u64,
    /// Packets of these flows, the first ones included.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The counts of all rules of a text. They outlive the text: a rule that a new text has too keeps its count.
///
/// Numbers of rules are those of the text that was loaded last; others are not counted.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    counts: Vec<Count>,
    /// As many.
    keys: Vec<String>,
}

impl Counters {
    /// Takes over the rules of a text. Those that have the same canonical text as one before, in the block of the same client,
    /// keep their counts; of several that are the same, the first one keeps that of the first, and so on.
    pub fn reload(&mut self, rules: &Rules) {
        let mut seen = BTreeMap::<String, usize>::new();
        let keys: Vec<String> = rules
            .iter()
            .map(|(id, rule)| {
                let key = match rules.client_of(id) {
                    Some(client) => format!("client {client}: {rule}"),
                    None => rule.to_string(),
                };
                let times = seen.entry(key.clone()).or_default();
                *times += 1;
                // A rule's text has no such sign.
                format!("{key} #{times}")
            })
            .collect();
        let old: BTreeMap<&str, Count> =
            self.keys.iter().map(String::as_str).zip(self.counts.iter().copied()).collect();
        self.counts = keys.iter().map(|key| old.get(key.as_str()).copied().unwrap_or_default()).collect();
        self.keys = keys;
    }

    /// Counts a flow by its first packet, of so many bytes.
    pub fn add_flow(&mut self, rule: RuleId, bytes: usize) {
        if let Some(count) = self.counts.get_mut(rule.0 as usize) {
            count.flows = count.flows.saturating_add(1);
        }
        self.add_bytes(rule, 1, bytes as u64);
    }

    /// Counts further packets of a flow, and their bytes.
    pub fn add_bytes(&mut self, rule: RuleId, packets: u64, bytes: u64) {
        if let Some(count) = self.counts.get_mut(rule.0 as usize) {
            count.packets = count.packets.saturating_add(packets);
            count.bytes = count.bytes.saturating_add(bytes);
        }
    }

    /// What a rule has matched.
    pub fn get(&self, rule: RuleId) -> Count {
        self.counts.get(rule.0 as usize).copied().unwrap_or_default()
    }
}
