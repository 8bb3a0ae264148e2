//! What dom0, or whom its policy allows, calls in this qube.

use alloc::string::String;
use core::time::Duration;

use sarab::println;
use sarab::qubes::{Call, ExitCode, Session};

use crate::gate::Gate;

/// Bytes of a line with a time, at most.
const MAX_LINE: usize = 64;

/// Answers a call.
pub async fn serve(gate: &Gate, call: Call, session: &mut Session) -> ExitCode {
    match call.service() {
        Some("qubes.SetDateTime") => set_time(gate, session).await,
        // The host sleeps: what is outside may be another network afterwards.
        Some("qubes.SuspendPre" | "qubes.SuspendPreAll") => {
            println!("gate: the host is about to suspend");
            ExitCode::SUCCESS
        }
        Some("qubes.SuspendPost" | "qubes.SuspendPostAll") => {
            println!("gate: the host has resumed");
            gate.announce();
            ExitCode::SUCCESS
        }
        Some("qubes.SetGuiMode") => ExitCode::SUCCESS,
        Some("gate.Status") => print(session, &gate.status()).await,
        Some("gate.Metrics") => print(session, &gate.metrics()).await,
        _ => ExitCode::NOT_FOUND,
    }
}

async fn print(session: &mut Session, text: &str) -> ExitCode {
    match session.write(text.as_bytes()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

async fn set_time(gate: &Gate, session: &mut Session) -> ExitCode {
    let mut line = [0; MAX_LINE];
    let mut len = 0;
    while len < MAX_LINE {
        match session.read(&mut line[len..]).await {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(_) => return ExitCode::FAILURE,
        }
    }
    let text = String::from_utf8_lossy(&line[..len]);
    let text = text.trim();
    match unix_time(text) {
        Some(time) => {
            gate.app.clock().set_wall(time);
            ExitCode::SUCCESS
        }
        None => {
            let _ = session.write_error(b"gate: expected a time such as 2026-11-27T10:54:12+00:00\n").await;
            println!("gate: qubes.SetDateTime: {text:?} is not a time");
            ExitCode::FAILURE
        }
    }
}

/// A time as `date -u -Iseconds` prints it, since 1970-01-01 00:00 UTC.
fn unix_time(text: &str) -> Option<Duration> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Duration::try_from(time.as_duration()).ok()
}
