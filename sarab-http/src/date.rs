//! Dates of HTTP (RFC 9110, section 5.6.7).

use core::fmt;

const DAY: u64 = 24 * 60 * 60;
/// The last second of the year 9999: there is no form for what follows.
const LAST: u64 = 253_402_300_799;
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const LONG_DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A second from 1970 to 9999, in UTC. It prints as an IMF-fixdate.
///
/// # Examples
///
/// ```
/// use sarab_http::HttpDate;
///
/// let now = HttpDate::from_unix(1_800_000_000).expect("it is before the year 10,000");
/// let date = HttpDate::parse("Sun, 06 Nov 1994 08:49:37 GMT", now).expect("it is a date");
/// assert_eq!(date.unix(), 784_111_777);
/// assert_eq!(HttpDate::parse("Sunday, 06-Nov-94 08:49:37 GMT", now), Some(date));
/// assert_eq!(HttpDate::parse("Sun Nov  6 08:49:37 1994", now), Some(date));
/// assert_eq!(date.to_string(), "Sun, 06 Nov 1994 08:49:37 GMT");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpDate(u64);

impl HttpDate {
    /// The last second of the year 9999.
    pub const LAST: HttpDate = HttpDate(LAST);

    /// So many seconds after 1970-01-01 00:00; nothing before that, and after the year 9999.
    pub fn from_unix(seconds: i64) -> Option<HttpDate> {
        u64::try_from(seconds).ok().filter(|seconds| *seconds <= LAST).map(HttpDate)
    }

    /// Seconds after 1970-01-01 00:00.
    pub const fn unix(self) -> u64 {
        self.0
    }

    /// Reads any of the three forms that there were. A year of two digits is of the last 50 years or of the coming 50,
    /// as seen from `now`. Nothing where it is no date: what hangs on it is ignored then.
    pub fn parse(text: &str, now: HttpDate) -> Option<HttpDate> {
        let text = text.trim_matches([' ', '\t']).as_bytes();
        let digits = |at: usize, count: usize| -> Option<u64> {
            text.get(at..at + count)?
                .iter()
                .try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u64::from(digit - b'0')))
        };
        let is = |at: usize, part: &[u8]| text.get(at..at + part.len()) == Some(part);
        let month = |at: usize| MONTHS.iter().position(|month| is(at, month.as_bytes())).map(|month| month as u64 + 1);
        let time = |at: usize| {
            let (hour, minute, second) = (digits(at, 2)?, digits(at + 3, 2)?, digits(at + 6, 2)?);
            // A leap second is the one after it.
            let known = is(at + 2, b":") && is(at + 5, b":") && hour < 24 && minute < 60 && second <= 60;
            known.then_some((hour * 60 + minute) * 60 + second)
        };
        let (year, month, day, time) = if text.len() == 29 && is(3, b", ") {
            // Sun, 06 Nov 1994 08:49:37 GMT
            let known = DAYS.iter().any(|day| is(0, day.as_bytes())) && is(25, b" GMT");
            let spaces = is(7, b" ") && is(11, b" ") && is(16, b" ");
            (digits(12, 4)?, month(8)?, digits(5, 2)?, time(17).filter(|_| known && spaces)?)
        } else if text.len() == 24 && is(3, b" ") {
            // Sun Nov  6 08:49:37 1994
            let known = DAYS.iter().any(|day| is(0, day.as_bytes()));
            let spaces = is(7, b" ") && is(10, b" ") && is(19, b" ");
            let day = if is(8, b" ") { digits(9, 1)? } else { digits(8, 2)? };
            (digits(20, 4)?, month(4)?, day, time(11).filter(|_| known && spaces)?)
        } else {
            // Sunday, 06-Nov-94 08:49:37 GMT
            let at = LONG_DAYS.iter().find(|day| is(0, day.as_bytes()))?.len();
            let known = text.len() == at + 24 && is(at, b", ") && is(at + 4, b"-") && is(at + 8, b"-");
            let known = known && is(at + 11, b" ") && is(at + 20, b" GMT");
            let (this, year) = (now.civil().0, digits(at + 9, 2)?);
            let year = this - this % 100 + year;
            let year = if year > this + 50 { year - 100 } else { year };
            (year, month(at + 5)?, digits(at + 2, 2)?, time(at + 12).filter(|_| known)?)
        };
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let last = match month {
            2 => 28 + u64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if year < 1970 || !(1..=last).contains(&day) {
            return None;
        }
        // Days from the year 0 on, in years that begin in March.
        let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
        let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
        Some(HttpDate((days - 719_468) * DAY + time)).filter(|date| date.0 <= LAST)
    }

    /// Year, month from 1, and day from 1.
    fn civil(self) -> (u64, u64, u64) {
        let days = self.0 / DAY + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let year = era * 400 + year + u64::from(month >= 10);
        (year, if month < 10 { month + 3 } else { month - 9 }, day - (153 * month + 2) / 5 + 1)
    }

    /// As logs in the common format have it: `06/Nov/1994:08:49:37 +0000`.
    pub fn common_log(self) -> impl fmt::Display {
        Form(self, |date, f| {
            let (year, month, day) = date.civil();
            write!(f, "{day:02}/{}/{year}:", MONTHS[month as usize - 1])?;
            date.time(f)?;
            f.write_str(" +0000")
        })
    }

    /// As RFC 3339 has it: `1994-11-06T08:49:37Z`.
    pub fn rfc3339(self) -> impl fmt::Display {
        Form(self, |date, f| {
            let (year, month, day) = date.civil();
            write!(f, "{year}-{month:02}-{day:02}T")?;
            date.time(f)?;
            f.write_str("Z")
        })
    }

    fn time(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = self.0 % DAY;
        write!(f, "{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
    }
}

impl fmt::Display for HttpDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        let name = DAYS[(self.0 / DAY % 7) as usize];
        write!(f, "{name}, {day:02} {} {year} ", MONTHS[month as usize - 1])?;
        self.time(f)?;
        f.write_str(" GMT")
    }
}

/// A date in another form.
struct Form(HttpDate, fn(HttpDate, &mut fmt::Formatter<'_>) -> fmt::Result);

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.1)(self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    #[test]
    fn dates() {
        let now = HttpDate(1_800_000_000);
        for (text, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Tue, 29 Feb 2000 12:00:00 GMT", Some(951_825_600)),
            ("Wed, 31 Dec 2098 23:59:60 GMT", Some(4_070_908_800)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(LAST)),
            ("Fri, 31 Dec 9999 23:59:60 GMT", None),
            ("Wednesday, 01-Jan-70 00:00:00 GMT", Some(3_155_760_000)),
            ("Friday, 01-Jan-77 00:00:00 GMT", Some(3_376_684_800)),
            ("Saturday, 01-Jan-78 00:00:00 GMT", Some(252_460_800)),
            ("Thu Jan  1 00:00:01 1970", Some(1)),
            ("Thu Jan 11 00:00:01 1970", Some(864_001)),
            ("Thu, 29 Feb 2001 12:00:00 GMT", None),
            ("Thu, 29 Feb 2100 12:00:00 GMT", None),
            ("Thu, 31 Apr 2001 12:00:00 GMT", None),
            ("Thu, 00 Apr 2001 12:00:00 GMT", None),
            ("Thu, 01 Jan 1969 00:00:00 GMT", None),
            ("Thu, 01 Jan 2001 24:00:00 GMT", None),
            ("Thu, 01 Jan 2001 00:60:00 GMT", None),
            ("Thu, 01 Jan 2001 00:00:00 UTC", None),
            ("Thu, 01 jan 2001 00:00:00 GMT", None),
            ("Thu, 01 Jan 2001 00:00:00 +0000", None),
            ("Thu, +1 Jan 2001 00:00:00 GMT", None),
            ("Xyz, 01 Jan 2001 00:00:00 GMT", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(HttpDate::parse(text, now).map(HttpDate::unix), expected, "{text}");
        }
        assert_eq!(HttpDate(784_111_777).common_log().to_string(), "06/Nov/1994:08:49:37 +0000");
        assert_eq!(HttpDate(784_111_777).rfc3339().to_string(), "1994-11-06T08:49:37Z");
        assert_eq!((HttpDate::from_unix(-1), HttpDate::from_unix(LAST as i64 + 1)), (None, None));
    }

    proptest! {
        #[test]
        fn dates_are_read_as_they_are_written(second in 0..=LAST) {
            let date = HttpDate(second);
            prop_assert_eq!(HttpDate::parse(&date.to_string(), HttpDate(0)), Some(date));
        }

        #[test]
        fn any_text_is_read(text in "\\PC{0,40}", near in "(Sun|Sunday|Thu)[, ]{1,2}[0-9A-Za-z: -]{15,26}( GMT)?") {
            let _ = (HttpDate::parse(&text, HttpDate(LAST)), HttpDate::parse(&near, HttpDate(0)));
        }
    }
}
