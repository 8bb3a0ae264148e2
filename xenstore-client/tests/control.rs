//! Requests of the toolstack to a domain.

use std::time::Duration;

use xen_hal::Clock;
use xen_sim::{Faults, check};
use xenstore_client::Restart;
use xenstore_client::control::{Control, Request, Shutdown};

#[test]
fn requests_are_taken_and_acknowledged() {
    check("control", 100, |xen| {
        xen.set_faults(Faults { eagain: 30, spurious_events: 5, reorder: 20, ..Faults::default() });
        let domain = xen.domain();
        let store = domain.store();
        let toolstack = xen.toolstack();
        let dom0 = xen.dom0();
        let home = format!("/local/domain/{}/control", domain.id().0);
        xen.run(async move {
            let toolstack = toolstack.store();
            let mut control = Control::new(&store).await.unwrap();
            for feature in ["poweroff", "reboot", "suspend", "sysrq"] {
                assert_eq!(toolstack.read(&format!("{home}/feature-{feature}")).await.unwrap(), b"1");
            }
            for request in Shutdown::ALL {
                let node = format!("{home}/shutdown");
                toolstack.set(&node, request.name()).await.unwrap();
                assert_eq!(control.next().await, Ok(Request::Shutdown(request)));
                assert_eq!(toolstack.read(&node).await.unwrap(), b"");
            }
            let node = format!("{home}/sysrq");
            toolstack.set(&node, "h").await.unwrap();
            assert_eq!(control.next().await, Ok(Request::Sysrq('h')));
            assert_eq!(toolstack.read(&node).await.unwrap(), b"");

            // What is not understood stays, and what comes after it is heard.
            let node = format!("{home}/shutdown");
            toolstack.set(&node, "dance").await.unwrap();
            dom0.sleep(Duration::from_millis(5)).await;
            let writer = toolstack.clone();
            let path = node.clone();
            let later = dom0.spawn(async move {
                for value in [&b"poweroff\0"[..], b"\xff\xfe", b"", b"reboot"] {
                    writer.write(&path, value).await.unwrap();
                }
            });
            assert_eq!(control.next().await, Ok(Request::Shutdown(Shutdown::Reboot)));
            later.await;
        });
    });
}

#[test]
fn a_restored_domain_says_again_what_it_understands() {
    check("control after a restore", 100, |xen| {
        let domain = xen.domain();
        let store = domain.store();
        let toolstack = xen.toolstack();
        let home = format!("/local/domain/{}/control", domain.id().0);
        xen.run(async move {
            let mut control = Control::new(&store).await.unwrap();
            let feature = format!("{home}/feature-suspend");
            let quiesced = store.quiesce().await.unwrap();
            toolstack.store().write(&feature, b"").await.unwrap();
            domain.suspend_and_restore();
            quiesced.resume(Restart::New);
            let waiting = domain.spawn(async move { control.next().await });
            let said = toolstack.store().wait_for(&feature, |value| (value == Some(b"1")).then_some(())).await;
            assert_eq!(said, Ok(()));
            toolstack.store().set(&format!("{home}/shutdown"), "halt").await.unwrap();
            assert_eq!(waiting.await, Ok(Request::Shutdown(Shutdown::Halt)));
        });
    });
}
