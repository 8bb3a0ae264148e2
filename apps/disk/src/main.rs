//! The guest: `main` of the library, which the tests in `host/` call too.

#![no_std]
#![no_main]

#[sarab::main]
async fn main(app: sarab::App) -> sarab::Result {
    disk::main(app).await
}
