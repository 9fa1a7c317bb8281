"""Weights that other tools packed, read as codes and parameters and written back bit for bit."""
