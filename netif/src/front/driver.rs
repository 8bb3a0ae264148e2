//! The driver's side of an interface: its life on XenBus, and the rings' events while it is connected.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;

use futures_util::future::{Either, select};
use xen_hal::{Clock, Errno, EventChannels, Port, information};
use xen_ring::Storm;
use xenstore_client::xenbus::{Device, Failure, Frontend, Signals, State};
use xenstore_client::{Error as StoreError, Tree};

use super::rx::Rx;
use super::shared::{Phase, Shared};
use super::tx::Tx;
use super::{Info, Memory};
use crate::turn::yield_now;

/// What Ethernet carries where nobody has said anything else.
const USUAL_MTU: u16 = 1500;
/// The least that IPv4 takes (RFC 791).
const LEAST_MTU: u16 = 68;

pub(super) struct Driver<G: Memory, E, C> {
    pub(super) shared: Rc<Shared<G>>,
    pub(super) events: E,
    pub(super) clock: C,
}

/// What is offered to a backend: both rings and their bells.
pub(super) struct Link<G: Memory, P> {
    tx: Tx<G>,
    rx: Rx<G>,
    tx_port: P,
    /// Of its own where the backend can tell them apart.
    rx_port: Option<P>,
    info: Info,
    /// Whether the backend has several queues to choose from; it gets one.
    queues: bool,
    multicast_control: bool,
}

impl<G: Memory, E: EventChannels, C: Clock> Frontend for Driver<G, E, C> {
    const OFFERED: State = State::Connected;
    type Offer = Link<G, E::Port>;

    async fn offer(&mut self, device: &Device) -> Result<Self::Offer, Failure> {
        let peer = device.other_domain();
        let keys = read_keys(device).await?;
        let large = self.shared.options.large_segments && keys.gather;
        let mtu = match device.get::<u16>("mtu").await? {
            Some(mtu) if mtu >= LEAST_MTU => mtu,
            Some(mtu) => {
                let text = format!("{} = {mtu}: expected {LEAST_MTU} at least", device.own("mtu"));
                return Err(Failure::new(Errno::EINVAL, text));
            }
            None => USUAL_MTU,
        };
        let info = Info {
            mac: mac_address(device).await?,
            // Without scatter and gather a frame has one page.
            mtu: if keys.gather { mtu } else { mtu.min(USUAL_MTU) },
            checksum_v4: self.shared.options.checksums && keys.checksum_v4,
            checksum_v6: self.shared.options.checksums && keys.checksum_v6,
            gso_v4: large && keys.gso_v4,
            gso_v6: large && keys.gso_v6,
        };
        let bell = || {
            let made = self.events.alloc_unbound(peer);
            made.map_err(|error| Failure::new(Errno::ENOSPC, format!("{error}")))
        };
        let memory = &self.shared.memory;
        Ok(Link {
            tx: Tx::new(memory, peer, self.shared.options.transmit_pages)?,
            rx: Rx::new(memory, peer, self.shared.options.receive_pages)?,
            tx_port: bell()?,
            rx_port: if keys.split { Some(bell()?) } else { None },
            info,
            queues: keys.queues,
            multicast_control: self.shared.options.multicast_control && keys.multicast_control,
        })
    }

    async fn publish(&mut self, device: &Device, offer: &Self::Offer, tree: &Tree) -> Result<(), StoreError> {
        let reference = |memory: &xen_ring::LentPages<G::Grant>| memory.references().next().expect("one page");
        tree.set(&device.own("tx-ring-ref"), &reference(offer.tx.memory())).await?;
        tree.set(&device.own("rx-ring-ref"), &reference(offer.rx.memory())).await?;
        match &offer.rx_port {
            Some(rx_port) => {
                tree.set(&device.own("event-channel-tx"), &offer.tx_port.number()).await?;
                tree.set(&device.own("event-channel-rx"), &rx_port.number()).await?;
            }
            None => {
                // What an earlier backend has found would come first.
                remove(tree, &device.own("event-channel-tx")).await?;
                remove(tree, &device.own("event-channel-rx")).await?;
                tree.set(&device.own("event-channel"), &offer.tx_port.number()).await?;
            }
        }
        if offer.queues {
            tree.set(&device.own("multi-queue-num-queues"), &1_u32).await?;
        }
        for key in ["request-rx-copy", "feature-rx-notify", "feature-sg"] {
            tree.set(&device.own(key), &true).await?;
        }
        let (segments, checksums) = (self.shared.options.takes_segments(), self.shared.options.takes_blank());
        tree.set(&device.own("feature-gso-tcpv4"), &segments).await?;
        tree.set(&device.own("feature-gso-tcpv6"), &segments).await?;
        tree.set(&device.own("feature-no-csum-offload"), &!checksums).await?;
        tree.set(&device.own("feature-ipv6-csum-offload"), &checksums).await?;
        tree.set(&device.own("request-multicast-control"), &offer.multicast_control).await
    }

    async fn accept(&mut self, _: &Device, _: &mut Self::Offer) -> Result<(), Failure> {
        Ok(())
    }

    async fn run(&mut self, device: &Device, offer: Self::Offer, signals: &Signals) -> Result<(), Failure> {
        let Link { tx, rx, tx_port, rx_port, info, .. } = offer;
        let shared = &self.shared;
        shared.peer.set(device.other_domain());
        // A stack learns once how large its frames may be; what a later backend does not take is cut here.
        if shared.statistics.get().connections == 0 {
            shared.large.set(info.gso_v4 && info.checksum_v4);
        }
        shared.info.set(info);
        shared.count(|statistics| statistics.connections += 1);
        *shared.tx.borrow_mut() = Some(tx);
        *shared.rx.borrow_mut() = Some(rx);
        information!(
            "{}: up, served by {}, MTU {}{}",
            device.path(),
            device.other_domain(),
            info.mtu,
            if info.gso_v4 { ", large segments" } else { "" }
        );
        shared.set(Phase::Up);
        let outcome = serve(shared, &tx_port, rx_port.as_ref(), signals, &self.clock).await;
        shared.disconnect(Phase::Waiting);
        outcome
    }

    fn lost(&mut self) {
        self.shared.disconnect(Phase::Gone);
    }
}

/// What the backend offers.
struct Keys {
    gather: bool,
    checksum_v4: bool,
    checksum_v6: bool,
    gso_v4: bool,
    gso_v6: bool,
    split: bool,
    queues: bool,
    multicast_control: bool,
}

async fn read_keys(device: &Device) -> Result<Keys, Failure> {
    device
        .read_peer(async |peer| {
            if !peer.flag("feature-rx-copy").await? {
                let key = peer.path("feature-rx-copy");
                let text = format!("{key} is not 1: the backend cannot copy to this domain's pages");
                return Err(Failure::new(Errno::EOPNOTSUPP, text));
            }
            Ok(Keys {
                gather: peer.flag("feature-sg").await?,
                checksum_v4: !peer.flag("feature-no-csum-offload").await?,
                checksum_v6: peer.flag("feature-ipv6-csum-offload").await?,
                gso_v4: peer.flag("feature-gso-tcpv4").await?,
                gso_v6: peer.flag("feature-gso-tcpv6").await?,
                split: peer.flag("feature-split-event-channels").await?,
                queues: peer.number("multi-queue-max-queues", 0).await? > 0,
                multicast_control: peer.flag("feature-multicast-control").await?,
            })
        })
        .await
}

/// The address in the device's own directory.
pub(crate) async fn mac_address(device: &Device) -> Result<[u8; 6], Failure> {
    let text: String = match device.get("mac").await? {
        Some(text) => text,
        None => return Err(Failure::new(Errno::EINVAL, format!("the toolstack has written no {}", device.own("mac")))),
    };
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    let well = mac.iter_mut().all(|byte| {
        let part = parts.next().filter(|part| part.len() == 2);
        part.and_then(|part| u8::from_str_radix(part, 16).ok()).map(|value| *byte = value).is_some()
    });
    if !well || parts.next().is_some() || mac[0] & 1 != 0 {
        let text = format!("{} = {text}: expected an address such as 00:16:3e:12:34:56", device.own("mac"));
        return Err(Failure::new(Errno::EINVAL, text));
    }
    Ok(mac)
}

async fn remove(tree: &Tree, path: &str) -> Result<(), StoreError> {
    if tree.exists(path).await? { tree.remove(path).await } else { Ok(()) }
}

/// Tells the backend of what the device does with the rings, and the device of what the backend does.
async fn serve<G: Memory, P: Port>(
    shared: &Shared<G>,
    tx_port: &P,
    rx_port: Option<&P>,
    signals: &Signals,
    clock: &impl Clock,
) -> Result<(), Failure> {
    let mut storm = Storm::default();
    loop {
        shared.forget_kick();
        let (worked, more) = step(shared, tx_port, rx_port)?;
        if signals.is_closing() || shared.handles.get() == 0 {
            return Ok(());
        }
        if worked {
            storm.over();
        }
        if more {
            // There is something for the stack, which has been woken: it comes first.
            yield_now().await;
            continue;
        }
        let hurry = storm.is_calm();
        let event = {
            let mut closing = pin!(signals.closing());
            let waiting = poll_fn(|cx| {
                if hurry {
                    let first = tx_port.poll_wait(cx).is_ready();
                    if rx_port.is_some_and(|port| port.poll_wait(cx).is_ready()) || first {
                        return Poll::Ready(true);
                    }
                }
                let other = shared.poll_kicked(cx.waker()).is_ready() || closing.as_mut().poll(cx).is_ready();
                if other { Poll::Ready(false) } else { Poll::Pending }
            });
            match hurry {
                true => waiting.await,
                // Late by so much at most, where the peer rings without end.
                false => match select(waiting, clock.sleep(storm.pause())).await {
                    Either::Left((event, _)) => event,
                    Either::Right(_) => true,
                },
            }
        };
        if event {
            shared.count(|statistics| statistics.events += 1);
            storm.in_vain();
        }
    }
}

/// One look at both rings: whether the backend had done something, and whether there is more to look at at once.
fn step<G: Memory, P: Port>(shared: &Shared<G>, tx_port: &P, rx_port: Option<&P>) -> Result<(bool, bool), Failure> {
    if let Some(failure) = shared.failure.borrow_mut().take() {
        return Err(failure);
    }
    let (mut tx, mut rx) = (shared.tx.borrow_mut(), shared.rx.borrow_mut());
    let (Some(tx), Some(rx)) = (tx.as_mut(), rx.as_mut()) else { return Ok((false, false)) };
    let (mut refused, mut dropped, mut notifications) = (0, 0, 0);
    let mut worked = tx.reap(&mut refused)?;
    if tx.publish() {
        notifications += 1;
        tx_port.notify();
    }
    let was_ready = rx.is_ready();
    let ready = rx.advance(&shared.memory, shared.peer.get(), &mut dropped)?;
    worked |= ready && !was_ready;
    if rx.publish() {
        notifications += 1;
        rx_port.unwrap_or(tx_port).notify();
    }
    shared.count(|statistics| {
        statistics.refused += refused;
        statistics.dropped += dropped;
        statistics.notifications += notifications;
    });
    let room = shared.wants_room.get() && worked;
    if room {
        shared.wants_room.set(false);
    }
    if ready || room {
        shared.wake_stack();
    }
    let mut more = false;
    // A stack that has frames to read asks again when it has read them.
    if !ready {
        more |= rx.arm()?;
    }
    // What was sent is of interest in numbers, or where the stack waits for room.
    if tx.outstanding() > 0 {
        let after = if shared.wants_room.get() { 1 } else { tx.outstanding().div_ceil(2) };
        more |= tx.arm(after)?;
    }
    Ok((worked, more))
}
