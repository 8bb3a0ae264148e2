//! What an application's main receives.

use core::fmt;
use core::future::Future;

use platform_xen::{
    Console, Entropy, EntropyError, MemoryInfo, Task, XenClock, XenEventChannels, XenGrantTable, XenVersion,
};
use xen_hal::DomId;

use crate::args::Args;

/// The domain that the application runs in: everything that it did not make itself.
///
/// A small value to be copied into tasks.
#[derive(Clone, Copy)]
pub struct App {
    args: Args,
}

impl App {
    /// The command line: `cmdline=` in the xl file.
    pub fn args(&self) -> Args {
        self.args
    }

    /// The domain's console. [`println!`](crate::println) prints there too.
    pub fn console(&self) -> Console {
        platform_xen::console_handle()
    }

    /// The clock: time since the start, the wall clock, and waiting.
    pub fn clock(&self) -> XenClock {
        XenClock
    }

    /// Event channels.
    pub fn event_channels(&self) -> XenEventChannels {
        XenEventChannels
    }

    /// The grant table, and pages that can be lent.
    pub fn grant_table(&self) -> XenGrantTable {
        XenGrantTable
    }

    /// The processor's random numbers.
    ///
    /// # Errors
    ///
    /// Where the processor offers the domain none.
    pub fn entropy(&self) -> Result<Entropy, EntropyError> {
        Entropy::new()
    }

    /// Starts a task beside the caller. Dropping what is returned cancels the task; `detach` lets it run on.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        platform_xen::spawn(future)
    }

    /// This domain's number, where Xen tells it. Restoring the domain may change it.
    pub fn domain_id(&self) -> Option<DomId> {
        platform_xen::domain_id()
    }

    /// The hypervisor's version.
    pub fn xen_version(&self) -> XenVersion {
        platform_xen::xen_version()
    }

    /// How much memory there is and how much is free.
    pub fn memory(&self) -> MemoryInfo {
        platform_xen::memory()
    }
}

/// What main may return: how the domain ends.
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
                platform_xen::println!("error: {error}");
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
    let app = App { args: Args::new(platform_xen::command_line()) };
    platform_xen::spawn(async move {
        match main(app).await.report() {
            true => platform_xen::poweroff(),
            false => platform_xen::crash(),
        }
    })
    .detach();
}
