//! What dom0 is told: that rules are in use, and what names stand for.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::pin::pin;

use futures_util::future::{Either, select};
use sarab::println;
use sarab::qubes::{Agent, Database, MAX_DATABASE_PATH};

use super::{Qubes, Table};

/// Bytes that are read of what dom0 says of features.
const MAX_ANSWER: usize = 4096;

/// Writes to QubesDB whatever is due, for as long as the gate runs.
pub async fn run(qubes: Rc<Qubes>) {
    qubes.ready().await;
    // Older tools look for errors there.
    write(&qubes.db, "/qubes-iptables-error", "").await;
    let (mut too_long, mut seen) = (BTreeSet::new(), qubes.gate.resolved.get());
    loop {
        let next = qubes.handled.borrow_mut().pop_first();
        if let Some(address) = next {
            let path = format!("/qubes-firewall-handled/{address}");
            let count = qubes.db.text(&path).and_then(|text| text.trim().parse().ok()).unwrap_or(0_u64);
            write(&qubes.db, &path, &format!("{}", count.wrapping_add(1))).await;
            continue;
        }
        let next = qubes.named.borrow_mut().pop_first();
        if let Some(address) = next {
            names(&qubes, address, &mut too_long).await;
            continue;
        }
        let is_due = || !qubes.handled.borrow().is_empty() || !qubes.named.borrow().is_empty();
        let loaded = pin!(qubes.news.wait_until(|| is_due().then_some(())));
        let resolved = pin!(qubes.gate.resolved.after(seen));
        if let Either::Right(_) = select(loaded, resolved).await {
            seen = qubes.gate.resolved.get();
            let state = qubes.gate.firewall.0.borrow();
            let with_names = |(address, rules): (&IpAddr, _)| Table::names_of(rules).next().map(|_| *address);
            let table = state.qubes.iter().flat_map(|table| &table.rules);
            qubes.named.borrow_mut().extend(table.filter_map(with_names));
        }
    }
}

/// Writes what the names in a client's rules stand for, as the Linux agent does.
async fn names(qubes: &Qubes, address: IpAddr, too_long: &mut BTreeSet<String>) {
    let directory = format!("/dns/{address}/");
    let mut wanted: Vec<(String, String)> = {
        let state = qubes.gate.firewall.0.borrow();
        let rules = state.qubes.as_ref().and_then(|table| table.rules.get(&address));
        let hosts: BTreeSet<&str> = rules.into_iter().flat_map(Table::names_of).collect();
        let of_family = |host: &str| {
            let known = state.names.addresses(host).iter();
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let known = known.filter(|known| known.is_ipv4() == address.is_ipv4());
            let known: Vec<String> = known.map(|known| format!("'{known}/{bits}'")).collect();
            format!("{{{}}}", known.join(", "))
        };
        hosts.into_iter().map(|host| (format!("{directory}{host}"), of_family(host))).collect()
    };
    wanted.retain(|(path, value)| {
        let fits = path.len() <= MAX_DATABASE_PATH;
        if !fits && too_long.len() < 1000 && too_long.insert(path.clone()) {
            println!("gate: {path} is longer than QubesDB takes; its addresses are used, but not reported");
        }
        fits && value != "{}"
    });
    for (path, _) in qubes.db.list(&directory) {
        if wanted.iter().all(|(own, _)| *own != path) {
            let _ = qubes.db.remove(&path).await;
        }
    }
    for (path, value) in wanted {
        if qubes.db.text(&path).as_deref() != Some(&value) {
            write(&qubes.db, &path, &value).await;
        }
    }
}

async fn write(db: &Database, path: &str, value: &str) {
    if let Err(error) = db.write(path, value.as_bytes()).await {
        println!("gate: {error}");
    }
}

/// Asks dom0 to know this qube as a firewall: the settings of other qubes say otherwise that their rules have no effect.
/// It takes that of a template or a standalone qube.
pub async fn features(db: Database, agent: Agent) {
    if db.ready().await.is_err() || agent.connected().await.is_err() {
        return;
    }
    for (feature, value) in [("qrexec", "1"), ("qubes-firewall", "1")] {
        write(&db, &format!("/features-request/{feature}"), value).await;
    }
    match agent.call("dom0", "qubes.FeaturesRequest").await {
        Ok(call) => drop(call.collect(MAX_ANSWER).await),
        Err(error) => println!("gate: qubes.FeaturesRequest: {error}"),
    }
}
