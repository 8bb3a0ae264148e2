//! A domain under test.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::dom0::Dom0;
use crate::lab::Lab;
use crate::xlfile::Config;

/// What is done with a domain that does not run yet.
type Before<'a> = Box<dyn FnOnce(&Domain<'a>) -> Result<()> + 'a>;

/// A guest to be created.
pub struct Builder<'a> {
    lab: &'a Lab,
    config: Config,
    /// What the kernel's file holds, where it is not in dom0 yet.
    image: Option<&'a Path>,
    before: Option<Before<'a>>,
    paused: bool,
}

/// Begins a domain of an image on this machine, which is copied to dom0 once, by its file's name.
pub fn guest<'a>(lab: &'a Lab, image: &'a (impl AsRef<Path> + ?Sized), name: &str) -> Builder<'a> {
    let image = image.as_ref();
    let file = image.file_name().unwrap_or_default().to_string_lossy();
    let config = Config::new(name, &format!("/tmp/images/{file}"));
    Builder { lab, config, image: Some(image), before: None, paused: false }
}

/// Begins a domain of Linux, of the kernel that dom0 has, which does what the shell script `job` says and ends. It finds
/// `programs` in its root.
///
/// # Errors
///
/// Where dom0 cannot be given the files.
pub fn linux<'a>(lab: &'a Lab, name: &str, job: &str, programs: &[(&str, &[u8])]) -> Result<Builder<'a>> {
    const KERNEL: &str = "/tmp/images/linux";
    const FILES: &str = "/tmp/images/linux.cpio.gz";
    linux_of(lab, name, job, programs, [KERNEL, FILES], || lab.put_linux(KERNEL, FILES))
}

/// Begins a domain of Debian's kernel as a router: as [`linux`] does, and with `nft` and the modules for connections and
/// their translation. It has no other programs than those and busybox.
///
/// # Errors
///
/// Where its packages cannot be downloaded, or dom0 cannot be given the files.
pub fn linux_router<'a>(lab: &'a Lab, name: &str, job: &str) -> Result<Builder<'a>> {
    const KERNEL: &str = "/tmp/images/router";
    const FILES: &str = "/tmp/images/router.cpio.gz";
    linux_of(lab, name, job, &[], [KERNEL, FILES], || lab.put_router(KERNEL, FILES))
}

/// Begins a domain of Debian's kernel with `cryptsetup` and the modules that it needs, and no other programs than busybox.
///
/// # Errors
///
/// Where its packages cannot be downloaded, or dom0 cannot be given the files.
pub fn linux_cryptsetup<'a>(lab: &'a Lab, name: &str, job: &str) -> Result<Builder<'a>> {
    const KERNEL: &str = "/tmp/images/cryptsetup";
    const FILES: &str = "/tmp/images/cryptsetup.cpio.gz";
    linux_of(lab, name, job, &[], [KERNEL, FILES], || lab.put_cryptsetup(KERNEL, FILES))
}

/// Begins a domain of Debian's kernel with NSD, an authoritative name server, and no other programs than busybox.
///
/// # Errors
///
/// Where its packages cannot be downloaded, or dom0 cannot be given the files.
pub fn linux_nsd<'a>(lab: &'a Lab, name: &str, job: &str) -> Result<Builder<'a>> {
    const KERNEL: &str = "/tmp/images/nsd";
    const FILES: &str = "/tmp/images/nsd.cpio.gz";
    linux_of(lab, name, job, &[], [KERNEL, FILES], || lab.put_nsd(KERNEL, FILES))
}

/// Begins a domain of Debian's kernel with the modules that mount a share (9p over Xen), and no other programs than busybox.
///
/// # Errors
///
/// Where its packages cannot be downloaded, or dom0 cannot be given the files.
pub fn linux_p9<'a>(lab: &'a Lab, name: &str, job: &str) -> Result<Builder<'a>> {
    const KERNEL: &str = "/tmp/images/p9";
    const FILES: &str = "/tmp/images/p9.cpio.gz";
    linux_of(lab, name, job, &[], [KERNEL, FILES], || lab.put_p9(KERNEL, FILES))
}

fn linux_of<'a>(
    lab: &'a Lab,
    name: &str,
    job: &str,
    programs: &[(&str, &[u8])],
    [kernel, files]: [&str; 2],
    put: impl FnOnce() -> Result<()>,
) -> Result<Builder<'a>> {
    if lab.try_run(&format!("test -f {files}"))?.0 != 0 {
        lab.run("mkdir -p /tmp/images")?;
        put()?;
    }
    // The kernel unpacks archives that stand one after the other.
    let own = format!("/tmp/images/{name}.initrd");
    lab.run("rm -rf /tmp/images/own && mkdir /tmp/images/own")?;
    for (file, bytes) in [("job", job.as_bytes())].into_iter().chain(programs.iter().copied()) {
        lab.put(&format!("/tmp/images/own/{file}"), Box::new(Cursor::new(bytes.to_vec())))?;
    }
    lab.run(&format!(
        "cd /tmp/images/own && chmod +x * && (cat {files}; ls | cpio -o -H newc 2>/dev/null | gzip) >{own}"
    ))?;
    let mut config = Config::new(name, kernel);
    config.memory = 192;
    config.command_line = "console=hvc0 quiet".to_owned();
    config.extra = vec![format!("ramdisk = \"{own}\"")];
    Ok(Builder { lab, config, image: None, before: None, paused: false })
}

/// Begins an HVM guest that starts from its first disk, whose lines the caller adds.
pub fn from_disk<'a>(lab: &'a Lab, name: &str) -> Builder<'a> {
    Builder { lab, config: Config::new(name, ""), image: None, before: None, paused: false }
}

/// A domain that dom0 has created by itself.
///
/// # Errors
///
/// Where there is none of this name.
pub fn find<'a>(lab: &'a Lab, name: &str) -> Result<Domain<'a>> {
    let id = lab.run(&format!("xl domid {name}"))?.trim().parse().context("xl domid")?;
    Ok(Domain { lab, name: name.to_owned(), id, log: format!("/var/log/xen/console/guest-{name}.log") })
}

impl<'a> Builder<'a> {
    /// The lab that it will run in.
    pub fn lab(&self) -> &'a Lab {
        self.lab
    }

    /// Its memory; 16 MiB where this is not called.
    pub fn memory(mut self, mebibytes: u64) -> Self {
        self.config.memory = mebibytes;
        self
    }

    /// Its command line.
    pub fn command_line(mut self, text: impl Into<String>) -> Self {
        self.config.command_line = text.into();
        self
    }

    /// A further line of its xl file.
    pub fn line(mut self, line: &str) -> Self {
        self.config.extra.push(line.to_owned());
        self
    }

    /// Does something with the domain before it runs.
    pub fn before(mut self, action: impl FnOnce(&Domain<'a>) -> Result<()> + 'a) -> Self {
        self.before = Some(Box::new(action));
        self
    }

    /// Leaves it paused, for the caller to have it run.
    pub fn paused(mut self) -> Self {
        self.paused = true;
        self
    }

    /// Creates the domain. It stays after its end, for its state to be looked at.
    ///
    /// # Errors
    ///
    /// Where the toolstack cannot create it: with what `xl` printed.
    pub fn create(self) -> Result<Domain<'a>> {
        let (lab, name) = (self.lab, self.config.name.clone());
        let kernel = &self.config.kernel;
        if let Some(image) = self.image
            && lab.try_run(&format!("test -f {kernel}"))?.0 != 0
        {
            lab.run("mkdir -p /tmp/images")?;
            lab.put(kernel, Box::new(File::open(image).with_context(|| image.display().to_string())?))?;
        }
        let path = format!("/tmp/{name}.cfg");
        lab.put(&path, Box::new(Cursor::new(self.config.text()?)))?;
        let log = format!("/var/log/xen/console/guest-{name}.log");
        let id = lab
            .run(&format!("rm -f {log}; xl create -q -e -p {path} && xl domid {name}"))?
            .trim()
            .lines()
            .last()
            .and_then(|id| id.parse().ok())
            .context("xl domid")?;
        let domain = Domain { lab, name, id, log };
        if let Some(action) = self.before {
            action(&domain)?;
        }
        if !self.paused {
            lab.run(&format!("xl unpause {id}"))?;
        }
        Ok(domain)
    }
}

/// A domain that was created.
pub struct Domain<'a> {
    lab: &'a Lab,
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// The file in dom0 that its console is written to.
    pub log: String,
}

impl<'a> Domain<'a> {
    /// The lab that it runs in.
    pub fn lab(&self) -> &'a Lab {
        self.lab
    }

    /// The same domain after a restore, which gives it another number.
    pub fn with_id(self, id: u32) -> Self {
        Domain { id, ..self }
    }

    /// What it has printed so far, as a console shows it.
    ///
    /// # Errors
    ///
    /// Where the lab has ended.
    pub fn console(&self) -> Result<String> {
        let (_, text) = self.lab.try_run(&format!("cat {}", self.log))?;
        Ok(text.replace('\r', ""))
    }

    /// Waits until its console holds `text`, and returns all of it.
    ///
    /// # Errors
    ///
    /// Where it does not within so many seconds: with what it printed.
    pub fn wait_for(&self, text: &str, seconds: u64) -> Result<String> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let console = self.console()?;
            if console.contains(text) {
                return Ok(console);
            }
            if Instant::now() > deadline {
                bail!("{} did not print {text:?} within {seconds} s; it printed:\n{console}", self.name);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends a line to its console.
    ///
    /// # Errors
    ///
    /// Where the lab has ended.
    pub fn send(&self, line: &str) -> Result<()> {
        self.lab
            .run(&format!(
                "until t=$(xenstore-read /local/domain/{}/console/tty 2>/dev/null) && [ -n \"$t\" ]; do usleep 50000; done
                 printf '%s\\n' '{line}' > $t",
                self.id
            ))
            .map(drop)
    }

    /// Its line in `xl list -v`: state letters and shutdown reason.
    ///
    /// # Errors
    ///
    /// Where it is gone.
    pub fn state(&self) -> Result<(String, String)> {
        let text = self.lab.run(&format!("xl list -v {}", self.id))?;
        let words: Vec<_> = text.lines().nth(1).context("xl list")?.split_whitespace().collect();
        ensure!(words.len() >= 8, "xl list -v printed {text}");
        Ok((words[4].to_owned(), words[7].to_owned()))
    }

    /// Waits until it has ended, and returns state letters, shutdown reason and console.
    ///
    /// # Errors
    ///
    /// Where it does not within so many seconds: with what it printed.
    pub fn wait_end(&self, seconds: u64) -> Result<(String, String, String)> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let (state, reason) = self.state()?;
            if reason != "-" {
                return Ok((state, reason, self.console()?));
            }
            if Instant::now() > deadline {
                bail!("{} did not end within {seconds} s; it printed:\n{}", self.name, self.console()?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the end of a guest that prints `N passed, M failed`, and checks that nothing failed.
    ///
    /// # Errors
    ///
    /// Where one has failed, or it does not end.
    pub fn wait_passed(&self, seconds: u64) -> Result<String> {
        let (_, reason, mut console) = self.wait_end(seconds)?;
        // A dom0 that is busy takes what was printed from the console's ring only after the domain's end.
        if !console.contains(" passed, ") && reason == "0" {
            console = self.wait_for(" passed, ", 20)?;
        }
        if !console.contains(" passed, 0 failed") || reason != "0" {
            let hypervisor = self.lab.run("xl dmesg | tail -n 40")?;
            bail!("{} ended with reason {reason}; its console:\n{console}\nthe hypervisor's:\n{hypervisor}", self.name);
        }
        Ok(console)
    }
}

/// Ends everything but dom0.
///
/// # Errors
///
/// Where a domain cannot be destroyed.
pub fn destroy_all(lab: &Lab) -> Result<()> {
    lab.run("for id in $(xl list | awk 'NR > 2 { print $2 }'); do xl destroy $id; done").map(drop)
}
