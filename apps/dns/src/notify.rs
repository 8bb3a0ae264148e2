//! Secondaries are told when a zone has changed (RFC 1996).

use alloc::rc::Rc;
use alloc::vec;
use core::net::SocketAddr;

use futures_util::StreamExt;
use futures_util::stream;
use rand_core::TryRng;
use sarab::network::Stack;
use sarab::network::stack::udp::{PacketMetadata, UdpSocket};
use sarab::network::stack::{IpEndpoint, IpListenEndpoint};
use sarab::println;
use sarab::time::{Duration, with_timeout};
use sarab_dns::{Zone, notify_message};

use crate::server::Dns;

/// Pauses before it is told again.
const PAUSES: [u64; 5] = [2, 4, 8, 16, 30];
/// Secondaries that are told at the same time.
const AT_ONCE: usize = 8;

/// Tells them, for as long as the domain runs.
pub async fn run(dns: Rc<Dns>, stack: Stack) {
    loop {
        let zone = dns.to_notify.wait_until(|| dns.changed.borrow_mut().pop_front()).await;
        let config = dns.server.config();
        let targets = config.zones.get(zone.apex()).map(|zone| zone.notify.clone()).unwrap_or_default();
        stream::iter(targets).for_each_concurrent(AT_ONCE, |target| tell(&dns, stack, &zone, target)).await;
    }
}

async fn tell(dns: &Dns, stack: Stack, zone: &Zone, target: SocketAddr) {
    let id = dns.app.entropy().ok().and_then(|mut entropy| entropy.try_next_u32().ok()).unwrap_or_default() as u16;
    let message = notify_message(zone, id);
    let (mut incoming, mut outgoing) = (vec![0; 1024], vec![0; 1024]);
    let (mut received, mut sent) = ([PacketMetadata::EMPTY; 4], [PacketMetadata::EMPTY; 2]);
    let mut socket = UdpSocket::new(stack, &mut received, &mut incoming, &mut sent, &mut outgoing);
    if socket.bind(IpListenEndpoint { addr: None, port: 0 }).is_err() {
        return;
    }
    let endpoint = IpEndpoint::new(target.ip().into(), target.port());
    for pause in PAUSES {
        let _unreachable = socket.send_to(&message, endpoint).await;
        let answer = async {
            let mut bytes = [0; 512];
            loop {
                if let Ok((len @ 12.., from)) = socket.recv_from(&mut bytes).await
                    && from.endpoint == endpoint
                    && bytes[..2] == id.to_be_bytes()
                    && bytes[2] & 0xf8 == 0xa0
                    && len >= 12
                {
                    return bytes[3] & 15;
                }
            }
        };
        match with_timeout(Duration::from_secs(pause), answer).await {
            Ok(0) => return println!("dns: {} serial {}: {target} was told", zone.name(), zone.serial()),
            Ok(code) => return println!("dns: {}: {target} refuses to be told (code {code})", zone.name()),
            Err(_) => {}
        }
    }
    println!("dns: {}: {target} does not answer when it is told", zone.name());
}
