//! Which domain may have which device, and how fast.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

use sarab::block::rate::Rate;
use sarab::hal::DomId;
use sarab::store::Store;

use crate::devices::Id;

/// A domain, as an administrator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    Domain(DomId),
    Name(String),
}

impl Who {
    pub fn parse(text: &str) -> Who {
        match text.parse() {
            Ok(number) => Who::Domain(DomId(number)),
            Err(_) => Who::Name(text.to_string()),
        }
    }

    async fn is(&self, domain: DomId, store: &Store) -> bool {
        match self {
            Who::Domain(own) => *own == domain,
            // A domain's name is dom0's, but another domain sees it only where dom0 lets it.
            Who::Name(own) => {
                store.get::<String>(&format!("/local/domain/{}/name", domain.0)).await.ok().flatten().as_ref()
                    == Some(own)
            }
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Domain(domain) => domain.0.fmt(f),
            Who::Name(name) => f.write_str(name),
        }
    }
}

/// Who may have a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// `None` is whomever the toolstack gives it to.
    pub only: Option<Vec<Who>>,
    /// Nobody writes.
    pub read_only: bool,
}

/// How fast a guest may be; `None` is as fast as can be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speed {
    pub bytes: Option<u64>,
    pub requests: Option<u64>,
}

/// What was said about devices and guests.
#[derive(Default)]
pub struct Settings {
    access: RefCell<BTreeMap<Id, Access>>,
    usual: RefCell<Speed>,
    speeds: RefCell<Vec<(Who, Speed)>>,
    /// Of the guests that have a device.
    rates: RefCell<BTreeMap<DomId, Rate>>,
}

/// Why a domain does not get a device.
pub enum Denied {
    /// It is not among those that may.
    Domain,
    /// It wants to write.
    ReadOnly,
}

impl Settings {
    pub fn allow(&self, id: Id, access: Access) {
        self.access.borrow_mut().insert(id, access);
    }

    pub fn access(&self, id: &Id) -> Access {
        self.access.borrow().get(id).cloned().unwrap_or_default()
    }

    pub fn forget(&self, id: &Id) {
        self.access.borrow_mut().remove(id);
    }

    pub async fn check(&self, id: &Id, domain: DomId, writes: bool, store: &Store) -> Result<(), Denied> {
        let access = self.access(id);
        if let Some(only) = access.only {
            let mut may = false;
            for who in only {
                may |= who.is(domain, store).await;
            }
            if !may {
                return Err(Denied::Domain);
            }
        }
        if access.read_only && writes { Err(Denied::ReadOnly) } else { Ok(()) }
    }

    /// Sets how fast one guest may be, or each of those of which nothing else is said.
    pub async fn limit(&self, who: Option<Who>, speed: Speed, store: &Store) {
        match who {
            None => drop(self.usual.replace(speed)),
            Some(who) => {
                let mut speeds = self.speeds.borrow_mut();
                speeds.retain(|(other, _)| *other != who);
                speeds.push((who, speed));
            }
        }
        let known: Vec<_> = self.rates.borrow().iter().map(|(domain, rate)| (*domain, rate.clone())).collect();
        for (domain, rate) in known {
            let Speed { bytes, requests } = self.speed(domain, store).await;
            rate.set(bytes, requests);
        }
    }

    async fn speed(&self, domain: DomId, store: &Store) -> Speed {
        let speeds = self.speeds.borrow().clone();
        for (who, speed) in speeds {
            if who.is(domain, store).await {
                return speed;
            }
        }
        *self.usual.borrow()
    }

    /// The rate of a guest, over all its devices.
    pub async fn rate(&self, domain: DomId, store: &Store) -> Rate {
        let Speed { bytes, requests } = self.speed(domain, store).await;
        let mut rates = self.rates.borrow_mut();
        // Of those who are gone, nobody else has it.
        rates.retain(|_, rate| rate.is_used());
        let rate = rates.entry(domain).or_default().clone();
        rate.set(bytes, requests);
        rate
    }
}
