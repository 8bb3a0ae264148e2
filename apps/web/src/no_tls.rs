//! A server without HTTPS.

use alloc::rc::Rc;

use sarab::{App, Disk, bail};
use sarab_http::{Refusal, Request, Response, Service};

use crate::connection::Server;
use crate::pages::Pages;

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
pub struct Plain<'a>(&'a Pages<Disk>);

pub fn plain(server: &Server) -> Plain<'_> {
    Plain(&server.pages)
}

impl Service for Plain<'_> {
    type Content<'a>
        = <Pages<Disk> as Service>::Content<'a>
    where
        Self: 'a;

    async fn answer(&self, request: &Request<'_>) -> Response<Self::Content<'_>> {
        self.0.answer(request).await
    }

    fn refuse(&self, refusal: Refusal) -> Response<Self::Content<'_>> {
        self.0.refuse(refusal)
    }
}
