"""The ops of `kernels` as Triton kernels: imported only where one is to run."""
