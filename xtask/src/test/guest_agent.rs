//! What toolstacks see of a guest, read as XAPI reads it (xen-api, ocaml/xapi/xapi_guest_agent.ml).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Fixture;
use super::checks::Check;
use super::net::{log, start_with};
use xen_lab::Dom0;
use xen_lab::domain::Domain;

pub const ALL: &[(&str, Check)] = &[("guest agent: what XAPI shows, changed, restored", seen)];

/// With oxenstored, which XAPI's hosts have.
pub const WITH_OTHER_SERVER: &[(&str, Check)] = &[("guest agent: what XAPI shows, changed, restored", seen)];

/// A domain's directory of the store: all keys with their values.
type Keys = BTreeMap<String, String>;

fn keys(domain: &Domain<'_>) -> Result<Keys> {
    let home = format!("/local/domain/{}/", domain.id);
    let text = domain.lab().run(&format!("xenstore-ls -f /local/domain/{}", domain.id))?;
    let pairs = text.lines().filter_map(|line| line.split_once(" = "));
    Ok(pairs
        .filter_map(|(path, value)| Some((path.strip_prefix(&home)?.to_owned(), value.trim_matches('"').to_owned())))
        .collect())
}

/// What XAPI makes of it: the fields of the class `VM_guest_metrics`.
#[derive(Debug, Default, PartialEq)]
struct Metrics {
    pv_drivers_version: Keys,
    os_version: Keys,
    networks: Keys,
    memory: Keys,
    other: Keys,
    are_paths_optimized: bool,
}

/// The names below a path.
fn list<'a>(keys: &'a Keys, path: &str) -> Vec<&'a str> {
    let prefix = format!("{path}/");
    let mut names: Vec<_> = keys.keys().filter_map(|key| key.strip_prefix(&prefix)?.split('/').next()).collect();
    names.dedup();
    names
}

/// As XAPI does; nothing where `data/updated` is missing, since it does not look then.
fn metrics(keys: &Keys) -> Option<Metrics> {
    keys.get("data/updated")?;
    let map = |pairs: &[(&str, &str)]| -> Keys {
        pairs.iter().filter_map(|(path, name)| Some(((*name).to_owned(), keys.get(*path)?.clone()))).collect()
    };
    let mut pv_drivers_version = map(&[
        ("attr/PVAddons/MajorVersion", "major"),
        ("attr/PVAddons/MinorVersion", "minor"),
        ("attr/PVAddons/MicroVersion", "micro"),
        ("attr/PVAddons/BuildVersion", "build"),
    ]);
    pv_drivers_version.entry("micro".into()).or_insert("-1".into());
    let os_version = map(&[
        ("data/os_name", "name"),
        ("data/os_uname", "uname"),
        ("data/os_distro", "distro"),
        ("data/os_majorver", "major"),
        ("data/os_minorver", "minor"),
    ]);
    let mut networks = Keys::new();
    for vif in list(keys, "attr/vif") {
        for family in ["ipv4", "ipv6"] {
            let path = format!("attr/vif/{vif}/{family}");
            let mut numbers = list(keys, &path);
            // Numbers alone: with anything else among them, the interface has no addresses.
            if numbers.iter().any(|number| number.parse::<u32>().is_err()) {
                continue;
            }
            numbers.sort_by_key(|number| number.parse::<u32>().unwrap_or(0));
            for (at, number) in numbers.iter().enumerate() {
                let Some(address) = keys.get(&format!("{path}/{number}")) else { continue };
                networks.insert(format!("{vif}/{family}/{number}"), address.clone());
                if (family, at) == ("ipv4", 0) {
                    networks.insert(format!("{vif}/ip"), address.clone());
                }
            }
        }
    }
    let connected = |class: &str| {
        list(keys, class).iter().all(|device| {
            let key = |name: &str| keys.get(&format!("{class}/{device}/{name}")).map(String::as_str);
            key("state") == Some("4") || key("device-type") == Some("cdrom")
        })
    };
    let other = list(keys, "control").into_iter().filter_map(|name| {
        let value = keys.get(&format!("control/{name}"))?;
        Some((name.to_owned(), value.clone()))
    });
    Some(Metrics {
        pv_drivers_version,
        os_version,
        networks,
        memory: map(&[("data/meminfo_free", "free"), ("data/meminfo_total", "total")]),
        other: other.collect(),
        are_paths_optimized: connected("device/vif") && connected("device/vbd"),
    })
}

/// Waits until XAPI would show something.
fn wait(f: &Fixture, domain: &Domain<'_>, what: &str, is_it: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = metrics(&keys(domain)?);
        match found {
            Some(metrics) if is_it(&metrics) => {
                let text = domain.console()?;
                ensure!(!text.contains("guest agent: "), "{text}");
                return Ok(metrics);
            }
            _ if Instant::now() > deadline => bail!("{what}: XAPI would show {found:#?}\n{}", log(f, domain)),
            _ => {}
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn seen(f: &Fixture) -> Result<String> {
    const MAC: &str = "00:16:3e:00:00:d5";
    const ADDRESS: &str = "10.0.2.213";
    let vif = format!("vif = [\"bridge=xenbr0,mac={MAC}\"]");
    let (web, _) = start_with(f, "agent", &format!("ip={ADDRESS}/24 ip6=fd00::d5/64"), &vif)?;
    let both = |metrics: &Metrics| {
        let network = |key: &str, value: &str| metrics.networks.get(key).map(String::as_str) == Some(value);
        network("0/ip", ADDRESS) && network("0/ipv4/0", ADDRESS) && network("0/ipv6/0", "fd00::d5")
    };
    let first = wait(f, &web, "at the start", |metrics| both(metrics) && metrics.are_paths_optimized)?;
    ensure!(first.networks.len() == 3, "{first:?}");
    ensure!(first.pv_drivers_version.values().all(|part| part.parse::<u32>().is_ok()), "{first:?}");
    ensure!(first.pv_drivers_version.len() == 4 && first.os_version.len() == 5, "{first:?}");
    for feature in ["poweroff", "reboot", "suspend"] {
        let value = first.other.get(&format!("feature-{feature}"));
        ensure!(value.is_some_and(|value| value == "1"), "control/feature-{feature}: {first:?}");
    }
    let all = keys(&web)?;
    ensure!(!all.contains_key("data/cant_suspend_reason"), "it cannot be suspended: {all:?}");
    for (key, expected) in [
        ("attr/PVAddons/Installed", "1"),
        ("attr/vif/0/ipv4/0/prefix", "24"),
        ("attr/vif/0/ipv6/0/prefix", "64"),
        ("feature/hotplug/vif", "1"),
        ("feature/hotplug/vbd", "1"),
        ("data/meminfo_total", "16384"),
    ] {
        ensure!(all.get(key).is_some_and(|value| value == expected), "{key}: {:?}", all.get(key));
    }
    let free: u64 = all.get("data/meminfo_free").context("data/meminfo_free")?.parse()?;
    ensure!(free > 0 && free < 16384, "{free} KiB free");

    f.lab.run("xl network-detach agent 0")?;
    wait(f, &web, "its interface was taken away", |metrics| metrics.networks.is_empty())?;
    f.lab.run(&format!("xl network-attach agent bridge=xenbr0 mac={MAC}"))?;
    wait(f, &web, "it was given back", |metrics| both(metrics) && metrics.are_paths_optimized)?;

    f.lab.run(
        "timeout 120 xl save agent /tmp/agent.img >/tmp/agent.log 2>&1 && xl restore -e /tmp/agent.img >>/tmp/agent.log 2>&1 || \
           { cat /tmp/agent.log; exit 1; }
         rm /tmp/agent.img",
    )?;
    let id = f.lab.run("xl domid agent")?.trim().parse()?;
    let web = web.with_id(id);
    let restored = wait(f, &web, "it was restored", |metrics| both(metrics) && metrics.are_paths_optimized)?;
    let same =
        |metrics: &Metrics| (metrics.pv_drivers_version.clone(), metrics.os_version.clone(), metrics.networks.clone());
    ensure!(same(&restored) == same(&first), "before {first:?}, restored {restored:?}");
    Ok(format!("{} {:?}", first.os_version["name"], first.networks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Keys {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn it_is_read_as_xapi_reads_it() {
        let mut keys = of(&[
            ("attr/vif/0/ipv4/2", "10.0.0.3"),
            ("attr/vif/0/ipv4/2/prefix", "24"),
            ("attr/vif/0/ipv4/10", "10.0.0.4"),
            ("attr/vif/1/ipv4/first", "10.0.0.5"),
            ("control/feature-suspend", "1"),
            ("device/vbd/51712/state", "6"),
        ]);
        assert!(metrics(&keys).is_none());
        keys.insert("data/updated".into(), String::new());
        let found = metrics(&keys).unwrap();
        let expected = of(&[("0/ip", "10.0.0.3"), ("0/ipv4/2", "10.0.0.3"), ("0/ipv4/10", "10.0.0.4")]);
        assert_eq!(found.networks, expected);
        assert_eq!(found.pv_drivers_version, of(&[("micro", "-1")]));
        assert_eq!(found.other, of(&[("feature-suspend", "1")]));
        assert!(!found.are_paths_optimized);
        keys.insert("device/vbd/51712/device-type".into(), "cdrom".into());
        assert!(metrics(&keys).unwrap().are_paths_optimized);
    }
}
