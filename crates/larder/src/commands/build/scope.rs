//! Which cache a build writes and which it reads, by where it runs: `scope=auto` beside a reference without a tag. A pull
//! request writes a cache of its own and reads its branch's, its target's and the main branch's; so nobody writes what
//! others trust more. Read off the variables of GitHub, GitLab, Jenkins and Tekton, else off git.

use std::path::Path;

/// Names of scopes, the nearest first. Builds write the first and read all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes(pub Vec<String>);

/// Reads variables; `git` gives the branch that is checked out and the main branch of `origin`, where there is a git.
pub fn scopes(variable: &dyn Fn(&str) -> Option<String>, git: &dyn Fn() -> Option<(String, String)>) -> Scopes {
    let get = |name: &str| variable(name).filter(|value| !value.is_empty());
    let main = || get("LARDER_MAIN_BRANCH").unwrap_or_else(|| "main".to_owned());
    let found = if get("GITHUB_ACTIONS").is_some() {
        // refs/pull/7/merge
        let reference = get("GITHUB_REF").unwrap_or_default();
        let request = reference.strip_prefix("refs/pull/").and_then(|r| r.split('/').next()).map(|n| format!("pr-{n}"));
        let branch = get("GITHUB_HEAD_REF").or_else(|| get("GITHUB_REF_NAME"));
        vec![request, branch, get("GITHUB_BASE_REF"), Some(main())]
    } else if get("GITLAB_CI").is_some() {
        let request = get("CI_MERGE_REQUEST_IID").map(|n| format!("pr-{n}"));
        let branch = get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME").or_else(|| get("CI_COMMIT_REF_NAME"));
        let target = get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME");
        vec![request, branch, target, get("CI_DEFAULT_BRANCH").or_else(|| Some(main()))]
    } else if get("JENKINS_URL").is_some() {
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
            Some((branch, default)) => vec![Some(branch), Some(get("LARDER_MAIN_BRANCH").unwrap_or(default))],
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

/// The branch that is checked out at `folder` or above, and the main branch of `origin`.
pub fn git(folder: &Path) -> Option<(String, String)> {
    let root = folder.ancestors().map(|f| f.join(".git")).find(|git| git.exists())?;
    let root = if root.is_file() {
        // A worktree: `gitdir: PATH`.
        let text = std::fs::read_to_string(&root).ok()?;
        folder.join(text.strip_prefix("gitdir:")?.trim())
    } else {
        root
    };
    let branch = |text: String, prefix: &str| Some(text.trim().strip_prefix(prefix)?.to_owned());
    let head = branch(std::fs::read_to_string(root.join("HEAD")).ok()?, "ref: refs/heads/")?;
    let origin = std::fs::read_to_string(root.join("refs/remotes/origin/HEAD")).ok();
    let main = origin.and_then(|text| branch(text, "ref: refs/remotes/origin/"));
    Some((head, main.unwrap_or_else(|| "main".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Vec<String> {
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        scopes(&get, &|| Some(("feature".to_owned(), "trunk".to_owned()))).0
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
        assert_eq!(of(&[("TEKTON_PULL_REQUEST", "7"), ("TEKTON_BRANCH", "f")]), ["pr-7", "f", "main"]);
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
