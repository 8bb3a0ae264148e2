//! What names stand for, over time.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use super::super::{Family, NameId, NameTable, Names, Question};
use super::ip;
use Family::{V4, V6};

const MINUTE: Duration = Duration::from_secs(60);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn table(names: &[&str]) -> NameTable {
    let mut table = NameTable::default();
    table.reload(&boxed(names), Duration::ZERO);
    table
}

fn boxed(names: &[&str]) -> Vec<Box<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

/// All that is due.
fn due(table: &mut NameTable, now: Duration) -> Vec<(String, Family)> {
    core::iter::from_fn(|| table.due(now).map(|Question { name, family }| (name.to_string(), family))).collect()
}

fn known(table: &NameTable, id: u32) -> Vec<IpAddr> {
    let mut addresses = table.lookup(NameId(id)).to_vec();
    addresses.sort();
    addresses
}

#[test]
fn each_name_is_asked_for_in_both_families() {
    let mut table = table(&["a.b", "c.d"]);
    assert_eq!(table.next(), Some(Duration::ZERO));
    let both = [("a.b", V4), ("a.b", V6), ("c.d", V4), ("c.d", V6)].map(|(name, family)| (name.to_string(), family));
    assert_eq!(due(&mut table, Duration::ZERO), both);
    // Nothing is reported: the questions come again, not before half a minute is over.
    assert_eq!((table.next(), table.due(secs(29))), (Some(secs(30)), None));
    assert_eq!(due(&mut table, secs(30)), both);
    assert_eq!(NameTable::default().next(), None);
}

#[test]
fn addresses_hold_for_their_ttl_and_are_asked_for_again() {
    let mut table = table(&["a.b"]);
    due(&mut table, Duration::ZERO);
    assert!(table.resolved("a.b", V4, &[ip("192.0.2.1")], MINUTE, Duration::ZERO));
    assert!(table.resolved("a.b", V6, &[ip("2001:db8::1")], MINUTE * 2, Duration::ZERO));
    assert_eq!(known(&table, 0), [ip("192.0.2.1"), ip("2001:db8::1")]);
    assert_eq!((table.next(), table.due(secs(59))), (Some(MINUTE), None));
    assert_eq!(due(&mut table, MINUTE), [("a.b".to_string(), V4)]);
    // The same address is no change, another one is, and the one before still counts for a while.
    assert!(!table.resolved("a.b", V4, &[ip("192.0.2.1")], MINUTE, MINUTE));
    assert!(table.resolved("a.b", V4, &[ip("192.0.2.2")], MINUTE, MINUTE * 2));
    assert_eq!(known(&table, 0), [ip("192.0.2.1"), ip("192.0.2.2"), ip("2001:db8::1")]);
    // Until TTL and five minutes are over.
    assert!(!table.expire(secs(419)));
    assert!(table.expire(secs(420)), "both that were seen last at two minutes or before");
    assert_eq!(known(&table, 0), [ip("192.0.2.2")]);
    assert!(table.expire(MINUTE * 8));
    assert!(known(&table, 0).is_empty());
    assert!(!table.expire(MINUTE * 9));
}

#[test]
fn an_answer_without_addresses_is_one_too() {
    let mut table = table(&["a.b"]);
    table.failed("a.b", V6, Duration::ZERO);
    table.resolved("a.b", V4, &[], MINUTE, Duration::ZERO);
    assert_eq!([table.is_known("a.b", V4), table.is_known("a.b", V6), table.is_known("x.y", V4)], [true, false, false]);
    // As long as addresses would count, and failures do not change that.
    table.failed("a.b", V4, MINUTE);
    assert!(!table.expire(secs(359)) && table.is_known("a.b", V4));
    assert!(table.expire(secs(360)) && !table.is_known("a.b", V4));
    assert!(!table.expire(secs(361)));
}

#[test]
fn what_has_failed_is_asked_for_at_once_of_others() {
    let mut table = table(&["a.b"]);
    due(&mut table, Duration::ZERO);
    table.resolved("a.b", V4, &[], MINUTE, Duration::ZERO);
    for _ in 0..9 {
        table.failed("a.b", V6, Duration::ZERO);
    }
    assert!(due(&mut table, secs(9)).is_empty());
    table.retry(secs(9));
    assert_eq!(due(&mut table, secs(9)), [("a.b".to_string(), V6)]);
}

#[test]
fn ttls_are_bounded() {
    let mut table = table(&["a.b"]);
    due(&mut table, Duration::ZERO);
    table.resolved("a.b", V4, &[], Duration::ZERO, Duration::ZERO);
    table.resolved("a.b", V6, &[], Duration::MAX, Duration::ZERO);
    assert_eq!(table.next(), Some(secs(10)));
    assert_eq!(due(&mut table, secs(10)), [("a.b".to_string(), V4)]);
    assert_eq!(due(&mut table, secs(3600)).len(), 2);
    // A time that is almost over is no reason to panic.
    table.resolved("a.b", V4, &[ip("192.0.2.1")], MINUTE, Duration::MAX);
    table.failed("a.b", V6, Duration::MAX);
    assert_eq!(due(&mut table, Duration::MAX - secs(1)), []);
}

#[test]
fn failures_are_repeated_less_and_less_often() {
    let mut table = table(&["a.b"]);
    due(&mut table, Duration::ZERO);
    table.resolved("a.b", V6, &[], secs(3600), Duration::ZERO);
    let mut now = Duration::ZERO;
    for wait in [5, 10, 20, 40, 80, 160, 300, 300] {
        table.failed("a.b", V4, now);
        assert_eq!(table.next(), Some(now + secs(wait)));
        now += secs(wait);
        assert_eq!(due(&mut table, now).len(), 1);
    }
    // An answer begins anew.
    table.resolved("a.b", V4, &[], secs(10), now);
    table.failed("a.b", V4, now + secs(10));
    assert_eq!(table.next(), Some(now + secs(15)));
    // Failures leave what is known.
    table.resolved("a.b", V4, &[ip("192.0.2.1")], MINUTE, now);
    table.failed("a.b", V4, now + MINUTE);
    assert_eq!(known(&table, 0), [ip("192.0.2.1")]);
}

#[test]
fn what_cannot_be_is_left_out() {
    let mut table = table(&["a.b"]);
    let addresses = ["2001:db8::1", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"].map(ip);
    assert!(!table.resolved("a.b", V4, &addresses, MINUTE, Duration::ZERO));
    assert!(!table.resolved("a.b", V6, &["::", "::1", "ff02::1", "fe80::1"].map(ip), MINUTE, Duration::ZERO));
    assert!(!table.resolved("x.y", V4, &[ip("192.0.2.1")], MINUTE, Duration::ZERO));
    assert!(known(&table, 0).is_empty());
    assert!(table.lookup(NameId(1)).is_empty());
}

#[test]
fn addresses_are_bounded_in_each_family() {
    let mut table = table(&["a.b"]);
    table.resolved("a.b", V6, &[ip("2001:db8::1")], MINUTE, Duration::ZERO);
    let numbered = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(0xc000_0200 + number));
    let many: Vec<IpAddr> = (0..1000).map(numbered).collect();
    table.resolved("a.b", V4, &many, MINUTE, Duration::ZERO);
    assert_eq!(known(&table, 0).len(), 65);
    // Those seen last remain.
    assert!(table.resolved("a.b", V4, &[numbered(2000)], MINUTE, secs(1)));
    assert!(known(&table, 0).contains(&numbered(2000)));
    assert!(known(&table, 0).contains(&ip("2001:db8::1")));
    assert_eq!(known(&table, 0).len(), 65);
}

#[test]
fn another_text_keeps_what_is_known() {
    let mut table = table(&["a.b", "c.d", "e.f"]);
    due(&mut table, Duration::ZERO);
    table.resolved("c.d", V4, &[ip("192.0.2.1")], MINUTE, Duration::ZERO);
    table.resolved("e.f", V4, &[ip("192.0.2.2")], MINUTE, Duration::ZERO);
    table.reload(&boxed(&["b.c", "c.d", "x.y"]), secs(1));
    assert_eq!(
        (known(&table, 0), known(&table, 1), known(&table, 2)),
        (Vec::new(), [ip("192.0.2.1")].to_vec(), Vec::new())
    );
    let fresh = [("b.c", V4), ("b.c", V6), ("x.y", V4), ("x.y", V6)].map(|(name, family)| (name.to_string(), family));
    assert_eq!(due(&mut table, secs(1)), fresh, "what was asked for before is not asked for again");
    // An answer for a name that has gone meanwhile is nobody's.
    assert!(!table.resolved("a.b", V4, &[ip("192.0.2.3")], MINUTE, secs(1)));
}
