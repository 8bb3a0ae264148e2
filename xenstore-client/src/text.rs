//! Text that may hold what a peer has written, made fit for a log line and for a node's value.

use alloc::boxed::Box;
use alloc::string::String;

/// Bytes of such a text, at most.
const MAX_LEN: usize = 512;

/// Escapes what a terminal or a log could take for something else than text (control characters, escape sequences,
/// changes of direction), and cuts what is longer than a line should be.
///
/// # Examples
///
/// ```
/// let text = xenstore_client::printable("\u{1b}[31mred\n");
/// assert_eq!(&*text, "\\u{1b}[31mred\\n");
/// ```
pub fn printable(text: &str) -> Box<str> {
    let mut clean = String::with_capacity(text.len().min(MAX_LEN));
    for character in text.chars() {
        let before = clean.len();
        match character {
            // What quotes a value in the text is to stay as it is.
            '"' | '\'' | '\\' | ' '..='~' => clean.push(character),
            other => clean.extend(other.escape_debug()),
        }
        if clean.len() > MAX_LEN - '…'.len_utf8() {
            clean.truncate(before);
            clean.push('…');
            break;
        }
    }
    clean.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_and_commands_to_a_terminal_do_not() {
        assert_eq!(&*printable(r#"mac = "é\u{1b}": expected an address"#), r#"mac = "é\u{1b}": expected an address"#);
        assert_eq!(&*printable("\x1b]0;root\x07\r\n\u{202e}\0\u{9b}"), r"\u{1b}]0;root\u{7}\r\n\u{202e}\0\u{9b}");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(printable(&"x".repeat(509)).len(), 509);
        assert_eq!(&*printable(&"x".repeat(4000)), "x".repeat(509) + "…");
        for character in ['é', '\x1b', '\u{202e}', '😀'] {
            let cut = printable(&String::from(character).repeat(4000));
            assert!(cut.ends_with('…') && (490..=512).contains(&cut.len()), "{} {cut}", cut.len());
        }
    }
}
