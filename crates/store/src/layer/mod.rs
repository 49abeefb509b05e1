//! Layers of images: the changes of a snapshot as a tar, compressed and hashed in one pass; and back.
//! Reproducible: the same files give the same bytes. It never talks to a registry.
