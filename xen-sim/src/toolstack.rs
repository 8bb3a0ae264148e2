//! What the toolstack does with devices, as `xl` does it.

use std::time::Duration;

use futures_util::future::{Either, select};
use xen_hal::{Clock, DomId};
use xenstore_client::{Access, Error, Permission, Store};

use crate::domain::Domain;
use crate::world::Xen;

/// The toolstack in dom0: attaches and detaches devices the way that libxl does (tools/libs/light/libxl_device.c).
///
/// # Examples
///
/// ```
/// use xen_sim::Toolstack;
///
/// let xen = xen_sim::Xen::new(1);
/// let (guest, server, toolstack) = (xen.domain(), xen.domain(), xen.toolstack());
/// xen.run(async move {
///     toolstack.attach("vbd", guest.id(), server.id(), 51712).await?;
///     let (front, _) = Toolstack::paths("vbd", guest.id(), server.id(), 51712);
///     assert_eq!(toolstack.store().get::<u32>(&format!("{front}/state")).await?, Some(1)); // Initialising
///     Ok::<(), xenstore_client::Error>(())
/// })
/// .unwrap();
/// ```
#[derive(Clone)]
pub struct Toolstack {
    dom0: Domain,
    store: Store,
}

impl Toolstack {
    pub(crate) fn new(xen: &Xen) -> Toolstack {
        // dom0 has one connection to the store, however often it is asked for.
        let known = xen.0.toolstack.borrow().clone();
        known.unwrap_or_else(|| {
            let dom0 = xen.dom0();
            let store = dom0.store();
            let toolstack = Toolstack { dom0, store };
            xen.0.toolstack.replace(Some(toolstack.clone()));
            toolstack
        })
    }

    /// dom0.
    pub fn domain(&self) -> &Domain {
        &self.dom0
    }

    /// dom0's handle on the store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where a device's two directories are.
    pub fn paths(class: &str, frontend: DomId, backend: DomId, device: u32) -> (String, String) {
        (
            format!("/local/domain/{}/device/{class}/{device}", frontend.0),
            format!("/local/domain/{}/backend/{class}/{}/{device}", backend.0, frontend.0),
        )
    }

    /// Makes a device's two directories.
    ///
    /// # Errors
    ///
    /// What the store says.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time: both directories are made, or neither.
    pub async fn attach(&self, class: &str, frontend: DomId, backend: DomId, device: u32) -> Result<(), Error> {
        self.attach_with(class, frontend, backend, device, &[]).await
    }

    /// Makes a device's two directories, the backend's with these nodes besides.
    ///
    /// # Errors
    ///
    /// What the store says.
    ///
    /// # Cancellation
    ///
    /// As [`attach`](Toolstack::attach).
    pub async fn attach_with(
        &self,
        class: &str,
        frontend: DomId,
        backend: DomId,
        device: u32,
        nodes: &[(&str, &str)],
    ) -> Result<(), Error> {
        self.attach_with_both(class, frontend, backend, device, &[], nodes).await
    }

    /// Makes a device's two directories, each with these nodes besides.
    ///
    /// # Errors
    ///
    /// What the store says.
    ///
    /// # Cancellation
    ///
    /// As [`attach`](Toolstack::attach).
    pub async fn attach_with_both(
        &self,
        class: &str,
        frontend: DomId,
        backend: DomId,
        device: u32,
        front_nodes: &[(&str, &str)],
        back_nodes: &[(&str, &str)],
    ) -> Result<(), Error> {
        let (front, back) = Self::paths(class, frontend, backend, device);
        let front_permissions = [Permission::new(frontend, Access::None), Permission::new(backend, Access::Read)];
        let back_permissions = [Permission::new(backend, Access::None), Permission::new(frontend, Access::Read)];
        self.store
            .transaction(async |t| -> Result<(), Error> {
                t.mkdir(&front).await?;
                t.set_permissions(&front, &front_permissions).await?;
                t.mkdir(&back).await?;
                t.set_permissions(&back, &back_permissions).await?;
                t.set(&format!("{front}/backend"), back.as_str()).await?;
                t.set(&format!("{front}/backend-id"), &backend).await?;
                t.set(&format!("{front}/state"), &1_u32).await?;
                t.set(&format!("{back}/frontend"), front.as_str()).await?;
                t.set(&format!("{back}/frontend-id"), &frontend).await?;
                t.set(&format!("{back}/online"), &true).await?;
                for (key, value) in front_nodes {
                    t.set(&format!("{front}/{key}"), *value).await?;
                }
                for (key, value) in back_nodes {
                    t.set(&format!("{back}/{key}"), *value).await?;
                }
                t.set(&format!("{back}/state"), &1_u32).await
            })
            .await
    }

    /// Asks the backend to close the device, waits up to 10 s until it has removed its directory, as a backend outside of
    /// dom0 does, and removes what is left; `false` where that was not in time.
    ///
    /// # Errors
    ///
    /// What the store says.
    ///
    /// # Cancellation
    ///
    /// The device may stay, on its way to its end.
    pub async fn detach(&self, class: &str, frontend: DomId, backend: DomId, device: u32) -> Result<bool, Error> {
        let (front, back) = Self::paths(class, frontend, backend, device);
        let state = format!("{back}/state");
        let closing = self
            .store
            .transaction(async |t| -> Result<bool, Error> {
                match t.get::<u32>(&state).await? {
                    None | Some(6) => Ok(false),
                    Some(_) => {
                        t.set(&format!("{back}/online"), &false).await?;
                        t.set(&state, &5_u32).await?;
                        Ok(true)
                    }
                }
            })
            .await?;
        let mut closed = true;
        if closing {
            let done = self.store.wait_for(&state, |value| value.is_none().then_some(()));
            let timeout = self.dom0.sleep(Duration::from_secs(10));
            match select(std::pin::pin!(done), timeout).await {
                Either::Left((outcome, _)) => outcome?,
                Either::Right(_) => closed = false,
            }
        }
        // A backend may have removed what was above it, too.
        for path in [&front, &back] {
            match self.store.remove(path).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(closed)
    }
}
