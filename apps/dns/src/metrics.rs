//! What the server has done, in Prometheus' text format (version 0.0.4).

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt::Write;

use sarab::hal::Clock;
use sarab::network::Stack;
use sarab::network::stack::tcp::TcpSocket;
use sarab::println;
use sarab::time::Duration;
use sarab_dns::{KINDS, TYPES, Zone};
use sarab_http::{Connection, Limits, Pool, Refusal, Request, Response, Service, Stop, Tcp, Text};

use crate::server::Dns;

/// Zones that have lines of their own.
const MAX_ZONES: usize = 100;
const HEAD: usize = 2048;
const CONNECTIONS: usize = 2;

impl Dns {
    fn metrics(&self) -> String {
        let mut text = String::with_capacity(4 << 10);
        let mut show = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let plain = |value: u64| [(String::new(), value)];
        let labelled = |label: &str, names: &[&str], values: &[Cell<u64>]| -> Vec<(String, u64)> {
            names.iter().zip(values).map(|(name, value)| (format!("{{{label}=\"{name}\"}}"), value.get())).collect()
        };
        let done = &self.server.counters;
        let types: Vec<_> = TYPES.iter().map(|(_, name)| *name).chain(["other"]).collect();
        let by = |what, values| labelled("transport", what, values);
        show("dns_messages_total", "counter", "Messages from clients.", &by(&["udp", "tcp"], &done.messages));
        show("dns_queries_total", "counter", "Questions by type.", &labelled("type", &types, &done.types));
        show("dns_answers_total", "counter", "Answers by what they are.", &labelled("kind", &KINDS, &done.kinds));
        show("dns_truncated_total", "counter", "Answers that did not fit.", &plain(done.truncated.get()));
        show("dns_dnssec_total", "counter", "Questions that want DNSSEC.", &plain(done.dnssec.get()));
        show("dns_ignored_total", "counter", "Messages that are no questions.", &plain(done.ignored.get()));
        let limited = labelled("how", &["dropped", "slipped"], &done.limited);
        show("dns_limited_total", "counter", "Answers left out by the rate limit.", &limited);
        show("dns_transfers_total", "counter", "Zones transferred.", &plain(done.transfers.get()));
        let refused = plain(done.refused_transfers.get());
        show("dns_transfers_refused_total", "counter", "Transfers and notifications refused.", &refused);
        show("dns_notified_total", "counter", "Notifications taken.", &plain(done.notified.get()));
        let reloads = labelled("outcome", &["ok", "error"], &self.reloads);
        show("dns_reloads_total", "counter", "Times that zones were read.", &reloads);
        show("dns_connections_open", "gauge", "Connections by TCP.", &plain(self.open.get() as u64));
        let catalog = self.server.catalog();
        let zones = catalog.zones();
        show("dns_zones", "gauge", "Zones that are served.", &plain(zones.len() as u64));
        let each = |value: fn(&Zone) -> u64| -> Vec<(String, u64)> {
            let own = zones.iter().take(MAX_ZONES);
            // What a label may have in it, a quoted value may not (the text format's escapes).
            let name = |zone: &Zone| format!("{}", zone.name()).replace('\\', "\\\\").replace('"', "\\\"");
            own.map(|zone| (format!("{{zone=\"{}\"}}", name(zone)), value(zone))).collect()
        };
        show("dns_zone_serial", "gauge", "Serial numbers.", &each(|zone| zone.serial().into()));
        show("dns_zone_records", "gauge", "Records.", &each(|zone| zone.records() as u64));
        show("dns_zone_bytes", "gauge", "Memory that a zone takes.", &each(|zone| zone.memory() as u64));
        if let Some(network) = &*self.network.borrow() {
            let net = network.interface.statistics();
            let label = |direction: &str| format!("{{direction=\"{direction}\"}}");
            let frames = [(label("sent"), net.sent), (label("received"), net.received)];
            show("net_frames_total", "counter", "Frames of the network interface.", &frames);
            let dropped = [(label("sent"), net.unsent + net.refused), (label("received"), net.dropped)];
            show("net_dropped_total", "counter", "Frames that were lost at this end.", &dropped);
        }
        let memory = self.app.memory();
        let kinds = [("total", memory.total), ("free", memory.free), ("least_free", memory.least_free)];
        let kinds = kinds.map(|(kind, bytes)| (format!("{{kind=\"{kind}\"}}"), bytes));
        show("memory_bytes", "gauge", "The domain's memory.", &kinds);
        show("uptime_seconds", "gauge", "Since the domain's start.", &plain(self.app.clock().now().as_secs()));
        text
    }
}

struct Page(Rc<Dns>);

impl Service for Page {
    type Content<'a> = Text;

    async fn answer(&self, request: &Request<'_>) -> Response<Text> {
        match request.path {
            "/metrics" => Response::new(200, Text::new("text/plain; version=0.0.4", self.0.metrics())),
            _ => Response::new(404, Text::new("text/plain", "see /metrics\n")),
        }
    }

    fn refuse(&self, refusal: Refusal) -> Response<Text> {
        Response::new(refusal.status(), Text::new("text/plain", format!("{refusal}\n")))
    }
}

/// Serves the counters, on this port.
pub fn serve(dns: &Rc<Dns>, stack: Stack, port: u16) {
    let pool = Rc::new(Pool::new(CONNECTIONS));
    for _ in 0..CONNECTIONS {
        dns.app.spawn(connections(dns.clone(), stack, port, pool.clone())).detach();
    }
}

async fn connections(dns: Rc<Dns>, stack: Stack, port: u16, pool: Rc<Pool>) {
    let (mut head, mut incoming, mut outgoing) = (vec![0; HEAD], vec![0; HEAD], vec![0; 8 << 10]);
    let (stop, limits, page) = (Stop::new(), Limits::default(), Page(dns.clone()));
    loop {
        let mut socket = TcpSocket::new(stack, &mut incoming, &mut outgoing);
        socket.set_timeout(Some(Duration::from_secs(10)));
        if socket.accept(port).await.is_err() {
            return println!("dns: port {port} of the counters cannot be listened on");
        }
        let Some(seat) = pool.enter() else { continue };
        let connection = Connection {
            stream: &mut Tcp(&mut socket),
            buffer: &mut head,
            clock: dns.app.clock(),
            seat: &seat,
            stop: &stop,
            limits: &limits,
        };
        connection.serve(&page).await;
    }
}
