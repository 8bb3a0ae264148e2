//! What is in a domain, and where it ends: entropy, tasks, ports, grants, the console's buffer.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::time::Duration;

use futures_util::future::{Either, select};
use rand_core::TryRng;
use sarab::hal::{
    Access, Clock, CopyOp, DomId, EventChannelError, EventChannelErrorKind, EventChannels, Grant, GrantError,
    GrantErrorKind, GrantRef, GrantTable, MapRequest, Mapping, PAGE_SIZE, Page, Pages, Port, PortNumber, Remote,
    StoreChannel,
};
use sarab::platform::{self, Resumed, XenGrant, counters, grant_use};
use sarab::{App, println};

use crate::checks::Checks;

/// Entropy, tasks, the heap, and what can be done with oneself as peer.
pub async fn small_things(app: App, checks: &mut Checks) {
    let mut entropy = app.entropy().expect("the lab's processor has RDRAND");
    let mut bytes = [0; 61];
    entropy.try_fill_bytes(&mut bytes).expect("random bytes");
    let words: Vec<u64> = (0..64).map(|_| entropy.try_next_u64().expect("a random number")).collect();
    checks.check(
        words.iter().all(|word| words.iter().filter(|other| *other == word).count() == 1),
        "random numbers differ",
    );
    checks.check(
        bytes.iter().any(|byte| *byte != 0) && bytes[56..].iter().any(|byte| *byte != 0),
        "random bytes fill everything",
    );

    others_entropy(app, checks);

    tasks(app, checks).await;

    let before = app.memory();
    let boxes: Vec<_> = (0..1000).map(|index| Box::new([index as u8; 1000])).collect();
    checks.check(
        boxes.iter().enumerate().all(|(index, page)| page.iter().all(|byte| *byte == index as u8)),
        "the heap keeps what it is given",
    );
    drop(boxes);
    let pages: Vec<_> = (0..50).map(|_| app.grant_table().alloc_page().expect("a page")).collect();
    for page in &pages {
        // SAFETY: the page belongs to this function alone.
        let bytes = unsafe { core::slice::from_raw_parts_mut(page.as_ptr().as_ptr(), PAGE_SIZE) };
        checks.check(bytes.iter().all(|byte| *byte == 0), "a new page is zero");
        bytes.fill(0xff);
    }
    drop(pages);
    checks.check(app.memory().free <= before.free, "the heap has grown");

    own_ports(app, checks).await;
    own_grants(app, checks);
    let store = app.store();
    let second = platform::XenStoreChannel.open_store();
    checks.check(store.is_ok() && second.is_none(), "the store's page has one owner");
    checks.check(counters().hypercalls > 0 && counters().polls > 0, "counters count");
}

/// What crates ask that know nothing of Sarab.
fn others_entropy(app: App, checks: &mut Checks) {
    let mut entropy = app.entropy().expect("the lab's processor has RDRAND");
    let mut all = [[0; 32]; 4];
    let [newest, before, oldest, core] = &mut all;
    checks.check(getrandom::fill(newest).is_ok(), "getrandom 0.4 has a source");
    checks.check(getrandom_0_3::fill(before).is_ok(), "getrandom 0.3 has a source");
    checks.check(
        rand_core_0_6::RngCore::try_fill_bytes(&mut entropy, oldest).is_ok(),
        "the entropy is a generator of rand_core 0.6",
    );
    checks.check(
        rand_core_0_9::TryRngCore::try_fill_bytes(&mut entropy, core).is_ok(),
        "the entropy is a generator of rand_core 0.9",
    );
    checks.check(
        all.iter().all(|bytes| all.iter().filter(|other| *other == bytes).count() == 1 && bytes[24..] != [0; 8]),
        "they differ",
    );
    log::info!("a line of the crate log, {} of 1", 1);
    log::debug!("not shown by default");
}

async fn tasks(app: App, checks: &mut Checks) {
    let sum = Rc::new(Cell::new(0));
    let handles: Vec<_> = (0..100)
        .map(|number| {
            let sum = sum.clone();
            app.spawn(async move {
                for _ in 0..number % 7 {
                    platform::yield_now().await;
                }
                sum.set(sum.get() + number);
                number
            })
        })
        .collect();
    let mut joined = 0;
    for handle in handles {
        joined += handle.await;
    }
    checks.equal((joined, sum.get()), (4950, 4950), "a hundred tasks run and are joined");

    struct Dropped(Rc<Cell<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let dropped = Rc::new(Cell::new(false));
    let guard = Dropped(dropped.clone());
    let task = app.spawn(async move {
        let _guard = guard;
        core::future::pending::<()>().await
    });
    platform::yield_now().await;
    checks.check(!dropped.get(), "a task lives on while its handle does");
    drop(task);
    platform::yield_now().await;
    checks.check(dropped.get(), "a cancelled task's future is dropped");
}

async fn own_ports(app: App, checks: &mut Checks) {
    let channels = app.event_channels();
    let own = app.domain_id().expect("Xen tells the domain's number");
    let open = channels.open_ports();
    let far = channels.alloc_unbound(own).expect("a port for oneself");
    let near = channels.bind_interdomain(own, far.number()).expect("its other end");
    checks.equal(channels.open_ports(), open + 2, "two ports are open");

    // An event from before anybody waits is kept; several are one.
    far.notify();
    far.notify();
    near.wait().await;
    let again = futures_util::poll!(near.wait());
    checks.check(again.is_pending(), "an event is taken once");
    // One that comes between the first look and the sleep.
    let waiting = near.wait();
    futures_util::pin_mut!(waiting);
    checks.check(futures_util::poll!(waiting.as_mut()).is_pending(), "no event yet");
    far.notify();
    waiting.await;
    // A cancelled wait takes nothing.
    far.notify();
    drop(near.wait());
    near.wait().await;

    let number = near.number();
    checks.equal(channels.status(number), Ok(2), "the port is bound");
    drop(near);
    checks.equal(channels.status(number), Ok(0), "a dropped port is closed");
    drop(far);
    checks.equal(channels.open_ports(), open, "no port is left");

    let error = channels.bind_interdomain(own, PortNumber(77)).err().map(|error| error.kind());
    checks.equal(error, Some(EventChannelErrorKind::Refused), "a port that was never opened");
    let error = channels.bind_interdomain(DomId(30_000), PortNumber(1)).err().map(|error| error.kind());
    checks.equal(error, Some(EventChannelErrorKind::NoDomain), "a domain that is not there");
}

fn own_grants(app: App, checks: &mut Checks) {
    let table = app.grant_table();
    let own = app.domain_id().expect("Xen tells the domain's number");
    let before = grant_use().in_use;
    let grant = |access| table.grant(table.alloc_page().expect("a page"), own, access).expect("a grant");
    let source = grant(Access::ReadOnly);
    let sink = grant(Access::ReadWrite);
    // SAFETY: nobody else uses the page yet.
    unsafe { source.page().as_ptr().write_bytes(0x5a, PAGE_SIZE) };

    let remote = |reference: GrantRef, offset| Remote { peer: own, reference, offset };
    let mut bytes = [0; 100];
    let text = *b"through the hypervisor";
    let mut operations = [
        CopyOp::read(remote(source.reference(), 3000), &mut bytes),
        CopyOp::write(&text, remote(sink.reference(), 4000)),
        CopyOp::write(&text, remote(source.reference(), 0)),
        CopyOp::write(&text, remote(GrantRef(400), 0)),
    ];
    table.copy(&mut operations).expect("the batch as a whole");
    let results: Vec<_> = operations.iter().map(CopyOp::result).collect();
    checks.equal(&results[..2], &[Ok(()), Ok(())], "allowed copies");
    checks.check(results[2].is_err(), "a copy to a read-only grant is refused");
    checks.check(results[3].is_err(), "a copy to a grant that is none is refused");
    checks.check(bytes.iter().all(|byte| *byte == 0x5a), "copied bytes arrive");
    // SAFETY: the hypervisor has finished, and nobody else writes to the page.
    let arrived = unsafe { core::slice::from_raw_parts(sink.page().as_ptr().as_ptr().add(4000), text.len()) };
    checks.check(arrived == text, "copied bytes leave");

    drop(source);
    let page = sink.try_end();
    checks.check(page.is_ok(), "an unused grant ends at once");
    drop(page);
    checks.equal(grant_use().in_use, before, "no grant is left");
}

/// All grants that there are, and one more.
pub fn grants(app: App, checks: &mut Checks) {
    let table = app.grant_table();
    let own = app.domain_id().expect("Xen tells the domain's number");
    let mut grants = Vec::new();
    let error = loop {
        let page = table.alloc_page().expect("memory for as many pages as there are grants");
        match table.grant(page, own, Access::ReadWrite) {
            Ok(grant) => grants.push(grant),
            Err(refused) => break refused.error,
        }
    };
    println!("grants: {} in use, then: {error}", grants.len());
    checks.equal(error.kind(), GrantErrorKind::NoGrants, "a full table is an error value");
    let entries = grant_use().entries;
    checks.check(entries >= 1024, format_args!("the table has grown to {entries} entries"));
    checks.equal(grants.len() as u32, entries - 8, "all entries but the reserved ones were lent");
    let numbers: alloc::collections::BTreeSet<_> = grants.iter().map(Grant::reference).collect();
    checks.equal(numbers.len(), grants.len(), "no reference is lent twice");
    checks.check(numbers.first() >= Some(&GrantRef(8)), "the toolstack's entries are left alone");
    mixed_copies(app, own, &grants, checks);
    drop(grants);
    checks.equal(grant_use().in_use, 0, "all are back");
    let again = table.grant(table.alloc_page().expect("a page"), DomId::DOM0, Access::ReadOnly);
    checks.check(again.is_ok(), "and can be lent again");

    let none = table.map(&[]).expect("an empty batch");
    checks.check(none.is_empty(), "an empty batch maps nothing");
    let bad = MapRequest { peer: DomId::DOM0, reference: GrantRef(60_000_000), access: Access::ReadOnly };
    let mapping = table.map(&[bad, bad, bad]).expect("the batch as a whole");
    checks.check(
        (0..3).all(|index| mapping.page(index).is_err()) && mapping.all().is_err(),
        "mapping what nobody lends is refused",
    );
    let huge = alloc::vec![bad; 100_000];
    let error = table.map(&huge).err().map(|error| error.kind());
    checks.equal(error, Some(GrantErrorKind::NoAddressSpace), "more than the address space holds");
}

/// A batch in which frame numbers and grant references have the same values (XSA-523): each byte is where it belongs.
fn mixed_copies(app: App, own: DomId, grants: &[XenGrant], checks: &mut Checks) {
    let by_frame = |reference: GrantRef| {
        let frame = u64::from(reference.0);
        grants.iter().find(|other| other.page().frame().0 == frame && other.reference() != reference)
    };
    let Some((named, framed)) = grants.iter().find_map(|grant| Some((grant, by_frame(grant.reference())?))) else {
        return checks.check(false, "a page whose frame is the number of another's reference");
    };
    let third = grants.iter().find(|other| ![named, framed].map(Grant::reference).contains(&other.reference()));
    let third = third.expect("there are more than two");
    for (grant, byte) in [(named, 0x11), (framed, 0x22), (third, 0x33)] {
        // SAFETY: only the hypervisor uses the pages besides, and not now.
        unsafe { grant.page().as_ptr().write_bytes(byte, PAGE_SIZE) };
    }
    let remote = |grant: &XenGrant, offset| Remote { peer: own, reference: grant.reference(), offset };
    // SAFETY: within the page.
    let local = |offset: usize| unsafe { framed.page().as_ptr().add(offset) };
    // From the one's reference and the other's frame, and to them, in turn.
    // SAFETY: no reference points into the pages, which outlive the copies.
    let mut operations = unsafe {
        [
            CopyOp::read_raw(remote(named, 0), local(1024), 64),
            CopyOp::write_raw(local(0), 64, remote(third, 0)),
            CopyOp::read_raw(remote(named, 64), local(1088), 64),
            CopyOp::write_raw(local(64), 64, remote(named, 2048)),
            CopyOp::read_raw(remote(third, 512), local(2048), 64),
        ]
    };
    let outcome = app.grant_table().copy(&mut operations);
    let done = outcome.is_ok() && operations.iter().all(|operation| operation.result().is_ok());
    checks.check(done, "a batch of mixed copies (XSA-523)");
    let holds = |grant: &XenGrant, parts: &[(usize, usize, u8)]| {
        let rest = |at: usize| parts.iter().find(|(start, len, _)| (*start..start + len).contains(&at));
        (0..PAGE_SIZE).all(|at| {
            // SAFETY: within the page; the hypervisor has finished.
            let found = unsafe { grant.page().as_ptr().add(at).read_volatile() };
            rest(at).is_none_or(|(_, _, byte)| *byte == found)
        })
    };
    checks.check(holds(named, &[(0, 2048, 0x11), (2048, 64, 0x22), (2112, 1984, 0x11)]), "by its reference (XSA-523)");
    let framed_parts = [(0, 1024, 0x22), (1024, 128, 0x11), (1152, 896, 0x22), (2048, 64, 0x33), (2112, 1984, 0x22)];
    checks.check(holds(framed, &framed_parts), "by its frame (XSA-523)");
    checks.check(holds(third, &[(0, 64, 0x22), (64, 4032, 0x33)]), "and a third page (XSA-523)");
    println!("grants: copies of frame {:#x} and of {}", framed.page().frame().0, named.reference());
}

/// As many ports as the domain may have, and events on all of them.
pub async fn ports(app: App, checks: &mut Checks) {
    let channels = app.event_channels();
    let own = app.domain_id().expect("Xen tells the domain's number");
    let mut pairs = Vec::new();
    let error = loop {
        let far = match channels.alloc_unbound(own) {
            Ok(port) => port,
            Err(error) => break error,
        };
        match channels.bind_interdomain(own, far.number()) {
            Ok(near) => pairs.push((far, near)),
            Err(error) => break error,
        }
    };
    println!("ports: {} pairs, then: {error}", pairs.len());
    checks.equal(error.kind(), EventChannelErrorKind::NoPorts, "no more ports is an error value");
    let highest = pairs.iter().map(|(_, near)| near.number().0).max();
    checks.check(highest > Some(4000), format_args!("ports go up to {highest:?}"));
    let count = Rc::new(Cell::new(0));
    let mut tasks = Vec::new();
    let mut fars = Vec::new();
    for (far, near) in pairs {
        fars.push(far);
        let count = count.clone();
        tasks.push(app.spawn(async move {
            for _ in 0..3 {
                near.wait().await;
                count.set(count.get() + 1);
            }
        }));
    }
    for round in 1..=3 {
        fars.iter().for_each(Port::notify);
        let deadline = app.clock().now() + Duration::from_secs(20);
        while count.get() < round * fars.len() && app.clock().now() < deadline {
            app.clock().sleep(Duration::from_millis(5)).await;
        }
        checks.equal(count.get(), round * fars.len(), "every port's event arrives");
    }
    for task in tasks {
        task.await;
    }
    let before = counters().notifications;
    drop(fars);
    checks.equal(counters().notifications, before, "closing rings nobody");
}

/// More text than the console takes: nothing waits, whole lines are missing, and are counted.
pub async fn flood(app: App, checks: &mut Checks) {
    let start = app.clock().now();
    for line in 0..2000 {
        println!("flood {line:04} ---------------------------------------------------------------------------");
    }
    let took = app.clock().now() - start;
    let dropped = app.console().dropped();
    app.console().flush().await;
    println!("flood: {dropped} bytes dropped in {} ms", took.as_millis());
    checks.check(dropped > 0, "2,000 lines do not fit");
    checks.equal(dropped % 88, 0, "lines are dropped whole");
    app.console().flush().await;
    // With `write` nothing is lost.
    for line in 0..200 {
        let text = alloc::format!(
            "slow {line:04} ---------------------------------------------------------------------------\r\n"
        );
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            rest = &rest[app.console().write(rest).await..];
        }
    }
    checks.equal(app.console().dropped(), dropped, "writing with patience drops nothing");
}

/// The file beside the guest.
pub fn module(checks: &mut Checks) {
    let modules = platform::modules();
    checks.equal(modules.len(), 1, "one module");
    for module in modules {
        let sum = module.data.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        println!("module: {} bytes, sum {sum}", module.data.len());
    }
    let page = alloc::vec![0xff_u8; 1 << 20];
    let modules = platform::modules();
    checks.check(
        modules.iter().all(|module| !module.data.as_ptr_range().contains(&page.as_ptr())),
        "the heap leaves the module alone",
    );
}

/// Suspends when told to, and shows that everything works afterwards.
pub async fn suspend(app: App, checks: &mut Checks) {
    let ticks = Rc::new(Cell::new(0_u32));
    let counting = ticks.clone();
    let last_tick = Rc::new(Cell::new(app.clock().now()));
    let latest = last_tick.clone();
    app.spawn(async move {
        loop {
            app.clock().sleep(Duration::from_millis(10)).await;
            counting.set(counting.get() + 1);
            latest.set(app.clock().now());
        }
    })
    .detach();
    let table = app.grant_table();
    let stale_grant =
        table.grant(table.alloc_page().expect("a page"), DomId::DOM0, Access::ReadWrite).expect("a grant");
    let stale_port = app.event_channels().alloc_unbound(DomId::DOM0).expect("a port");
    println!("suspend: ready");
    loop {
        let console = app.console();
        let line = core::pin::pin!(console.read_line(64));
        let resumed = match select(line, core::pin::pin!(app.resumed())).await {
            Either::Left((line, _)) if line == "quit" => break,
            Either::Left(_) => continue,
            Either::Right((resumed, _)) => resumed,
        };
        let before = last_tick.get();
        println!("suspend: {resumed:?}");
        let after = app.clock().now();
        // A domain that goes on was only paused; one that lay in an image does not notice.
        let still = resumed == Resumed::Cancelled || after - before < Duration::from_secs(2);
        checks.check(after >= before && still, "the clock stands still in an image");
        let ticked = ticks.get();
        app.clock().sleep(Duration::from_millis(200)).await;
        checks.check(ticks.get() >= ticked + 5, "timers go on");
        checks.equal(stale_port.is_current(), resumed == Resumed::Cancelled, "ports are gone after a restore only");
        println!("suspend: goes on");
    }
    drop(stale_port);
    drop(stale_grant);
    own_grants(app, checks);
    own_ports(app, checks).await;
}
