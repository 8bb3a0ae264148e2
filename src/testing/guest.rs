//! A guest that is to be started, with its devices.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use xen_blkif::back::{self, Attachment};
use xen_blkif::ramdisk::RamDisk;
use xen_blkif::{BlockDevice, Vdev};
use xen_hal::Errno;
use xen_sim::{Domain, Toolstack, Xen};
use xenbus::Failure;
use xenstore_client::Store;

use super::running::{Ended, Running};
#[cfg(feature = "net")]
use super::wire;
use crate::app::{self, App, Exit};
use crate::machine::Machine;

/// A guest that is to be started: what an xl file says.
pub struct Guest {
    xen: Xen,
    command_line: String,
    memory: u64,
    disks: Vec<Image>,
    foreign: Vec<Foreign>,
    keys: Vec<(String, String)>,
    modules: Vec<&'static [u8]>,
    network: Option<Network>,
    /// `ip` of its interface.
    addresses: String,
}

/// Who is at the other end of the guest's wire.
#[cfg_attr(not(feature = "net"), allow(dead_code))]
enum Network {
    /// The test.
    Peer,
    /// Another guest.
    Of(Domain),
}

pub(super) struct Image {
    pub(super) name: String,
    pub(super) content: Vec<u8>,
    pub(super) kind: Kind,
}

/// What the guest may do with a disk, and take it for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Writable,
    ReadOnly,
    Cdrom,
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
            modules: Vec::new(),
            network: None,
            addresses: String::new(),
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
        self.disks.push(Image { name: name.into(), content: content.into(), kind: Kind::Writable });
        self
    }

    /// A disk that can only be read.
    pub fn read_only_disk(mut self, name: &str, content: impl Into<Vec<u8>>) -> Guest {
        self.disks.push(Image { name: name.into(), content: content.into(), kind: Kind::ReadOnly });
        self
    }

    /// A CD-ROM drive with a medium, or an empty one with no content.
    pub fn cdrom(mut self, name: &str, content: impl Into<Vec<u8>>) -> Guest {
        self.disks.push(Image { name: name.into(), content: content.into(), kind: Kind::Cdrom });
        self
    }

    /// A disk that another guest serves, which knows it by `target`: `backend=…,target=…` in an xl file.
    pub fn disk_of(mut self, name: &str, server: &Running, target: &str) -> Guest {
        let server = server.machine.domain.clone();
        self.foreign.push(Foreign { name: name.into(), server, target: target.into() });
        self
    }

    /// A network interface. [`Running::peer`] is a host on its wire, which can [serve DHCP](Running::lease); or the command
    /// line has an address for the guest, `ip=10.0.0.2/24`.
    #[cfg(feature = "net")]
    pub fn network(mut self) -> Guest {
        self.network = Some(Network::Peer);
        self
    }

    /// A network interface that another guest serves: `backend=…` in an xl file.
    #[cfg(feature = "net")]
    pub fn network_of(mut self, server: &Running) -> Guest {
        self.network = Some(Network::Of(server.machine.domain.clone()));
        self
    }

    /// The addresses of its interface: `ip=…` of the vif in an xl file.
    #[cfg(feature = "net")]
    pub fn addresses(mut self, text: &str) -> Guest {
        self.addresses = text.into();
        self
    }

    /// A file that the toolstack loads beside it: `ramdisk=` in an xl file. It is kept until the test program ends.
    pub fn module(mut self, content: impl Into<Vec<u8>>) -> Guest {
        self.modules.push(content.into().leak());
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
        let Guest { xen, command_line, memory, disks: images, foreign, keys, modules, network, addresses } = self;
        let (toolstack, domain) = (xen.toolstack(), xen.domain());
        let mut devices = Devices::default();
        let mut disks = Vec::new();
        for image in images {
            disks.push(image.disk(devices.backend(&xen).domain).await);
        }
        for disk in &disks {
            let backend = devices.backend(&xen).domain;
            devices.attach_disk(&toolstack, &domain, backend, &disk.name, disk.kind).await;
        }
        let disks: Disks = Rc::new(RefCell::new(disks));
        for Foreign { name, server, target } in foreign {
            let nodes = [("params", target.as_str()), ("mode", "w")];
            devices.attach(&toolstack, &domain, ("vbd", device(&name)), server, &nodes).await;
        }
        #[cfg(feature = "net")]
        let mut port: Option<Rc<wire::Port>> = None;
        if let Some(network) = network {
            let backend = match network {
                Network::Peer => {
                    let backend = devices.backend(&xen);
                    #[cfg(feature = "net")]
                    wire::serve(&backend, port.insert(Rc::default()).clone());
                    backend.domain
                }
                Network::Of(server) => server,
            };
            // Each guest's own, in the block of addresses that xl takes them from.
            let [high, low] = domain.id().0.to_be_bytes();
            let mac = format!("00:16:3e:00:{high:02x}:{low:02x}");
            let nodes = [("mac", mac.as_str()), ("ip", addresses.as_str())];
            let own = if addresses.is_empty() { &nodes[..1] } else { &nodes[..] };
            devices.attach_with(&toolstack, &domain, ("vif", 0), backend, &[("mac", &mac)], own).await;
        }
        if let Some(backend) = &devices.backend {
            serve_disks(backend, disks.clone());
        }
        let seed = xen.random(u64::MAX);
        let machine = Machine::new(domain, &command_line, memory << 20, modules, seed);
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

/// How much of an image is written at a time.
const CHUNK: usize = 64 << 10;
/// The number of a disk's name.
fn device(name: &str) -> u32 {
    name.parse::<Vdev>().unwrap_or_else(|error| panic!("disk {error}")).0
}

/// The domain that serves what no other guest serves.
#[derive(Clone)]
pub(super) struct Backend {
    pub(super) domain: Domain,
    pub(super) store: Store,
}

/// Devices with their backends' domains.
#[derive(Default)]
pub(super) struct Devices {
    pub(super) backend: Option<Backend>,
    pub(super) attached: RefCell<Vec<(&'static str, u32, Domain)>>,
}

impl Devices {
    fn backend(&mut self, xen: &Xen) -> Backend {
        let backend = self.backend.get_or_insert_with(|| {
            let domain = xen.domain();
            Backend { store: domain.store(), domain }
        });
        backend.clone()
    }

    pub(super) async fn attach_disk(
        &self,
        toolstack: &Toolstack,
        guest: &Domain,
        backend: Domain,
        name: &str,
        kind: Kind,
    ) {
        let (mode, device_type) = match kind {
            Kind::Writable => ("w", "disk"),
            Kind::ReadOnly => ("r", "disk"),
            Kind::Cdrom => ("r", "cdrom"),
        };
        let front = [("device-type", device_type)];
        let back = [("params", name), ("mode", mode), ("device-type", device_type)];
        self.attach_with(toolstack, guest, ("vbd", device(name)), backend, &front, &back).await;
    }

    async fn attach(
        &self,
        toolstack: &Toolstack,
        guest: &Domain,
        device: (&'static str, u32),
        backend: Domain,
        nodes: &[(&str, &str)],
    ) {
        self.attach_with(toolstack, guest, device, backend, &[], nodes).await;
    }

    pub(super) fn remove(&self, class: &str, number: u32) -> Option<(&'static str, u32, Domain)> {
        let mut attached = self.attached.borrow_mut();
        let at = attached.iter().position(|(other, of, _)| *other == class && *of == number)?;
        Some(attached.remove(at))
    }

    pub(super) async fn attach_with(
        &self,
        toolstack: &Toolstack,
        guest: &Domain,
        (class, number): (&'static str, u32),
        backend: Domain,
        front: &[(&str, &str)],
        back: &[(&str, &str)],
    ) {
        let attached = toolstack.attach_with_both(class, guest.id(), backend.id(), number, front, back).await;
        attached.expect("the store takes the device");
        self.attached.borrow_mut().push((class, number, backend));
    }
}

pub(super) struct Disk {
    pub(super) name: String,
    pub(super) number: u32,
    kind: Kind,
    pub(super) disk: RamDisk<Domain>,
}

/// The disks that the test has given the guest.
pub(super) type Disks = Rc<RefCell<Vec<Disk>>>;

impl Image {
    /// The disk in the backend's memory.
    pub(super) async fn disk(self, backend: Domain) -> Disk {
        let Image { name, content, kind } = self;
        let number = device(&name);
        let disk = RamDisk::new(backend, (content.len() as u64).div_ceil(512)).expect("memory for the disk");
        for (sector, bytes) in (0..).step_by(CHUNK / 512).zip(content.chunks(CHUNK)) {
            if bytes.iter().any(|byte| *byte != 0) {
                let mut bytes = bytes.to_vec();
                bytes.resize(bytes.len().next_multiple_of(512), 0);
                disk.write_bytes(sector, &bytes).await.expect("the disk is written");
            }
        }
        let disk = if kind == Kind::Writable { disk } else { disk.read_only() };
        Disk { name, number, kind, disk }
    }
}

fn serve_disks(backend: &Backend, disks: Disks) {
    let Backend { domain, store } = backend.clone();
    backend
        .domain
        .spawn(async move {
            let find = |name: &str| disks.borrow().iter().find(|disk| disk.name == name).map(|disk| disk.disk.clone());
            let open = async |attach: &Attachment| match find(&attach.params) {
                Some(disk) => Ok(disk),
                None => Err(Failure::new(Errno::ENOENT, format_args!("target={}: no such disk", attach.params))),
            };
            drop(back::serve(&store, domain, Default::default(), open, |_, _| ()).await);
        })
        .detach();
}
