//! The platform of an image or a build, with containerd's normal forms (`x86_64` is `amd64`, `arm64/v8` is `arm64`).
//! What the running machine is, the caller says; nothing is looked up here but the architecture of this program.

use serde::{Deserialize, Serialize};

/// OCI image-spec `platform`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// GOARCH.
    pub architecture: String,
    /// GOOS.
    pub os: String,
    /// For example a Windows build number.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// For example `win32k`.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// CPU variant, for example `v7`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// Text that is no platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlatformError {
    /// Its parts are no known words.
    #[error("`{text}` is not a platform: expected os, arch, os/arch or os/arch/variant, such as `linux/arm64`")]
    Unknown {
        /// What was given.
        text: String,
    },
    /// One part is no word at all; in containerd's text, which clients look for.
    #[error(
        "\"{component}\" is an invalid component of \"{text}\": platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
    )]
    Component {
        /// The part.
        component: String,
        /// What was given.
        text: String,
    },
}

impl Platform {
    /// A platform of two words, in normal form.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        let (architecture, variant) = normal_architecture(architecture, variant);
        Platform { architecture, os: normal_os(os), os_version: String::new(), os_features: Vec::new(), variant }
    }

    /// What this program was compiled for.
    pub fn host() -> Platform {
        Platform::new(std::env::consts::OS, std::env::consts::ARCH, "")
    }

    /// Reads `os`, `arch`, `os/arch` or `os/arch/variant`; a missing part comes from `default`.
    pub fn parse(text: &str, default: &Platform) -> Result<Platform, PlatformError> {
        let error = || PlatformError::Unknown { text: text.to_owned() };
        let parts: Vec<&str> = text.split('/').collect();
        let is_word = |p: &&str| !p.is_empty() && p.chars().all(|c| c.is_ascii_alphanumeric() || "_-.()".contains(c));
        if let Some(component) = parts.iter().find(|part| !is_word(part)) {
            return Err(PlatformError::Component { component: (*component).to_owned(), text: text.to_owned() });
        }
        // `linux(5.10)` carries an os version in parentheses.
        let (os, version) = match parts[0].split_once('(') {
            Some((os, rest)) => (os, rest.strip_suffix(')').ok_or_else(error)?),
            None => (parts[0], ""),
        };
        let mut platform = match parts.as_slice() {
            [_] if is_os(os) => {
                let variant = if normal_os(os) == default.os { default.variant.as_str() } else { "" };
                Platform::new(os, &default.architecture, variant)
            }
            [arch] => {
                let (name, variant) = normal_architecture(arch, "");
                if !is_architecture(&name) {
                    return Err(error());
                }
                Platform::new(&default.os, &name, &variant)
            }
            [_, arch] => Platform::new(os, arch, ""),
            [_, arch, variant] => Platform::new(os, arch, variant),
            _ => return Err(error()),
        };
        platform.os_version = version.to_owned();
        Ok(platform)
    }

    /// The same platform in normal form.
    pub fn normal(&self) -> Platform {
        let mut features = self.os_features.clone();
        features.sort();
        features.dedup();
        Platform {
            os_version: self.os_version.clone(),
            os_features: features,
            ..Platform::new(&self.os, &self.architecture, &self.variant)
        }
    }

    /// Whether something made for `other` runs where `self` is asked for, without emulation: the same, or for arm a
    /// lower variant, for Windows the same build where both say which. Lower is better; `None` does not run.
    pub fn rank(&self, other: &Platform) -> Option<u32> {
        let (want, have) = (self.normal(), other.normal());
        if want.os != have.os || want.architecture != have.architecture {
            return None;
        }
        if want.os == "windows" && !same_build(&want.os_version, &have.os_version) {
            return None;
        }
        if want.variant == have.variant {
            return Some(0);
        }
        if want.architecture == "arm" {
            let (want, have) = (arm_level(&want.variant)?, arm_level(&have.variant)?);
            return want.checked_sub(have).filter(|d| *d > 0);
        }
        if want.architecture == "amd64" {
            let (want, have) = (amd64_level(&want.variant)?, amd64_level(&have.variant)?);
            return want.checked_sub(have).filter(|d| *d > 0);
        }
        if want.architecture == "arm64" { have.variant.is_empty().then_some(1) } else { None }
    }

    /// Whether `other` may stand in for `self` (see [`Platform::rank`]).
    pub fn matches(&self, other: &Platform) -> bool {
        self.rank(other).is_some()
    }
}

/// Whether two versions of Windows (`10.0.17763.1234`) are of one build. One that says nothing is of any.
fn same_build(want: &str, have: &str) -> bool {
    let build = |version: &str| version.split('.').take(3).map(str::to_owned).collect::<Vec<_>>();
    want.is_empty() || have.is_empty() || build(want) == build(have)
}

fn arm_level(variant: &str) -> Option<u32> {
    if variant.is_empty() { Some(7) } else { variant.strip_prefix('v')?.parse().ok() }
}

fn amd64_level(variant: &str) -> Option<u32> {
    if variant.is_empty() { Some(1) } else { variant.strip_prefix('v')?.parse().ok() }
}

fn normal_os(os: &str) -> String {
    let os = os.to_ascii_lowercase();
    if os == "macos" { "darwin".into() } else { os }
}

fn normal_architecture(architecture: &str, variant: &str) -> (String, String) {
    let (arch, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
    let (arch, variant) = match (arch.as_str(), variant.as_str()) {
        ("i386" | "386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64" | "arm64", v) => ("arm64", v),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (a, v) => (a, v),
    };
    (arch.to_owned(), variant.to_owned())
}

fn is_os(text: &str) -> bool {
    const KNOWN: &[&str] = &[
        "aix",
        "android",
        "darwin",
        "macos",
        "dragonfly",
        "freebsd",
        "illumos",
        "ios",
        "js",
        "linux",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "wasip1",
        "windows",
        "zos",
    ];
    KNOWN.contains(&text.to_ascii_lowercase().as_str())
}

fn is_architecture(text: &str) -> bool {
    const KNOWN: &[&str] = &[
        "386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le", "ppc64", "ppc64le",
        "riscv64", "s390x", "wasm", "sparc64",
    ];
    KNOWN.contains(&text)
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.os)?;
        if !self.os_version.is_empty() {
            write!(f, "({})", self.os_version)?;
        }
        write!(f, "/{}", self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> String {
        Platform::parse(text, &Platform::new("linux", "amd64", "")).map_or("error".into(), |p| p.to_string())
    }

    #[test]
    fn reads_as_containerd_does() {
        let cases = [
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("arm64", "linux/arm64"),
            ("armhf", "linux/arm/v7"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux", "linux/amd64"),
            ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
            ("nonsense", "error"),
            ("linux/", "error"),
            ("a/b/c/d", "error"),
        ];
        for (text, wanted) in cases {
            assert_eq!(parse(text), wanted, "{text}");
        }
    }

    #[test]
    fn lower_arm_variants_run_on_higher_ones() {
        let p = |v| Platform::new("linux", "arm", v);
        assert!(p("v7").matches(&p("v6")));
        assert!(!p("v6").matches(&p("v7")));
        assert_eq!(p("v7").rank(&p("v7")), Some(0));
        assert!(!p("v7").matches(&Platform::new("linux", "arm64", "")));
    }

    #[test]
    fn builds_of_windows() {
        let of = |version: &str| Platform { os_version: version.to_owned(), ..Platform::new("windows", "amd64", "") };
        assert!(of("10.0.17763.1").matches(&of("10.0.17763.9")));
        assert!(!of("10.0.17763.1").matches(&of("10.0.20348.1")));
        assert!(of("").matches(&of("10.0.20348.1")) && of("10.0.20348.1").matches(&of("")));
        let linux = |version: &str| Platform { os_version: version.to_owned(), ..Platform::new("linux", "amd64", "") };
        assert!(linux("5").matches(&linux("6")));
    }
}
