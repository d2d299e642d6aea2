//! Rules by field path, on the way from a tape to JSON.

use std::collections::BTreeMap;

use crate::config::Redaction;
use crate::json;
use crate::mode::{HIDDEN, Hash, TRUNCATED, truncated};
use crate::tape::{Op, Ops};

/// Paths and what is done there.
pub(crate) struct Redactor {
    rules: Vec<(Vec<String>, Redaction)>,
}

impl Redactor {
    /// `None` if there are no rules. The paths are those of a valid configuration.
    pub(crate) fn new(rules: &BTreeMap<String, Redaction>) -> Option<Redactor> {
        if rules.is_empty() {
            return None;
        }
        let rules = rules.iter().map(|(path, redaction)| {
            let fields = path.strip_prefix("m.").unwrap_or(path);
            (fields.split('.').map(str::to_owned).collect(), *redaction)
        });
        Some(Redactor {
            rules: rules.collect(),
        })
    }
}

/// As [`json::render`], with what the rules say. Says whether a rule was applied.
pub(crate) fn render_redacted(ops: Ops<'_>, redactor: &Redactor, out: &mut Vec<u8>) -> bool {
    let mut redacting = Redacting {
        ops,
        redactor,
        applied: false,
    };
    // Every rule begins at the message itself.
    let live: Vec<(usize, usize)> = (0..redactor.rules.len()).map(|rule| (rule, 0)).collect();
    if let Some(op) = redacting.ops.next() {
        redacting.value(op, &live, out);
    }
    redacting.applied
}

struct Redacting<'a> {
    ops: Ops<'a>,
    redactor: &'a Redactor,
    applied: bool,
}

impl Redacting<'_> {
    /// One value; `live` are the rules that lead to it or into it, and how many of their fields are behind. Ends early
    /// with a tape that was cut.
    fn value(&mut self, op: Op<'_>, live: &[(usize, usize)], out: &mut Vec<u8>) {
        let rules = &self.redactor.rules;
        let ends = |&&(rule, depth): &&(usize, usize)| rules[rule].0.len() == depth;
        if let Some(&(rule, _)) = live.iter().find(ends) {
            let redaction = rules[rule].1;
            self.applied = true;
            return self.redacted(op, redaction, out);
        }
        match op {
            Op::Map => {
                out.push(b'{');
                let mut follows = false;
                while let Some(op) = self.ops.next() {
                    let Op::Key(key) = op else {
                        break; // EndMap
                    };
                    if follows {
                        out.push(b',');
                    }
                    follows = true;
                    json::value(op, out);
                    let inner = self.step(live, Some(key));
                    if let Some(op) = self.ops.next() {
                        self.value(op, &inner, out);
                    }
                }
                out.push(b'}');
            }
            Op::Seq => {
                out.push(b'[');
                let inner = self.step(live, None);
                let mut follows = false;
                while let Some(op) = self.ops.next() {
                    if op == Op::EndSeq {
                        break;
                    }
                    if follows {
                        out.push(b',');
                    }
                    follows = true;
                    self.value(op, &inner, out);
                }
                out.push(b']');
            }
            op => {
                json::value(op, out);
            }
        }
    }

    /// The rules that go on at a field, or at any element.
    fn step(&self, live: &[(usize, usize)], key: Option<&str>) -> Vec<(usize, usize)> {
        let goes_on = |&&(rule, depth): &&(usize, usize)| {
            let field = &self.redactor.rules[rule].0[depth];
            field == "*" || key.is_some_and(|key| key == field)
        };
        live.iter()
            .filter(goes_on)
            .map(|&(rule, depth)| (rule, depth + 1))
            .collect()
    }

    fn redacted(&mut self, op: Op<'_>, redaction: Redaction, out: &mut Vec<u8>) {
        if let (Redaction::Truncate(characters), Op::Str(text)) = (redaction, op) {
            return match truncated(text, characters) {
                Some(kept) => json::string(&format!("{kept}{TRUNCATED}"), out),
                None => json::string(text, out),
            };
        }
        let mut skipped = Vec::new();
        self.value(op, &[], &mut skipped);
        match redaction {
            Redaction::Hash => json::string(&Hash::of(&skipped).to_string(), out),
            _ => json::string(HIDDEN, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde_json::json;

    use super::*;
    use crate::tape::Tape;

    fn rendered(value: &impl Serialize, rules: &[(&str, &str)]) -> String {
        let mut room = vec![0; 4096];
        let mut tape = Tape::new(&mut room);
        value.serialize(&mut tape).unwrap();
        let len = tape.len();
        #[expect(unsafe_code, reason = "a tape of this very test")]
        // SAFETY: a `Tape` wrote it.
        let ops = unsafe { Ops::new(&room[..len]) };
        let rules = rules
            .iter()
            .map(|(path, redaction)| ((*path).to_owned(), redaction.parse().unwrap()))
            .collect();
        let mut out = Vec::new();
        render_redacted(ops, &Redactor::new(&rules).unwrap(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_are_found_by_their_paths() {
        let value =
            json!({"a": {"b": 1, "c": ["secret", {"b": "x"}]}, "b": "Käse", "z": [], "e": {}});
        for (rules, expected) in [
            (&[("m.none", "hide")][..], value.to_string()),
            (&[("m.a", "hide")], r#"{"a":"<hidden>","b":"Käse","e":{},"z":[]}"#.to_owned()),
            (&[("m.a.b", "hide")], r#"{"a":{"b":"<hidden>","c":["secret",{"b":"x"}]},"b":"Käse","e":{},"z":[]}"#.to_owned()),
            (&[("m.a.c.*", "hide")], r#"{"a":{"b":1,"c":["<hidden>","<hidden>"]},"b":"Käse","e":{},"z":[]}"#.to_owned()),
            (&[("m.*.c.*.b", "hide"), ("m.b", "truncate:2")], r#"{"a":{"b":1,"c":["secret",{"b":"<hidden>"}]},"b":"Kä<truncated>","e":{},"z":[]}"#.to_owned()),
            (&[("m.b", "truncate:4"), ("m.e", "truncate:4")], r#"{"a":{"b":1,"c":["secret",{"b":"x"}]},"b":"Käse","e":"<hidden>","z":[]}"#.to_owned()),
        ] {
            assert_eq!(rendered(&value, rules), expected);
        }
    }

    #[test]
    fn equal_values_have_equal_hashes() {
        let value = json!({"a": "secret", "b": "secret", "c": "other"});
        let text = rendered(&value, &[("m.*", "hash")]);
        let hashed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(hashed["a"], hashed["b"]);
        assert_ne!(hashed["a"], hashed["c"]);
        assert!(crate::mode::is_redacted(hashed["a"].as_str().unwrap()));
    }
}
