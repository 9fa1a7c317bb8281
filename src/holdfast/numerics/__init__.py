"""What a bit pattern means, and exact modular arithmetic. Knows tensors, not models."""
