//! A lab that runs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::agent::Agent;
use crate::dom0::{Dom0, Stream};
use crate::images::{self, Images, images, prepare};
use crate::process::end_with_parent;
use crate::qemu::Qemu;
use crate::running::Announcement;
use crate::{Suite, initramfs, qemu};

/// The address that the lab gives to the first guest that asks for one by DHCP.
const GUEST_ADDRESS: &str = "10.0.2.50";

/// A port of the host that leads to a port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The port of the host, on its own address 127.0.0.1.
    pub host: u16,
    /// The guest's.
    pub guest: u16,
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Publish, String> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        text.split_once(':')
            .and_then(|(host, guest)| Some(Publish { host: port(host)?, guest: port(guest)? }))
            .ok_or_else(|| "expected HOSTPORT:GUESTPORT, such as 8080:80".into())
    }
}

/// What a lab boots with.
#[derive(Default)]
pub struct Options {
    /// Ports of the host that lead to the first guest that asks for an address by DHCP.
    pub publish: Vec<Publish>,
    /// Ports of the host that lead to dom0 itself.
    pub publish_dom0: Vec<Publish>,
    /// Files that dom0 gets as block devices; see [`Lab::disk_path`].
    pub disks: Vec<PathBuf>,
    /// Folders of the host that dom0 sees as they are at each moment; see [`Lab::shared_folder`].
    pub folders: Vec<SharedFolder>,
    /// How long a command in dom0 may print nothing before it counts as stuck; for ever where it is not set.
    pub timeout: Option<Duration>,
    /// Nothing in the lab reaches beyond it; ports that are published do.
    pub isolated: bool,
    /// The name by which [`running`](crate::running) finds this lab; where it is not set, none does.
    pub announce: Option<String>,
    /// Which program serves the store.
    pub store: StoreServer,
    /// Two processors, emulated by a thread each, for comparisons of speed on a quiet host; else one, and dom0 has its two
    /// virtual processors all the same, since QEMU reports a second one that is not plugged in.
    ///
    /// With two, two things were seen. On one thread for both, guests took an interrupt a second time, though they had
    /// interrupts off, and a Linux guest died of that within minutes: QEMU's `helper_vmrun` leaves the vector that it
    /// injected in `exception_index`, and the timer that makes processors take turns has `cpu_handle_exception` deliver
    /// it again (QEMU 10.0; the timer is there for two processors only). And on a busy host all stood still now and
    /// then: both processors idle, dom0 ready to run with events pending, and no bit of the scheduler's set (Xen's
    /// debug keys `q` and `r`; 4.17 and 4.20, credit and credit2).
    pub parallel: bool,
}

/// A folder of the host that dom0 sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedFolder {
    /// The folder.
    pub folder: PathBuf,
    /// Nothing in the lab can change it.
    pub read_only: bool,
}

/// A program that serves the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreServer {
    /// `xenstored`, in C.
    #[default]
    Xenstored,
    /// `oxenstored`, in OCaml.
    Oxenstored,
}

/// Xen's command line. dom0 has two virtual processors, whatever it runs on.
const XEN_COMMAND_LINE: &str =
    "console=com1 com1=115200,8n1 loglvl=warning guest_loglvl=all dom0_mem=768M,max:768M dom0_max_vcpus=2";

/// A booted lab. Dropping it ends the emulator.
pub struct Lab {
    child: Arc<Mutex<Child>>,
    agent: Agent,
    /// Everything that Xen and dom0 print: the first place to look when something goes wrong.
    pub serial: PathBuf,
    scratch: tempfile::TempDir,
    suite: Suite,
    images: Images,
    announcement: Option<Announcement>,
}

impl Lab {
    /// Boots and waits until dom0 takes commands.
    ///
    /// # Errors
    ///
    /// Where something cannot be downloaded, QEMU does not start, or dom0 does not come up.
    pub fn boot(suite: Suite, options: &Options) -> Result<Lab> {
        let qemu = prepare(suite)?;
        let images = images(suite)?;
        check_ports(&options.publish)?;
        let scratch = tempfile::Builder::new().prefix("sarab-lab-").tempdir()?;
        let agent = Agent { port: free_port()?, token: token()?, timeout: options.timeout };
        let (command, serial) = command(suite, options, &qemu, &images, scratch.path(), &agent, false)?;
        let child = Arc::new(Mutex::new(spawn(command, &serial)?));
        let mut lab = Lab { child, agent, serial, scratch, suite, images, announcement: None };
        lab.wait_ready()?;
        lab.announcement = options.announce.as_ref().map(|name| Announcement::new(name, &lab.agent)).transpose()?;
        Ok(lab)
    }

    /// Boots with a shell of dom0's on this terminal, and returns when it ends.
    ///
    /// # Errors
    ///
    /// As [`Lab::boot`].
    pub fn shell(suite: Suite) -> Result<()> {
        let qemu = prepare(suite)?;
        let images = images(suite)?;
        let scratch = tempfile::Builder::new().prefix("sarab-lab-").tempdir()?;
        let agent = Agent { port: free_port()?, token: token()?, timeout: None };
        let options = Options::default();
        let (mut command, _) = command(suite, &options, &qemu, &images, scratch.path(), &agent, true)?;
        let _announcement = Announcement::new("shell", &agent)?;
        end_with_parent(&mut command);
        let status = command.args(["-serial", "stdio"]).status().context("cannot start QEMU")?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }

    fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(180);
        loop {
            let text =
                fs::read(&self.serial).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            if text.contains("lab: ready") {
                break;
            }
            let ended = self.child.lock().expect("not poisoned").try_wait()?;
            let panicked = text.contains("Panic on CPU") || text.contains("Kernel panic");
            if ended.is_some() || panicked || Instant::now() > deadline {
                let tail: Vec<_> = text.lines().rev().take(8).collect();
                let tail: Vec<_> = tail.into_iter().rev().map(|line| format!("  {line}")).collect();
                let why = match ended {
                    Some(status) => format!("QEMU ended with {status}"),
                    None if panicked => "it panicked".into(),
                    None => "dom0 did not come up within 180 s".into(),
                };
                bail!("the lab did not boot: {why}; its final console output:\n{}", tail.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.agent.run("true").context("dom0 booted but does not take commands")?;
        Ok(())
    }

    /// Runs commands in dom0 from another thread, without a timeout.
    pub fn agent(&self) -> Agent {
        Agent { timeout: None, ..self.agent.clone() }
    }

    /// The block device in dom0 that is file `index` of [`Options::disks`].
    ///
    /// # Errors
    ///
    /// Where dom0 has no such device.
    pub fn disk_path(&self, index: usize) -> Result<String> {
        // The numbers of the devices follow the order in which their drivers were ready.
        let find = format!(
            "for n in 1 2 3 4 5 6 7 8 9 10; do for s in /sys/class/nvme/*/serial; do [ \"$(tr -d ' ' <$s)\" = disk{index} ] && \
             d=/dev/$(basename ${{s%/serial}})n1 && [ -b $d ] && echo $d && exit; done; sleep 0.2; done; exit 1"
        );
        Ok(self.run(&find)?.trim().to_owned())
    }

    /// Where folder `index` of [`Options::folders`] is in dom0: QEMU serves it there (virtio-9p), and nothing of it is kept, so
    /// each side sees at once what the other has changed.
    ///
    /// # Errors
    ///
    /// Where dom0's kernel modules for it cannot be downloaded or loaded, or this Xen has no xen-9pfsd to serve it to a guest.
    pub fn shared_folder(&self, index: usize) -> Result<String> {
        const MODULES: &str = "/tmp/modules-9p";
        let daemon = format!("/usr/lib/xen-{}/bin/xen-9pfsd", self.suite.xen);
        ensure!(
            self.try_run(&format!("test -x {daemon}"))?.0 == 0,
            "Xen {} has no xen-9pfsd, which came with 4.19: boot another suite to share a folder",
            self.suite.xen
        );
        if self.try_run(&format!("test -d {MODULES}"))?.0 != 0 {
            let (_, files) = images::special(self.suite, &images::P9)?;
            self.put(&format!("{MODULES}.cpio.gz"), Box::new(File::open(files)?))?;
            // Those that are loaded already are refused.
            self.run(&format!(
                "mkdir {MODULES} && cd {MODULES} && zcat {MODULES}.cpio.gz | cpio -i 2>/dev/null; rm {MODULES}.cpio.gz
                 for module in lib/modules/*.ko; do insmod $module 2>/dev/null; done
                 grep -q 9p /proc/filesystems || {{ echo '9p cannot be loaded:'; dmesg | tail -n 5; exit 1; }}"
            ))?;
        }
        let path = format!("/srv/folder{index}");
        self.run(&format!(
            "mkdir -p {path} && mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none folder{index} {path} || \
             {{ dmesg | tail -n 5; exit 1; }}"
        ))?;
        Ok(path)
    }

    /// Gives dom0 the Linux guest's kernel and its file system, at these two paths.
    ///
    /// # Errors
    ///
    /// Where they cannot be read, or dom0 cannot write them.
    pub fn put_linux(&self, kernel: &str, files: &str) -> Result<()> {
        self.put(kernel, Box::new(File::open(&self.images.kernel)?))?;
        self.put(files, Box::new(File::open(&self.images.guest)?))
    }

    /// Gives dom0 the Linux router's kernel and its file system, at these two paths. They are downloaded and built where they
    /// are not in the cache yet.
    ///
    /// # Errors
    ///
    /// Where they cannot be downloaded or read, or dom0 cannot write them.
    pub fn put_router(&self, kernel: &str, files: &str) -> Result<()> {
        self.put_special(&images::ROUTER, kernel, files)
    }

    /// Copies kernel and root file system of the Linux guest with cryptsetup to these paths in dom0.
    ///
    /// # Errors
    ///
    /// Where they cannot be downloaded or read, or dom0 cannot write them.
    pub fn put_cryptsetup(&self, kernel: &str, files: &str) -> Result<()> {
        self.put_special(&images::CRYPTSETUP, kernel, files)
    }

    /// Copies kernel and root file system of the Linux guest with NSD to these paths in dom0.
    ///
    /// # Errors
    ///
    /// Where they cannot be downloaded or read, or dom0 cannot write them.
    pub fn put_nsd(&self, kernel: &str, files: &str) -> Result<()> {
        self.put_special(&images::NSD, kernel, files)
    }

    /// Copies kernel and root file system of the Linux guest with 9p to these paths in dom0.
    ///
    /// # Errors
    ///
    /// Where they cannot be downloaded or read, or dom0 cannot write them.
    pub fn put_p9(&self, kernel: &str, files: &str) -> Result<()> {
        self.put_special(&images::P9, kernel, files)
    }

    /// Unpacks cryptsetup in dom0, in a folder of its own, loads the kernel modules that it needs, and returns the command
    /// that starts it. No udev is there for it to wait for.
    ///
    /// # Errors
    ///
    /// Where its packages cannot be downloaded, or its modules are of another kernel than dom0's.
    pub fn cryptsetup(&self) -> Result<String> {
        const FOLDER: &str = "/tmp/cryptsetup";
        if self.try_run(&format!("test -d {FOLDER}"))?.0 != 0 {
            let archive = "/tmp/cryptsetup.cpio.gz";
            let (_, own_files) = images::special(self.suite, &images::CRYPTSETUP)?;
            self.put(archive, Box::new(File::open(own_files)?))?;
            // Those that are loaded already are refused.
            self.run(&format!(
                "mkdir {FOLDER} && cd {FOLDER} && zcat {archive} | cpio -i 2>/dev/null && rm {archive} || exit 1
                 for module in lib/modules/*.ko; do insmod $module 2>/dev/null; done
                 [ -d /sys/module/dm_crypt ] || {{ echo 'dm-crypt cannot be loaded:'; dmesg | tail -n 5; exit 1; }}"
            ))?;
        }
        let linker = format!("{FOLDER}/lib64/ld-linux-x86-64.so.2 --library-path {FOLDER}/usr/lib/x86_64-linux-gnu");
        Ok(format!("DM_DISABLE_UDEV=1 {linker} {FOLDER}/usr/sbin/cryptsetup"))
    }

    fn put_special(&self, special: &images::Special, kernel: &str, files: &str) -> Result<()> {
        let (own_kernel, own_files) = images::special(self.suite, special)?;
        self.put(kernel, Box::new(File::open(own_kernel)?))?;
        self.put(files, Box::new(File::open(own_files)?))
    }

    /// Unpacks Xen's QEMU in dom0, in a folder of its own, and returns the command that starts it.
    ///
    /// # Errors
    ///
    /// Where the suite has none ([`Suite::has_device_model`]).
    pub fn device_model(&self) -> Result<String> {
        const FOLDER: &str = "/tmp/device-model";
        let root = Path::new(FOLDER);
        if self.try_run(&format!("test -d {FOLDER}"))?.0 != 0 {
            let archive = "/tmp/device-model.cpio.gz";
            self.put(archive, Box::new(File::open(&self.images.device_model)?))?;
            self.run(&format!(
                "mkdir {FOLDER} && cd {FOLDER} && zcat {archive} | cpio -i 2>/dev/null && rm {archive}"
            ))?;
        }
        let [linker, libraries, program] =
            ["lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu", initramfs::DEVICE_MODEL]
                .map(|path| root.join(path).display().to_string());
        Ok(format!("{linker} --library-path {libraries} {program}"))
    }

    /// What it has booted.
    pub(crate) fn suite(&self) -> Suite {
        self.suite
    }

    /// A handle that ends the lab from another thread, for a signal handler after which nothing is dropped.
    pub fn killer(&self) -> impl Fn() + Send + 'static {
        let child = Arc::clone(&self.child);
        let scratch = self.scratch.path().to_owned();
        let announcement = self.announcement.as_ref().map(|announcement| announcement.path().to_owned());
        move || {
            let _ = child.lock().expect("not poisoned").kill();
            let _ = fs::remove_dir_all(&scratch);
            if let Some(path) = &announcement {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mut child = self.child.lock().expect("not poisoned");
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Dom0 for Lab {
    fn stream(&self, command: &str, stdin: Option<Box<dyn Read + Send>>) -> Result<Box<dyn Stream>> {
        self.agent.stream(command, stdin)
    }

    fn bridge(&self) -> Option<&str> {
        self.agent.bridge()
    }
}

fn command(
    suite: Suite,
    options: &Options,
    qemu: &Qemu,
    images: &Images,
    scratch: &Path,
    agent: &Agent,
    shell: bool,
) -> Result<(Command, PathBuf)> {
    let overlay = scratch.join("overlay.cpio.gz");
    let (rows, columns) = terminal_size();
    let values = [
        ("TOKEN", agent.token.as_str()),
        ("SHELL", if shell { "yes" } else { "no" }),
        (
            "STORE",
            match options.store {
                StoreServer::Xenstored => "xenstored",
                StoreServer::Oxenstored => "oxenstored",
            },
        ),
        ("ROWS", &rows.to_string()),
        ("COLS", &columns.to_string()),
    ];
    initramfs::write_overlay(suite, &values, &overlay)?;
    let initrd = scratch.join("initrd");
    let mut out = File::create(&initrd)?;
    for part in [&images.base, &overlay] {
        io::copy(&mut File::open(part).with_context(|| part.display().to_string())?, &mut out)?;
    }

    // What a guest sends to an unused address would leave through this machine.
    let restrict = if options.isolated { "on" } else { "off" };
    let mut net = format!(
        "user,id=n0,restrict={restrict},dhcpstart={GUEST_ADDRESS},hostfwd=tcp:127.0.0.1:{}-10.0.2.10:5555",
        agent.port
    );
    for publish in &options.publish {
        net += &format!(",hostfwd=tcp:127.0.0.1:{}-{GUEST_ADDRESS}:{}", publish.host, publish.guest);
    }
    for publish in &options.publish_dom0 {
        net += &format!(",hostfwd=tcp:127.0.0.1:{}-10.0.2.10:{}", publish.host, publish.guest);
    }
    let mut command = qemu.command();
    for (index, disk) in options.disks.iter().enumerate() {
        // A comma in a file name is written twice (QEMU's manual, "-drive").
        let file = disk.display().to_string().replace(',', ",,");
        command.args(["-drive", &format!("file={file},format=raw,if=none,id=disk{index},cache=unsafe")]);
        command.args(["-device", &format!("nvme,drive=disk{index},serial=disk{index}")]);
    }
    for (index, SharedFolder { folder, read_only }) in options.folders.iter().enumerate() {
        let path = folder.display().to_string().replace(',', ",,");
        let access = if *read_only { ",readonly=on" } else { "" };
        // Files that the guest makes are this user's; links in the folder are not followed out of it by QEMU.
        let options = format!("local,id=folder{index},path={path},security_model=none,multidevs=remap{access}");
        command.args(["-fsdev", &options]);
        command.args(["-device", &format!("virtio-9p-pci,fsdev=folder{index},mount_tag=folder{index}")]);
    }
    let (accelerator, processors) =
        if options.parallel { ("tcg,thread=multi", "2") } else { ("tcg,thread=single", "1,maxcpus=2") };
    command
        .args(["-accel", accelerator, "-smp", processors, "-m", "2048", "-cpu", qemu::CPU])
        .args(["-display", "none", "-nodefaults", "-no-reboot", "-monitor", "none"])
        .args(["-netdev", &net, "-device", "e1000,netdev=n0,romfile="])
        .arg("-kernel")
        .arg(&images.xen)
        .args(["-append", XEN_COMMAND_LINE])
        .args(["-initrd", &format!("{} console=hvc0 quiet loglevel=4,{}", images.kernel.display(), initrd.display())]);
    Ok((command, scratch.join("serial.log")))
}

fn spawn(mut command: Command, serial: &Path) -> Result<Child> {
    let log = File::create(serial)?;
    command.args(["-serial", "stdio"]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    end_with_parent(&mut command);
    // Ctrl-C of a terminal goes to all of its foreground group: what it ends is for the program to say.
    command.process_group(0);
    command.spawn().context("cannot start QEMU")
}

/// Checks that the ports of this machine are free.
///
/// # Errors
///
/// Names the first that is not.
pub fn check_ports(publish: &[Publish]) -> Result<()> {
    for Publish { host, .. } in publish {
        TcpListener::bind((Ipv4Addr::LOCALHOST, *host)).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                anyhow::anyhow!("port {host} of this machine is in use: publish the guest on another one")
            }
            io::ErrorKind::PermissionDenied => {
                anyhow::anyhow!("port {host} needs root: publish the guest on a port above 1023")
            }
            _ => anyhow::anyhow!("cannot listen on port {host}: {error}"),
        })?;
    }
    Ok(())
}

/// An unused port of this machine.
///
/// # Errors
///
/// Where there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A name that cannot be guessed.
///
/// # Errors
///
/// Where this machine has no random numbers.
pub fn token() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn terminal_size() -> (u16, u16) {
    // SAFETY: `winsize` is plain data, and the ioctl writes at most one of them.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        (libc::ioctl(0, libc::TIOCGWINSZ, &mut size) == 0).then_some(size)
    };
    size.filter(|size| size.ws_row > 0).map_or((24, 80), |size| (size.ws_row, size.ws_col))
}
