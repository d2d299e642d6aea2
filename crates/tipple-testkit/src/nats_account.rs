//! An operator of NATS with one account and one user, as `nsc` makes them: keys and signatures by the openssl command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificate::INSTALL;
use crate::process::run;

/// What the text of keys begins with: `O`, `A`, `U`, and `S` before it in that of a seed.
const OPERATOR: u8 = 14 << 3;
const ACCOUNT: u8 = 0;
const USER: u8 = 20 << 3;
const SEED: u8 = 18 << 3;

/// An operator, an account that may have streams, and a user of it; gone with their files when dropped.
#[derive(Debug)]
pub struct NatsAccount {
    dir: TempDir,
    operator: NatsKey,
    /// The account of the servers themselves.
    system: NatsKey,
    account: NatsKey,
    user: NatsKey,
}

impl NatsAccount {
    /// Makes them.
    ///
    /// # Panics
    /// If openssl is not installed or fails.
    #[track_caller]
    pub fn create() -> Self {
        let dir = TempDir::new().unwrap();
        let key = |name: &str, prefix| NatsKey::create(&dir.path().join(name), prefix);
        Self {
            operator: key("operator", OPERATOR),
            system: key("system", ACCOUNT),
            account: key("account", ACCOUNT),
            user: key("user", USER),
            dir,
        }
    }

    /// The configuration of a server that lets the account's users in.
    pub fn config(&self) -> String {
        let operator = self
            .operator
            .sign(&self.operator, json!({ "type": "operator" }));
        let account = |key: &NatsKey, disk: i64| {
            let claims = json!({
                "type": "account", "default_permissions": { "pub": {}, "sub": {} },
                "limits": {
                    "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
                    "leaf": -1, "mem_storage": disk, "disk_storage": disk, "streams": disk, "consumer": disk,
                },
            });
            format!("{}: {}", key.public, self.operator.sign(key, claims))
        };
        format!(
            "operator: {operator}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}, {} }}",
            self.system.public,
            account(&self.system, 0),
            account(&self.account, -1)
        )
    }

    /// A JWT of the user with which anybody logs in, without its key.
    pub fn bearer(&self) -> String {
        self.jwt(true)
    }

    fn jwt(&self, bearer: bool) -> String {
        let claims = json!({
            "type": "user", "bearer_token": bearer,
            "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1,
        });
        self.account.sign(&self.user, claims)
    }

    /// A credentials file of the user, as `nsc generate creds` writes it, with this seed.
    pub fn credentials(&self, seed: &str) -> PathBuf {
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\
             NKEY Seed printed below can be used to sign and prove identity.\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
            self.jwt(false)
        );
        self.file("user.creds", &text)
    }

    /// A file with this text, which lives as long as the account.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// The user's key.
    pub fn user(&self) -> &NatsKey {
        &self.user
    }
}

/// A key of NATS.
#[derive(Debug)]
pub struct NatsKey {
    path: PathBuf,
    /// Its public part, as NATS spells it.
    pub public: String,
    /// Its seed.
    pub seed: String,
}

impl NatsKey {
    #[track_caller]
    fn create(path: &Path, prefix: u8) -> Self {
        let openssl = |args: &[&str], out: &Path| {
            run(
                Command::new("openssl").args(args).arg("-out").arg(out),
                INSTALL,
            );
        };
        openssl(&["genpkey", "-algorithm", "ed25519"], path);
        // What is signed or secret are the last 32 bytes of either form.
        let form = |args: &[&str], name: &str| {
            let out = path.with_extension(name);
            let path = path.to_str().unwrap();
            openssl(
                &[&["pkey", "-in", path, "-outform", "DER"], args].concat(),
                &out,
            );
            let bytes = fs::read(&out).unwrap();
            bytes[bytes.len() - 32..].to_vec()
        };
        let (secret, public) = (form(&[], "secret"), form(&["-pubout"], "public"));
        let seed_head = [SEED | prefix >> 5, prefix << 3];
        Self {
            path: path.to_owned(),
            public: spelled(&[&[prefix][..], &public].concat()),
            seed: spelled(&[&seed_head[..], &secret].concat()),
        }
    }

    /// A JWT about `subject` by this key.
    #[track_caller]
    fn sign(&self, subject: &NatsKey, mut claims: Value) -> String {
        let base64 = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        claims["version"] = json!(2);
        let body = json!({
            "jti": "test", "iat": 1_700_000_000, "iss": self.public, "sub": subject.public, "name": "test", "nats": claims,
        });
        let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
        let signed = format!(
            "{}.{}",
            base64(header.to_string().as_bytes()),
            base64(body.to_string().as_bytes())
        );
        let (text, signature) = (
            self.path.with_extension("in"),
            self.path.with_extension("sig"),
        );
        fs::write(&text, &signed).unwrap();
        run(
            Command::new("openssl")
                .args(["pkeyutl", "-sign", "-rawin", "-inkey"])
                .arg(&self.path)
                .arg("-in")
                .arg(&text)
                .arg("-out")
                .arg(&signature),
            INSTALL,
        );
        format!("{signed}.{}", base64(&fs::read(signature).unwrap()))
    }
}

/// Base32 of bytes and their CRC-16.
fn spelled(bytes: &[u8]) -> String {
    let mut crc = 0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte) << 8;
        for _ in 0..8 {
            crc <<= 1;
            if crc & 0x1_0000 != 0 {
                crc ^= 0x1_1021;
            }
        }
    }
    let all = [bytes, &(crc as u16).to_le_bytes()].concat();
    let bits: String = all.iter().map(|byte| format!("{byte:08b}")).collect();
    bits.as_bytes()
        .chunks(5)
        .map(|five| {
            let mut five = String::from_utf8(five.to_vec()).unwrap();
            five.extend(std::iter::repeat_n('0', 5 - five.len()));
            let value = usize::from_str_radix(&five, 2).unwrap();
            char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[value])
        })
        .collect()
}
