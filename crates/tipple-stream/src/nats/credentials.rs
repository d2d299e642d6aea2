//! Credentials files of NATS: the JWT of a user and the seed of its key, or a seed alone, as `nsc` and `nk` write them.
//!
//! How a seed is spelled, and what is signed, as docs.nats.io ("NATS Server Client Protocol", `CONNECT`) and
//! github.com/nats-io/nkeys have it: base32 of two bytes that say what it is of, 32 of the seed and a CRC-16.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair};

/// The letters of base32, of RFC 4648.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// What the text of a seed begins with (`S`), and that of a user's key (`U`), in the upper five bits.
const SEED: u8 = 18 << 3;
const USER: u8 = 20 << 3;
/// A file of more is none of credentials.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Who logs in: a key, and what an account says of it.
pub(super) struct Credentials {
    jwt: Option<String>,
    key: Ed25519KeyPair,
}

/// What `CONNECT` says of it.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) jwt: Option<String>,
    /// The public key, if there is no JWT that has it.
    pub(super) nkey: Option<String>,
    pub(super) sig: String,
}

impl Credentials {
    /// Reads them anew at each login, so that a file may be replaced while a job runs.
    ///
    /// # Errors
    /// What is wrong with the file, with its path and without its content.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let wrong = |why: &str| format!("credentials in {}: {why}", path.display());
        let bytes = fs::metadata(path)
            .map_err(|error| wrong(&error.to_string()))?
            .len();
        if bytes > FILE_BYTES_MAX {
            return Err(wrong("it is longer than 1 MiB"));
        }
        let text = fs::read_to_string(path).map_err(|error| wrong(&error.to_string()))?;
        Self::parse(&text).map_err(wrong)
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let seed = match block(text, "USER NKEY SEED") {
            Some(seed) => seed,
            // A file of nothing but a seed, with comments.
            None => (text.lines().map(str::trim))
                .find(|line| !line.is_empty() && !line.starts_with('#'))
                .ok_or("it is empty")?,
        };
        Ok(Self {
            jwt: block(text, "NATS USER JWT").map(str::to_owned),
            key: user_key(seed)?,
        })
    }

    /// The answer to what the server asks to be signed.
    pub(super) fn sign(self, nonce: &str) -> Signed {
        let signature = self.key.sign(nonce.as_bytes());
        let nkey = match self.jwt {
            Some(_) => None,
            None => Some(public_text(self.key.public_key().as_ref())),
        };
        Signed {
            jwt: self.jwt,
            nkey,
            sig: BASE64_URL_SAFE_NO_PAD.encode(signature),
        }
    }
}

/// The line between `-----BEGIN <name>-----` and its end.
fn block<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let begin = format!("-----BEGIN {name}-----");
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| *line == begin)?;
    lines.find(|line| !line.is_empty())
}

/// The key of a user's seed.
fn user_key(seed: &str) -> Result<Ed25519KeyPair, &'static str> {
    const NO_SEED: &str =
        "no seed of a user's key is in it: give a .creds file of nsc, or a seed (SU…)";
    let bytes = unbase32(seed.as_bytes()).ok_or(NO_SEED)?;
    let Ok::<[u8; 36], _>([first, second, seed @ .., low, high]) = bytes.try_into() else {
        return Err(NO_SEED);
    };
    let of = first << 5 | second >> 3;
    if first & 0xf8 != SEED || of != USER {
        return Err(NO_SEED);
    }
    let mut checked = vec![first, second];
    checked.extend_from_slice(&seed);
    if crc16(&checked) != u16::from_le_bytes([low, high]) {
        return Err("its seed has a wrong checksum: was it changed, or cut?");
    }
    Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| NO_SEED)
}

/// A user's public key as servers and JWTs spell it.
fn public_text(key: &[u8]) -> String {
    let mut bytes = vec![USER];
    bytes.extend_from_slice(key);
    let checksum = crc16(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    base32(&bytes)
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 {
                shifted
            } else {
                shifted ^ 0x1021
            }
        })
    })
}

fn base32(bytes: &[u8]) -> String {
    let (mut text, mut bits, mut count) = (String::new(), 0_u32, 0);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(BASE32[(bits >> count & 31) as usize]));
        }
    }
    if count > 0 {
        text.push(char::from(BASE32[(bits << (5 - count) & 31) as usize]));
    }
    text
}

/// `None` if it is not base32 without padding.
fn unbase32(text: &[u8]) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for letter in text {
        let value = BASE32.iter().position(|other| other == letter)?;
        bits = bits << 5 | value as u32;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pair of the documentation of NATS (docs.nats.io, "NKeys").
    const PAIR: [&str; 2] = [
        "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
        "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
    ];

    #[test]
    fn a_key_is_known_by_its_seed() {
        let [seed, public] = PAIR;
        for text in [
            seed.to_owned(),
            format!("# joe\n\n  {seed}\r\n"),
            format!(
                "-----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\r\n"
            ),
        ] {
            let signed = Credentials::parse(&text).unwrap().sign("nonce");
            assert_eq!((signed.nkey.as_deref(), signed.jwt), (Some(public), None));
        }
    }

    #[test]
    fn what_is_no_seed_of_a_user_is_refused_and_not_shown() {
        let [seed, public] = PAIR;
        let account = format!("SA{}", &seed[2..]);
        let changed = seed.replace("DXKF", "DXKG");
        for bad in [
            "",
            "\n# SU",
            "SU",
            public,
            &account,
            &changed,
            &seed[..57],
            &format!("{seed}AA"),
            &seed.to_lowercase(),
            "Käse",
        ] {
            let refused = Credentials::parse(bad).err().unwrap();
            assert!(!refused.contains(&seed[4..8]), "{refused}");
        }
        assert!(
            Credentials::parse(&changed)
                .err()
                .unwrap()
                .contains("checksum")
        );
    }

    #[test]
    fn text_of_any_length_is_spelled_and_read() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "MY"),
            (b"fo", "MZXQ"),
            (b"foo", "MZXW6"),
            (b"foob", "MZXW6YQ"),
            (b"fooba", "MZXW6YTB"),
            (b"foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(bytes), text);
            assert_eq!(unbase32(text.as_bytes()).unwrap(), bytes);
        }
        assert_eq!(unbase32(b"MZX1"), None);
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }
}
