"""What local programs may ask this device over HTTP: inference and metrics; off unless the configuration says so."""
