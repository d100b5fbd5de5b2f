//! Stand-ins without the `deflate` feature: the same names, but no value of them can exist.
//!
//! Owns, In, Out: nothing; each method proves by its receiver that it is never called.
//! Not here: the real ones (`deflate`).

use crate::error::ProtocolError;

/// No compression can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeflateOptions {}

/// Never inflates.
#[derive(Debug)]
pub(crate) enum Inflater {}

impl Inflater {
    pub(crate) fn inflate(&mut self, _: &[u8], _: &mut Vec<u8>, _: Option<u64>) -> Result<(), ProtocolError> {
        match *self {}
    }

    pub(crate) fn finish(&mut self, _: &mut Vec<u8>) -> Result<(), ProtocolError> {
        match *self {}
    }
}

/// Never compresses.
#[derive(Debug)]
pub(crate) enum Deflater {}

impl Deflater {
    pub(crate) fn wants(&self, _: usize) -> bool {
        match *self {}
    }

    pub(crate) fn message(&mut self, _: &[u8]) -> Option<Vec<u8>> {
        match *self {}
    }

    pub(crate) fn piece(&mut self, _: &[u8]) -> Vec<u8> {
        match *self {}
    }

    pub(crate) fn last_piece(&mut self, _: &[u8]) -> Vec<u8> {
        match *self {}
    }

    pub(crate) fn forget(&mut self) {
        match *self {}
    }

    pub(crate) fn window_bits(&self) -> u8 {
        match *self {}
    }

    pub(crate) fn level(&self) -> u8 {
        match *self {}
    }

    pub(crate) fn min_size(&self) -> usize {
        match *self {}
    }
}
