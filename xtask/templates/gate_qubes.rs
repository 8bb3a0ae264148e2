//! The gate as a qube of Qubes OS, in a simulated Xen.

#[path = "gate_qubes/dom0.rs"]
mod dom0;
#[path = "gate_qubes/hosts.rs"]
mod hosts;
#[path = "gate_qubes/names.rs"]
mod names;

use sarab::App;
use sarab::testing::{End, Faults, Guest, check};

use dom0::{receive, send};
use hosts::{asks, client, firewall, outside, qube, server};

#[test]
fn the_life_of_a_firewall_qube() {
    check("a firewall qube", 6, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            let a = qube(&xen, &gate, "10.137.0.20").await;
            // Nothing passes before there are rules.
            asks(&a, "10.137.0.1 7", "ConnectionReset").await;
            dom0.rules("10.137.0.20", "drop", &[(0, "action=accept proto=tcp dst4=10.137.0.0/24 dstports=7-7")]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "1").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            asks(&a, "10.137.0.1 8", "ConnectionReset").await;
            // The PV interface of an HVM qube, which has the address of its stub domain's and is not connected.
            let twin = Guest::new(&xen).network_of(&gate).addresses("10.137.0.20").start(idle).await;
            gate.wait_for("10.137.0.20 is another client's too").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            twin.destroy();
            twin.ended().await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            // Half of a change is none: it counts when dom0 says that it is complete.
            dom0.remove("/qubes-firewall/10.137.0.20/");
            dom0.write("/qubes-firewall/10.137.0.20/0003", "action=accept dstports=8-8");
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            dom0.write("/qubes-firewall/10.137.0.20/policy", "drop");
            dom0.write("/qubes-firewall/10.137.0.20", "");
            dom0.until("/qubes-firewall-handled/10.137.0.20", "2").await;
            asks(&a, "10.137.0.1 8", "8 sees 10.137.0.10").await;
            asks(&a, "10.137.0.1 7", "ConnectionReset").await;
            // One that cannot be read blocks all, and says why.
            dom0.rules("10.137.0.20", "accept", &[(0, "action=accept color=red")]);
            gate.wait_for("gate: 10.137.0.20: rule 0000: unknown option \"color\"; blocking its traffic\n").await;
            dom0.until("/qubes-firewall-handled/10.137.0.20", "3").await;
            asks(&a, "10.137.0.1 8", "ConnectionReset").await;
            // Qubes do not reach each other, nor the gate, but for pings.
            dom0.rules("10.137.0.20", "accept", &[]);
            dom0.rules("10.137.0.21", "accept", &[]);
            let b = qube(&xen, &gate, "10.137.0.21").await;
            dom0.until("/qubes-firewall-handled/10.137.0.21", "1").await;
            asks(&b, "10.137.0.1 8", "8 sees 10.137.0.10").await;
            asks(&a, "10.137.0.21 7", "ConnectionReset").await;
            asks(&a, "10.137.0.10 53", "ConnectionReset").await;
            // dom0's daemon is started anew, and has other rules.
            dom0.db.borrow_mut().entries.insert("/qubes-firewall/10.137.0.21/policy".into(), "drop".into());
            dom0.db.borrow_mut().closes = true;
            dom0.until("/qubes-firewall-handled/10.137.0.21", "2").await;
            asks(&b, "10.137.0.1 8", "ConnectionReset").await;
            asks(&a, "10.137.0.1 8", "8 sees 10.137.0.10").await;
            // Another one begins empty, and says nothing yet.
            let before = std::mem::take(&mut dom0.db.borrow_mut().entries);
            dom0.db.borrow_mut().closes = true;
            gate.wait_for("gate: QubesDB has no /name yet").await;
            asks(&a, "10.137.0.1 8", "8 sees 10.137.0.10").await;
            for (path, value) in before {
                dom0.write(&path, &String::from_utf8_lossy(&value));
            }
            asks(&a, "10.137.0.1 8", "8 sees 10.137.0.10").await;
            asks(&b, "10.137.0.1 8", "ConnectionReset").await;
            a.shutdown().await;
            a.ended().await;
            gate.wait_for(" is gone\n").await;
            gate.shutdown().await;
            assert_eq!(gate.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn what_the_gate_writes_itself_changes_no_network() {
    check("its own entries", 2, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            dom0.write("/qubes-netvm-gateway6", "bad");
            let told = "gate: QubesDB: /qubes-netvm-gateway6 is \"bad\"";
            gate.wait_for(told).await;
            let before = gate.console().matches(told).count();
            for count in ["1", "2", "3"] {
                dom0.rules("10.137.0.20", "accept", &[]);
                dom0.until("/qubes-firewall-handled/10.137.0.20", count).await;
            }
            assert_eq!(gate.console().matches(told).count(), before);
            // Rules that are taken back: nothing passes.
            let a = qube(&xen, &gate, "10.137.0.20").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            dom0.remove("/qubes-firewall/10.137.0.20/");
            dom0.remove("/qubes-firewall/10.137.0.20");
            gate.wait_for("gate: 10.137.0.20: it has no rules any more").await;
            asks(&a, "10.137.0.1 7", "ConnectionReset").await;
            gate.destroy();
        });
    });
}

#[test]
fn addresses_of_qubes_that_do_not_run_are_nobodys_outside() {
    check("connected addresses", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            dom0.rules("10.137.0.20", "accept", &[]);
            let a = qube(&xen, &gate, "10.137.0.20").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            dom0.write("/connected-ips", "10.137.0.20 10.137.0.1 junk");
            gate.wait_for("gate: QubesDB: /connected-ips has \"junk\": expected addresses\n").await;
            asks(&a, "10.137.0.1 8", "ConnectionReset").await;
            dom0.write("/connected-ips", "10.137.0.20");
            dom0.rules("10.137.0.20", "accept", &[]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "2").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            gate.destroy();
        });
    });
}

/// A guest that does nothing about its interface.
async fn idle(app: App) {
    app.shutdown().await;
}

#[test]
fn qubes_may_reach_each_other_by_their_rules() {
    check("qubes among themselves", 4, |xen| {
        let (guest, xen) = (Guest::new(xen).command_line("clients=rules"), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            dom0.rules("10.137.0.20", "drop", &[(0, "action=accept proto=tcp dst4=10.137.0.21/32 dstports=7-7")]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "1").await;
            let a = qube(&xen, &gate, "10.137.0.20").await;
            let b = Guest::new(&xen).network_of(&gate).addresses("10.137.0.21");
            let b = b.command_line("ip=10.137.0.21/32 gw=10.137.0.10").start(server).await;
            b.wait_for("up\n").await;
            // With the address that it has: nothing is translated between them.
            asks(&a, "10.137.0.21 7", "inside sees 10.137.0.20").await;
            dom0.rules("10.137.0.20", "drop", &[]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "2").await;
            asks(&a, "10.137.0.21 7", "ConnectionReset").await;
            gate.destroy();
        });
    });
}

#[test]
fn a_qube_may_not_know_its_address() {
    check("a hidden address", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            dom0.write("/mapped-ip/10.137.0.20/visible-ip", "192.168.100.2");
            dom0.write("/mapped-ip/10.137.0.20/visible-gateway", "192.168.100.1");
            dom0.rules("10.137.0.20", "accept", &[]);
            dom0.until("/qubes-firewall-handled/10.137.0.20", "1").await;
            let guest = Guest::new(&xen).network_of(&gate).addresses("10.137.0.20 fd09:24ef:4179::14");
            let qube = guest.command_line("ip=192.168.100.2/32 gw=192.168.100.1").start(client).await;
            qube.wait_for("up\n").await;
            // It would be known by the other.
            gate.wait_for(": 10.137.0.20\n").await;
            asks(&qube, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            gate.destroy();
        });
    });
}

#[test]
fn dom0_calls_services() {
    check("services of a firewall qube", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            let mut control = dom0.control().await;
            // It asks to be known as a firewall.
            let (kind, body) = receive(&mut control).await;
            assert_eq!(kind, 0x213);
            assert!(body.ends_with(b"qubes.FeaturesRequest\0"), "{}", String::from_utf8_lossy(&body));
            assert_eq!(dom0.get("/features-request/qubes-firewall").as_deref(), Some("1"));
            send(&mut control, 0x203, &body[128..160]).await;
            for (service, input, output, code) in [
                ("qubes.WaitForSession", "", "", 0),
                ("qubes.SetDateTime", "2026-11-27T10:54:12+0000\n", "", 0),
                ("qubes.SetDateTime", "2026-11-27T10:54:12+00:00\n", "", 0),
                ("qubes.SuspendPre", "", "", 0),
                ("qubes.SuspendPostAll", "", "", 0),
                ("qubes.SetDateTime", "yesterday\n", "expected a time such as", 1),
                ("gate.Status", "", "vif/0: up, 10.137.0.10/32", 0),
                ("gate.Metrics", "", "\ngate_flows 0\n", 0),
                ("my.Service+x", "", "", 127),
            ] {
                let (found, own) = dom0.call(&mut control, service, input.as_bytes()).await;
                assert!(own == code && found.contains(output), "{service}: {own}: {found}");
            }
            gate.wait_for("gate: qubes.SetDateTime: \"yesterday\" is not a time\n").await;
            gate.destroy();
        });
    });
}

#[test]
fn the_netvm_is_taken_away_and_another_one_comes() {
    check("another netvm", 4, |xen| {
        let (guest, xen) = (Guest::new(xen), xen.clone());
        xen.clone().run(async move {
            let (gate, dom0) = firewall(&xen, guest).await;
            dom0.rules("10.137.0.20", "accept", &[]);
            let a = qube(&xen, &gate, "10.137.0.20").await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.10").await;
            gate.unplug(0).await;
            for key in ["/qubes-ip", "/qubes-netmask", "/qubes-gateway"] {
                dom0.remove(key);
            }
            asks(&a, "10.137.0.1 7", "ConnectionReset").await;
            for (key, value) in
                [("ip", "10.137.0.11"), ("netmask", "255.255.255.255"), ("gateway", "10.137.0.1"), ("custom", "true")]
            {
                dom0.write(&format!("/net-config/00:16:3e:00:00:77/{key}"), value);
            }
            gate.plug(0, "00:16:3e:00:00:77", &[]).await;
            gate.wait_for("gate: vif/0: 10.137.0.11/32, gateway 10.137.0.1\n").await;
            outside(&gate, &[7]).await;
            asks(&a, "10.137.0.1 7", "7 sees 10.137.0.11").await;
            gate.destroy();
        });
    });
}
