"""Methods: each folder is one (configuration, data, training step, callbacks); beside them what they share, converting and mining."""
