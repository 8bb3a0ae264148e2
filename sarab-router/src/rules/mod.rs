//! What is allowed.
