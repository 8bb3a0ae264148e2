//! Two domains of ours: event channels and grants between them.
//!
//! `accept` waits on its console for what `offer` has printed on its own; the lab's test carries it over.

use alloc::string::String;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::time::Duration;

use sarab::hal::{
    Access, Clock, CopyOp, DomId, EventChannels, Grant, GrantError, GrantErrorKind, GrantRef, GrantTable, MapRequest,
    Mapping, PAGE_SIZE, Page, Pages, Port, PortNumber, Remote,
};
use sarab::platform::{XenPort, grant_use};
use sarab::{App, Args, println};

use crate::checks::Checks;
use crate::text;

const ROUNDS: u32 = 500;

fn fill(start: NonNull<u8>, seed: u8) {
    for index in 0..PAGE_SIZE {
        // SAFETY: within a page that is mapped writable; volatile, as the peer sees it too.
        unsafe { start.add(index).write_volatile((index as u8).wrapping_mul(13) ^ seed) };
    }
}

fn holds(start: NonNull<u8>, seed: u8) -> bool {
    // SAFETY: within a page that is mapped; volatile, as the peer may change it.
    (0..PAGE_SIZE).all(|index| unsafe { start.add(index).read_volatile() } == (index as u8).wrapping_mul(13) ^ seed)
}

/// Rings and waits for the answer, or says that none came.
async fn turn(app: App, port: &XenPort, checks: &mut Checks, what: &str) {
    port.notify();
    heard(app, port, checks, what).await;
}

async fn heard(app: App, port: &XenPort, checks: &mut Checks, what: &str) {
    let clock = app.clock();
    let waited = futures_util::future::select(port.wait(), clock.sleep(Duration::from_secs(20))).await;
    checks.check(matches!(waited, futures_util::future::Either::Left(_)), what);
}

/// Lends pages to `peer=` and opens a port for it.
pub async fn offer(app: App, checks: &mut Checks) -> Result<(), String> {
    let peer: DomId = DomId(app.args().require("peer").map_err(text)?);
    let table = app.grant_table();
    let port = app.event_channels().alloc_unbound(peer).map_err(text)?;
    let mut grants = Vec::new();
    for access in [Access::ReadWrite, Access::ReadOnly, Access::ReadWrite] {
        grants.push(table.grant(table.alloc_page().map_err(text)?, peer, access).map_err(text)?);
    }
    fill(grants[0].page().as_ptr(), 1);
    fill(grants[1].page().as_ptr(), 2);
    fill(grants[2].page().as_ptr(), 3);
    let refs: Vec<u32> = grants.iter().map(|grant| grant.reference().0).collect();
    // As many as a peer may keep, three more are mapped besides.
    let most = ((app.memory().total / 16) as usize / PAGE_SIZE).clamp(256, 4096);
    let mut many = Vec::new();
    for _ in 0..most {
        many.push(table.grant(table.alloc_page().map_err(text)?, peer, Access::ReadOnly).map_err(text)?);
    }
    let first = many[0].reference().0;
    let in_order = (first..).zip(&many).all(|(reference, grant)| grant.reference().0 == reference);
    checks.check(in_order, "references of a new table count up");
    println!(
        "offer: peer={} port={} rw={} ro={} many={first} count={most} more={}",
        app.domain_id().map_or(0, |id| id.0),
        port.number().0,
        refs[0],
        refs[1],
        refs[2]
    );

    heard(app, &port, checks, "the peer has connected").await;
    checks.check(holds(grants[0].page().as_ptr(), 0x77), "the peer's writes are here");
    checks.check(holds(grants[1].page().as_ptr(), 2), "the read-only page is as it was");
    let start = app.clock().now();
    for _ in 0..ROUNDS {
        turn(app, &port, checks, "a round trip").await;
    }
    println!("offer: {} ns a round trip", (app.clock().now() - start).as_nanos() as u32 / ROUNDS);

    // The peer still maps the pages.
    let third = grants.pop().expect("three grants");
    let third = match third.try_end() {
        Ok(_) => {
            checks.check(false, "a page that the peer maps must not come back");
            return Ok(());
        }
        Err(grant) => grant,
    };
    let free = app.memory().free;
    drop(grants);
    drop(third);
    checks.equal(grant_use().deferred, 3, "grants in use are put off");
    checks.equal(app.memory().free, free, "their pages stay out of use");
    checks.check(!table.keeps_too_many(peer), "three pages are few");
    drop(many);
    checks.equal(grant_use().deferred, 3 + most, "all of them are put off");
    let refused = table.grant(table.alloc_page().map_err(text)?, peer, Access::ReadOnly);
    let refused = refused.err().map(|refused| refused.error.kind());
    checks.equal(refused, Some(GrantErrorKind::PagesKept), "no more for who keeps so many");
    let other = table.grant(table.alloc_page().map_err(text)?, DomId(peer.0 + 100), Access::ReadOnly);
    checks.check(other.is_ok(), "other peers are granted pages");
    turn(app, &port, checks, "the peer has let go").await;
    let deadline = app.clock().now() + Duration::from_secs(10);
    while grant_use().deferred > 0 && app.clock().now() < deadline {
        app.clock().sleep(Duration::from_millis(20)).await;
    }
    checks.equal(grant_use().deferred, 0, "what was put off is done");
    let again = table.grant(table.alloc_page().map_err(text)?, peer, Access::ReadOnly);
    checks.check(again.is_ok(), "and the peer is granted pages again");
    drop(again);
    checks.check(app.memory().free >= free + 3 * PAGE_SIZE as u64, "the pages are free again");
    port.notify();
    Ok(())
}

/// Uses what an `offer` lends.
pub async fn accept(app: App, checks: &mut Checks) -> Result<(), String> {
    println!("accept: ready");
    let line = app.console().read_line(200).await;
    let args = Args::new(String::into_bytes(line).leak());
    let peer = DomId(args.require("peer").map_err(text)?);
    let reference = |key| args.require(key).map(GrantRef).map_err(text);
    let (rw, ro, more) = (reference("rw")?, reference("ro")?, reference("more")?);
    let first: u32 = args.require("many").map_err(text)?;
    let many = first..first + args.require::<u32>("count").map_err(text)?;
    let port =
        app.event_channels().bind_interdomain(peer, PortNumber(args.require("port").map_err(text)?)).map_err(text)?;

    // Binding rings by itself, for what may have been missed before.
    heard(app, &port, checks, "the binding").await;

    let table = app.grant_table();
    let request = |reference, access| MapRequest { peer, reference, access };
    let mapping = table
        .map(&[
            request(rw, Access::ReadWrite),
            request(ro, Access::ReadOnly),
            request(GrantRef(many.end), Access::ReadOnly),
            request(ro, Access::ReadWrite),
            request(more, Access::ReadWrite),
        ])
        .map_err(text)?;
    checks.equal(mapping.len(), 5, "all requests have an outcome");
    checks.check(mapping.page(2).is_err(), "a reference that nobody lends is refused");
    checks.check(mapping.page(3).is_err(), "a read-only page is not mapped for writing");
    checks.check(mapping.all().is_err(), "not all are mapped");
    let page = |index: usize| mapping.page(index).map_err(text);
    let (first, second, third) = (page(0)?, page(1)?, page(4)?);
    checks.check(holds(first, 1) && holds(second, 2) && holds(third, 3), "the peer's pages are here");

    // Copies, without the mappings.
    let remote = |reference, offset| Remote { peer, reference, offset };
    let mut near = [0; 16];
    let far = [0xaa; 16];
    let mut operations = [
        CopyOp::read(remote(ro, 100), &mut near),
        CopyOp::write(&far, remote(more, 200)),
        CopyOp::write(&far, remote(ro, 300)),
    ];
    table.copy(&mut operations).map_err(text)?;
    let results: Vec<_> = operations.iter().map(CopyOp::result).collect();
    checks.check(results[0].is_ok() && results[1].is_ok() && results[2].is_err(), "copies obey the grants");
    checks.check((0..16).all(|index| near[index] == ((100 + index) as u8).wrapping_mul(13) ^ 2), "copied bytes arrive");
    // SAFETY: within the mapped page.
    let copied = (0..16).all(|index| unsafe { third.add(200 + index).read_volatile() } == 0xaa);
    checks.check(copied, "copied bytes show in the mapping");

    // Pages one after the other, as multi-page rings want them.
    let pair = table.map(&[request(rw, Access::ReadWrite), request(more, Access::ReadWrite)]).map_err(text)?;
    checks.check(pair.all().is_ok_and(|start| holds(start, 1)), "pages lie side by side");
    drop(pair);

    let requests: Vec<_> = many.map(|reference| request(GrantRef(reference), Access::ReadOnly)).collect();
    let many = table.map(&requests).map_err(text)?;
    checks.check(many.all().is_ok(), "many pages are mapped");

    fill(first, 0x77);
    turn(app, &port, checks, "the first ring").await;
    for _ in 0..ROUNDS {
        turn(app, &port, checks, "a round trip").await;
    }
    // That was the peer letting us know that it has ended its grants: they work on until we let go.
    checks.check(holds(second, 2), "a mapped page stays while it is mapped");
    drop((mapping, many));
    turn(app, &port, checks, "the end").await;
    let gone = table.map(&[request(rw, Access::ReadWrite)]).map_err(text)?;
    checks.check(gone.page(0).is_err(), "an ended grant cannot be mapped");
    Ok(())
}
