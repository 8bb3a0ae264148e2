//! How much a driver does before the domain's other tasks have their turn.

use core::future::poll_fn;
use core::task::Poll;

/// Bytes that a driver moves in one turn, and what it does besides counted as so many.
pub const BUDGET: usize = 256 << 10;

/// Lets the tasks run that are ready, and goes on after them.
///
/// # Cancellation
///
/// May be dropped at any time.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| match core::mem::replace(&mut yielded, true) {
        true => Poll::Ready(()),
        false => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// What is left of a driver's turn. A peer that always has something more to do ends it, not the driver's patience.
///
/// # Examples
///
/// ```
/// use xenbus::Turn;
///
/// async fn copy_all(blocks: &[[u8; 4096]], mut each: impl FnMut(&[u8])) {
///     let mut turn = Turn::default();
///     for block in blocks {
///         each(block);
///         turn.spend(block.len());
///         if turn.is_over() {
///             turn.end().await; // other tasks run here
///         }
///     }
/// }
/// # let xen = xen_sim::Xen::new(1);
/// # xen.run(async { copy_all(&[[0; 4096]; 100], |_| {}).await });
/// ```
#[derive(Debug)]
pub struct Turn {
    left: usize,
}

impl Default for Turn {
    fn default() -> Self {
        Turn { left: BUDGET }
    }
}

impl Turn {
    /// Spends so many bytes of it.
    #[inline]
    pub fn spend(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// Whether it is time to let others go on.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Others have had their turn.
    pub fn begin(&mut self) {
        self.left = BUDGET;
    }

    /// Lets the tasks run that are ready, and begins anew after them.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time.
    pub async fn end(&mut self) {
        yield_now().await;
        self.begin();
    }
}
