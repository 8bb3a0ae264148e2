//! What a frontend waits for, and when the log is told.

use core::time::Duration;

use xen_hal::{information, warning};
use xenstore_client::{Error, printable};

use crate::device::Device;
use crate::rate_limit::RateLimit;
use crate::state::{FrontendStage, State};

/// How long a frontend has waited for its backend when the log is told, and told again.
const TOLD_AFTER: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(60), Duration::from_secs(600)];
/// Lives as long as the device: its backend may come and go meanwhile.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Since when the backend is waited for.
    since: Option<Duration>,
    /// What was logged of that.
    told: usize,
    /// A backend that is never long in coming can have the log told again and again.
    lines: RateLimit,
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting { since: None, told: 0, lines: RateLimit::for_log_lines() }
    }
}

impl Waiting {
    /// The backend is waited for: when the log is to be told next, `None` where it was told often enough.
    pub(crate) fn due(&mut self, now: Duration) -> Option<Duration> {
        let since = *self.since.get_or_insert(now);
        TOLD_AFTER.get(self.told).map(|after| since.saturating_add(*after))
    }

    /// Logs what is waited for.
    pub(crate) async fn tell(
        &mut self,
        device: &Device,
        now: Duration,
        stage: FrontendStage,
        state: Option<State>,
    ) -> Result<(), Error> {
        self.told += 1;
        if !device.log().allows_warning() || !self.lines.allows(now) {
            return Ok(());
        }
        let waited = now.saturating_sub(self.since.unwrap_or(now)).as_secs();
        let (path, domain) = (device.path(), device.other_domain().0);
        let Some(state) = state else {
            let missing = device.other_path();
            warning!("{}: waiting for its backend for {} s (domain {}): {} is missing", path, waited, domain, missing);
            return Ok(());
        };
        let (name, number) = (state.name(), state as u8);
        match hint(device, stage, state).await? {
            Hint::Text("") => warning!(
                "{}: waiting for its backend for {} s (domain {}, state {}, {})",
                path,
                waited,
                domain,
                number,
                name
            ),
            Hint::Text(hint) => warning!(
                "{}: waiting for its backend for {} s (domain {}, state {}, {}): {}",
                path,
                waited,
                domain,
                number,
                name,
                hint
            ),
            Hint::HotplugStatus(status) => warning!(
                "{}: waiting for its backend for {} s (domain {}, state {}, {}): its hotplug-status is \"{}\"",
                path,
                waited,
                domain,
                number,
                name,
                status
            ),
        }
        Ok(())
    }

    /// The backend is connected.
    pub(crate) fn connected(&mut self, path: &str, now: Duration) {
        let since = self.since.take();
        if let Some(since) = since.filter(|_| core::mem::take(&mut self.told) > 0)
            && self.lines.allows(now)
        {
            information!("{}: its backend is connected, after {} s", path, now.saturating_sub(since).as_secs());
        }
    }
}

/// What an administrator may look at.
enum Hint {
    Text(&'static str),
    HotplugStatus(alloc::boxed::Box<str>),
}

async fn hint(device: &Device, stage: FrontendStage, state: State) -> Result<Hint, Error> {
    Ok(Hint::Text(match (stage, state) {
        (_, State::Unknown | State::Initialising) => "its driver has not begun (is it loaded in that domain?)",
        (_, State::Closing | State::Closed) => "it has ended (that domain's log may say why)",
        (FrontendStage::Published, _) => {
            // Linux's backends connect once the script of the toolstack or of `xl devd` has set the device up.
            let status = match device.get_other::<alloc::string::String>("hotplug-status").await {
                Err(error) if error.is_broken() => return Err(error),
                status => status.unwrap_or(None),
            };
            match status {
                None => "its hotplug script has not finished (there is no hotplug-status)",
                Some(status) if status == "connected" => "its hotplug script has finished, and it does not connect",
                Some(status) => return Ok(Hint::HotplugStatus(printable(&status))),
            }
        }
        _ => "",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn the_log_is_told_three_times() {
        let mut waiting = Waiting::default();
        let mut told = Vec::new();
        let start = Duration::from_secs(100);
        for second in 0..100_000 {
            let now = start + Duration::from_secs(second);
            if waiting.due(now).is_some_and(|at| at <= now) {
                waiting.told += 1;
                told.push(second);
            }
        }
        assert_eq!(told, [5, 60, 600]);
        waiting.connected("device/vif/0", start);
        assert_eq!(waiting.due(start), Some(start + TOLD_AFTER[0]), "another wait");
    }
}
