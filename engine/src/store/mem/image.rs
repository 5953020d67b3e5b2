//! The file a memory engine is saved to. Written and read as a stream: neither needs memory beside the map.
//!
//! ```text
//! image = magic "RKVMEM" u8[6] | format u16 | applied index u64 | applied term u64 | count u64
//!       | (key length u32 | value length u32 | key | value)*       in the order of the keys
//!       | crc32c u32 over all before                                                     little-endian
//! ```

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use bytes::{Buf, Bytes};

use super::super::{Applied, OpenError, StoreError, files};
use super::cow_map::CowMap;

const MAGIC: &[u8; 6] = b"RKVMEM";
const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 32;
const LENGTHS_BYTES: usize = 8;
const CHECKSUM_BYTES: usize = 4;
/// The image's name, in the engine's folder and in a checkpoint's.
const FILE: &str = "image";
/// One that is about to take the image's place.
const FILE_NEW: &str = "image.new";
const BUFFER_BYTES: usize = 256 << 10;

/// Saves a map into `folder`, durably, over the image that may be there.
pub(super) fn save(folder: &Path, map: &CowMap, applied: Applied) -> io::Result<()> {
    let new = folder.join(FILE_NEW);
    write(&new, map, applied)?;
    files::rename(&new, &folder.join(FILE))?;
    files::sync(folder)
}

/// Saves a map into a folder of its own, which must not exist, durably.
pub(super) fn save_checkpoint(path: &Path, map: &CowMap, applied: Applied) -> io::Result<()> {
    files::create_dir(path)?;
    write(&path.join(FILE), map, applied)?;
    files::sync(path)?;
    files::sync(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the image of the checkpoint at `path`, which stays, that of `folder` too.
pub(super) fn link(path: &Path, folder: &Path) -> io::Result<()> {
    let new = folder.join(FILE_NEW);
    files::remove_file(&new)?;
    files::hard_link(&path.join(FILE), &new)?;
    files::rename(&new, &folder.join(FILE))?;
    files::sync(folder)
}

/// Moves the image of the checkpoint at `path` over that of `folder`.
pub(super) fn adopt(path: &Path, folder: &Path) -> io::Result<()> {
    let image = path.join(FILE);
    files::sync(&image)?;
    files::rename(&image, &folder.join(FILE))?;
    files::sync(folder)
}

/// Removes the image in `folder`, durably.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    // The image itself last: once it is gone the engine is empty, whatever else is left.
    files::remove_file(&folder.join(FILE_NEW))?;
    files::remove_file(&folder.join(FILE))?;
    files::sync(folder)
}

/// What a failed write means.
pub(super) fn write_error(path: &Path, error: &io::Error) -> StoreError {
    let (path, detail) = (path.to_owned(), error.to_string());
    match error.kind() {
        io::ErrorKind::StorageFull => StoreError::NoSpace { path, detail },
        _ => StoreError::Io { path, detail },
    }
}

fn write(path: &Path, map: &CowMap, applied: Applied) -> io::Result<()> {
    let mut out = Summed { inner: BufWriter::with_capacity(BUFFER_BYTES, files::create(path)?), sum: 0 };
    out.write_all(MAGIC)?;
    out.write_all(&FORMAT.to_le_bytes())?;
    out.write_all(&applied.index.to_le_bytes())?;
    out.write_all(&applied.term.to_le_bytes())?;
    out.write_all(&u64::try_from(map.len()).map_err(io::Error::other)?.to_le_bytes())?;
    for (key, value) in map.iter() {
        out.write_all(&u32::try_from(key.len()).map_err(io::Error::other)?.to_le_bytes())?;
        out.write_all(&u32::try_from(value.len()).map_err(io::Error::other)?.to_le_bytes())?;
        out.write_all(key)?;
        out.write_all(value)?;
    }
    let sum = out.sum;
    out.inner.write_all(&sum.to_le_bytes())?;
    let file = out.inner.into_inner().map_err(io::IntoInnerError::into_error)?;
    files::sync_file(&file)
}

/// Reads the image in `folder`, if there is one.
pub(super) fn read(folder: &Path) -> Result<Option<(CowMap, Applied)>, OpenError> {
    let path = folder.join(FILE);
    let Some(mut image) = Image::open(&path)? else { return Ok(None) };
    let mut map = CowMap::default();
    while let Some((key, value)) = image.next()? {
        map.insert(key, value);
    }
    image.finish()?;
    Ok(Some((map, image.applied)))
}

/// The position of the image in `folder` and the value of `key`, if there is an image. Reads no further than it must,
/// and so does not verify the checksum.
pub(super) fn peek(folder: &Path, key: &[u8]) -> Result<Option<(Applied, Option<Bytes>)>, OpenError> {
    let path = folder.join(FILE);
    let Some(mut image) = Image::open(&path)? else { return Ok(None) };
    let mut found = None;
    while let Some((item, value)) = image.next()?
        && item.as_ref() <= key
    {
        found = (item.as_ref() == key).then_some(value);
    }
    Ok(Some((image.applied, found)))
}

/// An image being read.
struct Image<'a> {
    path: &'a Path,
    file: BufReader<File>,
    sum: u32,
    /// Bytes not read yet, the checksum's not counted.
    left: u64,
    applied: Applied,
    /// Items not read yet.
    items: u64,
}

impl<'a> Image<'a> {
    fn open(path: &'a Path) -> Result<Option<Self>, OpenError> {
        let io_error = |error: io::Error| OpenError::Io { path: path.to_owned(), detail: error.to_string() };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(io_error)?,
        };
        let bytes = file.metadata().map_err(io_error)?.len();
        let fixed = u64::try_from(CHECKSUM_BYTES).expect("a small number");
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        let left = bytes.saturating_sub(fixed);
        let mut image = Self { path, file, sum: 0, left, applied: Applied::default(), items: 0 };
        let header = image.take(HEADER_BYTES)?;
        let Some(mut header) = header.strip_prefix(MAGIC) else {
            let detail = "the image has another beginning".to_owned();
            return Err(OpenError::Foreign { path: path.to_owned(), detail });
        };
        let format = header.get_u16_le();
        if format != FORMAT {
            let (found, known) = (u32::from(format), u32::from(FORMAT));
            return Err(OpenError::Newer { path: path.to_owned(), found, known });
        }
        image.applied = Applied { index: header.get_u64_le(), term: header.get_u64_le() };
        image.items = header.get_u64_le();
        Ok(Some(image))
    }

    fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, OpenError> {
        if self.items == 0 {
            return Ok(None);
        }
        self.items -= 1;
        let lengths = self.take(LENGTHS_BYTES)?;
        let mut lengths = lengths.as_slice();
        let mut length = || usize::try_from(lengths.get_u32_le()).expect("64-bit machine");
        let (key, value) = (length(), length());
        Ok(Some((self.take(key)?.into(), self.take(value)?.into())))
    }

    /// Checks that all was read and that it is what was written.
    fn finish(&mut self) -> Result<(), OpenError> {
        if self.left != 0 {
            return Err(self.corrupt("bytes trail the last item"));
        }
        let mut sum = [0; CHECKSUM_BYTES];
        if self.file.read_exact(&mut sum).is_err() || u32::from_le_bytes(sum) != self.sum {
            return Err(self.corrupt("the checksum does not match"));
        }
        Ok(())
    }

    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, OpenError> {
        // Before the memory is asked for: a damaged length can be anything.
        let left = u64::try_from(bytes).ok().and_then(|bytes| self.left.checked_sub(bytes));
        self.left = left.ok_or_else(|| self.corrupt("it is cut short"))?;
        let mut taken = vec![0; bytes];
        let read = self.file.read_exact(&mut taken);
        read.map_err(|error| OpenError::Io { path: self.path.to_owned(), detail: error.to_string() })?;
        self.sum = crc32c::crc32c_append(self.sum, &taken);
        Ok(taken)
    }

    fn corrupt(&self, detail: &str) -> OpenError {
        OpenError::Corrupt { path: self.path.to_owned(), detail: detail.to_owned() }
    }
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
