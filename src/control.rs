//! What the toolstack asks for: default actions, and what the application is told.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::{Poll, Waker};

use xen_hal::Errno;
use xen_ring::WaitQueue;
use xenstore_client::control::{Control, Request, Shutdown};
use xenstore_client::{Broken, Restart, Store};

use crate::machine::{self, Own, Resumed, ShutdownReason, println};

/// What is done at a key.
type Action = Rc<dyn Fn()>;

/// The toolstack's requests to this domain, and what is done about them.
#[derive(Default)]
pub(crate) struct ToolstackRequests {
    /// The latest request to end.
    shutdown: Cell<Option<Shutdown>>,
    /// Whether the application has ever asked for one: from then on ending is its business.
    heard: Cell<bool>,
    waiting: WaitQueue,
    /// How often the domain was resumed, and how the last time.
    resumed: Cell<(u32, Option<Resumed>)>,
    /// What shows rings, until it says that they are gone.
    rings: RefCell<Vec<Box<dyn Fn() -> bool>>>,
    /// What the application does at keys of its own.
    actions: RefCell<Vec<(char, Action)>>,
    /// Keys that the application wants to see itself.
    keys: RefCell<Option<(Vec<char>, Option<Waker>)>>,
}

impl ToolstackRequests {
    pub(crate) async fn shutdown(&self) -> Shutdown {
        self.heard.set(true);
        self.waiting.wait_until(|| self.shutdown.get()).await
    }

    pub(crate) async fn resumed(&self) -> Resumed {
        self.resumed_after(self.resumes()).await
    }

    /// How often the domain was resumed.
    pub(crate) fn resumes(&self) -> u32 {
        self.resumed.get().0
    }

    /// Waits until it was resumed more often than so.
    pub(crate) async fn resumed_after(&self, before: u32) -> Resumed {
        self.waiting
            .wait_until(|| match self.resumed.get() {
                (count, Some(resumed)) if count != before => Some(resumed),
                _ => None,
            })
            .await
    }

    /// `show` prints rings, and says whether they are still there.
    pub(crate) fn add_rings(&self, show: impl Fn() -> bool + 'static) {
        self.rings.borrow_mut().push(Box::new(show));
    }

    pub(crate) fn add_action(&self, key: char, action: impl Fn() + 'static) {
        self.actions.borrow_mut().push((key, Rc::new(action)));
    }

    fn show_rings(&self) {
        // What is shown may come to add more.
        let mut rings = self.rings.take();
        rings.retain(|show| show());
        if rings.is_empty() {
            println!("sysrq: no rings");
        }
        self.rings.borrow_mut().splice(..0, rings);
    }

    pub(crate) async fn sysrq(&self) -> char {
        poll_fn(|cx| {
            let mut keys = self.keys.borrow_mut();
            let (pressed, waker) = keys.get_or_insert_default();
            match pressed.is_empty() {
                false => Poll::Ready(pressed.remove(0)),
                true => {
                    *waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// How the domain is to end, where its main has returned.
    pub(crate) fn reason(&self) -> ShutdownReason {
        match self.shutdown.get() {
            Some(Shutdown::Reboot) => ShutdownReason::Reboot,
            _ => ShutdownReason::Poweroff,
        }
    }

    /// Brings the store to rest, suspends, and goes on with the store that there is then.
    pub(crate) async fn suspend(&self, store: &Store) -> Result<Resumed, SuspendError> {
        let quiesced = store.quiesce().await.map_err(SuspendError::Store)?;
        // Where it is refused, dropping `quiesced` lets the store go on.
        let resumed = machine::suspend().map_err(SuspendError::Refused)?;
        quiesced.resume(match resumed {
            Resumed::Cancelled => Restart::Same,
            Resumed::Restored => Restart::New,
        });
        self.resumed.set((self.resumed.get().0.wrapping_add(1), Some(resumed)));
        self.waiting.wake_all();
        Ok(resumed)
    }

    fn request(&self, request: Shutdown) {
        // Requested for the second time, or without a listener: the application has had its chance.
        let first = self.shutdown.replace(Some(request)).is_none();
        if !first || !self.heard.get() {
            machine::shutdown(self.reason());
        }
        self.waiting.wake_all();
    }

    fn press(&self, key: char) {
        let mut keys = self.keys.borrow_mut();
        match &mut *keys {
            // More keys than anybody reads are not kept.
            Some((pressed, _)) if pressed.len() >= 16 => {}
            Some((pressed, waker)) => {
                pressed.push(key);
                let waker = waker.take();
                drop(keys);
                waker.into_iter().for_each(Waker::wake);
            }
            None => {
                drop(keys);
                // What is done may come to add more.
                let actions = self.actions.borrow();
                let own = actions.iter().find(|(own, _)| *own == key).map(|(_, action)| action.clone());
                drop(actions);
                match (key, own) {
                    (_, Some(action)) => action(),
                    ('r', None) => self.show_rings(),
                    (_, None) => default_key(key),
                }
            }
        }
    }
}

/// Does what the toolstack asks for, until the store fails, and answers for devices that nobody uses.
pub(crate) async fn listen(store: Store, own: Own) {
    let mut unused = pin!(xenbus::close_unused(&store));
    let mut requests = pin!(handle(&store, own));
    let mut answers = true;
    poll_fn(|cx| {
        // It ends with the store, which the other one prints.
        answers = answers && unused.as_mut().poll(cx).is_pending();
        requests.as_mut().poll(cx)
    })
    .await;
}

async fn handle(store: &Store, own: Own) {
    let outcome = async {
        let mut control = Control::new(store).await?;
        loop {
            match control.next().await? {
                Request::Shutdown(Shutdown::Crash) => machine::crash(),
                Request::Shutdown(Shutdown::Suspend) => {
                    if let Err(error) = own.domain().requests.suspend(store).await {
                        println!("suspend: {error}");
                    }
                }
                Request::Shutdown(request) => own.domain().requests.request(request),
                Request::Sysrq(key) => own.domain().requests.press(key),
            }
        }
    };
    let Err(error): Result<core::convert::Infallible, xenstore_client::Error> = outcome.await;
    println!("no longer handling toolstack requests: {error}");
}

/// Why a domain could not be suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspendError {
    /// The store cannot be brought to rest, as there is no connection to it.
    Store(Broken),
    /// The hypervisor refuses.
    Refused(Errno),
}

impl core::fmt::Display for SuspendError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            SuspendError::Store(broken) => broken.fmt(f),
            SuspendError::Refused(errno) => write!(f, "the hypervisor refused to suspend this domain: {errno}"),
        }
    }
}

impl core::error::Error for SuspendError {}

fn default_key(key: char) {
    match key {
        'b' => machine::reboot(),
        'o' => machine::poweroff(),
        'c' => machine::crash(),
        'm' => {
            let memory = machine::memory();
            println!(
                "sysrq: memory {} KiB, {} KiB free, {} KiB minimum, {} KiB at most",
                memory.total / 1024,
                memory.free / 1024,
                memory.least_free / 1024,
                memory.maximum / 1024
            );
        }
        't' => {
            let counters = machine::counters();
            println!(
                "sysrq: {} polls, {} sleeps, {} events, {} notifications, {} hypercalls",
                counters.polls, counters.sleeps, counters.events, counters.notifications, counters.hypercalls
            );
        }
        _ => println!(
            "sysrq: {key}: b reboots, o powers off, c crashes, m shows memory, r shows rings, t shows counters"
        ),
    }
}
