#![no_std]
#![no_main]
#[sarab::main]
async fn main(app: sarab::App) { let _ = app; sarab::println!("probe"); }
