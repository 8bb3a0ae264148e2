//! Backends that do what they may not, against blkfront. Each test that stands for a security advisory names it.

mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use xen_blkif::front::{self, Disk};
use xen_blkif::protocol::{Abi, Body, Operation, Request, Response, Status};
use xen_blkif::{BlockDevice, Error, Geometry};
use xen_hal::{Access, Clock, DomId, Errno, EventChannels, GrantRef, GrantTable, MapRequest, Port, PortNumber};
use xen_ring::{BackRing, SharedMapping};
use xen_sim::{Domain, SimMapping, SimPort, Toolstack, Xen, check};
use xenstore_client::xenbus::{Backend, Device, Failure, Signals, backend};
use xenstore_client::{Error as StoreError, Restart, Tree};

use support::log::{keep_log, take_log};
use support::script::{Script, script};

const DEVICE: u32 = 51712;
const SECTORS: u64 = 64;

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(Errno::EIO, error.to_string())
}

/// A backend that runs a script.
struct BadBackend {
    domain: Domain,
    nodes: Vec<(&'static str, &'static str)>,
    run: Script<Served>,
}

struct Served {
    domain: Domain,
    peer: DomId,
    ring: RefCell<BackRing<Abi>>,
    memory: SharedMapping<SimMapping>,
    port: SimPort,
}

impl Served {
    async fn request(&self) -> Request {
        loop {
            if let Some(request) = self.ring.borrow_mut().pop(&self.memory).unwrap() {
                return request;
            }
            self.domain.sleep(Duration::from_micros(100)).await;
        }
    }

    fn answer(&self, response: Response) {
        self.ring.borrow_mut().push(&self.memory, &response);
        let _ = self.ring.borrow_mut().publish(&self.memory);
        self.port.notify();
    }
}

impl Backend for BadBackend {
    type Link = Served;

    async fn prepare(&mut self, _: &Device) -> Result<(), Failure> {
        Ok(())
    }

    async fn offer(&mut self, device: &Device, tree: &Tree) -> Result<(), StoreError> {
        for (key, value) in self.nodes.iter().filter(|(key, _)| *key == "max-ring-page-order") {
            tree.set(&device.own(key), *value).await?;
        }
        tree.set(&device.own("feature-max-indirect-segments"), &256_u32).await
    }

    async fn connect(&mut self, device: &Device) -> Result<Served, Failure> {
        let reference: GrantRef = device.get_other("ring-ref").await?.ok_or_else(|| failure("no ring"))?;
        let port: PortNumber = device.get_other("event-channel").await?.ok_or_else(|| failure("no port"))?;
        let peer = device.other_domain();
        let mapping = self.domain.map(&[MapRequest { peer, reference, access: Access::ReadWrite }]).map_err(failure)?;
        let memory = SharedMapping::new(mapping).map_err(failure)?;
        let ring = RefCell::new(BackRing::attach(Abi::X86_64, &memory).map_err(failure)?);
        let port = self.domain.bind_interdomain(peer, port).map_err(failure)?;
        Ok(Served { domain: self.domain.clone(), peer, ring, memory, port })
    }

    async fn publish(&mut self, device: &Device, _: &Served, tree: &Tree) -> Result<(), StoreError> {
        tree.set(&device.own("feature-flush-cache"), &true).await?;
        tree.set(&device.own("feature-barrier"), &true).await?;
        tree.set(&device.own("feature-discard"), &true).await?;
        tree.set(&device.own("feature-persistent"), &true).await?;
        tree.set(&device.own("sectors"), &SECTORS).await?;
        for (key, value) in &self.nodes {
            tree.set(&device.own(key), *value).await?;
        }
        Ok(())
    }

    async fn run(&mut self, _: &Device, served: Served, signals: &Signals) -> Result<(), Failure> {
        let served = Rc::new(served);
        (self.run)(served.clone()).await;
        signals.closing().await;
        Ok(())
    }
}

/// Runs `user` on a disk that a script serves; says what the frontend's error node holds afterwards.
fn against_frontend(
    xen: &Xen,
    run: impl AsyncFn(&Served) + 'static,
    user: impl AsyncFn(&Disk<Domain>) + 'static,
) -> Option<String> {
    against_frontend_with(xen, &[], run, user)
}

/// The same, where the backend says some things in other words.
fn against_frontend_with(
    xen: &Xen,
    nodes: &[(&'static str, &'static str)],
    run: impl AsyncFn(&Served) + 'static,
    user: impl AsyncFn(&Disk<Domain>) + 'static,
) -> Option<String> {
    run_against_frontend(xen, nodes.to_vec(), script(run), script(user))
}

fn run_against_frontend(
    xen: &Xen,
    nodes: Vec<(&'static str, &'static str)>,
    run: Script<Served>,
    user: Script<Disk<Domain>>,
) -> Option<String> {
    let toolstack = xen.toolstack();
    let (front, back) = (xen.domain(), xen.domain());
    let (store, domain) = (back.store(), back.clone());
    let path = Toolstack::paths("vbd", front.id(), back.id(), DEVICE).1;
    let (front_id, back_id) = (front.id(), back.id());
    let front_store = front.store();
    xen.run(async move {
        toolstack.attach_with("vbd", front_id, back_id, DEVICE, &[("mode", "w")]).await.unwrap();
        back.spawn(async move {
            let mut driver = BadBackend { domain: domain.clone(), nodes, run };
            drop(backend(&store, &domain, &path, &mut driver).await);
        })
        .detach();
        let device = format!("device/vbd/{DEVICE}");
        let options = front::Options::default();
        let (disk, runner) =
            front::connect(&front_store, front.clone(), front.clone(), front.clone(), &device, options);
        front.spawn(async move { drop(runner.await) }).detach();
        user(Rc::new(disk)).await;
        front.sleep(Duration::from_millis(50)).await;
        let error = format!("/local/domain/{}/error/device/vbd/{DEVICE}/error", front_id.0);
        toolstack.store().get::<String>(&error).await.unwrap()
    })
}

async fn read(disk: &Disk<Domain>) -> Result<(), Error> {
    let mut bytes = [0; 512];
    disk.read_bytes(0, &mut bytes).await
}

#[test]
fn xsa_376_a_backends_answers_are_checked() {
    let okay =
        |request: &Request| Response { id: request.id, operation: request.answered_operation(), status: Status::Okay };
    check("unknown id", 10, |xen| {
        let error = against_frontend(
            xen,
            async move |served| {
                let request = served.request().await;
                served.answer(Response { id: 31, ..okay(&request) });
            },
            async |disk| assert_eq!(read(disk).await, Err(Error::Gone)),
        );
        assert_eq!(error.as_deref(), Some("5 the backend has answered request 31, which it does not have"));
    });
    check("huge id", 10, |xen| {
        let error = against_frontend(
            xen,
            async move |served| {
                let request = served.request().await;
                served.answer(Response { id: u64::MAX, ..okay(&request) });
            },
            async |disk| assert_eq!(read(disk).await, Err(Error::Gone)),
        );
        assert!(error.unwrap().contains("which it does not have"));
    });
    check("another operation", 10, |xen| {
        let error = against_frontend(
            xen,
            async move |served| {
                let request = served.request().await;
                served.answer(Response { operation: Operation::Write, ..okay(&request) });
            },
            async |disk| assert_eq!(read(disk).await, Err(Error::Gone)),
        );
        assert_eq!(error.as_deref(), Some("5 the backend has answered request 0 as write, which was read"));
    });
    check("answers from nowhere", 10, |xen| {
        let error = against_frontend(
            xen,
            async move |served| {
                served.request().await;
                served.memory.store(8, 2);
                served.port.notify();
            },
            async |disk| assert_eq!(read(disk).await, Err(Error::Gone)),
        );
        assert!(error.unwrap().contains("ring index out of range"));
    });
}

#[test]
fn a_backend_that_tells_nonsense_of_its_disk() {
    for (key, value, expected) in [
        ("sector-size", "1000", "sector-size = 1000: expected a power of two from 512 to 65536"),
        ("sector-size", "0", "sector-size = 0: expected a power of two"),
        ("sectors", "many", "sectors"),
    ] {
        check("nonsense", 5, |xen| {
            let error = against_frontend_with(
                xen,
                &[(key, value)],
                async |_| {},
                async |disk| assert_eq!(disk.ready().await.err(), Some(Error::Gone)),
            );
            assert!(error.as_ref().is_some_and(|error| error.contains(expected)), "{key} = {value}: {error:?}");
        });
    }
}

#[test]
fn a_feature_that_is_no_number_is_not_offered() {
    const FEATURES: [&str; 6] = [
        "feature-flush-cache",
        "feature-barrier",
        "feature-discard",
        "feature-persistent",
        "feature-max-indirect-segments",
        "max-ring-page-order",
    ];
    for value in ["", "yes", "-1", "1;"] {
        check("features", 3, |xen| {
            keep_log();
            let mut nodes = FEATURES.map(|key| (key, value)).to_vec();
            nodes.push(("physical-sector-size", "large"));
            let error = against_frontend_with(
                xen,
                &nodes,
                async |served| {
                    let request = served.request().await;
                    let operation = request.answered_operation();
                    served.answer(Response { id: request.id, operation, status: Status::Okay });
                },
                async |disk| {
                    assert_eq!(disk.ready().await, Ok(Geometry::plain(SECTORS)));
                    assert_eq!(read(disk).await, Ok(()));
                },
            );
            assert_eq!(error, None);
            let log = take_log();
            for (key, value) in &nodes {
                let told: Vec<_> = log.iter().filter(|line| line.contains(&format!("{key} = {value:?}"))).collect();
                assert_eq!(told.len(), 1, "one line names {key}: {log:?}");
            }
        });
    }
}

#[test]
fn xsa_391_events_without_end_from_a_backend() {
    check("storm", 5, |xen| {
        let error = against_frontend(
            xen,
            async |served| {
                let request = served.request().await;
                for _ in 0..5_000 {
                    served.port.notify();
                    served.domain.sleep(Duration::from_micros(2)).await;
                }
                let operation = request.answered_operation();
                served.answer(Response { id: request.id, operation, status: Status::Okay });
            },
            async |disk| assert_eq!(read(disk).await, Ok(())),
        );
        assert_eq!(error, None);
    });
}

#[test]
fn xsa_396_and_403_pages_that_a_backend_keeps_are_given_to_nobody_and_hold_nothing_of_ours() {
    check("kept pages", 20, |xen| {
        let error = against_frontend(
            xen,
            async |served| {
                let request = served.request().await;
                let Body::Direct { segments, .. } = request.body else { panic!("one page is not indirect") };
                let reference = GrantRef(segments[0].reference);
                let peer = served.peer;
                let request_map = [MapRequest { peer, reference, access: Access::ReadWrite }];
                let kept = SharedMapping::new(served.domain.map(&request_map).unwrap()).unwrap();
                // All but the sector that was asked for is zero: no other memory of the guest's.
                let mut bytes = [0xff; 4096];
                kept.read(0, &mut bytes);
                assert!(bytes.iter().all(|byte| *byte == 0));
                let operation = request.answered_operation();
                served.answer(Response { id: request.id, operation, status: Status::Okay });
                let next = served.request().await;
                let Body::Direct { segments, .. } = next.body else { panic!("one page is not indirect") };
                assert!(segments[0].reference != 0);
                served.answer(Response { id: next.id, operation: next.answered_operation(), status: Status::Okay });
                drop(kept);
            },
            async |disk| {
                assert_eq!(read(disk).await, Ok(()));
                assert_eq!(read(disk).await, Ok(()));
            },
        );
        assert_eq!(error, None);
    });
}

/// The guest is restored, and what its new backend says makes no ring possible: who waits gets an error, and the next
/// restore brings the disk back.
#[test]
fn xsa_465_a_restore_after_which_there_is_no_ring() {
    check("no ring", 40, |xen| {
        let toolstack = xen.toolstack();
        let (front, back) = (xen.domain(), xen.domain());
        let (front_store, back_store) = (front.store(), back.store());
        let paths = Toolstack::paths("vbd", front.id(), back.id(), DEVICE);
        let start_backend = {
            let (back, path) = (back.clone(), paths.1.clone());
            move |sectors: &'static str| {
                let (store, domain, path) = (back_store.clone(), back.clone(), path.clone());
                back.spawn(async move {
                    let run = async |served: &Served| {
                        loop {
                            let request = served.request().await;
                            let operation = request.answered_operation();
                            served.answer(Response { id: request.id, operation, status: Status::Okay });
                        }
                    };
                    let nodes = vec![("sectors", sectors)];
                    let mut driver = BadBackend { domain: domain.clone(), nodes, run: script(run) };
                    drop(backend(&store, &domain, &path, &mut driver).await);
                })
            }
        };
        let dom0 = xen.dom0();
        xen.run(async move {
            let attach = async || {
                toolstack.attach_with("vbd", front.id(), back.id(), DEVICE, &[("mode", "w")]).await.unwrap();
            };
            attach().await;
            let mut driver = start_backend("64");
            let device = format!("device/vbd/{DEVICE}");
            let options = front::Options::default();
            let (disk, runner) =
                front::connect(&front_store, front.clone(), front.clone(), front.clone(), &device, options);
            front.spawn(async move { drop(runner.await) }).detach();
            assert_eq!(read(&disk).await, Ok(()));
            for (sectors, expected) in [("seven", Err(Error::Gone)), ("64", Ok(()))] {
                let quiet = front_store.quiesce().await.unwrap();
                driver.cancel().await;
                toolstack.store().remove(&paths.1).await.unwrap();
                toolstack.store().remove(&paths.0).await.unwrap();
                attach().await;
                driver = start_backend(sectors);
                front.suspend_and_restore();
                quiet.go_on(Restart::New);
                // The driver hears of the restore a moment later.
                dom0.sleep(Duration::from_secs(1)).await;
                assert_eq!(read(&disk).await, expected, "{sectors} sectors");
            }
        });
    });
}

#[test]
fn what_a_backend_cannot_do_after_all_degrades() {
    check("unsupported", 10, |xen| {
        let error = against_frontend(
            xen,
            async |served| {
                loop {
                    let request = served.request().await;
                    let operation = request.answered_operation();
                    let status = match operation {
                        Operation::Flush | Operation::Discard => Status::Unsupported,
                        _ => Status::Okay,
                    };
                    served.answer(Response { id: request.id, operation, status });
                }
            },
            async |disk| {
                assert_eq!(disk.flush().await, Ok(()), "by a barrier");
                assert_eq!(disk.flush().await, Ok(()), "by a barrier at once");
                assert_eq!(disk.discard(0, 8, false).await, Err(Error::Unsupported("discard")));
                assert_eq!(disk.geometry().discard, None);
                assert_eq!(read(disk).await, Ok(()));
            },
        );
        assert_eq!(error, None);
    });
}
