//! The site that is served: it comes and goes with its disk.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use sarab::ring::WaitQueue;
use sarab_site::{BlockDevice, Site};

/// What there is to serve.
pub enum Found<D: BlockDevice> {
    Site(Rc<Site<D>>),
    /// Nothing, and why.
    Nothing(Rc<str>),
    /// There was a site, and its disk is gone.
    Lost,
}

impl<D: BlockDevice> Clone for Found<D> {
    fn clone(&self) -> Self {
        match self {
            Found::Site(site) => Found::Site(site.clone()),
            Found::Nothing(why) => Found::Nothing(why.clone()),
            Found::Lost => Found::Lost,
        }
    }
}

/// What is served now.
pub struct Current<D: BlockDevice> {
    found: RefCell<Found<D>>,
    /// Whether anything is known of the disk.
    settled: Cell<bool>,
    changed: WaitQueue,
    /// What is read of a file at once, and what is kept of what was read.
    piece: Cell<usize>,
    cache: Cell<usize>,
}

/// What is read of a file at once, before the memory is shared out.
const PIECE: usize = 16 << 10;

impl<D: BlockDevice> Default for Current<D> {
    fn default() -> Self {
        let why = Found::Nothing("its disk is waited for; the server's console tells more".into());
        Current {
            found: RefCell::new(why),
            settled: Cell::new(false),
            changed: WaitQueue::new(),
            piece: Cell::new(PIECE),
            cache: Cell::new(0),
        }
    }
}

impl<D: BlockDevice> Current<D> {
    /// What is served to a request that comes now.
    pub fn get(&self) -> Found<D> {
        self.found.borrow().clone()
    }

    /// Serves this site from now on. Answers on their way go on with the one that they began with.
    pub fn serve(&self, site: Site<D>) {
        self.set(Found::Site(Rc::new(site.with_pieces_of(self.piece.get()).with_cache_of(self.cache.get()))));
    }

    /// There is nothing to serve; whether that is news.
    pub fn nothing(&self, why: &str) -> bool {
        let known = match &*self.found.borrow() {
            Found::Nothing(known) => **known == *why,
            Found::Site(_) | Found::Lost => false,
        };
        self.set(Found::Nothing(why.into()));
        !known
    }

    /// The disk is gone. Whether there was a site on it.
    pub fn lose(&self) -> bool {
        let served = matches!(*self.found.borrow(), Found::Site(_));
        if served {
            self.set(Found::Lost);
        }
        served
    }

    /// Whether there was a site, and its disk is gone.
    pub fn is_lost(&self) -> bool {
        matches!(*self.found.borrow(), Found::Lost)
    }

    /// Has so many bytes of a file read at once, and so many kept, of this site and of those to come.
    pub fn read_pieces_of(&self, bytes: usize, cache: usize) {
        self.piece.set(bytes);
        self.cache.set(cache);
        let found = self.found.replace(Found::Lost);
        let found = match found {
            Found::Site(site) => Found::Site(match Rc::try_unwrap(site) {
                Ok(site) => Rc::new(site.with_pieces_of(bytes).with_cache_of(cache)),
                Err(site) => site,
            }),
            other => other,
        };
        self.found.replace(found);
    }

    /// Waits until it is known what is on the disk, or that there is none.
    pub async fn settled(&self) {
        self.changed.wait_until(|| self.settled.get().then_some(())).await;
    }

    fn set(&self, found: Found<D>) {
        drop(self.found.replace(found));
        self.settled.set(true);
        self.changed.wake_all();
    }
}
