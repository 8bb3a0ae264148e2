//! The forwarder's sockets: clients' datagrams and connections, and the answers to them.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::convert::Infallible;
use core::fmt;
use core::future::{pending, poll_fn};
use core::net::IpAddr;
use core::pin::pin;
use core::task::Poll;

use embassy_net::tcp::TcpSocket;
use embassy_net::udp::{BindError, PacketMetadata, UdpMetadata, UdpSocket};
use embassy_net::{IpAddress, Stack};
use embassy_time::{Duration, Instant, with_timeout};
use futures_util::StreamExt;
use futures_util::future::{Either, join3, select};
use futures_util::stream::FuturesUnordered;
use xen_ring::WaitQueue;

use super::desk::{Asked, Desk};
use super::message::{Key, Transport};
use super::names::{NameError, Names};
use super::upstream::{read_message, write_message};
use super::{Config, Counters};

pub(super) const PORT: u16 = 53;
/// Servers that are asked.
const MAX_SERVERS: usize = 4;
/// How long a connection stands without a whole question, and how long an answer may take to be sent.
const IDLE: Duration = Duration::from_secs(10);
/// How long a connection has to end.
const CLOSE: Duration = Duration::from_millis(500);
/// Bytes of a question, by either way.
const MAX_QUERY: usize = 1500;
/// Datagrams that wait, each way.
const DATAGRAMS: usize = 32;
const BUFFER: usize = 16 << 10;

/// A DNS forwarder on a stack's port 53. Clones are the same one.
///
/// # Examples
///
/// ```no_run
/// use sarab_router::services::dns::{Config, Forwarder};
///
/// async fn serve(stack: embassy_net::Stack<'_>, random: impl FnMut() -> u64 + 'static) {
///     let forwarder = Forwarder::new(stack, Config::default(), random);
///     forwarder.set_servers(&[[9, 9, 9, 9].into()]);
///     forwarder.names(|names| names.insert("mail", &[[10, 137, 0, 7].into()])).expect("a good name");
///     let error = forwarder.run().await.expect_err("it ends with an error alone");
///     println!("port 53: {error:?}");
/// }
/// ```
#[derive(Clone)]
pub struct Forwarder<'d>(Rc<Shared<'d>>);

pub(super) struct Shared<'d> {
    pub(super) stack: Stack<'d>,
    random: RefCell<Box<dyn FnMut() -> u64>>,
    pub(super) servers: RefCell<Rc<[IpAddress]>>,
    /// Counts lists of servers.
    pub(super) version: Cell<u64>,
    /// The server that answered last.
    pub(super) preferred: Cell<usize>,
    desk: RefCell<Desk<Path>>,
    /// Whom to answer.
    is_client: RefCell<Box<dyn Fn(IpAddr) -> bool>>,
    /// Questions that the servers are to be asked.
    started: RefCell<VecDeque<Rc<Key>>>,
    has_started: WaitQueue,
    connections: Box<[Connection]>,
}

/// A connection of a client.
#[derive(Default)]
struct Connection {
    client: Cell<Option<IpAddr>>,
    answer: RefCell<Option<Vec<u8>>>,
    answered: WaitQueue,
}

/// The way back to a client.
#[derive(Clone, PartialEq)]
enum Path {
    Udp(UdpMetadata),
    Tcp(usize),
}

impl<'d> Forwarder<'d> {
    /// A forwarder without servers and names. It takes its numbers from `random`: whoever can predict them can answer in a
    /// server's name.
    pub fn new(stack: Stack<'d>, config: Config, mut random: impl FnMut() -> u64 + 'static) -> Forwarder<'d> {
        let secret = (random(), random());
        Forwarder(Rc::new(Shared {
            stack,
            random: RefCell::new(Box::new(random)),
            servers: RefCell::new([].into()),
            version: Cell::new(0),
            preferred: Cell::new(0),
            desk: RefCell::new(Desk::new(config, Names::default(), secret)),
            is_client: RefCell::new(Box::new(|_| true)),
            started: RefCell::default(),
            has_started: WaitQueue::default(),
            connections: (0..config.max_connections).map(|_| Connection::default()).collect(),
        }))
    }

    /// The servers that are asked, the best first; up to four. What others have said is forgotten.
    pub fn set_servers(&self, servers: &[IpAddr]) {
        let usable = servers.iter().filter(|server| !server.is_unspecified() && !server.is_multicast());
        let servers: Vec<IpAddress> = usable.take(MAX_SERVERS).map(|server| (*server).into()).collect();
        if self.0.servers.borrow()[..] == servers[..] {
            return;
        }
        self.0.servers.replace(servers.into());
        self.0.version.set(self.0.version.get() + 1);
        self.0.preferred.set(0);
        self.0.desk.borrow_mut().clear_cache();
    }

    /// Changes the names of clients.
    ///
    /// # Errors
    ///
    /// Those of `change`.
    pub fn names(&self, change: impl FnOnce(&mut Names) -> Result<(), NameError>) -> Result<(), NameError> {
        change(&mut self.0.desk.borrow_mut().names)
    }

    /// Answers those alone that this is true for; everybody at first. Whoever can reach a forwarder that answers everybody
    /// can have it send answers to others.
    pub fn serve_only(&self, is_client: impl Fn(IpAddr) -> bool + 'static) {
        *self.0.is_client.borrow_mut() = Box::new(is_client);
    }

    /// Forgets what servers have said.
    pub fn clear_cache(&self) {
        self.0.desk.borrow_mut().clear_cache();
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.0.desk.borrow().counters()
    }

    /// Answers clients. It runs once at a time.
    ///
    /// # Errors
    ///
    /// Port 53 is in use.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time: clients that wait get no answer, connections are reset, and the port is free. What is
    /// remembered stays, and it can be run again.
    pub async fn run(&self) -> Result<Infallible, BindError> {
        let shared = &*self.0;
        shared.desk.borrow_mut().abandon();
        shared.started.borrow_mut().clear();
        let mut metadata = vec![PacketMetadata::EMPTY; 2 * DATAGRAMS];
        let (incoming, outgoing) = metadata.split_at_mut(DATAGRAMS);
        let (mut received, mut sent) = (vec![0; BUFFER], vec![0; BUFFER]);
        let mut udp = UdpSocket::new(shared.stack, incoming, &mut received, outgoing, &mut sent);
        udp.bind(PORT)?;
        let mut connections: FuturesUnordered<_> =
            (0..shared.connections.len()).map(|number| shared.serve_connections(number)).collect();
        let connections = async {
            while connections.next().await.is_some() {}
            pending().await
        };
        let (never, _, ()) = join3(shared.serve_datagrams(&udp), shared.serve_lookups(&udp), connections).await;
        match never {}
    }
}

impl fmt::Debug for Forwarder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

fn now() -> core::time::Duration {
    core::time::Duration::from_micros(Instant::now().as_micros())
}

impl Shared<'_> {
    pub(super) fn random(&self) -> u64 {
        (self.random.borrow_mut())()
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Counters)) {
        count(&mut self.desk.borrow_mut().counters);
    }

    fn is_client(&self, address: IpAddress) -> bool {
        let is_client = (self.is_client.borrow())(address.into());
        self.count(|counters| counters.strangers += u64::from(!is_client));
        is_client
    }

    /// Takes a client's message, and says what is known at once; `Err` where the answer comes later.
    fn ask(&self, message: &[u8], client: IpAddress, transport: Transport, path: Path) -> Result<Option<Vec<u8>>, ()> {
        match self.desk.borrow_mut().ask(message, client.into(), transport, path, now()) {
            Asked::Reply(reply) => return Ok(Some(reply)),
            Asked::Nothing => return Ok(None),
            Asked::Wait => {}
            Asked::Start(key) => {
                self.started.borrow_mut().push_back(key);
                self.has_started.wake_all();
            }
        }
        Err(())
    }

    async fn serve_datagrams(&self, udp: &UdpSocket<'_>) -> Infallible {
        let mut message = vec![0; MAX_QUERY];
        loop {
            // What is longer is no question.
            let Ok((len, from)) = udp.recv_from(&mut message).await else { continue };
            if !self.is_client(from.endpoint.addr) {
                continue;
            }
            let path = Path::Udp(from);
            if let Ok(Some(reply)) = self.ask(&message[..len], from.endpoint.addr, Transport::Udp, path) {
                self.send(udp, &reply, from).await;
            }
        }
    }

    /// Sends a datagram, unless there is no room for it: nobody waits for a client that is slow.
    async fn send(&self, udp: &UdpSocket<'_>, reply: &[u8], to: UdpMetadata) {
        let to = UdpMetadata { endpoint: to.endpoint, local_address: to.local_address, meta: Default::default() };
        let send = |cx: &mut core::task::Context<'_>| Poll::Ready(udp.poll_send_to(reply, to, cx));
        if !matches!(poll_fn(send).await, Poll::Ready(Ok(()))) {
            self.count(|counters| counters.dropped += 1);
        }
    }

    /// Asks the servers, and gives the answers to who waits.
    async fn serve_lookups(&self, udp: &UdpSocket<'_>) -> Infallible {
        let mut lookups = FuturesUnordered::new();
        loop {
            let event = {
                let started = pin!(self.has_started.wait_until(|| self.started.borrow_mut().pop_front()));
                let finished = pin!(async {
                    match lookups.next().await {
                        Some(finished) => finished,
                        None => pending().await,
                    }
                });
                match select(started, finished).await {
                    Either::Left((key, _)) => Either::Left(key),
                    Either::Right((finished, _)) => Either::Right(finished),
                }
            };
            match event {
                Either::Left(key) => lookups.push(self.look_up(key)),
                Either::Right((key, outcome)) => {
                    let replies = self.desk.borrow_mut().finish(&key, outcome, now());
                    for (path, reply) in replies {
                        match path {
                            Path::Udp(to) => self.send(udp, &reply, to).await,
                            Path::Tcp(number) => {
                                self.connections[number].answer.replace(Some(reply));
                                self.connections[number].answered.wake_all();
                            }
                        }
                    }
                }
            }
        }
    }

    /// One connection after the other.
    async fn serve_connections(&self, number: usize) {
        let (mut received, mut sent) = (vec![0; 2048], vec![0; 4096]);
        let connection = &self.connections[number];
        loop {
            connection.client.set(None);
            let mut socket = TcpSocket::new(self.stack, &mut received, &mut sent);
            socket.set_timeout(Some(IDLE));
            if socket.accept(PORT).await.is_err() {
                return;
            }
            let Some(client) = socket.remote_endpoint().map(|remote| remote.addr) else { continue };
            let own = Some(IpAddr::from(client));
            let open = self.connections.iter().filter(|other| other.client.get() == own).count();
            if !self.is_client(client) {
                socket.abort();
            } else if open >= self.desk.borrow().config.max_connections_per_client {
                self.count(|counters| counters.connections_refused += 1);
                socket.abort();
            } else {
                connection.client.set(own);
                self.serve_connection(&mut socket, client, number).await;
                socket.close();
            }
            let _ = with_timeout(CLOSE, socket.flush()).await;
        }
    }

    async fn serve_connection(&self, socket: &mut TcpSocket<'_>, client: IpAddress, number: usize) {
        let connection = &self.connections[number];
        while let Ok(Some(message)) = with_timeout(IDLE, read_message(socket, MAX_QUERY)).await {
            connection.answer.take();
            let reply = match self.ask(&message, client, Transport::Tcp, Path::Tcp(number)) {
                Ok(Some(reply)) => reply,
                Ok(None) => return,
                // Each lookup ends.
                Err(()) => connection.answered.wait_until(|| connection.answer.take()).await,
            };
            if !matches!(with_timeout(IDLE, write_message(socket, &reply)).await, Ok(Some(()))) {
                return;
            }
        }
    }
}
