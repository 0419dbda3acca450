"""Side-by-side measurements, each a command: `python -m benchmarks.throughput`. docs/performance.md has what they printed."""
