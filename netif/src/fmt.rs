//! One log line, through whichever of `defmt` and `log` is on. Arguments are shown by their `Display`.

macro_rules! warning {
    ($text:literal $(, $argument:expr)* $(,)?) => {{
        #[cfg(feature = "defmt")]
        ::defmt::warn!($text $(, ::defmt::Display2Format(&$argument))*);
        #[cfg(all(feature = "log", not(feature = "defmt")))]
        ::log::warn!($text $(, $argument)*);
        #[cfg(not(any(feature = "defmt", feature = "log")))]
        { $(let _ = &$argument;)* }
    }};
}

macro_rules! information {
    ($text:literal $(, $argument:expr)* $(,)?) => {{
        #[cfg(feature = "defmt")]
        ::defmt::info!($text $(, ::defmt::Display2Format(&$argument))*);
        #[cfg(all(feature = "log", not(feature = "defmt")))]
        ::log::info!($text $(, $argument)*);
        #[cfg(not(any(feature = "defmt", feature = "log")))]
        { $(let _ = &$argument;)* }
    }};
}
