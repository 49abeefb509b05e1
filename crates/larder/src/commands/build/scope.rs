//! Which cache a build writes and which it reads, by where it runs: `scope=auto` beside a reference without a tag. A pull
//! request writes a cache of its own and reads its branch's, its target's and the main branch's; so nobody writes what
//! others trust more. Read off the variables of GitHub, GitLab, Jenkins and Tekton, else off git.

use std::path::Path;

/// Names of scopes, the nearest first. Builds write the first and read all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes(pub Vec<String>);

/// What git says: the branch that is checked out, unless a bare commit is, and the main branch of `origin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    branch: Option<String>,
    main: String,
}

/// What a build is of: whose cache it writes.
enum Of {
    /// The number of a pull request.
    Request(String),
    /// A pull request of which only its branch is known, and who opened it: who has a fork names its branches, `main` too.
    Stranger(String),
    /// A tag, which may be called like a branch, and which others may push than may push that branch.
    Tag(String),
    Branch(String),
    /// A bare commit, or a folder that git does not know: it may be anybody's.
    Unknown,
}

impl Of {
    fn name(&self) -> String {
        match self {
            Of::Request(number) => format!("pr-{number}"),
            Of::Stranger(branch) => format!("head-{branch}"),
            Of::Tag(tag) => format!("tag-{tag}"),
            Of::Branch(name) => branch(name),
            Of::Unknown => UNKNOWN.to_owned(),
        }
    }
}

/// The scope of what is no branch's.
const UNKNOWN: &str = "detached";

/// The scope of a branch: never one that something else has.
fn branch(name: &str) -> String {
    let reserved = ["pr-", "head-", "tag-", "branch-"].iter().any(|prefix| name.starts_with(prefix));
    if reserved || name == UNKNOWN { format!("branch-{name}") } else { name.to_owned() }
}

/// Reads variables; `git` is asked where they say nothing.
pub fn scopes(variable: &dyn Fn(&str) -> Option<String>, git: &dyn Fn() -> Option<Checkout>) -> Scopes {
    let get = |name: &str| variable(name).filter(|value| !value.is_empty());
    let main = || get("LARDER_MAIN_BRANCH").unwrap_or_else(|| "main".to_owned());
    // What it is of, the branch of that, the branch that it is to go into, the main branch.
    let (of, source, target, main) = if get("GITHUB_ACTIONS").is_some() {
        // refs/pull/7/merge
        let reference = get("GITHUB_REF").unwrap_or_default();
        let number = reference.strip_prefix("refs/pull/").and_then(|r| r.split('/').next()).map(str::to_owned);
        // A `pull_request_target` has the target's reference and no number.
        let stranger = || {
            let who = get("GITHUB_ACTOR").map(|who| format!("{who}-")).unwrap_or_default();
            get("GITHUB_HEAD_REF").map(|name| Of::Stranger(format!("{who}{name}")))
        };
        let tag = || reference.strip_prefix("refs/tags/").map(|name| Of::Tag(name.to_owned()));
        let of = number.map(Of::Request).or_else(stranger).or_else(tag);
        let of = of.or_else(|| get("GITHUB_REF_NAME").map(Of::Branch));
        (of, get("GITHUB_HEAD_REF"), get("GITHUB_BASE_REF"), main())
    } else if get("GITLAB_CI").is_some() {
        // The others are those of a pull request at GitHub or Bitbucket that GitLab builds.
        let either = |name: &str| {
            get(&format!("CI_MERGE_REQUEST_{name}")).or_else(|| get(&format!("CI_EXTERNAL_PULL_REQUEST_{name}")))
        };
        let of = either("IID").map(Of::Request).or_else(|| get("CI_COMMIT_TAG").map(Of::Tag));
        let of = of.or_else(|| get("CI_COMMIT_REF_NAME").map(Of::Branch));
        let (source, target) = (either("SOURCE_BRANCH_NAME"), either("TARGET_BRANCH_NAME"));
        (of, source, target, get("CI_DEFAULT_BRANCH").unwrap_or_else(main))
    } else if get("JENKINS_URL").or_else(|| get("JENKINS_HOME")).is_some() {
        // The URL is there only where somebody has configured it.
        let branch = get("BRANCH_NAME").or_else(|| get("GIT_BRANCH"));
        let branch = branch.map(|b| b.strip_prefix("origin/").unwrap_or(&b).to_owned());
        let of = get("CHANGE_ID").map(Of::Request).or_else(|| get("TAG_NAME").map(Of::Tag));
        (of.or_else(|| branch.map(Of::Branch)), get("CHANGE_BRANCH"), get("CHANGE_TARGET"), main())
    } else if get("TEKTON_PULL_REQUEST").is_some() || get("TEKTON_BRANCH").is_some() {
        // Tekton has no variables of its own: its triggers hand these on.
        let of = get("TEKTON_PULL_REQUEST").map(Of::Request).or_else(|| get("TEKTON_BRANCH").map(Of::Branch));
        (of, get("TEKTON_BRANCH"), get("TEKTON_TARGET_BRANCH"), main())
    } else {
        let checkout = git();
        let here = checkout.as_ref().and_then(|checkout| checkout.branch.clone());
        let main = get("LARDER_MAIN_BRANCH").or_else(|| checkout.map(|checkout| checkout.main));
        (get("LARDER_BRANCH").or(here).map(Of::Branch), None, None, main.unwrap_or_else(|| "main".to_owned()))
    };
    let read = [source, target, Some(main)].into_iter().flatten().map(|name| branch(&name));
    let mut names: Vec<String> = Vec::new();
    for name in [of.unwrap_or(Of::Unknown).name()].into_iter().chain(read).map(|name| tag(&name)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Scopes(names)
}

/// A name as a tag of a registry: other characters become `-`.
fn tag(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '-' };
    let text: String = name.chars().map(allowed).take(80).collect();
    let text = text.trim_start_matches(['.', '-']);
    let text = if text.is_empty() { "scope" } else { text };
    // Two names that look the same as tags are not the same scope.
    if text == name { text.to_owned() } else { format!("{text}-{}", oci::Digest::of(name.as_bytes()).short()) }
}

/// What is checked out at `folder` or above.
pub fn git(folder: &Path) -> Option<Checkout> {
    let mut root = folder.ancestors().map(|f| f.join(".git")).find(|git| git.exists())?;
    if root.is_file() {
        // A worktree: `gitdir: PATH`, from where the file lies.
        let text = std::fs::read_to_string(&root).ok()?;
        root = root.parent()?.join(text.strip_prefix("gitdir:")?.trim());
    }
    let branch = |text: String, prefix: &str| Some(text.trim().strip_prefix(prefix)?.to_owned());
    let head = std::fs::read_to_string(root.join("HEAD")).ok()?;
    // Worktrees share what they know of `origin`.
    let shared = std::fs::read_to_string(root.join("commondir")).map_or(root.clone(), |path| root.join(path.trim()));
    let origin = std::fs::read_to_string(shared.join("refs/remotes/origin/HEAD")).ok();
    let main = origin.and_then(|text| branch(text, "ref: refs/remotes/origin/"));
    Some(Checkout { branch: branch(head, "ref: refs/heads/"), main: main.unwrap_or_else(|| "main".to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Vec<String> {
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        scopes(&get, &|| Some(Checkout { branch: Some("feature".to_owned()), main: "trunk".to_owned() })).0
    }

    #[test]
    fn a_pull_request_writes_its_own() {
        let github = [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_REF", "refs/pull/7/merge"),
            ("GITHUB_HEAD_REF", "feature"),
            ("GITHUB_BASE_REF", "release"),
        ];
        assert_eq!(of(&github), ["pr-7", "feature", "release", "main"]);
        let gitlab = [
            ("GITLAB_CI", "true"),
            ("CI_MERGE_REQUEST_IID", "7"),
            ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "feature"),
            ("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "trunk"),
            ("CI_DEFAULT_BRANCH", "trunk"),
        ];
        assert_eq!(of(&gitlab), ["pr-7", "feature", "trunk"]);
        let jenkins = [("JENKINS_URL", "x"), ("CHANGE_ID", "7"), ("CHANGE_BRANCH", "f"), ("CHANGE_TARGET", "main")];
        assert_eq!(of(&jenkins), ["pr-7", "f", "main"]);
        let jenkins = [("JENKINS_HOME", "/j"), ("CHANGE_ID", "7"), ("CHANGE_BRANCH", "f"), ("CHANGE_TARGET", "main")];
        assert_eq!(of(&jenkins), ["pr-7", "f", "main"]);
        assert_eq!(of(&[("TEKTON_PULL_REQUEST", "7"), ("TEKTON_BRANCH", "f")]), ["pr-7", "f", "main"]);
    }

    #[test]
    fn a_stranger_never_writes_main() {
        let fork = [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_REF", "refs/heads/main"),
            ("GITHUB_REF_NAME", "main"),
            ("GITHUB_HEAD_REF", "main"),
            ("GITHUB_BASE_REF", "main"),
        ];
        assert_eq!(of(&fork), ["head-main", "main"]);
        // Two forks with branches of one name are two.
        let with = |who| of(&[&fork[..], &[("GITHUB_ACTOR", who)]].concat())[0].clone();
        assert_eq!((with("a"), with("b")), ("head-a-main".to_owned(), "head-b-main".to_owned()));
        let external = [
            ("GITLAB_CI", "true"),
            ("CI_EXTERNAL_PULL_REQUEST_IID", "7"),
            ("CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME", "main"),
            ("CI_EXTERNAL_PULL_REQUEST_TARGET_BRANCH_NAME", "release"),
            ("CI_COMMIT_REF_NAME", "main"),
            ("CI_DEFAULT_BRANCH", "main"),
        ];
        assert_eq!(of(&external), ["pr-7", "main", "release"]);
        let bare = scopes(&|_| None, &|| Some(Checkout { branch: None, main: "trunk".to_owned() }));
        assert_eq!(bare.0, ["detached", "trunk"]);
    }

    #[test]
    fn what_git_says() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        let write = |path: &str, text: &str| {
            std::fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            std::fs::write(at(path), text).unwrap();
        };
        let said = |branch: Option<&str>, main: &str| {
            Some(Checkout { branch: branch.map(str::to_owned), main: main.to_owned() })
        };
        write("a/.git/HEAD", "ref: refs/heads/fix/x\n");
        write("a/in/file", "");
        assert_eq!(git(&at("a/in")), said(Some("fix/x"), "main"));
        write("a/.git/refs/remotes/origin/HEAD", "ref: refs/remotes/origin/trunk\n");
        write("a/.git/worktrees/b/HEAD", "ref: refs/heads/other\n");
        write("a/.git/worktrees/b/commondir", "../..\n");
        write("b/.git", "gitdir: ../a/.git/worktrees/b\n");
        write("b/in/file", "");
        assert_eq!(git(&at("b/in")), said(Some("other"), "trunk"));
        write("a/.git/HEAD", "0123456789012345678901234567890123456789\n");
        assert_eq!(git(&at("a")), said(None, "trunk"));
    }

    #[test]
    fn a_branch_writes_its_own_and_reads_main() {
        let push = [("GITHUB_ACTIONS", "true"), ("GITHUB_REF", "refs/heads/main"), ("GITHUB_REF_NAME", "main")];
        assert_eq!(of(&push), ["main"]);
        assert_eq!(of(&[("JENKINS_URL", "x"), ("GIT_BRANCH", "origin/f")]), ["f", "main"]);
        assert_eq!(of(&[]), ["feature", "trunk"]);
        assert_eq!(of(&[("LARDER_BRANCH", "x")]), ["x", "trunk"]);
    }

    #[test]
    fn a_tag_is_no_branch_and_a_branch_is_nothing_else() {
        let tag = [("GITHUB_ACTIONS", "true"), ("GITHUB_REF", "refs/tags/main"), ("GITHUB_REF_NAME", "main")];
        assert_eq!(of(&tag), ["tag-main", "main"]);
        let tag = [("GITLAB_CI", "true"), ("CI_COMMIT_TAG", "main"), ("CI_COMMIT_REF_NAME", "main")];
        assert_eq!(of(&tag), ["tag-main", "main"]);
        assert_eq!(of(&[("JENKINS_URL", "x"), ("TAG_NAME", "main"), ("BRANCH_NAME", "main")]), ["tag-main", "main"]);
        for name in ["pr-7", "tag-main", "head-x", "branch-x", "detached"] {
            let push = [("GITHUB_ACTIONS", "true"), ("GITHUB_REF", "refs/heads/x"), ("GITHUB_REF_NAME", name)];
            assert_eq!(of(&push), [format!("branch-{name}"), "main".to_owned()]);
        }
    }

    #[test]
    fn what_nobody_knows_writes_no_branchs() {
        assert_eq!(scopes(&|_| None, &|| None).0, ["detached", "main"]);
        for ci in ["GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL"] {
            assert_eq!(of(&[(ci, "true")]), ["detached", "main"], "{ci}");
        }
    }

    #[test]
    fn names_that_are_no_tags() {
        assert_eq!(tag("main"), "main");
        let (a, b) = (tag("fix/a"), tag("fix-a"));
        assert!(a.starts_with("fix-a-") && b == "fix-a", "{a} {b}");
        assert!(oci::Reference::parse(&format!("localhost/x:{}", tag("-é/ü"))).is_ok());
    }
}
