//! What a guest's package says of itself: `[package.metadata.xen]` in its Cargo.toml.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xen_lab::xlfile::{Config, DEFAULT_MEMORY};

use crate::package::Packaging;

/// A guest's package.
#[derive(Clone, Debug)]
pub struct Package {
    pub folder: PathBuf,
    pub needs: Needs,
    pub version: String,
    /// The names of its features.
    pub features: Vec<String>,
    /// Cargo's target folder.
    pub target: PathBuf,
    /// Whether its workspace has a Cargo.lock.
    pub is_locked: bool,
}

/// What a guest needs of the toolstack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// In MiB.
    pub memory: u64,
    /// A network interface.
    pub net: bool,
    /// Disks, with that of the site.
    pub disks: usize,
    /// A folder that is packed as its first disk, and served on port 80.
    pub site: Option<PathBuf>,
    /// Bytes of a disk of its own, which is kept between its runs in the lab.
    pub disk: Option<u64>,
    /// Whether it runs backends for other guests.
    pub driver_domain: bool,
    /// What `cargo xen run` shows where nothing else is asked for.
    pub demo: Option<Demo>,
    /// What `cargo xen package` adds.
    pub packaging: Packaging,
}

/// A script that shows a guest at work in the lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demo {
    /// Runs in dom0 once the guest is ready.
    pub script: PathBuf,
    /// The guest's command line.
    pub arguments: String,
    /// A port of the guest at which pages are served when the script has ended.
    pub port: Option<u16>,
    /// Other guests, started before the script.
    pub guests: Vec<DemoGuest>,
}

/// A guest beside the one that is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoGuest {
    /// Its package.
    pub folder: PathBuf,
    /// Its command line.
    pub arguments: String,
    /// Lines of its xl file.
    pub xl: Vec<String>,
}

impl Default for Needs {
    fn default() -> Needs {
        Needs {
            memory: DEFAULT_MEMORY,
            net: false,
            disks: 0,
            site: None,
            disk: None,
            driver_domain: false,
            demo: None,
            packaging: Packaging::default(),
        }
    }
}

/// The program that has started this one, or the one on the path.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

impl Package {
    /// The package in this folder.
    pub fn read(folder: &Path) -> Result<Package> {
        let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
        let manifest = folder.join("Cargo.toml");
        let mut metadata = cargo();
        metadata.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(&folder);
        let output = metadata.stdin(Stdio::null()).output().context("cannot start cargo")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        let said: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
        let packages = said["packages"].as_array().map_or(&[][..], |packages| packages);
        let own = packages.iter().find(|package| package["manifest_path"].as_str().map(Path::new) == Some(&manifest));
        let own = own.with_context(|| format!("{} is not a package: no [package]", manifest.display()))?;
        let needs = Needs::parse(&own["metadata"]["xen"], &folder)
            .with_context(|| format!("{}: [package.metadata.xen]", manifest.display()))?;
        let features = own["features"].as_object().map(|features| features.keys().cloned().collect());
        let path = |key: &str| said[key].as_str().map(PathBuf::from).with_context(|| format!("cargo metadata: {key}"));
        Ok(Package {
            needs,
            version: own["version"].as_str().unwrap_or_default().to_owned(),
            features: features.unwrap_or_default(),
            target: path("target_directory")?,
            is_locked: path("workspace_root")?.join("Cargo.lock").is_file(),
            folder,
        })
    }

    /// The package that the current folder lies in.
    pub fn here() -> Result<Package> {
        let here = std::env::current_dir().context("the current folder")?;
        let is_package = |folder: &&Path| {
            let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
            manifest.parse::<toml_edit::DocumentMut>().is_ok_and(|manifest| manifest.contains_key("package"))
        };
        match here.ancestors().find(is_package) {
            Some(folder) => Package::read(folder),
            None => bail!("no Cargo package in {} or above it: name the guest", here.display()),
        }
    }

    /// The project's own xl file, where it has one.
    pub fn xl_file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.join(format!("{name}.cfg"))).filter(|path| path.is_file())
    }
}

impl Needs {
    /// From what Cargo read.
    pub fn parse(table: &Value, folder: &Path) -> Result<Needs> {
        let mut needs = Needs::default();
        let Some(table) = table.as_object() else {
            ensure!(table.is_null(), "expected a table");
            return Ok(needs);
        };
        for (key, value) in table {
            match key.as_str() {
                "memory" => {
                    needs.memory = value
                        .as_u64()
                        .filter(|memory| *memory > 0)
                        .with_context(|| format!("memory = {value}: expected a number of MiB"))?;
                }
                "net" => {
                    needs.net = value.as_bool().with_context(|| format!("net = {value}: expected true or false"))?;
                }
                "disks" => {
                    let disks = value.as_u64().filter(|disks| *disks <= 26);
                    needs.disks =
                        disks.with_context(|| format!("disks = {value}: expected a number up to 26"))? as usize;
                }
                "site" => {
                    let site = value.as_str().with_context(|| format!("site = {value}: expected a folder's name"))?;
                    needs.site = Some(folder.join(site));
                }
                "disk" => {
                    let bytes = value.as_str().and_then(size);
                    let expected = || format!("disk = {value}: expected a size, \"64M\" for instance");
                    needs.disk = Some(bytes.with_context(expected)?);
                }
                "driver-domain" => {
                    needs.driver_domain =
                        value.as_bool().with_context(|| format!("driver-domain = {value}: expected true or false"))?;
                }
                "demo" => needs.demo = Some(Demo::parse(value, folder)?),
                "package" => needs.packaging = Packaging::parse(value)?,
                unknown => {
                    bail!(
                        "unknown key `{unknown}`; expected memory, net, disks, site, disk, driver-domain, demo or package"
                    )
                }
            }
        }
        needs.disks = needs.disks.max(usize::from(needs.site.is_some()) + usize::from(needs.disk.is_some()));
        Ok(needs)
    }

    /// What an xl file says wherever the guest runs.
    pub fn plain_config(&self, name: &str, kernel: &str) -> Config {
        let mut config = Config::new(name, kernel);
        config.memory = self.memory;
        if self.driver_domain {
            config.extra.push("driver_domain = 1".to_owned());
        }
        config
    }

    /// An xl file for a Xen host, with paths as they may be there.
    pub fn config(&self, name: &str, kernel: &str) -> Config {
        let mut config = self.plain_config(name, kernel);
        if self.site.is_some() {
            config.disks.push("/srv/site.tar".to_owned());
        }
        for index in config.disks.len()..self.disks {
            config.disks.push(format!("/srv/{name}-{index}.img"));
        }
        if self.net {
            config.bridges.push("xenbr0".to_owned());
        }
        config
    }
}

impl Demo {
    fn parse(value: &Value, folder: &Path) -> Result<Demo> {
        let table = value.as_object().with_context(|| format!("demo = {value}: expected a table"))?;
        let (mut script, mut arguments, mut port, mut guests) = (None, String::new(), None, Vec::new());
        for (key, value) in table {
            match key.as_str() {
                "script" => {
                    let name =
                        value.as_str().with_context(|| format!("demo.script = {value}: expected a file's name"))?;
                    script = Some(folder.join(name));
                }
                "arguments" => {
                    let text = value.as_str();
                    text.with_context(|| format!("demo.arguments = {value}: expected a command line"))?
                        .clone_into(&mut arguments);
                }
                "port" => {
                    let number = value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
                    port = Some(number.with_context(|| format!("demo.port = {value}: expected a port"))?);
                }
                "guests" => {
                    let list = value
                        .as_array()
                        .with_context(|| format!("demo.guests = {value}: expected an array of tables"))?;
                    guests = list.iter().map(|guest| DemoGuest::parse(guest, folder)).collect::<Result<_>>()?;
                }
                unknown => bail!("demo: unknown key `{unknown}`; expected script, arguments, port or guests"),
            }
        }
        Ok(Demo { script: script.context("demo: missing `script`")?, arguments, port, guests })
    }
}

impl DemoGuest {
    fn parse(value: &Value, folder: &Path) -> Result<DemoGuest> {
        let table = value.as_object().with_context(|| format!("demo.guests = [{value}]: expected a table"))?;
        let text = |key: &str, value: &Value, expected: &str| {
            let text = value.as_str().map(str::to_owned);
            text.with_context(|| format!("demo.guests.{key} = {value}: expected {expected}"))
        };
        let (mut package, mut arguments, mut xl) = (None, String::new(), Vec::new());
        for (key, value) in table {
            match key.as_str() {
                "package" => package = Some(folder.join(text(key, value, "a package's folder")?)),
                "arguments" => arguments = text(key, value, "a command line")?,
                "xl" => {
                    let lines = value
                        .as_array()
                        .with_context(|| format!("demo.guests.xl = {value}: expected an array of lines"))?;
                    xl = lines.iter().map(|line| text(key, line, "a line of an xl file")).collect::<Result<_>>()?;
                }
                unknown => bail!("demo.guests: unknown key `{unknown}`; expected package, arguments or xl"),
            }
        }
        Ok(DemoGuest { folder: package.context("demo.guests: missing `package`")?, arguments, xl })
    }
}

/// Bytes of a size in MiB or GiB: `64M`, `1G`.
fn size(text: &str) -> Option<u64> {
    let unit = if text.ends_with('G') { 1 << 30 } else { 1 << 20 };
    let number: u64 = text.strip_suffix(['M', 'G'])?.parse().ok()?;
    number.checked_mul(unit).filter(|bytes| *bytes > 0 && *bytes <= i64::MAX as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Needs> {
        Needs::parse(&serde_json::from_str(text).unwrap(), Path::new("/p"))
    }

    #[test]
    fn what_a_package_needs_is_read() {
        assert_eq!(parse("null").unwrap(), Needs::default());
        let needs = parse(r#"{ "memory": 32, "net": true, "disks": 2, "site": "www" }"#).unwrap();
        let expected = Needs { memory: 32, net: true, disks: 2, site: Some("/p/www".into()), ..Needs::default() };
        assert_eq!(needs, expected);
        let config = needs.config("a", "/k");
        assert_eq!((config.memory, config.disks), (32, vec!["/srv/site.tar".to_owned(), "/srv/a-1.img".to_owned()]));
        assert_eq!(parse(r#"{ "site": "www" }"#).unwrap().disks, 1);
        let needs = parse(r#"{ "site": "www", "disk": "64M" }"#).unwrap();
        assert_eq!((needs.disk, needs.disks), (Some(64 << 20), 2));
    }

    #[test]
    fn a_driver_domain_and_its_demo_are_read() {
        let needs = parse(
            r#"{ "driver-domain": true, "demo": { "script": "demo.sh", "arguments": "a=b", "port": 80, "guests": [
                { "package": "../web", "arguments": "ip=10.0.0.9/24", "xl": ["vif = [\"backend=gate\"]"] },
                { "package": "other" } ] } }"#,
        )
        .unwrap();
        assert!(needs.driver_domain);
        let demo = needs.demo.as_ref().unwrap();
        assert_eq!((demo.script.as_path(), &*demo.arguments, demo.port), (Path::new("/p/demo.sh"), "a=b", Some(80)));
        let (web, other) = (&demo.guests[0], &demo.guests[1]);
        assert_eq!((web.folder.as_path(), web.arguments.as_str()), (Path::new("/p/../web"), "ip=10.0.0.9/24"));
        assert_eq!((&*web.xl, &*other.xl), (&["vif = [\"backend=gate\"]".to_owned()][..], &[][..]));
        assert!(needs.config("gate", "/k").text().unwrap().contains("\ndriver_domain = 1\n"));
        assert!(!Needs::default().config("gate", "/k").text().unwrap().contains("driver_domain"));
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, expected) in [
            (r#"{ "memory": 0 }"#, "memory = 0: expected a number of MiB"),
            (r#"{ "memory": "16M" }"#, "memory = \"16M\": expected a number of MiB"),
            (r#"{ "net": 1 }"#, "net = 1: expected true or false"),
            (r#"{ "disks": 27 }"#, "disks = 27: expected a number up to 26"),
            (r#"{ "disk": 64 }"#, "disk = 64: expected a size"),
            (r#"{ "disk": "0M" }"#, "disk = \"0M\": expected a size"),
            (r#"{ "disk": "9999999999999G" }"#, "expected a size"),
            (r#"{ "site": [] }"#, "site = []: expected a folder's name"),
            (r#"{ "network": true }"#, "unknown key `network`"),
            (r#"{ "driver-domain": 1 }"#, "driver-domain = 1: expected true or false"),
            (r#"{ "driver_domain": true }"#, "unknown key `driver_domain`"),
            (r#"{ "demo": "demo.sh" }"#, "demo = \"demo.sh\": expected a table"),
            (r#"{ "demo": {} }"#, "demo: missing `script`"),
            (r#"{ "demo": { "script": 1 } }"#, "demo.script = 1: expected a file's name"),
            (r#"{ "demo": { "file": "a" } }"#, "demo: unknown key `file`"),
            (r#"{ "demo": { "script": "a", "arguments": 1 } }"#, "demo.arguments = 1: expected a command line"),
            (r#"{ "demo": { "script": "a", "port": 70000 } }"#, "demo.port = 70000: expected a port"),
            (r#"{ "demo": { "script": "a", "port": "80" } }"#, "demo.port = \"80\": expected a port"),
            (r#"{ "demo": { "script": "a", "guests": {} } }"#, "demo.guests = {}: expected an array of tables"),
            (r#"{ "demo": { "script": "a", "guests": ["web"] } }"#, "demo.guests = [\"web\"]: expected a table"),
            (r#"{ "demo": { "script": "a", "guests": [{}] } }"#, "demo.guests: missing `package`"),
            (r#"{ "demo": { "script": "a", "guests": [{ "app": "web" }] } }"#, "demo.guests: unknown key `app`"),
            (r#"{ "demo": { "script": "a", "guests": [{ "package": 1 }] } }"#, "demo.guests.package = 1: expected a"),
            (
                r#"{ "demo": { "script": "a", "guests": [{ "arguments": [] }] } }"#,
                "demo.guests.arguments = []: expected a command line",
            ),
            (
                r#"{ "demo": { "script": "a", "guests": [{ "package": "b", "xl": "vif = []" }] } }"#,
                "demo.guests.xl = \"vif = []\": expected an array of lines",
            ),
            (
                r#"{ "demo": { "script": "a", "guests": [{ "package": "b", "xl": [1] }] } }"#,
                "demo.guests.xl = 1: expected a line of an xl file",
            ),
            ("3", "expected a table"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
