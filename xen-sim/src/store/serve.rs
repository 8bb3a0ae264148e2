//! Between a domain's ring page and the server.

use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use xen_hal::{Clock, DomId, Port};
use xen_ring::{ByteReader, ByteWriter, SharedPage};
use xenstore_client::wire::offsets::{REPLIES, REQUESTS, SERVER_FEATURES};
use xenstore_client::wire::{HEADER_SIZE, Header, Op};

use crate::domain::Domain;
use crate::events::SimPort;
use crate::memory::SimPage;
use crate::world::World;

/// Introduces a domain and spawns the task that serves its ring.
pub(crate) fn serve(world: &Rc<World>, domain: DomId, page: SimPage, port: SimPort) {
    let serial = world.server.borrow_mut().introduce(domain);
    let page = SharedPage::new(page);
    page.store(SERVER_FEATURES, world.server.borrow().features.0);
    let reader = REQUESTS.reader(&page).expect("a fresh page");
    let writer = REPLIES.writer(&page).expect("a fresh page");
    let served = Served {
        world: Rc::downgrade(world),
        domain,
        serial,
        page,
        port,
        reader,
        writer,
        input: Vec::new(),
        output: Vec::new(),
    };
    world.spawn_in(DomId::DOM0, served.run()).detach();
}

struct Served {
    world: Weak<World>,
    domain: DomId,
    serial: u64,
    page: SharedPage<SimPage>,
    port: SimPort,
    reader: ByteReader,
    writer: ByteWriter,
    input: Vec<u8>,
    /// What is left of the packet that is being written.
    output: Vec<u8>,
}

impl Served {
    async fn run(mut self) {
        loop {
            let Some(world) = self.world.upgrade() else { return };
            if !world.server.borrow().is_current(self.domain, self.serial) {
                return;
            }
            // A domain that breaks the protocol is not talked to any more.
            let Some(moved) = self.round(&world) else { return };
            let slow = world.faults.borrow().store_delay;
            if moved && !slow.is_zero() {
                let delay = Duration::from_nanos(world.random.borrow_mut().u64(0..=slow.as_nanos() as u64));
                let clock = Domain { world: self.world.clone(), id: DomId::DOM0 };
                drop(world);
                clock.sleep(delay).await;
            } else if !moved {
                drop(world);
                self.wait().await;
            }
        }
    }

    async fn wait(&self) {
        poll_fn(|cx| {
            let Some(world) = self.world.upgrade() else { return Poll::Ready(()) };
            let mut server = world.server.borrow_mut();
            if !server.is_current(self.domain, self.serial) {
                return Poll::Ready(());
            }
            server.set_waker(self.domain, cx.waker());
            let stalled = !self.output.is_empty();
            if !stalled && server.outstanding(self.domain) > 0 {
                return Poll::Ready(());
            }
            drop(server);
            self.port.poll_wait(cx)
        })
        .await;
    }

    /// Takes one request and writes what there is room for; `None` where the domain is beyond help.
    fn round(&mut self, world: &Rc<World>) -> Option<bool> {
        let mut moved = self.write(world)?;
        let mut server = world.server.borrow_mut();
        if server.outstanding(self.domain) < server.quotas.outstanding {
            let mut bytes = [0; 1024];
            let step = self.reader.read(&self.page, &mut bytes).ok()?;
            self.input.extend_from_slice(&bytes[..step.bytes]);
            if step.notify {
                self.port.notify();
            }
            moved |= step.bytes > 0;
            if let Some(header) = self.input.first_chunk::<HEADER_SIZE>() {
                let header = Header::from_bytes(header);
                let end = HEADER_SIZE + header.payload_len()?;
                if self.input.len() >= end {
                    let eagain = world.faults.borrow().eagain;
                    let ends = Op::from_number(header.op) == Some(Op::TransactionEnd);
                    if ends && server.refuse_commits == 0 && world.chance(eagain) {
                        server.refuse_commits = 1;
                    }
                    let packet: Vec<u8> = self.input.drain(..end).collect();
                    server.handle(self.domain, header, &packet[HEADER_SIZE..]);
                    moved = true;
                }
            }
        }
        drop(server);
        Some(moved | self.write(world)?)
    }

    fn write(&mut self, world: &Rc<World>) -> Option<bool> {
        let mut moved = false;
        loop {
            if self.output.is_empty() {
                let mut server = world.server.borrow_mut();
                let waiting = server.outstanding(self.domain);
                let reorder = world.faults.borrow().reorder;
                let index = match waiting > 1 && world.chance(reorder) {
                    true => world.random.borrow_mut().usize(0..waiting),
                    false => 0,
                };
                match server.take_output(self.domain, index) {
                    Some(packet) => self.output = packet,
                    None => return Some(moved),
                }
            }
            let step = self.writer.write(&self.page, &self.output).ok()?;
            self.output.drain(..step.bytes);
            if step.notify {
                self.port.notify();
            }
            moved |= step.bytes > 0;
            if !self.output.is_empty() {
                return Some(moved);
            }
        }
    }
}
