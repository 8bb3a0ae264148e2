//! A whole application on the host: its `main` as a guest of a simulated Xen, in `cargo test`.
//!
//! [`check`] runs a test with many seeds. A seed chooses in what order tasks of all domains run and events arrive, so that
//! each run is another one, and the same seed gives the same run again. In a test a [`Guest`] is described as an xl file
//! describes it, and run:
//!
//! ```
//! use sarab::testing::{End, Guest, check};
//! use sarab::{App, println};
//!
//! async fn greet(app: App) -> sarab::Result {
//!     let name = app.args().get::<&str>("name")?.unwrap_or("world");
//!     println!("Hello, {name}");
//!     Ok(())
//! }
//!
//! check("a greeting", 10, |xen| {
//!     let ended = Guest::new(xen).command_line("name=me").run(greet);
//!     assert_eq!(ended.console(), "Hello, me\n");
//!     assert_eq!(ended.how(), End::PowerOff);
//! });
//! ```
//!
//! While a guest runs, the test is its toolstack:
//!
//! ```
//! use sarab::testing::{End, Guest, check};
//! use sarab::{App, println};
//!
//! async fn wait(app: App) {
//!     println!("ready");
//!     let request = app.shutdown().await;
//!     println!("asked to {request}");
//! }
//!
//! check("a shutdown", 10, |xen| {
//!     let guest = Guest::new(xen);
//!     xen.run(async move {
//!         let running = guest.start(wait).await;
//!         running.wait_for("ready").await;
//!         running.reboot().await;
//!         let ended = running.ended().await;
//!         assert_eq!(ended.how(), End::Reboot);
//!     });
//! });
//! ```
//!
//! # What is simulated
//!
//! Event channels, grants, the store, its server, time and the toolstack are the simulation's; drivers, and the backends of
//! disks and networks, are those of real guests. Not simulated: use of memory and processor, what the console loses where
//! nobody reads it, and defmt's lines, which go nowhere. A task that never waits hangs the test.
//!
//! Command lines are kept until the test program ends.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::future::poll_fn;
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;

use xen_blkif::BlockDevice;
use xen_blkif::back::{self, Attach};
use xen_blkif::ramdisk::RamDisk;
use xen_hal::{Clock, Errno};
use xen_sim::{Domain, Toolstack};
use xenbus::Failure;

use crate::app::{self, App, Exit};
use crate::disks::number;
use crate::machine::Machine;

#[cfg(feature = "net")]
mod wire;

pub use xen_sim::{Faults, Xen, check};

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Powered off: `main` returned, or `xl shutdown` ended it.
    PowerOff,
    /// To be started again.
    Reboot,
    /// As crashed: `main` returned an error, whose text is on the console.
    Crash,
    /// A task panicked, with this text.
    Panic(String),
    /// By [`Running::destroy`].
    Destroyed,
}

/// A guest that is to be started: what an xl file says.
pub struct Guest {
    xen: Xen,
    command_line: String,
    memory: u64,
    disks: Vec<Image>,
    foreign: Vec<Foreign>,
    keys: Vec<(String, String)>,
    #[cfg(feature = "net")]
    network: bool,
}

struct Image {
    name: String,
    content: Vec<u8>,
    writable: bool,
}

struct Foreign {
    name: String,
    server: Domain,
    target: String,
}

impl Guest {
    /// One with 16 MiB and without arguments and devices.
    pub fn new(xen: &Xen) -> Guest {
        Guest {
            xen: xen.clone(),
            command_line: String::new(),
            memory: 16,
            disks: Vec::new(),
            foreign: Vec::new(),
            keys: Vec::new(),
            #[cfg(feature = "net")]
            network: false,
        }
    }

    /// Its command line: `cmdline=` in an xl file.
    pub fn command_line(mut self, text: &str) -> Guest {
        self.command_line = text.into();
        self
    }

    /// So many MiB, which [`App::memory`] tells; nothing bounds what it uses.
    pub fn memory(mut self, mib: u64) -> Guest {
        self.memory = mib;
        self
    }

    /// A disk with this content, filled up to whole sectors of 512 bytes. Its backend is in a driver domain.
    pub fn disk(mut self, name: &str, content: impl Into<Vec<u8>>) -> Guest {
        self.disks.push(Image { name: name.into(), content: content.into(), writable: true });
        self
    }

    /// A disk that can only be read.
    pub fn read_only_disk(mut self, name: &str, content: impl Into<Vec<u8>>) -> Guest {
        self.disks.push(Image { name: name.into(), content: content.into(), writable: false });
        self
    }

    /// A disk that another guest serves, which knows it by `target`: `backend=…,target=…` in an xl file.
    pub fn disk_of(mut self, name: &str, server: &Running, target: &str) -> Guest {
        let server = server.machine.domain.clone();
        self.foreign.push(Foreign { name: name.into(), server, target: target.into() });
        self
    }

    /// A network interface. [`Running::peer`] is a host on its wire. DHCP is not served: `ip=ADDRESS/NN`.
    #[cfg(feature = "net")]
    pub fn network(mut self) -> Guest {
        self.network = true;
        self
    }

    /// A key in the guest's directory of the store, written before it starts: `data/config`.
    pub fn key(mut self, path: &str, value: &str) -> Guest {
        self.keys.push((path.into(), value.into()));
        self
    }

    /// Starts it, and waits until it ends.
    ///
    /// # Panics
    ///
    /// Where half a day of simulated time does not bring its end.
    pub fn run<F, O>(self, main: impl FnOnce(App) -> F + 'static) -> Ended
    where
        F: Future<Output = O> + 'static,
        O: Exit + 'static,
    {
        let xen = self.xen.clone();
        xen.run(async move { self.start(main).await.ended().await })
    }

    /// Starts it, with its devices attached: in [`Xen::run`].
    ///
    /// # Panics
    ///
    /// Where a disk's name is none, or the store refuses a key.
    ///
    /// # Cancellation
    ///
    /// What was made of it stays.
    pub async fn start<F, O>(self, main: impl FnOnce(App) -> F + 'static) -> Running
    where
        F: Future<Output = O> + 'static,
        O: Exit + 'static,
    {
        let Guest { xen, command_line, memory, disks: images, foreign, keys, .. } = self;
        let (toolstack, domain) = (xen.toolstack(), xen.domain());
        let mut devices = Devices::default();
        let mut disks = Vec::new();
        for image in images {
            let number = device(&image.name);
            let backend = devices.backend(&xen);
            let disk =
                RamDisk::new(backend.clone(), (image.content.len() as u64).div_ceil(512)).expect("memory for the disk");
            for (sector, bytes) in (0..).step_by(CHUNK / 512).zip(image.content.chunks(CHUNK)) {
                if bytes.iter().any(|byte| *byte != 0) {
                    let mut bytes = bytes.to_vec();
                    bytes.resize(bytes.len().next_multiple_of(512), 0);
                    disk.write_bytes(sector, &bytes).await.expect("the disk is written");
                }
            }
            let disk = if image.writable { disk } else { disk.read_only() };
            devices.attached.push(("vbd", number, backend.clone()));
            disks.push(Disk { name: image.name, number, writable: image.writable, disk });
        }
        let disks: Rc<[Disk]> = disks.into();
        #[cfg(feature = "net")]
        let network = self.network;
        #[cfg(not(feature = "net"))]
        let network = false;
        if network {
            let backend = devices.backend(&xen);
            devices.attached.push(("vif", 0, backend));
        }
        #[cfg(feature = "net")]
        let port = Rc::<wire::Port>::default();
        if let Some(backend) = &devices.backend {
            let store = backend.store();
            if !disks.is_empty() {
                serve_disks(backend, store.clone(), disks.clone());
            }
            #[cfg(feature = "net")]
            if network {
                wire::serve(backend, store, port.clone());
            }
            for disk in disks.iter() {
                let nodes = [("params", disk.name.as_str()), ("mode", if disk.writable { "w" } else { "r" })];
                let attached = toolstack.attach_with("vbd", domain.id(), backend.id(), disk.number, &nodes).await;
                attached.expect("the store takes the device");
            }
            if network {
                let attached = toolstack.attach_with("vif", domain.id(), backend.id(), 0, &[("mac", MAC)]).await;
                attached.expect("the store takes the device");
                let (front, _) = Toolstack::paths("vif", domain.id(), backend.id(), 0);
                toolstack.store().set(&format!("{front}/mac"), MAC).await.expect("the store takes the address");
            }
        }
        for Foreign { name, server, target } in foreign {
            let nodes = [("params", target.as_str()), ("mode", "w")];
            let attached = toolstack.attach_with("vbd", domain.id(), server.id(), device(&name), &nodes).await;
            attached.expect("the store takes the device");
            devices.attached.push(("vbd", device(&name), server));
        }
        let seed = xen.random(u64::MAX);
        let machine = Machine::new(domain, &command_line, memory << 20, seed);
        let running = Running {
            machine,
            toolstack,
            devices: Rc::new(devices),
            disks,
            #[cfg(feature = "net")]
            port,
        };
        for (path, value) in keys {
            running.set(&path, &value).await;
        }
        let own = running.machine.own();
        app::begin(own, own.args(), main);
        running
    }
}

/// How long a test waits for what does not come: less than the simulation lets a run take.
const LIMIT: Duration = Duration::from_secs(12 * 3600);
/// How much of an image is written at a time.
const CHUNK: usize = 64 << 10;
/// The guest's address on its network.
const MAC: &str = "00:16:3e:00:00:02";

/// The number of a disk's name.
fn device(name: &str) -> u32 {
    number(name).unwrap_or_else(|| panic!("`{name}` is no disk's name"))
}

/// Devices with their backends' domains.
#[derive(Default)]
struct Devices {
    /// The domain that serves what no other guest serves.
    backend: Option<Domain>,
    attached: Vec<(&'static str, u32, Domain)>,
}

impl Devices {
    fn backend(&mut self, xen: &Xen) -> Domain {
        self.backend.get_or_insert_with(|| xen.domain()).clone()
    }
}

struct Disk {
    name: String,
    number: u32,
    writable: bool,
    disk: RamDisk<Domain>,
}

fn serve_disks(backend: &Domain, store: xenstore_client::Store, disks: Rc<[Disk]>) {
    let domain = backend.clone();
    backend
        .spawn(async move {
            let open = async |attach: &Attach| match disks.iter().find(|disk| disk.name == attach.params) {
                Some(disk) => Ok(disk.disk.clone()),
                None => Err(Failure::new(Errno::ENOENT, format_args!("target={}: no such disk", attach.params))),
            };
            drop(back::serve(&store, domain, Default::default(), open, |_, _| ()).await);
        })
        .detach();
}

/// A guest that runs. A handle: clones are the same guest. Dropping it ends nothing.
#[derive(Clone)]
pub struct Running {
    machine: Rc<Machine>,
    toolstack: Toolstack,
    devices: Rc<Devices>,
    disks: Rc<[Disk]>,
    #[cfg(feature = "net")]
    port: Rc<wire::Port>,
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
    pub async fn set(&self, path: &str, value: &str) {
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
        for (class, number, backend) in self.devices.attached.iter().filter(|(.., backend)| backend.is_alive()) {
            // As libxl does where nobody answers any more: the backend is not to wait for the frontend.
            let (front, _) = Toolstack::paths(class, domain.id(), backend.id(), *number);
            self.toolstack.store().remove(&front).await.expect("the store removes the device");
            let detached = self.toolstack.detach(class, domain.id(), backend.id(), *number).await;
            assert!(detached.expect("the store answers"), "the backend of {class} {number} does not close");
        }
        let mut disks = Vec::new();
        for disk in self.disks.iter() {
            let mut content = alloc::vec![0; disk.disk.geometry().sectors as usize * 512];
            disk.disk.read_bytes(0, &mut content).await.expect("the disk is read");
            disks.push((disk.name.clone(), content));
        }
        if let Some(backend) = &self.devices.backend {
            backend.destroy();
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
