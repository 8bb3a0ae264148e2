//! What the server has done, in Prometheus' text format (version 0.0.4).

use alloc::string::String;
use core::cell::Cell;
use core::fmt::Write;

use sarab::hal::Clock;
use sarab::platform;

use crate::connection::Server;

/// Counters of the server's own.
#[derive(Default)]
pub struct Metrics {
    /// By the first digit of their status.
    answers: [Cell<u64>; 6],
    bytes: Cell<u64>,
    connections: Cell<u64>,
    open: Cell<u64>,
    cut: Cell<u64>,
}

fn add(counter: &Cell<u64>, value: u64) {
    counter.set(counter.get() + value);
}

impl Metrics {
    pub fn opened(&self) {
        add(&self.connections, 1);
        add(&self.open, 1);
    }

    pub fn closed(&self) {
        self.open.set(self.open.get() - 1);
    }

    pub fn answered(&self, status: u16) {
        add(&self.answers[usize::from(status / 100).min(5)], 1);
    }

    pub fn sent(&self, bytes: u64) {
        add(&self.bytes, bytes);
    }

    pub fn cut(&self) {
        add(&self.cut, 1);
    }

    /// In a line.
    pub fn summary(&self) -> String {
        let answers: u64 = self.answers.iter().map(Cell::get).sum();
        let (bytes, connections) = (self.bytes.get(), self.connections.get());
        alloc::format!("{answers} requests on {connections} connections, {bytes} bytes")
    }

    pub fn show(&self, server: &Server) -> String {
        let mut text = String::new();
        let mut show = |name: &str, kind: &str, help: &str, values: &[(&str, u64)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let answers = |class: usize| self.answers[class].get();
        show(
            "web_requests_total",
            "counter",
            "Requests by the class of their answer.",
            &[
                ("{status=\"2xx\"}", answers(2)),
                ("{status=\"3xx\"}", answers(3)),
                ("{status=\"4xx\"}", answers(4)),
                ("{status=\"5xx\"}", answers(5)),
            ],
        );
        show("web_content_bytes_total", "counter", "Bytes of content sent.", &[("", self.bytes.get())]);
        show("web_connections_total", "counter", "Connections accepted.", &[("", self.connections.get())]);
        show("web_connections_open", "gauge", "Connections that are open.", &[("", self.open.get())]);
        show("web_answers_cut_total", "counter", "Answers cut since the disk failed.", &[("", self.cut.get())]);
        let net = server.network.interface.statistics();
        show(
            "net_frames_total",
            "counter",
            "Frames of the network interface.",
            &[("{direction=\"sent\"}", net.sent), ("{direction=\"received\"}", net.received)],
        );
        show(
            "net_bytes_total",
            "counter",
            "Bytes of these frames.",
            &[("{direction=\"sent\"}", net.sent_bytes), ("{direction=\"received\"}", net.received_bytes)],
        );
        show(
            "net_dropped_total",
            "counter",
            "Frames that were lost at this end.",
            &[("{direction=\"sent\"}", net.unsent + net.refused), ("{direction=\"received\"}", net.dropped)],
        );
        show(
            "net_notifications_total",
            "counter",
            "Notifications of the rings.",
            &[("{direction=\"sent\"}", net.notifications), ("{direction=\"received\"}", net.events)],
        );
        if let Some(disk) = &server.disk {
            let disk = disk.statistics();
            show("disk_requests_total", "counter", "Requests to the disk.", &[("", disk.requests)]);
            show("disk_failures_total", "counter", "Requests that the disk has failed at.", &[("", disk.failures)]);
            show(
                "disk_notifications_total",
                "counter",
                "Notifications sent to the disk's backend.",
                &[("", disk.notifications)],
            );
        }
        let platform = platform::counters();
        show("xen_hypercalls_total", "counter", "Hypercalls.", &[("", platform.hypercalls)]);
        show("xen_events_total", "counter", "Events delivered.", &[("", platform.events)]);
        show("xen_sleeps_total", "counter", "Times that the processor was given back.", &[("", platform.sleeps)]);
        show("tasks_polled_total", "counter", "Times that a task was polled.", &[("", platform.polls)]);
        if let Ok(store) = server.app.store() {
            show("store_watches", "gauge", "Watches of the store.", &[("", store.watches() as u64)]);
        }
        let memory = server.app.memory();
        show(
            "memory_bytes",
            "gauge",
            "The domain's memory.",
            &[
                ("{kind=\"total\"}", memory.total),
                ("{kind=\"free\"}", memory.free),
                ("{kind=\"least_free\"}", memory.least_free),
            ],
        );
        show("uptime_seconds", "gauge", "Since the domain's start.", &[("", server.app.clock().now().as_secs())]);
        text
    }
}
