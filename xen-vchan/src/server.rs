//! The end that waits for clients.

use alloc::format;
use core::task::Poll;
use core::time::Duration;

use xen_hal::{DomId, EventChannels, Port, PortNumber, Xen, information};
use xenbus::{EventThrottle, RateLimit};
use xenstore_client::{Access, Error as StoreError, Permission, Store};

use crate::channel::Channel;
use crate::error::SetupError;
use crate::layout::{self, BadLayout, End, Layout};
use crate::link::Origin;
use crate::memory::Memory;

/// Bytes of each ring, where nothing else is asked for.
const DEFAULT_SIZE: usize = 16 << 10;
/// Clients that are taken at once, and how often one may come after these: each takes pages, a port and a transaction.
const CLIENTS_AT_ONCE: u32 = 16;
const CLIENT_INTERVAL: Duration = Duration::from_millis(50);
/// When a server that waits writes its keys anew, and how often at last; each pause is twice the one before. The toolstack
/// may have removed them; and xenstored takes no notice of permissions for a domain that was not there when they were set
/// (`domain_alloc_permrefs` in tools/xenstored/domain.c), which it does not even tell.
const FIRST_RENEWAL: Duration = Duration::from_secs(1);
const MAX_RENEWAL: Duration = Duration::from_secs(10);

/// Listens for one domain, whose clients come one after the other, or are there at the same time.
///
/// Each call of [`accept`](Server::accept) publishes a new page and a new event channel in the store, as `ring-ref` and
/// `event-channel`, waits for a client, and removes them again: what two clients read is never the same.
///
/// # Examples
///
/// ```
/// use xen_vchan::{Client, Server};
///
/// let xen = xen_sim::Xen::new(1);
/// let (one, other) = (xen.domain(), xen.domain());
/// let mut server = Server::new(one.clone(), &one.store(), other.id(), 5);
/// let client = Client::new(other.clone(), &other.store(), one.id(), 5);
/// let serving = one.spawn(async move {
///     let mut channel = server.accept().await.unwrap();
///     let mut bytes = [0; 16];
///     let len = channel.read(&mut bytes).await.unwrap();
///     channel.write_message(&bytes[..len]).await.unwrap();
/// });
/// xen.run(async move {
///     let mut channel = client.connect().await.unwrap();
///     channel.write_message(b"hello").await.unwrap();
///     let mut bytes = [0; 16];
///     assert_eq!(channel.read(&mut bytes).await, Ok(5));
///     assert_eq!(channel.read(&mut bytes).await, Ok(0), "the server has closed it");
/// });
/// xen.run(serving);
/// ```
pub struct Server<X: Xen> {
    xen: X,
    store: Store,
    origin: Origin,
    layout: Layout,
    clients: RateLimit,
    listening: Option<Listening<X>>,
}

/// What is in the store for the next client.
struct Listening<X: Xen> {
    memory: Memory<X>,
    port: <X as EventChannels>::Port,
    /// Of the connection to the store: after a restore, ports and grants are those of another domain.
    generation: u32,
    /// How long it waits before it writes its keys anew.
    pause: Duration,
}

impl<X: Xen> Server<X> {
    /// A server for the domain `peer` at `data/vchan/<peer>/<port>` of this domain, where clients look for port `port`.
    pub fn new(xen: X, store: &Store, peer: DomId, port: u32) -> Server<X> {
        Server::at(xen, store, peer, &format!("data/vchan/{}/{port}", peer.0))
    }

    /// A server at a path of the store that both ends agree upon.
    pub fn at(xen: X, store: &Store, peer: DomId, path: &str) -> Server<X> {
        let layout = Layout::for_sizes(DEFAULT_SIZE, DEFAULT_SIZE).expect("there are such rings");
        let clients = RateLimit::new(CLIENTS_AT_ONCE, CLIENT_INTERVAL);
        let origin = Origin::new(End::Server, peer, path);
        Server { xen, store: store.clone(), origin, layout, clients, listening: None }
    }

    /// How many bytes each ring has at least, instead of 16 KiB: the one that this end reads, and the one that it writes. 2
    /// KiB for one and 1 KiB for the other take one page for all.
    ///
    /// # Errors
    ///
    /// [`BadLayout::Size`] above 1 MiB.
    pub fn with_sizes(self, read: usize, write: usize) -> Result<Server<X>, BadLayout> {
        Ok(Server { layout: Layout::for_sizes(read, write)?, listening: None, ..self })
    }

    /// Waits for the next client. A domain that makes clients come and go takes its time from the seventeenth on.
    ///
    /// # Errors
    ///
    /// Where memory, grants or event channels are not to be had, or the store refuses. The next call tries again.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time; a client that has come meanwhile is the next call's.
    pub async fn accept(&mut self) -> Result<Channel<X>, SetupError> {
        while !self.wait_for_client().await? {}
        // Before the next one: this page has its client.
        self.withdraw().await?;
        let Listening { memory, port, .. } = self.listening.take().expect("a client has come");
        let channel = Channel::new(self.xen.clone(), (memory, self.layout), port, self.origin.clone())?;
        if self.origin.allows_line(self.xen.now()) {
            information!("vchan {}: {} has connected", self.origin.path, self.origin.peer);
        }
        Ok(channel)
    }

    /// Stops listening, and removes what the store has of it.
    ///
    /// A server that is dropped leaves its keys there: clients that read them are refused, and wait for a new server.
    ///
    /// # Errors
    ///
    /// What the store says.
    ///
    /// # Cancellation
    ///
    /// The keys may stay.
    pub async fn close(self) -> Result<(), SetupError> {
        self.withdraw().await
    }

    async fn withdraw(&self) -> Result<(), SetupError> {
        match self.store.remove(&self.origin.path).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Publishes a page, or that which there is once more, and waits; `false` where it is time to do so again.
    async fn wait_for_client(&mut self) -> Result<bool, SetupError> {
        let generation = self.store.generation();
        if self.listening.as_ref().is_some_and(|listening| listening.generation != generation) {
            self.listening = None;
        }
        if self.listening.is_none() {
            self.xen.sleep_until(self.clients.next()).await;
            self.clients.take(self.xen.now());
            let memory = Memory::grant(&self.xen, self.origin.peer, self.layout)?;
            let port =
                self.xen.alloc_unbound(self.origin.peer).map_err(|error| SetupError::port(self.origin.peer, &error))?;
            self.listening = Some(Listening { memory, port, generation, pause: FIRST_RENEWAL });
        }
        let Some(listening) = &self.listening else { return Ok(false) };
        if layout::has_client(listening.memory.page()) {
            return Ok(true);
        }
        self.publish(listening).await?;
        let deadline = self.xen.now().saturating_add(listening.pause);
        let mut throttle = EventThrottle::default();
        loop {
            if layout::has_client(listening.memory.page()) {
                return Ok(true);
            }
            if self.xen.now() >= deadline {
                break;
            }
            throttle.wait(&self.xen, &[&listening.port], Some(deadline), |_| Poll::Pending).await;
            throttle.record_spurious();
        }
        if let Some(listening) = &mut self.listening {
            listening.pause = (listening.pause * 2).min(MAX_RENEWAL);
        }
        Ok(false)
    }

    /// Writes where the page is, for the peer alone to read.
    async fn publish(&self, listening: &Listening<X>) -> Result<(), StoreError> {
        let own: DomId = self.store.read_as("domid").await?;
        let permissions = [Permission::new(own, Access::None), Permission::new(self.origin.peer, Access::Read)];
        let (ring, event) = (format!("{}/ring-ref", self.origin.path), format!("{}/event-channel", self.origin.path));
        let reference = listening.memory.reference().expect("a server's memory is granted");
        let port: PortNumber = listening.port.number();
        self.store
            .transaction(async |t| -> Result<(), StoreError> {
                t.set(&ring, &reference).await?;
                t.set_permissions(&ring, &permissions).await?;
                t.set(&event, &port).await?;
                t.set_permissions(&event, &permissions).await
            })
            .await
    }
}
