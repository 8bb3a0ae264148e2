//! What an application gets that calls for a network without the feature `net`: an error that names it.

use core::future::{Ready, ready};

use crate::{App, ArgError};

/// Nothing has it.
#[diagnostic::on_unimplemented(
    message = "networks need the feature `net` of `sarab`",
    label = "this is there with the feature `net`",
    note = "in Cargo.toml: sarab = {{ …, features = [\"guest\", \"net\"] }}"
)]
#[doc(hidden)]
pub trait NeedsFeatureNet {}

/// As an application goes on with it, so that nothing else is reported.
type Nothing = Ready<Result<(), ArgError>>;

#[doc(hidden)]
impl App {
    /// With the feature `net`: a TCP/IP stack on an interface.
    pub fn network<N: NeedsFeatureNet>(&self, _name: N) -> Nothing {
        ready(Ok(()))
    }

    /// With the feature `net`: a network interface.
    pub fn interface<O: NeedsFeatureNet>(&self, _name: &str, _options: O) -> Nothing {
        ready(Ok(()))
    }

    /// With the feature `net`: the network of other domains.
    pub fn serve_interfaces<L: NeedsFeatureNet, O>(&self, _limits: L, _opened: O) -> Nothing {
        ready(Ok(()))
    }
}
