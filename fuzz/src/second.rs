//! A second processor of the peer's, which changes words just when they were read.

use xen_sim::Domain;

use crate::input::Input;

/// Gives `domain` one: the first byte of the input says how many bytes it has for it, none in most cases. By each byte it
/// lets so many accesses pass, or changes the word that was just accessed.
pub(crate) fn second_processor(domain: &Domain, input: &mut Input<'_>) {
    let count = usize::from(input.byte().saturating_sub(0xc0));
    if count == 0 {
        return;
    }
    let mut tape: std::vec::IntoIter<u8> = (0..count).map(|_| input.byte()).collect::<Vec<_>>().into_iter();
    let mut pass = 0;
    domain.second_processor(move |accessed| {
        if pass > 0 {
            pass -= 1;
            return;
        }
        let Some(choice) = tape.next() else { return };
        if choice < 0x80 || accessed.len < 4 {
            pass = u32::from(choice % 0x80);
            return;
        }
        let word = accessed.word();
        accessed.set_word(match choice & 3 {
            0 => word.wrapping_add(u32::from(choice >> 2 & 31)),
            1 => word.wrapping_sub(u32::from(choice >> 2 & 31)),
            2 => word ^ 1 << (choice >> 2 & 31),
            _ => u32::from(tape.next().unwrap_or(0)).wrapping_mul(0x0101_0101),
        });
    });
}
