//! Links a PVH guest instead of a Linux program: the arguments come from the `sarab` crate.

fn main() {
    let arguments = std::env::var("DEP_SARAB_LINK_ARGS").expect("`sarab` is a dependency");
    arguments.split('\x1f').for_each(|argument| println!("cargo::rustc-link-arg-bins={argument}"));
}
