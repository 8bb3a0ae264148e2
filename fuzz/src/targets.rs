//! All targets, each a file beside this one with `run`, `seeds` and `SHORT`.

use crate::Target;

/// The table, and a test for each. `build.rs` calls it with the files' names.
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
mod luks;
mod mss;
mod netback;
mod netfront;
mod offloads;
mod p9front;
mod packet;
mod path_mtu;
mod qubes_db;
mod qubes_firewall;
mod qubes_rexec;
mod resolver;
mod ring;
mod router;
mod router_dhcp;
mod router_dns;
mod router_neighbor;
mod router_rules;
mod server;
mod start_info;
mod state;
mod tar;
mod tls;
mod vchan;
mod volumes;
mod xenbus;

include!(concat!(env!("OUT_DIR"), "/targets.rs"));
