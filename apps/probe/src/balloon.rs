//! Memory that is taken, checked and freed on command, while the toolstack changes how much there is.

use alloc::boxed::Box;
use alloc::vec::Vec;

use sarab::hal::{PAGE_SIZE, Page, Pages};
use sarab::platform::RamPage;
use sarab::{App, println};

use crate::checks::Checks;

/// Memory of one of the ways to get it, with its own content.
enum Piece {
    Heap(Vec<u64>),
    Page(RamPage),
}

impl Piece {
    fn words(&mut self) -> &mut [u64] {
        match self {
            Piece::Heap(words) => words,
            // SAFETY: the page is this value's alone, and aligned.
            Piece::Page(page) => unsafe {
                core::slice::from_raw_parts_mut(page.as_ptr().as_ptr().cast(), PAGE_SIZE / 8)
            },
        }
    }

    fn fill(&mut self, seed: u64) {
        self.words().iter_mut().enumerate().for_each(|(at, word)| *word = content(seed, at));
    }

    fn is_right(&mut self, seed: u64) -> bool {
        self.words().iter().enumerate().all(|(at, word)| *word == content(seed, at))
    }
}

fn content(seed: u64, at: usize) -> u64 {
    (seed << 32 | at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Answers `take KIB`, `free KIB`, `check` and `info` on the console, until `quit`.
pub async fn run(app: App, checks: &mut Checks) {
    let mut pieces = Vec::<Option<(u64, Box<Piece>)>>::new();
    let mut next = 1_u64;
    println!("balloon: ready");
    loop {
        let line = app.console().read_line(64).await;
        let (command, number) = line.split_once(' ').unwrap_or((&line, "0"));
        let mut wish = number.parse::<usize>().unwrap_or(0) * 1024;
        match command {
            "take" => {
                while wish > 0 {
                    // From less than a page to many, on the heap and beside it.
                    let size = [200, 4096, 20_000, 100_000, 3 << 20][next as usize % 5].min(wish.next_multiple_of(8));
                    let mut piece = match size {
                        PAGE_SIZE => Piece::Page(app.xen().alloc_page().expect("a page")),
                        _ => Piece::Heap(alloc::vec![0; size / 8]),
                    };
                    piece.fill(next);
                    pieces.push(Some((next, Box::new(piece))));
                    (wish, next) = (wish.saturating_sub(size), next + 1);
                }
            }
            "free" => {
                for (at, slot) in pieces.iter_mut().enumerate() {
                    if wish > 0
                        && !at.is_multiple_of(7)
                        && let Some((_, mut piece)) = slot.take()
                    {
                        wish = wish.saturating_sub(piece.words().len() * 8);
                    }
                }
                pieces.retain(Option::is_some);
                pieces.shrink_to_fit();
            }
            "check" => {
                let wrong = pieces
                    .iter_mut()
                    .flatten()
                    .filter_map(|(seed, piece)| (!piece.is_right(*seed)).then_some(()))
                    .count();
                checks.equal(wrong, 0, "memory keeps what it is given");
            }
            "info" => {}
            "quit" => return,
            _ => continue,
        }
        let (held, memory) = (pieces.len(), app.memory());
        println!(
            "balloon: {line}: {} KiB, {} free, {} target, {} at most, {held} pieces",
            memory.total / 1024,
            memory.free / 1024,
            memory.target / 1024,
            memory.maximum / 1024,
        );
    }
}
