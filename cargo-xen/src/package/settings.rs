//! `[package.metadata.xen.package.qubes]` and the like: what a guest's packages say besides what it needs everywhere.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::For;

/// What is said of all packages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packaging(BTreeMap<For, Settings>);

/// What is said of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The command line.
    pub arguments: Option<String>,
    /// In MiB, in place of what the guest needs elsewhere.
    pub memory: Option<u64>,
    /// Features of the Cargo package, beside the default ones.
    pub features: Vec<String>,
    /// Features of the qube that are set to 1.
    pub qvm_features: Vec<String>,
    /// Whether other qubes may have it as their netvm; a driver domain is one, if nothing else is said.
    pub provides_network: Option<bool>,
}

impl Packaging {
    /// From what Cargo read.
    pub fn parse(value: &Value) -> Result<Packaging> {
        let table = value.as_object().with_context(|| format!("package = {value}: expected a table"))?;
        let mut all = BTreeMap::new();
        for (key, value) in table {
            let known = [For::Qubes, For::Xl, For::XcpNg].into_iter().find(|known| known.name() == key);
            let known = known.with_context(|| format!("package: unknown key `{key}`; expected qubes, xl or xcp-ng"))?;
            all.insert(known, Settings::parse(known, value)?);
        }
        Ok(Packaging(all))
    }

    /// For one target, of a package that has these features: that of the target's name is there for it.
    pub fn of(&self, what_for: For, features: &[String]) -> Settings {
        let mut settings = self.0.get(&what_for).cloned().unwrap_or_default();
        if settings.features.is_empty() {
            settings.features.extend(features.iter().find(|feature| *feature == what_for.name()).cloned());
        }
        settings
    }
}

impl Settings {
    fn parse(what_for: For, value: &Value) -> Result<Settings> {
        let place = format!("package.{}", what_for.name());
        let table = value.as_object().with_context(|| format!("{place} = {value}: expected a table"))?;
        let mut settings = Settings::default();
        for (key, value) in table {
            let expected = |what: &str| format!("{place}.{key} = {value}: expected {what}");
            let names = || {
                // They go into commands of the README.
                let is_name = |text: &&str| {
                    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
                };
                let list = value.as_array().with_context(|| expected("an array of names"))?;
                let names = list.iter().map(|name| name.as_str().filter(is_name).map(str::to_owned));
                names.collect::<Option<Vec<_>>>().with_context(|| expected("an array of names"))
            };
            match (key.as_str(), what_for) {
                ("arguments", _) => {
                    settings.arguments = Some(value.as_str().with_context(|| expected("a command line"))?.to_owned());
                }
                ("memory", _) => {
                    let memory = value.as_u64().filter(|memory| *memory > 0);
                    settings.memory = Some(memory.with_context(|| expected("a number of MiB"))?);
                }
                ("features", _) => settings.features = names()?,
                ("qvm-features", For::Qubes) => settings.qvm_features = names()?,
                ("provides-network", For::Qubes) => {
                    settings.provides_network = Some(value.as_bool().with_context(|| expected("true or false"))?);
                }
                (unknown, For::Qubes) => bail!(
                    "{place}: unknown key `{unknown}`; expected arguments, memory, features, qvm-features or provides-network"
                ),
                (unknown, _) => bail!("{place}: unknown key `{unknown}`; expected arguments, memory or features"),
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Packaging> {
        Packaging::parse(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn settings_are_those_of_their_target() {
        let all = parse(
            r#"{ "qubes": { "arguments": "a=b c", "memory": 48, "features": ["q"], "qvm-features": ["qubes-firewall"],
                            "provides-network": true }, "xcp-ng": { "memory": 64 } }"#,
        )
        .unwrap();
        let qubes = Settings {
            arguments: Some("a=b c".into()),
            memory: Some(48),
            features: vec!["q".into()],
            qvm_features: vec!["qubes-firewall".into()],
            provides_network: Some(true),
        };
        assert_eq!(all.of(For::Qubes, &[]), qubes);
        assert_eq!(all.of(For::XcpNg, &[]), Settings { memory: Some(64), ..Settings::default() });
        assert_eq!(all.of(For::Xl, &[]), Settings::default());
    }

    #[test]
    fn a_feature_of_the_targets_name_is_switched_on() {
        let known = ["default".to_owned(), "qubes".to_owned()];
        let features = |text: &str, what_for| parse(text).unwrap().of(what_for, &known).features;
        assert_eq!(features("{}", For::Qubes), ["qubes"]);
        assert!(features("{}", For::Xl).is_empty());
        assert_eq!(features(r#"{ "qubes": { "features": ["small"] } }"#, For::Qubes), ["small"]);
    }

    #[test]
    fn a_mistake_is_named() {
        for (text, expected) in [
            ("3", "package = 3: expected a table"),
            (r#"{ "kvm": {} }"#, "package: unknown key `kvm`; expected qubes, xl or xcp-ng"),
            (r#"{ "xl": 1 }"#, "package.xl = 1: expected a table"),
            (r#"{ "xl": { "memory": 0 } }"#, "package.xl.memory = 0: expected a number of MiB"),
            (r#"{ "xl": { "arguments": 1 } }"#, "package.xl.arguments = 1: expected a command line"),
            (r#"{ "xl": { "features": "a" } }"#, "package.xl.features = \"a\": expected an array of names"),
            (r#"{ "xl": { "qvm-features": ["a"] } }"#, "package.xl: unknown key `qvm-features`"),
            (
                r#"{ "qubes": { "qvm-features": ["a b"] } }"#,
                "package.qubes.qvm-features = [\"a b\"]: expected an array",
            ),
            (r#"{ "qubes": { "provides-network": 1 } }"#, "package.qubes.provides-network = 1: expected true or false"),
            (r#"{ "qubes": { "netvm": "" } }"#, "package.qubes: unknown key `netvm`"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
