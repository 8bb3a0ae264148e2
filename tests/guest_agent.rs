//! What the toolstack sees of a guest: keys, their order, and what becomes of them.
#![cfg(all(feature = "net", feature = "guest-agent"))]

use core::net::IpAddr;
use core::time::Duration;
use std::cell::RefCell;
use std::rc::Rc;

use sarab::network::{Config, Ipv4, Ipv4Cidr};
use sarab::testing::{End, Faults, Guest, Running, Xen, check};
use sarab::{App, println};
use xen_hal::DomId;
use xenstore_client::wire::{Access, Permission};

const SEEDS: u64 = 10;

/// All that is written once, in its order.
const FIXED: [&str; 12] = [
    "attr/PVAddons/Installed",
    "attr/PVAddons/MajorVersion",
    "attr/PVAddons/MinorVersion",
    "attr/PVAddons/MicroVersion",
    "attr/PVAddons/BuildVersion",
    "data/os_name",
    "data/os_distro",
    "data/os_majorver",
    "data/os_minorver",
    "data/os_uname",
    "feature/hotplug/vbd",
    "feature/hotplug/vif",
];
const MEMORY: [&str; 2] = ["data/meminfo_total", "data/meminfo_free"];
const UPDATED: &str = "data/updated";

type Seen = Rc<RefCell<Vec<String>>>;

/// Records what the guest changes below `attr`, `data` and `feature`, as a toolstack that watches them sees it.
async fn record(xen: &Xen, running: &Running) -> Seen {
    let seen = Seen::default();
    let home = format!("/local/domain/{}/", running.domain().id().0);
    let toolstack = xen.toolstack();
    let mut watch = toolstack.store().watch(home.trim_end_matches('/')).await.unwrap();
    let events = seen.clone();
    let task = xen.dom0().spawn(async move {
        while let Some(event) = watch.next().await {
            let Some(path) = event.path.strip_prefix(&home) else { continue };
            if ["attr/", "data/", "feature/"].iter().any(|class| path.starts_with(class)) {
                events.borrow_mut().push(path.to_owned());
            }
        }
    });
    task.detach();
    seen
}

async fn idle(app: App) {
    println!("up");
    app.shutdown().await;
}

async fn wait_for(running: &Running, path: &str) -> String {
    for _ in 0..1000 {
        if let Some(value) = running.get(path).await {
            return value;
        }
        running.sleep(Duration::from_millis(10)).await;
    }
    panic!("there is no {path}:\n{}", running.console());
}

async fn wait_gone(running: &Running, path: &str) {
    for _ in 0..1000 {
        if running.get(path).await.is_none() {
            return;
        }
        running.sleep(Duration::from_millis(10)).await;
    }
    panic!("{path} stays");
}

#[test]
fn the_keys_are_written_in_their_order_and_memory_each_minute() {
    check("agent: order", SEEDS, |xen| {
        xen.set_faults(Faults { spurious_events: 10, eagain: 10, ..Faults::default() });
        let (guest, machine) = (Guest::new(xen).memory(24), xen.clone());
        xen.run(async move {
            let running = guest.start(idle).await;
            running.wait_for("up").await;
            wait_for(&running, UPDATED).await;
            // What comes at the start is seen again after a restore, when somebody watches.
            let seen = record(&machine, &running).await;
            running.save_and_restore().await;
            running.sleep(Duration::from_secs(30)).await;
            let first: Vec<_> = seen.take().into_iter().filter(|path| path != "attr/vif").collect();
            let expected: Vec<_> = FIXED.iter().chain(&MEMORY).chain([&UPDATED]).map(|path| path.to_string()).collect();
            assert_eq!(first, expected);
            // Nothing else, until a minute is over.
            running.sleep(Duration::from_secs(45)).await;
            assert_eq!(seen.take(), [MEMORY[0], MEMORY[1], UPDATED]);
            let value = async |path: &str| running.get(path).await.unwrap();
            assert_eq!(value("attr/PVAddons/Installed").await, "1");
            assert_eq!(value("attr/PVAddons/MinorVersion").await, env!("CARGO_PKG_VERSION_MINOR"));
            assert_eq!(value("data/os_distro").await, "sarab");
            assert_eq!(value("data/meminfo_total").await, (24 << 10).to_string());
            assert!(value("data/meminfo_free").await.parse::<u64>().is_ok());
            assert_eq!(value("control/feature-suspend").await, "1");
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}

/// Takes an address, another one at a key, and none at the next.
async fn moves(app: App) -> sarab::Result {
    let network = app.network("vif").await?;
    println!("up");
    for ipv4 in [Ipv4::Static(Ipv4Cidr::new([10, 0, 0, 9].into(), 16)), Ipv4::None] {
        app.sysrq().await;
        network.configure(Config { ipv4, ..Config::default() });
    }
    app.shutdown().await;
    Ok(())
}

#[test]
fn addresses_come_with_their_network_and_change_and_go_with_it() {
    check("agent: addresses", SEEDS, |xen| {
        let guest = Guest::new(xen).network().command_line("ip=10.0.0.2/24 ip6=fd00::2/64");
        let machine = xen.clone();
        xen.run(async move {
            let running = guest.start(moves).await;
            let _peer = running.peer::<1>("10.0.0.1/24").await;
            running.wait_for("up").await;
            assert_eq!(wait_for(&running, "attr/vif/0/ipv4/0").await, "10.0.0.2");
            assert_eq!(wait_for(&running, "attr/vif/0/ipv4/0/prefix").await, "24");
            assert_eq!(wait_for(&running, "attr/vif/0/ipv6/0").await, "fd00::2");
            assert_eq!(wait_for(&running, "attr/vif/0/ipv6/0/prefix").await, "64");
            running.sleep(Duration::from_secs(5)).await;

            let seen = record(&machine, &running).await;
            running.sysrq('x').await;
            while running.get("attr/vif/0/ipv4/0").await.as_deref() != Some("10.0.0.9") {
                running.sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(wait_for(&running, "attr/vif/0/ipv4/0/prefix").await, "16");
            wait_gone(&running, "attr/vif/0/ipv6/0").await;
            running.sleep(Duration::from_secs(5)).await;
            assert_eq!(seen.borrow().last().map(String::as_str), Some(UPDATED));
            running.sysrq('x').await;
            wait_gone(&running, "attr/vif/0/ipv4/0").await;
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn an_interface_without_a_backend_has_no_addresses() {
    check("agent: carrier", SEEDS, |xen| {
        let guest = Guest::new(xen).network().command_line("ip=10.0.0.2/24");
        xen.run(async move {
            let main = async |app: App| -> sarab::Result {
                let _network = app.network("vif").await?;
                app.shutdown().await;
                Ok(())
            };
            let running = guest.start(main).await;
            let _peer = running.peer::<1>("10.0.0.1/24").await;
            assert_eq!(wait_for(&running, "attr/vif/0/ipv4/0").await, "10.0.0.2");
            running.unplug(0).await;
            wait_gone(&running, "attr/vif/0").await;
            running.plug(0, "00:16:3e:00:00:0a", &[]).await;
            let _peer = running.peer::<1>("10.0.0.1/24").await;
            assert_eq!(wait_for(&running, "attr/vif/0/ipv4/0").await, "10.0.0.2");
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn a_store_that_is_new_is_filled_again() {
    check("agent: restore", SEEDS, |xen| {
        let guest = Guest::new(xen).network().command_line("ip=10.0.0.2/24");
        let machine = xen.clone();
        xen.run(async move {
            let running = guest.start(moves).await;
            let _peer = running.peer::<1>("10.0.0.1/24").await;
            let keys = ["attr/vif/0/ipv4/0", "data/os_name", "feature/hotplug/vif", "data/meminfo_free"];
            for key in keys {
                wait_for(&running, key).await;
            }
            let (toolstack, home) = (machine.toolstack(), format!("/local/domain/{}", running.domain().id().0));
            for key in keys {
                toolstack.store().remove(&format!("{home}/{key}")).await.unwrap();
            }
            running.sleep(Duration::from_secs(3)).await;
            assert_eq!(running.get("data/os_name").await, None);
            running.save_and_restore().await;
            for key in keys {
                wait_for(&running, key).await;
            }
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn what_the_toolstack_refuses_costs_one_line() {
    check("agent: refused", SEEDS, |xen| {
        let (guest, machine) = (Guest::new(xen), xen.clone());
        xen.run(async move {
            let running = guest.start(idle).await;
            wait_for(&running, UPDATED).await;
            let (toolstack, home) = (machine.toolstack(), format!("/local/domain/{}", running.domain().id().0));
            for path in ["attr", "feature"] {
                let path = format!("{home}/{path}");
                toolstack.store().remove(&path).await.unwrap();
                toolstack.store().mkdir(&path).await.unwrap();
                let own = [Permission::new(DomId::DOM0, Access::None)];
                toolstack.store().set_permissions(&path, &own).await.unwrap();
            }
            toolstack.store().remove(&format!("{home}/{UPDATED}")).await.unwrap();
            running.save_and_restore().await;
            // The rest is written all the same.
            wait_for(&running, UPDATED).await;
            running.sleep(Duration::from_secs(200)).await;
            let console = running.console();
            let lines: Vec<_> = console.lines().filter(|line| line.starts_with("guest agent: ")).collect();
            assert_eq!(lines.len(), 1, "{console}");
            assert!(lines[0].contains("attr/vif: EACCES") || lines[0].contains("attr/PVAddons"), "{console}");
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}

#[test]
fn a_full_store_costs_one_line_and_an_end_to_it_is_noticed() {
    check("agent: quota", SEEDS, |xen| {
        let (guest, machine) = (Guest::new(xen), xen.clone());
        machine.server().borrow_mut().quotas.nodes = 8;
        xen.run(async move {
            let running = guest.start(idle).await;
            running.wait_for("guest agent: store: WRITE ").await;
            running.sleep(Duration::from_secs(200)).await;
            assert_eq!(running.console().matches("guest agent: ").count(), 1, "{}", running.console());
            assert_eq!(running.get(UPDATED).await, None);
            machine.server().borrow_mut().quotas.nodes = 100;
            running.sleep(Duration::from_secs(61)).await;
            wait_for(&running, UPDATED).await;
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}

/// Addresses that change all the time: a server that gives another at each request.
#[test]
fn addresses_that_change_all_the_time_cost_one_round_a_second() {
    check("agent: rate", SEEDS, |xen| {
        let (guest, machine) = (Guest::new(xen), xen.clone());
        xen.run(async move {
            let main = async |app: App| {
                app.sysrq().await;
                for at in 0..2000_u32 {
                    app.report_addresses(0, (0..50).map(|n| (IpAddr::from(((at << 8) + n).to_be_bytes()), 24)));
                    sarab::hal::Clock::sleep(&app.clock(), Duration::from_millis(5)).await;
                }
                println!("done");
                app.shutdown().await;
            };
            let running = guest.start(main).await;
            wait_for(&running, UPDATED).await;
            running.sleep(Duration::from_secs(2)).await;
            let seen = record(&machine, &running).await;
            running.sysrq('x').await;
            running.wait_for("done").await;
            let rounds = seen.borrow().iter().filter(|path| *path == UPDATED).count();
            assert!((8..=12).contains(&rounds), "{rounds} rounds in 10 s");
            let most = rounds * 22;
            assert!(seen.borrow().len() <= most, "{} changes in {rounds} rounds", seen.borrow().len());
            // The last of them is there in the end, and no more than ten.
            running.sleep(Duration::from_secs(2)).await;
            assert_eq!(running.get("attr/vif/0/ipv4/0").await.as_deref(), Some("0.7.207.0"));
            assert_eq!(running.get("attr/vif/0/ipv4/10").await, None);
            running.shutdown().await;
            assert_eq!(running.ended().await.how(), End::PowerOff);
        });
    });
}
