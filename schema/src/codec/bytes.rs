//! Primitive parts: numbers, strings, and a cursor that never reads past the end.

use uuid::Uuid;

use super::CodecError;

/// Appends a number, seven bits per byte, lowest bits first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends a length or count.
pub(crate) fn put_length(out: &mut Vec<u8>, length: usize) -> Result<(), CodecError> {
    let length = u32::try_from(length).map_err(|_| CodecError::TooLong("part"))?;
    put_varint(out, length.into());
    Ok(())
}

/// Appends a string. A canonical UUID takes 17 bytes.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) -> Result<(), CodecError> {
    if let Some(id) = canonical_uuid(text) {
        out.push(0);
        out.extend_from_slice(id.as_bytes());
        return Ok(());
    }
    put_length(out, text.len() + 1)?;
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Parses `text` as a UUID if it is in exactly the form in which a UUID is written back.
fn canonical_uuid(text: &str) -> Option<Uuid> {
    let is_plain = |byte: u8| byte == b'-' || byte.is_ascii_digit() || byte.is_ascii_lowercase();
    if text.len() != 36 || !text.bytes().all(is_plain) {
        return None;
    }
    Uuid::try_parse(text).ok()
}

/// A cursor over bytes.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// Returns what has been read from `start` on.
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.offset).unwrap_or_default()
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let truncated = CodecError::Truncated(self.offset);
        let end = self.offset.checked_add(length).ok_or(truncated.clone())?;
        let part = self.bytes.get(self.offset..end).ok_or(truncated)?;
        self.offset = end;
        Ok(part)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let offset = self.offset;
        let part = self.bytes(N)?;
        part.try_into().map_err(|_| CodecError::Truncated(offset))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, CodecError> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    /// Reads a varint. Only the shortest form is accepted, so that each value has one encoding.
    pub(crate) fn varint(&mut self) -> Result<u64, CodecError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            let has_overflow = part.leading_zeros() < shift;
            let is_padded = byte == 0 && shift > 0;
            if has_overflow || is_padded {
                break;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(CodecError::Malformed("number"))
    }

    /// Reads a varint that must fit into `T`.
    pub(crate) fn number<T: TryFrom<u64>>(&mut self) -> Result<T, CodecError> {
        T::try_from(self.varint()?).map_err(|_| CodecError::Malformed("number"))
    }

    pub(crate) fn text(&mut self) -> Result<String, CodecError> {
        self.with_text(str::to_owned)
    }

    /// Reads a string and converts it to the caller's type without an extra copy.
    pub(crate) fn with_text<T>(&mut self, take: impl FnOnce(&str) -> T) -> Result<T, CodecError> {
        let length: usize = self.number()?;
        let Some(length) = length.checked_sub(1) else {
            let mut written = Uuid::encode_buffer();
            return Ok(take(self.uuid()?.hyphenated().encode_lower(&mut written)));
        };
        let bytes = self.bytes(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| CodecError::Malformed("text"))?;
        Ok(take(text))
    }

    pub(crate) fn finish(self) -> Result<(), CodecError> {
        if self.offset == self.bytes.len() {
            Ok(())
        } else {
            Err(CodecError::Malformed("end"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_in_their_shortest_form() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            assert_eq!(Reader::new(&bytes).varint(), Ok(number));
        }
        for bytes in [&[0x80, 0][..], &[0xff; 10], &[0x80]] {
            assert!(Reader::new(bytes).varint().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn only_a_canonical_uuid_is_packed() {
        let texts = [
            ("67e55044-10b1-426f-9247-bb680e5fe0c8", 17),
            ("67E55044-10b1-426f-9247-bb680e5fe0c8", 37),
            ("67e55044-10b1-426f-9247-bb680e5fe0cg", 37),
            ("67e5504410b1426f9247bb680e5fe0c8", 33),
            ("", 1),
        ];
        for (text, length) in texts {
            let mut bytes = Vec::new();
            put_text(&mut bytes, text).unwrap();
            assert_eq!(bytes.len(), length, "{text}");
            assert_eq!(Reader::new(&bytes).text().unwrap(), text);
        }
    }
}
