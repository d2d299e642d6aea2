//! The binary protocol, for keys that the text protocol cannot carry.

use tipple_flow::{Cause, Party, RecordWriter};

use super::{
    Break, EXPIRY_UNKNOWN, SERVER_ERROR, TOO_LARGE, UNSENDABLE, discard, in_value, missed, stream,
};
use crate::connection::{Connection, ConnectionError};
use crate::items::Item;
use crate::metadump::ListedItem;
use crate::options::MemcachedOptions;
use crate::url::Server;

const HEADER_BYTES: usize = 24;
const REQUEST: u8 = 0x80;
const RESPONSE: u8 = 0x81;
const GET: u8 = 0x00;
const NO_ERROR: u16 = 0;
const NOT_FOUND: u16 = 1;
/// The client flags before the value.
const FLAGS_BYTES: u32 = 4;

struct Response {
    status: u16,
    extras_bytes: u8,
    body_bytes: u32,
    cas: u64,
}

fn request(opcode: u8, key: &[u8]) -> Vec<u8> {
    let mut request = vec![0; HEADER_BYTES];
    request[0] = REQUEST;
    request[1] = opcode;
    request[2..4].copy_from_slice(&(key.len() as u16).to_be_bytes());
    request[8..12].copy_from_slice(&(key.len() as u32).to_be_bytes());
    request.extend_from_slice(key);
    request
}

/// `None`: what came is no response of this protocol.
fn response(
    connection: &mut Connection,
    opcode: u8,
    out: &RecordWriter<'_>,
) -> Result<Option<Response>, ConnectionError> {
    let gate = Some(out.gate());
    while connection.buffered().len() < HEADER_BYTES {
        connection.fill(gate)?;
        if connection.buffered()[0] != RESPONSE {
            return Ok(None);
        }
    }
    let header: [u8; HEADER_BYTES] = connection.buffered()[..HEADER_BYTES]
        .try_into()
        .expect("24 bytes");
    if header[0] != RESPONSE || header[1] != opcode {
        return Ok(None);
    }
    connection.consume(HEADER_BYTES);
    Ok(Some(Response {
        status: u16::from_be_bytes([header[6], header[7]]),
        extras_bytes: header[4],
        body_bytes: u32::from_be_bytes(header[8..12].try_into().expect("4 bytes")),
        cas: u64::from_be_bytes(header[16..24].try_into().expect("8 bytes")),
    }))
}

/// A connection on which the server has answered in this protocol; `None` if it does not speak it. Before that, no
/// key is sent: a server that reads it as text could take a key for a command.
fn connect(
    server: &Server,
    options: &MemcachedOptions,
    out: &RecordWriter<'_>,
) -> Result<Option<Connection>, ConnectionError> {
    match Connection::connect_binary(server, options, Some(out.gate())) {
        Ok(connection) => Ok(Some(connection)),
        Err(ConnectionError::Closed { .. } | ConnectionError::Unexpected { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fetches one item; why not, if not.
pub(super) fn fetch(
    connection: &mut Option<Connection>,
    server: &Server,
    options: &MemcachedOptions,
    listed: &ListedItem,
    (now, value_bytes_max): (i64, u64),
    out: &mut RecordWriter<'_>,
) -> Result<Option<&'static Cause>, Break> {
    if connection.is_none() {
        *connection = connect(server, options, out)?;
    }
    let Some(connection) = connection else {
        return Ok(Some(&UNSENDABLE));
    };
    connection.send(&request(GET, listed.key()), Some(out.gate()))?;
    let unexpected = |connection: &Connection| {
        Break::Stop(
            connection
                .unexpected("a response of the binary protocol")
                .into_stop(Party::Source),
        )
    };
    let Some(found) = response(connection, GET, out)? else {
        return Err(unexpected(connection));
    };
    if found.status != NO_ERROR {
        discard(connection, found.body_bytes.into(), out.gate())?;
        return Ok(Some(match found.status {
            NOT_FOUND => missed(listed, now),
            _ => &SERVER_ERROR,
        }));
    }
    if u32::from(found.extras_bytes) != FLAGS_BYTES || found.body_bytes < FLAGS_BYTES {
        return Err(unexpected(connection));
    }
    let mut flags = [0; FLAGS_BYTES as usize];
    connection
        .read_exact(&mut flags, Some(out.gate()))
        .map_err(in_value)?;
    let value_bytes = u64::from(found.body_bytes - FLAGS_BYTES);
    let refused = if value_bytes > value_bytes_max {
        Some(&TOO_LARGE)
    } else if found.cas != listed.cas {
        Some(&EXPIRY_UNKNOWN)
    } else {
        None
    };
    if refused.is_some() {
        discard(connection, value_bytes, out.gate())?;
        return Ok(refused);
    }
    let item = Item {
        key: listed.key(),
        flags: u32::from_be_bytes(flags),
        exptime: listed.exptime,
        cas: found.cas,
        last_access: listed.last_access,
        fetched: listed.fetched,
    };
    stream(connection, &item, value_bytes, out)?;
    Ok(None)
}
