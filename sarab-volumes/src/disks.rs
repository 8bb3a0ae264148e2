//! The disks below a pool.

use alloc::boxed::Box;
use alloc::vec::Vec;

use futures_util::future::{join, join_all};
use xen_blkif::BlockDevice;

use crate::Error;
use crate::layout::{BLOCK, Layout, Place, RECORD, SECTOR, Seed};

pub(crate) type Block = Box<[u8; BLOCK]>;

pub(crate) struct Disks<D> {
    pub(crate) list: Vec<D>,
    pub(crate) layout: Layout,
    pub(crate) seed: Seed,
}

impl<D: BlockDevice> Disks<D> {
    /// A copy of a block of metadata, whatever it holds.
    pub(crate) async fn read_copy(&self, address: u32, copy: usize) -> Result<Block, Error> {
        let mut bytes = Box::new([0; BLOCK]);
        let place = self.layout.block(address)[copy];
        read(&self.list, place, &mut bytes[..]).await?;
        Ok(bytes)
    }

    pub(crate) async fn write_copy(&self, address: u32, copy: usize, bytes: &[u8; BLOCK]) -> Result<(), Error> {
        write(&self.list, self.layout.block(address)[copy], bytes).await
    }

    pub(crate) async fn write_copies(&self, address: u32, bytes: &[u8; BLOCK]) -> Result<(), Error> {
        let (first, second) = join(self.write_copy(address, 0, bytes), self.write_copy(address, 1, bytes)).await;
        first.and(second)
    }

    /// Makes durable what has been written to any of the disks.
    pub(crate) async fn flush(&self) -> Result<(), Error> {
        flush(&self.list).await
    }
}

pub(crate) async fn read<D: BlockDevice>(disks: &[D], place: Place, to: &mut [u8]) -> Result<(), Error> {
    let Place { disk, sector } = place;
    disks[disk].read_bytes(sector, to).await.map_err(|error| Error::Disk { disk, error })
}

pub(crate) async fn write<D: BlockDevice>(disks: &[D], place: Place, from: &[u8]) -> Result<(), Error> {
    let Place { disk, sector } = place;
    disks[disk].write_bytes(sector, from).await.map_err(|error| Error::Disk { disk, error })
}

/// The sector at a place that a label or a superblock is in.
pub(crate) async fn read_record<D: BlockDevice>(disks: &[D], place: Place) -> Result<[u8; RECORD], Error> {
    let mut block = [0; BLOCK];
    read(disks, place, &mut block).await?;
    let mut record = [0; RECORD];
    record.copy_from_slice(&block[..RECORD]);
    Ok(record)
}

/// Writes a label or a superblock. A disk of small sectors gets its sector alone, which is written wholly or not at all.
pub(crate) async fn write_record<D: BlockDevice>(
    disks: &[D],
    place: Place,
    record: &[u8; RECORD],
) -> Result<(), Error> {
    if disks[place.disk].geometry().sector_size as usize <= SECTOR {
        return write(disks, place, record).await;
    }
    let mut block = [0; BLOCK];
    block[..RECORD].copy_from_slice(record);
    write(disks, place, &block).await
}

pub(crate) async fn flush<D: BlockDevice>(disks: &[D]) -> Result<(), Error> {
    let flushes = disks.iter().enumerate().filter(|(_, device)| device.geometry().flush);
    let outcomes =
        join_all(flushes.map(async |(disk, device)| device.flush().await.map_err(|error| Error::Disk { disk, error })));
    outcomes.await.into_iter().collect()
}
