//! Debian packages into a private folder, without root and without touching the host's own packages.
//!
//! apt does the work (mirrors, signatures, checksums, resuming): it is pointed at folders of ours and at an empty
//! package database, so that its solver lists the whole closure of what is asked for.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::paths::which;

/// A private apt for one suite.
pub struct Apt {
    codename: &'static str,
    home: PathBuf,
}

impl Apt {
    /// Prepares the folders under `home`; downloads nothing.
    pub fn new(codename: &'static str, home: PathBuf) -> Result<Apt> {
        for tool in ["apt-get", "dpkg-deb"] {
            ensure!(
                which(tool).is_some(),
                "`{tool}` is not on this machine: the lab is made from Debian packages, so it needs a Debian or \
                 Ubuntu host (`cargo xen run --on xl` and `--on ssh:DEST` need neither)"
            );
        }
        for dir in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(home.join(dir))
                .with_context(|| format!("cannot create {} for downloads", home.join(dir).display()))?;
        }
        fs::write(home.join("status"), "")?;
        fs::write(home.join("sources.sources"), sources(codename)?)?;
        Ok(Apt { codename, home })
    }

    /// Downloads `packages` and all that they depend on; what is there already is not fetched again.
    pub fn download(&self, what: &str, packages: &[String]) -> Result<Vec<PathBuf>> {
        let bar = ProgressBar::new(100).with_style(
            ProgressStyle::with_template("{msg:32} [{bar:30}] {pos:>3}%  {elapsed}").expect("a valid template"),
        );
        bar.set_message(format!("package lists ({})", self.codename));
        self.run(&bar, &["update"])?;
        bar.set_message(what.to_owned());
        let mut args = vec!["install", "--yes", "--download-only", "--no-install-recommends"];
        args.extend(packages.iter().map(String::as_str));
        self.run(&bar, &args)?;
        bar.finish_and_clear();
        self.closure(packages)
    }

    /// The archive files of `packages` and of their dependencies, all present.
    fn closure(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        // Without its archives folder apt prints the URI of every package that it would fetch.
        let output = self
            .command()
            .args(["-o", "Dir::Cache::archives=/nonexistent", "-qq", "install", "--yes", "--print-uris"])
            .arg("--no-install-recommends")
            .args(packages)
            .output()?;
        ensure!(output.status.success(), "apt-get: {}", String::from_utf8_lossy(&output.stderr).trim());
        let archives = self.home.join("cache/archives");
        let mut files = Vec::new();
        for line in String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with('\'')) {
            let name = line.split_whitespace().nth(1).context("apt-get --print-uris: unexpected line")?;
            let file = archives.join(name);
            ensure!(file.exists(), "apt-get did not download {name}");
            files.push(file);
        }
        ensure!(!files.is_empty(), "apt-get named no package file for {}", packages.join(" "));
        Ok(files)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        let home = self.home.display();
        for option in [
            format!("Dir::Etc::SourceList={home}/sources.sources"),
            "Dir::Etc::SourceParts=/nonexistent".into(),
            format!("Dir::State={home}"),
            format!("Dir::State::Lists={home}/lists"),
            format!("Dir::State::status={home}/status"),
            format!("Dir::Cache={home}/cache"),
            "Debug::NoLocking=1".into(),
            "APT::Architecture=amd64".into(),
            "APT::Sandbox::User=".into(),
            "Acquire::Languages=none".into(),
            "Acquire::Retries=3".into(),
        ] {
            command.args(["-o", &option]);
        }
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    }

    fn run(&self, bar: &ProgressBar, args: &[&str]) -> Result<()> {
        let mut command = self.command();
        command.args(["-qq", "-o", "APT::Status-Fd=1", "-o", "APT::Update::Error-Mode=any"]).args(args);
        crate::process::end_with_parent(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let mut child = command.spawn().context("cannot start apt-get")?;
        let stderr = child.stderr.take().expect("stderr is piped");
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = BufReader::new(stderr).read_to_string(&mut text);
            text
        });
        for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines() {
            // dlstatus:<items>:<percent>:<text>
            if let Some(percent) =
                line?.strip_prefix("dlstatus:").and_then(|rest| rest.split(':').nth(1)?.parse::<f64>().ok())
            {
                bar.set_position(percent as u64);
            }
        }
        let status = child.wait()?;
        let errors = errors.join().expect("the reader does not panic");
        if status.success() {
            return Ok(());
        }
        bar.finish_and_clear();
        let codename = self.codename;
        match errors.lines().find(|line| line.contains("enough free space") || line.contains("No space left")) {
            Some(_) => bail!("the disk is full: downloads for Debian {codename} go to {}", self.home.display()),
            None => bail!(
                "cannot fetch Debian {codename} packages: {}\nThe first run needs the network. What is already \
                 downloaded is kept: simply run the command again",
                reason(&errors)
            ),
        }
    }
}

/// The line of apt's complaints that tells most: of many files that could not be fetched, the first.
fn reason(errors: &str) -> &str {
    let complaints = || errors.lines().filter(|line| line.starts_with("E:") || line.starts_with("W:"));
    complaints()
        .find(|line| line.contains("Failed to fetch"))
        .or_else(|| complaints().find(|line| line.starts_with("E:")))
        .map_or("apt-get does not say why", |line| line[2..].trim())
}

/// Unpacks package files into `root`.
pub fn unpack(what: &str, files: &[PathBuf], root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    let bar = ProgressBar::new(files.len() as u64).with_style(
        ProgressStyle::with_template("{msg:32} [{bar:30}] {pos}/{len}  {elapsed}").expect("a valid template"),
    );
    bar.set_message(format!("unpacking {what}"));
    for file in files {
        let output =
            Command::new("dpkg-deb").arg("-x").arg(file).arg(root).output().context("cannot start dpkg-deb")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(!errors.contains("No space left"), "the disk is full: unpacking {what} into {}", root.display());
        let first = errors.lines().next().unwrap_or("dpkg-deb does not say why");
        ensure!(output.status.success(), "cannot unpack {}: {first}", file.display());
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Package sources for `codename`, from the mirrors that the host's own apt uses.
fn sources(codename: &str) -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(dir.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut mirrors = Vec::new();
    for file in &files {
        let Ok(text) = fs::read_to_string(file) else { continue };
        match file.extension().and_then(|ext| ext.to_str()) {
            Some("sources") => mirrors.extend(deb822_mirrors(&text)),
            Some("list") => mirrors.extend(one_line_mirrors(&text)),
            _ => {}
        }
    }
    // A mirror given by hand serves hosts whose own apt knows no Debian archive, such as Ubuntu.
    if let Ok(uri) = std::env::var("SARAB_DEBIAN_MIRROR") {
        mirrors = vec![Mirror { uri, security: false, signed_by: None }];
    }
    mirrors.dedup();
    ensure!(
        mirrors.iter().any(|mirror| !mirror.security),
        "this host's apt names no Debian archive: set SARAB_DEBIAN_MIRROR to the URI of a Debian mirror, and \
         install the package `debian-archive-keyring`"
    );
    let mut text = String::new();
    for mirror in mirrors {
        let suites =
            if mirror.security { format!("{codename}-security") } else { format!("{codename} {codename}-updates") };
        let keyring = mirror.signed_by.unwrap_or_else(|| "/usr/share/keyrings/debian-archive-keyring.gpg".into());
        text +=
            &format!("Types: deb\nURIs: {}\nSuites: {suites}\nComponents: main\nSigned-By: {keyring}\n\n", mirror.uri);
    }
    Ok(text)
}

#[derive(Debug, PartialEq)]
struct Mirror {
    uri: String,
    security: bool,
    signed_by: Option<String>,
}

const DEBIAN_SUITES: [&str; 8] = ["bookworm", "trixie", "forky", "stable", "testing", "unstable", "sid", "bullseye"];

/// A Debian archive, main or security, seen by the suite that it is used for.
fn mirror(uri: &str, suite: &str, signed_by: Option<&str>) -> Option<Mirror> {
    let (release, pocket) = suite.split_once(['-', '/']).unwrap_or((suite, ""));
    if !DEBIAN_SUITES.contains(&release) || !["", "security", "updates"].contains(&pocket) {
        return None;
    }
    let signed_by = signed_by.filter(|key| key.starts_with('/')).map(str::to_owned);
    Some(Mirror { uri: uri.to_owned(), security: pocket == "security", signed_by })
}

fn deb822_mirrors(text: &str) -> Vec<Mirror> {
    let mut mirrors = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim())
        };
        let (Some(uris), Some(suites)) = (field("URIs"), field("Suites")) else { continue };
        if field("Enabled") == Some("no") || !field("Components").unwrap_or("").split(' ').any(|c| c == "main") {
            continue;
        }
        for uri in uris.split_whitespace() {
            for suite in suites.split_whitespace() {
                let Some(found) = mirror(uri, suite, field("Signed-By")) else { continue };
                if !mirrors.contains(&found) {
                    mirrors.push(found);
                }
            }
        }
    }
    mirrors
}

fn one_line_mirrors(text: &str) -> Vec<Mirror> {
    let mut mirrors = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("deb ")) {
        // deb [option=value …] uri suite component …
        let mut rest = line[4..].trim_start();
        let mut signed_by = None;
        if let Some(options) = rest.strip_prefix('[') {
            let Some((options, after)) = options.split_once(']') else { continue };
            signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
            rest = after;
        }
        let words: Vec<_> = rest.split_whitespace().collect();
        let [uri, suite, components @ ..] = words.as_slice() else { continue };
        if !components.contains(&"main") {
            continue;
        }
        if let Some(found) = mirror(uri, suite, signed_by)
            && !mirrors.contains(&found)
        {
            mirrors.push(found);
        }
    }
    mirrors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_telling_complaint_is_found() {
        let many = "W: Failed to fetch http://a.test/x  Could not resolve 'a.test'\nW: Failed to fetch http://a.test/y  z\n\
                    E: Some index files failed to download.\n";
        assert_eq!(reason(many), "Failed to fetch http://a.test/x  Could not resolve 'a.test'");
        assert_eq!(reason("W: odd\nE: Unable to locate package x\n"), "Unable to locate package x");
        assert_eq!(reason(""), "apt-get does not say why");
    }

    #[test]
    fn mirrors_come_from_both_source_formats() {
        let deb822 = "Types: deb\n# note\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\n\
                      Components: main contrib\nSigned-By: /usr/share/keyrings/k.gpg\n\nTypes: deb\n\
                      URIs: http://mirror.test/security\nSuites: bookworm-security\nComponents: main\n";
        let main = Mirror {
            uri: "http://mirror.test/debian".into(),
            security: false,
            signed_by: Some("/usr/share/keyrings/k.gpg".into()),
        };
        let security = Mirror { uri: "http://mirror.test/security".into(), security: true, signed_by: None };
        assert_eq!(deb822_mirrors(deb822), [main, security]);

        let lines = "# deb http://no.test/debian stable main\n\
                     deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian trixie main\n\
                     deb http://other.test/apt sometool main\n\
                     deb http://mirror.test/debian-security stable-security main\n";
        let found = one_line_mirrors(lines);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].signed_by.as_deref(), Some("/k.gpg"));
        assert!(found[1].security);
    }
}
