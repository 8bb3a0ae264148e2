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

mod arguments;
mod blkback;
mod blkfront;
mod console;
mod control;
mod dhcp;
mod dns;
mod ext4;
mod http;
mod mss;
mod netback;
mod netfront;
mod offloads;
mod packet;
mod ring;
mod server;
mod start_info;
mod tar;
mod xenbus;

targets! {
    arguments, blkback, blkfront, console, control, dhcp, dns, ext4, http, mss, netback, netfront, offloads, packet,
    ring, server, start_info, tar, xenbus
}
