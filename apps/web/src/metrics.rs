//! What the server has done, in Prometheus' text format (version 0.0.4).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt::{self, Write};
use core::time::Duration;

use sarab::hal::Clock;
use sarab::network::Network;
use sarab::{App, platform, println};

use crate::counters::{Counters, ENDS};
use crate::disk::InUse;
use crate::pages::Host;

/// The machine that the server runs on.
pub struct Machine {
    pub app: App,
    pub network: Network,
    pub disk: InUse,
}

impl Host for Machine {
    fn now(&self) -> Duration {
        self.app.clock().now()
    }

    fn wall(&self) -> Duration {
        self.app.clock().wall()
    }

    fn print(&self, line: fmt::Arguments<'_>) {
        println!("{line}");
    }

    fn metrics(&self, counters: &Counters) -> String {
        // As much as it takes: a client that reads slowly holds it.
        let mut text = String::with_capacity(4 << 10);
        let mut show = |name: &str, kind: &str, help: &str, values: &[(&str, u64)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let answers = |class: usize| counters.answers[class].get();
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
        show("web_partial_answers_total", "counter", "Answers with parts of files.", &[("", counters.partial.get())]);
        show(
            "web_not_modified_total",
            "counter",
            "Requests for what the client has already.",
            &[("", counters.not_modified.get())],
        );
        let [connections, requests] = &counters.limited;
        show(
            "web_clients_limited_total",
            "counter",
            "Connections and requests refused to clients with too many.",
            &[("{what=\"connections\"}", connections.get()), ("{what=\"requests\"}", requests.get())],
        );
        let [written, missed] = &counters.lines;
        show(
            "web_log_lines_total",
            "counter",
            "Lines of the access log.",
            &[("{result=\"written\"}", written.get()), ("{result=\"missed\"}", missed.get())],
        );
        show("web_content_bytes_total", "counter", "Bytes of content sent.", &[("", counters.bytes.get())]);
        show("web_connections_total", "counter", "Connections accepted.", &[("", counters.connections.get())]);
        show("web_connections_open", "gauge", "Connections that are open.", &[("", counters.open.get())]);
        let labels = ENDS.map(|name| format!("{{how=\"{name}\"}}"));
        let ended: Vec<_> = labels.iter().map(|label| &**label).zip(counters.ended.iter().map(Cell::get)).collect();
        show("web_connections_ended_total", "counter", "Connections by how they have ended.", &ended);
        show(
            "web_handshakes_failed_total",
            "counter",
            "Clients that were gone before they were connected.",
            &[("", counters.handshakes.get())],
        );
        show("web_answers_cut_total", "counter", "Answers cut since the disk failed.", &[("", counters.cut.get())]);
        let net = self.network.interface.statistics();
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
        if let Some(disk) = &*self.disk.borrow() {
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
        if let Ok(store) = self.app.store() {
            show("store_watches", "gauge", "Watches of the store.", &[("", store.watches() as u64)]);
        }
        let memory = self.app.memory();
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
        show("uptime_seconds", "gauge", "Since the domain's start.", &[("", self.app.clock().now().as_secs())]);
        text
    }
}
