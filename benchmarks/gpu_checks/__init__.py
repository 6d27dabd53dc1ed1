"""What benchmarks/gpu.py measures on a CUDA GPU, and how; docs/gpu.md says what for."""
