//! Requests on a condition (RFC 9110, section 13), and whether a part is of what a client has (13.1.5).

use crate::{Fields, HttpDate};

/// What tells a state of something from another one.
#[derive(Clone, Copy, Debug)]
pub struct Validators<'a> {
    /// Its entity tag, a strong one, quotes included.
    pub tag: &'a str,
    /// When it was changed.
    pub modified: Option<HttpDate>,
    /// What time it is.
    pub now: HttpDate,
}

/// What comes of the conditions of a request by GET or HEAD for something that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is answered as if there were none.
    Met,
    /// The client has it already: 304.
    NotModified,
    /// It is not what the client believes: 412.
    Failed,
}

impl Validators<'_> {
    /// Looks at `If-Match`, `If-Unmodified-Since`, `If-None-Match` and `If-Modified-Since`, in the order and with the
    /// precedence of section 13.2.2. A date that is none, or that is there twice, is no condition.
    ///
    /// # Examples
    ///
    /// ```
    /// use sarab_http::{Condition, HttpDate, Request, Validators};
    ///
    /// let head = b"GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"x\", W/\"y\"\r\n\r\n";
    /// let (modified, now) = (HttpDate::from_unix(5), HttpDate::from_unix(10).unwrap());
    /// let state = Validators { tag: "\"y\"", modified, now };
    /// assert_eq!(state.evaluate(Request::parse(head)?.fields), Condition::NotModified);
    /// # Ok::<(), sarab_http::Refusal>(())
    /// ```
    pub fn evaluate(&self, fields: Fields<'_>) -> Condition {
        if is_there(fields, "if-match") {
            if !fields.all("if-match").any(|list| self.matches(list, true)) {
                return Condition::Failed;
            }
        } else if let (Some(since), Some(modified)) = (self.date(fields, "if-unmodified-since"), self.modified)
            && modified > since
        {
            return Condition::Failed;
        }
        if is_there(fields, "if-none-match") {
            if fields.all("if-none-match").any(|list| self.matches(list, false)) {
                return Condition::NotModified;
            }
        } else if let (Some(since), Some(modified)) = (self.date(fields, "if-modified-since"), self.modified)
            && modified <= since
        {
            return Condition::NotModified;
        }
        Condition::Met
    }

    /// Whether a client that asks for a part, on condition of `If-Range` perhaps, has others of what there is now. A
    /// weak tag is none, and a date is one where nothing was changed in the second that it names and the client saw it in.
    pub fn range_applies(&self, fields: Fields<'_>) -> bool {
        if !is_there(fields, "if-range") {
            return true;
        }
        let Some(condition) = fields.one("if-range") else { return false };
        if condition.contains('"') {
            return condition == self.tag;
        }
        let date = HttpDate::parse(condition, self.now);
        date.is_some() && date == self.modified && date.is_some_and(|date| date < self.now)
    }

    /// Whether a list of tags has this one (8.8.3.2).
    fn matches(&self, list: &str, strongly: bool) -> bool {
        list.trim_matches([' ', '\t']) == "*" || tags(list).any(|(weak, tag)| tag == self.tag && !(weak && strongly))
    }

    fn date(&self, fields: Fields<'_>, name: &str) -> Option<HttpDate> {
        HttpDate::parse(fields.one(name)?, self.now)
    }
}

/// Whether there is such a field, whatever it says.
fn is_there(fields: Fields<'_>, name: &str) -> bool {
    fields.iter().any(|(own, _)| own.eq_ignore_ascii_case(name))
}

/// The tags of a list, up to what is none: whether each is weak, and its opaque part. Commas may stand in them.
fn tags(list: &str) -> impl Iterator<Item = (bool, &str)> {
    let mut rest = list;
    core::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (weak, tag) = rest.strip_prefix("W/").map_or((false, rest), |tag| (true, tag));
        let len = tag.strip_prefix('"')?.find('"')? + 2;
        let (tag, after) = tag.split_at(len);
        rest = after.trim_start_matches([' ', '\t']);
        (rest.is_empty() || rest.starts_with(',')).then_some((weak, tag))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;
    use alloc::format;

    fn with<T>(lines: &str, test: impl FnOnce(&Validators<'_>, Fields<'_>) -> T) -> T {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", lines.replace('\n', "\r\n"));
        let (modified, now) = (HttpDate::from_unix(784_111_777), HttpDate::from_unix(1_800_000_000).unwrap());
        test(&Validators { tag: "\"a,b\"", modified, now }, Request::parse(head.as_bytes()).unwrap().fields)
    }

    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    #[test]
    fn conditions() {
        use Condition::*;
        for (lines, expected) in [
            ("X: y".into(), Met),
            ("If-Match: *".into(), Met),
            ("If-Match: \"x\" , \"a,b\"".into(), Met),
            ("If-Match: \"x\"\nIf-Match: \"a,b\"".into(), Met),
            ("If-Match: W/\"a,b\"".into(), Failed),
            ("If-Match: \"a\"".into(), Failed),
            ("If-Match:".into(), Failed),
            ("If-Match: a,b".into(), Failed),
            (format!("If-Unmodified-Since: {SAME}"), Met),
            (format!("If-Unmodified-Since: {BEFORE}"), Failed),
            (format!("If-Match: \"a,b\"\nIf-Unmodified-Since: {BEFORE}"), Met),
            (format!("If-Unmodified-Since: {BEFORE}\nIf-Unmodified-Since: {BEFORE}"), Met),
            ("If-Unmodified-Since: never".into(), Met),
            ("If-None-Match: *".into(), NotModified),
            ("If-None-Match: W/\"a,b\"".into(), NotModified),
            ("If-None-Match: ,, \"x\",\"a,b\",".into(), NotModified),
            ("If-None-Match: \"a\"".into(), Met),
            ("If-None-Match: \"a,b".into(), Met),
            ("If-None-Match: \"x\"\"a,b\"".into(), Met),
            (format!("If-Modified-Since: {SAME}"), NotModified),
            (format!("If-Modified-Since: {BEFORE}"), Met),
            (format!("If-None-Match: \"x\"\nIf-Modified-Since: {SAME}"), Met),
            (format!("If-Match: \"x\"\nIf-None-Match: *\nIf-Modified-Since: {SAME}"), Failed),
            (format!("If-Unmodified-Since: {BEFORE}\nIf-None-Match: *"), Failed),
        ] {
            assert_eq!(with(&lines, |state, fields| state.evaluate(fields)), expected, "{lines}");
        }
    }

    #[test]
    fn parts_of_what_there_is() {
        for (lines, expected) in [
            ("X: y".into(), true),
            ("If-Range: \"a,b\"".into(), true),
            ("If-Range: W/\"a,b\"".into(), false),
            ("If-Range: \"x\"".into(), false),
            (format!("If-Range: {SAME}"), true),
            (format!("If-Range: {BEFORE}"), false),
            ("If-Range: Wed, 13 Jan 2027 00:00:00 GMT".into(), false),
            ("If-Range: \"a,b\"\nIf-Range: \"a,b\"".into(), false),
            ("If-Range:".into(), false),
        ] {
            assert_eq!(with(&lines, |state, fields| state.range_applies(fields)), expected, "{lines}");
        }
    }
}
