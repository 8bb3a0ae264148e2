//! HTTPS: what the arguments say, connections, and what is answered on both ports.

mod certificates;
mod stream;

use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use core::cell::RefCell;
use core::pin::pin;

use futures_util::future::{Either, select};
use sarab::hal::Clock;
use sarab::network::stack::tcp::TcpSocket;
use sarab::ring::WaitQueue;
use sarab::time::{Duration, with_timeout};
use sarab::{App, Disk, bail};
use sarab_http::{Connection, Refusal, Request, Response, Service, Tcp};

use crate::connection::{HANDSHAKE, INCOMING, REQUEST, Server};
use crate::pages::Pages;
use stream::Secure;

/// Connections, where nothing else is said: each takes some memory.
pub const CONNECTIONS: usize = 64;
/// What a connection takes for TLS: records on both ways, keys, and a handshake's memory.
pub const MEMORY: usize = 64 << 10;
/// Longest record that is sent.
const RECORD: usize = 8 << 10;
/// For a client to come to the end of TLS' handshake.
const TLS_HANDSHAKE: Duration = Duration::from_secs(10);
/// What authorities ask for to find out whose a name is (RFC 8555 section 8.3): without TLS.
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// HTTPS as the arguments have it, and the certificates as soon as there are some.
pub struct Tls {
    port: u16,
    /// Whoever comes without TLS is sent here.
    redirect: bool,
    /// Seconds for which clients shall use nothing else (RFC 6797).
    hsts: Option<u64>,
    server: RefCell<Option<Rc<sarab_tls::Server>>>,
    changed: WaitQueue,
}

/// What the arguments say. A task of its own keeps the certificates.
pub fn from_args(app: App, http: u16) -> sarab::Result<Option<Rc<Tls>>> {
    let args = app.args();
    let Some(port) = args.get::<u16>("https")? else {
        if let Some((name, _)) = args.iter().find(|(name, _)| ["cert", "redirect", "hsts"].contains(name)) {
            bail!("argument {name}: it needs https=443, which says that there is HTTPS");
        }
        return Ok(None);
    };
    if port == 0 || port == http {
        bail!("argument https={port}: another port than that of HTTP is needed, {http}");
    }
    let Some(source) = args.get::<&str>("cert")? else {
        bail!(
            "argument https: it needs cert=xvdb, a disk with tls.pem on it, or cert=module, a file that ramdisk= names"
        );
    };
    let tls = Rc::new(Tls {
        port,
        redirect: args.get_or("redirect", false)?,
        hsts: args.get("hsts")?,
        server: RefCell::default(),
        changed: WaitQueue::new(),
    });
    match source {
        "module" => certificates::from_module(app, &tls)?,
        disk => app.spawn(certificates::keep(app, tls.clone(), disk)).detach(),
    }
    Ok(Some(tls))
}

impl Tls {
    /// Waits until there are certificates.
    async fn server(&self) -> Rc<sarab_tls::Server> {
        self.changed.wait_until(|| self.server.borrow().clone()).await
    }
}

/// Serves one connection after the other with TLS, until the domain is to end.
pub async fn serve(server: Rc<Server>) {
    let Some(tls) = server.tls.clone() else { return };
    let secure = match select(pin!(tls.server()), pin!(server.stop.wait())).await {
        Either::Left((secure, _)) => secure,
        Either::Right(_) => return,
    };
    let mut request = vec![0; REQUEST];
    let (mut incoming, mut outgoing) = (vec![0; INCOMING], vec![0; server.outgoing]);
    while !server.stop.is_set() {
        let mut socket = TcpSocket::new(server.network.stack, &mut incoming, &mut outgoing);
        socket.set_nagle_enabled(false);
        socket.set_timeout(Some(HANDSHAKE));
        match select(pin!(socket.accept(tls.port)), pin!(server.stop.wait())).await {
            Either::Left((Ok(()), _)) => {}
            Either::Left((Err(_), _)) | Either::Right(_) => return,
        }
        if !socket.may_send() {
            server.pages.counters.gave_up();
            continue;
        }
        socket.set_keep_alive(Some(Duration::from_secs(30)));
        socket.set_timeout(Some(Duration::from_secs(45)));
        let seat = server.pool.enter().expect("there are as many places as tasks");
        let handshake = with_timeout(TLS_HANDSHAKE, Box::pin(secure.accept(Tcp(&mut socket))));
        let handshake = seat.wait_since(server.app.clock().now(), handshake);
        let stream = match select(pin!(handshake), pin!(server.stop.wait())).await {
            Either::Left((Some(Ok(Ok(stream))), _)) => Some(stream),
            // Refused, too slow, in the way of others; or the server stops.
            Either::Left((Some(Ok(Err(_)) | Err(_)) | None, _)) | Either::Right(_) => None,
        };
        let Some(stream) = stream else {
            server.pages.counters.gave_up();
            // An alert is still to leave.
            socket.close();
            let _ = with_timeout(Duration::from_secs(1), socket.flush()).await;
            continue;
        };
        server.pages.counters.opened();
        let connection = Connection {
            stream: &mut Secure::new(stream),
            buffer: &mut request,
            clock: server.app.clock(),
            seat: &seat,
            stop: &server.stop,
            limits: &server.limits,
        };
        let ended = Box::pin(connection.serve(&Site { pages: &server.pages, tls: Some(&tls), secure: true })).await;
        server.pages.counters.closed(ended);
    }
}

/// What is answered, on either port.
pub struct Site<'a> {
    pages: &'a Pages<Disk>,
    tls: Option<&'a Tls>,
    secure: bool,
}

/// What is answered without TLS.
pub fn plain(server: &Server) -> Site<'_> {
    Site { pages: &server.pages, tls: server.tls.as_deref(), secure: false }
}

impl Service for Site<'_> {
    type Content<'a>
        = <Pages<Disk> as Service>::Content<'a>
    where
        Self: 'a;

    async fn answer(&self, request: &Request<'_>) -> Response<Self::Content<'_>> {
        match self.tls {
            Some(tls) if self.secure => {
                let answer = self.pages.answer(request).await;
                match tls.hsts {
                    Some(seconds) => answer.with("Strict-Transport-Security", format!("max-age={seconds}")),
                    None => answer,
                }
            }
            Some(tls) if tls.redirect && !request.path.starts_with(CHALLENGES) => {
                let place = request.fields.one("host").and_then(|host| place(host, tls.port, request));
                let answer = match place {
                    Some(place) => Response::new(308, None).with("Location", place),
                    // HTTP/1.0 need not say whom it means.
                    None => Response::new(400, None),
                };
                self.pages.counters.answered(answer.status);
                answer
            }
            _ => self.pages.answer(request).await,
        }
    }

    fn refuse(&self, refusal: Refusal) -> Response<Self::Content<'_>> {
        self.pages.refuse(refusal)
    }
}

/// The same page with HTTPS. The host is what the client says; a name or an address it has to be.
fn place(host: &str, port: u16, request: &Request<'_>) -> Option<String> {
    let name = match host.rfind(':') {
        // Not within an IPv6 address.
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    };
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b".-_[]:".contains(&byte);
    if name.is_empty() || !name.bytes().all(known) {
        return None;
    }
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
    Some(format!("https://{name}{port}{}{query}", request.path))
}
