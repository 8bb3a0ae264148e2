//! Collections, and what is shared.

use core::cell::Cell;

use crate::Trial;

bitflags::bitflags! {
    #[derive(PartialEq)]
    struct Flags: u8 {
        const READ = 1;
        const WRITE = 2;
    }
}

pub const ALL: &[Trial] = &[
    ("anyhow", || alloc::format!("{:#}", anyhow::anyhow!("cause").context("effect")) == "effect: cause"),
    ("arrayvec", || arrayvec::ArrayVec::<u8, 2>::from([1, 2]).try_push(3).is_err()),
    ("bitflags", || (Flags::READ | Flags::WRITE) == Flags::all()),
    ("critical-section", || critical_section::with(|_| true)),
    ("hashbrown", || {
        let mut map = hashbrown::HashMap::new();
        map.insert("a", 1);
        map.get("a") == Some(&1)
    }),
    ("heapless", || heapless::Vec::<u8, 1>::from_slice(&[1, 2]).is_err()),
    ("indexmap", || {
        let mut map = indexmap::IndexMap::<_, _, hashbrown::DefaultHashBuilder>::default();
        map.insert("z", 1);
        map.insert("a", 2);
        map.keys().eq(["z", "a"].iter())
    }),
    ("once_cell", || {
        static VALUE: once_cell::sync::Lazy<u32> = once_cell::sync::Lazy::new(|| 6 * 7);
        *VALUE == 42
    }),
    ("portable-atomic", || {
        let number = portable_atomic::AtomicU64::new(1);
        number.fetch_add(1, portable_atomic::Ordering::Relaxed) == 1
    }),
    ("smallvec", || smallvec::SmallVec::<[u8; 1]>::from_slice(&[1, 2]).spilled()),
    ("snafu", || {
        #[derive(Debug, snafu::Snafu)]
        #[snafu(display("no disk {name}"))]
        struct Missing {
            name: &'static str,
        }
        alloc::string::ToString::to_string(&Missing { name: "xvda" }) == "no disk xvda"
    }),
    ("spin", || *spin::Mutex::new(3).lock() == 3),
    ("thiserror", || {
        #[derive(Debug, thiserror::Error)]
        #[error("no disk {0}")]
        struct Missing(&'static str);
        alloc::string::ToString::to_string(&Missing("xvda")) == "no disk xvda"
    }),
    ("tinyvec", || {
        let mut list = tinyvec::TinyVec::<[u8; 1]>::new();
        list.push(1);
        list.push(2);
        list.is_heap()
    }),
    ("rhai", || rhai::Engine::new().eval::<i64>("let x = 40; x + 2").is_ok_and(|found| found == 42)),
    ("wasmi", || {
        // (module (func (export "answer") (result i32) i32.const 42))
        const MODULE: [u8; 40] = [
            0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 5, 1, 0x60, 0, 1, 0x7f, 3, 2, 1, 0, 7, 10, 1, 6, b'a', b'n', b's',
            b'w', b'e', b'r', 0, 0, 10, 6, 1, 4, 0, 0x41, 42, 0x0b, 0,
        ];
        let engine = wasmi::Engine::default();
        let Ok(module) = wasmi::Module::new(&engine, &MODULE[..39]) else { return false };
        let mut store = wasmi::Store::new(&engine, Cell::new(0));
        let Ok(instance) = wasmi::Linker::new(&engine).instantiate_and_start(&mut store, &module) else { return false };
        let Ok(answer) = instance.get_typed_func::<(), i32>(&store, "answer") else { return false };
        answer.call(&mut store, ()).is_ok_and(|found| found == 42)
    }),
];
