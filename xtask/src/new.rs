//! `cargo xen new`: an app of this repository as a project of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::guest::known_apps;
use crate::paths::{apps, repo};
use crate::xlcfg::Config;

/// What is no template: it is there for the tests.
const NO_TEMPLATE: &str = "probe";

/// What the command line says.
#[derive(clap::Args)]
pub struct NewArgs {
    /// The folder to be made; its name is the project's
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The app that it begins as
    #[arg(long, value_name = "APP", default_value = "hello", value_parser = parse_template)]
    template: String,
}

fn parse_template(name: &str) -> Result<String> {
    let known: Vec<_> = known_apps()?.into_iter().filter(|app| app != NO_TEMPLATE).collect();
    ensure!(known.iter().any(|app| app == name), "there are {}", known.join(", "));
    Ok(name.to_owned())
}

/// Makes the project.
pub fn command(args: &NewArgs) -> Result<()> {
    let (path, template) = (&args.path, args.template.as_str());
    let name = path.file_name().and_then(|name| name.to_str()).context("PATH has to end in the project's name")?;
    ensure!(
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c)),
        "`{name}` cannot be a project's name: expected a lower-case letter, and then letters, digits, `-` and `_`"
    );
    match fs::read_dir(path) {
        Ok(mut entries) => ensure!(entries.next().is_none(), "{} is there already, and not empty", path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => bail!("{}: {error}", path.display()),
    }
    // Where it fails half-way, nothing is left.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let made = tempfile::Builder::new().prefix(".sarab-new-").tempdir_in(parent)?;
    write(made.path(), name, template).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(made.path(), fs::Permissions::from_mode(0o755))?;
    let _ = fs::remove_dir(path);
    fs::rename(made.keep(), path).with_context(|| format!("cannot make {}", path.display()))?;
    println!("{} begins as {template}:", path.display());
    println!("  cd {}", path.display());
    println!("  cargo run --release        # boots it on real Xen, in an emulator");
    println!("  (cd host && cargo test)    # its own logic, on this machine");
    println!("README.md says what to change first.");
    Ok(())
}

fn write(to: &Path, name: &str, template: &str) -> Result<()> {
    let from = apps().join(template);
    copy(&from.join("src"), &to.join("src"))?;
    fs::copy(from.join("build.rs"), to.join("build.rs"))?;
    let with_site = from.join("site").is_dir();
    if with_site {
        copy(&from.join("site"), &to.join("site"))?;
    }
    fs::write(to.join("Cargo.toml"), manifest(name, template)?)?;
    fs::copy(apps().join("Cargo.lock"), to.join("Cargo.lock"))?;
    fs::write(to.join(".gitignore"), "target/\n")?;

    fs::create_dir(to.join(".cargo"))?;
    let flags = fs::read_to_string(apps().join(".cargo/config.toml"))?;
    let (head, tail) = flags.split_once("\n[env]").context("the apps' Cargo configuration has no [env]")?;
    let runner = "# `cargo run` boots the guest.\nrunner = \"./run-on-xen\"\n";
    fs::write(to.join(".cargo/config.toml"), format!("{head}{runner}\n[env]{tail}"))?;
    let script = include_str!("../new/run-on-xen")
        .replace("@SARAB@", &repo().display().to_string())
        .replace("@EXTRA@", if with_site { "--site \"$here/site\" " } else { "" });
    fs::write(to.join("run-on-xen"), script)?;
    fs::set_permissions(to.join("run-on-xen"), fs::Permissions::from_mode(0o755))?;

    let config = Config {
        name: name.to_owned(),
        kernel: format!("target/x86_64-unknown-linux-gnu/release/{name}"),
        memory: crate::guest::DEFAULT_MEMORY,
        command_line: String::new(),
        disks: if with_site { vec!["/srv/site.tar".into()] } else { vec![] },
        bridges: if uses_network(&from)? { vec!["xenbr0".into()] } else { vec![] },
        extra: vec![],
    };
    fs::write(to.join(format!("{name}.cfg")), config.text()?.replace("Made by `cargo xen build`. ", ""))?;
    write_host(to, name, template)?;
    fs::create_dir_all(to.join(".github/workflows"))?;
    fs::write(to.join(".github/workflows/ci.yml"), include_str!("../new/ci.yml"))?;
    let readme = include_str!("../new/README.md").replace("@NAME@", name).replace("@TEMPLATE@", template);
    let first = purpose(&from)?;
    fs::write(to.join("README.md"), readme.replace("@PURPOSE@", &first))?;
    Ok(())
}

/// Tests on the host: a workspace of its own, since a guest's features and a host's do not go together.
fn write_host(to: &Path, name: &str, template: &str) -> Result<()> {
    let host = to.join("host");
    fs::create_dir_all(host.join("tests"))?;
    fs::create_dir_all(host.join("src"))?;
    fs::create_dir_all(host.join(".cargo"))?;
    let tests = apps().join(template).join("host/tests/sim.rs");
    let used = with_modules(&tests)?;
    // A line of the dependencies stays where the tests name its crate.
    let stays = |line: &&str| match line.split_once(" = {") {
        Some((name, _)) => used.contains(&format!("{}::", name.replace('-', "_"))),
        None => true,
    };
    let dependencies: Vec<_> = include_str!("../new/host.toml").lines().filter(stays).collect();
    fs::write(
        host.join("Cargo.toml"),
        (dependencies.join("\n") + "\n")
            .replace("@NAME@", name)
            .replace("@VERSION@", &version()?)
            .replace("@SARAB@", &repo().display().to_string()),
    )?;
    // The versions that Sarab is tested with, and that are on this machine already.
    fs::copy(repo().join("Cargo.lock"), host.join("Cargo.lock"))?;
    fs::write(host.join("src/lib.rs"), "//! Nothing of its own: the tests are in `tests/`.\n")?;
    fs::write(
        host.join(".cargo/config.toml"),
        "# Programs of this machine, which need no Xen to run.\n[target.x86_64-unknown-linux-gnu]\nrunner = \"env\"\n",
    )?;
    fs::copy(tests, host.join("tests/sim.rs"))?;
    Ok(())
}

/// A file's text, with those of the program's modules that it takes in.
fn with_modules(file: &Path) -> Result<String> {
    let mut text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let modules: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("#[path = \"")?.strip_suffix("\"]"))
        .map(|path| file.with_file_name(path))
        .collect();
    for module in modules {
        text += &fs::read_to_string(&module).with_context(|| module.display().to_string())?;
    }
    Ok(text)
}

fn version() -> Result<String> {
    let manifest = fs::read_to_string(repo().join("Cargo.toml"))?;
    let line =
        manifest.lines().find_map(|line| line.strip_prefix("version = \"")).context("the workspace has no version")?;
    Ok(line.trim_end_matches('"').to_owned())
}

fn uses_network(app: &Path) -> Result<bool> {
    Ok(fs::read_to_string(app.join("Cargo.toml"))?.contains("\"net\""))
}

/// The template's manifest with the project's name, its dependencies where they are now, and what the workspace says.
fn manifest(name: &str, template: &str) -> Result<String> {
    let own = fs::read_to_string(apps().join(template).join("Cargo.toml"))?;
    let workspace = fs::read_to_string(apps().join("Cargo.toml"))?;
    let version = version()?;
    let mut text = String::new();
    for line in own.lines() {
        if line == "[lints]" {
            break;
        }
        let line = match line.split_once("path = \"../..") {
            Some((before, after)) => format!("{before}version = \"{version}\", path = \"{}{after}", repo().display()),
            None => line.replace(&format!("name = \"{template}\""), &format!("name = \"{name}\"")),
        };
        text.push_str(&line);
        text.push('\n');
    }
    let rest = workspace.split_once("[workspace.lints").context("the apps' workspace has no lints")?.1;
    let rest = format!("[workspace.lints{rest}").replace("[workspace.lints", "[lints");
    Ok(format!("{text}{rest}\n# Not a part of a workspace around it.\n[workspace]\n"))
}

/// The first paragraph of what the template says of itself.
fn purpose(app: &Path) -> Result<String> {
    let main = fs::read_to_string(app.join("src/main.rs"))?;
    let lines = main.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    Ok(lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" "))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let (path, target) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            copy(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}
