//! The driver's side of an interface: its life on XenBus, and the rings' events while it is connected.

use alloc::rc::Rc;
use alloc::string::String;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll};

use xen_hal::{Clock, Errno, Memory, Port, Xen, information};
use xenbus::{Device, EventThrottle, Failure, Frontend, Keys, Phase, RateLimit, Signals, State, yield_now};
use xenstore_client::Error as StoreError;

use super::Info;
use super::rx::Rx;
use super::shared::Shared;
use super::tx::Tx;

/// What Ethernet carries where nobody has said anything else.
const USUAL_MTU: u16 = 1500;
/// The least that IPv4 takes (RFC 791), and IPv6 (RFC 8200).
const MIN_MTU: u16 = 68;
const MIN_MTU_V6: u16 = 1280;

pub(super) struct Driver<X: Xen> {
    pub(super) shared: Rc<Shared<X>>,
    pub(super) xen: X,
    /// For the lines that a backend can cause.
    pub(super) lines: RateLimit,
}

/// What a backend is granted: both rings and their event channels.
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

impl<X: Xen> Frontend for Driver<X> {
    const PUBLISHED: State = State::Connected;
    type Link = Link<X, X::Port>;

    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
        let keys = read_keys(device).await?;
        let large = self.shared.options.large_segments && keys.gather;
        let mtu = device.number("mtu", MIN_MTU.into()..=u16::MAX.into(), USUAL_MTU.into()).await?;
        let mtu = u16::try_from(mtu).unwrap_or(USUAL_MTU);
        let info = Info {
            mac: mac_address(device).await?,
            // Without scatter and gather a frame has one page.
            mtu: if keys.gather { mtu } else { mtu.min(USUAL_MTU) },
            checksum_v4: self.shared.options.checksums && keys.checksum_v4,
            checksum_v6: self.shared.options.checksums && keys.checksum_v6,
            gso_v4: large && keys.gso_v4,
            gso_v6: large && keys.gso_v6,
        };
        Ok(Link {
            tx: Tx::new(&self.xen, device, self.shared.options.transmit_pages)?,
            rx: {
                let options = &self.shared.options;
                Rx::new(&self.xen, device, options.receive_pages, options.spare_pages)?
            },
            tx_port: device.alloc_port(&self.xen)?,
            rx_port: if keys.split { Some(device.alloc_port(&self.xen)?) } else { None },
            info,
            queues: keys.queues,
            multicast_control: self.shared.options.multicast_control && keys.multicast_control,
        })
    }

    async fn publish(&mut self, keys: &Keys<'_>, link: &Self::Link) -> Result<(), StoreError> {
        let reference = |memory: &xen_ring::GrantedPages<X::Grant>| memory.references().next().expect("one page");
        keys.set("tx-ring-ref", &reference(link.tx.memory())).await?;
        keys.set("rx-ring-ref", &reference(link.rx.memory())).await?;
        match &link.rx_port {
            Some(rx_port) => {
                keys.set("event-channel-tx", &link.tx_port.number()).await?;
                keys.set("event-channel-rx", &rx_port.number()).await?;
            }
            None => {
                // What an earlier backend has found would come first.
                keys.remove("event-channel-tx").await?;
                keys.remove("event-channel-rx").await?;
                keys.set("event-channel", &link.tx_port.number()).await?;
            }
        }
        if link.queues {
            keys.set("multi-queue-num-queues", &1_u32).await?;
        }
        let (segments, checksums) = (self.shared.options.accepts_segments(), self.shared.options.accepts_blank());
        keys.set_flags(&[
            ("request-rx-copy", true),
            ("feature-rx-notify", true),
            ("feature-sg", true),
            ("feature-gso-tcpv4", segments),
            ("feature-gso-tcpv6", segments),
            ("feature-no-csum-offload", !checksums),
            ("feature-ipv6-csum-offload", checksums),
            ("request-multicast-control", link.multicast_control),
        ])
        .await
    }

    async fn accept(&mut self, _: &Device, _: &mut Self::Link) -> Result<(), Failure> {
        Ok(())
    }

    async fn run(&mut self, device: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure> {
        let Link { tx, rx, tx_port, rx_port, info, .. } = link;
        let shared = &self.shared;
        shared.peer.set(device.other_domain());
        // A stack learns once how large its frames may be; what a later backend does not take is cut here.
        if shared.status.statistics().get().connections == 0 {
            shared.large.set(info.gso_v4 && info.checksum_v4);
        }
        shared.status.set_info(info);
        shared.count(|statistics| statistics.connections += 1);
        *shared.tx.borrow_mut() = Some(tx);
        *shared.rx.borrow_mut() = Some(rx);
        if self.lines.allows(self.xen.now()) {
            information!(
                "{}: up, served by {}, MTU {}{}{}",
                device.path(),
                device.other_domain(),
                info.mtu,
                if info.mtu < MIN_MTU_V6 { " (too small for IPv6)" } else { "" },
                if info.gso_v4 { ", large segments" } else { "" }
            );
        }
        shared.set_phase(Phase::Up);
        let outcome = serve(shared, &tx_port, rx_port.as_ref(), signals, &self.xen).await;
        shared.disconnect(Phase::Waiting);
        outcome
    }

    fn lost(&mut self) {
        self.shared.disconnect(Phase::Gone);
    }
}

/// What the backend offers.
struct Offered {
    gather: bool,
    checksum_v4: bool,
    checksum_v6: bool,
    gso_v4: bool,
    gso_v6: bool,
    split: bool,
    queues: bool,
    multicast_control: bool,
}

async fn read_keys(device: &Device) -> Result<Offered, Failure> {
    device
        .read_peer(async |peer| {
            if !peer.flag("feature-rx-copy").await? {
                let key = peer.path("feature-rx-copy");
                let text = format_args!("{key} is not 1: backend does not support copying receive path");
                return Err(Failure::new(Errno::EOPNOTSUPP, text));
            }
            Ok(Offered {
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
    let text: String = device.required("mac").await?;
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    let well = mac.iter_mut().all(|byte| {
        let part = parts.next().filter(|part| part.len() == 2);
        part.and_then(|part| u8::from_str_radix(part, 16).ok()).map(|value| *byte = value).is_some()
    });
    if !well || parts.next().is_some() || mac[0] & 1 != 0 {
        return Err(device.unexpected("mac", text, "an address such as 00:16:3e:12:34:56"));
    }
    Ok(mac)
}

/// Tells the backend of what the device does with the rings, and the device of what the backend does.
async fn serve<G: Memory, P: Port>(
    shared: &Shared<G>,
    tx_port: &P,
    rx_port: Option<&P>,
    signals: &Signals,
    clock: &impl Clock,
) -> Result<(), Failure> {
    let ports = [tx_port, rx_port.unwrap_or(tx_port)];
    let ports = if rx_port.is_some() { &ports[..] } else { &ports[..1] };
    let users = shared.status.users();
    let mut throttle = EventThrottle::default();
    loop {
        // Of what was received before a restore not all may be in the image.
        if !tx_port.is_current() {
            shared.disconnect(Phase::Waiting);
            signals.closing().await;
            return Ok(());
        }
        users.notify().clear();
        let (worked, more) = step(shared, tx_port, rx_port)?;
        if signals.is_closing() || users.is_empty() {
            return Ok(());
        }
        if worked {
            throttle.record_work();
        }
        if more {
            // There is something for the stack, which has been woken: it comes first.
            yield_now().await;
            continue;
        }
        let mut closing = pin!(signals.closing());
        let other = |cx: &mut Context<'_>| match users.notify().poll_notified(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => closing.as_mut().poll(cx),
        };
        if throttle.wait(clock, ports, None, other).await.is_event() {
            shared.count(|statistics| statistics.events += 1);
            throttle.record_spurious();
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
        shared.stack.wake();
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
