//! Sarab's own files, where a command needs them: the apps to be built, and to make projects out of.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml_edit::DocumentMut;

/// Files of the repository that this program was built from, by their paths there.
#[cfg(feature = "templates")]
const EMBEDDED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/templates.rs"));
#[cfg(not(feature = "templates"))]
const EMBEDDED: &[(&str, &[u8])] = &[];

/// Sarab's files: a checkout, or what this program holds of one.
pub struct Sarab {
    checkout: Option<PathBuf>,
}

impl Sarab {
    /// The checkout that the current folder lies in, if it lies in one.
    pub fn find() -> Result<Sarab> {
        let here = env::current_dir().context("the current folder")?;
        let checkout = here.ancestors().find(|folder| is_checkout(folder)).map(Path::to_owned);
        Ok(Sarab { checkout })
    }

    /// This checkout.
    pub fn at(checkout: PathBuf) -> Sarab {
        Sarab { checkout: Some(checkout) }
    }

    /// The checkout's folder.
    pub fn checkout(&self) -> Option<&Path> {
        self.checkout.as_deref()
    }

    /// The folder of an app in the checkout.
    pub fn app(&self, name: &str) -> Option<PathBuf> {
        let folder = self.checkout.as_ref()?.join("apps").join(name);
        (!name.contains('/') && !name.starts_with('.') && folder.join("Cargo.toml").is_file()).then_some(folder)
    }

    /// The names of all apps.
    pub fn apps(&self) -> Result<Vec<String>> {
        let manifests = self.files("apps")?;
        let names = manifests.iter().filter_map(|path| path.strip_prefix("apps/")?.strip_suffix("/Cargo.toml"));
        Ok(names.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    /// The apps that projects can begin as: those with tests to begin with.
    pub fn templates(&self) -> Result<Vec<String>> {
        let mut apps = self.apps()?;
        let files = self.files("apps")?;
        apps.retain(|app| files.contains(&format!("apps/{app}/host/tests/sim.rs")));
        Ok(apps)
    }

    /// The paths of all files below a folder, sorted.
    pub fn files(&self, folder: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        match &self.checkout {
            Some(root) if root.join(folder).is_dir() => collect(root, folder, &mut found)?,
            Some(_) => {}
            None => {
                let below = format!("{folder}/");
                let names = EMBEDDED.iter().map(|(path, _)| *path);
                found.extend(names.filter(|path| path.starts_with(&below)).map(str::to_owned));
            }
        }
        found.sort();
        Ok(found)
    }

    /// A file's bytes.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        match &self.checkout {
            Some(root) => fs::read(root.join(path)).with_context(|| root.join(path).display().to_string()),
            None => {
                let found = EMBEDDED.iter().find(|(name, _)| *name == path);
                found.map(|(_, bytes)| bytes.to_vec()).with_context(|| format!("this program holds no {path}"))
            }
        }
    }

    /// A file's text.
    pub fn text(&self, path: &str) -> Result<String> {
        String::from_utf8(self.read(path)?).with_context(|| format!("{path} is not valid UTF-8"))
    }

    /// A manifest.
    pub fn manifest(&self, path: &str) -> Result<DocumentMut> {
        self.text(path)?.parse().with_context(|| path.to_owned())
    }
}

fn is_checkout(folder: &Path) -> bool {
    let Ok(manifest) = fs::read_to_string(folder.join("Cargo.toml")) else { return false };
    let manifest = manifest.parse::<DocumentMut>().ok();
    let name = manifest.as_ref().and_then(|manifest| manifest.get("package")?.get("name")?.as_str());
    name == Some("sarab") && folder.join("apps").is_dir()
}

fn collect(root: &Path, folder: &str, found: &mut Vec<String>) -> Result<()> {
    let path = root.join(folder);
    for entry in fs::read_dir(&path).with_context(|| path.display().to_string())?.flatten() {
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if !entry.path().is_dir() {
            found.push(name);
        } else if entry.file_name() != "target" {
            collect(root, &name, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "templates")]
    #[test]
    fn what_is_embedded_is_what_the_checkout_holds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
        let (checkout, embedded) = (Sarab::at(root), Sarab { checkout: None });
        assert_eq!(embedded.templates().unwrap(), checkout.templates().unwrap());
        for app in embedded.templates().unwrap() {
            let folder = format!("apps/{app}");
            assert_eq!(embedded.files(&folder).unwrap(), checkout.files(&folder).unwrap());
        }
        for path in ["Cargo.toml", "Cargo.lock", "apps/Cargo.toml", "apps/Cargo.lock", "apps/.cargo/config.toml"] {
            assert_eq!(embedded.read(path).unwrap(), checkout.read(path).unwrap(), "{path}");
        }
    }

    #[test]
    fn a_checkout_is_told_from_other_folders() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert!(is_checkout(root));
        assert!(!is_checkout(&root.join("apps")) && !is_checkout(&root.join("cargo-xen")));
        assert!(Sarab::at(root.to_owned()).app("hello").is_some());
        assert!(Sarab::at(root.to_owned()).app("nosuch").is_none());
        assert!(Sarab::at(root.to_owned()).app(".").is_none(), "a folder, not an app");
    }
}
