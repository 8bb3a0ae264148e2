//! netfront's device below a stack.

use core::task::Context;

use embassy_net_driver::{Capabilities, Driver, HardwareAddress, LinkState};
use sarab_net::EthernetDevice;
use xen_netif::front::{self, RxToken, TxToken};

use crate::machine::XenPlatform;

pub(super) struct Port(pub(super) front::Device<XenPlatform>);

impl Driver for Port {
    type RxToken<'a> = RxToken<'a, XenPlatform>;
    type TxToken<'a> = TxToken<'a, XenPlatform>;

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

impl EthernetDevice for Port {
    fn send_up_to<R>(token: Self::TxToken<'_>, max: usize, write: impl FnOnce(&mut [u8]) -> (R, usize)) -> R {
        token.consume_up_to(max, write)
    }

    fn cuts_segments(&self) -> bool {
        xen_netif::cuts_segments(&self.0.capabilities())
    }

    fn connections(&self) -> u64 {
        self.0.connections()
    }
}
