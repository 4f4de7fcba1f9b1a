"""One operation a file: the torch reference first, which is also the path on a CPU."""
