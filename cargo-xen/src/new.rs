//! `cargo xen new`: an app of Sarab's as a project of its own.
//!
//! What is committed of a project depends on Sarab by git. Where it was made in a checkout of Sarab, files beside it that are not
//! committed have this machine build it from there, which needs no network.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value as Json;
use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value, value};

use crate::manifest::{Needs, cargo};
use crate::sarab::Sarab;

/// Where a template's program is; what boots is that, and the tests call it.
const PROGRAM: &str = "src/lib.rs";

/// The command-line arguments.
#[derive(clap::Args)]
pub struct NewArgs {
    /// The folder to be made; its name is the project's
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The app that it begins as
    #[arg(long, value_name = "APP", default_value = "hello")]
    template: String,
    /// The repository that the project takes Sarab from [default: Sarab's own; made in a checkout of Sarab, this machine builds
    /// the project from there]
    #[arg(long, value_name = "URL", conflicts_with = "local")]
    git: Option<String>,
    /// Depend on this checkout of Sarab by its path: the project builds on this machine alone
    #[arg(long)]
    local: bool,
}

/// Where the project takes Sarab from.
enum Source {
    /// A repository; and the checkout that stands for it on this machine.
    Git { url: String, checkout: Option<PathBuf> },
    /// A checkout.
    Path(PathBuf),
}

/// Makes the project.
pub fn command(args: &NewArgs, sarab: &Sarab) -> Result<()> {
    let (path, template) = (&args.path, args.template.as_str());
    let templates = sarab.templates()?;
    ensure!(!templates.is_empty(), "this `cargo xen` was built without templates: call it in a checkout of Sarab");
    ensure!(
        templates.iter().any(|known| known == template),
        "--template {template}: there are {}",
        templates.join(", ")
    );
    let name = path.file_name().and_then(|name| name.to_str()).context("PATH has to end in the project's name")?;
    ensure!(
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c)),
        "`{name}` cannot be a project's name: expected a lower-case letter, and then letters, digits, `-` and `_`"
    );
    match fs::read_dir(path) {
        Ok(mut entries) => ensure!(entries.next().is_none(), "{} already exists and is not empty", path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => bail!("{}: {error}", path.display()),
    }
    let project = Project { sarab, name, template, source: source(args, sarab)?, repository: repository(sarab)? };
    // Where it fails half-way, nothing is left.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let made = tempfile::Builder::new().prefix(".sarab-new-").tempdir_in(parent)?;
    project.write(made.path()).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(made.path(), fs::Permissions::from_mode(0o755))?;
    let _ = fs::remove_dir(path);
    fs::rename(made.keep(), path).with_context(|| format!("cannot create {}", path.display()))?;
    println!("{} begins as {template}:", path.display());
    println!("  cd {}", path.display());
    println!("  cargo run --release        # boots it on real Xen, in an emulator");
    println!("  (cd host && cargo test)    # its own logic, on this machine");
    match &project.source {
        Source::Git { url, checkout: None } => println!("It takes Sarab from {url}."),
        Source::Git { url, checkout: Some(checkout) } => println!(
            "It takes Sarab from {url}; on this machine from {} (.cargo/local.toml, not for git).",
            checkout.display()
        ),
        Source::Path(checkout) => {
            println!("It takes Sarab from {}, and builds on this machine alone.", checkout.display())
        }
    }
    println!("See README.md for what to change first.");
    Ok(())
}

fn source(args: &NewArgs, sarab: &Sarab) -> Result<Source> {
    let checkout = sarab.checkout().map(Path::to_owned);
    if args.local {
        return Ok(Source::Path(checkout.context("--local takes the checkout of Sarab that it is called in")?));
    }
    Ok(match &args.git {
        Some(url) => {
            ensure!(
                !url.is_empty() && !url.contains(char::is_whitespace) && !url.contains(['"', '\'', '\\']),
                "--git {url}: expected a URL"
            );
            Source::Git { url: url.clone(), checkout: None }
        }
        None => Source::Git { url: repository(sarab)?, checkout },
    })
}

/// Where Sarab says that its repository is.
fn repository(sarab: &Sarab) -> Result<String> {
    let manifest = sarab.manifest("Cargo.toml")?;
    let url = manifest["workspace"]["package"].get("repository").and_then(Item::as_str);
    url.map(str::to_owned).context("Sarab's Cargo.toml names no repository: name one with --git URL")
}

struct Project<'a> {
    sarab: &'a Sarab,
    name: &'a str,
    template: &'a str,
    source: Source,
    /// For what is said of it, where the project itself does not depend on it.
    repository: String,
}

impl Project<'_> {
    fn write(&self, to: &Path) -> Result<()> {
        let from = format!("apps/{}", self.template);
        let (_, demo) = self.template_manifest()?;
        for file in self.sarab.files(&from)? {
            let below = file.strip_prefix(&from).unwrap_or(&file).trim_start_matches('/');
            if below == "src/main.rs" || is_test(below) {
                put(&to.join(below), renamed(&self.sarab.text(&file)?, self.template, self.name).as_bytes())?;
            } else if below != "Cargo.toml" && !below.starts_with("host/Cargo.") && demo.as_deref() != Some(below) {
                put(&to.join(below), &self.sarab.read(&file)?)?;
            }
        }
        let guest = self.guest_manifest()?;
        let host = self.host_manifest(&guest)?;
        put(&to.join("host/src/lib.rs"), b"//! Nothing of its own: the tests are in `tests/`.\n")?;
        // The versions that Sarab is tested with, and that are on this machine already. The tests may depend on the guest, so
        // that both manifests name the same places while the lock files are made.
        self.lock(to, &guest, "apps/Cargo.lock")?;
        self.lock(&to.join("host"), &host, "Cargo.lock")?;
        self.write_manifest(to, guest)?;
        self.write_manifest(&to.join("host"), host)?;

        put(&to.join(".cargo/config.toml"), self.configuration()?.as_bytes())?;
        put(
            &to.join("host/.cargo/config.toml"),
            b"# Programs of this machine, which need no Xen to run.\ninclude = [{ path = \"local.toml\", optional = true }]\n\n\
              [target.x86_64-unknown-linux-gnu]\nrunner = \"env\"\n",
        )?;
        let checkout = match &self.source {
            Source::Git { checkout, .. } => checkout.as_ref(),
            Source::Path(checkout) => Some(checkout),
        };
        if let Some(checkout) = checkout {
            put(&to.join(".cargo/sarab-checkout"), format!("{}\n", checkout.display()).as_bytes())?;
        }
        put(
            &to.join(".gitignore"),
            b"target/\n# Disks that guests keep between runs.\n*.img\n# What is so on this machine alone: where its checkout of Sarab is.\nlocal.toml\nsarab-checkout\n",
        )?;
        put(&to.join("run-on-xen"), include_str!("../new/run-on-xen").replace("@GIT@", self.git()).as_bytes())?;
        fs::set_permissions(to.join("run-on-xen"), fs::Permissions::from_mode(0o755))?;
        if matches!(self.source, Source::Git { .. }) {
            let ci = include_str!("../new/ci.yml").replace("@GIT@", self.git());
            put(&to.join(".github/workflows/ci.yml"), ci.as_bytes())?;
        }
        let kernel = format!("target/x86_64-unknown-linux-gnu/release/{}", self.name);
        let config = self.needs()?.config(self.name, &kernel).text()?;
        put(&to.join(format!("{}.cfg", self.name)), config.replace("Made by `cargo xen build`. ", "").as_bytes())?;
        put(&to.join("README.md"), self.readme()?.as_bytes())
    }

    /// The URL that is shown.
    fn git(&self) -> &str {
        match &self.source {
            Source::Git { url, .. } => url,
            Source::Path(_) => &self.repository,
        }
    }

    /// What the template needs, which the project's manifest says too.
    fn needs(&self) -> Result<Needs> {
        let manifest = self.template_manifest()?.0;
        let table = manifest.get("package").and_then(|package| package.get("metadata")?.get("xen"));
        Needs::parse(&table.map_or(Ok(Json::Null), json)?, Path::new("."))
    }

    /// The template's manifest without its demo, and the file of that: it needs other apps, which the project does not have.
    fn template_manifest(&self) -> Result<(DocumentMut, Option<String>)> {
        let mut manifest = self.sarab.manifest(&format!("apps/{}/Cargo.toml", self.template))?;
        let needs = manifest.get_mut("package").and_then(|package| package.get_mut("metadata")?.get_mut("xen"));
        let demo = needs.and_then(|needs| needs.as_table_like_mut()?.remove("demo"));
        let script = demo.as_ref().and_then(|demo| demo.get("script")?.as_str()).map(str::to_owned);
        Ok((manifest, script))
    }

    /// The template's manifest with the project's name, and with what the apps' workspace says.
    fn guest_manifest(&self) -> Result<Manifest> {
        let mut own = self.template_manifest()?.0;
        let workspace = self.sarab.manifest("apps/Cargo.toml")?;
        own["package"]["name"] = value(self.name);
        for program in own["bin"].as_array_of_tables_mut().into_iter().flat_map(|programs| programs.iter_mut()) {
            program["name"] = value(self.name);
        }
        own.insert("lints", workspace["workspace"]["lints"].clone());
        own.insert("profile", workspace["profile"].clone());
        let mut alone = Table::new();
        alone.decor_mut().set_prefix("\n# Not a part of a workspace around it.\n");
        own.insert("workspace", Item::Table(alone));
        sort(&mut own);
        let folders = folders(&mut own, "dependencies", "../../")?;
        Ok(Manifest { text: own, section: "dependencies", folders })
    }

    /// Tests on the host: a workspace of its own, since a guest's features and a host's do not go together.
    fn host_manifest(&self, guest: &Manifest) -> Result<Manifest> {
        let mut own: DocumentMut = include_str!("../new/host.toml").replace("@NAME@", self.name).parse()?;
        let used = self.test_sources()?;
        let table = own["dev-dependencies"].as_table_like_mut().context("host.toml has no [dev-dependencies]")?;
        // What the tests do not name can go, but for what local.toml says of the guest's crates, since it holds for both.
        let names: Vec<_> = table.iter().map(|(name, _)| name.to_owned()).collect();
        for name in names {
            let is_used = used.contains(&format!("{}::", name.replace('-', "_")));
            if !is_used && !guest.folders.contains_key(&name) {
                table.remove(&name);
            }
        }
        for (name, folder) in &guest.folders {
            if !table.contains_key(name) {
                table.insert(name, value(InlineTable::from_iter([("path", folder.as_str())])));
            }
        }
        let folders = folders(&mut own, "dev-dependencies", "")?;
        let entry = [("path", Value::from("..")), ("default-features", Value::from(false))];
        own["dev-dependencies"][self.name] = value(InlineTable::from_iter(entry));
        Ok(Manifest { text: own, section: "dev-dependencies", folders })
    }

    /// The host tests' text.
    fn test_sources(&self) -> Result<String> {
        let folder = format!("apps/{}/", self.template);
        let files = self.sarab.files(&format!("{folder}host/tests"))?;
        files.iter().filter(|file| is_test(&file[folder.len()..])).map(|file| self.sarab.text(file)).collect()
    }

    /// Writes the lock file, and a manifest for it.
    fn lock(&self, to: &Path, manifest: &Manifest, lock: &str) -> Result<()> {
        put(&to.join("Cargo.lock"), &self.sarab.read(lock)?)?;
        let path = to.join("Cargo.toml");
        let (text, offline) = match &self.source {
            Source::Git { url, checkout: None } => (manifest.with(|_| ("git", url.clone()), None)?, false),
            // A crate that is taken from elsewhere than the manifest says stands in the lock file as one of a path.
            Source::Git { checkout: Some(checkout), .. } | Source::Path(checkout) => {
                (manifest.with(|folder| ("path", in_checkout(checkout, folder)), Some(&self.version()?))?, true)
            }
        };
        put(&path, text.as_bytes())?;
        lock_file(to, offline)
    }

    /// Writes the manifest as it is to be committed, and what has this machine build it from a checkout.
    fn write_manifest(&self, to: &Path, manifest: Manifest) -> Result<()> {
        let Source::Git { url, checkout: Some(checkout) } = &self.source else { return Ok(()) };
        put(&to.join("Cargo.toml"), manifest.with(|_| ("git", url.clone()), None)?.as_bytes())?;
        let mut local = DocumentMut::new();
        for (name, folder) in &manifest.folders {
            // What is said for the guest holds in the folders below it.
            if manifest.section == "dependencies" || !self.guest_manifest()?.folders.contains_key(name) {
                let place = InlineTable::from_iter([("path", in_checkout(checkout, folder))]);
                local["patch"][url.as_str()][name] = value(place);
            }
        }
        if let Some(patch) = local.get_mut("patch").and_then(Item::as_table_mut) {
            patch.set_implicit(true);
        }
        let comment = "# Sarab, as this machine has it. Without this file it comes from its repository.\n";
        put(&to.join(".cargo/local.toml"), format!("{comment}{}", tables(local)).as_bytes())
    }

    fn version(&self) -> Result<String> {
        let manifest = self.sarab.manifest("Cargo.toml")?;
        let version = manifest["workspace"]["package"]["version"].as_str();
        version.map(str::to_owned).context("Sarab's workspace has no version")
    }

    /// The guest's flags, and that `cargo run` boots it.
    fn configuration(&self) -> Result<String> {
        let mut configuration = self.sarab.manifest("apps/.cargo/config.toml")?;
        let include = InlineTable::from_iter([("path", Value::from("local.toml")), ("optional", Value::from(true))]);
        let target = configuration["target"]["x86_64-unknown-linux-gnu"].as_table_like_mut();
        let target = target.context("the apps' Cargo configuration has no flags for guests")?;
        target.insert("runner", value("./run-on-xen"));
        if let Some(mut key) = target.key_mut("runner") {
            key.leaf_decor_mut().set_prefix("# `cargo run` boots the guest.\n");
        }
        Ok(format!("include = {}\n\n{configuration}", Array::from_iter([include])))
    }

    fn readme(&self) -> Result<String> {
        let (ci, source) = match &self.source {
            Source::Git { url, checkout } => (
                "| `.github/workflows/ci.yml` | builds and tests at each push |\n",
                format!(
                    "Sarab comes from {url}, in the version that `Cargo.lock` names.{}",
                    match checkout {
                        Some(_) =>
                            " On the machine where this was made it comes from a checkout instead: `.cargo/local.toml`, \
                             `host/.cargo/local.toml` and `.cargo/sarab-checkout` say where that is. They are not committed, and can go.",
                        None => "",
                    }
                ),
            ),
            Source::Path(_) => (
                "",
                "Sarab comes from a checkout on this machine, whose path stands in `Cargo.toml` and `host/Cargo.toml`. For \
                 others to build this, put `git = \"URL\"` in the place of `path` and `version` there."
                    .to_owned(),
            ),
        };
        Ok(include_str!("../new/README.md")
            .replace("@NAME@", self.name)
            .replace("@TEMPLATE@", self.template)
            .replace("@PURPOSE@", &self.purpose()?)
            .replace("@GIT@", self.git())
            .replace("@CI@\n", ci)
            .replace("@SOURCE@", &source))
    }

    /// The first paragraph of what the template says of itself.
    fn purpose(&self) -> Result<String> {
        let main = self.sarab.text(&format!("apps/{}/{PROGRAM}", self.template))?;
        let lines = main.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
        Ok(lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" "))
    }
}

/// A crate's folder in a checkout.
fn in_checkout(checkout: &Path, folder: &str) -> String {
    checkout.join(folder).display().to_string().trim_end_matches('/').to_owned()
}

/// Whether a template's file is one of its tests.
fn is_test(path: &str) -> bool {
    path.strip_prefix("host/tests/").is_some_and(|name| name.ends_with(".rs"))
}

/// The text with the crate of that name renamed, as Rust writes it.
fn renamed(text: &str, from: &str, to: &str) -> String {
    let (from, to) = (format!("{}::", from.replace('-', "_")), format!("{}::", to.replace('-', "_")));
    let mut new = String::new();
    for (index, part) in text.split(&from).enumerate() {
        // The end of a longer path or name is another one.
        let whole = !new.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
        if index > 0 {
            new += if whole { &to } else { &from };
        }
        new += part;
    }
    new
}

/// A manifest, and which of its dependencies are Sarab's own.
struct Manifest {
    text: DocumentMut,
    section: &'static str,
    /// Crates and their folders in the repository.
    folders: BTreeMap<String, String>,
}

impl Manifest {
    /// Its text, with a place for each crate of Sarab's.
    fn with(&self, place: impl Fn(&str) -> (&'static str, String), version: Option<&str>) -> Result<String> {
        let mut text = self.text.clone();
        let table = text[self.section].as_table_like_mut().context("no dependencies")?;
        for (name, folder) in &self.folders {
            let entry = table.get_mut(name).and_then(Item::as_table_like_mut).context("a dependency is not a table")?;
            let (key, at) = place(folder);
            let rest: Vec<_> = entry.iter().map(|(key, item)| (key.to_owned(), item.clone())).collect();
            entry.clear();
            if let Some(version) = version {
                entry.insert("version", value(version));
            }
            entry.insert(key, value(at));
            for (key, item) in rest {
                entry.insert(&key, item);
            }
            if let Some(inline) = table.get_mut(name).and_then(Item::as_inline_table_mut) {
                inline.fmt();
            }
        }
        Ok(text.to_string())
    }
}

/// Takes the paths out of a manifest's dependencies, which are all below `root`.
fn folders(manifest: &mut DocumentMut, section: &str, root: &str) -> Result<BTreeMap<String, String>> {
    let table = manifest[section].as_table_like_mut().with_context(|| format!("there is no [{section}]"))?;
    let mut folders = BTreeMap::new();
    for (name, item) in table.iter_mut() {
        let Some(entry) = item.as_table_like_mut() else { continue };
        let Some(path) = entry.get("path").and_then(Item::as_str).map(str::to_owned) else { continue };
        let below = format!("{path}/");
        let folder =
            below.strip_prefix(root).with_context(|| format!("{name}: {path} is not in Sarab's repository"))?;
        folders.insert(name.to_string(), folder.trim_end_matches('/').to_owned());
        entry.remove("path");
    }
    Ok(folders)
}

/// Has the tables that were added stand behind the others.
fn sort(manifest: &mut DocumentMut) {
    let mut position = 0;
    let order = ["package", "lib", "bin", "features", "dependencies", "lints", "profile", "workspace"];
    for key in order {
        if let Some(item) = manifest.get_mut(key) {
            place(item, &mut position);
        }
    }
}

fn place(item: &mut Item, position: &mut isize) {
    match item {
        Item::Table(table) => place_table(table, position),
        Item::ArrayOfTables(tables) => tables.iter_mut().for_each(|table| place_table(table, position)),
        _ => {}
    }
}

fn place_table(table: &mut Table, position: &mut isize) {
    *position += 1;
    table.set_position(Some(*position));
    for (_, item) in table.iter_mut() {
        place(item, position);
    }
}

/// A document whose tables were made by assignment, with a heading for each.
fn tables(document: DocumentMut) -> String {
    fn open(table: &mut dyn TableLike) {
        for (_, item) in table.iter_mut() {
            if let Some(inline) = item.as_inline_table()
                && !inline.contains_key("path")
            {
                *item = Item::Table(inline.clone().into_table());
            }
            if let Some(table) = item.as_table_mut() {
                table.set_implicit(true);
                open(table);
            }
        }
    }
    let mut document = document;
    open(document.as_table_mut());
    document.to_string()
}

fn json(item: &Item) -> Result<Json> {
    Ok(match item {
        Item::None => Json::Null,
        item if item.is_table_like() => {
            let table = item.as_table_like().context("a table")?;
            let entries = table.iter().map(|(key, item)| Ok((key.to_owned(), json(item)?)));
            Json::Object(entries.collect::<Result<_>>()?)
        }
        item => match item.as_value() {
            Some(Value::String(text)) => Json::String(text.value().clone()),
            Some(Value::Integer(number)) => Json::from(*number.value()),
            Some(Value::Boolean(flag)) => Json::Bool(*flag.value()),
            Some(Value::Array(array)) => {
                Json::Array(array.iter().map(|value| json(&Item::Value(value.clone()))).collect::<Result<_>>()?)
            }
            other => bail!("unexpected value {other:?}"),
        },
    })
}

/// Brings the lock file down to what the package uses, so that a first build leaves it as it is.
fn lock_file(folder: &Path, offline: bool) -> Result<()> {
    let mut command = cargo();
    command.args(["update", "--workspace", "--quiet"]).current_dir(folder).stdin(Stdio::null());
    if offline {
        command.arg("--offline");
    }
    let output = command.output().context("cannot start cargo")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = said.lines().find(|line| line.starts_with("error")).unwrap_or("error: cargo does not say why");
        eprintln!("no Cargo.lock yet; the first build creates it ({reason})");
        fs::remove_file(folder.join("Cargo.lock"))?;
    }
    Ok(())
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file's folder")?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    fs::write(path, bytes).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project<'a>(sarab: &'a Sarab, template: &'a str, source: Source) -> Project<'a> {
        Project { sarab, name: "mine", template, source, repository: "https://test/sarab".into() }
    }

    fn checkout() -> Sarab {
        Sarab::at(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned())
    }

    #[test]
    fn every_template_has_a_manifest_of_its_own() {
        let sarab = checkout();
        for template in sarab.templates().unwrap() {
            let project = project(&sarab, &template, Source::Git { url: "https://test/sarab".into(), checkout: None });
            let guest = project.guest_manifest().unwrap();
            let text = guest.with(|_| ("git", "https://test/sarab".into()), None).unwrap();
            let parsed: DocumentMut = text.parse().unwrap();
            assert_eq!(parsed["package"]["name"].as_str(), Some("mine"), "{text}");
            assert_eq!(parsed["bin"][0]["name"].as_str(), Some("mine"), "{text}");
            assert_eq!(parsed["dependencies"]["sarab"]["git"].as_str(), Some("https://test/sarab"), "{text}");
            assert_eq!(parsed["profile"]["release"]["panic"].as_str(), Some("abort"), "{text}");
            assert!(!text.contains("path = \"..") && !text.contains("workspace = true"), "{text}");
            assert!(!text.contains("demo"), "{text}");
            let host = project.host_manifest(&guest).unwrap();
            let text = host.with(|_| ("git", "https://test/sarab".into()), None).unwrap();
            assert!(!text.replace("path = \"..\"", "").contains("path ="), "{text}");
            assert!(guest.folders.keys().all(|name| host.folders.contains_key(name)), "{text}");
            assert!(text.contains("mine = { path = \"..\""), "{text}");
            let main = renamed(&sarab.text(&format!("apps/{template}/src/main.rs")).unwrap(), &template, "mine");
            assert!(main.ends_with("\npub use mine::main;\n"), "{main}");
            assert_eq!(project.needs().unwrap().demo, None);
        }
    }

    #[test]
    fn a_library_is_renamed_where_it_is_named() {
        let text = "use store::main; sarab::store::Store; restore::main; run(store::main)";
        let expected = "use my_store::main; sarab::store::Store; restore::main; run(my_store::main)";
        assert_eq!(renamed(text, "store", "my-store"), expected);
    }

    #[test]
    fn a_local_project_names_paths() {
        let sarab = checkout();
        let project = project(&sarab, "web", Source::Path("/sarab".into()));
        let guest = project.guest_manifest().unwrap();
        assert_eq!(guest.folders["sarab-http"], "sarab-http");
        let text = guest.with(|folder| ("path", format!("/sarab/{folder}")), Some("0.1.0")).unwrap();
        assert!(text.contains("sarab-site = { version = \"0.1.0\", path = \"/sarab/sarab-site\" }"), "{text}");
        assert!(project.readme().unwrap().contains("on this machine"));
    }
}
