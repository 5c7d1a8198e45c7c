//! Bytes to pixels and samples, as pure functions: images, audio, video.
//!
//! Nothing is decoded yet: a request with media parts is refused by `api` with a clear error until this room is built.
