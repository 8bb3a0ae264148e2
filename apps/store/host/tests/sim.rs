//! What the program does with the store, on this machine, against a simulated one.

use xen_sim::{Faults, check};

#[test]
fn a_counter_is_counted_by_transactions() {
    check("counter", 20, |xen| {
        // Other transactions get in between now and then.
        xen.set_faults(Faults { eagain: 30, ..Faults::default() });
        let domain = xen.domain();
        xen.run(async move {
            let store = domain.store();
            store.set("data/count", &0_u32).await.unwrap();
            for _ in 0..10 {
                let counted = store
                    .transaction(async |t| -> Result<(), xenstore_client::Error> {
                        let count: u32 = t.read_as("data/count").await?;
                        t.set("data/count", &(count + 1)).await
                    })
                    .await;
                counted.unwrap();
            }
            assert_eq!(store.read_as::<u32>("data/count").await.unwrap(), 10);
        });
    });
}
