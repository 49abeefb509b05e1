//! What the distribution specification, version 1.1, asks of a registry ("MUST"), in our words, and the test that holds each.

/// Workflow, what is asked, and the test.
const ASKED: [(&str, &str, &str); 45] = [
    ("all", "names of repositories and tags keep to their grammar", "push::names_and_tags_keep_to_their_grammar"),
    ("all", "an error's body, where it is JSON, has the codes of the list", "served::refused"),
    ("pull", "what pulls is there at all", "pull::whether_this_is_a_registry"),
    ("pull", "a manifest that is there is 200 and exactly what was pushed", PULLED),
    ("pull", "a manifest's digest header is that of its bytes", PULLED),
    ("pull", "a manifest that is not there is 404", "pull::what_is_not_there_is_404"),
    ("pull", "a repository that is not there is 404", "pull::what_is_not_there_is_404"),
    (
        "pull",
        "a blob that is there is 200 and exactly what was pushed",
        "pull::a_blob_is_returned_whole_with_its_digest",
    ),
    ("pull", "a blob's digest header is that of its bytes", "pull::a_blob_is_returned_whole_with_its_digest"),
    ("pull", "a blob that is not there is 404", "pull::what_is_not_there_is_404"),
    ("pull", "HEAD of what is there is 200", PULLED),
    ("pull", "HEAD of what is not there is 404", "pull::what_is_not_there_is_404"),
    ("push", "a manifest is taken before its subject is there", "push::a_manifest_with_a_subject_that_is_not_here_yet"),
    ("push", "a manifest refused for what is missing says so", "push::a_manifest_that_names_what_is_not_here"),
    ("push", "an upload begins with 202 and its address", "push::post_then_put"),
    ("push", "the address has the session's UUID", "push::post_then_put"),
    ("push", "an upload ends with 201 and the blob's address", "push::post_then_put"),
    ("push", "a blob in one request is 201 and its address", "push::a_single_post"),
    ("push", "a length that is not the body's makes no blob", "push::a_body_that_is_shorter_than_it_says"),
    ("push", "a digest that is not the body's makes no blob", "push::a_digest_that_is_not_the_contents"),
    ("push", "a chunk is 202 with the next address and how far it came", "push::chunks_in_order"),
    ("push", "a chunk's range is two numbers, both included", "push::a_range_that_is_none_or_of_another_length"),
    ("push", "the first chunk begins at 0", OUT_OF_ORDER),
    ("push", "a chunk out of order is 416", OUT_OF_ORDER),
    ("push", "chunks end with a PUT that has the whole digest", "push::chunks_in_order"),
    ("push", "the end of chunks is 201 and the blob's address", "push::chunks_in_order"),
    ("push", "an upload that goes on is 204 with its address and how far it is", OUT_OF_ORDER),
    ("push", "a mount is 201 and the blob's address", "push::a_blob_is_mounted_from_another_repository"),
    ("push", "a manifest is kept byte for byte", PULLED),
    ("push", "a manifest is 201 with its address", "push::a_manifest_is_pushed_by_tag_and_by_digest"),
    (
        "push",
        "the digest that is answered is the one that was given",
        "push::a_manifest_is_pushed_by_tag_and_by_digest",
    ),
    ("push", "a manifest with a subject is answered with it", REFERRERS),
    ("discovery", "tags are 200 and JSON in the form that is given", TAGS),
    ("discovery", "tags are in order, their case not counting", TAGS),
    ("discovery", "a page has as many tags as were asked for", TAGS),
    ("discovery", "the next page's address is a link of the relation next", TAGS),
    ("discovery", "no tags asked for are none, and no next page", TAGS),
    ("discovery", "referrers are 200 and an index, never 404", "discover::referrers_of_nothing"),
    ("discovery", "referrers of what is no digest are 400", "discover::referrers_of_nothing"),
    ("discovery", "referrers have type and annotations of their manifests", REFERRERS),
    ("discovery", "referrers of one type say that they were chosen", REFERRERS),
    (
        "discovery",
        "referrers that are too many for one manifest go on",
        "discover::referrers_that_do_not_fit_into_one_manifest",
    ),
    ("management", "a tag is deleted with 202", "manage::a_tag_is_deleted_and_its_manifest_stays"),
    ("management", "a manifest is deleted with 202, one of no repository is 404", MANIFEST_DELETED),
    (
        "management",
        "a blob is deleted with 202, one that is not there is 404",
        "manage::a_blob_is_deleted_from_its_repository",
    ),
];

const PULLED: &str = "pull::a_manifest_is_returned_as_it_was_pushed_with_its_type_and_digest";
const OUT_OF_ORDER: &str = "push::a_chunk_out_of_order_is_416_and_the_state_says_where_to_go_on";
const TAGS: &str = "discover::tags_in_order_and_page_by_page";
const REFERRERS: &str = "discover::referrers_with_types_and_annotations";
const MANIFEST_DELETED: &str = "manage::a_manifest_is_deleted_with_every_tag_that_points_to_it";

#[test]
fn everything_asked_has_its_test() {
    let texts = [
        ("pull", include_str!("pull.rs")),
        ("push", include_str!("push.rs")),
        ("discover", include_str!("discover.rs")),
        ("manage", include_str!("manage.rs")),
        ("served", include_str!("served.rs")),
    ];
    for (workflow, asked, test) in ASKED {
        let (file, name) = test.split_once("::").unwrap();
        let (_, text) = texts.iter().find(|(known, _)| *known == file).unwrap();
        assert!(text.contains(&format!("fn {name}(")), "{workflow}: {asked}: there is no test {test}");
    }
}
