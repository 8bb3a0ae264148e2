//! Folders of this machine that a guest shares (`--share`).

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, ensure};
use xen_lab::SharedFolder;

/// The tag of a share that has none of its own.
const TAG: &str = "share";

/// A folder, and what the guest calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    folder: PathBuf,
    tag: String,
    read_only: bool,
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let (text, read_only) = text.strip_suffix(",ro").map_or((text, false), |text| (text, true));
        // A tag is what Xen's tools and Linux take; anything else with a colon is a folder's name.
        let is_tag = |tag: &str| {
            !tag.is_empty() && tag.len() <= 31 && tag.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let (folder, tag) = match text.rsplit_once(':') {
            Some((folder, tag)) if is_tag(tag) => (folder, tag),
            _ => (text, TAG),
        };
        if folder.is_empty() {
            return Err("expected FOLDER[:TAG][,ro], such as ./site:files,ro".into());
        }
        Ok(Share { folder: folder.into(), tag: tag.to_owned(), read_only })
    }
}

/// What can be wrong with them before anything runs.
pub(crate) fn check(shares: &[Share], in_lab: bool) -> Result<()> {
    for (index, Share { folder, tag, read_only }) in shares.iter().enumerate() {
        ensure!(folder.is_dir(), "--share {}: no such folder", folder.display());
        let is_first = shares[..index].iter().all(|other| other.tag != *tag);
        ensure!(is_first, "--share {}: the tag {tag} is taken: write --share FOLDER:TAG", folder.display());
        ensure!(
            in_lab || !read_only,
            "--share {}: `,ro` works in the lab; on a Xen host mount the folder read-only",
            folder.display()
        );
    }
    Ok(())
}

/// What the lab is to have of them.
pub(crate) fn folders(shares: &[Share]) -> Result<Vec<SharedFolder>> {
    let folder = |share: &Share| Ok(SharedFolder { folder: share.folder.canonicalize()?, read_only: share.read_only });
    shares.iter().map(folder).collect()
}

/// The line of the xl file, where the folders have these paths in dom0. In the lab they are served by xen-9pfsd.
pub(crate) fn line(shares: &[Share], paths: &[String], more: &str) -> Result<String> {
    let mut all = Vec::new();
    for (Share { tag, .. }, path) in shares.iter().zip(paths) {
        ensure!(
            !path.contains([',', '"', '\'']),
            "--share {path}: the path of a folder in the xl file cannot hold a comma or a quote"
        );
        all.push(format!("\"tag={tag},path={path},security_model=none{more}\""));
    }
    Ok(format!("p9 = [{}]", all.join(", ")))
}

/// The paths of the folders on this machine, which is a Xen host.
pub(crate) fn own_paths(shares: &[Share]) -> Result<Vec<String>> {
    shares.iter().map(|share| Ok(share.folder.canonicalize()?.display().to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_tags_are_read() {
        let share = |folder: &str, tag: &str, read_only| Share { folder: folder.into(), tag: tag.into(), read_only };
        for (text, expected) in [
            ("site", share("site", "share", false)),
            ("site,ro", share("site", "share", true)),
            ("/srv/a b:files", share("/srv/a b", "files", false)),
            ("../x:files,ro", share("../x", "files", true)),
            ("a:b/c", share("a:b/c", "share", false)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        assert!("".parse::<Share>().is_err() && ":tag".parse::<Share>().is_err() && ",ro".parse::<Share>().is_err());
        let shares = [share("/tmp", "a", false), share("/tmp", "b", false)];
        assert_eq!(
            line(&shares, &["/x".into(), "/y z".into()], ",type=qemu").unwrap(),
            "p9 = [\"tag=a,path=/x,security_model=none,type=qemu\", \"tag=b,path=/y z,security_model=none,type=qemu\"]"
        );
        assert!(line(&shares, &["/x,y".into(), "/z".into()], "").is_err());
        assert!(check(&[share("/tmp", "a", false), share("/tmp", "a", false)], true).is_err());
        assert!(check(&[share("/tmp", "a", true)], false).is_err() && check(&shares, false).is_ok());
    }
}
