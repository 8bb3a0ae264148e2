//! The steps.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use xen_lab::Dom0;

use super::world::{DETACH, KV, SCRATCH, WEB, World, attach, site_disk};

/// Something that is done to the domains, after which all of them run again.
pub struct Action {
    pub name: &'static str,
    /// How often it is chosen beside the others.
    pub weight: u32,
    /// It ends `vault` or `switch`, and starts another one.
    pub is_new_domain: bool,
    pub run: fn(&mut World<'_>) -> Result<()>,
}

const fn action(name: &'static str, weight: u32, run: fn(&mut World<'_>) -> Result<()>) -> Action {
    Action { name, weight, is_new_domain: false, run }
}

pub const ACTIONS: [Action; 13] = [
    action("fetch", 8, fetch),
    action("keys", 8, keys),
    action("disk", 8, disk),
    action("interface", 6, interface),
    action("linux", 4, |world| world.linux_turns()),
    action("web-interface", 3, web_interface),
    action("web-disk", 3, web_disk),
    action("save", 3, save),
    action("migrate", 3, migrate),
    action("pause", 2, pause),
    action("kill-web", 2, kill_web),
    action("kill-kv", 2, kill_kv),
    Action { name: "kill-vault", weight: 1, is_new_domain: true, run: kill_vault },
];

/// What `--only` takes.
pub fn names() -> [&'static str; ACTIONS.len()] {
    ACTIONS.each_ref().map(|action| action.name)
}

pub fn named(name: &str) -> &'static Action {
    static ALL: [Action; 13] = ACTIONS;
    ALL.iter().find(|action| action.name == name).expect("one of the list")
}

/// Fetches some files, several at once.
fn fetch(world: &mut World<'_>) -> Result<()> {
    let mut jobs = String::new();
    let mut wanted = BTreeMap::new();
    for job in 0..1 + world.random.usize(0..6) {
        let (name, sum) = &world.site[world.random.usize(0..world.site.len())];
        jobs += &format!("wget -q -T 30 -O /tmp/fetched{job} http://{WEB}/{name} &\n");
        wanted.insert(format!("/tmp/fetched{job}"), sum.clone());
    }
    let said = world
        .lab
        .run(&format!("{jobs} wait; sha256sum /tmp/fetched*; cat /tmp/fetched* | wc -c; rm -f /tmp/fetched*"))?;
    for (file, sum) in &wanted {
        ensure!(said.contains(&format!("{sum}  {file}")), "{file} is not {sum}:\n{said}");
    }
    world.compared += said.lines().last().context("no size")?.trim().parse::<u64>()?;
    Ok(())
}

fn ask(world: &World<'_>, commands: &str) -> Result<String> {
    world.lab.run(&format!("printf '{commands}QUIT\\n' | timeout 60 nc {KV} 6379"))
}

/// Sets some keys, and reads all that were ever set.
fn keys(world: &mut World<'_>) -> Result<()> {
    let mut commands = String::new();
    for _ in 0..world.random.u32(0..8) {
        let (key, value) = (world.random.u32(0..50), world.random.u64(..));
        commands += &format!("SET key{key} {value}\\n");
        world.keys.insert(key, value);
    }
    if !commands.is_empty() {
        let said = ask(world, &commands)?;
        ensure!(said.matches("OK").count() > commands.matches("SET").count(), "{commands}: {said}");
    }
    let gets: String = world.keys.keys().map(|key| format!("GET key{key}\\n")).collect();
    if gets.is_empty() {
        return Ok(());
    }
    let said = ask(world, &gets)?;
    let found: Vec<&str> = said.lines().map(str::trim).filter(|line| line.parse::<u64>().is_ok()).collect();
    let expected: Vec<String> = world.keys.values().map(u64::to_string).collect();
    ensure!(found == expected, "expected {expected:?}: {said}");
    world.compared += expected.iter().map(|value| value.len() as u64).sum::<u64>();
    Ok(())
}

/// dom0 attaches a volume, compares what it wrote the last time, writes something else, and detaches it.
fn disk(world: &mut World<'_>) -> Result<()> {
    let said = world.lab.run(&format!(
        "{}\nhead -c {SIZE} /dev/xvdf | sha256sum\nhead -c {SIZE} /dev/urandom >/tmp/scratch
         dd if=/tmp/scratch of=/dev/xvdf bs=64k conv=fsync 2>/dev/null || exit 1
         sha256sum </tmp/scratch; rm /tmp/scratch\n{DETACH}",
        attach("scratch", SCRATCH),
        SIZE = 1 << 20
    ))?;
    let sums: Vec<&str> = said.lines().filter_map(|line| line.strip_suffix("  -")).collect();
    let &[found, written] = sums.as_slice() else { anyhow::bail!("{said}") };
    if let Some(expected) = &world.scratch {
        ensure!(found == expected, "the volume has other bytes: {found}, expected {expected}");
        world.compared += 1 << 20;
    }
    world.scratch = Some(written.to_owned());
    Ok(())
}

/// dom0 attaches an interface of the switch, and detaches it.
fn interface(world: &mut World<'_>) -> Result<()> {
    let mac = "00:16:3e:00:01:73";
    world.lab.run(&format!(
        "xl network-attach 0 backend=switch mac={mac} || exit 1; tries=500
         until card=$(grep -l {mac} /sys/class/net/*/address); do
           tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'no card'; exit 1; }}; usleep 20000
         done
         card=$(basename ${{card%/address}}); ifconfig $card up
         tries=500; until [ \"$(cat /sys/class/net/$card/carrier 2>/dev/null)\" = 1 ]; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'no carrier'; exit 1; }}; usleep 20000
         done
         xl network-detach 0 {mac} || exit 1; tries=500
         while [ -e /sys/class/net/$card ]; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo \"$card stays\"; exit 1; }}; usleep 20000
         done"
    ))?;
    Ok(())
}

/// `web` loses its interface while it is asked, and gets it back.
fn web_interface(world: &mut World<'_>) -> Result<()> {
    let name = world.site[world.random.usize(0..world.site.len())].0.clone();
    world.lab.run(&format!(
        "(while [ ! -f /tmp/enough ]; do timeout 5 wget -q -O /dev/null http://{WEB}/{name}; done) &
         devid=$(xl network-list web | awk 'NR == 2 {{ print $1 }}')
         xl network-detach web $devid || exit 1
         xl network-attach web bridge=xenbr0 mac=00:16:3e:00:01:71 || exit 1
         touch /tmp/enough; wait; rm -f /tmp/enough"
    ))?;
    wait_for_web(world)?;
    fetch(world)
}

/// Until the interface is up, and dom0 knows where it is.
fn wait_for_web(world: &World<'_>) -> Result<()> {
    let name = &world.site[0].0;
    world.lab.run(&format!(
        "tries=60; until timeout 5 wget -q -O /dev/null http://{WEB}/{name}; do
           tries=$((tries - 1)); [ $tries -gt 0 ] || {{ echo 'web does not answer'; exit 1; }}; usleep 200000
         done"
    ))?;
    Ok(())
}

fn web_disk(world: &mut World<'_>) -> Result<()> {
    world.lab.run(&format!("xl block-detach web xvda && xl block-attach web '{}'", site_disk()))?;
    wait_for_web(world)?;
    fetch(world)
}

/// What a guest of ours survives in the middle of an answer.
fn while_asked(world: &mut World<'_>, what: &str) -> Result<()> {
    let (name, sum) = world.site[world.random.usize(0..world.site.len())].clone();
    let said = world.lab.run(&format!(
        "(timeout 100 wget -q -O /tmp/meanwhile http://{WEB}/{name}; echo $? >/tmp/status) &
         {what}
         wait; cat /tmp/status; sha256sum </tmp/meanwhile; rm -f /tmp/meanwhile /tmp/status"
    ))?;
    ensure!(said.contains(&sum), "{name}, fetched meanwhile, is not {sum}:\n{said}");
    wait_for_web(world)?;
    fetch(world)
}

fn save(world: &mut World<'_>) -> Result<()> {
    while_asked(
        world,
        "timeout 100 xl save web /tmp/saved.img >/tmp/save.log 2>&1 && xl restore -e /tmp/saved.img >>/tmp/save.log 2>&1 || \
         { cat /tmp/save.log; exit 1; }; rm /tmp/saved.img",
    )
}

fn migrate(world: &mut World<'_>) -> Result<()> {
    while_asked(
        world,
        "timeout 100 xl migrate -s '' web 'xl migrate-receive' >/tmp/migrate.log 2>&1 || { cat /tmp/migrate.log; exit 1; }",
    )
}

fn pause(world: &mut World<'_>) -> Result<()> {
    while_asked(world, "for name in web vault kv; do xl pause $name; usleep 300000; xl unpause $name; done")?;
    keys(world)
}

fn kill_web(world: &mut World<'_>) -> Result<()> {
    world.lab.run("xl destroy web")?;
    world.start_web()?;
    wait_for_web(world)?;
    fetch(world)
}

/// What it has answered with OK is there.
fn kill_kv(world: &mut World<'_>) -> Result<()> {
    world.lab.run("xl destroy kv")?;
    world.start_kv()?;
    keys(world)
}

/// The vault is destroyed while its guests write, and they with it.
fn kill_vault(world: &mut World<'_>) -> Result<()> {
    world.lab.run("xl destroy vault; xl destroy kv; xl destroy linux")?;
    world.start_vault()?;
    world.start_kv()?;
    keys(world)?;
    world.start_linux()?;
    disk(world)
}
