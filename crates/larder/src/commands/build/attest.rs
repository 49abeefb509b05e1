//! `--attest`, `--provenance` and `--sbom` as the attributes of a frontend, with buildx's meaning of each.
//! What an attestation needs beyond its name is checked where it is made.

use std::collections::BTreeMap;

use super::csv;
use super::flags::Flags;

/// Reads the flags.
pub fn attributes(flags: &Flags) -> Result<BTreeMap<String, String>, String> {
    let mut wanted = BTreeMap::new();
    let short = [("provenance", &flags.provenance), ("sbom", &flags.sbom)];
    let short = short.into_iter().filter_map(|(kind, value)| Some(of_kind(kind, value.as_ref()?)));
    let whole = flags.attest.iter().map(|text| ("--attest", text.clone()));
    for (flag, text) in whole.chain(short) {
        let fields = csv::fields(&text)?;
        let of = |wanted: &str| fields.iter().find_map(|f| f.strip_prefix(wanted)?.strip_prefix('='));
        let kind = of("type").ok_or_else(|| format!("{flag} {text}: expected type=provenance or type=sbom"))?;
        if kind != "provenance" && kind != "sbom" {
            return Err(format!("{flag} {text}: `{kind}` is no kind of attestation; expected provenance or sbom"));
        }
        let key = format!("attest:{kind}");
        if matches!(of("disabled"), Some("true" | "1")) {
            wanted.remove(&key);
            continue;
        }
        let rest = fields.iter().filter(|f| !f.starts_with("type=") && !f.starts_with("disabled="));
        let rest: Vec<String> = rest.map(|field| quoted(field)).collect();
        if wanted.insert(key, rest.join(",")).is_some() {
            return Err(format!("{flag} {text}: this kind of attestation is asked for twice"));
        }
    }
    Ok(wanted)
}

/// `true`, `false` or a record of keys after a flag of its own.
fn of_kind(kind: &'static str, value: &str) -> (&'static str, String) {
    let flag = if kind == "sbom" { "--sbom" } else { "--provenance" };
    let text = match value {
        "true" | "1" => format!("type={kind}"),
        "false" | "0" => format!("type={kind},disabled=true"),
        keys => format!("type={kind},{keys}"),
    };
    (flag, text)
}

fn quoted(field: &str) -> String {
    if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: Flags) -> Result<Vec<(String, String)>, String> {
        attributes(&flags).map(|all| all.into_iter().collect())
    }

    #[test]
    fn as_buildx_reads_them() {
        let flags = |provenance: &str, sbom: &str| Flags {
            provenance: Some(provenance.to_owned()),
            sbom: Some(sbom.to_owned()),
            ..Flags::default()
        };
        let pair = |kind: &str, value: &str| (format!("attest:{kind}"), value.to_owned());
        assert_eq!(read(flags("true", "false")).unwrap(), [pair("provenance", "")]);
        let both = read(flags("mode=max", "generator=a/b")).unwrap();
        assert_eq!(both, [pair("provenance", "mode=max"), pair("sbom", "generator=a/b")]);
        let attest = |text: &str| Flags { attest: vec![text.to_owned()], ..Flags::default() };
        assert_eq!(read(attest("type=sbom,generator=x")).unwrap(), [pair("sbom", "generator=x")]);
        assert!(read(attest("type=other")).is_err());
        assert!(read(attest("mode=max")).is_err());
    }
}
