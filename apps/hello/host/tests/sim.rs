//! The program's own logic on this machine, in a simulated Xen: domains, a store and a clock, and faults where they are
//! asked for. Each run has a seed; where one fails, its seed is printed.

use std::time::Duration;

use xen_hal::Clock;
use xen_sim::check;

#[test]
fn a_task_wakes_when_it_should() {
    check("timers", 20, |xen| {
        let domain = xen.domain();
        xen.run(async move {
            let start = domain.now();
            domain.sleep(Duration::from_secs(60)).await;
            // Simulated: a minute takes no time.
            assert!(domain.now() - start >= Duration::from_secs(60));
        });
    });
}

#[test]
fn what_one_domain_writes_another_may_not_read() {
    check("permissions", 20, |xen| {
        let (one, other) = (xen.domain(), xen.domain());
        xen.run(async move {
            let path = format!("/local/domain/{}/data/greeting", one.id().0);
            let store = one.store();
            store.set(&path, "hello").await.unwrap();
            assert_eq!(store.get::<String>(&path).await.unwrap().as_deref(), Some("hello"));
            // Its permissions say that only the owner may.
            assert!(other.store().read(&path).await.is_err());
        });
    });
}
