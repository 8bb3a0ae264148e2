//! The file that `xl create` takes.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};

/// A guest's default memory, in MiB.
pub const DEFAULT_MEMORY: u64 = 16;

/// A guest as its xl file describes it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The domain's name.
    pub name: String,
    /// The image's path in dom0; empty where an HVM guest starts from its disk.
    pub kernel: String,
    /// In MiB.
    pub memory: u64,
    /// What the guest reads as its command line.
    pub command_line: String,
    /// Paths of files or block devices in dom0.
    pub disks: Vec<String>,
    /// The bridges that the guest has an interface on.
    pub bridges: Vec<String>,
    /// Further lines as they are.
    pub extra: Vec<String>,
}

impl Config {
    /// A guest with [`DEFAULT_MEMORY`] and without devices.
    pub fn new(name: &str, kernel: &str) -> Config {
        Config {
            name: name.to_owned(),
            kernel: kernel.to_owned(),
            memory: DEFAULT_MEMORY,
            command_line: String::new(),
            disks: Vec::new(),
            bridges: Vec::new(),
            extra: Vec::new(),
        }
    }

    /// A guest as an xl file describes it: lines that are not among the fields above stay as they are.
    ///
    /// # Errors
    ///
    /// Where it is no xl file, or has no name.
    pub fn parse(text: &str) -> Result<Config> {
        let mut config = Config::new("", "");
        for (key, value) in settings(text)? {
            let string = || {
                let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                let inner = inner.or_else(|| value.strip_prefix('\'')?.strip_suffix('\''));
                inner.map(str::to_owned).with_context(|| format!("{key} = {value}: expected a string"))
            };
            match key.as_str() {
                "name" => config.name = string()?,
                "kernel" => config.kernel = string()?,
                "cmdline" => config.command_line = string()?,
                "memory" => {
                    let number = value.trim_matches(['"', '\'']).parse();
                    config.memory = number.with_context(|| format!("memory = {value}: expected a number of MiB"))?;
                }
                _ => config.extra.push(format!("{key} = {value}")),
            }
        }
        ensure!(!config.name.is_empty(), "missing `name`");
        Ok(config)
    }

    /// Leaves a key out that [`parse`](Self::parse) has kept as a line.
    pub fn remove(&mut self, key: &str) {
        self.extra.retain(|line| key_of(line) != key);
    }

    /// Whether such a line was kept.
    pub fn has(&self, key: &str) -> bool {
        self.extra.iter().any(|line| key_of(line) == key)
    }

    /// The file's text.
    ///
    /// # Errors
    ///
    /// Where a value cannot stand in an xl file.
    pub fn text(&self) -> Result<String> {
        ensure!(
            !self.name.is_empty() && self.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)),
            "`{}` cannot be a domain's name: letters, digits, `-`, `_` and `.` can",
            self.name
        );
        let mut text = String::from("# Made by `cargo xen build`. `xl create` boots it on any Xen host.\n");
        let mut lines = vec![
            format!("name = {}", quote(&self.name)?),
            "type = \"pvh\"".to_owned(),
            format!("memory = {}", self.memory),
            "vcpus = 1".to_owned(),
            "# Clock reads without leaving the guest.\ntsc_mode = \"native\"".to_owned(),
            "# All that it uses: version 2 had faults through which a guest could reach the hypervisor.\nmax_grant_version = 1"
                .to_owned(),
            "on_poweroff = \"destroy\"".to_owned(),
            "on_reboot = \"restart\"".to_owned(),
            "on_crash = \"destroy\"".to_owned(),
        ];
        // An HVM guest may start from its disk.
        if !self.kernel.is_empty() {
            lines.insert(2, format!("kernel = {}", quote(&self.kernel)?));
            lines.insert(3, format!("cmdline = {}", quote(&self.command_line)?));
        }
        // What is asked for takes the place of what is usual.
        let asked: Vec<_> = self.extra.iter().map(|line| key_of(line)).collect();
        lines.retain(|line| !asked.contains(&key_of(line.lines().last().unwrap_or_default())));
        for line in lines {
            writeln!(text, "{line}")?;
        }
        if !self.disks.is_empty() {
            let mut disks = Vec::new();
            for (index, disk) in self.disks.iter().enumerate() {
                ensure!(!disk.contains(','), "the path of a disk cannot hold a comma: {disk}");
                // The others by their numbers (docs/man/xen-vbd-interface.7.pandoc): `d26p0` is `xvdaa`.
                let vdev = match u8::try_from(index) {
                    Ok(letter @ 0..26) => format!("xvd{}", char::from(b'a' + letter)),
                    _ => format!("d{index}p0"),
                };
                disks.push(quote(&format!("format=raw,vdev={vdev},access=rw,target={disk}"))?);
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

fn key_of(line: &str) -> &str {
    line.split('=').next().unwrap_or_default().trim_end_matches('+').trim()
}

/// The settings of an xl file, each a key and its value as it stands there. Lists may go over several lines, `#` begins a
/// comment, and `;` ends a setting (xl.cfg(5), tools/libs/util/libxlu_cfg_l.l).
fn settings(text: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut setting = String::new();
    let (mut quote, mut depth) = (None, 0_u32);
    let mut characters = text.chars().chain(['\n']).peekable();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (Some(_), '\n') => anyhow::bail!("a string has no end: {}", setting.trim()),
            (Some(_), _) => {}
            (None, '[') => depth += 1,
            (None, ']') => {
                depth = depth.checked_sub(1).with_context(|| format!("`]` without `[`: {}", setting.trim()))?
            }
            (None, '#') => {
                while characters.peek().is_some_and(|next| *next != '\n') {
                    characters.next();
                }
                continue;
            }
            (None, '\n' | ';') if depth == 0 => {
                let whole = std::mem::take(&mut setting);
                let whole = whole.trim();
                if !whole.is_empty() {
                    let (key, value) =
                        whole.split_once('=').with_context(|| format!("expected key = value: {whole}"))?;
                    found.push((key.trim().to_owned(), value.trim().to_owned()));
                }
                continue;
            }
            (None, '\n') => {
                setting.push(' ');
                continue;
            }
            (None, _) => {}
        }
        setting.push(c);
    }
    ensure!(depth == 0, "a list has no end: {}", setting.trim());
    Ok(found)
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

/// An argument of a guest's command line from what was given to `--set`.
///
/// # Errors
///
/// Where it is no `key=value`, or has a double quote in it.
pub fn argument(word: &str) -> Result<String> {
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
    fn a_file_is_read_and_written_again() {
        let text = "# mine\nname = 'web'; memory = 32 # MiB\nkernel=\"/k\"\ncmdline = 'a=\"b; # c\"'\n\
                    disk = [\n  'target=/a', # first\n  'target=/b' ]\ncpuid = \"host,rdrand=0\"\non_crash = \"preserve\"\n";
        let mut config = Config::parse(text).unwrap();
        assert_eq!((config.name.as_str(), config.kernel.as_str(), config.memory), ("web", "/k", 32));
        assert_eq!(config.command_line, "a=\"b; # c\"");
        assert_eq!(config.extra.len(), 3);
        assert_eq!(
            config.extra[0].split_whitespace().collect::<Vec<_>>().join(" "),
            "disk = [ 'target=/a', 'target=/b' ]"
        );
        let written = config.text().unwrap();
        assert!(
            written.contains("\non_crash = \"preserve\"\n") && !written.contains("on_crash = \"destroy\""),
            "{written}"
        );
        assert!(written.contains("cpuid = \"host,rdrand=0\""), "{written}");
        config.remove("disk");
        assert!(!config.text().unwrap().contains("disk ="));
        for wrong in ["memory = 1", "name = 'a", "name = 'a'\ndisk = [ 'b'", "name = 'a'\nnothing", "name = 7"] {
            assert!(Config::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn arguments_with_spaces_get_quotes() {
        assert_eq!(argument("a=b").unwrap(), "a=b");
        assert_eq!(argument("a=b c").unwrap(), "a=\"b c\"");
        assert_eq!(argument("flag").unwrap(), "flag");
        assert!(argument("=b").is_err() && argument("a b=c").is_err());
    }
}
