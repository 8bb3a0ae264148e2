//! What the gate's work costs: `xl sysrq gate w`, for whoever looks for what bounds it, such as `cargo xen bench`.

use alloc::rc::Rc;
use alloc::vec::Vec;

use sarab::platform;
use sarab::println;

use crate::gate::Gate;

impl Gate {
    /// Prints counters since the start, all in one line: of the machine, of the clients' interfaces together, and of the
    /// uplinks'.
    pub fn print_work(&self) {
        let machine = platform::counters();
        let clients = self.clients.borrow();
        let ports: Vec<_> = clients.all.values().map(|client| client.port.statistics()).collect();
        let wires = self.wires();
        let mut devices = wires.uplinks().collect::<Vec<_>>();
        // VLANs of one device.
        devices.dedup_by(|one, other| Rc::ptr_eq(one, other));
        let uplinks: Vec<_> = devices.iter().map(|device| device.statistics()).collect();
        println!(
            "gate: work: hypercalls={} sleeps={} polls={} events={} notifications={} timers={} allocations={} \
             client_in={} client_in_bytes={} client_out={} client_out_bytes={} client_copies={} client_operations={} \
             client_notifications={} uplink_in={} uplink_in_bytes={} uplink_copied={} uplink_out={} uplink_out_bytes={} uplink_granted={} \
             uplink_notifications={} uplink_events={} \
             client_refused={} client_dropped={} uplink_unsent={} uplink_refused={} uplink_dropped={} uplink_overflowed={} dropped={}",
            machine.hypercalls,
            machine.sleeps,
            machine.polls,
            machine.events,
            machine.notifications,
            machine.timers_set,
            machine.allocations,
            sum(&ports, |port| port.from_guest),
            sum(&ports, |port| port.from_guest_bytes),
            sum(&ports, |port| port.to_guest),
            sum(&ports, |port| port.to_guest_bytes),
            sum(&ports, |port| port.grant_copies),
            sum(&ports, |port| port.copy_operations),
            sum(&ports, |port| port.notifications),
            sum(&uplinks, |uplink| uplink.received),
            sum(&uplinks, |uplink| uplink.received_bytes),
            sum(&uplinks, |uplink| uplink.copied),
            sum(&uplinks, |uplink| uplink.sent),
            sum(&uplinks, |uplink| uplink.sent_bytes),
            sum(&uplinks, |uplink| uplink.granted),
            sum(&uplinks, |uplink| uplink.notifications),
            sum(&uplinks, |uplink| uplink.events),
            sum(&ports, |port| port.refused),
            sum(&ports, |port| port.dropped),
            sum(&uplinks, |uplink| uplink.unsent),
            sum(&uplinks, |uplink| uplink.refused),
            sum(&uplinks, |uplink| uplink.dropped),
            sum(&devices, |device| device.overflowed.get()),
            self.drops().map(|(_, count)| count).sum::<u64>(),
        );
    }
}

fn sum<T>(all: &[T], of: impl Fn(&T) -> u64) -> u64 {
    all.iter().map(of).sum()
}
