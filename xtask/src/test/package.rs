//! The package of `cargo xen package` for hosts with xl, as its README installs and removes it.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Fixture;
use super::checks::Check;
use crate::paths::repo;
use xen_lab::{Dom0, domain};

/// All checks by name. The busybox of 4.17's dom0 has no `install`.
pub const AT_LENGTH: &[(&str, Check)] = &[("the package for xl is installed, starts, ends and is removed", install)];

fn install(f: &Fixture) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let mut package = Command::new(cargo_xen::own_program()?);
    package.args(["package", "hello", "--for", "xl", "--set", "name=packed", "--output"]).arg(dir.path());
    let output = package.current_dir(repo()).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = dir.path().join("hello-xl.tar");
    let readme = text(&path, "README.md")?;
    f.lab.run("rm -rf /tmp/package && mkdir /tmp/package")?;
    f.lab.put("/tmp/package/hello-xl.tar", Box::new(File::open(&path)?))?;

    f.lab.run(&format!("cd /tmp/package && {}", commands(&readme, "Install")?.join(" && ")))?;
    let unit = text(&path, "xen-hello.service")?;
    ensure!(f.lab.run("cat /etc/systemd/system/xen-hello.service")? == unit, "the unit was not installed");
    // What the unit does: this dom0 has no systemd.
    let value = |key: &str| {
        let line =
            unit.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key} in\n{unit}"))?;
        anyhow::Ok(line.trim_start_matches('-').replace("/usr/sbin/xl", "xl"))
    };
    ensure!(value("ExecStart=")? == "xl create /etc/xen/hello.cfg", "{unit}");
    f.lab.run(&format!("rm -f /var/log/xen/console/guest-hello.log; {}", value("ExecStart=")?))?;
    let hello = domain::find(&f.lab, "hello")?;
    hello.wait_for("Hello, packed", 20)?;
    let listed = f.lab.run(&commands(&readme, "Check")?[0])?;
    ensure!(listed.contains("hello"), "{listed}");
    f.lab.run(&value("ExecStop=")?)?;
    let (status, _) = f.lab.try_run("xl domid hello")?;
    ensure!(status != 0, "it still runs");

    f.lab.run(&format!("cd /tmp/package && {}", commands(&readme, "Update")?.join(" && ")))?;
    f.lab.run(&commands(&readme, "Remove")?.join(" && "))?;
    let left = f.lab.run("find /etc /usr/local/lib -name '*hello*' 2>/dev/null; rm -rf /tmp/package")?;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    Ok(format!("{} bytes", fs::metadata(&path)?.len()))
}

/// The commands below a heading, but for those of systemd.
fn commands(readme: &str, heading: &str) -> Result<Vec<String>> {
    let (_, section) =
        readme.split_once(&format!("## {heading}\n")).with_context(|| format!("no {heading} in\n{readme}"))?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    let lines = blocks.flat_map(str::lines).filter(|line| !line.starts_with("systemctl "));
    let commands: Vec<_> = lines.map(str::to_owned).collect();
    ensure!(!commands.is_empty(), "no commands below {heading}");
    Ok(commands)
}

/// A file of the package.
fn text(package: &std::path::Path, name: &str) -> Result<String> {
    for entry in tar::Archive::new(File::open(package)?).entries()? {
        let mut entry = entry?;
        if entry.path()?.ends_with(name) {
            return Ok(std::io::read_to_string(&mut entry)?);
        }
    }
    anyhow::bail!("{} has no {name}", package.display())
}
