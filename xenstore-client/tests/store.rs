//! The client against the simulation's store.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::join_all;
use xen_hal::{Clock, DomId, Errno};
use xen_sim::{Faults, Usage, Xen, check};
use xenstore_client::wire::PathError;
use xenstore_client::{Access, Error, ErrorKind, Path, Permission, Restart};

/// All that can go wrong with the store without a loss.
fn rough(xen: &Xen) {
    xen.set_faults(Faults {
        eagain: 20,
        spurious_events: 5,
        reorder: 30,
        store_delay: Duration::from_millis(2),
        ..Faults::default()
    });
}

#[test]
fn nodes_are_written_read_listed_and_removed() {
    check("nodes", 20, |xen| {
        rough(xen);
        let domain = xen.domain();
        let store = domain.store();
        xen.run(async move {
            store.write("data/a", b"one").await.unwrap();
            store.set("data/b/c", &17_u32).await.unwrap();
            store.mkdir("data/d").await.unwrap();
            assert_eq!(store.read("data/a").await.unwrap(), b"one");
            assert_eq!(store.read_as::<u32>("data/b/c").await, Ok(17));
            assert_eq!(store.read("data/d").await.unwrap(), b"");
            assert_eq!(store.list("data").await.unwrap(), ["a", "b", "d"]);
            assert_eq!(store.list("data/d").await.unwrap(), [""; 0]);
            let home = format!("/local/domain/{}", domain.id().0);
            assert_eq!(store.domain_path(domain.id()).await.unwrap(), home);
            assert_eq!(store.read(&format!("{home}/data/a")).await.unwrap(), b"one");
            assert!(store.exists("data/b").await.unwrap());
            store.remove("data/b").await.unwrap();
            assert!(!store.exists("data/b/c").await.unwrap());
            assert_eq!(store.get::<u32>("data/b/c").await, Ok(None));
            let permissions = [Permission::new(domain.id(), Access::None), Permission::new(DomId(7), Access::Read)];
            store.set_permissions("data/a", &permissions).await.unwrap();
            assert_eq!(store.permissions("data/a").await.unwrap(), permissions);
        });
    });
}

#[test]
fn errors_name_the_path_and_what_was_wrong() {
    check("errors", 1, |xen| {
        let domain = xen.domain();
        let store = domain.store();
        xen.run(async move {
            let text = |error: Error| error.to_string();
            let missing = store.read("data/none").await.unwrap_err();
            assert!(missing.is_not_found());
            assert_eq!(text(missing), "store: READ data/none: ENOENT (no such entry)");
            assert_eq!(store.read("/local/domain/0/control").await.unwrap_err().errno(), Some(Errno::EACCES));
            assert_eq!(store.write("/tool", b"").await.unwrap_err().errno(), Some(Errno::EACCES));
            let bad = store.read("data/a b").await.unwrap_err();
            let expected = ErrorKind::Request(PathError::Character { character: ' ', at: 6 }.into());
            assert_eq!((bad.kind.clone(), &*bad.path), (expected, "data/a b"));
            store.write("data/x", b"many").await.unwrap();
            assert_eq!(
                text(store.read_as::<u16>("data/x").await.unwrap_err()),
                "store: READ data/x: expected a number from 0 to 65535, found \"many\""
            );
            assert!(store.read_as::<Path>("data/x").await.is_ok());
            let large = store.write("data/y", &[0; 4090]).await.unwrap_err();
            assert_eq!(
                text(large),
                "store: WRITE data/y: the request has 4097 bytes of payload, at most 4096 are allowed"
            );
            assert_eq!(store.write("data/y", &[0; 3000]).await.unwrap_err().errno(), Some(Errno::ENOSPC));
            assert_eq!(store.introduce(DomId(9), 1, 1).await.unwrap_err().errno(), Some(Errno::EACCES));
            assert_eq!(store.watch("@releaseDomain").await.err().unwrap().errno(), Some(Errno::EACCES));
        });
    });
}

#[test]
fn many_requests_are_under_way_together_and_each_gets_its_own_answer() {
    check("pipelining", 20, |xen| {
        rough(xen);
        let store = xen.domain().store();
        xen.run(async move {
            join_all((0..300_u32).map(|index| {
                let store = store.clone();
                async move {
                    let path = format!("data/{}", index % 50);
                    if index < 50 {
                        store.set(&path, &index).await.unwrap();
                    }
                    store.get::<u32>(&path).await.unwrap()
                }
            }))
            .await
            .into_iter()
            .enumerate()
            .for_each(|(index, value)| assert!(value.is_none_or(|value| value == index as u32 % 50)));
            assert_eq!(store.unexpected(), 0);
        });
    });
}

#[test]
fn quotas_are_errors() {
    check("quotas", 1, |xen| {
        let domain = xen.domain();
        let store = domain.store();
        let again = domain.clone();
        xen.run(async move {
            let mut watches = Vec::new();
            let refused = loop {
                match store.watch("data").await {
                    Ok(watch) => watches.push(watch),
                    Err(error) => break error,
                }
            };
            assert_eq!((watches.len(), refused.errno()), (128, Some(Errno::ENOSPC)));
            assert_eq!(store.watches(), 128);
            let mut count = 0;
            let refused = loop {
                match store.mkdir(&format!("data/{}/{count}", count / 100)).await {
                    Ok(()) => count += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!(refused.errno(), Some(Errno::ENOSPC));
            assert!(count > 900, "{count}");
            drop(watches);
            assert!(store.read("data").await.is_ok());
        });
        xen.settle();
        assert_eq!(again.in_use().watches, 0);
    });
}

#[test]
fn no_update_is_lost_between_transactions_of_three_domains() {
    check("counter", 20, |xen| {
        rough(xen);
        let toolstack = xen.toolstack();
        let domains = [xen.domain(), xen.domain()];
        let counter = "/shared/counter";
        let stores: Vec<_> = domains.iter().map(|domain| domain.store()).chain([toolstack.store().clone()]).collect();
        let total = xen.run(async move {
            let dom0 = stores[2].clone();
            dom0.set(counter, &0_u32).await.unwrap();
            dom0.set_permissions(counter, &[Permission::new(DomId::DOM0, Access::ReadWrite)]).await.unwrap();
            join_all(stores.iter().map(|store| async move {
                for _ in 0..30 {
                    store
                        .transaction(async |t| -> Result<(), Error> {
                            let value: u32 = t.read_as(counter).await?;
                            t.set(counter, &(value + 1)).await
                        })
                        .await
                        .unwrap();
                }
            }))
            .await;
            dom0.read_as::<u32>(counter).await.unwrap()
        });
        assert_eq!(total, 90);
        domains.iter().for_each(|domain| assert_eq!(domain.in_use().transactions, 0));
    });
}

#[test]
fn a_transaction_that_fails_changes_nothing() {
    check("abort", 20, |xen| {
        let domain = xen.domain();
        let store = domain.store();
        xen.run(async move {
            let outcome = store
                .transaction(async |t| -> Result<(), Error> {
                    t.write("data/a", b"1").await?;
                    assert_eq!(t.read("data/a").await?, b"1");
                    assert!(!store.exists("data/a").await?, "others do not see it yet");
                    t.read("data/missing").await.map(drop)
                })
                .await;
            assert!(outcome.unwrap_err().is_not_found());
            assert!(!store.exists("data/a").await.unwrap());
        });
        xen.settle();
        assert_eq!(domain.in_use().transactions, 0);
    });
}

#[test]
fn a_hopeless_transaction_ends() {
    check("storm", 1, |xen| {
        xen.server().borrow_mut().refuse_commits = u32::MAX;
        let domain = xen.domain();
        let store = domain.store();
        let tries = Rc::new(Cell::new(0));
        let count = tries.clone();
        let error = xen.run(async move {
            let body = async |t: &xenstore_client::Transaction| -> Result<(), Error> {
                count.set(count.get() + 1);
                t.write("data/a", b"1").await
            };
            store.transaction(body).await.unwrap_err()
        });
        assert_eq!((error.kind, tries.get()), (ErrorKind::Contended { tries: 1000 }, 1000));
    });
}

/// Polls a future at most `polls` times, and drops it then.
async fn dropped_after<T>(future: impl Future<Output = T>, polls: u64) -> Option<T> {
    let mut future = pin!(future);
    let mut count = 0;
    poll_fn(|cx| {
        if count == polls {
            return Poll::Ready(None);
        }
        count += 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => {
                // Others are to have their turn, and so is this at some time.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    })
    .await
}

#[test]
fn whatever_is_dropped_at_any_moment_leaves_nothing_behind() {
    check("cancellation", 1500, |xen| {
        rough(xen);
        let domain = xen.domain();
        let store = domain.store();
        let polls: Vec<u64> = (0..12).map(|_| xen.random(40)).collect();
        let before = domain.in_use();
        let used = store.clone();
        xen.run(async move {
            let store = &used;
            join_all(polls.into_iter().enumerate().map(|(index, polls)| async move {
                match index % 4 {
                    0 => drop(dropped_after(store.watch("data"), polls).await),
                    1 => {
                        let body = async |t: &xenstore_client::Transaction| -> Result<(), Error> {
                            let value = t.get::<u32>("data/n").await?.unwrap_or(0);
                            t.set("data/n", &(value + 1)).await
                        };
                        drop(dropped_after(store.transaction(body), polls).await);
                    }
                    2 => drop(dropped_after(store.wait_for("data/n", |_| None::<()>), polls).await),
                    _ => drop(dropped_after(store.list("data"), polls).await),
                }
            }))
            .await;
            // Places for requests and transactions are all there: they would be waited for in vain.
            join_all((0..200).map(|_| store.exists("data"))).await;
            for _ in 0..3 {
                join_all((0..8).map(|_| store.transaction(async |t| t.exists("data").await))).await;
            }
        });
        xen.settle();
        // The store may be slow: let time pass.
        let clock = domain.clone();
        xen.run(async move { clock.sleep(Duration::from_secs(5)).await });
        assert_eq!(domain.in_use(), before);
        assert_eq!((store.watches(), store.unexpected()), (0, 0));
    });
}

#[test]
fn watches_tell_of_changes_and_slow_readers_lose_nothing_but_detail() {
    check("watches", 50, |xen| {
        rough(xen);
        let domain = xen.domain();
        let store = domain.store();
        xen.run(async move {
            let mut watch = store.watch("data").await.unwrap();
            let first = watch.next().await.unwrap();
            assert_eq!((&*first.path, first.all), ("data", false));
            store.write("data/a", b"1").await.unwrap();
            assert_eq!(&*watch.next().await.unwrap().path, "data/a");

            // Equal events are one.
            for _ in 0..10 {
                store.write("data/a", b"2").await.unwrap();
            }
            store.write("data/b", b"2").await.unwrap();
            let mut seen = Vec::new();
            while !seen.contains(&"data/b".to_owned()) {
                seen.push(watch.next().await.unwrap().path.into());
            }
            assert!(seen.len() <= 12);

            // More than are kept are one that says so, and the stream goes on.
            for index in 0..200 {
                store.write(&format!("data/many/{index}"), b"").await.unwrap();
            }
            let mut all = false;
            let mut count = 0;
            while !all {
                let event = watch.next().await.unwrap();
                all = event.all;
                count += 1;
                assert!(count < 70);
            }
            store.remove("data/many").await.unwrap();
            assert_eq!(store.wait_for("data/many", |value| value.is_none().then_some(1)).await, Ok(1));
        });
    });
}

#[test]
fn a_watch_ends_when_it_is_dropped() {
    check("unwatch", 50, |xen| {
        rough(xen);
        let domain = xen.domain();
        let store = domain.store();
        let ended = domain.clone();
        xen.run(async move {
            let watch = store.watch("data").await.unwrap();
            assert_eq!(domain.in_use().watches, 1);
            drop(watch);
            // Requests are carried out in order, so that this answer comes after the end.
            store.read("data").await.unwrap();
            assert_eq!(domain.in_use().watches, 0);
        });
        assert!(ended.is_alive());
    });
}

#[test]
fn wait_for_sees_what_another_domain_writes() {
    check("wait_for", 50, |xen| {
        rough(xen);
        let domain = xen.domain();
        let toolstack = xen.toolstack();
        let store = domain.store();
        let path = format!("/local/domain/{}/control/shutdown", domain.id().0);
        let writer = xen.dom0().spawn(async move {
            for value in ["", "halt", "", "poweroff"] {
                toolstack.store().write(&path, value.as_bytes()).await.unwrap();
            }
        });
        let found = xen.run(async move {
            store.wait_for("control/shutdown", |value| (value == Some(b"poweroff")).then_some(7)).await
        });
        assert_eq!(found, Ok(7));
        xen.run(writer);
    });
}

#[test]
fn long_directories_are_listed_whole() {
    check("directory", 10, |xen| {
        rough(xen);
        let domain = xen.domain();
        let store = domain.store();
        let toolstack = xen.toolstack();
        let dom0 = xen.dom0();
        let data = format!("/local/domain/{}/data", domain.id().0);
        xen.run(async move {
            // A guest's own directory has an end.
            let names = (0..100).map(|index| format!("data/an-entry-with-a-long-name-{index}"));
            let outcomes = join_all(names.map(|name| async { store.mkdir(&{ name }).await })).await;
            assert!(outcomes.iter().any(|outcome| outcome.as_ref().is_err_and(|e| e.errno() == Some(Errno::ENOSPC))));
            store.remove("data").await.unwrap();
            // dom0's has none.
            let writer = toolstack.store().clone();
            writer.mkdir(&data).await.unwrap();
            let open = [Permission::new(DomId::DOM0, Access::Read)];
            writer.set_permissions(&data, &open).await.unwrap();
            for index in 0..1000 {
                writer.mkdir(&format!("{data}/entry-number-{index}")).await.unwrap();
            }
            assert_eq!(store.list_short("data").await.unwrap_err().errno(), Some(Errno::E2BIG));
            let names = store.list("data").await.unwrap();
            assert_eq!(names.len(), 1000);
            // Whatever is added meanwhile: a list is whole.
            let clock = dom0.clone();
            let task = dom0.spawn(async move {
                for index in 0..5 {
                    clock.sleep(Duration::from_millis(15)).await;
                    writer.mkdir(&format!("{data}/later-{index}")).await.unwrap();
                }
            });
            for _ in 0..4 {
                let names = store.list("data").await.unwrap();
                let mut unique = names.clone();
                unique.sort();
                unique.dedup();
                assert_eq!(unique.len(), names.len());
                assert_eq!(names.iter().filter(|name| name.starts_with("entry")).count(), 1000);
            }
            task.await;
        });
    });
}

#[test]
fn after_a_restore_all_goes_on() {
    check("restore", 200, |xen| {
        rough(xen);
        let domain = xen.domain();
        let store = domain.store();
        let toolstack = xen.toolstack();
        let events = Rc::new(RefCell::new(0));
        let counted = events.clone();
        let main = domain.clone();
        let path = format!("/local/domain/{}/data/x", domain.id().0);
        xen.run(async move {
            let mut watch = store.watch("data/x").await.unwrap();
            watch.next().await.unwrap();
            let reader = main.spawn(async move {
                while watch.next().await.is_some() {
                    *counted.borrow_mut() += 1;
                }
            });
            // Work goes on while the domain is suspended: it waits.
            let worker = store.clone();
            let work = main.spawn(async move {
                for index in 0..40_u32 {
                    worker
                        .transaction(async |t| -> Result<(), Error> {
                            let value = t.get::<u32>("data/n").await?.unwrap_or(0);
                            t.set("data/n", &(value + 1)).await
                        })
                        .await
                        .unwrap();
                    assert!(worker.get::<u32>("data/n").await.unwrap().unwrap() > index);
                }
            });
            main.sleep(Duration::from_millis(30)).await;
            for restart in [Restart::Same, Restart::New, Restart::New] {
                let quiesced = store.quiesce().await.unwrap();
                if restart == Restart::New {
                    main.suspend_and_restore();
                }
                quiesced.resume(restart);
                main.sleep(Duration::from_millis(20)).await;
            }
            work.await;
            assert_eq!(store.read_as::<u32>("data/n").await, Ok(40));
            assert_eq!(store.generation(), 2);
            let before = *events.borrow();
            toolstack.store().write(&path, b"1").await.unwrap();
            while *events.borrow() == before {
                main.sleep(Duration::from_millis(1)).await;
            }
            drop(reader);
        });
        let clock = domain.clone();
        xen.run(async move { clock.sleep(Duration::from_secs(1)).await });
        assert_eq!(domain.in_use(), Usage { ports: 0, grants: 0, mapped: 0, watches: 0, transactions: 0 });
    });
}

#[test]
fn the_last_handle_ends_the_task() {
    check("orderly end", 20, |xen| {
        let domain = xen.domain();
        let (store, runner) = xenstore_client::connect(domain.clone(), domain.clone()).unwrap();
        let task = domain.spawn(runner.run());
        let outcome = xen.run(async move {
            let watch = store.watch("data").await.unwrap();
            drop(store);
            drop(watch);
            task.await
        });
        assert_eq!(outcome, Ok(()));
        assert_eq!(domain.in_use(), Usage { ports: 0, grants: 0, mapped: 0, watches: 0, transactions: 0 });
        assert!(xenstore_client::connect(domain.clone(), domain).is_err(), "there is one connection");
    });
}

#[test]
fn a_runner_that_is_dropped_is_an_error_to_who_waits() {
    check("dropped runner", 20, |xen| {
        let domain = xen.domain();
        let (store, runner) = xenstore_client::connect(domain.clone(), domain.clone()).unwrap();
        let waiting = store.clone();
        let mut read = Box::pin(async move { waiting.read("data").await });
        assert!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(runner);
        assert!(xen.run(read).unwrap_err().is_broken());
        let error = xen.run(async move { store.read("data").await.unwrap_err() });
        assert!(error.is_broken());
        assert_eq!(error.to_string(), "store: READ data: the store client has ended");
    });
}

#[test]
fn the_same_seed_takes_the_same_steps() {
    let run = |seed| {
        let xen = Xen::new(seed);
        rough(&xen);
        let store = xen.domain().store();
        xen.run(async move {
            for index in 0..20_u32 {
                store.transaction(async |t| t.set("data/n", &index).await).await.unwrap();
            }
        });
        let outcome = (xen.steps(), xen.now());
        xen.end();
        outcome
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}
