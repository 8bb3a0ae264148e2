//! The examples of `docs/gate-rules.md` are read, and give the messages that it shows.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::super::Config;
use super::parsed;

const PAGE: &str = include_str!("../../../../docs/gate-rules.md");

/// The blocks of the page, with their languages.
fn blocks() -> Vec<(&'static str, &'static str)> {
    let mut blocks = Vec::new();
    let mut rest = PAGE;
    while let Some((_, after)) = rest.split_once("\n```") {
        let (language, body) = after.split_once('\n').expect("a block's first line");
        let (body, next) = body.split_once("\n```\n").expect("a block's end");
        blocks.push((language, body));
        rest = next;
    }
    blocks
}

#[test]
fn examples_are_right() {
    let examples: Vec<_> = blocks().into_iter().filter(|(language, _)| *language == "gate").collect();
    assert_eq!(examples.len(), 6, "the page has other examples now");
    for (_, text) in examples {
        let config = parsed(text);
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        assert_eq!(parsed(&config.to_string()), config);
    }
}

#[test]
fn messages_are_those_that_the_page_shows() {
    let mut shown = 0;
    for pair in blocks().windows(2) {
        let message: String = match pair[0] {
            ("gate-error", text) => Config::parse(text).expect_err(text).to_string(),
            ("gate-warning", text) => parsed(text).warnings.first().expect(text).to_string(),
            _ => continue,
        };
        assert_eq!(pair[1], ("text", message.as_str()));
        shown += 1;
    }
    assert_eq!(shown, 2);
}

#[test]
fn every_statement_has_an_example() {
    let lines = blocks().into_iter().filter(|(language, _)| *language == "gate").flat_map(|(_, text)| text.lines());
    let mut found: Vec<&str> = lines.filter_map(|line| line.split_whitespace().next()).collect();
    found.sort_unstable();
    found.dedup();
    let all = "accept client clients drop host limit log map masquerade policy publish reject search }";
    assert_eq!(found.join(" "), all);
}
