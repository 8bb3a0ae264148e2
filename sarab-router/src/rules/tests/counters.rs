//! Counts outlive a text.

use super::super::{Count, Counters, RuleId, Rules};
use super::parsed;

fn rules(text: &str) -> Rules {
    parsed(text).rules
}

#[test]
fn what_is_counted() {
    let mut counters = Counters::default();
    counters.reload(&rules("drop tcp\ndrop udp"));
    counters.add_flow(RuleId(1), 60);
    counters.add_bytes(RuleId(1), 2, 3000);
    counters.add_flow(RuleId(7), 60);
    assert_eq!(counters.get(RuleId(0)), Count::default());
    assert_eq!(counters.get(RuleId(1)), Count { flows: 1, packets: 3, bytes: 3060 });
    assert_eq!(counters.get(RuleId(7)), Count::default());
    counters.add_bytes(RuleId(1), u64::MAX, u64::MAX);
    assert_eq!(counters.get(RuleId(1)), Count { flows: 1, packets: u64::MAX, bytes: u64::MAX });
}

#[test]
fn a_rule_with_the_same_text_keeps_its_count() {
    let mut counters = Counters::default();
    let old = "drop tcp to any port 80\naccept udp\naccept udp\nclient domain 7 {\naccept udp\n}";
    counters.reload(&rules(old));
    // The block's rule is the first.
    for (id, flows) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
        (0..flows).for_each(|_| counters.add_flow(RuleId(id), 1));
    }
    // Elsewhere, written otherwise, and one of the two alone.
    counters
        .reload(&rules("accept icmp\naccept   udp # a comment\ndrop tcp port 80\nclient domain 8 {\naccept udp\n}"));
    let flows = [0, 1, 2, 3].map(|id| counters.get(RuleId(id)).flows);
    assert_eq!(flows, [0, 0, 3, 2], "domain 8's, icmp, udp, tcp");
    // What was left out is forgotten.
    counters.reload(&rules(old));
    let flows = [0, 1, 2, 3].map(|id| counters.get(RuleId(id)).flows);
    assert_eq!(flows, [0, 2, 3, 0]);
}
