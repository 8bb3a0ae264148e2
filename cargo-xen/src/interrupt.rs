//! Ctrl-C: the first one asks the guest to shut down, the second one ends everything at once.

use std::process;
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::Result;

/// What Ctrl-C does just now.
#[derive(Clone, Default)]
pub struct Interrupt(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Asks the guest to shut down, and does not wait for it. It is there while one runs that was not asked yet.
    shut_down: Option<Box<dyn FnOnce() + Send>>,
    /// Leaves nothing behind, in the order in which it was added.
    clean_up: Vec<Box<dyn Fn() + Send>>,
    came: bool,
}

/// A program that a signal has ended, as shells report it.
const STATUS: u8 = 130;

impl Interrupt {
    /// Takes over Ctrl-C, and requests of the system to end.
    pub fn new() -> Result<Interrupt> {
        let interrupt = Interrupt::default();
        let handler = interrupt.clone();
        ctrlc::set_handler(move || handler.on_signal())?;
        Ok(interrupt)
    }

    fn on_signal(&self) {
        let mut state = self.state();
        state.came = true;
        match state.shut_down.take() {
            Some(shut_down) => shut_down(),
            None => {
                // Whoever asks for the status waits for the lock, and so has nothing more to say.
                state.clean_up.iter().for_each(|action| action());
                process::exit(STATUS.into());
            }
        }
    }

    /// A guest runs from now on.
    pub fn guest_runs(&self, shut_down: impl FnOnce() + Send + 'static) {
        self.state().shut_down = Some(Box::new(shut_down));
    }

    /// No guest runs any more.
    pub fn guest_has_ended(&self) {
        self.state().shut_down = None;
    }

    /// Something more to do before the program is ended.
    pub fn clean_up(&self, action: impl Fn() + Send + 'static) {
        self.state().clean_up.push(Box::new(action));
    }

    /// The exit status where Ctrl-C was pressed.
    pub fn status(&self) -> Option<u8> {
        self.state().came.then_some(STATUS)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_first_one_asks_the_guest() {
        let (interrupt, asked) = (Interrupt::default(), Arc::new(AtomicU32::new(0)));
        let count = asked.clone();
        interrupt.guest_runs(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(interrupt.status(), None);
        interrupt.on_signal();
        assert_eq!((asked.load(Ordering::Relaxed), interrupt.status()), (1, Some(130)));
        assert!(interrupt.state().shut_down.is_none(), "the next one ends the program");
    }
}
