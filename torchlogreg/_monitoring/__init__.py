"""What is noted while a fit runs: the history, the losses of training and validation data, callbacks."""
