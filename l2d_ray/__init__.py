"""l2d_ray: recommendations from an LLM's hidden state, without generating a word.

Latent-space decoding (L2D, arXiv 2509.11524) on Ray. Importing this package loads neither Ray, torch nor faiss.
"""

__version__ = "0.1.0"
