//! The hypervisor's error numbers.

use core::fmt;

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        /// An error number as Xen's hypercalls and XenStore's replies name it (xen/include/public/errno.h).
        ///
        /// # Examples
        ///
        /// ```
        /// use xen_hal::Errno;
        ///
        /// assert_eq!(Errno::from_name("ENOENT"), Some(Errno::ENOENT));
        /// assert_eq!(Errno::from_number(28).to_string(), "ENOSPC (no space left)");
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        #[allow(clippy::upper_case_acronyms)]
        #[non_exhaustive]
        pub enum Errno {
            $(#[doc = $text] $name,)*
            /// A number that the header does not list.
            Other(i32),
        }

        impl Errno {
            /// The error for a number, positive as the header has it.
            pub const fn from_number(number: i32) -> Errno {
                match number {
                    $($number => Errno::$name,)*
                    other => Errno::Other(other),
                }
            }

            /// The number, positive as the header has it.
            pub const fn number(self) -> i32 {
                match self {
                    $(Errno::$name => $number,)*
                    Errno::Other(number) => number,
                }
            }

            /// The name, such as `EINVAL`; `E?` for a number that the header does not list.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Errno::$name => stringify!($name),)*
                    Errno::Other(_) => "E?",
                }
            }

            /// The error for a name such as `EINVAL`, as XenStore's replies carry it.
            pub fn from_name(name: &str) -> Option<Errno> {
                match name {
                    $(stringify!($name) => Some(Errno::$name),)*
                    _ => None,
                }
            }

            const fn text(self) -> &'static str {
                match self {
                    $(Errno::$name => $text,)*
                    Errno::Other(_) => "unknown error number",
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such entry";
    ESRCH = 3, "no such domain";
    EINTR = 4, "interrupted";
    EIO = 5, "input or output failed";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "too much at once";
    ENOEXEC = 8, "not executable";
    EBADF = 9, "bad handle";
    ECHILD = 10, "no child";
    EAGAIN = 11, "try again";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "access denied";
    EFAULT = 14, "bad address";
    EBUSY = 16, "busy";
    EEXIST = 17, "exists already";
    EXDEV = 18, "across devices";
    ENODEV = 19, "no such device";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    ENFILE = 23, "table full";
    EMFILE = 24, "too many open";
    ENOSPC = 28, "no space left";
    EROFS = 30, "read-only";
    EMLINK = 31, "too many links";
    EDOM = 33, "argument out of domain";
    ERANGE = 34, "out of range";
    EDEADLK = 35, "would deadlock";
    ENAMETOOLONG = 36, "name too long";
    ENOLCK = 37, "no lock";
    ENOSYS = 38, "not implemented";
    ENOTEMPTY = 39, "not empty";
    ENODATA = 61, "no data";
    ETIME = 62, "timed out";
    EBADMSG = 74, "bad message";
    EOVERFLOW = 75, "value too large";
    EILSEQ = 84, "illegal byte sequence";
    ERESTART = 85, "to be restarted";
    ENOTSOCK = 88, "not a socket";
    EMSGSIZE = 90, "message too long";
    EOPNOTSUPP = 95, "not supported";
    EADDRINUSE = 98, "address in use";
    EADDRNOTAVAIL = 99, "address not available";
    ENOBUFS = 105, "no buffer space";
    EISCONN = 106, "connected already";
    ENOTCONN = 107, "not connected";
    ETIMEDOUT = 110, "timed out";
    ECONNREFUSED = 111, "connection refused";
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Errno::Other(number) => write!(f, "error {number} (not in Xen's errno.h)"),
            known => write!(f, "{} ({})", known.name(), known.text()),
        }
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_lead_back() {
        for number in 1..=200 {
            let errno = Errno::from_number(number);
            assert_eq!(errno.number(), number);
            if !matches!(errno, Errno::Other(_)) {
                assert_eq!(Errno::from_name(errno.name()), Some(errno));
            }
        }
        assert_eq!(Errno::from_number(22), Errno::EINVAL);
        assert_eq!(Errno::from_name("E?"), None);
    }
}
