//! What only the exporter knows of an image's configuration: diff ids, and when its layers were made.
//! The times are BuildKit's, so that the same build is the same image.

use oci::{History, ImageConfig};

use super::assemble::Layer;

/// Completes a configuration. Nothing is younger than `epoch` (seconds since 1970) but the history that came with `base`.
pub(super) fn complete(config: &mut ImageConfig, layers: &[Layer], epoch: Option<i64>, base: Option<&ImageConfig>) {
    config.rootfs.diff_ids = layers.iter().map(|l| l.diff_id).collect();
    let history = config.history.get_or_insert_default();
    cover(history, layers);
    fill(history);
    let mut created = config.created.take();
    if let Some(epoch) = epoch {
        let known = base.and_then(|base| base.history.as_deref()).unwrap_or_default();
        let own = history.iter().zip(known).take_while(|(line, known)| line == known).count();
        history.iter_mut().skip(own).for_each(|line| clamp(&mut line.created, epoch));
        if created.is_some() {
            clamp(&mut created, epoch);
        }
    }
    config.created = created.or_else(|| history.iter().rev().find_map(|line| line.created.clone()));
}

/// A time for each line that is a layer's, and a line for each layer.
fn cover(history: &mut Vec<History>, layers: &[Layer]) {
    let time = |layer: &Layer| layer.created.map(|ms| oci::time::rfc3339_micros(ms * 1000));
    let mut left = layers.iter();
    for line in history.iter_mut().filter(|line| !line.empty_layer) {
        match left.next() {
            Some(layer) => line.created = line.created.take().or(time(layer)),
            // An instruction that made no layer after all.
            None => line.empty_layer = true,
        }
    }
    history.extend(left.map(|layer| History {
        created: time(layer),
        created_by: "larder".to_owned(),
        comment: "buildkit.exporter.image.v0".to_owned(),
        ..History::default()
    }));
}

/// Lines without a time get that of the line before; those before the first new layer get that layer's.
fn fill(history: &mut [History]) {
    let first = history.iter().position(|line| line.created.is_none()).unwrap_or(history.len());
    let (old, new) = history.split_at(first);
    let next = new.iter().find_map(|line| line.created.clone());
    let mut time = next.or_else(|| old.iter().rev().find_map(|line| line.created.clone()));
    for line in &mut history[first..] {
        match &line.created {
            Some(own) => time = Some(own.clone()),
            None => line.created.clone_from(&time),
        }
    }
}

/// What is younger than `epoch`, or of no known age, is of that time.
fn clamp(time: &mut Option<String>, epoch: i64) {
    let known = time.as_deref().and_then(oci::time::parse_rfc3339);
    if known.is_none_or(|known| known > (epoch, 0)) {
        *time = Some(oci::time::rfc3339(epoch));
    }
}

#[cfg(test)]
mod tests {
    use oci::{Descriptor, Digest, media};

    use super::*;

    fn layers(created: &[Option<u64>]) -> Vec<Layer> {
        let layer = |created: &Option<u64>| Layer {
            descriptor: Descriptor::new(media::OCI_LAYER, Digest::of(b""), 0),
            diff_id: Digest::of(b""),
            created: created.map(|seconds| seconds * 1000),
        };
        created.iter().map(layer).collect()
    }

    fn config(lines: &[(Option<i64>, bool)]) -> ImageConfig {
        let line = |(created, empty): &(Option<i64>, bool)| History {
            created: created.map(oci::time::rfc3339),
            empty_layer: *empty,
            ..History::default()
        };
        ImageConfig { history: Some(lines.iter().map(line).collect()), ..ImageConfig::default() }
    }

    /// Seconds of each line, and of the image.
    fn times(config: &ImageConfig) -> (Vec<i64>, i64) {
        let seconds = |text: &Option<String>| {
            text.as_deref().and_then(oci::time::parse_rfc3339).map_or(-1, |(seconds, _)| seconds)
        };
        (config.history.iter().flatten().map(|line| seconds(&line.created)).collect(), seconds(&config.created))
    }

    #[test]
    fn lines_without_a_time_have_that_of_the_layer_before_or_of_the_first_new_one() {
        // A base of one layer; ENV, RUN, LABEL, RUN, CMD.
        let new = |empty| (None, empty);
        let mut made = config(&[(Some(5), false), new(true), new(false), new(true), new(false), new(true)]);
        complete(&mut made, &layers(&[None, Some(20), Some(30)]), None, None);
        assert_eq!(times(&made), (vec![5, 20, 20, 20, 30, 30], 30));
        // Nothing new but a line: as old as the base.
        let mut made = config(&[(Some(5), false), new(true)]);
        complete(&mut made, &layers(&[None]), None, None);
        assert_eq!(times(&made), (vec![5, 5], 5));
    }

    #[test]
    fn layers_without_a_line_get_one_and_lines_without_a_layer_are_empty() {
        let mut made = config(&[(None, false)]);
        complete(&mut made, &layers(&[Some(1), Some(2)]), None, None);
        assert_eq!(times(&made), (vec![1, 2], 2));
        let mut made = config(&[(None, false), (None, false)]);
        complete(&mut made, &layers(&[Some(1)]), None, None);
        let empty: Vec<bool> = made.history.iter().flatten().map(|line| line.empty_layer).collect();
        assert_eq!(empty, [false, true]);
    }

    #[test]
    fn an_epoch_is_the_latest_time_of_all_but_the_bases_own_history() {
        let base = config(&[(Some(50), false), (Some(60), true)]);
        let mut made = config(&[(Some(50), false), (Some(60), true), (None, false), (Some(3), true)]);
        complete(&mut made, &layers(&[None, Some(70)]), Some(10), Some(&base));
        assert_eq!(times(&made), (vec![50, 60, 10, 3], 3));
        let mut made = config(&[(None, false)]);
        made.created = Some(oci::time::rfc3339(99));
        complete(&mut made, &layers(&[Some(70)]), Some(10), None);
        assert_eq!(times(&made), (vec![10], 10));
    }
}
