"""The machine: network, TLS, GPUs, logs and file permissions."""
