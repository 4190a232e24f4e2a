//! What TLS is done with.

/// Lets rustls use ring. Fails if a provider is installed already, which is just as good.
pub(crate) fn use_ring() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
