//! What the gate has done: on its console, and for Prometheus.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use core::fmt::Write;

use sarab::network::Stack;
use sarab::network::stack::tcp::TcpSocket;
use sarab::println;
use sarab::time::Duration;
use sarab_http::{Connection, Limits, Pool, Refusal, Request, Response, Service, Stop, Tcp, Text};
use sarab_router::flows::Flows;

use crate::gate::Gate;

/// Flows that are printed.
const MAX_PRINTED: usize = 40;
const HEAD: usize = 2048;
const CONNECTIONS: usize = 2;

impl Gate {
    /// Prints what there is: for a key of `xl sysrq`.
    pub fn print(&self) {
        self.status().lines().for_each(|line| println!("gate: {line}"));
    }

    /// What there is, in lines.
    pub fn status(&self) -> String {
        let mut text = String::with_capacity(4 << 10);
        let router = self.router.borrow();
        let done = router.statistics();
        let _ = writeln!(
            text,
            "{} flows of {} ({} begun, {} evicted), {} packets passed on ({} bytes), {} senders told",
            router.flows().len(),
            router.flows().capacity(),
            done.flows,
            router.flows().evicted,
            done.forwarded,
            done.forwarded_bytes,
            done.told
        );
        let drops: String =
            self.drops().filter(|(_, count)| *count > 0).fold(String::new(), |mut text, (name, count)| {
                let _ = write!(text, " {name} {count}");
                text
            });
        if let Some(first) = self.first_packet.get() {
            let _ = writeln!(text, "the first packet was passed on {} ms after the start", first.as_millis());
        }
        let _ = writeln!(text, "dropped:{}", if drops.is_empty() { " none" } else { &drops });
        for (id, name) in &*self.uplinks.borrow() {
            if let Some(link) = router.link(*id) {
                let _ = writeln!(text, "{name}: {}, {}", if link.is_up() { "up" } else { "down" }, link.addresses());
            }
        }
        for (id, client) in &self.clients.borrow().all {
            let done = client.port.statistics();
            let _ = writeln!(
                text,
                "client {}: {}, {} flows, {} packets from it, {} to it, {} dropped",
                client.name,
                if client.port.is_up() { "up" } else { "down" },
                router.flows().count_of(*id),
                done.from_guest,
                done.to_guest,
                router.dropped(*id)
            );
        }
        let state = self.firewall.0.borrow();
        for (id, rule) in state.config.rules.iter() {
            let count = state.counters.get(id);
            let _ = writeln!(text, "rule {}: {} flows: {rule}", id.number() + 1, count.flows);
        }
        for (_, flow) in router.flows().iter().take(MAX_PRINTED) {
            let [out, back] = flow.tuples.map(|tuple| tuple.endpoints);
            let _ = writeln!(
                text,
                "flow: protocol {} {}:{} to {}:{} as {}:{}, {} and {} packets{}",
                flow.tuples[0].protocol,
                out.source,
                out.source_port,
                back.source,
                back.source_port,
                back.destination,
                back.destination_port,
                flow.packets[0],
                flow.packets[1],
                flow.protocol.state().map(|state| format!(", {state:?}")).unwrap_or_default()
            );
        }
        let _ = writeln!(text, "names: {}", self.dns.counters());
        text
    }

    /// The same in Prometheus' text format (version 0.0.4).
    pub fn metrics(&self) -> String {
        let mut text = String::with_capacity(8 << 10);
        let router = self.router.borrow();
        let done = router.statistics();
        let mut one = |name: &str, kind: &str, help: &str, values: &[(String, u64)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let plain = |value: u64| [(String::new(), value)];
        one("gate_flows", "gauge", "Flows that are tracked.", &plain(router.flows().len() as u64));
        one("gate_flows_max", "gauge", "Flows that there may be.", &plain(router.flows().capacity() as u64));
        one("gate_flow_bytes", "gauge", "Memory of a flow, in bytes.", &plain(Flows::BYTES as u64));
        one("gate_flows_total", "counter", "Flows that have begun.", &plain(done.flows));
        one("gate_flows_evicted_total", "counter", "Flows that made room for others.", &plain(router.flows().evicted));
        one("gate_packets_total", "counter", "Packets passed on.", &plain(done.forwarded));
        one("gate_bytes_total", "counter", "Bytes of these packets.", &plain(done.forwarded_bytes));
        one("gate_told_total", "counter", "Messages of ICMP and resets sent.", &plain(done.told));
        let drops: vec::Vec<_> = self.drops().map(|(name, count)| (format!("{{reason=\"{name}\"}}"), count)).collect();
        one("gate_dropped_total", "counter", "Packets dropped.", &drops);
        let clients = self.clients.borrow();
        let of_clients = |value: &dyn Fn(&crate::clients::Client) -> u64| -> vec::Vec<_> {
            clients.all.values().map(|client| (format!("{{client=\"{}\"}}", client.name), value(client))).collect()
        };
        let up = of_clients(&|client| u64::from(client.port.is_up()));
        one("gate_client_up", "gauge", "Whether a client is connected.", &up);
        let from = of_clients(&|client| client.port.statistics().from_guest_bytes);
        one("gate_client_sent_bytes_total", "counter", "Bytes from a client.", &from);
        let to = of_clients(&|client| client.port.statistics().to_guest_bytes);
        one("gate_client_received_bytes_total", "counter", "Bytes to a client.", &to);
        let state = self.firewall.0.borrow();
        let rules: vec::Vec<_> = state
            .config
            .rules
            .iter()
            .map(|(id, rule)| {
                let rule = format!("{rule}").replace('\\', "\\\\").replace('"', "\\\"");
                (format!("{{number=\"{}\",rule=\"{rule}\"}}", id.number() + 1), state.counters.get(id).flows)
            })
            .collect();
        one("gate_rule_flows_total", "counter", "Flows that a rule was for.", &rules);
        if let Some(first) = self.first_packet.get() {
            let micros = first.as_micros() as u64;
            one(
                "gate_first_packet_microseconds",
                "gauge",
                "From the start to the first packet passed on.",
                &plain(micros),
            );
        }
        let memory = self.app.memory();
        one("gate_memory_free_bytes", "gauge", "Memory that is free.", &plain(memory.free));
        one("gate_memory_least_free_bytes", "gauge", "The least that was ever free.", &plain(memory.least_free));
        text
    }
}

struct Page(Rc<Gate>);

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
pub fn serve(gate: &Rc<Gate>, stack: Stack, port: u16) {
    let pool = Rc::new(Pool::new(CONNECTIONS));
    for _ in 0..CONNECTIONS {
        gate.app.spawn(connections(gate.clone(), stack, port, pool.clone())).detach();
    }
}

async fn connections(gate: Rc<Gate>, stack: Stack, port: u16, pool: Rc<Pool>) {
    let (mut head, mut incoming, mut outgoing) = (vec![0; HEAD], vec![0; HEAD], vec![0; 8 << 10]);
    let (stop, limits, page) = (Stop::new(), Limits::default(), Page(gate.clone()));
    loop {
        let mut socket = TcpSocket::new(stack, &mut incoming, &mut outgoing);
        socket.set_timeout(Some(Duration::from_secs(10)));
        if socket.accept(port).await.is_err() {
            return println!("gate: port {port} of the counters cannot be listened on");
        }
        let Some(seat) = pool.enter() else { continue };
        let connection = Connection {
            stream: &mut Tcp(&mut socket),
            buffer: &mut head,
            clock: gate.app.clock(),
            seat: &seat,
            stop: &stop,
            limits: &limits,
        };
        connection.serve(&page).await;
    }
}
