//! All targets, each a file beside this one with `run`, `seeds` and `SHORT`.

use crate::Target;

/// The table, and a test for each. A target that is missing here is an unused module, which does not compile.
macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        /// All targets.
        pub const TARGETS: &[Target] = &[$(Target {
            name: stringify!($name),
            run: $name::run,
            seeds: $name::seeds,
            short: $name::SHORT,
        }),*];

        #[cfg(test)]
        mod tests {
            $(#[test]
            fn $name() {
                crate::short::feed(stringify!($name));
            })*
        }
    };
}

mod blkback;
mod blkfront;
mod ext4;
mod http;
mod netback;
mod netfront;
mod packet;
mod ring;
mod server;
mod tar;

targets! { blkback, blkfront, ext4, http, netback, netfront, packet, ring, server, tar }
