"""History to tokens: prompt formats, packing, the catalogue's prefix tree."""
