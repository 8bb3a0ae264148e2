//! What is allowed, and how networks are translated: the language of the gate's configuration.
//!
//! [`Config::parse`] reads a text; `docs/gate-rules.md` explains what it can say. [`Rules::evaluate`] tells what happens to a new
//! flow, from its first packet. It allocates nothing. What names stand for is in a [`NameTable`], and how much each rule has
//! matched in [`Counters`]: both outlive the text.
//!
//! ```
//! use sarab_router::rules::{ClientIdentity, Config, Query, Verdict, Zone};
//!
//! let config = Config::parse("clients 10.0.1.1/24\npolicy drop\naccept tcp to any port 80,443\n")?;
//! let client = ClientIdentity { addresses: &["10.0.1.9".parse()?], mac: [0, 0x16, 0x3e, 0, 0, 9], domain: Some(7) };
//! let query = Query {
//!     from: Zone::Inside,
//!     to: Zone::Outside,
//!     sender: Some(&client),
//!     receiver: None,
//!     protocol: 6,
//!     source: "10.0.1.9".parse()?,
//!     destination: "192.0.2.1".parse()?,
//!     source_port: Some(50000),
//!     destination_port: Some(443),
//!     icmp: None,
//! };
//! assert_eq!(config.rules.evaluate(&query, &()).verdict, Some(Verdict::Accept));
//! let outcome = config.rules.evaluate(&Query { destination_port: Some(22), ..query }, &());
//! assert_eq!(outcome.verdict, Some(Verdict::Drop), "by the policy");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod check;
mod compiled;
mod config;
mod counters;
mod diagnostic;
mod error;
mod icmp;
mod names;
mod parse;
mod prefix;
mod rule;
mod set;
#[cfg(test)]
mod tests;
mod warning;

pub use config::{Config, Host, Limits, Map, Masquerade, Publish, Target};
pub use counters::{Count, Counters};
pub use diagnostic::{Diagnostic, Error, Errors, Span, Warning};
pub use error::{ErrorKind, Found};
pub use icmp::IcmpType;
pub use names::{NameId, NameTable, Names, Question};
pub use rule::{Family, Place, PortRange, Ports, Protocol, Rule, Transport, Verdict};
pub use set::{ClientIdentity, Outcome, Query, RuleId, Rules, Zone};
pub use warning::WarningKind;

/// The longest text, in bytes.
pub const MAX_TEXT: usize = 64 << 10;
/// The most rules of a text.
pub const MAX_RULES: usize = 4096;
/// The most names that the rules of a text can refer to.
pub const MAX_NAMES: usize = 256;
