"""Models: loading, the encoder, language-space decoding."""
