"""One training: module, data, callbacks and loggers for the trainer of Lightning."""
