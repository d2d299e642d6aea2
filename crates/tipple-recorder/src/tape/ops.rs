//! A tape, read again.

use super::{
    BYTES, END_MAP, END_SEQ, F32, F64, FALSE, FIELD, I64, I128, KEY, MAP, NAME, NULL, RAW, SEQ,
    STR, TRUE, U64, U128, name_at,
};

/// Goes over a tape, operation by operation.
#[derive(Clone)]
pub(crate) struct Ops<'a> {
    rest: &'a [u8],
}

/// An operation with its operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Op<'a> {
    Null,
    Bool(bool),
    U64(u64),
    I64(i64),
    U128(u128),
    I128(i128),
    F32(f32),
    F64(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
    Raw(&'a str),
    Key(&'a str),
    Map,
    EndMap,
    Seq,
    EndSeq,
}

impl<'a> Ops<'a> {
    /// # Safety
    /// `tape` must be what a `Tape` of this process wrote, from its beginning: whole, or cut between two operations.
    #[expect(
        unsafe_code,
        reason = "what is read here is trusted to have been written by `Tape`"
    )]
    pub(crate) unsafe fn new(tape: &'a [u8]) -> Ops<'a> {
        Ops { rest: tape }
    }

    #[inline(always)]
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (operand, rest) = self
            .rest
            .split_first_chunk()
            .expect("an operation has its operand");
        self.rest = rest;
        *operand
    }

    #[inline(always)]
    fn bytes(&mut self) -> &'a [u8] {
        let len = u32::from_le_bytes(self.take()) as usize;
        let (bytes, rest) = self.rest.split_at(len);
        self.rest = rest;
        bytes
    }

    #[inline(always)]
    fn str(&mut self) -> &'a str {
        #[expect(
            unsafe_code,
            reason = "checking all text again would cost what the tape saves"
        )]
        // SAFETY: `Tape` wrote it from a `str`, as `Ops::new` demands.
        unsafe {
            std::str::from_utf8_unchecked(self.bytes())
        }
    }

    #[inline(always)]
    fn name(&mut self) -> &'static str {
        let address = u64::from_le_bytes(self.take());
        let len = u32::from_le_bytes(self.take());
        #[expect(unsafe_code, reason = "names are held by their addresses")]
        // SAFETY: `Tape` wrote both from a `&'static str`, as `Ops::new` demands.
        unsafe {
            name_at(address, len)
        }
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Op<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Op<'a>> {
        let (&op, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(match op {
            NULL => Op::Null,
            FALSE => Op::Bool(false),
            TRUE => Op::Bool(true),
            U64 => Op::U64(u64::from_le_bytes(self.take())),
            I64 => Op::I64(i64::from_le_bytes(self.take())),
            U128 => Op::U128(u128::from_le_bytes(self.take())),
            I128 => Op::I128(i128::from_le_bytes(self.take())),
            F32 => Op::F32(f32::from_le_bytes(self.take())),
            F64 => Op::F64(f64::from_le_bytes(self.take())),
            STR => Op::Str(self.str()),
            NAME => Op::Str(self.name()),
            BYTES => Op::Bytes(self.bytes()),
            RAW => Op::Raw(self.str()),
            FIELD => Op::Key(self.name()),
            KEY => Op::Key(self.str()),
            MAP => Op::Map,
            END_MAP => Op::EndMap,
            SEQ => Op::Seq,
            END_SEQ => Op::EndSeq,
            other => unreachable!("no operation {other}"),
        })
    }
}
