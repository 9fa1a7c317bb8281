"""What was said, about which bits, in which bytes. No framework, no cryptography beyond hashing."""
