//! What a simulated machine has other processors do between two instructions, and what it counts.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use xen_hal::{Access, Pages as _};
use xen_ring::GrantablePage;
use xen_sim::{Domain, SimGrant, Xen, check};

fn page(owner: &Domain, peer: &Domain) -> GrantablePage<SimGrant> {
    let mut page = GrantablePage::new(owner.alloc_page().unwrap());
    page.grant(owner, peer.id(), Access::ReadWrite).unwrap();
    page
}

#[test]
fn a_second_processor_changes_a_word_between_two_loads() {
    check("second", 8, |xen| {
        let (good, bad) = (xen.domain(), xen.domain());
        let shared = page(&good, &bad);
        let own = page(&good, &xen.dom0());
        let seen = Rc::new(RefCell::new(Vec::new()));
        let log = seen.clone();
        let reference = shared.reference().unwrap();
        let granter = good.id();
        bad.second_processor(move |accessed| {
            assert_eq!(accessed.granted, (granter, reference));
            log.borrow_mut().push((accessed.offset, accessed.write));
            accessed.set_word(accessed.word() + 1);
        });
        let task = good.spawn(async move {
            assert_eq!((own.load(8), own.load(8)), (0, 0), "a page that it has no grant for");
            assert_eq!((shared.load(8), shared.load(8)), (0, 1));
            shared.store(12, 7);
            assert_eq!(shared.load(12), 8);
            shared
        });
        let bad = bad.clone();
        xen.run(async move {
            let shared = task.await;
            bad.one_processor();
            assert_eq!(shared.load(8), 2);
        });
        assert_eq!(*seen.borrow(), [(8, false), (8, false), (12, true), (12, false)]);
    });
}

/// Another domain's task runs between two loads, one of the same domain never.
#[test]
fn tasks_of_others_run_between_two_loads() {
    let changed = Cell::new([false; 2]);
    for seed in 0..200 {
        let xen = Xen::new(seed);
        xen.set_interleaving(50);
        let (one, other) = (xen.domain(), xen.domain());
        let shared = Rc::new(page(&one, &other));
        let (by_other, by_own) = (shared.clone(), shared.clone());
        other.spawn(async move { by_other.store(0, 1) }).detach();
        one.spawn(async move { by_own.store(4, 1) }).detach();
        let task = one.spawn(async move { [0, 4].map(|offset| shared.load(offset) != shared.load(offset)) });
        let found = xen.run(task);
        let before = changed.get();
        changed.set([before[0] | found[0], before[1] | found[1]]);
        xen.end();
    }
    assert_eq!(changed.get(), [true, false]);
}

/// Whether a run of this costs too much.
fn is_too_much(test: impl FnOnce(&Xen)) -> bool {
    let xen = Xen::new(0);
    test(&xen);
    let outcome = catch_unwind(AssertUnwindSafe(|| xen.check_budgets()));
    xen.end();
    outcome.is_err()
}

#[test]
fn a_run_that_costs_too_much_fails() {
    assert!(!is_too_much(|_| drop(vec![1_u8; 15 << 20])));
    assert!(is_too_much(|_| drop(vec![1_u8; 17 << 20])));
    let turn = |accesses: u32| {
        move |xen: &Xen| {
            let (one, other) = (xen.domain(), xen.domain());
            let shared = page(&one, &other);
            xen.run(one.spawn(async move { assert!((0..accesses).all(|_| shared.load(0) == 0)) }));
        }
    };
    assert!(!is_too_much(turn(8000)));
    assert!(is_too_much(turn(9000)));
}
