"""What benchmarks/gpu.py measures on a CUDA card, and how; docs/gpu.md says what for."""
