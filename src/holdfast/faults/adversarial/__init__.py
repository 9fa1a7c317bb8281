"""Bit errors that an adversary chooses, within a budget of bits and DRAM rows."""
