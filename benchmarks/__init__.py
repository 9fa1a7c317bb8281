"""Claims about speed and cost, each measured against a named peer in the same run.

``python -m benchmarks.NAME --json`` prints one JSON object; ``python -m benchmarks`` runs them all and writes
``benchmarks/results/NAME.json``.
"""
