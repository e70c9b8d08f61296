//! A bounds-checked reader: the only place that takes bytes from a buffer.

use crate::{Error, Lsn};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(Error::Truncated {
                offset: self.offset,
                wanted: count,
                left: self.rest.len(),
            });
        };
        self.rest = rest;
        self.offset = self.offset.saturating_add(count);
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(Error::Truncated { offset: self.offset, wanted: N, left: self.rest.len() });
        };
        self.rest = rest;
        self.offset = self.offset.saturating_add(N);
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, Error> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Error> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Error> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn lsn(&mut self) -> Result<Lsn, Error> {
        self.array().map(|bytes| Lsn::from(u64::from_be_bytes(bytes)))
    }

    /// A count of 16 bits.
    pub(crate) fn count(&mut self) -> Result<usize, Error> {
        let offset = self.offset;
        let found = self.i16()?;
        usize::try_from(found).map_err(|_| Error::Length { offset, found: found.into() })
    }

    /// A length of 32 bits.
    pub(crate) fn length(&mut self) -> Result<usize, Error> {
        let offset = self.offset;
        let found = self.i32()?;
        usize::try_from(found).map_err(|_| Error::Length { offset, found: found.into() })
    }

    /// A text that ends with a zero byte, as far as it is UTF-8.
    ///
    /// A database of the encoding SQL_ASCII sends names in whatever bytes they were given. One
    /// such name must not end the reading of all the others.
    pub(crate) fn text(&mut self) -> Result<&'a str, Error> {
        let bytes = self.zero_terminated()?;
        let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        Ok(valid)
    }

    /// A text that ends with a zero byte, with U+FFFD for each byte that is not UTF-8: unlike
    /// what [`Self::text`] gives, it equals no name that is UTF-8.
    pub(crate) fn name(&mut self) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(self.zero_terminated()?).into_owned())
    }

    fn zero_terminated(&mut self) -> Result<&'a [u8], Error> {
        let offset = self.offset;
        let Some(length) = self.rest.iter().position(|byte| *byte == 0) else {
            let left = self.rest.len();
            return Err(Error::Truncated { offset, wanted: left.saturating_add(1), left });
        };
        let bytes = self.bytes(length)?;
        self.bytes(1)?;
        Ok(bytes)
    }

    pub(crate) fn end(&self) -> Result<(), Error> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(Error::Trailing { offset: self.offset, left }),
        }
    }
}
