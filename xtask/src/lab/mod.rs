//! The lab: real Xen with a real dom0, inside an emulator, as an ordinary user.

mod apt;
mod initramfs;
pub mod qemu;
pub mod suite;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::dom0::{Dom0, Stream};
use crate::paths::cache;
use apt::Apt;
use qemu::Qemu;
pub use suite::Suite;

/// Bump when what [`prepare`] makes from the packages changes.
const IMAGE_REVISION: &str = "12";

/// The address that the lab gives to the first guest that asks for one by DHCP.
const GUEST_ADDRESS: &str = "10.0.2.50";

/// A port of the host that leads to a port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    pub host: u16,
    pub guest: u16,
}

/// What a lab boots with.
#[derive(Default)]
pub struct Options {
    pub publish: Vec<Publish>,
    /// Ports of the host that lead to dom0 itself.
    pub publish_dom0: Vec<Publish>,
    /// Files that dom0 gets as block devices; see [`Lab::disk_path`].
    pub disks: Vec<PathBuf>,
    /// How long a command in dom0 may print nothing before it counts as stuck; for ever where it is not set.
    pub patience: Option<Duration>,
    /// Nothing in the lab reaches beyond it; ports that are published do.
    pub isolated: bool,
    /// Give the serial console to the user with a shell on it.
    pub shell: bool,
    /// Which program serves the store.
    pub store: StoreServer,
    /// Two processors, emulated by a thread each, for comparisons of speed on a quiet host; else one, and dom0 has its two
    /// virtual processors all the same, since QEMU tells of a second that is not plugged in.
    ///
    /// With two, two things were seen. On one thread for both, guests took an interrupt a second time, though they had
    /// interrupts off, and a Linux guest died of that within minutes: QEMU's `helper_vmrun` leaves the vector that it
    /// injected in `exception_index`, and the timer that makes processors take turns has `cpu_handle_exception` deliver
    /// it again (QEMU 10.0; the timer is there for two processors only). And on a busy host all stood still now and
    /// then: both processors idle, dom0 ready to run with events pending, and no bit of the scheduler's set (Xen's
    /// debug keys `q` and `r`; 4.17 and 4.20, credit and credit2).
    pub parallel: bool,
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

/// Hypervisor, kernel, dom0's base file system and the Linux guest's, and the device model, of one suite.
struct Images {
    xen: PathBuf,
    kernel: PathBuf,
    base: PathBuf,
    guest: PathBuf,
    device_model: PathBuf,
}

fn home(suite: Suite) -> Result<PathBuf> {
    Ok(cache()?.join("lab").join(suite.codename))
}

/// Whether the suite's images are there, so that a boot needs no network.
pub fn is_prepared(suite: Suite) -> Result<bool> {
    let stamp = home(suite)?.join("images/revision");
    Ok(fs::read_to_string(stamp).is_ok_and(|found| found == IMAGE_REVISION))
}

/// Downloads and builds what a boot of `suite` needs; at once where it is there already.
pub fn prepare(suite: Suite) -> Result<Qemu> {
    let (home, lock) = locked_home(suite)?;
    if !is_prepared(suite)? {
        build_images(suite, &home, &home.join("images"))?;
    }
    drop(lock);
    Qemu::find()
}

/// The suite's folder in the cache, and what keeps others from downloading into it.
fn locked_home(suite: Suite) -> Result<(PathBuf, File)> {
    let home = home(suite)?;
    fs::create_dir_all(&home)
        .with_context(|| format!("cannot create {} for downloads (SARAB_CACHE names another place)", home.display()))?;
    let lock = File::create(home.join("lock")).with_context(|| format!("cannot write to {}", home.display()))?;
    lock.lock().context("cannot lock the lab's cache")?;
    Ok((home, lock))
}

/// The folder with Xen's public headers (`xen/io/ring.h` and others), downloaded where it is not there yet. The tests
/// compare with what they say.
pub fn headers() -> Result<PathBuf> {
    let (home, _lock) = locked_home(suite::DEFAULT)?;
    let folder = home.join("headers");
    if !folder.exists() {
        let files =
            Apt::new(suite::DEFAULT.codename, home.clone())?.download("Xen's headers", &["libxen-dev".to_owned()])?;
        let is_it =
            |file: &&PathBuf| file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"libxen-dev_"));
        let own: Vec<_> = files.iter().filter(is_it).cloned().collect();
        let partial = Partial::new(home.join("headers.tmp"))?;
        apt::unpack("Xen's headers", &own, partial.path())?;
        fs::rename(partial.path(), &folder).context("cannot keep the headers")?;
    }
    Ok(folder.join("usr/include"))
}

fn images(suite: Suite) -> Result<Images> {
    let dir = home(suite)?.join("images");
    Ok(Images {
        xen: dir.join("xen"),
        kernel: dir.join("vmlinuz"),
        base: dir.join("base.cpio.gz"),
        guest: dir.join("guest.cpio.gz"),
        device_model: dir.join("device-model.cpio.gz"),
    })
}

fn build_images(suite: Suite, home: &Path, dir: &Path) -> Result<()> {
    let files = Apt::new(suite.codename, home.to_owned())?.download(&suite.to_string(), &suite.packages())?;
    // Both folders are named .tmp until they are whole: an interrupted run leaves nothing that looks finished.
    let root = Partial::new(home.join("root.tmp"))?;
    let partial = Partial::new(home.join("images.tmp"))?;
    let (root, partial) = (root.path(), partial.path());
    apt::unpack(&suite.to_string(), &files, root)?;
    initramfs::gunzip(&root.join(format!("boot/xen-{}-amd64.gz", suite.xen)), &partial.join("xen"))?;
    let kernel = fs::read_dir(root.join("boot"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
        .context("the kernel package holds no vmlinuz")?;
    fs::copy(kernel, partial.join("vmlinuz"))?;
    initramfs::write_base(suite, root, &partial.join("base.cpio.gz"))?;
    initramfs::write_guest(root, &partial.join("guest.cpio.gz"))?;
    if suite.has_device_model() {
        initramfs::write_device_model(root, &partial.join("device-model.cpio.gz"))?;
    }
    fs::write(partial.join("revision"), IMAGE_REVISION)?;
    let _ = fs::remove_dir_all(dir);
    fs::rename(partial, dir).context("cannot keep the lab's images")
}

/// A folder that goes away unless it is renamed to what it is to be.
struct Partial(PathBuf);

impl Partial {
    fn new(path: PathBuf) -> Result<Partial> {
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Partial(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Xen's command line. dom0 has two virtual processors, whatever it runs on.
const XEN_WORDS: &str =
    "console=com1 com1=115200,8n1 loglvl=warning guest_loglvl=all dom0_mem=768M,max:768M dom0_max_vcpus=2";

/// A booted lab. Dropping it ends the emulator.
pub struct Lab {
    child: Arc<Mutex<Child>>,
    agent: Agent,
    /// Everything that Xen and dom0 print: the first place to look when something goes wrong.
    pub serial: PathBuf,
    scratch: tempfile::TempDir,
    images: Images,
}

impl Lab {
    /// Boots and waits until dom0 takes commands.
    pub fn boot(suite: Suite, options: &Options) -> Result<Lab> {
        let qemu = prepare(suite)?;
        let images = images(suite)?;
        check_ports(&options.publish)?;
        let scratch = tempfile::Builder::new().prefix("sarab-lab-").tempdir()?;
        let token = token()?;
        let port = free_port()?;
        let (command, serial) = command(suite, options, &qemu, &images, scratch.path(), &token, port)?;
        let child = Arc::new(Mutex::new(spawn(command, &serial)?));
        let agent = Agent { port, token, patience: options.patience };
        let lab = Lab { child, agent, serial, scratch, images };
        lab.wait_ready()?;
        Ok(lab)
    }

    /// Boots with a shell of dom0's on this terminal, and returns when it ends.
    pub fn shell(suite: Suite) -> Result<()> {
        let qemu = prepare(suite)?;
        let images = images(suite)?;
        let scratch = tempfile::Builder::new().prefix("sarab-lab-").tempdir()?;
        let options = Options { shell: true, ..Options::default() };
        let (mut command, _) = command(suite, &options, &qemu, &images, scratch.path(), &token()?, free_port()?)?;
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
                bail!("the lab did not boot: {why}; its last words:\n{}", tail.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.agent.run("true").context("dom0 booted but does not take commands")?;
        Ok(())
    }

    /// The block device in dom0 that is file `index` of [`Options::disks`].
    pub fn disk_path(&self, index: usize) -> Result<String> {
        // The numbers of the devices follow the order in which their drivers were ready.
        let find = format!(
            "for n in 1 2 3 4 5 6 7 8 9 10; do for s in /sys/class/nvme/*/serial; do [ \"$(tr -d ' ' <$s)\" = disk{index} ] && \
             d=/dev/$(basename ${{s%/serial}})n1 && [ -b $d ] && echo $d && exit; done; sleep 0.2; done; exit 1"
        );
        Ok(self.run(&find)?.trim().to_owned())
    }

    /// Gives dom0 the Linux guest's kernel and its file system, at these two paths.
    pub fn put_linux(&self, kernel: &str, files: &str) -> Result<()> {
        self.put(kernel, Box::new(File::open(&self.images.kernel)?))?;
        self.put(files, Box::new(File::open(&self.images.guest)?))
    }

    /// Unpacks Xen's QEMU in dom0, in a folder of its own, and returns the words that start it. Not each suite has it.
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

    /// A handle that ends the lab from another thread, for a signal handler after which nothing is dropped.
    pub fn killer(&self) -> impl Fn() + Send + 'static {
        let child = Arc::clone(&self.child);
        let scratch = self.scratch.path().to_owned();
        move || {
            let _ = child.lock().expect("not poisoned").kill();
            let _ = fs::remove_dir_all(&scratch);
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
        Some("xenbr0")
    }
}

fn command(
    suite: Suite,
    options: &Options,
    qemu: &Qemu,
    images: &Images,
    scratch: &Path,
    token: &str,
    port: u16,
) -> Result<(Command, PathBuf)> {
    let overlay = scratch.join("overlay.cpio.gz");
    let (rows, columns) = terminal_size();
    let values = [
        ("TOKEN", token),
        ("SHELL", if options.shell { "yes" } else { "no" }),
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

    // What a guest sends to an address that nobody has would leave through this machine.
    let restrict = if options.isolated { "on" } else { "off" };
    let mut net =
        format!("user,id=n0,restrict={restrict},dhcpstart={GUEST_ADDRESS},hostfwd=tcp:127.0.0.1:{port}-10.0.2.10:5555");
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
    let (accelerator, processors) =
        if options.parallel { ("tcg,thread=multi", "2") } else { ("tcg,thread=single", "1,maxcpus=2") };
    command
        .args(["-accel", accelerator, "-smp", processors, "-m", "2048", "-cpu", qemu::CPU])
        .args(["-display", "none", "-nodefaults", "-no-reboot", "-monitor", "none"])
        .args(["-netdev", &net, "-device", "e1000,netdev=n0,romfile="])
        .arg("-kernel")
        .arg(&images.xen)
        .args(["-append", XEN_WORDS])
        .args(["-initrd", &format!("{} console=hvc0 quiet loglevel=4,{}", images.kernel.display(), initrd.display())]);
    Ok((command, scratch.join("serial.log")))
}

fn spawn(mut command: Command, serial: &Path) -> Result<Child> {
    let log = File::create(serial)?;
    command.args(["-serial", "stdio"]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    end_with_parent(&mut command);
    command.spawn().context("cannot start QEMU")
}

/// Has the kernel end the child when this process ends, however it ends.
pub fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: prctl and getppid are async-signal-safe, and the closure touches no memory of the parent.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            match libc::getppid() as u32 == parent {
                true => Ok(()),
                false => Err(io::Error::other("the parent has ended")),
            }
        });
    }
}

/// Checks that the ports of this machine are free.
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

/// A port of this machine that nobody uses just now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn token() -> Result<String> {
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

/// Runs commands in dom0 over a forwarded port: one connection a command.
struct Agent {
    port: u16,
    token: String,
    /// How long a command may print nothing.
    patience: Option<Duration>,
}

impl Agent {
    fn stream(&self, command: &str, stdin: Option<Box<dyn Read + Send>>) -> Result<Box<dyn Stream>> {
        use base64::prelude::{BASE64_STANDARD, Engine};
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).context("the lab has ended")?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(self.patience)?;
        writeln!(socket, "{}\n{}", self.token, BASE64_STANDARD.encode(command))?;
        let mut writer = socket.try_clone()?;
        if let Some(mut stdin) = stdin {
            std::thread::spawn(move || {
                let _ = io::copy(&mut stdin, &mut writer);
                let _ = writer.shutdown(std::net::Shutdown::Write);
            });
        }
        Ok(Box::new(AgentStream { reader: BufReader::new(socket), status: None }))
    }

    fn run(&self, command: &str) -> Result<()> {
        let mut stream = self.stream(command, None)?;
        while stream.line()?.is_some() {}
        ensure!(stream.status()? == 0, "`{command}` failed");
        Ok(())
    }
}

struct AgentStream {
    reader: BufReader<TcpStream>,
    status: Option<i32>,
}

impl Stream for AgentStream {
    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        if self.status.is_some() {
            return Ok(None);
        }
        match self.reader.read_until(b'\n', &mut line) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => bail!("a command in dom0 is stuck"),
            Err(error) => return Err(error).context("reading from dom0"),
        }
        if let Some(status) = line.strip_prefix(b"@rc=") {
            self.status = Some(std::str::from_utf8(status)?.trim().parse()?);
            return Ok(None);
        }
        Ok(Some(line))
    }

    fn status(&mut self) -> Result<i32> {
        self.status.context("the connection to dom0 broke: the lab has ended")
    }
}
