//! Byte streams to other domains, and to programs in dom0 that use libxenvchan.
//!
//! A server listens for one domain; any number of clients there connect to it. Both get a [`Channel`], which
//! `embedded-io-async` reads and writes too.
//!
//! ```
//! use sarab::hal::DomId;
//! use sarab::testing::{End, Guest, check};
//! use sarab::{App, println};
//!
//! async fn server(app: App) -> sarab::Result {
//!     let client: u16 = app.args().get("client")?.expect("it is there");
//!     let mut channel = app.vchan_server(DomId(client), 7)?.accept().await?;
//!     channel.write_message(b"hello").await?;
//!     Ok(channel.flush().await?) // until the client has read it
//! }
//!
//! async fn client(app: App) -> sarab::Result {
//!     let server: u16 = app.console().read_line(8).await.parse()?;
//!     let mut channel = app.vchan_client(DomId(server), 7)?.connect().await?;
//!     let mut bytes = [0; 16];
//!     let len = channel.read(&mut bytes).await?;
//!     println!("{:?}", core::str::from_utf8(&bytes[..len])?);
//!     Ok(())
//! }
//!
//! check("hello over a vchan", 5, |xen| {
//!     let xen = xen.clone();
//!     xen.clone().run(async move {
//!         let client = Guest::new(&xen).start(client).await;
//!         let line = format!("client={}", client.domain().id().0);
//!         let server = Guest::new(&xen).command_line(&line).start(server).await;
//!         client.type_in(&format!("{}\n", server.domain().id().0));
//!         assert_eq!(client.ended().await.console(), "\"hello\"\n");
//!         assert_eq!(server.ended().await.how(), End::PowerOff);
//!     });
//! });
//! ```

use xen_hal::DomId;
use xenstore_client::Broken;

use crate::App;
use crate::machine::XenPlatform;

pub use xen_vchan::layout::{BadLayout, End, Layout, Side};
pub use xen_vchan::{Error, SetupError};

/// Listens for one domain; see [`xen_vchan::Server`].
pub type Server = xen_vchan::Server<XenPlatform>;
/// Connects to a server of another domain; see [`xen_vchan::Client`].
pub type Client = xen_vchan::Client<XenPlatform>;
/// An open channel; see [`xen_vchan::Channel`].
pub type Channel = xen_vchan::Channel<XenPlatform>;
/// The half of a channel that is read; see [`xen_vchan::ReadHalf`].
pub type ReadHalf = xen_vchan::ReadHalf<XenPlatform>;
/// The half of a channel that is written to; see [`xen_vchan::WriteHalf`].
pub type WriteHalf = xen_vchan::WriteHalf<XenPlatform>;

impl App {
    /// A vchan server for the domain `peer`, at `data/vchan/<peer>/<port>` of this domain. [`Server::at`] takes any path.
    ///
    /// # Errors
    ///
    /// Where there is no store.
    pub fn vchan_server(&self, peer: DomId, port: u32) -> Result<Server, Broken> {
        Ok(Server::new(self.xen(), &self.store()?, peer, port))
    }

    /// A client of the domain `server`'s vchan port `port`, at `/local/domain/<server>/data/vchan/<own number>/<port>`.
    /// [`Client::at`] takes any path.
    ///
    /// # Errors
    ///
    /// Where there is no store.
    pub fn vchan_client(&self, server: DomId, port: u32) -> Result<Client, Broken> {
        Ok(Client::new(self.xen(), &self.store()?, server, port))
    }
}
