//! A TCP/IP stack on netback's device, whose network is in the hands of the input.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use embassy_net::{Stack, StackResources};
use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState};
use futures_util::future::{Either, join, select};
use sarab_net::{Config, EthernetDevice};
use xen_hal::Clock;
use xen_netif::back;
use xen_netif::back::{Checksum, Packet};
use xen_netif::checksum;
use xen_netif::fuzzing::Wire;
use xen_netif::headers::Headers;
use xen_sim::{Domain, Xen};

pub(crate) const MAC: [u8; 6] = [0, 0x16, 0x3e, 1, 2, 3];
pub(crate) const SERVER: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The network that the stack is on.
#[derive(Clone)]
pub(crate) struct Network {
    wire: Rc<Wire>,
    pub(crate) clock: Domain,
    /// What `App::network` would print.
    pub(crate) said: Rc<RefCell<Vec<String>>>,
    /// The addresses, once there are some.
    pub(crate) configured: Rc<RefCell<Option<String>>>,
}

impl Network {
    /// Frames that the stack has sent.
    pub(crate) fn sent(&self) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.wire.take()).map(|packet| packet.bytes.into()).collect()
    }

    /// A frame for the stack. Its checksums need not be right.
    pub(crate) fn send(&self, mut bytes: Vec<u8>) {
        if let Some(headers) = Headers::parse(&bytes).filter(|headers| !headers.v6) {
            checksum::complete_ipv4(&mut bytes, &headers);
        }
        self.wire.deliver(Packet { bytes: bytes.into(), checksum: Checksum::Valid, gso: None });
    }

    pub(crate) async fn pause(&self, time: Duration) {
        self.clock.sleep(time).await;
    }
}

/// netback's device below a stack.
struct Device(back::Device);

impl Driver for Device {
    type RxToken<'a> = <back::Device as Driver>::RxToken<'a>;
    type TxToken<'a> = <back::Device as Driver>::TxToken<'a>;

    fn receive(&mut self, cx: &mut Context<'_>) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        self.0.receive(cx)
    }

    fn transmit(&mut self, cx: &mut Context<'_>) -> Option<Self::TxToken<'_>> {
        self.0.transmit(cx)
    }

    fn link_state(&mut self, cx: &mut Context<'_>) -> LinkState {
        self.0.link_state(cx)
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn hardware_address(&self) -> HardwareAddress {
        self.0.hardware_address()
    }
}

impl EthernetDevice for Device {
    fn cuts_segments(&self) -> bool {
        xen_netif::cuts_segments(&self.0.capabilities())
    }
}

/// Runs `script` beside a stack with these addresses, by what `App::network` does.
pub(crate) fn run(config: Config, script: impl AsyncFnOnce(Network, Stack<'_>) + 'static) {
    let xen = Xen::new(0);
    let (wire, port) = Wire::new(MAC);
    let network = Network { wire: Rc::new(wire), clock: xen.dom0(), said: Rc::default(), configured: Rc::default() };
    xen.run(async move {
        let mut resources = StackResources::<0>::new();
        let device = Device(port.device(MAC, 1500));
        let (stack, mut runner, configurator, interface) = sarab_net::new(device, config, &mut resources, 7);
        let (said, done) = (network.said.clone(), network.configured.clone());
        let other = async {
            let configure = async {
                *done.borrow_mut() = Some(interface.configured().await.to_string());
                std::future::pending::<()>().await
            };
            let configure = join(configure, configurator.run(|text| said.borrow_mut().push(text.to_string())));
            let script = std::pin::pin!(script(network, stack));
            select(script, std::pin::pin!(configure)).await;
        };
        if let Either::Left(_) = select(std::pin::pin!(runner.run()), std::pin::pin!(other)).await {
            unreachable!("the stack runs for ever");
        }
        drop(port);
    });
    xen.check_budgets();
    xen.end();
}

/// An Ethernet frame with a UDP packet over IPv4.
pub(crate) fn udp(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = [&MAC[..], &SERVER, &[8, 0, 0x45, 0]].concat();
    frame.extend(((28 + payload.len()) as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend([from.0, to.0].concat());
    frame.extend([from.1.to_be_bytes(), to.1.to_be_bytes(), ((8 + payload.len()) as u16).to_be_bytes()].concat());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// An answer to an ARP request, where it is one, and neither asks for nor tells of the stack's own address.
pub(crate) fn arp_answer(frame: &[u8]) -> Option<Vec<u8>> {
    if frame.get(12..14) != Some(&[8, 6]) || frame.len() < 42 || frame[21] != 1 {
        return None;
    }
    if frame[28..32] == [0; 4] || frame[28..32] == frame[38..42] {
        return None;
    }
    let header = [0, 1, 8, 0, 6, 4, 0, 2];
    Some([&MAC[..], &SERVER, &[8, 6], &header, &SERVER, &frame[38..42], &frame[22..28], &frame[28..32]].concat())
}
