//! What crates log: with `defmt` as frames, with `log` as text.

mod frames;
pub(crate) mod text;
