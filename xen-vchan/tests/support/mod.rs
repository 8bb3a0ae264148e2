//! Two domains, and what both have in use without a channel.

#![allow(dead_code, reason = "each test is a crate of its own, and uses a part")]

pub mod raw;

use std::rc::Rc;
use std::time::Duration;

use xen_hal::Clock;
use xen_sim::{Domain, Usage, Xen};
use xen_vchan::{Channel, Client, Error, ReadHalf, Server, WriteHalf};
use xenstore_client::Store;

pub const PORT: u32 = 7;

/// A domain that serves, and one that is its client.
pub struct Bench {
    pub server: Domain,
    pub client: Domain,
    pub dom0: Domain,
    pub server_store: Store,
    pub client_store: Store,
    before: (Usage, Usage),
}

pub fn bench(xen: &Xen) -> Rc<Bench> {
    let (server, client) = (xen.domain(), xen.domain());
    let (server_store, client_store) = (server.store(), client.store());
    xen.settle();
    let before = (server.in_use(), client.in_use());
    Rc::new(Bench { server, client, dom0: xen.dom0(), server_store, client_store, before })
}

impl Bench {
    pub fn serve(&self, port: u32) -> Server<Domain> {
        Server::new(self.server.clone(), &self.server_store, self.client.id(), port)
    }

    pub fn client(&self, port: u32) -> Client<Domain> {
        Client::new(self.client.clone(), &self.client_store, self.server.id(), port)
    }

    /// Both ends of a channel with rings of so many bytes.
    pub async fn pair(&self, port: u32, sizes: (usize, usize)) -> (Channel<Domain>, Channel<Domain>) {
        let mut server = self.serve(port).with_sizes(sizes.0, sizes.1).unwrap();
        let accepting = self.server.spawn(async move { server.accept().await.unwrap() });
        let client = self.client(port);
        let connected = self.client.spawn(async move { client.connect().await.unwrap() });
        (accepting.await, connected.await)
    }

    pub async fn pause(&self, millis: u64) {
        self.dom0.sleep(Duration::from_millis(millis)).await;
    }

    /// Lets everything come to rest, and checks that nothing is left of any channel.
    pub fn check_no_leak(self: &Rc<Bench>, xen: &Xen) {
        let bench = self.clone();
        xen.run(async move { bench.pause(10_000).await });
        for (domain, before) in [(&self.server, self.before.0), (&self.client, self.before.1)] {
            if domain.is_alive() {
                assert_eq!(domain.in_use(), before, "something of {} has leaked", domain.id());
                assert_eq!(domain.mapped_pages(), 0);
            }
        }
    }
}

/// The byte at a place of the stream that `seed` stands for.
pub fn byte(seed: u64, at: usize) -> u8 {
    ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed) >> 32) as u8
}

/// Writes a stream in pieces of any size, and returns how much was written, and why no more was.
pub async fn write_stream(
    xen: &Xen,
    half: &mut WriteHalf<Domain>,
    seed: u64,
    len: usize,
) -> (usize, Result<(), Error>) {
    let mut at = 0;
    while at < len {
        let piece = (1 + xen.random(3000) as usize).min(len - at);
        let bytes: Vec<u8> = (at..at + piece).map(|at| byte(seed, at)).collect();
        match half.write(&bytes).await {
            Ok(written) => at += written,
            Err(error) => return (at, Err(error)),
        }
    }
    (at, Ok(()))
}

/// Reads a stream to its end, and returns how much there was of it.
pub async fn read_stream(xen: &Xen, half: &mut ReadHalf<Domain>, seed: u64) -> usize {
    let mut at = 0;
    loop {
        let mut bytes = vec![0; 1 + xen.random(3000) as usize];
        match half.read(&mut bytes).await {
            Ok(0) => return at,
            Ok(len) => {
                for (index, read) in bytes[..len].iter().enumerate() {
                    assert_eq!(*read, byte(seed, at + index), "byte {} of stream {seed}", at + index);
                }
                at += len;
            }
            Err(error) => panic!("{error}"),
        }
    }
}
