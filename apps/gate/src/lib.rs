//! A firewall and router: clients name it as the backend of their interfaces, and its own interfaces lead outside.
//!
//! What it teaches: netfront and netback in one domain, with large segments and open checksums passed from one to the other; a
//! library that knows nothing of Xen between them; and a configuration that changes while it runs.
//!
//! Its xl file says `driver_domain = 1` and has a vif for each uplink; a client's says
//! `vif = ["backend=gate,mac=00:16:3e:01:02:03"]`, perhaps with `ip=10.0.1.5`. `ip=`, `gw=`, `dns=`, `ip6=` and `gw6=` are the
//! first uplink's addresses, `vif1.ip=` another's; `vif0.vlans=5,7` has networks on a trunk, whose addresses are
//! `vif0.5.ip=`. `rules=` names a module, a disk (`xvda`), or has the rules themselves, with `;` between lines; the store's
//! `data/gate/rules` replaces them at any time. `flows=10000` are tracked at once, as far as memory allows; `metrics=9100` has
//! counters in Prometheus' form, for whom the rules let there. `xl sysrq gate g` prints flows, clients and counters.

#![no_std]

extern crate alloc;

mod clients;
mod firewall;
mod gate;
mod generation;
mod local;
mod names;
mod provider;
#[cfg(feature = "qubes")]
mod qubes;
mod random;
mod sources;
mod status;
mod uplink;
mod wires;
mod work;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::pin::pin;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use sarab::hal::Clock;
use sarab::network::back::{Limits, Port};
use sarab::network::{NetworkEvent, config};
use sarab::{App, FromArg, bail, println};
use sarab_router::flows::Flows;
use sarab_router::services::dns;
use sarab_router::{Nat, Router, Settings};

use clients::Clients;
use firewall::Firewall;
use gate::Gate;
use generation::Generation;
use random::Random;

const KEYS: &[&str] = &[
    "ip",
    "gw",
    "ip6",
    "gw6",
    "dns",
    "rules",
    "flows",
    "metrics",
    #[cfg(feature = "qubes")]
    "qubes",
    #[cfg(feature = "qubes")]
    "clients",
];
const UPLINK_KEYS: [&str; 6] = ["ip", "gw", "ip6", "gw6", "dns", "vlans"];
/// Flows that may be asked for.
const MAX_FLOWS: usize = 1 << 20;

/// What the guest does.
#[cfg_attr(feature = "guest", sarab::main)]
pub async fn main(app: App) -> sarab::Result {
    check_keys(app)?;
    let flows = app.args().get_or("flows", 10_000)?.clamp(16, MAX_FLOWS);
    // A quarter of what is free: the rest is for packets.
    let affordable = app.memory().free as usize / 4 / Flows::BYTES;
    if affordable < flows {
        println!("gate: flows={flows}: there is memory for {affordable}");
    }
    // Flows come one by one, and so do names (below).
    app.keep_memory((flows.min(affordable) * Flows::BYTES) as u64 + app.memory().free / 32);
    let mut random = Random::new(app)?;
    let (seed, stack_seed) = (random.next(), random.next());
    let firewall = Firewall::default();
    let settings = Settings {
        flows: flows.min(affordable),
        local: [local::ADDRESS_V4.into(), local::ADDRESS_V6.into()],
        random: Box::new(random.source()),
    };
    let router = Router::new(settings, firewall.clone(), Nat::default());
    let queues = Rc::<local::Queues>::default();
    let (stack, runner) = local::stack(queues.clone(), stack_seed);
    app.spawn(runner).detach();
    let dns = dns::Forwarder::new(stack, dns_limits(app), random.source());
    let gate = Rc::new(Gate::new(app, router, firewall, queues.clone(), (stack, dns), Clients::new(seed)));
    app.spawn(local::serve(gate.clone(), queues)).detach();

    let source = Source::start(&gate, &random).await?;
    app.spawn(names::serve(gate.clone(), app.resolver(stack))).detach();
    if let Some(port) = app.args().get::<u16>("metrics")? {
        status::serve(&gate, stack, port);
    }
    app.spawn(gate.clone().run()).detach();
    app.spawn(serve_names(gate.clone())).detach();
    app.spawn(serve_uplinks(gate.clone(), source)).detach();
    let shown = gate.clone();
    app.on_sysrq('g', move || shown.print());
    let shown = gate.clone();
    app.on_sysrq('w', move || shown.print_work());

    println!("gate: ready");
    let opened = |port: Port| {
        app.spawn(clients::serve(gate.clone(), Rc::new(port))).detach();
        Ok(())
    };
    let limits = Limits::default().with_pages(wires::packet_pages(app));
    let serving = app.serve_interfaces(limits, opened);
    match select(pin!(serving), pin!(app.shutdown())).await {
        Either::Left((Err(error), _)) => Err(error.into()),
        Either::Right((request, _)) => {
            gate.cease();
            // The last frames have to leave before the interfaces go.
            app.clock().sleep(core::time::Duration::from_millis(20)).await;
            println!("gate: asked to {request}");
            Ok(())
        }
    }
}

/// Who says what networks and rules there are.
#[derive(Clone)]
enum Source {
    /// The command line, with a text of rules, and the store.
    Arguments,
    #[cfg(feature = "qubes")]
    Qubes(Rc<qubes::Qubes>),
}

impl Source {
    async fn start(gate: &Rc<Gate>, random: &Random) -> sarab::Result<Source> {
        let app = gate.app;
        #[cfg(feature = "qubes")]
        if qubes::is_wanted(app)? {
            return Ok(Source::Qubes(qubes::start(gate, random.clone())?));
        }
        let _ = random;
        let first = sources::first(app).await?;
        if let Err(error) = sources::apply(gate, &first.0, &first.1) {
            bail!("{error}");
        }
        let following = gate.clone();
        let follow = async move {
            if let Err(error) = sources::follow(following, first).await {
                println!("gate: {}: {error}", sources::KEY);
            }
        };
        app.spawn(follow).detach();
        Ok(Source::Arguments)
    }

    /// Serves an interface of this domain's.
    async fn serve(self, gate: Rc<Gate>, name: String) {
        match self {
            Source::Arguments => match uplinks(gate.app, &name) {
                Ok(networks) => uplink::serve(gate, name, |_| networks.clone()).await,
                Err(error) => println!("gate: {name}: {error}"),
            },
            #[cfg(feature = "qubes")]
            Source::Qubes(qubes) => {
                qubes.ready().await;
                uplink::serve(gate, name.clone(), |mac| [qubes.network(&name, mac)].into()).await;
            }
        }
    }
}

/// Names of clients and others, for clients and the rules' names.
async fn serve_names(gate: Rc<Gate>) {
    let Err(error): Result<Infallible, _> = gate.dns.run().await;
    println!("gate: names are not answered: {error:?}");
}

/// Each interface of this domain is an uplink, from its coming to its going.
async fn serve_uplinks(gate: Rc<Gate>, source: Source) {
    let mut events = match gate.app.networks().await {
        Ok(events) => pin!(events),
        Err(error) => return println!("gate: {error}"),
    };
    let mut arrivals = BTreeMap::<String, Rc<Generation>>::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(NetworkEvent::Arrived(name)) => {
                let known = arrivals.get(&*name).cloned();
                let arrived = known.clone().unwrap_or_default();
                arrived.advance();
                if known.is_none() {
                    arrivals.insert(name.clone().into(), arrived.clone());
                    let (gate, source) = (gate.clone(), source.clone());
                    gate.app.spawn(serve_uplink(gate.clone(), source, name.into(), arrived)).detach();
                }
            }
            Ok(_) => {}
            Err(error) => return println!("gate: device/vif: {error}"),
        }
    }
}

/// One of them. One that comes again before anybody has seen it go is served on.
async fn serve_uplink(gate: Rc<Gate>, source: Source, name: String, arrived: Rc<Generation>) {
    loop {
        let seen = arrived.get();
        source.clone().serve(gate.clone(), name.clone()).await;
        arrived.after(seen).await;
    }
}

/// VLANs of a trunk.
struct Vlans(Vec<u16>);

impl FromArg for Vlans {
    const EXPECTED: &'static str = "numbers of VLANs from 1 to 4094 such as 5,7";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        let vlan = |text: &str| text.parse().ok().filter(|vlan| (1..=4094).contains(vlan));
        value?.split(',').map(vlan).collect::<Option<Vec<u16>>>().map(Vlans)
    }
}

/// The networks on an interface, by the command line.
fn uplinks(app: App, name: &str) -> sarab::Result<Vec<uplink::Network>> {
    let number = name.strip_prefix("vif/").unwrap_or(name);
    let own = format!("vif{number}.");
    let mut networks = Vec::new();
    let Vlans(vlans) = app.args().get_or(&format!("{own}vlans"), Vlans(Vec::new()))?;
    // The first one's keys go without its name as well.
    let has_own = app.args().iter().any(|(key, _)| key.starts_with(&own) && !key.ends_with("vlans"));
    let prefix = if number == "0" && !has_own { String::new() } else { own.clone() };
    let plain = config(&app.args(), &prefix)?;
    if vlans.is_empty() || app.args().iter().any(|(key, _)| key == format!("{prefix}ip")) {
        networks.push(uplink::Network { vlan: None, config: plain, name: name.into() });
    }
    for vlan in vlans {
        let config = config(&app.args(), &format!("{own}{vlan}."))?;
        networks.push(uplink::Network { vlan: Some(vlan), config, name: format!("{name}.{vlan}") });
    }
    Ok(networks)
}

/// A mistyped key should not be ignored.
fn check_keys(app: App) -> sarab::Result {
    for (key, value) in app.args().iter() {
        let is_uplinks = key.strip_prefix("vif").and_then(|rest| rest.split_once('.')).is_some_and(|(number, rest)| {
            let rest =
                rest.split_once('.').map_or(rest, |(vlan, rest)| if vlan.parse::<u16>().is_ok() { rest } else { vlan });
            number.parse::<u32>().is_ok() && UPLINK_KEYS.contains(&rest)
        });
        if !KEYS.contains(&key) && !is_uplinks {
            let value = value.map(|value| format!("={value}")).unwrap_or_default();
            bail!(
                "command line: `{key}{value}`: unknown; known are {}, and vifN.{}",
                KEYS.join(", "),
                UPLINK_KEYS.join(", vifN.")
            );
        }
    }
    Ok(())
}

/// A part of the memory for answers that are remembered.
fn dns_limits(app: App) -> dns::Config {
    let mut limits = dns::Config::default();
    limits.cache_bytes = limits.cache_bytes.min(app.memory().free as usize / 32);
    limits
}
