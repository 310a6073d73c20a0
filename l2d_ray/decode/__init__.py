"""Decoding: hidden states to ranked items. Top-k and its merge, the three decoders, and LatentDecoder, the oracle."""
