//! What several tests use.

#![allow(dead_code, reason = "each test is a crate of its own, and uses a part")]

pub mod hosts;
pub mod segment;
pub mod v6;

use std::cell::RefCell;
use std::rc::Rc;

use embassy_net::{Stack, StackResources};
use sarab_net::{Config, Interface, Ipv4, Ipv4Cidr, Ipv6, Ipv6Cidr};
use xen_sim::Domain;

use segment::Segment;

pub type Said = Rc<RefCell<Vec<String>>>;

/// A stack on a segment, run by a domain of the simulation. What would be on the console goes to `said`.
pub fn stack(domain: &Domain, wire: Segment, config: Config, seed: u64, said: &Said) -> (Stack<'static>, Interface) {
    let resources = Box::leak(Box::new(StackResources::<0>::new()));
    let (stack, mut runner, configurator, interface) = sarab_net::new(wire, config, resources, seed);
    domain.spawn(async move { runner.run().await }).detach();
    let said = said.clone();
    domain.spawn(configurator.run(move |line| said.borrow_mut().push(line.to_string()))).detach();
    (stack, interface)
}

/// `10.0.0.2/24`, or `dhcp`, or nothing.
pub fn ipv4(text: &str) -> Ipv4 {
    match text {
        "dhcp" => Ipv4::Dhcp,
        "" => Ipv4::None,
        text => {
            let (address, len) = text.split_once('/').expect("an address with its prefix");
            Ipv4::Static(Ipv4Cidr::new(address.parse().unwrap(), len.parse().unwrap()))
        }
    }
}

/// `fd00::2/64`, or `auto`, or nothing.
pub fn ipv6(text: &str) -> Ipv6 {
    match text {
        "auto" => Ipv6::Auto,
        "" => Ipv6::None,
        text => {
            let (address, len) = text.split_once('/').expect("an address with its prefix");
            Ipv6::Static(Ipv6Cidr::new(address.parse().unwrap(), len.parse().unwrap()))
        }
    }
}

pub fn config(v4: &str, v6: &str) -> Config {
    Config { ipv4: ipv4(v4), ipv6: ipv6(v6), ..Config::default() }
}
