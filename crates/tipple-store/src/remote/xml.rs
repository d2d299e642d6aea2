//! As much XML as the answers need that are read here: the text of elements that hold nothing but text.

/// The text of the first element `name`, unescaped.
pub(super) fn text(xml: &str, name: &str) -> Option<String> {
    element(xml, name).map(|(inner, _)| unescaped(inner))
}

/// What is inside each element `name`, in order. Elements of one name do not nest in the answers that are read here.
pub(super) fn elements<'a>(xml: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (inner, after) = element(rest, name)?;
        rest = after;
        Some(inner)
    })
}

/// The inside of the first element `name`, and what follows it.
fn element<'a>(xml: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let mut rest = xml;
    loop {
        let at = rest.find(&format!("<{name}"))?;
        let after = &rest[at + 1 + name.len()..];
        // `<Key>` or `<Key xmlns=…>`, not `<KeyMarker>`; `<Key/>` is empty.
        if after.starts_with(['>', ' ', '/']) {
            let end = after.find('>')?;
            if after[..end].ends_with('/') {
                return Some(("", &after[end + 1..]));
            }
            let inner = &after[end + 1..];
            let close = format!("</{name}>");
            let length = inner.find(&close)?;
            return Some((&inner[..length], &inner[length + close.len()..]));
        }
        rest = after;
    }
}

fn unescaped(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = [
            ("&amp;", '&'),
            ("&lt;", '<'),
            ("&gt;", '>'),
            ("&quot;", '"'),
            ("&apos;", '\''),
            ("&#34;", '"'),
            ("&#39;", '\''),
        ];
        match known.iter().find(|(escape, _)| rest.starts_with(escape)) {
            Some((escape, c)) => {
                out.push(*c);
                rest = &rest[escape.len()..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_element_is_found() {
        let xml = "<?xml?>\n<R xmlns=\"u\"><KeyMarker>no</KeyMarker><Key>a&amp;b&lt;&quot;&x</Key><E/><Key>2</Key></R>";
        assert_eq!(text(xml, "Key").unwrap(), "a&b<\"&x");
        assert_eq!(text(xml, "E").unwrap(), "");
        assert_eq!(text(xml, "Missing"), None);
        assert_eq!(elements(xml, "Key").count(), 2);
        assert!(text(xml, "R").unwrap().starts_with("<KeyMarker>"));
    }

    #[test]
    fn what_is_broken_is_nothing() {
        for xml in [
            "",
            "<",
            "<Key",
            "<Key>",
            "<Key>a",
            "<Key>a</Ke",
            "<Keya>x</Keya>",
        ] {
            assert_eq!(text(xml, "Key"), None, "{xml}");
        }
    }
}
