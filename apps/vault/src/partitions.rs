//! Partition tables: GPT (UEFI specification, chapter 5) and the four primary partitions of an MBR.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use gpt_disk_types::{BlockSize, GptHeader, GptPartitionEntryArray, MasterBootRecord};
use sarab::block::slice::Slice;
use sarab::block::{BlockDevice, Error};
use sarab::println;

/// Most partitions that are served: as many as a GPT usually has room for.
const MAX: usize = 128;
/// Most bytes of a table that are read: 16 KiB are usual.
const MAX_BYTES: usize = 64 << 10;
/// An MBR that stands before a GPT.
const PROTECTIVE: u8 = 0xee;

/// The partitions of a disk, with their numbers. A disk without a table has none.
///
/// A table that is damaged is named in a line, and none of it is used.
pub async fn of<D: BlockDevice + Clone>(disk: &D) -> Result<Vec<(u32, Slice<D>)>, Error> {
    let geometry = disk.geometry();
    let block = geometry.sector_size as usize;
    let unit = (block / 512) as u64;
    if geometry.sectors < 2 * unit {
        return Ok(Vec::new());
    }
    let mut first = vec![0; block];
    disk.read_bytes(0, &mut first).await?;
    let mbr: MasterBootRecord = bytemuck::pod_read_unaligned(&first[..size_of::<MasterBootRecord>()]);
    if mbr.signature != [0x55, 0xaa] {
        return Ok(Vec::new());
    }
    let ranges = if mbr.partitions.iter().any(|entry| entry.os_indicator == PROTECTIVE) {
        gpt(disk, unit).await?
    } else {
        let entries = mbr.partitions.iter().enumerate();
        let used = entries.filter(|(_, entry)| entry.os_indicator != 0 && entry.size_in_lba.to_u32() > 0);
        used.map(|(index, entry)| {
            let (first, size) = (u64::from(entry.starting_lba.to_u32()), u64::from(entry.size_in_lba.to_u32()));
            (index as u32 + 1, first * unit, size * unit)
        })
        .collect()
    };
    let mut slices = Vec::new();
    let mut taken: Vec<Range<u64>> = Vec::new();
    for (number, first, sectors) in ranges {
        match Slice::new(disk.clone(), first, sectors) {
            Err(error) => println!("vault: partition {number}: {error}"),
            // Two guests would write the same sectors, or one the table.
            Ok(_) if first == 0 || taken.iter().any(|other| first < other.end && other.start < first + sectors) => {
                println!("vault: partition {number}: it overlaps the partition table or another partition");
            }
            Ok(slice) => {
                slices.push((number, slice));
                taken.push(first..first + sectors);
            }
        }
    }
    Ok(slices)
}

/// Number, first sector and sectors of each partition: of the table behind the MBR, or of its copy at the disk's end.
async fn gpt<D: BlockDevice>(disk: &D, unit: u64) -> Result<Vec<(u32, u64, u64)>, Error> {
    let last = (disk.geometry().sectors / unit).saturating_sub(1);
    for place in [1, last] {
        if let Some(table) = gpt_at(disk, place, unit).await? {
            return Ok(table);
        }
        println!("vault: the GPT at block {place} is damaged");
    }
    println!("vault: the partitions of the disk are not served");
    Ok(Vec::new())
}

async fn gpt_at<D: BlockDevice>(disk: &D, place: u64, unit: u64) -> Result<Option<Vec<(u32, u64, u64)>>, Error> {
    let block = unit as usize * 512;
    let mut bytes = vec![0; block];
    disk.read_bytes(place * unit, &mut bytes).await?;
    let header: GptHeader = bytemuck::pod_read_unaligned(&bytes[..size_of::<GptHeader>()]);
    if !header.is_signature_valid() || header.calculate_header_crc32() != { header.header_crc32 } {
        return Ok(None);
    }
    let (Ok(layout), Some(size)) = (header.get_partition_entry_array_layout(), BlockSize::from_usize(block)) else {
        return Ok(None);
    };
    let len = layout.num_bytes_rounded_to_block_as_usize(size).filter(|len| (1..=MAX_BYTES).contains(len));
    let (Some(len), Some(first)) = (len, layout.start_lba.to_u64().checked_mul(unit)) else { return Ok(None) };
    if disk.geometry().check(first, len).is_err() {
        return Ok(None);
    }
    let mut entries = vec![0; len];
    disk.read_bytes(first, &mut entries).await?;
    let Ok(entries) = GptPartitionEntryArray::new(layout, size, &mut entries) else { return Ok(None) };
    if entries.calculate_crc32() != { header.partition_entry_array_crc32 } {
        return Ok(None);
    }
    let used = (0..layout.num_entries).filter_map(|index| {
        let entry = entries.get_partition_entry(index).filter(|entry| entry.is_used())?;
        let (first, last) = (entry.starting_lba.to_u64(), entry.ending_lba.to_u64());
        let usable = header.first_usable_lba.to_u64()..=header.last_usable_lba.to_u64();
        if !(usable.contains(&first) && usable.contains(&last)) {
            println!("vault: partition {}: it lies outside of the blocks that the GPT has for partitions", index + 1);
            return None;
        }
        let sectors = last.checked_sub(first)?.checked_add(1)?.checked_mul(unit)?;
        Some((index + 1, first.checked_mul(unit)?, sectors))
    });
    Ok(Some(used.take(MAX).collect()))
}

/// How a partition is called: `xvda1`, and `51712p1` where the disk's name ends with a digit.
pub fn name(disk: &str, number: u32) -> String {
    match disk.ends_with(|last: char| last.is_ascii_digit()) {
        true => format!("{disk}p{number}"),
        false => format!("{disk}{number}"),
    }
}
