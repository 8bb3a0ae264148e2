//! A guest's demo: other guests, and a script in dom0 that shows what the guest does.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::PathBuf;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};
use tempfile::NamedTempFile;
use xen_lab::Dom0;
use xen_lab::xlfile::Config;

use crate::guest::Guest;
use crate::lab::quote;
use crate::screen::Screen;
use crate::site;

/// What is before its lines.
const NAME: &str = "demo";

/// A demo, with all that it needs from this machine.
pub struct Demo {
    /// The guest that is shown, by its domain's name.
    name: String,
    /// How the line of its console begins at which the demo can start.
    ready: String,
    script: String,
    /// The port of this machine that leads to the guest's.
    port: Option<u16>,
    others: Vec<Other>,
}

/// A guest beside the one that is shown.
struct Other {
    image: PathBuf,
    config: Config,
    site: Option<NamedTempFile>,
}

impl Demo {
    /// Builds what the demo of a guest needs, if it has one. Its domain has this name.
    pub fn prepare(guest: &Guest, domain: &str) -> Result<Option<Demo>> {
        let Some(demo) = guest.needs().demo else { return Ok(None) };
        let what = || format!("the demo of {0} cannot be shown (--no-demo runs {0} alone)", guest.name);
        let script = fs::read_to_string(&demo.script).with_context(|| demo.script.display().to_string());
        let script = script.with_context(what)?;
        let mut others: Vec<Other> = Vec::new();
        for other in &demo.guests {
            let made = Other::prepare(other).with_context(what)?;
            let is_used = |name: &str| name == domain || others.iter().any(|other| other.config.name == name);
            ensure!(!is_used(&made.config.name), "{}: two guests are called {}", what(), made.config.name);
            others.push(made);
        }
        let ready = format!("{}: ready", guest.name);
        Ok(Some(Demo { name: domain.to_owned(), ready, script, port: None, others }))
    }

    /// Which port of this machine leads to the one of the guest's that has pages.
    pub fn serve_at(&mut self, port: Option<u16>) {
        self.port = port;
    }

    /// The disks that its guests need, in the order in which they are given to [`Demo::put`].
    pub fn disks(&self) -> impl Iterator<Item = PathBuf> {
        self.others.iter().filter_map(|other| Some(other.site.as_ref()?.path().to_owned()))
    }

    /// Puts everything into `dir` of dom0, where the disks are at these paths.
    pub fn put(&mut self, dom0: &dyn Dom0, dir: &str, disks: &[String]) -> Result<()> {
        let mut disks = disks.iter();
        for other in &mut self.others {
            let config = &mut other.config;
            config.kernel = format!("{dir}/{}", config.name);
            if other.site.is_some() {
                config.disks = vec![disks.next().context("a disk of the demo's is missing")?.clone()];
            }
            dom0.put(&config.kernel, Box::new(File::open(&other.image)?))?;
            dom0.put(&file(dir, &config.name), Box::new(Cursor::new(config.text()?)))?;
        }
        dom0.put(&format!("{dir}/demo.sh"), Box::new(Cursor::new(self.script.clone())))
    }

    /// Has it shown when the guest is ready, until `is_over` says that the guest or the user has ended everything.
    pub fn show_when_ready(
        self,
        dom0: impl Dom0 + Send + 'static,
        dir: &str,
        screen: &Screen,
        is_over: impl Fn() -> bool + Send + 'static,
    ) {
        let (dir, shown) = (dir.to_owned(), screen.clone());
        screen.when(self.ready.clone(), move || drop(self.start(dom0, dir, shown, is_over)));
    }

    /// Shows it, on a thread of its own. The guest runs on, whatever comes of it.
    fn start(
        self,
        dom0: impl Dom0 + Send + 'static,
        dir: String,
        screen: Screen,
        is_over: impl Fn() -> bool + Send + 'static,
    ) -> JoinHandle<()> {
        std::thread::spawn(move || {
            let outcome = self.play(&dom0, &dir, &screen);
            // What breaks when everything ends is no failure.
            if is_over() {
                return;
            }
            if let Err(error) = outcome {
                let _ = screen.lines(NAME, &format!("{error:#}\n{} is still running (Ctrl-C to stop)", self.name));
            }
            if let Some(port) = self.port {
                site::announce(port, is_over);
            }
        })
    }

    fn play(&self, dom0: &dyn Dom0, dir: &str, screen: &Screen) -> Result<()> {
        for Other { config, .. } in &self.others {
            // Who wants to repeat it has the file.
            screen.lines(NAME, &format!("$ xl create {}", file(dir, &config.name)))?;
            let shown = config.extra.join("\n");
            screen.lines(NAME, &format!("{}\n", indented(&shown)))?;
            let create = format!("xl create -q -e {}", quote(&file(dir, &config.name)));
            dom0.run(&create).with_context(|| format!("cannot start {}", config.name))?;
        }
        let names: Vec<_> = self.others.iter().map(|other| other.config.name.as_str()).collect();
        let port = self.port.map(|port| port.to_string()).unwrap_or_default();
        let command = format!(
            "cd {} && GUEST={} GUESTS={} PORT={port} sh ./demo.sh",
            quote(dir),
            quote(&self.name),
            quote(&names.join(" "))
        );
        let mut stream = dom0.stream(&command, None)?;
        let mut pending = Vec::new();
        while let Some(bytes) = stream.read()? {
            pending.extend(bytes);
            if let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') {
                let rest = pending.split_off(end + 1);
                screen.lines(NAME, &String::from_utf8_lossy(&pending))?;
                pending = rest;
            }
        }
        screen.lines(NAME, &String::from_utf8_lossy(&pending))?;
        match stream.status()? {
            0 => Ok(()),
            status => bail!("the script ended with status {status}: the lines above say why"),
        }
    }
}

impl Other {
    fn prepare(wanted: &crate::manifest::DemoGuest) -> Result<Other> {
        let guest = Guest::build(&wanted.folder)?;
        let needs = guest.needs();
        let mut config = needs.plain_config(&guest.name, "");
        config.command_line.clone_from(&wanted.arguments);
        config.extra.extend(wanted.xl.iter().cloned());
        guest.check_memory(config.memory)?;
        let site = needs.site.as_deref().map(site::pack).transpose()?;
        let disks = usize::from(site.is_some());
        ensure!(
            disks >= needs.disks || config.has("disk"),
            "{} needs {} disks: demo.guests.xl can give it some (disk = [\"…\"])",
            guest.name,
            needs.disks
        );
        Ok(Other { image: guest.image, config, site })
    }
}

/// The xl file of a guest in dom0.
fn file(dir: &str, name: &str) -> String {
    format!("{dir}/{name}.cfg")
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::{Arc, Mutex};

    use xen_lab::Stream;

    use super::*;
    use crate::screen::tests::Shown;

    /// Answers each command, and has kept it.
    #[derive(Clone)]
    struct Fake {
        asked: Arc<Mutex<Vec<String>>>,
        answer: fn(&str) -> (i32, &'static [&'static str]),
    }

    struct Answer(i32, std::slice::Iter<'static, &'static str>);

    impl Dom0 for Fake {
        fn stream(&self, command: &str, _: Option<Box<dyn Read + Send>>) -> Result<Box<dyn Stream>> {
            self.asked.lock().unwrap().push(command.to_owned());
            let (status, parts) = (self.answer)(command);
            Ok(Box::new(Answer(status, parts.iter())))
        }
    }

    impl Stream for Answer {
        fn read(&mut self) -> Result<Option<Vec<u8>>> {
            Ok(self.1.next().map(|part| part.as_bytes().to_vec()))
        }

        fn status(&mut self) -> Result<i32> {
            Ok(self.0)
        }
    }

    fn demo(script: &str, others: Vec<Other>) -> Demo {
        Demo { name: "gate".into(), ready: "gate: ready".into(), script: script.into(), port: None, others }
    }

    fn play(answer: fn(&str) -> (i32, &'static [&'static str])) -> (Result<()>, String, Vec<String>) {
        let mut config = Config::new("web", "");
        config.extra.push("vif = [\"backend=gate\"]".into());
        let other = Other { image: "/dev/null".into(), config, site: None };
        let mut demo = demo("exit", vec![other]);
        demo.serve_at(Some(8080));
        let (shown, fake) = (Shown::default(), Fake { asked: Arc::default(), answer });
        demo.put(&fake, "/d", &[]).unwrap();
        let outcome = demo.play(&fake, "/d", &shown.screen());
        let asked = fake.asked.lock().unwrap().clone();
        (outcome, shown.text(), asked)
    }

    #[test]
    fn guests_are_started_before_the_script_whose_lines_are_shown() {
        let (outcome, shown, asked) = play(|command| match command.contains("demo.sh") && command.starts_with("cd") {
            true => (0, &["$ pi", "ng\n1 byte", "s\nthe end"]),
            false => (0, &[]),
        });
        outcome.unwrap();
        assert_eq!(
            shown,
            "demo: $ xl create /d/web.cfg\ndemo:     vif = [\"backend=gate\"]\ndemo: $ ping\ndemo: 1 bytes\ndemo: the end\n"
        );
        let expected = [
            "cat > '/d/web'",
            "cat > '/d/web.cfg'",
            "cat > '/d/demo.sh'",
            "xl create -q -e '/d/web.cfg'",
            "cd '/d' && GUEST='gate' GUESTS='web' PORT=8080 sh ./demo.sh",
        ];
        assert_eq!(asked, expected);
    }

    #[test]
    fn what_fails_is_named() {
        let (outcome, shown, _) = play(|command| match command.starts_with("cd") {
            true => (7, &["$ ping\nno answer\n"]),
            false => (0, &[]),
        });
        let error = format!("{:#}", outcome.unwrap_err());
        assert!(error.contains("status 7") && shown.ends_with("demo: no answer\n"), "{error}\n{shown}");

        let (outcome, _, asked) = play(|command| match command.starts_with("xl create") {
            true => (1, &["no backend\n"]),
            false => (0, &[]),
        });
        let error = format!("{:#}", outcome.unwrap_err());
        assert!(error.starts_with("cannot start web: ") && error.ends_with("no backend"), "{error}");
        assert!(!asked.iter().any(|command| command.starts_with("cd")), "the script ran all the same: {asked:?}");
    }

    #[test]
    fn a_failure_leaves_the_guest_running_and_says_so_unless_all_is_over() {
        for (is_over, expected) in [(false, "demo: gate is still running (Ctrl-C to stop)\n"), (true, "")] {
            let (shown, fake) = (Shown::default(), Fake { asked: Arc::default(), answer: |_| (7, &[]) });
            let demo = demo("exit 7", Vec::new());
            demo.start(fake, "/d".into(), shown.screen(), move || is_over).join().unwrap();
            let text = shown.text();
            assert_eq!(text.contains("status 7"), !is_over, "{text}");
            assert!(text.ends_with(expected), "{text}");
        }
    }

    #[test]
    fn it_begins_when_the_guest_is_ready() {
        let (shown, fake) = (Shown::default(), Fake { asked: Arc::default(), answer: |_| (0, &[]) });
        let (screen, asked) = (shown.screen(), fake.asked.clone());
        let (ended, end) = std::sync::mpsc::channel();
        demo("exit", Vec::new()).show_when_ready(fake, "/d", &screen, move || ended.send(()).is_err());
        screen.console(b"gate: begins\n").unwrap();
        assert!(asked.lock().unwrap().is_empty());
        screen.console(b"gate: ready\n").unwrap();
        // It is asked whether all is over when the script has ended.
        end.recv().unwrap();
        assert!(asked.lock().unwrap()[0].ends_with("sh ./demo.sh"));
    }
}
