//! For Qubes OS: a folder for /var/lib/qubes/vm-kernels, and a README with the commands of dom0.

use anyhow::{Result, ensure};

use super::archive::Entry;
use super::{Content, quote};

/// The folder's files. What a kernel's folder has to hold is `vmlinuz` alone (core-admin, qubes/storage/kernels.py).
pub fn entries(content: &Content) -> Result<Vec<Entry>> {
    let name = &content.name;
    // qubes/vm/__init__.py, validate_name.
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 31
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    ensure!(
        is_name,
        "`{name}` cannot be a qube's name: a letter, then letters, digits, `-` and `_`, at most 31 in all"
    );
    let provides_network = content.settings.provides_network.unwrap_or(content.driver_domain);
    let netvm = match (content.net, provides_network) {
        (true, true) => "sys-net",
        (true, false) => "sys-firewall",
        (false, _) => "",
    };
    let mut features = vec!["no-default-kernelopts", "skip-update"];
    features.extend(content.settings.qvm_features.iter().map(String::as_str));
    let site = match content.site {
        None => "",
        Some(_) => include_str!("qubes-site.md"),
    };
    let network = match provides_network {
        false => "",
        true => include_str!("qubes-network.md"),
    };
    let readme = include_str!("qubes.md")
        .replace("@SITE@", site)
        .replace("@NETWORK@", network)
        .replace("@KERNELOPTS@", &quote(&content.config.command_line))
        .replace("@NETVM@", if netvm.is_empty() { "''" } else { netvm })
        .replace("@PROVIDES@", if provides_network { " --property provides_network=True" } else { "" })
        .replace("@FEATURES@", &features.join(" "));
    let mut entries = vec![content.image("vmlinuz"), Entry::text("README.md", content.fill(&readme))];
    entries.extend(content.site());
    Ok(entries)
}
