//! One log line, through whichever of `defmt` and `log` the calling crate has on.
//!
//! The features that are looked at are the caller's, and so are the crates `defmt` and `log`: a crate whose lines go
//! nowhere depends on neither. Both macros collapse to the line that calls them: a log names that one, and not this file.

/// Logs a warning. Arguments are shown by their `Display`.
///
/// The calling crate has features `defmt` and `log`, which add the crate of that name. With both, `log` is used: guests have
/// `defmt` on, and their author asks for text by `log`. Without either nothing is logged.
#[macro_export]
#[collapse_debuginfo(yes)]
macro_rules! warning {
    ($text:literal $(, $argument:expr)* $(,)?) => {{
        #[cfg(all(feature = "defmt", not(feature = "log")))]
        ::defmt::warn!($text $(, ::defmt::Display2Format(&$argument))*);
        #[cfg(feature = "log")]
        ::log::warn!($text $(, $argument)*);
        #[cfg(not(any(feature = "defmt", feature = "log")))]
        { $(let _ = &$argument;)* }
    }};
}

/// Logs what happens in the ordinary course of things. Otherwise as [`warning!`](crate::warning).
#[macro_export]
#[collapse_debuginfo(yes)]
macro_rules! information {
    ($text:literal $(, $argument:expr)* $(,)?) => {{
        #[cfg(all(feature = "defmt", not(feature = "log")))]
        ::defmt::info!($text $(, ::defmt::Display2Format(&$argument))*);
        #[cfg(feature = "log")]
        ::log::info!($text $(, $argument)*);
        #[cfg(not(any(feature = "defmt", feature = "log")))]
        { $(let _ = &$argument;)* }
    }};
}
