//! The command line, and what is asked of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use sarab::network::config;
use sarab::{ArgError, Args, FromArg, Size};

pub(super) const SHORT: u32 = 2000;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    [
        "ip=10.0.0.2/24 gw=10.0.0.1 dns=10.0.0.3 ip6=fd00::2/64",
        "count=3 pause=1.5s cache=16M verbose motd=\"good morning\" n=0xff",
        "ip=dhcp ip6=auto  mode=x\tt=250ms s=2G \"",
    ]
    .map(|line| line.as_bytes().to_vec())
    .to_vec()
}

pub(super) fn run(data: &[u8]) {
    // A guest's line is there for as long as it runs. Each key is looked for in all of it, so few are enough.
    let args = Args::new(data[..data.len().min(512)].to_vec().leak());
    for (key, value) in args.iter().take(16) {
        assert!(!key.contains(char::is_whitespace) || key.contains('"'));
        get::<&str>(&args, key);
        get::<bool>(&args, key);
        get::<u8>(&args, key);
        get::<u64>(&args, key);
        get::<i32>(&args, key);
        get::<Size>(&args, key);
        get::<Duration>(&args, key);
        get::<Ipv4Addr>(&args, key);
        get::<Ipv6Addr>(&args, key);
        get::<IpAddr>(&args, key);
        let found = args.get::<&str>(key);
        assert!(found.is_ok() || value.is_none() || args.iter().filter(|(other, _)| *other == key).count() > 1);
    }
    shown(args.choice("mode", &["a", "b"]));
    shown(args.require::<u32>("n"));
    shown(args.expect_only(&["ip", "ip6", "gw", "dns"]));
    shown(config(&args, ""));
}

fn get<T: FromArg>(args: &Args, key: &str) {
    shown(args.get::<T>(key));
}

/// An error can be printed.
fn shown<T>(outcome: Result<T, ArgError>) {
    if let Err(error) = outcome {
        assert!(error.to_string().starts_with("command line: "));
    }
}
