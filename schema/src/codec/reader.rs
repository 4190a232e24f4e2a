//! A cursor over bytes that never reads beyond their end.

use super::CodecError;

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// Returns what was read since `start`.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.offset).unwrap_or_default()
    }

    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let end = self
            .offset
            .checked_add(length)
            .ok_or(CodecError::Truncated(self.offset))?;
        let part = self
            .bytes
            .get(self.offset..end)
            .ok_or(CodecError::Truncated(self.offset))?;
        self.offset = end;
        Ok(part)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let part = self.bytes(N)?;
        part.try_into()
            .map_err(|_| CodecError::Truncated(self.offset))
    }

    pub(super) fn u8(&mut self) -> Result<u8, CodecError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// Reads a text with its length; whether it is UTF-8 is the caller's question.
    pub(super) fn text(&mut self) -> Result<&'a [u8], CodecError> {
        let length = u16::from_le_bytes(self.array()?);
        self.bytes(usize::from(length))
    }

    pub(super) fn finish(self) -> Result<(), CodecError> {
        if self.offset == self.bytes.len() {
            Ok(())
        } else {
            Err(CodecError::Malformed("end"))
        }
    }
}
