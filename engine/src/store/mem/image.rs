//! The file a memory engine is saved to.
//!
//! ```text
//! image = magic "RKVMEM" u8[6] | format u16 | applied index u64 | applied term u64 | count u64
//!       | (key length u32 | value length u32 | key | value)* | crc32c u32 over all before   little-endian
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use bytes::{Buf, Bytes};

use super::super::{Applied, OpenError, StoreError};

const MAGIC: &[u8; 6] = b"RKVMEM";
const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;
const FILE: &str = "image";
const FILE_NEW: &str = "image.new";

/// What an image holds: the map and its position.
pub(super) type Image = (BTreeMap<Bytes, Bytes>, Applied);

/// Saves a map into `folder`, durably, over the image that may be there.
pub(super) fn write(folder: &Path, map: &BTreeMap<Bytes, Bytes>, applied: Applied) -> Result<(), StoreError> {
    let save = || -> io::Result<()> {
        let new = folder.join(FILE_NEW);
        let mut out = Summed { inner: BufWriter::new(File::create(&new)?), sum: 0 };
        put_map(&mut out, map, applied)?;
        let sum = out.sum;
        let mut out = out.inner;
        out.write_all(&sum.to_le_bytes())?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&new, folder.join(FILE))?;
        File::open(folder)?.sync_all()
    };
    save().map_err(|error| write_error(folder, &error))
}

/// Removes the image in `folder`, durably.
pub(super) fn remove(folder: &Path) -> Result<(), StoreError> {
    let remove = || -> io::Result<()> {
        for file in [FILE, FILE_NEW] {
            match std::fs::remove_file(folder.join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(folder)?.sync_all()
    };
    remove().map_err(|error| write_error(folder, &error))
}

/// Makes the entry of `path` in its parent durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| write_error(parent, &error))
}

/// What a failed write means.
pub(super) fn write_error(path: &Path, error: &io::Error) -> StoreError {
    let (path, detail) = (path.to_owned(), error.to_string());
    match error.kind() {
        io::ErrorKind::StorageFull => StoreError::NoSpace { path, detail },
        _ => StoreError::Io { path, detail },
    }
}

/// Reads the image in `folder`, if there is one.
pub(super) fn read(folder: &Path) -> Result<Option<Image>, OpenError> {
    let path = folder.join(FILE);
    match std::fs::read(&path) {
        Ok(image) => parse(&path, image.into()).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::Io { path, detail: error.to_string() }),
    }
}

fn parse(path: &Path, image: Bytes) -> Result<Image, OpenError> {
    let corrupt = |detail: &str| OpenError::Corrupt { path: path.to_owned(), detail: detail.to_owned() };
    if !image.starts_with(MAGIC) {
        let detail = "the image has another beginning".to_owned();
        return Err(OpenError::Foreign { path: path.to_owned(), detail });
    }
    let Some(sum_at) = image.len().checked_sub(CHECKSUM_BYTES).filter(|at| *at >= HEADER_BYTES) else {
        return Err(corrupt("the image is cut short"));
    };
    let mut format = &image[MAGIC.len()..];
    let format = format.get_u16_le();
    if format != FORMAT {
        let (found, known) = (u32::from(format), u32::from(FORMAT));
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    let mut sum = &image[sum_at..];
    if sum.get_u32_le() != crc32c::crc32c(&image[..sum_at]) {
        return Err(corrupt("the checksum does not match"));
    }
    let mut rest = image.slice(MAGIC.len() + 2..sum_at);
    let applied = Applied { index: rest.get_u64_le(), term: rest.get_u64_le() };
    let count = rest.get_u64_le();
    let mut map = BTreeMap::new();
    for _ in 0..count {
        let lengths = (rest.remaining() >= 8).then(|| (rest.get_u32_le(), rest.get_u32_le()));
        let Some((key, value)) = lengths.and_then(|(key, value)| {
            let (key, value) = (usize::try_from(key).ok()?, usize::try_from(value).ok()?);
            (rest.remaining() >= key.checked_add(value)?).then(|| (rest.split_to(key), rest.split_to(value)))
        }) else {
            return Err(corrupt("an item reaches past the end"));
        };
        map.insert(key, value);
    }
    if rest.has_remaining() { Err(corrupt("bytes trail the last item")) } else { Ok((map, applied)) }
}

fn put_map(out: &mut impl Write, map: &BTreeMap<Bytes, Bytes>, applied: Applied) -> io::Result<()> {
    out.write_all(MAGIC)?;
    out.write_all(&FORMAT.to_le_bytes())?;
    out.write_all(&applied.index.to_le_bytes())?;
    out.write_all(&applied.term.to_le_bytes())?;
    out.write_all(&u64::try_from(map.len()).map_err(io::Error::other)?.to_le_bytes())?;
    for (key, value) in map {
        out.write_all(&u32::try_from(key.len()).map_err(io::Error::other)?.to_le_bytes())?;
        out.write_all(&u32::try_from(value.len()).map_err(io::Error::other)?.to_le_bytes())?;
        out.write_all(key)?;
        out.write_all(value)?;
    }
    Ok(())
}

/// A writer that sums what passes.
struct Summed<W> {
    inner: W,
    sum: u32,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum = crc32c::crc32c_append(self.sum, &bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
