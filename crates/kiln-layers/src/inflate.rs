//! Turns the bytes a registry sends into the bytes of the archive.
//!
//! Sizes and ratios are judged elsewhere: this counts, and tells a broken source from broken
//! bytes.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::compression::{self, Compression, Declared, MAGIC_BYTES};
use crate::error::{Cap, DecodeError};
use crate::limits::Limits;
use kiln_tree::ShownPath;

/// Compressed bytes read at once.
const INPUT_BYTES: usize = 128 << 10;

/// What went through a layer's input.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    read_bytes: Cell<u64>,
    failure: RefCell<Option<io::Error>>,
}

impl Meter {
    /// Counts the compressed bytes taken from the input so far, which may be a little ahead of
    /// what was inflated.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes.get()
    }
}

/// A source whose bytes are counted and whose error is kept, so that it is not mistaken for one
/// of the decompressor.
struct Metered<'m, 'i> {
    input: &'i mut (dyn Read + Send),
    meter: &'m Meter,
}

impl Read for Metered<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer) {
            Ok(count) => {
                let read_bytes = self.meter.read_bytes.get();
                self.meter.read_bytes.set(read_bytes + count as u64);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.meter.failure.replace(Some(error));
                Err(kind.into())
            }
        }
    }
}

/// A layer's archive, inflated as it is read.
pub(crate) struct Inflater<'i> {
    stream: Box<dyn Read + 'i>,
    compression: Compression,
    meter: &'i Meter,
    zstd_window_log: u32,
}

impl<'i> Inflater<'i> {
    /// Looks at the first bytes of `input` and prepares to inflate the rest.
    pub(crate) fn open(
        input: &'i mut (dyn Read + Send),
        declared: Declared,
        limits: &Limits,
        meter: &'i Meter,
    ) -> Result<Self, DecodeError> {
        let mut metered = Metered { input, meter };
        let mut first = Vec::with_capacity(MAGIC_BYTES);
        (&mut metered)
            .take(MAGIC_BYTES as u64)
            .read_to_end(&mut first)
            .map_err(|error| input_error(meter, error))?;
        let compression = compression::detect(&first, declared)?;
        let input = Cursor::new(first).chain(BufReader::with_capacity(INPUT_BYTES, metered));
        Ok(Self {
            stream: stream(input, compression, limits).map_err(|source| {
                DecodeError::BrokenCompression {
                    compression,
                    source,
                }
            })?,
            compression,
            meter,
            zstd_window_log: limits.zstd_window_log,
        })
    }

    /// Fills `buffer` from the front and returns how much: less than its length only at the end
    /// of the archive, when the compressed stream has been checked to its end too, or in front of
    /// what is broken, which is returned as well.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> (usize, Result<(), DecodeError>) {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (filled, Err(self.judge(error))),
            }
        }
        (filled, Ok(()))
    }

    fn judge(&self, source: io::Error) -> DecodeError {
        if self.meter.failure.borrow().is_some() || self.compression == Compression::None {
            return input_error(self.meter, source);
        }
        // The binding turns zstd's codes into texts; this one is of ZSTD_error_frameParameter_windowTooLarge.
        let is_window = self.compression == Compression::Zstd
            && source.to_string().contains("requires too much memory");
        if is_window {
            return DecodeError::Limit {
                cap: Cap::ZstdWindowLog,
                limit: u64::from(self.zstd_window_log),
                path: ShownPath::new(b""),
                at: 0,
            };
        }
        DecodeError::BrokenCompression {
            compression: self.compression,
            source,
        }
    }
}

fn input_error(meter: &Meter, error: io::Error) -> DecodeError {
    let source = meter.failure.take().unwrap_or(error);
    DecodeError::Input { source }
}

fn stream<'i>(
    mut input: impl BufRead + 'i,
    compression: Compression,
    limits: &Limits,
) -> io::Result<Box<dyn Read + 'i>> {
    match compression {
        Compression::None => Ok(Box::new(input)),
        // A stream without any member is empty to the decoder, and broken to us.
        _ if input.fill_buf()?.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        Compression::Gzip => Ok(Box::new(MultiGzDecoder::new(input))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(limits.zstd_window_log)?;
            Ok(Box::new(decoder))
        }
    }
}
