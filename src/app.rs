//! What an application's main receives.

use alloc::vec::Vec;
use core::cell::OnceCell;
use core::fmt;
use core::future::Future;

use xen_hal::DomId;
use xenstore_client::control::Shutdown;
use xenstore_client::{Broken, Store};

use crate::args::Args;
#[cfg(feature = "balloon")]
use crate::balloon::Balloon;
#[cfg(all(any(feature = "guest", feature = "sim"), feature = "control"))]
use crate::control;
use crate::control::{SuspendError, ToolstackRequests};
use crate::machine::{
    self, Console, Entropy, EntropyError, MemoryInfo, Own, Resumed, Task, XenClock, XenEventChannels, XenGrantTable,
    XenPlatform, XenVersion,
};
use crate::pci;

/// The domain that the application runs in: everything that it did not make itself.
///
/// A small value to be copied into tasks.
#[derive(Clone, Copy)]
pub struct App {
    args: Args,
    pub(crate) own: Own,
}

/// What there is once in a domain.
#[derive(Default)]
pub(crate) struct Domain {
    /// The connection to the store, or why there is none; made at its first use.
    store: OnceCell<Result<Store, Broken>>,
    pub(crate) requests: ToolstackRequests,
    #[cfg(feature = "balloon")]
    pub(crate) balloon: Balloon,
    #[cfg(feature = "guest-agent")]
    pub(crate) agent: crate::guest_agent::GuestAgent,
}

impl App {
    /// The command line: `cmdline=` in the xl file.
    pub fn args(&self) -> Args {
        self.args
    }

    /// The domain's console. [`println!`](crate::println) prints there too.
    pub fn console(&self) -> Console {
        self.own.console()
    }

    /// The clock: time since the start, the wall clock, and waiting.
    pub fn clock(&self) -> XenClock {
        self.own.clock()
    }

    /// All that a driver needs of the platform, in one value: grant table, pages, event channels and clock.
    pub fn xen(&self) -> XenPlatform {
        self.own.xen()
    }

    /// Event channels.
    pub fn event_channels(&self) -> XenEventChannels {
        self.own.event_channels()
    }

    /// The grant table, and pages that can be granted.
    pub fn grant_table(&self) -> XenGrantTable {
        self.own.grant_table()
    }

    /// The store. The handle and its clones share one connection.
    ///
    /// # Errors
    ///
    /// Where the toolstack has made no connection for this domain.
    pub fn store(&self) -> Result<Store, Broken> {
        let connect = || {
            let (store, runner) = xenstore_client::connect(self.own.store_channel(), self.clock())?;
            self.spawn(runner.run()).detach();
            Ok(store)
        };
        self.own.domain().store.get_or_init(connect).clone()
    }

    /// Waits until the toolstack asks the domain to end: `xl shutdown`, `xl reboot`.
    ///
    /// After this call the application must exit by itself: when main returns, the domain powers off, or reboots if that
    /// was requested. If it is never called, the domain ends at once on a request; it also does on a second request.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; the next call still returns a request that came before.
    ///
    /// # Examples
    ///
    /// ```
    /// use sarab::App;
    /// use sarab::time::{Duration, Timer};
    ///
    /// /// Works until the toolstack asks for the end, and finishes what it has begun.
    /// async fn work(app: App) {
    ///     let ticks = app.spawn(async {
    ///         loop {
    ///             Timer::after(Duration::from_secs(1)).await;
    ///             sarab::println!("tick");
    ///         }
    ///     });
    ///     app.shutdown().await;
    ///     drop(ticks); // cancels the task
    /// }
    /// ```
    pub async fn shutdown(&self) -> Shutdown {
        self.own.domain().requests.shutdown().await
    }

    /// Waits for a key of `xl sysrq`. From the first call on keys are the application's; until then `b`, `o`, `c`, `m`,
    /// `r` and `t` reboot, power off, crash, and show memory, rings and counters.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn sysrq(&self) -> char {
        self.own.domain().requests.sysrq().await
    }

    /// Does something at a key of `xl sysrq`, besides what other keys do.
    pub fn on_sysrq(&self, key: char, action: impl Fn() + 'static) {
        self.own.domain().requests.add_action(key, action);
    }

    /// Files that the toolstack has loaded beside the domain (`ramdisk=` in its xl file).
    pub fn modules(&self) -> Vec<&'static [u8]> {
        self.own.modules()
    }

    /// Adds rings to those that `xl sysrq DOMAIN r` prints, for a driver that was not made with a method of `App`. `show`
    /// prints them, and returns whether they still exist.
    pub fn show_rings(&self, show: impl Fn() -> bool + 'static) {
        self.own.domain().requests.add_rings(show);
    }

    /// Suspends the domain, for the toolstack to save or to move it. `xl save` and `xl migrate` do that by themselves;
    /// this is for who wants to do it at a moment of his own choice.
    ///
    /// # Errors
    ///
    /// Where there is no store, or the hypervisor refuses. The domain goes on as it was then.
    ///
    /// # Cancellation
    ///
    /// May be dropped before the domain is suspended.
    pub async fn suspend(&self) -> Result<Resumed, SuspendError> {
        let store = self.store().map_err(SuspendError::Store)?;
        self.own.domain().requests.suspend(&store).await
    }

    /// Waits until the domain has been suspended and runs again, and says how: on another host, perhaps, and under
    /// another number. Store, timers and console go on by themselves; ports and grants are gone after a restore.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; a resume before the call does not count.
    pub async fn resumed(&self) -> Resumed {
        self.own.domain().requests.resumed().await
    }

    /// Random numbers, good for keys: a generator that the processor seeds (RDSEED and RDRAND), and
    /// [`add_entropy`](App::add_entropy).
    ///
    /// # Errors
    ///
    /// Where the processor offers the domain none, and nothing else has seeded the generator.
    pub fn entropy(&self) -> Result<Entropy, EntropyError> {
        self.own.entropy()
    }

    /// Adds random bytes from elsewhere to the generator: a seed that the toolstack passes in a [module](App::modules) or in the store, or
    /// that a disk has kept. The processor's numbers stay in it. Where the processor has none, 32 bytes or more at once seed the generator
    /// alone; then they have to be secret, and others at each boot.
    pub fn add_entropy(&self, bytes: &[u8]) {
        self.own.add_entropy(bytes);
    }

    /// Starts a task beside the caller. Dropping what is returned cancels the task; `detach` lets it run on.
    ///
    /// # Examples
    ///
    /// ```
    /// use sarab::{App, DiskError};
    ///
    /// /// Two disks at once.
    /// async fn sectors(app: App) -> Result<u64, DiskError> {
    ///     use sarab::block::BlockDevice;
    ///     let first = app.spawn(async move { app.disk("xvda").await });
    ///     let second = app.disk("xvdb").await?;
    ///     Ok(first.await?.geometry().sectors + second.geometry().sectors)
    /// }
    /// ```
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        self.own.spawn(future)
    }

    /// This domain's number, where Xen tells it. Restoring the domain may change it.
    pub fn domain_id(&self) -> Option<DomId> {
        self.own.domain_id()
    }

    /// The hypervisor's version.
    pub fn xen_version(&self) -> XenVersion {
        self.own.xen_version()
    }

    /// The PCI functions of an HVM guest: emulated ones, and those that are passed through (`pci=` in its xl file). There
    /// are no drivers for them; in a PVH guest there are none.
    pub fn pci(&self) -> Vec<pci::Function> {
        self.own.pci()
    }

    /// How much memory there is, how much is free, and what the toolstack wants (`xl mem-set`).
    ///
    /// Who takes a share of `free` for later says so with [`keep_memory`](App::keep_memory).
    pub fn memory(&self) -> MemoryInfo {
        let memory = self.own.memory();
        #[cfg(feature = "balloon")]
        let memory = MemoryInfo { target: self.own.domain().balloon.target().unwrap_or(memory.total), ..memory };
        memory
    }

    /// Keeps so many bytes, beside what is in use now and what was kept by calls before, for what the application may come
    /// to need: the balloon does not give them back, whatever the toolstack asks for. Without such a call a quarter of what
    /// is in use stays free, at least 256 KiB and at most 8 MiB.
    ///
    /// # Examples
    ///
    /// ```
    /// /// A cache that takes a quarter of what is free: not at once, so it is kept.
    /// fn cache_size(app: sarab::App) -> u64 {
    ///     let size = app.memory().free / 4;
    ///     app.keep_memory(size);
    ///     size
    /// }
    /// ```
    pub fn keep_memory(&self, bytes: u64) {
        #[cfg(feature = "balloon")]
        self.own.domain().balloon.keep(xen_hal::Reservation::size(&self.own.xen()), bytes);
        #[cfg(not(feature = "balloon"))]
        let _ = bytes;
    }
}

/// What main may return: how the domain ends. Mostly that is nothing, or [`sarab::Result`](crate::Result).
pub trait Exit {
    /// Prints what there is to print, and returns whether the domain ends well.
    fn report(self) -> bool;
}

impl Exit for () {
    fn report(self) -> bool {
        true
    }
}

impl<T: Exit, E: fmt::Display> Exit for Result<T, E> {
    fn report(self) -> bool {
        match self {
            Ok(value) => value.report(),
            Err(error) => {
                // The alternate form of `Error` has its causes too.
                machine::println!("error: {error:#}");
                false
            }
        }
    }
}

/// Spawns the application's main task. Called by what `#[sarab::main]` makes.
#[cfg(feature = "guest")]
pub fn start<F, O>(main: fn(App) -> F)
where
    F: Future<Output = O> + 'static,
    O: Exit + 'static,
{
    let own = Own::new(Domain::default());
    begin(own, own.args(), main);
}

/// Checks the types of the application's main, and does nothing: only a guest has a platform to start it on. It lets
/// examples and applications compile on a host.
#[cfg(not(feature = "guest"))]
pub fn start<F, O>(_main: fn(App) -> F)
where
    F: Future<Output = O> + 'static,
    O: Exit + 'static,
{
}

/// Spawns main, and what listens to the toolstack.
#[cfg(any(feature = "guest", feature = "sim"))]
pub(crate) fn begin<F, O>(own: Own, args: Args, main: impl FnOnce(App) -> F + 'static)
where
    F: Future<Output = O> + 'static,
    O: Exit + 'static,
{
    let app = App { args, own };
    app.spawn(async move {
        match main(app).await.report() {
            true => machine::shutdown(own.domain().requests.reason()),
            false => machine::crash(),
        }
    })
    .detach();
    // After main's task, so that main is the first to run.
    #[cfg(feature = "control")]
    if let Ok(store) = app.store() {
        app.spawn(control::listen(store, own)).detach();
    }
    #[cfg(feature = "balloon")]
    if let Ok(store) = app.store() {
        app.spawn(crate::balloon::run(store, own)).detach();
    }
    #[cfg(feature = "guest-agent")]
    if let Ok(store) = app.store() {
        app.spawn(crate::guest_agent::run(store, own)).detach();
    }
}
