"""Triton twins of hot paths: the same bits as the torch and numpy references, on a CUDA device.

Nothing here is needed: who has no device, or one that is too old, computes with the references. Importing this package
imports neither torch nor Triton; :mod:`holdfast._kernels.device` says whether a twin can be used, and if not, why.
"""
