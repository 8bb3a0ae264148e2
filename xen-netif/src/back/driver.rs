//! An interface's life on XenBus, and its rings' events while a guest is connected.

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::Future;
use core::net::IpAddr;
use core::pin::pin;
use core::task::{Context, Poll};
use core::time::Duration;

use xen_hal::{Errno, GrantRef, Memory, PortNumber, Xen, information};
use xenbus::{Backend, Device, EventThrottle, Failure, Keys, Phase, RateLimit, Signals, attach_ring, yield_now};
use xenstore_client::Error as StoreError;

use super::credit::{self, Credit};
use super::pool::Pool;
use super::port::{Port, Shared};
use super::ready::Guest;
use super::rings::Rings;
use super::{Attachment, Limits, open};
use crate::front::mac_address;
use crate::protocol::{RxProtocol, TxProtocol};

/// How long a guest may take none of what waits for it, where it can say that it has room again, and where it cannot.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses that a guest may have.
const MAX_ADDRESSES: usize = 16;
const SHORT_TIMEOUT: Duration = Duration::from_millis(30);

pub(super) struct Driver<'a, X: Memory, O> {
    pub(super) xen: X,
    pub(super) limits: Limits,
    pub(super) pool: Rc<Pool<X>>,
    pub(super) opened: &'a O,
    pub(super) shared: Option<Rc<Shared>>,
    /// For the lines that a guest can cause.
    pub(super) lines: RateLimit,
}

/// A guest's rings and event channels.
pub(super) struct Link<M: Memory, P> {
    rings: Rings<M>,
    tx_port: P,
    rx_port: Option<P>,
    timeout: Duration,
    multicast_control: bool,
}

impl<X: Xen, O: Fn(Port) -> Result<(), Failure>> Backend for Driver<'_, X, O> {
    type Link = Link<X, X::Port>;

    async fn prepare(&mut self, device: &Device) -> Result<(), Failure> {
        if self.shared.is_none() {
            let attachment = read_attachment(device).await?;
            information!("{}: for {}", device.path(), device.other_domain());
            self.shared = Some(open(attachment, self.limits, self.xen.clone(), self.opened)?);
        }
        Ok(())
    }

    async fn advertise(&mut self, keys: &Keys<'_>) -> Result<(), StoreError> {
        keys.set_flags(&[
            ("feature-rx-copy", true),
            ("feature-sg", true),
            ("feature-gso-tcpv4", true),
            ("feature-gso-tcpv6", true),
            ("feature-ipv6-csum-offload", true),
            ("feature-multicast-control", true),
            ("feature-split-event-channels", true),
        ])
        .await?;
        keys.set("multi-queue-max-queues", &1_u32).await
    }

    async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
        let peer = device.other_domain();
        let keys = read_keys(device).await?;
        let map = |reference| {
            device.map_ring(&format!("a ring's page, {reference}"), &[reference], |requests| self.xen.map(requests))
        };
        let (tx_memory, rx_memory) = (map(keys.tx_reference)?, map(keys.rx_reference)?);
        let bind = |port| device.bind_port(&self.xen, port);
        let (tx_port, rx_port) = (bind(keys.tx_port)?, keys.rx_port.map(bind).transpose()?);
        if self.lines.allows(self.xen.now()) {
            information!(
                "{}: connected with {}, rings {} and {}{}",
                device.path(),
                peer,
                keys.tx_reference,
                keys.rx_reference,
                if rx_port.is_some() { ", two event channels" } else { "" }
            );
        }
        Ok(Link {
            rings: Rings {
                peer,
                pool: self.pool.clone(),
                tx: attach_ring(TxProtocol, &tx_memory)?,
                tx_memory,
                rx: attach_ring(RxProtocol, &rx_memory)?,
                rx_memory,
                guest: keys.guest,
                ready: None,
                requests: Vec::new(),
            },
            tx_port,
            rx_port,
            timeout: if keys.rx_notify { TIMEOUT } else { SHORT_TIMEOUT },
            multicast_control: keys.multicast_control,
        })
    }

    async fn publish(&mut self, _: &Keys<'_>, _: &Self::Link) -> Result<(), StoreError> {
        Ok(())
    }

    async fn run(&mut self, _: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure> {
        let shared = self.shared.clone().expect("opened before it is used");
        *shared.groups.borrow_mut() = link.multicast_control.then(Vec::new);
        shared.status.set_phase(Phase::Up);
        shared.application.wake();
        let outcome = serve(&self.xen, &shared, link, signals).await;
        shared.disconnect(Phase::Waiting);
        outcome
    }
}

async fn read_attachment(device: &Device) -> Result<Attachment, Failure> {
    let rate = match device.get::<String>("rate").await? {
        None => None,
        Some(text) => credit::parse(&text).ok_or_else(|| device.unexpected("rate", &text, "BYTES,MICROSECONDS"))?,
    };
    let text = device.get::<String>("ip").await?.unwrap_or_default();
    let address = |text: &str| text.parse::<IpAddr>().ok();
    // A prefix says nothing here: the guest has what stands before it.
    let addresses = text.split_ascii_whitespace().map(|text| address(text.split('/').next().unwrap_or(text)));
    let addresses = addresses.take(MAX_ADDRESSES).collect::<Option<Vec<IpAddr>>>();
    let addresses = addresses.ok_or_else(|| device.unexpected("ip", &text, "addresses such as 10.0.0.2 fd00::2"))?;
    Ok(Attachment {
        domain: device.other_domain(),
        device: device.id().into(),
        mac: mac_address(device).await?,
        bridge: device.get("bridge").await?.unwrap_or_default(),
        addresses,
        rate,
    })
}

/// What the frontend has written.
struct Published {
    tx_reference: GrantRef,
    rx_reference: GrantRef,
    tx_port: PortNumber,
    /// Of its own where the frontend can tell them apart.
    rx_port: Option<PortNumber>,
    guest: Guest,
    rx_notify: bool,
    multicast_control: bool,
}

async fn read_keys(device: &Device) -> Result<Published, Failure> {
    device
        .read_peer(async |peer| {
            if !peer.flag("request-rx-copy").await? {
                let text = format_args!(
                    "{} is not 1: this backend supports only the copying receive path",
                    peer.path("request-rx-copy")
                );
                return Err(Failure::new(Errno::EOPNOTSUPP, text));
            }
            let queues = peer.number("multi-queue-num-queues", 1).await?;
            if queues != 1 {
                return Err(peer.unexpected("multi-queue-num-queues", queues, 1));
            }
            let (tx_port, rx_port) = match peer.get("event-channel-tx").await? {
                Some(tx) => (tx, Some(peer.required("event-channel-rx").await?)),
                None => (peer.required("event-channel").await?, None),
            };
            Ok(Published {
                tx_reference: peer.required("tx-ring-ref").await?,
                rx_reference: peer.required("rx-ring-ref").await?,
                tx_port,
                rx_port,
                guest: Guest {
                    gather: peer.flag("feature-sg").await?,
                    gso_v4: peer.flag("feature-gso-tcpv4").await?,
                    gso_v6: peer.flag("feature-gso-tcpv6").await?,
                    blank_v4: !peer.flag("feature-no-csum-offload").await?,
                    blank_v6: peer.flag("feature-ipv6-csum-offload").await?,
                },
                rx_notify: peer.flag("feature-rx-notify").await?,
                multicast_control: peer.flag("request-multicast-control").await?,
            })
        })
        .await
}

/// What is to be done after a look at the rings.
enum Next {
    /// There was something, or there is something already. The application and everybody else come first, and then
    /// another look: a guest can always have something new.
    Yield { worked: bool },
    /// What the guest sends next is of interest only from then on, where its rate says so.
    Wait { late: Option<Duration> },
}

/// What is known between two looks.
struct Service<'a, M, P> {
    memory: &'a M,
    shared: &'a Shared,
    tx_port: P,
    rx_port: Option<P>,
    timeout: Duration,
    credit: Credit,
    /// Since when the guest takes nothing of what waits for it.
    stuck: Option<Duration>,
}

impl<M: Memory, P: xen_hal::Port> Service<'_, M, P> {
    /// Takes what the guest has sent, and gives it what waits.
    fn look(&mut self, rings: &mut Rings<M>, now: Duration) -> Result<Next, Failure> {
        let shared = self.shared;
        let taken = rings.take(self.memory, shared, &mut self.credit, now)?;
        let given = rings.give(self.memory, shared)?;
        let mut notifications = 0;
        if rings.tx.publish(&rings.tx_memory) {
            notifications += 1;
            self.tx_port.notify();
        }
        if rings.rx.publish(&rings.rx_memory) {
            notifications += 1;
            self.rx_port.as_ref().unwrap_or(&self.tx_port).notify();
        }
        shared.count(|statistics| statistics.notifications += notifications);
        // What the guest sends does not count as taking.
        let waits = shared.has_waiting();
        match self.stuck {
            _ if given || !waits => self.stuck = None,
            None => self.stuck = Some(now),
            Some(since) if now >= since + self.timeout => {
                // XSA-392: what a guest does not take is not kept for ever.
                rings.ready = None;
                shared.drop_queue();
                self.stuck = None;
            }
            Some(_) => {}
        }
        if taken || given {
            return Ok(Next::Yield { worked: true });
        }
        let broken = |error| Failure::new(Errno::EIO, error);
        let late = self.credit.check(now).err();
        let mut more = false;
        if late.is_none() && !shared.is_congested() {
            more |= rings.tx.arm(&rings.tx_memory).map_err(broken)?;
        }
        if waits {
            more |= rings.rx.arm_for(&rings.rx_memory, rings.slots_needed()).map_err(broken)?;
        }
        Ok(if more { Next::Yield { worked: false } } else { Next::Wait { late } })
    }
}

async fn serve<X: Xen>(xen: &X, shared: &Shared, link: Link<X, X::Port>, signals: &Signals) -> Result<(), Failure> {
    let Link { rings, tx_port, rx_port, timeout, .. } = link;
    let rings = Rc::new(RefCell::new(rings));
    let shown = rings.clone();
    *shared.rings.borrow_mut() = Some(Box::new(move |f| match shown.try_borrow() {
        Ok(rings) => rings.show(f),
        Err(_) => f.write_str("in use"),
    }));
    let credit = Credit::new(shared.attachment.rate, xen.now());
    let mut service = Service { memory: xen, shared, tx_port, rx_port, timeout, credit, stuck: None };
    let notify = shared.status.users().notify();
    let mut throttle = EventThrottle::default();
    loop {
        notify.clear();
        let now = xen.now();
        let next = service.look(&mut rings.borrow_mut(), now)?;
        if signals.is_closing() {
            return Ok(());
        }
        let late = match next {
            Next::Yield { worked } => {
                if worked {
                    throttle.record_work();
                }
                yield_now().await;
                continue;
            }
            Next::Wait { late } => late,
        };
        let mut closing = pin!(signals.closing());
        let other = |cx: &mut Context<'_>| match notify.poll_notified(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => closing.as_mut().poll(cx),
        };
        let ports = [&service.tx_port, service.rx_port.as_ref().unwrap_or(&service.tx_port)];
        let ports = if service.rx_port.is_some() { &ports[..] } else { &ports[..1] };
        let until = [late, service.stuck.map(|since| since + timeout)].into_iter().flatten().min();
        if throttle.wait(xen, ports, until, other).await.is_event() {
            throttle.record_spurious();
        }
    }
}
