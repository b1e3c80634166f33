"""From what users pass to designs: what a fit may ask of X, and its dense, sparse and streamed implementations."""
