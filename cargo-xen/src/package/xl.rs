//! For a Xen host with xl: the ELF file, an xl file, a systemd unit, and a README.

use anyhow::Result;

use super::Content;
use super::archive::Entry;

/// Where the ELF file is installed, and the site beside it.
const FOLDER: &str = "/usr/local/lib/sarab";

pub fn entries(content: &Content) -> Result<Vec<Entry>> {
    let name = &content.name;
    let mut config = content.config.clone();
    config.kernel = format!("{FOLDER}/{name}");
    if let (Some(_), Some(disk)) = (&content.site, config.disks.first_mut()) {
        *disk = format!("{FOLDER}/{name}-site.tar");
    }
    let domain = config.name.clone();
    let fill = |template: &str| content.fill(&template.replace("@DOMAIN@", &domain).replace("@FOLDER@", FOLDER));
    let (mut copy_site, mut remove_site) = ("", "");
    if content.site.is_some() {
        copy_site = "install -D -m 644 site.tar @FOLDER@/@NAME@-site.tar\n";
        remove_site = " @FOLDER@/@NAME@-site.tar";
    }
    let backend = if content.driver_domain { include_str!("xl-backend.md") } else { "" };
    let readme = include_str!("xl.md")
        .replace("@COPY_SITE@", copy_site)
        .replace("@REMOVE_SITE@", remove_site)
        .replace("@BACKEND@", backend);
    let mut entries = vec![
        content.image(name),
        Entry::text(format!("{name}.cfg"), config.text()?),
        Entry::text(format!("xen-{name}.service"), fill(include_str!("xl.service"))),
        Entry::text("README.md", fill(&readme)),
    ];
    entries.extend(content.site());
    Ok(entries)
}
