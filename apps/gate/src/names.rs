//! The addresses of the names in rules.

use alloc::rc::Rc;
use alloc::string::String;
use core::pin::pin;
use core::time::Duration;

use futures_util::future::select;
use sarab::network::{ResolveError, Resolver};
use sarab::time::Timer;
use sarab_router::rules::Family;

use crate::gate::Gate;

/// The resolver remembers an answer for as long as it may: asking it is cheap.
const TTL: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_secs(60);

/// Resolves names again and again, and has flows judged anew where they stand for others.
pub async fn serve(gate: Rc<Gate>, resolver: Resolver) {
    loop {
        let seen = gate.reloaded.get();
        let expired = gate.firewall.0.borrow_mut().names.expire(gate.now());
        if expired {
            gate.judge_names();
        }
        let due = gate.firewall.0.borrow_mut().names.due(gate.now()).map(|question| String::from(question.name));
        if let Some(name) = due {
            let found = resolver.resolve(&name).await;
            if gate.take_answer(&name, found) {
                gate.judge_names();
            }
            continue;
        }
        let (now, next) = (gate.now(), gate.firewall.0.borrow().names.next());
        let pause = next.map_or(TICK, |next| next.saturating_sub(now)).clamp(Duration::from_millis(10), TICK);
        select(pin!(gate.reloaded.after(seen)), pin!(Timer::after_micros(pause.as_micros() as u64))).await;
    }
}

impl Gate {
    fn judge_names(&self) {
        self.router.borrow_mut().judge_again(false);
        self.resolved.advance();
    }

    /// Takes note of an answer. Whether the name stands for other addresses than before, or is known only now.
    fn take_answer(&self, name: &str, found: Result<alloc::vec::Vec<core::net::IpAddr>, ResolveError>) -> bool {
        let now = self.now();
        let names = &mut self.firewall.0.borrow_mut().names;
        let addresses = match found {
            Ok(addresses) => addresses,
            Err(ResolveError::NoSuchName(_) | ResolveError::NoAddress(_)) => Default::default(),
            Err(_) => {
                names.failed(name, Family::V4, now);
                names.failed(name, Family::V6, now);
                return false;
            }
        };
        let mut changed = false;
        for family in [Family::V4, Family::V6] {
            changed |= !names.is_known(name, family);
            changed |= names.resolved(name, family, &addresses, TTL, now);
        }
        changed
    }
}
