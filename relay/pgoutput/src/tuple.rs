//! The values of a row, read one by one from the buffer.

use crate::Error;
use crate::cursor::Cursor;

/// One column's value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Value<'a> {
    /// SQL null.
    Null,
    /// A TOASTed value that the statement did not change: it was not sent.
    UnchangedToast,
    /// In the type's text form, in the session's encoding.
    Text(&'a [u8]),
    /// In the type's binary form.
    Binary(&'a [u8]),
}

/// The values of a row, in the order of the relation's columns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tuple<'a> {
    columns: usize,
    /// Checked when it was read: it holds exactly `columns` values.
    values: &'a [u8],
}

impl<'a> Tuple<'a> {
    pub(crate) fn read(cursor: &mut Cursor<'a>) -> Result<Self, Error> {
        let columns = cursor.count()?;
        let values = cursor.rest();
        let start = cursor.offset();
        for _ in 0..columns {
            read_value(cursor)?;
        }
        let length = cursor.offset().saturating_sub(start);
        Ok(Self { columns, values: values.get(..length).unwrap_or(values) })
    }

    /// Reads a row, to the last byte, as it stands in a message.
    ///
    /// # Errors
    /// When the bytes are cut, too many, or no row.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut cursor = Cursor::new(bytes);
        let tuple = Self::read(&mut cursor)?;
        cursor.end()?;
        Ok(tuple)
    }

    /// How many columns it has.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Its values as they stand in the message.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.values
    }

    /// Its values, in order.
    #[must_use]
    pub fn values(&self) -> Values<'a> {
        Values { left: self.columns, cursor: Cursor::new(self.values) }
    }
}

impl<'a> IntoIterator for Tuple<'a> {
    type Item = Value<'a>;
    type IntoIter = Values<'a>;

    fn into_iter(self) -> Values<'a> {
        self.values()
    }
}

/// The values of a [`Tuple`].
#[derive(Clone, Debug)]
pub struct Values<'a> {
    left: usize,
    cursor: Cursor<'a>,
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The bytes were walked over once when the tuple was read.
        read_value(&mut self.cursor).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

fn read_value<'a>(cursor: &mut Cursor<'a>) -> Result<Value<'a>, Error> {
    let offset = cursor.offset();
    match cursor.u8()? {
        b'n' => Ok(Value::Null),
        b'u' => Ok(Value::UnchangedToast),
        b't' => {
            let length = cursor.length()?;
            cursor.bytes(length).map(Value::Text)
        }
        b'b' => {
            let length = cursor.length()?;
            cursor.bytes(length).map(Value::Binary)
        }
        found => Err(Error::Tag { expected: "a column's kind", offset, found }),
    }
}
