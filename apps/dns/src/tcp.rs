//! Questions by TCP (RFC 7766): one after the other on a connection, as many as a client likes; and transfers of zones.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use sarab::network::Stack;
use sarab::network::stack::tcp::TcpSocket;
use sarab::println;
use sarab::time::{Duration, with_timeout};
use sarab_dns::{Client, Reply, Transfer};

use crate::server::Dns;

/// The longest question that is read: with names and options of the greatest length.
const QUESTION: usize = 4096;
const INCOMING: usize = 2048;
const OUTGOING: usize = 16 << 10;
/// How long a client may say nothing; and where half of the connections are taken.
const IDLE: Duration = Duration::from_secs(10);
const BUSY: Duration = Duration::from_secs(2);
/// How long an answer, or a message of a transfer, may take to be received.
const PATIENCE: Duration = Duration::from_secs(20);
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Serves one connection after the other.
pub async fn serve(dns: Rc<Dns>, stack: Stack, port: u16) {
    let (mut incoming, mut outgoing) = (vec![0; INCOMING], vec![0; OUTGOING]);
    let mut question = vec![0; QUESTION];
    while !dns.stop.get() {
        let mut socket = TcpSocket::new(stack, &mut incoming, &mut outgoing);
        socket.set_nagle_enabled(false);
        socket.set_timeout(Some(HANDSHAKE));
        if socket.accept(port).await.is_err() {
            return println!("dns: port {port} of TCP cannot be listened on");
        }
        let Some(peer) = socket.remote_endpoint().filter(|_| socket.may_send()) else { continue };
        socket.set_timeout(Some(PATIENCE));
        let address: IpAddr = peer.addr.into();
        let client = Client { address: address.to_canonical(), tcp: true };
        dns.open.set(dns.open.get() + 1);
        // By itself: each task has room for its future.
        let served = Box::pin(connection(&dns, &mut socket, client, &mut question)).await;
        if served.is_some() {
            socket.close();
            // What is on its way arrives, unless the client is gone.
            let _gone = with_timeout(BUSY, socket.flush()).await;
        }
        socket.abort();
        dns.open.set(dns.open.get() - 1);
    }
}

/// `None` where the client does not do as it should.
async fn connection(dns: &Rc<Dns>, socket: &mut TcpSocket<'_>, client: Client, question: &mut [u8]) -> Option<()> {
    while !dns.stop.get() {
        let idle = if dns.open.get() * 2 > dns.connections { BUSY } else { IDLE };
        // The whole question: a byte now and then does not help.
        let len = match with_timeout(idle, read(socket, question)).await {
            Ok(Some(len)) => len,
            Ok(None) => return Some(()),
            Err(_) => return Some(()),
        };
        dns.log(&question[..len], client.address, true);
        let reply = dns.server.handle(&question[..len], client, dns.now(), &mut dns.scratch.borrow_mut());
        match reply {
            Reply::None => return None,
            Reply::Answer(len) => send(socket, framed(dns, len)).await?,
            Reply::Notified(len, zone) => {
                dns.notified(zone);
                send(socket, framed(dns, len)).await?;
            }
            Reply::Transfer(transfer) => transfer_zone(dns, socket, client, *transfer).await?,
        }
        sarab::platform::yield_now().await;
    }
    Some(())
}

/// A message's bytes; `None` where there are none any more, or too many.
async fn read(socket: &mut TcpSocket<'_>, to: &mut [u8]) -> Option<usize> {
    let mut len = [0; 2];
    fill(socket, &mut len).await?;
    let to = to.get_mut(..usize::from(u16::from_be_bytes(len)))?;
    fill(socket, to).await?;
    Some(to.len())
}

async fn fill(socket: &mut TcpSocket<'_>, mut to: &mut [u8]) -> Option<()> {
    while !to.is_empty() {
        match socket.read(to).await {
            Ok(len @ 1..) => to = &mut to[len..],
            _ => return None,
        }
    }
    Some(())
}

/// A message with its length before it.
fn framed(dns: &Dns, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + len);
    bytes.extend_from_slice(&(len as u16).to_be_bytes());
    bytes.extend_from_slice(&dns.scratch.borrow()[..len]);
    bytes
}

async fn send(socket: &mut TcpSocket<'_>, bytes: Vec<u8>) -> Option<()> {
    let write = async {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let len = socket.write(rest).await.ok().filter(|len| *len > 0)?;
            rest = &rest[len..];
        }
        Some(())
    };
    with_timeout(PATIENCE, write).await.ok()?
}

async fn transfer_zone(
    dns: &Rc<Dns>,
    socket: &mut TcpSocket<'_>,
    client: Client,
    mut transfer: Transfer,
) -> Option<()> {
    let (mut messages, mut bytes) = (0u32, 0u64);
    loop {
        let len = transfer.next(dns.now().unix, &mut dns.scratch.borrow_mut());
        let Some(len) = len else { break };
        send(socket, framed(dns, len)).await?;
        messages += 1;
        bytes += len as u64;
        sarab::platform::yield_now().await;
    }
    let zone = transfer.zone();
    println!("dns: {} serial {} to {}: {messages} messages, {bytes} bytes", zone.name(), zone.serial(), client.address);
    Some(())
}
