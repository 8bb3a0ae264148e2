//! From lines to statements. What needs other lines is checked later.

pub(super) mod cursor;
mod rule;
mod statement;
mod values;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::net::IpAddr;

use sarab_net::IpCidr;

use self::cursor::{At, Cursor, Fault};
pub(super) use self::rule::RuleLine;
pub(super) use self::statement::is_similar;
use super::config::{Masquerade, Target};
use super::diagnostic::Span;
use super::error::{ErrorKind, Found};
use super::rule::{PortRange, Transport, Verdict};
use super::set::ClientSelector;

/// What the lines say, in their order, with the places of all that is checked.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) clients: Vec<At<IpCidr>>,
    pub(super) hosts: Vec<HostLine>,
    pub(super) publish: Vec<PublishLine>,
    pub(super) maps: Vec<MapLine>,
    pub(super) search: Option<At<Box<str>>>,
    pub(super) masquerade: Option<At<Masquerade>>,
    pub(super) flows: Option<At<u32>>,
    pub(super) rate: Option<At<u32>>,
    pub(super) icmp: Option<At<u32>>,
    pub(super) log_drops: Option<At<bool>>,
    pub(super) policy: Option<At<Verdict>>,
    pub(super) rules: Vec<RuleLine>,
    pub(super) blocks: Vec<BlockLines>,
}

#[derive(Debug)]
pub(super) struct HostLine {
    pub(super) mac: At<[u8; 6]>,
    pub(super) name: At<Box<str>>,
    pub(super) addresses: Vec<At<IpAddr>>,
}

#[derive(Debug)]
pub(super) struct PublishLine {
    pub(super) transport: Transport,
    pub(super) ports: At<PortRange>,
    pub(super) on: Option<At<IpAddr>>,
    pub(super) to: At<Target>,
    pub(super) to_ports: Option<At<PortRange>>,
}

#[derive(Debug)]
pub(super) struct MapLine {
    pub(super) outside: At<IpAddr>,
    pub(super) inside: At<IpAddr>,
}

#[derive(Debug)]
pub(super) struct BlockLines {
    pub(super) client: At<ClientSelector>,
    pub(super) policy: Option<At<Verdict>>,
    pub(super) rules: Vec<RuleLine>,
}

/// Statements with what could not be read. A line has one error at most.
pub(super) fn parse(text: &str) -> (Draft, Vec<Fault>) {
    let mut parser = Parser { draft: Draft::default(), open: None };
    let mut faults = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let mut cursor = Cursor::new(line, index + 1);
        faults.extend(parser.line(&mut cursor).err());
    }
    // One whose first line is wrong has been reported.
    if let Some(Open { opened, lines: Some(block) }) = parser.open.take() {
        faults.push(Fault { span: opened, kind: ErrorKind::UnclosedBlock });
        parser.draft.blocks.push(block);
    }
    (parser.draft, faults)
}

struct Parser {
    draft: Draft,
    open: Option<Open>,
}

/// A block whose end has not come.
struct Open {
    opened: Span,
    /// None if its first line is wrong: its rules are still read, for their errors.
    lines: Option<BlockLines>,
}

impl Parser {
    fn line(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        let Some(first) = cursor.peek() else { return Ok(()) };
        cursor.take(first.text);
        if let Some(action) = rule::verdict(first.text) {
            let line = rule::rule(action, cursor)?;
            match &mut self.open {
                Some(Open { lines: Some(block), .. }) => block.rules.push(line),
                Some(Open { lines: None, .. }) => {}
                None => self.draft.rules.push(line),
            }
            return Ok(());
        }
        match first.text {
            "policy" => {
                let policy = statement::policy(first, cursor)?;
                match &mut self.open {
                    Some(Open { lines: None, .. }) => Ok(()),
                    Some(Open { lines: Some(block), .. }) => once("policy", &mut block.policy, policy),
                    None => once("policy", &mut self.draft.policy, policy),
                }
            }
            "client" => self.open(first, cursor),
            "}" => {
                let Some(block) = self.open.take() else { return Err(first.fault(ErrorKind::StrayBrace)) };
                self.draft.blocks.extend(block.lines);
                cursor.finish("the end of the line after `}`")
            }
            other => match statement::KINDS.iter().find(|(name, _)| *name == other) {
                Some((statement, _)) if self.open.is_some() => Err(first.fault(ErrorKind::NotInBlock { statement })),
                Some((_, parse)) => parse(&mut self.draft, first, cursor),
                None => Err(first.fault(ErrorKind::UnknownStatement {
                    found: Found::word(other),
                    similar: statement::similar(other),
                })),
            },
        }
    }

    /// A block's first line.
    fn open(&mut self, first: cursor::Token<'_>, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        if let Some(Open { opened, .. }) = &self.open {
            let line = opened.line;
            // What follows is read as the new client's.
            self.draft.blocks.extend(self.open.take().and_then(|block| block.lines));
            self.open = Some(Open { opened: first.span, lines: None });
            return Err(first.fault(ErrorKind::NestedBlock { line }));
        }
        self.open = Some(Open { opened: first.span, lines: None });
        let client = statement::client(cursor)?;
        cursor.words(&["{"], "`{` at the end of the line")?;
        cursor.finish("the end of the line after `{`")?;
        self.open =
            Some(Open { opened: first.span, lines: Some(BlockLines { client, policy: None, rules: Vec::new() }) });
        Ok(())
    }
}

/// Fills what can be said once.
fn once<T>(statement: &'static str, place: &mut Option<At<T>>, new: At<T>) -> Result<(), Fault> {
    if let Some(At { span: Span { line, .. }, .. }) = *place {
        return Err(Fault { span: new.span, kind: ErrorKind::DuplicateStatement { statement, line } });
    }
    *place = Some(new);
    Ok(())
}
