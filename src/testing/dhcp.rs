//! A DHCP server beside a guest.

use alloc::vec;
use alloc::vec::Vec;

use embassy_net::udp::{PacketMetadata, UdpSocket};
use embassy_net::{Ipv4Address, Ipv4Cidr, StaticConfigV4};
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr};

use super::Running;
use super::wire::cidr;
use crate::network::Stack;

const SERVER: u16 = 67;
const CLIENT: u16 = 68;
/// Largest message: what every client takes (RFC 2131, section 2).
const MOST_BYTES: usize = 576;
/// Seconds.
const LEASE: u32 = 3600;

impl Running {
    /// Has a [peer](Running::peer) serve DHCP: it offers the guest this address (`10.0.0.2/24`), and itself as the gateway. It
    /// takes one of the peer's sockets.
    ///
    /// # Panics
    ///
    /// Where the address is none.
    pub fn lease(&self, peer: Stack, address: &str) {
        let address = cidr(address);
        let (Some(_), Some(backend)) = (&self.port, &self.devices.backend) else {
            panic!("the guest has no peer: Guest::network")
        };
        backend.domain.spawn(serve(peer, address)).detach();
    }
}

async fn serve(peer: Stack, address: Ipv4Cidr) {
    peer.wait_config_up().await;
    let own = peer.config_v4().expect("a peer has an address");
    let (mut incoming, mut outgoing) = ([0; 2 * MOST_BYTES], [0; 2 * MOST_BYTES]);
    let (mut first, mut second) = ([PacketMetadata::EMPTY; 2], [PacketMetadata::EMPTY; 2]);
    let mut socket = UdpSocket::new(peer, &mut first, &mut incoming, &mut second, &mut outgoing);
    socket.bind(SERVER).expect("nothing else of the peer's is at the port of DHCP");
    let mut request = [0; MOST_BYTES];
    loop {
        let Ok((len, _)) = socket.recv_from(&mut request).await else { continue };
        let Some(answer) = answer(&request[..len], &own, address) else { continue };
        socket.send_to(&answer, (Ipv4Address::BROADCAST, CLIENT)).await.expect("a peer can send");
    }
}

/// What a client's message is answered with, if with anything.
fn answer(bytes: &[u8], own: &StaticConfigV4, address: Ipv4Cidr) -> Option<Vec<u8>> {
    let request = DhcpPacket::new_checked(bytes).ok()?;
    let request = DhcpRepr::parse(&request).ok()?;
    let server = own.address.address();
    let message_type = match request.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        // Of an offer of another server's, or one that was made to another client, nothing is known here.
        DhcpMessageType::Request if request.server_identifier.is_some_and(|chosen| chosen != server) => return None,
        DhcpMessageType::Request => DhcpMessageType::Ack,
        _ => return None,
    };
    let answer = DhcpRepr {
        message_type,
        secs: 0,
        client_ip: Ipv4Address::UNSPECIFIED,
        your_ip: address.address(),
        server_ip: server,
        router: Some(server),
        subnet_mask: Some(address.netmask()),
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(server),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: Some(LEASE),
        ..request
    };
    let mut bytes = vec![0; answer.buffer_len()];
    answer.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).ok()?;
    Some(bytes)
}
