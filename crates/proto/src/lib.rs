//! BuildKit's services and messages under larder's names, and the parts that the packaged definitions lack.
//! Messages only: nothing here knows what a build is, and nothing above this floor writes tags by hand.

pub mod calls;
pub mod content;
pub mod refusal;
pub mod trace;
pub mod version;

pub use bollard_buildkit_proto::fsutil::types as files;
pub use bollard_buildkit_proto::google::protobuf::Timestamp;
pub use bollard_buildkit_proto::google::rpc;
pub use bollard_buildkit_proto::health;
pub use bollard_buildkit_proto::moby::buildkit::secrets::v1 as secrets;
pub use bollard_buildkit_proto::moby::buildkit::v1 as control;
pub use bollard_buildkit_proto::moby::buildkit::v1::apicaps;
pub use bollard_buildkit_proto::moby::buildkit::v1::frontend as bridge;
pub use bollard_buildkit_proto::moby::buildkit::v1::sourcepolicy as policy;
pub use bollard_buildkit_proto::moby::buildkit::v1::types as worker;
pub use bollard_buildkit_proto::moby::filesync::packet::file_send_client;
pub use bollard_buildkit_proto::moby::filesync::{packet as filesync_packet, v1 as filesync};
pub use bollard_buildkit_proto::moby::sshforward::v1 as ssh;
pub use bollard_buildkit_proto::moby::upload::v1 as upload;
pub use bollard_buildkit_proto::pb;
