//! For XCP-ng and XenServer: the ELF file, a script that makes the VM, and a README.

use anyhow::{Result, ensure};

use super::archive::Entry;
use super::{Content, quote};

pub fn entries(content: &Content) -> Result<Vec<Entry>> {
    let command_line = &content.config.command_line;
    ensure!(command_line.is_ascii(), "the command line has characters that are not ASCII, which XAPI may change");
    let script = include_str!("xcp-ng.sh").replace("@ARGUMENTS@", &quote(command_line));
    let network = if content.net { include_str!("xcp-ng-network.md") } else { "" };
    let disks = match (content.disks, &content.site) {
        (0, _) => "",
        (_, Some(_)) => include_str!("xcp-ng-site.md"),
        (_, None) => include_str!("xcp-ng-disks.md"),
    };
    let backend = if content.driver_domain { include_str!("xcp-ng-backend.md") } else { "" };
    let readme =
        include_str!("xcp-ng.md").replace("@NETWORK@", network).replace("@DISKS@", disks).replace("@BACKEND@", backend);
    let mut entries = vec![
        content.image(&content.name),
        Entry::script("create.sh", content.fill(&script)),
        Entry::text("README.md", content.fill(&readme)),
    ];
    entries.extend(content.site());
    Ok(entries)
}
