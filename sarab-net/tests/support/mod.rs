//! What several tests use.

#![allow(dead_code, reason = "each test is a crate of its own, and uses a part")]

pub mod hosts;
pub mod segment;
pub mod v6;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use embassy_net::{Stack, StackResources};
use sarab_net::{Config, Interface, Ipv4, Ipv4Cidr, Ipv6, Ipv6Cidr};
use xen_hal::Clock;
use xen_sim::{Domain, Xen};

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

/// The segment that a stack is on.
#[derive(Clone)]
pub struct Lan {
    pub wire: Segment,
    pub clock: Domain,
    pub said: Said,
    pub interface: Interface,
}

impl Lan {
    pub fn run(xen: &Xen, config: Config, script: impl AsyncFnOnce(Lan, Stack<'static>) + 'static) {
        let guest = xen.domain();
        let (wire, said) = (Segment::default(), Said::default());
        let (stack, interface) = stack(&guest, wire.clone(), config, xen.seed(), &said);
        let lan = Lan { wire, clock: xen.dom0(), said, interface };
        xen.run(async move { script(lan, stack).await });
    }

    pub async fn pass(&self, time: Duration) {
        self.clock.sleep(time).await;
    }

    /// What the guest has sent since it was asked last.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.wire.take()).collect()
    }

    /// Lets time pass in which nobody answers, until the guest has told everybody of itself.
    pub async fn settle(&self) {
        self.pass(Duration::from_secs(5)).await;
        self.sent();
    }

    /// Sends a frame, and returns what the guest answers.
    pub async fn ask(&self, frame: Vec<u8>) -> Vec<Vec<u8>> {
        self.wire.deliver(frame);
        self.pass(Duration::from_millis(5)).await;
        self.sent()
    }
}
