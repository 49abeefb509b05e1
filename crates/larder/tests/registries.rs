//! Push to and pull from a real registry on loopback.

use crate::kitchen::Kitchen;

#[test]
fn what_is_pushed_is_built_on() {
    let Some(kitchen) = Kitchen::new() else { return };
    let Some(registry) = testkit::registry::start() else { return };
    let name = format!("{}/team/app:1", registry.host);
    kitchen.write("Dockerfile", "FROM base\nRUN echo pushed > /pushed\n");
    kitchen.build(&["--push", "-t", &name]).ok();
    // Another machine: an empty store that knows nothing of the image.
    let other = kitchen.path("other");
    kitchen.write("Dockerfile", &format!("FROM {name}\nRUN cat /pushed > /copy\n"));
    let context = kitchen.context();
    let build = ["build", "--progress", "plain", "-t", "top", context.to_str().unwrap()];
    let first = kitchen.larder_in(&other, &build).ok();
    assert!(first.stderr.contains("[internal] load metadata for"), "{}", first.stderr);
    let second = kitchen.larder_in(&other, &build).ok();
    assert_eq!(second.missed(), 0, "{}", second.stderr);
    let missing = format!("FROM {}/team/none\nRUN true\n", registry.host);
    kitchen.write("Dockerfile", &missing);
    let ran = kitchen.larder_in(&other, &build);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("team/none"), "{}", ran.stderr);
}
