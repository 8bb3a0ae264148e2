//! What a guest's package says of itself: `[package.metadata.xen]` in its Cargo.toml.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xen_lab::xlfile::{Config, DEFAULT_MEMORY};

/// A guest's package.
#[derive(Clone, Debug)]
pub struct Package {
    pub folder: PathBuf,
    pub needs: Needs,
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
}

impl Default for Needs {
    fn default() -> Needs {
        Needs { memory: DEFAULT_MEMORY, net: false, disks: 0, site: None }
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
        Ok(Package { folder, needs })
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
                unknown => bail!("unknown key `{unknown}`; expected memory, net, disks or site"),
            }
        }
        needs.disks = needs.disks.max(usize::from(needs.site.is_some()));
        Ok(needs)
    }

    /// An xl file for a Xen host, with paths as they may be there.
    pub fn config(&self, name: &str, kernel: &str) -> Config {
        let mut config = Config::new(name, kernel);
        config.memory = self.memory;
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
        assert_eq!(needs, Needs { memory: 32, net: true, disks: 2, site: Some("/p/www".into()) });
        let config = needs.config("a", "/k");
        assert_eq!((config.memory, config.disks), (32, vec!["/srv/site.tar".to_owned(), "/srv/a-1.img".to_owned()]));
        assert_eq!(parse(r#"{ "site": "www" }"#).unwrap().disks, 1);
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, expected) in [
            (r#"{ "memory": 0 }"#, "memory = 0: expected a number of MiB"),
            (r#"{ "memory": "16M" }"#, "memory = \"16M\": expected a number of MiB"),
            (r#"{ "net": 1 }"#, "net = 1: expected true or false"),
            (r#"{ "disks": 27 }"#, "disks = 27: expected a number up to 26"),
            (r#"{ "site": [] }"#, "site = []: expected a folder's name"),
            (r#"{ "network": true }"#, "unknown key `network`"),
            ("3", "expected a table"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
