"""What a fit records while it runs: the history, losses of training and validation data, callbacks."""
