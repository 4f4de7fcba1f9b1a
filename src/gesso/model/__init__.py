"""The network: modules only. No step loop, no I/O, no training code."""
