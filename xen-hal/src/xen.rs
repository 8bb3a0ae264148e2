//! The whole platform in one value.

use crate::{Clock, EventChannels, Memory};

/// All that a driver needs of the platform under it: memory that peers can be given access to, event channels, and time.
///
/// It is implemented for whatever implements the three; clones stand for the same domain.
///
/// # Examples
///
/// A driver takes one value for the platform:
///
/// ```
/// use core::time::Duration;
/// use xen_hal::{Access, Clock, DomId, EventChannels, GrantTable, Pages, Port, Xen};
///
/// async fn announce<X: Xen>(xen: &X, peer: DomId) -> Result<(X::Grant, X::Port), Box<dyn core::error::Error>> {
///     let page = xen.alloc_page()?;
///     let grant = xen.grant(page, peer, Access::ReadOnly).map_err(|refused| refused.to_string())?;
///     let port = xen.alloc_unbound(peer).map_err(|error| error.to_string())?;
///     xen.sleep(Duration::from_millis(10)).await;
///     port.notify();
///     Ok((grant, port))
/// }
/// # let xen = xen_sim::Xen::new(1);
/// # let (own, peer) = (xen.domain(), xen.domain().id());
/// # xen.run(async move { announce(&own, peer).await.map(drop).unwrap() });
/// ```
pub trait Xen: Memory + EventChannels + Clock {}

impl<T: Memory + EventChannels + Clock> Xen for T {}
