#![doc = include_str!("../README.md")]
//!
//! # Examples
//!
//! A device class of its own, both ends: the frontend sends a number, the backend doubles it. `Doubling` is the ring's
//! protocol from the example of [`xen_ring::Protocol`]; disks and networks are built in the same way.
//!
//! ```
//! use core::pin::pin;
//! use core::time::Duration;
//! use std::cell::Cell;
//! use std::rc::Rc;
//! use xen_hal::{Clock, Errno, GrantRef, Port, PortNumber, Xen};
//! use xen_ring::{BackRing, BadProducer, FrontRing, GrantedPages, SharedMapping};
//! use xenbus::{
//!     Backend, Device, EventThrottle, Failure, Frontend, Keys, Signals, State, attach_ring, backend, frontend,
//! };
//! use xenstore_client::Error;
//!
//! # #[derive(Debug)]
//! # struct Doubling;
//! # impl xen_ring::Protocol for Doubling {
//! #     type Request = u32;
//! #     type Response = u32;
//! #     fn slot_size(&self) -> usize { 4 }
//! #     fn encode_request(&self, request: &u32, slot: &mut [u8]) { slot.copy_from_slice(&request.to_le_bytes()) }
//! #     fn decode_request(&self, slot: &[u8]) -> u32 { u32::from_le_bytes(slot.try_into().unwrap()) }
//! #     fn encode_response(&self, response: &u32, slot: &mut [u8]) { self.encode_request(response, slot) }
//! #     fn decode_response(&self, slot: &[u8]) -> u32 { self.decode_request(slot) }
//! # }
//! fn broken(error: BadProducer) -> Failure {
//!     Failure::new(Errno::EIO, error)
//! }
//!
//! struct Front<X> {
//!     xen: X,
//!     answer: Rc<Cell<u32>>,
//! }
//!
//! impl<X: Xen> Frontend for Front<X> {
//!     const PUBLISHED: State = State::Initialised;
//!     type Link = (GrantedPages<X::Grant>, FrontRing<Doubling>, X::Port);
//!
//!     async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
//!         let memory = device.grant_ring(&self.xen, "ring", 1)?;
//!         let ring = FrontRing::new(Doubling, &memory);
//!         Ok((memory, ring, device.alloc_port(&self.xen)?))
//!     }
//!
//!     async fn publish(&mut self, keys: &Keys<'_>, (memory, _, port): &Self::Link) -> Result<(), Error> {
//!         keys.set("ring-ref", &memory.references().next().expect("one page")).await?;
//!         keys.set("event-channel", &port.number()).await
//!     }
//!
//!     async fn accept(&mut self, _: &Device, _: &mut Self::Link) -> Result<(), Failure> {
//!         Ok(())
//!     }
//!
//!     async fn run(&mut self, _: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure> {
//!         let (memory, mut ring, port) = link;
//!         let (throttle, mut closing) = (EventThrottle::default(), pin!(signals.closing()));
//!         ring.push(&memory, &21).expect("the ring is empty");
//!         ring.publish(&memory);
//!         port.notify();
//!         while !signals.is_closing() {
//!             if let Some(answer) = ring.pop(&memory).map_err(broken)? {
//!                 self.answer.set(answer);
//!             }
//!             throttle.wait(&self.xen, &[&port], None, |cx| closing.as_mut().poll(cx)).await;
//!         }
//!         Ok(())
//!     }
//!
//!     fn lost(&mut self) {}
//! }
//!
//! struct Back<X> {
//!     xen: X,
//! }
//!
//! impl<X: Xen> Backend for Back<X> {
//!     type Link = (SharedMapping<X::Mapping>, BackRing<Doubling>, X::Port);
//!
//!     async fn prepare(&mut self, _: &Device) -> Result<(), Failure> {
//!         Ok(())
//!     }
//!
//!     async fn advertise(&mut self, keys: &Keys<'_>) -> Result<(), Error> {
//!         keys.set_flags(&[("feature-doubling", true)]).await
//!     }
//!
//!     async fn connect(&mut self, device: &Device) -> Result<Self::Link, Failure> {
//!         let (reference, port) = device
//!             .read_peer(async |peer| {
//!                 let reference = peer.required::<GrantRef>("ring-ref").await?;
//!                 Ok((reference, peer.required::<PortNumber>("event-channel").await?))
//!             })
//!             .await?;
//!         let memory = device.map_ring("ring", &[reference], |requests| self.xen.map(requests))?;
//!         let ring = attach_ring(Doubling, &memory)?;
//!         Ok((memory, ring, device.bind_port(&self.xen, port)?))
//!     }
//!
//!     async fn publish(&mut self, _: &Keys<'_>, _: &Self::Link) -> Result<(), Error> {
//!         Ok(())
//!     }
//!
//!     async fn run(&mut self, _: &Device, link: Self::Link, signals: &Signals) -> Result<(), Failure> {
//!         let (memory, mut ring, port) = link;
//!         let (throttle, mut closing) = (EventThrottle::default(), pin!(signals.closing()));
//!         while !signals.is_closing() {
//!             while let Some(request) = ring.pop(&memory).map_err(broken)? {
//!                 ring.push(&memory, &request.wrapping_mul(2));
//!             }
//!             if ring.publish(&memory) {
//!                 port.notify();
//!             }
//!             if ring.arm(&memory).map_err(broken)? {
//!                 continue; // a request came meanwhile
//!             }
//!             throttle.wait(&self.xen, &[&port], None, |cx| closing.as_mut().poll(cx)).await;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! xen_sim::check("doubling", 20, |xen| {
//!     let (front, back, toolstack) = (xen.domain(), xen.domain(), xen.toolstack());
//!     let (frontends, backends, answer) = (front.store(), back.store(), Rc::new(Cell::new(0)));
//!     let (front_id, back_id, seen, clock) = (front.id(), back.id(), answer.clone(), front.clone());
//!     xen.run(async move {
//!         toolstack.attach("doubling", front_id, back_id, 0).await?;
//!         let mut driver = Back { xen: back.clone() };
//!         let path = format!("backend/doubling/{}/0", front_id.0);
//!         back.clone().spawn(async move { backend(&backends, back, &path, &mut driver).await }).detach();
//!         let mut driver = Front { xen: front.clone(), answer };
//!         let xen = front.clone();
//!         front.spawn(async move { frontend(&frontends, xen, "device/doubling/0", &mut driver).await }).detach();
//!         while seen.get() != 42 {
//!             clock.sleep(Duration::from_millis(1)).await;
//!         }
//!         assert!(toolstack.detach("doubling", front_id, back_id, 0).await?, "both ends have closed");
//!         Ok::<(), Error>(())
//!     })
//!     .unwrap();
//! });
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod backend;
mod backoff;
mod device;
mod device_log;
mod failure;
mod frontend;
mod keys;
mod life;
mod notify;
mod peer;
mod rate_limit;
mod ring;
mod serve;
mod signals;
mod state;
mod status;
mod stop;
mod throttle;
mod unused;
mod waiting;
mod watches;
mod r#yield;

pub use backend::{Backend, backend};
pub use device::Device;
pub use failure::{EndReason, Failure};
pub use frontend::{Frontend, frontend};
pub use keys::Keys;
pub use notify::{Notify, WakerSlot};
pub use peer::Peer;
pub use rate_limit::RateLimit;
pub use ring::attach_ring;
pub use serve::{DiscoveredDevice, serve};
pub use signals::Signals;
pub use state::{
    BackendStage, BackendStep, End, FrontendStage, FrontendStep, State, backend_step, frontend_step, is_legal,
};
pub use status::{Counters, Handle, Phase, Status, Users};
pub use throttle::{EventThrottle, Wake};
pub use unused::close_unused;
pub use r#yield::{BUDGET, Turn, yield_now};
