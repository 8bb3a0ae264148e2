//! Devices that cannot be used: they are tried again, ever less often, and keep no other device waiting.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use xen_hal::{Clock, Errno};
use xen_sim::{Faults, Toolstack, check, keep_log, take_log};
use xenbus::{Backend, Device, End, EndReason, Failure, Keys, Signals, backend, serve};
use xenstore_client::Error;

/// A device that cannot be made ready, such as a disk whose file is missing, and a frontend that waits for it.
#[test]
fn a_device_that_is_never_ready_is_tried_ever_less_often() {
    struct Unready(Rc<Cell<u32>>);
    impl Backend for Unready {
        type Link = ();

        async fn prepare(&mut self, _: &Device) -> Result<(), Failure> {
            self.0.set(self.0.get() + 1);
            Err(Failure::new(Errno::ENOENT, "no such disk"))
        }

        async fn advertise(&mut self, _: &Keys<'_>) -> Result<(), Error> {
            unreachable!()
        }

        async fn connect(&mut self, _: &Device) -> Result<(), Failure> {
            unreachable!()
        }

        async fn publish(&mut self, _: &Keys<'_>, _: &()) -> Result<(), Error> {
            unreachable!()
        }

        async fn run(&mut self, _: &Device, _: (), _: &Signals) -> Result<(), Failure> {
            unreachable!()
        }
    }
    check("unready", 5, |xen| {
        keep_log();
        let machine = xen.clone();
        xen.run(async move {
            let (guest, back) = (machine.domain(), machine.domain());
            let toolstack = machine.toolstack();
            toolstack.attach("vbd", guest.id(), back.id(), 0).await.unwrap();
            let (_, path) = Toolstack::paths("vbd", guest.id(), back.id(), 0);
            let tries = Rc::<Cell<u32>>::default();
            let mut driver = Unready(tries.clone());
            let (store, clock) = (back.store(), back.clone());
            let running = back.spawn(async move { backend(&store, clock, &path, &mut driver).await });
            back.sleep(Duration::from_secs(60)).await;
            // At once, and after 1, 2, 4, 8, 16 seconds.
            assert_eq!(tries.get(), 6);
            let told = take_log().iter().filter(|line| line.contains("no such disk")).count();
            assert!(told <= 6, "{told} lines");
            let before = back.now();
            assert!(toolstack.detach("vbd", guest.id(), back.id(), 0).await.unwrap());
            assert!(back.now() - before < Duration::from_secs(1));
            assert_eq!(running.await, Ok(EndReason::Removed));
        });
    });
}

/// While new devices are looked for, which takes many answers of the store, those that are in use go on.
#[test]
fn looking_for_devices_keeps_no_device_waiting() {
    check("discovery", 5, |xen| {
        xen.set_faults(Faults { store_delay: Duration::from_millis(4), ..Faults::default() });
        let machine = xen.clone();
        xen.run(async move {
            let back = machine.domain();
            let toolstack = machine.toolstack();
            let (longest, begun) = (Rc::<Cell<Duration>>::default(), Rc::<Cell<u32>>::default());
            let (store, domain) = (back.store(), back.clone());
            let (gap, count) = (longest.clone(), begun.clone());
            let serving = back.spawn(async move {
                let outcome = serve(&store, domain.clone(), End::Backend, "bell", |_| {
                    let (domain, gap) = (domain.clone(), gap.clone());
                    count.set(count.get() + 1);
                    async move {
                        // A device in use: it has something to do every millisecond.
                        loop {
                            let before = domain.now();
                            domain.sleep(Duration::from_millis(1)).await;
                            gap.set(gap.get().max(domain.now() - before));
                        }
                    }
                });
                drop(outcome.await);
            });
            for device in 0..40 {
                let guest = machine.domain().id();
                toolstack.attach("bell", guest, back.id(), device).await.unwrap();
            }
            back.sleep(Duration::from_secs(2)).await;
            assert_eq!(begun.get(), 40);
            assert!(longest.get() < Duration::from_millis(2), "a device had to wait for {:?}", longest.get());
            drop(serving);
        });
    });
}

/// A driver that ends at once, though the device is there to be used: a quota of the store's may be spent.
#[test]
fn a_driver_that_ends_at_once_is_begun_ever_less_often() {
    check("short lives", 5, |xen| {
        let machine = xen.clone();
        xen.run(async move {
            let (guest, back) = (machine.domain(), machine.domain());
            let toolstack = machine.toolstack();
            let begun = Rc::<Cell<u32>>::default();
            let (store, clock, count) = (back.store(), back.clone(), begun.clone());
            let serving = back.spawn(async move {
                let outcome = serve(&store, clock, End::Backend, "bell", |_| {
                    count.set(count.get() + 1);
                    async {}
                });
                drop(outcome.await);
            });
            toolstack.attach("bell", guest.id(), back.id(), 0).await.unwrap();
            back.sleep(Duration::from_secs(60)).await;
            assert!((8..=14).contains(&begun.get()), "begun {} times", begun.get());
            // One that the toolstack makes anew begins at once.
            toolstack.detach("bell", guest.id(), back.id(), 0).await.unwrap();
            back.sleep(Duration::from_millis(50)).await;
            let before = begun.get();
            toolstack.attach("bell", guest.id(), back.id(), 0).await.unwrap();
            back.sleep(Duration::from_millis(50)).await;
            assert!(begun.get() > before);
            drop(serving);
        });
    });
}
