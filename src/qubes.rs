//! A qube's side of Qubes OS: QubesDB, qrexec, and the firewall's rules.
//!
//! ```
//! use sarab::qubes::{Call, ExitCode, Session};
//! use sarab::{App, println};
//!
//! async fn qube(app: App) -> sarab::Result {
//!     let _agent = app.qubes_agent(service)?;
//!     let db = app.qubes_database()?;
//!     db.ready().await?;
//!     println!("address {}", db.text("/qubes-ip").unwrap_or_default());
//!     let mut changes = db.watch("/qubes-gateway");
//!     while changes.next().await.is_some() {
//!         println!("gateway {:?}", db.text("/qubes-gateway"));
//!     }
//!     Ok(())
//! }
//!
//! /// Sets the clock: dom0 sends a line of text.
//! async fn service(call: Call, session: &mut Session) -> ExitCode {
//!     if call.service() != Some("qubes.SetDateTime") {
//!         return ExitCode::NOT_FOUND;
//!     }
//!     let mut line = [0; 64];
//!     match session.read(&mut line).await {
//!         Ok(len) => println!("the time is {:?}", str::from_utf8(&line[..len])),
//!         Err(error) => println!("{error}"),
//!     }
//!     ExitCode::SUCCESS
//! }
//! # let _ = qube;
//! ```

use xenstore_client::Broken;

use crate::App;
use crate::machine::XenPlatform;

pub use qubes::db::wire::MAX_PATH as MAX_DATABASE_PATH;
pub use qubes::db::{Change, Changes, Database, Error as DatabaseError, Options as DatabaseOptions};
pub use qubes::firewall::{self, Rules};
pub use qubes::rexec::wire::WireError as SessionWireError;
pub use qubes::rexec::{
    Answer, Call, CallError, Collected, Error as SessionError, ExitCode, Options as AgentOptions, Request,
};

/// The agent of qrexec; see [`qubes::rexec::Agent`].
pub type Agent = qubes::rexec::Agent<XenPlatform>;
/// The streams of a call that is served here; see [`qubes::rexec::Session`].
pub type Session = qubes::rexec::Session<XenPlatform>;
/// A call of a service elsewhere; see [`qubes::rexec::RemoteCall`].
pub type RemoteCall = qubes::rexec::RemoteCall<XenPlatform>;
/// What a caller sends; see [`qubes::rexec::Input`].
pub type Input = qubes::rexec::Input<XenPlatform>;
/// What goes to a caller; see [`qubes::rexec::Output`].
pub type Output = qubes::rexec::Output<XenPlatform>;
/// A called service's standard input; see [`qubes::rexec::RemoteInput`].
pub type RemoteInput = qubes::rexec::RemoteInput<XenPlatform>;
/// What a called service sends; see [`qubes::rexec::RemoteOutput`].
pub type RemoteOutput = qubes::rexec::RemoteOutput<XenPlatform>;

impl App {
    /// A copy of this qube's QubesDB, which follows dom0's from now on; [`Database::ready`] waits for it. Once is enough:
    /// handles are to be cloned.
    ///
    /// # Errors
    ///
    /// Where there is no store.
    pub fn qubes_database(&self) -> Result<Database, Broken> {
        let (database, runner) = Database::new(self.xen(), &self.store()?, DatabaseOptions::default());
        self.spawn(runner).detach();
        Ok(database)
    }

    /// The agent of qrexec, which calls `handler` for each call of dom0's and other qubes', several at a time. There is one in
    /// a domain, and it goes on until the domain ends.
    ///
    /// # Errors
    ///
    /// Where there is no store.
    pub fn qubes_agent<H>(&self, handler: H) -> Result<Agent, Broken>
    where
        H: AsyncFn(Call, &mut Session) -> ExitCode + 'static,
    {
        let (agent, runner) = Agent::new(self.xen(), &self.store()?, AgentOptions::default(), handler);
        self.spawn(runner).detach();
        Ok(agent)
    }
}
