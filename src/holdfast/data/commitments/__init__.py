"""Commitments to datasets: order-free sums, keyed trees, and data that is checked before it is used."""
