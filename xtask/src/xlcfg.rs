//! The file that `xl create` takes.

use std::fmt::Write;

use anyhow::{Result, ensure};

/// A guest as the toolstack is told of it.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    /// The image's path in dom0.
    pub kernel: String,
    /// In MiB.
    pub memory: u64,
    pub command_line: String,
    /// Paths of files or block devices in dom0.
    pub disks: Vec<String>,
    /// The bridges that the guest has an interface on.
    pub bridges: Vec<String>,
    /// Further lines as they are.
    pub extra: Vec<String>,
}

impl Config {
    /// The file's text.
    pub fn text(&self) -> Result<String> {
        ensure!(
            !self.name.is_empty() && self.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)),
            "`{}` cannot be a domain's name: letters, digits, `-`, `_` and `.` can",
            self.name
        );
        let mut text = String::from("# Made by `cargo xen build`. `xl create` boots it on any Xen host.\n");
        writeln!(text, "name = {}", quote(&self.name)?)?;
        writeln!(text, "type = \"pvh\"")?;
        writeln!(text, "kernel = {}", quote(&self.kernel)?)?;
        writeln!(text, "cmdline = {}", quote(&self.command_line)?)?;
        writeln!(text, "memory = {}", self.memory)?;
        writeln!(text, "vcpus = 1")?;
        writeln!(text, "# Clock reads without leaving the guest.")?;
        writeln!(text, "tsc_mode = \"native\"")?;
        writeln!(text, "# All that it uses: version 2 had faults through which a guest could reach the hypervisor.")?;
        writeln!(text, "max_grant_version = 1")?;
        writeln!(text, "on_poweroff = \"destroy\"")?;
        writeln!(text, "on_reboot = \"restart\"")?;
        writeln!(text, "on_crash = \"destroy\"")?;
        if !self.disks.is_empty() {
            let mut disks = Vec::new();
            for (index, disk) in self.disks.iter().enumerate() {
                ensure!(index < 26, "more than 26 disks");
                ensure!(!disk.contains(','), "the path of a disk cannot hold a comma: {disk}");
                let letter = char::from(b'a' + index as u8);
                disks.push(quote(&format!("format=raw,vdev=xvd{letter},access=rw,target={disk}"))?);
            }
            writeln!(text, "disk = [{}]", disks.join(", "))?;
        }
        if !self.bridges.is_empty() {
            let vifs: Result<Vec<_>> = self.bridges.iter().map(|bridge| quote(&format!("bridge={bridge}"))).collect();
            writeln!(text, "vif = [{}]", vifs?.join(", "))?;
        }
        for line in &self.extra {
            writeln!(text, "{line}")?;
        }
        Ok(text)
    }
}

/// A string as xl's parser reads it, which knows no escapes.
fn quote(text: &str) -> Result<String> {
    ensure!(
        !text.contains(['\n', '\r', '\0', '\\']),
        "a value for the xl file holds a character that it cannot: {text:?}"
    );
    match (text.contains('"'), text.contains('\'')) {
        (false, _) => Ok(format!("\"{text}\"")),
        (true, false) => Ok(format!("'{text}'")),
        (true, true) => anyhow::bail!("a value for the xl file holds both kinds of quotes: {text}"),
    }
}

/// A word of a guest's command line from what was given to `--set`.
pub fn command_line_word(word: &str) -> Result<String> {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    ensure!(
        !key.is_empty() && !key.contains(|c: char| c.is_whitespace() || c == '"'),
        "--set {word}: expected key=value"
    );
    ensure!(!value.contains('"'), "--set {word}: the value cannot hold a double quote");
    Ok(match value.contains(char::is_whitespace) {
        true => format!("{key}=\"{value}\""),
        false => word.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_xl_reads_them() {
        let config = Config {
            name: "web-1".into(),
            kernel: "/tmp/it's".into(),
            memory: 16,
            command_line: "motd=\"good day\" a=1".into(),
            disks: vec!["/a.img".into(), "/dev/b".into()],
            bridges: vec!["xenbr0".into()],
            extra: vec![],
        };
        let text = config.text().unwrap();
        for line in [
            "name = \"web-1\"",
            "kernel = \"/tmp/it's\"",
            "cmdline = 'motd=\"good day\" a=1'",
            "disk = [\"format=raw,vdev=xvda,access=rw,target=/a.img\", \"format=raw,vdev=xvdb,access=rw,target=/dev/b\"]",
            "vif = [\"bridge=xenbr0\"]",
            "max_grant_version = 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        assert!(Config { name: "a b".into(), ..config.clone() }.text().is_err());
        assert!(Config { command_line: "a=\"'\"".into(), ..config.clone() }.text().is_err());
        assert!(Config { disks: vec!["/a,b".into()], ..config }.text().is_err());
    }

    #[test]
    fn words_with_spaces_get_quotes() {
        assert_eq!(command_line_word("a=b").unwrap(), "a=b");
        assert_eq!(command_line_word("a=b c").unwrap(), "a=\"b c\"");
        assert_eq!(command_line_word("flag").unwrap(), "flag");
        assert!(command_line_word("=b").is_err() && command_line_word("a b=c").is_err());
    }
}
