//! A reader of sealed objects that was written from FORMAT.md, and shares no line with the crate: other libraries do
//! its cryptography.

use std::io::Read;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;
use tipple_chunk::{Binding, Codec, DumpKey, KeyRing, SealKey, SealedReader, Sha256Digest};

use crate::sealed::{BINDING, key, seal};
use crate::support::*;

struct Opened {
    root: [u8; 32],
    check: [u8; 16],
    segment_key: [u8; 32],
    commitment: [u8; 32],
    plain: Vec<u8>,
}

fn open(file: &[u8], key: &[u8; 32], purpose: u32, binding: &Binding<'_>) -> Opened {
    let (header, body) = file.split_at(144);
    assert_eq!(header[..8], *b"TPLSEALD");
    assert_eq!(header[8..12], [1, 0, 1, header[11]]);
    let segment = u32::from_le_bytes(header[12..16].try_into().unwrap()) as usize;
    let (root, hkdf) = Hkdf::<Sha256>::extract(Some(&header[24..56]), key);
    let mut check = [0; 16];
    hkdf.expand(b"tipple sealed 1 key", &mut check).unwrap();
    assert_eq!(check, header[88..104]);
    let mut info = b"tipple sealed 1 object".to_vec();
    for number in [purpose, binding.number] {
        info.extend(number.to_le_bytes());
    }
    for name in [binding.dump, binding.part] {
        info.extend((name.len() as u32).to_le_bytes());
        info.extend(name.bytes());
    }
    let mut okm = [0; 64];
    hkdf.expand(&info, &mut okm).unwrap();
    assert_eq!(okm[32..], header[104..136]);
    let cipher = Aes256Gcm::new_from_slice(&okm[..32]).unwrap();
    let count = body.len().div_ceil(segment + 16);
    let mut plain = Vec::new();
    for (number, msg) in body.chunks(segment + 16).enumerate() {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&(number as u64).to_le_bytes());
        nonce[11] = u8::from(number + 1 == count);
        let payload = Payload { msg, aad: header };
        let nonce = Nonce::try_from(&nonce[..]).unwrap();
        plain.extend(cipher.decrypt(&nonce, payload).unwrap());
    }
    Opened {
        root: root.into(),
        check,
        segment_key: okm[..32].try_into().unwrap(),
        commitment: okm[32..].try_into().unwrap(),
        plain,
    }
}

#[test]
fn reads_what_is_sealed() {
    let (chunk, _) = TestChunk::small().write(Codec::Zstd { level: 3 });
    for plain in [chunk, Vec::new(), noise(200_000, 1), noise(131_072, 2)] {
        let (sealed, _) = seal(&plain, &BINDING);
        assert!(open(&sealed, &[1; 32], 1, &BINDING).plain == plain);
    }
}

#[test]
fn the_test_vector_of_the_format() {
    let sealed = crate::fixtures::read("example.sealed");
    let mut plain = crate::fixtures::read("zstd.zst");
    plain.resize(70_000, 0);
    let key: [u8; 32] = std::array::from_fn(|n| n as u8);
    let opened = open(&sealed, &key, 1, &BINDING);
    assert!(opened.plain == plain);
    let format = include_str!("../../FORMAT.md");
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    for (name, value) in [
        ("root", hex(&opened.root)),
        ("key check", hex(&opened.check)),
        ("segment key", hex(&opened.segment_key)),
        ("commitment", hex(&opened.commitment)),
    ] {
        let row = format!("| {name} | `{value}` |");
        assert!(format.contains(&row), "FORMAT.md should say: {row}");
    }
    assert!(format.contains(&format!(
        "`tests/fixtures/v1/example.sealed`, {} bytes",
        sealed.len()
    )));

    // The crate's own reader, too.
    let ring = KeyRing::of(SealKey::new("example".parse().unwrap(), &key));
    let mut reader = SealedReader::open(std::io::Cursor::new(sealed), &ring, &BINDING).unwrap();
    let mut found = Vec::new();
    reader.read_to_end(&mut found).unwrap();
    assert!(found == plain);
}

#[test]
fn tags_and_texts_of_a_dump_are_as_the_format_says() {
    let salt = Sha256Digest([9; 32]);
    let dump = DumpKey::new(&key("k", 1), "d1", &salt);
    let (_, hkdf) = Hkdf::<Sha256>::extract(Some(salt.as_bytes()), &[1; 32]);
    let derive = |what: &str| {
        let mut out = [0; 32];
        hkdf.expand(format!("tipple dump 1 {what} d1").as_bytes(), &mut out)
            .unwrap();
        out
    };
    assert_eq!(dump.check().0, derive("key"));

    // HMAC is HKDF-Extract with the key as the salt.
    let message = [&6_u64.to_le_bytes()[..], b"a.json", b"{}\n"].concat();
    let (tag, _) = Hkdf::<Sha256>::extract(Some(&derive("tags")), &message);
    assert_eq!(dump.tag("a.json", b"{}\n").0, <[u8; 32]>::from(tag));

    let sealed = dump.seal("place", b"position").unwrap();
    let (nonce, msg) = sealed.split_at(12);
    let payload = Payload { msg, aad: b"place" };
    let cipher = Aes256Gcm::new_from_slice(&derive("texts")).unwrap();
    let nonce = Nonce::try_from(nonce).unwrap();
    assert_eq!(cipher.decrypt(&nonce, payload).unwrap(), b"position");
}
