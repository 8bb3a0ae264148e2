//! A server without HTTPS.

use alloc::rc::Rc;

use sarab::{App, Disk, bail};

use crate::connection::Server;
use crate::session::Session;

pub const CONNECTIONS: usize = 0;
pub const MEMORY: usize = 0;

/// There is none.
pub enum Tls {}

pub fn from_args(app: App, _port: u16) -> sarab::Result<Option<Rc<Tls>>> {
    if let Some((name, _)) = app.args().iter().find(|(name, _)| ["https", "cert", "redirect", "hsts"].contains(name)) {
        bail!("argument {name}: this web server was built without TLS; build it with the feature tls (--features tls)");
    }
    Ok(None)
}

pub async fn serve(_server: Rc<Server>) {}

/// What is answered.
pub fn plain<'a>(_server: &'a Server, session: Session<'a, Disk>) -> Session<'a, Disk> {
    session
}
