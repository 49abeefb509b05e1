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

/// Reads variables; `git` is asked where they say nothing.
pub fn scopes(variable: &dyn Fn(&str) -> Option<String>, git: &dyn Fn() -> Option<Checkout>) -> Scopes {
    let get = |name: &str| variable(name).filter(|value| !value.is_empty());
    let main = || get("LARDER_MAIN_BRANCH").unwrap_or_else(|| "main".to_owned());
    let found = if get("GITHUB_ACTIONS").is_some() {
        // refs/pull/7/merge
        let reference = get("GITHUB_REF").unwrap_or_default();
        let number = reference.strip_prefix("refs/pull/").and_then(|r| r.split('/').next()).map(str::to_owned);
        // A `pull_request_target` has the target's reference and no number. A fork chooses its branch's name, `main` too, so
        // that name alone is never what is written.
        let request = number.or_else(|| get("GITHUB_HEAD_REF")).map(|n| format!("pr-{n}"));
        let branch = get("GITHUB_HEAD_REF").or_else(|| get("GITHUB_REF_NAME"));
        vec![request, branch, get("GITHUB_BASE_REF"), Some(main())]
    } else if get("GITLAB_CI").is_some() {
        // The others are those of a pull request at GitHub or Bitbucket that GitLab builds.
        let either = |name: &str| {
            get(&format!("CI_MERGE_REQUEST_{name}")).or_else(|| get(&format!("CI_EXTERNAL_PULL_REQUEST_{name}")))
        };
        let request = either("IID").map(|n| format!("pr-{n}"));
        let branch = either("SOURCE_BRANCH_NAME").or_else(|| get("CI_COMMIT_REF_NAME"));
        let target = either("TARGET_BRANCH_NAME");
        vec![request, branch, target, get("CI_DEFAULT_BRANCH").or_else(|| Some(main()))]
    } else if get("JENKINS_URL").or_else(|| get("JENKINS_HOME")).is_some() {
        // The URL is there only where somebody has configured it.
        let request = get("CHANGE_ID").map(|n| format!("pr-{n}"));
        let branch = get("CHANGE_BRANCH").or_else(|| get("BRANCH_NAME")).or_else(|| get("GIT_BRANCH"));
        let branch = branch.map(|b| b.strip_prefix("origin/").unwrap_or(&b).to_owned());
        vec![request, branch, get("CHANGE_TARGET"), Some(main())]
    } else if get("TEKTON_PULL_REQUEST").is_some() || get("TEKTON_BRANCH").is_some() {
        // Tekton has no variables of its own: its triggers hand these on.
        let request = get("TEKTON_PULL_REQUEST").map(|n| format!("pr-{n}"));
        vec![request, get("TEKTON_BRANCH"), get("TEKTON_TARGET_BRANCH"), Some(main())]
    } else {
        match git() {
            // A bare commit is what most CI systems check out: it may be anybody's, so it is not main's.
            Some(Checkout { branch, main }) => {
                vec![branch.or_else(|| Some("detached".to_owned())), Some(get("LARDER_MAIN_BRANCH").unwrap_or(main))]
            }
            None => vec![Some(main())],
        }
    };
    let mut names: Vec<String> = Vec::new();
    for name in found.into_iter().flatten().map(|name| tag(&name)) {
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
        assert_eq!(of(&fork), ["pr-main", "main"]);
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
        assert_eq!(scopes(&|_| None, &|| None).0, ["main"]);
    }

    #[test]
    fn names_that_are_no_tags() {
        assert_eq!(tag("main"), "main");
        let (a, b) = (tag("fix/a"), tag("fix-a"));
        assert!(a.starts_with("fix-a-") && b == "fix-a", "{a} {b}");
        assert!(oci::Reference::parse(&format!("localhost/x:{}", tag("-é/ü"))).is_ok());
    }
}
