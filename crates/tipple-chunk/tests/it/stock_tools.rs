//! The tools that everybody has.

use std::io::{Cursor, Read, Write};
use std::process::{Command, Output};

use tipple_chunk::{Codec, SealedReader};

use crate::sealed::{BINDING, ring, seal};
use crate::support::*;

/// Runs `program` on a file with these bytes.
fn run(program: &str, package: &str, arguments: &[&str], file: &[u8]) -> Output {
    let mut temporary = tempfile::Builder::new().suffix(".zst").tempfile().unwrap();
    temporary.write_all(file).unwrap();
    Command::new(program)
        .args(arguments)
        .arg(temporary.path())
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot run `{program}` ({error}): install it with `apt-get install {package}`")
        })
}

#[test]
fn a_sealed_chunk_is_no_zstd_file_and_what_it_holds_is_one() {
    let zstd = |file: &[u8]| run("zstd", "zstd", &["-t", "-q"], file).status.success();
    for chunk in chunks() {
        let (plain, _) = chunk.write(Codec::Zstd { level: 1 });
        let (sealed, _) = seal(&plain, &BINDING);
        assert!(!zstd(&sealed));
        let mut opened = Vec::new();
        let mut reader = SealedReader::open(Cursor::new(sealed), &ring(), &BINDING).unwrap();
        reader.read_to_end(&mut opened).unwrap();
        assert!(zstd(&opened));
    }
}

#[test]
fn zstd_tests_and_decodes_every_chunk() {
    for chunk in chunks() {
        for codec in [
            Codec::None,
            Codec::Zstd { level: 1 },
            Codec::Zstd { level: 22 },
            Codec::Zstd { level: -9 },
        ] {
            let (file, _) = chunk.write(codec);
            let tested = run("zstd", "zstd", &["-q", "-t"], &file);
            assert!(tested.status.success(), "{codec}: {tested:?}");
            let decoded = run("zstd", "zstd", &["-q", "-dc"], &file);
            assert!(
                decoded.status.success() && decoded.stdout == chunk.raw(),
                "{codec}"
            );
            // The lengths are declared, so that no frame needs more memory than itself.
            let decoded = run("zstd", "zstd", &["-q", "-dc", "--memory=1048576"], &file);
            assert!(
                decoded.status.success() && decoded.stdout == chunk.raw(),
                "{codec}"
            );
        }
    }
}

#[test]
fn zstd_notices_damage_in_data() {
    let (mut file, _) = TestChunk::small().write(Codec::None);
    file[20] ^= 1;
    assert!(!run("zstd", "zstd", &["-q", "-t"], &file).status.success());
}

#[test]
fn zstd_decodes_chunks_one_after_the_other() {
    let (one, two) = (&chunks()[0], &chunks()[1]);
    let file = [
        one.write(Codec::None).0,
        two.write(Codec::Zstd { level: 3 }).0,
    ]
    .concat();
    let decoded = run("zstd", "zstd", &["-q", "-dc"], &file);
    assert!(decoded.status.success() && decoded.stdout == [one.raw(), two.raw()].concat());
}

#[test]
fn sha256sum_prints_the_digest() {
    let (file, sealed) = TestChunk::small().write(Codec::None);
    let summed = run("sha256sum", "coreutils", &[], &file);
    let line = String::from_utf8(summed.stdout).unwrap();
    assert_eq!(
        line.split(' ').next(),
        Some(sealed.sha256.to_string().as_str())
    );
}
