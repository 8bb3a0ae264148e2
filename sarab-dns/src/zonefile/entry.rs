//! One entry of a zone file: its tokens (RFC 1035, section 5.1).

use alloc::vec::Vec;

/// A token of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub start: usize,
    pub end: usize,
    /// It was in quotation marks, which are not part of it.
    pub quoted: bool,
    /// There is no space before it.
    pub joined: bool,
    /// Lines after the entry's first.
    pub line: u32,
}

/// Where an entry ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// After so many bytes, its last line's end included.
    At(usize),
    /// More bytes are needed to say.
    Unknown,
    /// Of this there is no end; so many lines after its begin.
    Never(&'static str, u32),
}

/// Finds where the entry at the begin of `bytes` ends; `last` if no bytes follow these.
pub(super) fn end(bytes: &[u8], last: bool) -> End {
    let (mut depth, mut quoted, mut line) = (0u32, false, 0);
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            // What is escaped means nothing here, but a line's end is one.
            b'\\' => at += usize::from(bytes.get(at).is_some_and(|next| *next != b'\n')),
            b'\n' if quoted => return End::Never("quotation marks are not closed before the line's end", line),
            b'\n' if depth == 0 => return End::At(at),
            b'\n' => line += 1,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b';' => at += bytes[at..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - at),
            b'(' => depth += 1,
            b')' => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return End::Never("`)` without `(`", line),
            },
            _ => {}
        }
    }
    match (last, quoted, depth) {
        (false, ..) => End::Unknown,
        (true, true, _) => End::Never("quotation marks are not closed before the file's end", line),
        (true, false, 1..) => End::Never("`(` is not closed before the file's end", 0),
        (true, false, 0) => End::At(bytes.len()),
    }
}

/// The tokens of an entry that [`end`] has found.
pub(super) fn tokens(bytes: &[u8], to: &mut Vec<Token>) {
    to.clear();
    let (mut at, mut line, mut joined) = (0, 0, false);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\n' => line += 1,
            b' ' | b'\t' | b'\r' | b'(' | b')' => {}
            b';' => {
                at += bytes[at..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - at);
                joined = false;
                continue;
            }
            b'"' => {
                let start = at + 1;
                let mut end = start;
                while let Some(byte) = bytes.get(end).filter(|byte| **byte != b'"') {
                    end += if *byte == b'\\' { 2 } else { 1 };
                }
                let end = end.min(bytes.len());
                to.push(Token { start, end, quoted: true, joined, line });
                at = (end + 1).min(bytes.len());
                joined = true;
                continue;
            }
            _ => {
                let start = at;
                while let Some(byte) = bytes.get(at) {
                    match byte {
                        b' ' | b'\t' | b'\r' | b'\n' | b'(' | b')' | b';' | b'"' => break,
                        b'\\' if bytes.get(at + 1).is_some_and(|next| *next != b'\n') => at += 2,
                        _ => at += 1,
                    }
                }
                to.push(Token { start, end: at, quoted: false, joined, line });
                joined = true;
                continue;
            }
        }
        at += 1;
        joined = false;
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;

    use super::*;

    fn texts(bytes: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        tokens(bytes, &mut found);
        let text = |token: &Token| String::from_utf8_lossy(&bytes[token.start..token.end]).into_owned();
        found.iter().map(text).collect()
    }

    #[test]
    fn entries_end_where_they_do() {
        assert_eq!(end(b"a b\nc", false), End::At(4));
        assert_eq!(end(b"a (b ; x ) \"\n c)\nd", false), End::At(17));
        assert_eq!(end(b"a \"b;( \\\" \"\n", false), End::At(12));
        assert_eq!(end(b"a (b\n", false), End::Unknown);
        assert_eq!(end(b"a ; (b", true), End::At(6));
        assert_eq!(end(b"a \\\n", true), End::At(4));
        assert!(matches!(end(b"a (b\n", true), End::Never("`(` is not closed before the file's end", 0)));
        assert!(matches!(end(b"(\na \"b\n", false), End::Never(_, 1)));
        assert!(matches!(end(b"a ) b\n", false), End::Never(..)));
    }

    #[test]
    fn tokens_are_told_apart() {
        assert_eq!(texts(b"a (b ; x ) \"\n c)\n"), ["a", "b", "c"]);
        assert_eq!(texts(b" TXT \"b; \\\" (\" c\\ d\\;\n"), ["TXT", "b; \\\" (", "c\\ d\\;"]);
        assert_eq!(texts(b"alpn=\"h2,h3\" x\n"), ["alpn=", "h2,h3", "x"]);
        assert_eq!(texts(b"a \"\" \\"), ["a", "", "\\"]);
        assert!(texts(b"; only\n").is_empty());
    }
}
