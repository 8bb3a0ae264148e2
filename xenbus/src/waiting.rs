//! What a frontend waits for, and when the log is told.

use core::time::Duration;

use xen_hal::{information, warning};
use xenstore_client::{Error, printable};

use crate::device::Device;
use crate::failure::Failure;
use crate::rate_limit::RateLimit;
use crate::state::{FrontendStage, State};

/// How long a frontend has waited for its backend when the log is told, and told again.
const TOLD_AFTER: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(60), Duration::from_secs(600)];
/// The pause before a frontend that lacks grants or event channels looks again whether there are any; it is doubled.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Lives as long as the device: its backend may come and go meanwhile.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Since when the backend is waited for.
    since: Option<Duration>,
    /// What was logged of that.
    told: usize,
    shortage: Option<Shortage>,
    /// A backend that is never long in coming can have the log told again and again.
    lines: RateLimit,
}

/// This domain has too little of something to connect.
#[derive(Debug)]
struct Shortage {
    since: Duration,
    pause: Duration,
    /// When to try again.
    at: Duration,
    told: bool,
}

impl Default for Waiting {
    fn default() -> Self {
        Waiting { since: None, told: 0, shortage: None, lines: RateLimit::for_log_lines() }
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

    /// When to try again to get what this end lacks.
    pub(crate) fn retry_at(&self) -> Option<Duration> {
        self.shortage.as_ref().map(|shortage| shortage.at)
    }

    /// This end lacks something. Whether that is to be reported.
    pub(crate) fn lacks(&mut self, path: &str, failure: &Failure, now: Duration) -> bool {
        // It does not wait for the backend, but the other way round.
        (self.since, self.told) = (None, 0);
        if let Some(shortage) = &mut self.shortage {
            shortage.pause = shortage.pause.saturating_mul(2).min(MAX_PAUSE);
            shortage.at = now.saturating_add(shortage.pause);
            return false;
        }
        let told = self.lines.allows(now);
        let at = now.saturating_add(FIRST_PAUSE);
        self.shortage = Some(Shortage { since: now, pause: FIRST_PAUSE, at, told });
        if told {
            let seconds = FIRST_PAUSE.as_secs();
            warning!("{}: cannot connect: {}; trying again in {} s, then less often", path, failure, seconds);
        }
        told
    }

    /// This end has all that it needs.
    pub(crate) fn lacks_nothing(&mut self, path: &str, now: Duration) {
        if let Some(Shortage { since, told: true, .. }) = self.shortage.take() {
            let waited = now.saturating_sub(since).as_secs();
            information!("{}: has what it needs after {} s, connecting", path, waited);
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
    use xen_hal::Errno;

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

    #[test]
    fn what_is_lacking_is_looked_for_ever_less_often() {
        let mut waiting = Waiting::default();
        let failure = Failure::new(Errno::ENOSPC, "the grant table is full");
        let mut now = Duration::ZERO;
        let mut pauses = Vec::new();
        for index in 0..8 {
            assert_eq!(waiting.lacks("device/vif/0", &failure, now), index == 0);
            let at = waiting.retry_at().unwrap();
            pauses.push((at - now).as_secs());
            now = at;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60, 60, 60]);
        waiting.lacks_nothing("device/vif/0", now);
        assert_eq!(waiting.retry_at(), None);
        assert!(waiting.lacks("device/vif/0", &failure, now), "told again");
    }
}
