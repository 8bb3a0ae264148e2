//! What is in use while all domains run and nothing is being done: it is to be the same after each step.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xen_lab::Dom0;

use super::world::World;

/// How long what a step has left behind may take to go.
const PATIENCE: Duration = Duration::from_secs(30);
/// Nodes of the store that come and go by themselves: addresses, lines about devices.
const NODES: u64 = 24;
/// The hypervisor keeps some of what domains had, in its heap's pieces.
const HYPERVISOR: u64 = 8;
/// KiB that an appliance may keep: pages of buffers for each of two disks, and a piece of the heap that is in use in part.
const HEAP: u64 = 3 << 10;

pub struct Counters {
    /// Event channels of dom0.
    ports: u64,
    /// Nodes of the store.
    nodes: u64,
    /// What the hypervisor has left, in MiB.
    free: u64,
    /// What is free in `vault` and in `switch`, in KiB; not known of a new one.
    appliances: [Option<u64>; 2],
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counters { ports, nodes, free, appliances } = self;
        write!(
            f,
            "{ports} event channels, {nodes} nodes, {free} MiB free; KiB free in vault and switch: {appliances:?}"
        )
    }
}

impl Counters {
    pub fn take(world: &World<'_>) -> Result<Counters> {
        let number = |command: &str| -> Result<u64> {
            let text = world.lab.run(command)?;
            text.trim().parse().with_context(|| format!("{command}: {text}"))
        };
        let appliances = [world.free("vault")?, world.free("switch")?].map(Some);
        Ok(Counters {
            ports: number("lsevtchn 0 | wc -l")?,
            nodes: number("xenstore-ls | wc -l")?,
            free: number("xl info free_memory")?,
            appliances,
        })
    }

    /// Checks that things are as they were, or will be soon.
    pub fn compare(&mut self, world: &World<'_>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = Counters::take(world)?;
            let known = self.appliances.iter().zip(&now.appliances);
            let memory = known.clone().all(|(then, now)| then.is_none_or(|then| now.unwrap_or(0) + HEAP >= then));
            let same = now.ports == self.ports
                && now.nodes <= self.nodes + NODES
                && now.free + HYPERVISOR >= self.free
                && memory;
            if same {
                for (then, now) in self.appliances.iter_mut().zip(now.appliances) {
                    *then = (*then).or(now);
                }
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "something is left: at the beginning {self}; now {now}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    pub fn forget_memory(&mut self) {
        self.appliances = [None; 2];
    }
}
