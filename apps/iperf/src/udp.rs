//! Streams over UDP: all through one socket, told apart by the client's ports.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use futures_util::future::join;
use sarab::XenClock;
use sarab::hal::Clock;
use sarab::network::Stack;
use sarab::network::stack::IpEndpoint;
use sarab::network::stack::udp::{PacketMetadata, UdpSocket};

use crate::protocol::Error;
use crate::session::{Progress, Test};

/// What a client begins a stream with, and what it is answered; the older pair of them first.
const GREETINGS: [([u8; 4], [u8; 4]); 2] = [
    (123_456_789_u32.to_ne_bytes(), 987_654_321_u32.to_ne_bytes()),
    (0x3637_3839_u32.to_ne_bytes(), 0x3938_3736_u32.to_ne_bytes()),
];
/// Packets on their way in the socket.
const PACKETS: usize = 256;
const BYTES: usize = 512 << 10;
/// Largest packet.
const MOST_BYTES: usize = 64 << 10;

/// What the socket uses.
pub struct Memory {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    metadata: [Vec<PacketMetadata>; 2],
}

impl Memory {
    pub fn new() -> Memory {
        let metadata = || vec![PacketMetadata::EMPTY; PACKETS];
        Memory { incoming: vec![0; BYTES], outgoing: vec![0; BYTES], metadata: [metadata(), metadata()] }
    }
}

pub struct Server<'a> {
    socket: UdpSocket<'a>,
    test: Test,
    peers: Vec<Peer>,
}

struct Peer {
    endpoint: IpEndpoint,
    /// Packets sent, or the greatest number received.
    packets: u64,
    /// How long the last packet was on its way, by clocks that differ.
    transit: Option<f64>,
}

impl<'a> Server<'a> {
    pub fn new(stack: Stack, port: u16, test: Test, memory: &'a mut Memory) -> Result<Server<'a>, Error> {
        let [first, second] = &mut memory.metadata;
        let mut socket = UdpSocket::new(stack, first, &mut memory.incoming, second, &mut memory.outgoing);
        socket.bind(port).map_err(|_| Error::Udp)?;
        Ok(Server { socket, test, peers: Vec::new() })
    }

    /// Waits for all streams.
    pub async fn meet(&mut self) -> Result<(), Error> {
        while self.peers.len() < self.test.streams {
            let mut greeting = [0; 4];
            let Ok((4, from)) = self.socket.recv_from(&mut greeting).await else { continue };
            let Some((_, answer)) = GREETINGS.iter().find(|(known, _)| *known == greeting) else { continue };
            if self.peers.iter().all(|peer| peer.endpoint != from.endpoint) {
                self.peers.push(Peer { endpoint: from.endpoint, packets: 0, transit: None });
            }
            self.socket.send_to(answer, from.endpoint).await.map_err(|_| Error::Udp)?;
        }
        Ok(())
    }

    /// Sends and receives until the test is over.
    pub async fn run(&mut self, clock: &XenClock, progress: &Progress) {
        let Server { socket, test, peers } = self;
        let run = Run { socket, test: *test, clock, start: clock.now(), progress };
        let (mut sinks, mut sources) = (Vec::new(), Vec::new());
        for (index, peer) in peers.iter_mut().enumerate() {
            if test.sends(index) { &mut sources } else { &mut sinks }.push((index, peer));
        }
        let receiving = async {
            if !sinks.is_empty() {
                run.receive(&mut sinks).await;
            }
        };
        let sending = async {
            if !sources.is_empty() {
                run.send(&mut sources).await;
            }
        };
        join(receiving, sending).await;
    }
}

/// The streams of one direction, by their numbers.
type Streams<'a> = [(usize, &'a mut Peer)];

/// A test that runs.
struct Run<'a> {
    socket: &'a UdpSocket<'a>,
    test: Test,
    clock: &'a XenClock,
    start: Duration,
    progress: &'a Progress,
}

impl Run<'_> {
    async fn receive(&self, streams: &mut Streams<'_>) {
        let Run { socket, test, clock, start, progress } = self;
        let wide = test.wide_counters;
        let mut buffer = vec![0; MOST_BYTES];
        while !progress.over.get() {
            let mut arrived = |bytes: &[u8], endpoint: IpEndpoint| {
                let (index, peer) = streams.iter_mut().find(|(_, peer)| peer.endpoint == endpoint)?;
                let word = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
                let sent = f64::from(word(0)?) + f64::from(word(4)?) / 1e6;
                let number = match wide {
                    true => u64::from(word(8)?) << 32 | u64::from(word(12)?),
                    false => word(8)?.into(),
                };
                let mut count = progress.counts[*index].get();
                count.bytes += bytes.len() as u64;
                if number > peer.packets {
                    count.lost += number - peer.packets - 1;
                    peer.packets = number;
                } else {
                    // One that was taken for lost.
                    count.lost = count.lost.saturating_sub(1);
                }
                count.packets = peer.packets;
                let transit = (clock.now() - *start).as_secs_f64() - sent;
                let change = (transit - peer.transit.replace(transit).unwrap_or(transit)).abs();
                count.jitter += (change - count.jitter) / 16.0;
                progress.counts[*index].set(count);
                Some(())
            };
            if let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                arrived(&buffer[..len], from.endpoint);
            }
        }
    }

    async fn send(&self, streams: &mut Streams<'_>) {
        let Run { socket, test, clock, start, progress } = self;
        let length = test.length;
        let mut packet = vec![0; length];
        // Between two packets of a stream.
        let pause = match test.bandwidth {
            0 => Duration::ZERO,
            bandwidth => Duration::from_nanos((length as u64 * 8).saturating_mul(1_000_000_000) / bandwidth),
        };
        while !progress.over.get() {
            let now = clock.now() - *start;
            let mut idle = true;
            for (index, peer) in streams.iter_mut() {
                if pause.saturating_mul(peer.packets.min(u32::MAX.into()) as u32) > now {
                    continue;
                }
                idle = false;
                peer.packets += 1;
                let number = peer.packets;
                packet[..4].copy_from_slice(&(now.as_secs() as u32).to_be_bytes());
                packet[4..8].copy_from_slice(&now.subsec_micros().to_be_bytes());
                match test.wide_counters {
                    true => packet[8..16].copy_from_slice(&number.to_be_bytes()),
                    false => packet[8..12].copy_from_slice(&(number as u32).to_be_bytes()),
                }
                if socket.send_to(&packet, peer.endpoint).await.is_err() {
                    return;
                }
                let mut count = progress.counts[*index].get();
                (count.bytes, count.packets) = (count.bytes + length as u64, number);
                progress.counts[*index].set(count);
            }
            if idle {
                clock.sleep(Duration::from_millis(1)).await;
            }
        }
    }
}
