//! Names in rules, and whom they are asked of.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use sarab::testing::{Guest, check};

use crate::hosts::{answer_names, asks, firewall, firewall_and_outside, qube};

#[test]
fn rules_are_about_the_name_server_that_was_asked() {
    check("redirected questions", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            // The netvm is no qube that translates: both servers that qubes know stand for one of its network.
            dom0.write("/qubes-primary-dns", "10.137.0.1");
            dom0.remove("/qubes-secondary-dns");
            dom0.rules("10.137.0.20", "drop", &[(0, "action=accept dst4=10.139.1.2/32 dstports=53-53")]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "1").await;
            let a = qube(&xen, &gate, "10.137.0.20").await;
            asks(&a, "10.139.1.2 53", "53 sees 10.137.0.10").await;
            asks(&a, "10.139.1.1 53", "ConnectionReset").await;
            asks(&a, "10.137.0.1 53", "ConnectionReset").await;
            dom0.rules("10.137.0.20", "drop", &[(0, "action=accept specialtarget=dns")]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "2").await;
            asks(&a, "10.139.1.1 53", "53 sees 10.137.0.10").await;
            asks(&a, "10.139.1.1 7", "ConnectionReset").await;
            gate.destroy();
        });
    });
}

#[test]
fn a_name_that_is_not_known_yet_may_be_what_a_rule_forbids() {
    check("a forbidden name", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0, stack) = firewall_and_outside(&xen, guest).await;
            let address = Rc::new(Cell::new(None));
            gate.domain().spawn(answer_names(stack, address.clone())).detach();
            dom0.write("/qubes-primary-dns", "10.137.0.1");
            let rules = [(0, "action=drop dsthost=bad.example"), (1, "action=accept dsthost=good.example")];
            dom0.rules("10.137.0.20", "accept", &rules);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "1").await;
            let a = qube(&xen, &gate, "10.137.0.20").await;
            asks(&a, "10.137.0.1 7", "ConnectionReset").await;
            // It is somebody else.
            address.set(Some([203, 0, 113, 9]));
            dom0.until("/dns/10.137.0.20/bad.example", "{'203.0.113.9/32'}").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            // It is the same from now on.
            address.set(Some([10, 137, 0, 1]));
            while !dom0.get("/dns/10.137.0.20/bad.example").expect("it is there").contains("10.137.0.1/32") {
                gate.sleep(Duration::from_secs(1)).await;
            }
            asks(&a, "10.137.0.1 8", "ConnectionReset").await;
            // Nobody says any more that it was ever another.
            address.set(None);
            gate.sleep(Duration::from_secs(1000)).await;
            assert_eq!(dom0.get("/dns/10.137.0.20/bad.example"), None);
            asks(&a, "10.137.0.1 8", "ConnectionReset").await;
            gate.destroy();
        });
    });
}

#[test]
fn a_name_may_be_too_long_for_a_path() {
    check("a long name", 2, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0, stack) = firewall_and_outside(&xen, guest).await;
            let address = Rc::new(Cell::new(Some([10, 137, 0, 1])));
            gate.domain().spawn(answer_names(stack, address.clone())).detach();
            dom0.write("/qubes-primary-dns", "10.137.0.1");
            let name = format!("{}.example", "long".repeat(15));
            let (long, short) = (format!("action=accept dsthost={name}"), "action=accept dsthost=short.example");
            dom0.rules("10.137.0.20", "drop", &[(0, &long), (1, short)]);
            dom0.until("/dns/10.137.0.20/short.example", "{'10.137.0.1/32'}").await;
            let told = format!("gate: /dns/10.137.0.20/{name} is longer than QubesDB takes");
            gate.wait_for(&told).await;
            let a = qube(&xen, &gate, "10.137.0.20").await;
            dom0.rules("10.137.0.20", "drop", &[(0, &long)]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "2").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            while dom0.get("/dns/10.137.0.20/short.example").is_some() {
                gate.sleep(Duration::from_secs(1)).await;
            }
            assert_eq!(gate.console().matches(&told).count(), 1);
            // Without rules there are no names in them.
            dom0.rules("10.137.0.20", "drop", &[(0, short)]);
            dom0.until("/dns/10.137.0.20/short.example", "{'10.137.0.1/32'}").await;
            dom0.remove("/qubes-firewall/10.137.0.20/");
            dom0.remove("/qubes-firewall/10.137.0.20");
            while dom0.get("/dns/10.137.0.20/short.example").is_some() {
                gate.sleep(Duration::from_secs(1)).await;
            }
            gate.destroy();
        });
    });
}

#[test]
fn names_are_asked_for_again_when_there_is_another_server() {
    check("another name server", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0, stack) = firewall_and_outside(&xen, guest).await;
            let address = Rc::new(Cell::new(Some([10, 137, 0, 1])));
            gate.domain().spawn(answer_names(stack, address.clone())).detach();
            dom0.rules("10.137.0.20", "drop", &[(0, "action=accept dsthost=a.example")]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "1").await;
            // The one that there is says nothing: it is asked ever less often.
            gate.sleep(Duration::from_secs(1900)).await;
            assert_eq!(dom0.get("/dns/10.137.0.20/a.example"), None);
            dom0.write("/qubes-primary-dns", "10.137.0.1");
            dom0.until("/dns/10.137.0.20/a.example", "{'10.137.0.1/32'}").await;
            gate.destroy();
        });
    });
}
