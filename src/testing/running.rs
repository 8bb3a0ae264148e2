//! A guest that runs, and what is left of it.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::future::poll_fn;
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use xen_blkif::BlockDevice;
use xen_hal::Clock;
use xen_sim::{Domain, Toolstack};
use xenstore_client::ToValue;

use super::End;
use super::guest::{Devices, Disks, Image, Kind};
#[cfg(feature = "net")]
use super::wire;
use crate::machine::Machine;

/// How long a test waits for what does not come: less than the simulation lets a run take.
const LIMIT: Duration = Duration::from_secs(12 * 3600);

/// A guest that runs. A handle: clones are the same guest. Dropping it ends nothing.
#[derive(Clone)]
pub struct Running {
    pub(super) machine: Rc<Machine>,
    pub(super) toolstack: Toolstack,
    pub(super) devices: Rc<Devices>,
    pub(super) disks: Disks,
    /// Where the test is at the other end of the guest's wire.
    #[cfg(feature = "net")]
    pub(super) port: Option<Rc<wire::Port>>,
}

impl Running {
    /// What the guest has printed so far, with line feeds at the ends of lines.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.machine.console.borrow()).into_owned()
    }

    /// Waits until the guest has printed this text.
    ///
    /// # Panics
    ///
    /// Where the guest ends before, or half a day of simulated time does not bring it.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn wait_for(&self, text: &str) {
        let seen = || {
            let console = self.machine.console.borrow();
            if console.windows(text.len().max(1)).any(|part| part == text.as_bytes()) {
                return Some(true);
            }
            self.machine.end.borrow().is_some().then_some(false)
        };
        match self.wait(seen).await {
            Some(true) => {}
            Some(false) => panic!("the guest has ended without {text:?} on its console:\n{}", self.console()),
            None => panic!("there is no {text:?} on the guest's console after {LIMIT:?}:\n{}", self.console()),
        }
    }

    /// Waits until something is there, or for so long that it will not come.
    async fn wait<T>(&self, condition: impl FnMut() -> Option<T>) -> Option<T> {
        let mut there = pin!(self.machine.changed.wait_until(condition));
        let mut late = pin!(self.sleep(LIMIT));
        poll_fn(|cx| match there.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => late.as_mut().poll(cx).map(|()| None),
        })
        .await
    }

    /// Types this on the guest's console.
    pub fn type_in(&self, text: &str) {
        self.machine.type_in(text.as_bytes());
    }

    /// `xl shutdown`: asks the guest to power off.
    ///
    /// # Cancellation
    ///
    /// The request may be made, or not.
    pub async fn shutdown(&self) {
        self.set("control/shutdown", "poweroff").await;
    }

    /// `xl reboot`: asks the guest to end so that it can be started again. The test may start another.
    ///
    /// # Cancellation
    ///
    /// The request may be made, or not.
    pub async fn reboot(&self) {
        self.set("control/shutdown", "reboot").await;
    }

    /// `xl save`, and `xl restore` at once: [`App::resumed`] returns in the guest.
    ///
    /// # Cancellation
    ///
    /// The request may be made, or not.
    pub async fn save_and_restore(&self) {
        self.set("control/shutdown", "suspend").await;
    }

    /// `xl sysrq`: presses a key.
    ///
    /// # Cancellation
    ///
    /// The request may be made, or not.
    pub async fn sysrq(&self, key: char) {
        self.set("control/sysrq", &key.to_string()).await;
    }

    /// `xl destroy`: ends the guest at once.
    pub fn destroy(&self) {
        self.machine.finish(End::Destroyed);
    }

    /// Writes a key in the guest's directory of the store.
    ///
    /// # Panics
    ///
    /// Where the store refuses it.
    ///
    /// # Cancellation
    ///
    /// It may be written, or not.
    pub async fn set(&self, path: &str, value: &(impl ToValue + ?Sized)) {
        let path = self.path(path);
        let outcome = self.toolstack.store().set(&path, value).await;
        outcome.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Reads a key in the guest's directory of the store; `None` where there is none.
    ///
    /// # Panics
    ///
    /// Where the store refuses it.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn get(&self, path: &str) -> Option<String> {
        let path = self.path(path);
        let outcome = self.toolstack.store().get::<String>(&path).await;
        outcome.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn path(&self, path: &str) -> String {
        format!("/local/domain/{}/{path}", self.machine.domain.id().0)
    }

    /// `xl block-attach`: a disk that can only be read, with this content.
    ///
    /// # Panics
    ///
    /// Where the guest had no disk or network at its start, and so no backend, or has a disk of this name.
    ///
    /// # Cancellation
    ///
    /// The disk may be there, or not.
    pub async fn attach_disk(&self, name: &str, content: impl Into<Vec<u8>>) {
        self.attach(Image { name: name.into(), content: content.into(), kind: Kind::ReadOnly }).await;
    }

    /// As [`attach_disk`](Running::attach_disk), a CD-ROM drive with this medium, or without one where it is empty.
    ///
    /// # Panics
    ///
    /// As [`attach_disk`](Running::attach_disk).
    ///
    /// # Cancellation
    ///
    /// As [`attach_disk`](Running::attach_disk).
    pub async fn attach_cdrom(&self, name: &str, content: impl Into<Vec<u8>>) {
        self.attach(Image { name: name.into(), content: content.into(), kind: Kind::Cdrom }).await;
    }

    async fn attach(&self, image: Image) {
        let Some(backend) = &self.devices.backend else { panic!("the guest has no backend for a disk") };
        let (name, kind, domain) = (image.name.clone(), image.kind, backend.domain.clone());
        let disk = image.disk(domain.clone()).await;
        self.disks.borrow_mut().push(disk);
        self.devices.attach_disk(&self.toolstack, &self.machine.domain, domain, &name, kind).await;
    }

    /// `xl block-detach`: takes a disk away, whether the guest uses it or not.
    ///
    /// # Panics
    ///
    /// Where there is none of this name, or it does not close.
    ///
    /// # Cancellation
    ///
    /// The disk may be on its way to its end.
    pub async fn detach_disk(&self, name: &str) {
        let at = self.disks.borrow().iter().position(|disk| disk.name == name);
        let disk = self.disks.borrow_mut().remove(at.unwrap_or_else(|| panic!("the guest has no disk {name}")));
        let (class, number, backend) = self.devices.remove("vbd", disk.number).expect("it is attached");
        let detached = self.toolstack.detach(class, self.machine.domain.id(), backend.id(), number).await;
        assert!(detached.expect("the store answers"), "disk {name} does not close");
    }

    /// Lets simulated time pass.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn sleep(&self, time: Duration) {
        self.toolstack.domain().sleep(time).await;
    }

    /// The simulation's end of the guest: what it has in use, for instance.
    pub fn domain(&self) -> &Domain {
        &self.machine.domain
    }

    /// Waits until the guest has ended, and takes its devices away, as `xl` does.
    ///
    /// # Panics
    ///
    /// Where half a day of simulated time does not bring its end.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time before the guest has ended; devices may stay after that.
    pub async fn ended(&self) -> Ended {
        let how = self.wait(|| self.machine.end.borrow().clone()).await;
        let how = how.unwrap_or_else(|| panic!("the guest has not ended after {LIMIT:?}:\n{}", self.console()));
        let domain = &self.machine.domain;
        let attached = self.devices.attached.borrow().clone();
        for (class, number, backend) in attached.iter().filter(|(.., backend)| backend.is_alive()) {
            // As libxl does where nobody answers any more: the backend is not to wait for the frontend.
            let (front, _) = Toolstack::paths(class, domain.id(), backend.id(), *number);
            self.toolstack.store().remove(&front).await.expect("the store removes the device");
            let detached = self.toolstack.detach(class, domain.id(), backend.id(), *number).await;
            assert!(detached.expect("the store answers"), "the backend of {class} {number} does not close");
        }
        let mut disks = Vec::new();
        for disk in self.disks.take() {
            let mut content = alloc::vec![0; disk.disk.geometry().sectors as usize * 512];
            disk.disk.read_bytes(0, &mut content).await.expect("the disk is read");
            disks.push((disk.name, content));
        }
        if let Some(backend) = &self.devices.backend {
            backend.domain.destroy();
        }
        let home = self.path("");
        self.toolstack.store().remove(home.trim_end_matches('/')).await.expect("the store removes the guest");
        Ended { how, console: self.console(), disks }
    }
}

/// A guest that has ended.
#[derive(Debug)]
pub struct Ended {
    how: End,
    console: String,
    disks: Vec<(String, Vec<u8>)>,
}

impl Ended {
    /// How.
    pub fn how(&self) -> End {
        self.how.clone()
    }

    /// All that it has printed.
    pub fn console(&self) -> &str {
        &self.console
    }

    /// What is on a disk now, in whole sectors.
    ///
    /// # Panics
    ///
    /// Where it had no disk of that name.
    pub fn disk(&self, name: &str) -> &[u8] {
        let found = self.disks.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("the guest had no disk {name}")).1
    }
}
