"""Benchmarks of cogcache; ``python -m benchmarks`` runs them, each module runs alone too."""
