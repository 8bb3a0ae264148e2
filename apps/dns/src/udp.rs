//! Questions by UDP.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use core::net::IpAddr;

use sarab::network::Stack;
use sarab::network::stack::IpListenEndpoint;
use sarab::network::stack::udp::{PacketMetadata, UdpSocket};
use sarab::println;
use sarab_dns::{Client, Reply};

use crate::server::Dns;

/// Datagrams each way that wait.
const WAITING: usize = 256;
/// Bytes of them: of questions, which are short, and of answers.
const INCOMING: usize = 32 << 10;
const OUTGOING: usize = 128 << 10;
/// The largest question that is read, and the largest answer ([`Config::udp_size`](sarab_dns::Config)).
const QUESTION: usize = 4096;
const ANSWER: usize = 4096;
/// Questions after which others have their turn.
const TURN: usize = 64;

/// Answers what comes.
pub async fn serve(dns: Rc<Dns>, stack: Stack, port: u16) {
    let (mut incoming, mut outgoing) = (vec![0; INCOMING], vec![0; OUTGOING]);
    let (mut received, mut sent) = (vec![PacketMetadata::EMPTY; WAITING], vec![PacketMetadata::EMPTY; WAITING]);
    let mut socket = UdpSocket::new(stack, &mut received, &mut incoming, &mut sent, &mut outgoing);
    if socket.bind(IpListenEndpoint { addr: None, port }).is_err() {
        return println!("dns: port {port} of UDP cannot be listened on");
    }
    let (mut question, mut answer) = (Box::new([0; QUESTION]), Box::new([0; ANSWER]));
    let mut turn = 0;
    loop {
        // One that is longer is none.
        let Ok((len, from)) = socket.recv_from(&mut question[..]).await else { continue };
        let address: IpAddr = from.endpoint.addr.into();
        let client = Client { address: address.to_canonical(), tcp: false };
        dns.log(&question[..len], client.address, false);
        let len = match dns.server.handle(&question[..len], client, dns.now(), &mut answer[..]) {
            Reply::Answer(len) => len,
            Reply::Notified(len, zone) => {
                dns.notified(zone);
                len
            }
            Reply::None | Reply::Transfer(_) => 0,
        };
        if len > 0 {
            // From the address that the question was sent to.
            let _unreachable = socket.send_to(&answer[..len], from).await;
        }
        turn += 1;
        if turn >= TURN {
            turn = 0;
            sarab::platform::yield_now().await;
        }
    }
}
