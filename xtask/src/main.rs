//! `cargo xen`.
mod dom0;
mod lab;
mod paths;
use dom0::Dom0;
fn main() -> anyhow::Result<()> {
    let suite = lab::Suite::named(&std::env::args().nth(1).unwrap())?;
    let lab = lab::Lab::boot(suite, &Default::default())?;
    let elf = std::env::args().nth(2).unwrap();
    lab.put("/hello", Box::new(std::fs::File::open(elf)?))?;
    for cmd in std::env::args().skip(3) {
        println!("# {cmd}\n{}", lab.try_run(&cmd)?.1);
    }
    let s = std::fs::read_to_string(&lab.serial)?;
    println!("{}", s.split("lab: ready").nth(1).unwrap());
    Ok(())
}
