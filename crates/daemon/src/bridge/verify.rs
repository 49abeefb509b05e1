//! Whether a result has the platforms that were asked for. What differs is a warning, as with BuildKit: a frontend may have
//! its reasons. It refuses nothing.

use std::collections::BTreeSet;

use oci::Platform;

/// What is to be said of a result's platforms. `asked`: the attribute `platform`, without which it is this machine's; `is_multi`: the result names its parts.
pub fn warning(asked: Option<&str>, is_multi: bool, results: &[Platform]) -> Option<String> {
    let host = Platform::host().normal().to_string();
    let asked = asked.unwrap_or(&host);
    let mut wanted = BTreeSet::new();
    for text in asked.split(',') {
        match Platform::parse(text, &Platform::host()) {
            Err(error) => return Some(format!("Invalid platform result requested \"{text}\": {error}")),
            Ok(platform) if !wanted.insert(platform.to_string()) => {
                return Some(format!("Duplicate platform result requested \"{text}\""));
            }
            Ok(_) => {}
        }
    }
    // A version of the system that nobody asked for is no difference.
    let is_wanted = |platform: &Platform| {
        let any = Platform::new(&platform.os, &platform.architecture, &platform.variant);
        let platform = platform.normal();
        wanted.contains(&platform.to_string()) || wanted.contains(&any.to_string())
    };
    let all = |list: Vec<String>| list.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",");
    let got = all(results.iter().map(Platform::to_string).collect());
    match (wanted.len(), results.len()) {
        (1, 1) if !is_wanted(&results[0]) => {
            Some(format!("Requested platform \"{asked}\" does not match result platform \"{got}\""))
        }
        (1, 1) => None,
        _ if !is_multi && wanted.len() > 1 => {
            Some("Multiple platforms requested but result is not multi-platform".to_owned())
        }
        (a, b) if a == b && results.iter().all(is_wanted) => None,
        _ => {
            let wanted = all(wanted.into_iter().collect());
            Some(format!("Requested platforms {wanted} do not match result platforms {got}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_said() {
        let of = |list: &[&str]| -> Vec<Platform> {
            list.iter().map(|text| Platform::parse(text, &Platform::host()).unwrap()).collect()
        };
        let said = |asked: &str, is_multi: bool, results: &[&str]| warning(Some(asked), is_multi, &of(results));
        let both = ["linux/amd64", "linux/arm64"];
        assert_eq!(warning(None, false, &[Platform::host()]), None);
        assert!(warning(None, true, &of(&both)).unwrap().starts_with("Requested platforms linux/"));
        assert!(said("", false, &both[..1]).unwrap().starts_with("Invalid"));
        assert_eq!(said("linux/arm64", false, &["linux/arm64"]), None);
        assert_eq!(said("linux/arm64,linux/amd64", true, &both), None);
        let text = said("linux/arm64", false, &["linux/amd64"]).unwrap();
        assert_eq!(text, "Requested platform \"linux/arm64\" does not match result platform \"linux/amd64\"");
        let text = said("linux/amd64,linux/arm64", false, &["linux/amd64"]).unwrap();
        assert_eq!(text, "Multiple platforms requested but result is not multi-platform");
        let text = said("linux/amd64,linux/s390x", true, &both).unwrap();
        assert_eq!(
            text,
            "Requested platforms linux/amd64,linux/s390x do not match result platforms linux/amd64,linux/arm64"
        );
        assert!(said("linux/amd64,linux/amd64", true, &both).unwrap().starts_with("Duplicate"));
        let windows = Platform { os_version: "10.0.20348".to_owned(), ..Platform::new("windows", "amd64", "") };
        assert_eq!(warning(Some("windows/amd64"), false, &[windows]), None);
    }
}
